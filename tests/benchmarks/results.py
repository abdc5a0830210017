"""The committed figures, as a table and as a plot; README shows both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

RESULTS = Path(__file__).with_name("results.json")
HEADS = (
    "step",
    "what",
    "size",
    "swan",
    "published way",
    "times as fast",
    "floor",
    "share of the floor",
    "memory",
)
# What README shows of it: step, what, size.
HEADLINES = [
    *(("eval", what, size) for size in (210, 1093) for what in ("whole process", "work")),
    *(("embed", "once running", size) for size in (200, 1000, 5000)),
    ("embed", "once running, bf16", 1000),
    *(("embed", "whole process", size) for size in (200, 1000, 5000)),
    *(("train", what, 100) for what in ("exact", "exact, compiled", "exact, bf16", "features")),
    *(("train", f"{what}, 5 captions a pass", 100) for what in ("exact", "features")),
    ("prepare", "work", 2100),
    ("query", "swan --help", 0),
    *(("query", what, 10_000) for what in ("cold", "--batch, one by one", "--batch, in blocks")),
]
SIZES = {"eval": "images", "embed": "images", "train": "pairs a step", "prepare": "images", "query": "images"}


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: one line per measurement, medians with the smallest and the largest behind them."""
    lines = [HEADS, ["---"] * len(HEADS), *map(_cells, rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def headlines(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows that README shows, in its order."""
    found = {(row["section"], row["what"], row["size"]): row for row in rows}
    return [found[wanted] for wanted in HEADLINES if wanted in found]


def _cells(row: dict[str, Any]) -> list[str]:
    tool, unit = row["tool"]["median"], row["unit"]
    published = (row.get("published") or {}).get("median")
    floor = row.get("floor")
    faster = unit.endswith("/s")
    ratio = published and (tool / published if faster else published / tool)
    share = floor and (tool / floor if faster else floor / tool)
    memory = row.get("memory")
    return [
        row["section"],
        row["what"],
        _size(row),
        f"{_figure(tool)} {unit} ({_figure(row['tool']['low'])} to {_figure(row['tool']['high'])})",
        f"{_figure(published)} {unit}" if published else "",
        f"{ratio:.1f}" if ratio else "",
        f"{_figure(floor)} {unit}" if floor else "",
        f"{share:.0%}" if share else "",
        f"{memory / 1e6:,.0f} MB" if memory else "",
    ]


def _size(row: dict[str, Any]) -> str:
    if not row["size"]:
        return ""
    counted = "views" if row["what"] == "writing features" else SIZES.get(row["section"], "")
    return f"{row['size']:,} {counted}".strip()


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Seconds against images: evaluation and embedding, with their floors, and the published way."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.2), layout="constrained")
    for section, what, colour in (("eval", "whole process", "C0"), ("embed", "whole process", "C1")):
        chosen = [row for row in rows if (row["section"], row["what"]) == (section, what)]
        sizes = [row["size"] for row in chosen]
        axes.plot(
            sizes, [_seconds(row, "tool") for row in chosen], "o-", color=colour, label=f"swan {section}"
        )
        floors = [_seconds(row, "floor") for row in chosen]
        axes.plot(sizes, floors, ":", color=colour, label=f"{section}: the floor")
        slow = [row for row in chosen if row.get("published")]
        if section == "eval":
            published = [_seconds(row, "published") for row in slow]
            axes.plot(
                [row["size"] for row in slow], published, "s--", color="C3", label="eval: the published way"
            )
    axes.set(xscale="log", yscale="log", xlabel="images (five captions each in eval)", ylabel="seconds")
    axes.grid(which="both", alpha=0.25)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=130)


def _seconds(row: dict[str, Any], name: str) -> float:
    value = row[name] if name == "floor" else row[name]["median"]
    return row["size"] / value if row["unit"].endswith("/s") else value
