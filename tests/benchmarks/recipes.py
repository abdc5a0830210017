"""What the default of `swan train` is worth, and each part of SWAN; makes the shipped checkpoint.

python tests/benchmarks/recipes.py --data FOLDER --root DIR            # the default, three seeds; takes hours
python tests/benchmarks/recipes.py --data FOLDER --root DIR --parts    # without each part of the model
python tests/benchmarks/recipes.py --data FOLDER --root DIR --ship     # writes assets/shipped.pt
python tests/benchmarks/recipes.py --show                              # the tables of recipes.json

FOLDER holds `ucm/` and `rsicd224/`. RSICD is measured on its validation split, UCM on its test split.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swancli.store.atomic import atomic_path

RECIPES = Path(__file__).with_name("recipes.json")
SHIPPED = Path(__file__).resolve().parents[2] / "assets" / "shipped.pt"
PHRASES = json.loads(Path(__file__).with_name("scene_phrases.json").read_text())  # people's words for scenes
SHARED = Path(__file__).resolve().parents[3] / "shared" / "datasets"
SEEDS = (0, 1, 2)
SOURCES = {"rsicd": "rsicd224", "ucm": "ucm"}
MEASURED = {"rsicd": "val", "ucm": "test"}
PARTS = ("", "vmsf", "sfgs", "tcge", "wsa", "pool")
SPEED = ["--precision=bf16"]
# Of the runs without parts: heads alone, on features, for as many epochs as they have in the default.
HEADS = ["--features", "--epochs=8", *SPEED]
# The shipped checkpoint: images in a batch, captions of an image, and phrases among its further captions.
IMAGES, OWN, EACH = 400, 5, 1
WAYS = {"i2t": "image-to-text", "t2i": "text-to-image"}
AT = (1, 5, 10)


@dataclass(frozen=True)
class Plan:
    """A run.

    dataset: that it trains on.
    without: what the model lacks, trained on features; None for the default, which is not.
    seed: of the run.
    """

    dataset: str
    without: str | None
    seed: int

    @property
    def name(self) -> str:
        """Of the run."""
        return (
            f"default-{self.seed}" if self.without is None else f"heads-{self.without or 'full'}-{self.seed}"
        )

    @property
    def options(self) -> list[str]:
        """Of `swan train`."""
        if self.without is None:
            return [f"--seed={self.seed}", *SPEED]
        return [*HEADS, f"--seed={self.seed}", *([f"--without={self.without}"] if self.without else [])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, default=SHARED)
    parser.add_argument("--root", type=Path, default=Path("recipes"))
    parser.add_argument("--only", action="append", choices=list(SOURCES))
    parser.add_argument("--seed", action="append", type=int, help="one of them; default: 0, 1 and 2")
    parser.add_argument("--parts", action="store_true", help="the model without each of its parts")
    parser.add_argument("--ship", action="store_true", help="train and write assets/shipped.pt, no more")
    parser.add_argument("--show", action="store_true", help="train nothing")
    options = parser.parse_args()
    if options.ship:
        return ship(options.data, options.root)
    if not options.show:
        for seed in options.seed or SEEDS:
            for dataset in options.only or SOURCES:
                prepare(options.data, options.root, dataset)
                if options.parts and not (options.root / dataset / "features.h5").exists():
                    swan(options.root, "prepare", f"--dataset={dataset}", "--features", "--views=2")
                for without in PARTS if options.parts else (None,):
                    keep(measure(options.root, Plan(dataset, without, seed)))
    print(table(json.loads(RECIPES.read_text())) if RECIPES.exists() else "nothing measured yet")


def swan(root: Path, *arguments: str) -> str:
    """Standard output of a command; ends the script with what it said when it fails."""
    done = subprocess.run(
        [sys.executable, "-m", "swancli", *arguments],
        env={**os.environ, "SWAN_ROOT": str(root)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"swan {' '.join(arguments)}\n{done.stderr}")
    return done.stdout


def prepare(data: Path, root: Path, dataset: str) -> None:
    """The data set in the root, if it is not there yet."""
    if not (root / dataset / "dataset.h5").exists():
        swan(root, "prepare", f"--dataset={dataset}", f"--source={data / SOURCES[dataset]}")


def train(root: Path, dataset: str, run: str, options: list[str]) -> None:
    """Trains a run to its end; resumes it if it was begun."""
    begun = (root / dataset / "runs" / run / "config.json").exists()
    swan(root, "train", f"--dataset={dataset}", f"--run={run}", *(["--resume"] if begun else options))


def measure(root: Path, plan: Plan) -> dict[str, Any]:
    """Trains a run and evaluates it; one row of the results."""
    train(root, plan.dataset, plan.name, plan.options)
    split = f"--split={MEASURED[plan.dataset]}"
    asked = [f"--dataset={plan.dataset}", f"--run={plan.name}", split]
    record = json.loads(swan(root, "eval", *asked, "--json", "--scene-recall", "--ceiling"))
    for key in ("checkpoint", "run"):
        del record[key]
    lines = (root / plan.dataset / "runs" / plan.name / "metrics.csv").read_text().splitlines()
    minutes = sum(float(line.split(",")[-1]) for line in lines[1:]) / 60
    print(f"{plan.dataset} {plan.name}: mR {record['mR']:.2f}, {minutes:.0f} min", flush=True)
    made = {"without": plan.without, "seed": plan.seed, "epochs": len(lines) - 1}
    return {**made, "minutes": round(minutes, 1), **record}


def keep(row: dict[str, Any]) -> None:
    """Puts a row into the results, in place of an older one of the same run."""
    names = ("dataset", "without", "seed")
    rows = json.loads(RECIPES.read_text()) if RECIPES.exists() else []
    rows = [other for other in rows if any(other[name] != row[name] for name in names)] + [row]
    rows.sort(key=lambda other: [str(other[name]) for name in names])
    with atomic_path(RECIPES) as temporary:
        temporary.write_text(json.dumps(rows, indent=1) + "\n")


# ---------------------------------------------------------------------------------------------------------
# the checkpoint that comes with swan


def ship(data: Path, root: Path) -> None:
    """Trains on the training images of both data sets together; writes the best checkpoint, made small."""
    from swancli.evaluate.match_threshold import calibrated
    from swancli.model.checkpoint import load_checkpoint, save_checkpoint
    from swancli.model.encoder import Encoder
    from swancli.store.dataset import Dataset

    for dataset in SOURCES:
        prepare(data, root, dataset)
    named = "--dataset=overhead"
    if not (root / "overhead" / "dataset.h5").exists():
        source = root / "overhead.csv"
        write_captions(root, source)
        swan(root, "prepare", named, f"--source={source}", f"--images={data}")
    # An image passes through the backbone once for all its captions.
    captions = [f"--captions-per-image={OWN + EACH}", f"--batch-size={IMAGES * (OWN + EACH)}"]
    train(root, "overhead", "shipped-from", [*captions, *SPEED])
    best = load_checkpoint(root / "overhead" / "runs" / "shipped-from" / "best.pt")
    # Both data sets have scenes of different names that look alike, so the threshold is set on one of them.
    with Dataset(root / "rsicd" / "dataset.h5") as rsicd:
        match = calibrated(Encoder(best), rsicd).origin["match_threshold"]
    origin = {
        "dataset": "",  # so that it belongs to none, and embeds whatever is at hand
        "run": "shipped",
        "epoch": best.origin["epoch"],
        "val_mR": best.origin["val_mR"],
        "match_threshold": match,
        "trained_on": "training splits of RSICD and UCM-Captions",
    }
    save_checkpoint(SHIPPED, best.model, best.tokenizer, origin, seen=best.seen, small=True)
    print(f"wrote {SHIPPED}: {SHIPPED.stat().st_size / 1e6:.1f} MB")


def write_captions(root: Path, path: Path) -> None:
    """A table of both data sets without their test images, with phrases for the scenes of training images."""
    from swancli.store.dataset import Dataset

    chance = random.Random(0)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["filename", "caption", "split", "scene"])
        for name, folder in SOURCES.items():
            with Dataset(root / name / "dataset.h5") as dataset:
                catalogue = dataset.catalogue
            texts: list[list[str]] = [[] for _ in catalogue.filename]
            for text, row in zip(catalogue.text, catalogue.image, strict=True):
                texts[row].append(text)
            for row, filename in enumerate(catalogue.filename):
                split, scene = catalogue.split[row], catalogue.scene[row]
                if split == "train" and scene:
                    texts[row] += chance.sample(PHRASES[scene], EACH)
                if split != "test":
                    where = f"{folder}/images/{filename}"
                    writer.writerows([where, text, split, scene or ""] for text in texts[row])


# ---------------------------------------------------------------------------------------------------------
# the tables


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: one line per data set and model; means over the seeds, mR with its spread."""
    heads = ["data set", "model", "seeds", "epochs", "minutes per run"]
    heads += [f"{way} R@{k}" for way in WAYS for k in AT]
    heads += ["mR", "scene recall@10 i2t", "t2i"]
    lines = [heads, ["---"] * len(heads)]
    groups: dict[tuple[str, str | None], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["dataset"], row["without"]), []).append(row)
    for (dataset, without), runs in groups.items():
        lines.append(
            [
                f"{dataset} {MEASURED[dataset]}",
                "default" if without is None else f"heads, without {without}" if without else "heads",
                ", ".join(str(run["seed"]) for run in runs),
                str(runs[0]["epochs"]),
                f"{mean(runs, 'minutes'):.0f}",
                *(f"{mean(runs, way, f'R@{k}'):.2f}" for way in WAYS for k in AT),
                f"**{mean(runs, 'mR'):.2f}** ± {spread(runs, 'mR'):.2f}",
                *(f"{mean(runs, 'scene_recall', way, 'SR@10'):.1f}" for way in WAYS),
            ]
        )
        if without is None:
            ceiling = [f"{runs[0]['ceiling'][way][f'R@{k}']:.2f}" for way in WAYS for k in AT]
            ceiling.append(f"{runs[0]['ceiling']['mR']:.2f}")
            lines.append([lines[-1][0], "ceiling", "", "", "", *ceiling, "", ""])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def figures(rows: list[dict[str, Any]], *path: str) -> list[float]:
    """One figure of each row, found by its keys."""
    found = []
    for row in rows:
        value: Any = row
        for key in path:
            value = value[key]
        found.append(float(value))
    return found


def mean(rows: list[dict[str, Any]], *path: str) -> float:
    """Over the seeds."""
    return statistics.fmean(figures(rows, *path))


def spread(rows: list[dict[str, Any]], *path: str) -> float:
    """The standard deviation over the seeds (n - 1); 0 for one."""
    values = figures(rows, *path)
    return statistics.stdev(values) if len(values) > 1 else 0.0


if __name__ == "__main__":
    main()
