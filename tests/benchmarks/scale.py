"""What an archive of n tiles costs: from points that were measured, and a model for the others.

python tests/benchmarks/scale.py      # prints README's table, from the JSON files beside

Measured are 100,000 and a million vectors of 512 dimensions (`indices.py`, with `--rows 100000 --output
indices-100000.json`), 200,000 in Milvus Lite (`milvus.py`), and images a second of ResNet-50 at 256 px
(`results.json`). The model:

- The processor's time of one core of the machine measured, so that what ran beside does not count. Reading
  a file that does not fit into memory comes on top: its size over the speed of the disk.
- A cost is c + b N^p of N tiles, c and b from the two points. p is 1 for files, memory and what is done with
  each tile; ivf-pq has 4 N^0.5 lists, so that p is 1.5 for sorting all vectors into them and 0.5 for a query.
- hnsw's times grow as the power of N that lies between the two points.
- Recall is not modelled: each index measures its own when it is built.

`indices-3000000.json` is a point beside these, to hold the model against; README says how well it fitted.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
SIZES = (10**5, 10**6, 10**7, 10**8)
DIMENSIONS = 512
NAMES_BYTES, NAMES_SECONDS = 140, 0.6e-6  # of a tile's name and scene in memory; README, "Indices"
GPU_RATE = 1000  # images/s, a unit and no measurement

Points = dict[int, float]


def cost_model(points: Points, power: float | None) -> Callable[[int], float]:
    """From a number of tiles to a cost: c + b N^power; for None b N^p with the p between two points."""
    (least, low), (most, high) = min(points.items()), max(points.items())
    if power is None:
        power = math.log(high / low) / math.log(most / least)
        return lambda tiles: high * (tiles / most) ** power
    if least == most:
        return lambda tiles: high * (tiles / most) ** power
    slope = (high - low) / (most**power - least**power)
    return lambda tiles: high + slope * (tiles**power - most**power)


def load(name: str) -> Any:
    return json.loads((HERE / name).read_text())


def points_of(kind: str, figure: str) -> Points:
    """A figure of `indices.py`, by number of vectors."""
    files = (load(name) for name in ("indices-100000.json", "indices.json"))
    return {file["rows"]: file["kinds"][kind][figure] for file in files}


def embedding_rate() -> float:
    """Images a second of ResNet-50 at 256 px, on two cores."""
    rows = [row for row in load("results.json")["rows"] if row["what"] == "once running"]
    return max(rows, key=lambda row: row["size"])["tool"]["median"]


def time_of(seconds: float) -> str:
    """For people, two digits."""
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        if seconds >= 1.5 * length:
            return f"{float(f'{seconds / length:.2g}'):g} {unit}"
    return f"{float(f'{seconds * 1000:.2g}'):g} ms"


def size_of(size: float) -> str:
    unit, length = next(pair for pair in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)) if size >= 0.95 * pair[1])
    return f"{float(f'{size / length:.2g}'):g} {unit}"


def row(what: str, points: Points, shown: Callable[[float], str], power: float | None = 1.0) -> list[str]:
    """A line of the table; what was not measured there has a ~ before it. power: see `cost_model`."""
    cost = cost_model(points, power)
    return [what, *(shown(points[tiles]) if tiles in points else f"~{shown(cost(tiles))}" for tiles in SIZES)]


def table() -> str:
    """The table as README has it."""
    lines = [["tiles", *("100,000", "1 million", "10 million", "100 million")], ["---"] * 5]
    lines.append(row("vectors of 512 dimensions", {size: 4.0 * DIMENSIONS * size for size in SIZES}, size_of))
    lines.append(row("names in memory", {10**6: NAMES_BYTES * 1e6}, size_of))
    lines.append(row("time to read them, each start", {10**6: NAMES_SECONDS * 1e6}, time_of))
    lines.append(row("embedding, two CPU cores", {5000: 5000 / embedding_rate()}, time_of))
    lines.append(row(f"embedding, a GPU of {GPU_RATE:,} images/s", {GPU_RATE: 1.0}, time_of))
    lines.append(row("exact search", points_of("exact, in the file", "processor"), time_of))
    for kind, building, asking in (("flat", 1.0, 1.0), ("hnsw", None, None), ("ivf-pq", 1.5, 0.5)):
        lines.append(row(f"{kind}: file", points_of(kind, "size"), size_of))
        lines.append(row(f"{kind}: memory to build", points_of(kind, "build_memory"), size_of))
        lines.append(row(f"{kind}: build, one core", points_of(kind, "build_processor"), time_of, building))
        lines.append(row(f"{kind}: time per query", points_of(kind, "processor"), time_of, asking))
    lite = load("milvus.json")
    asked, whole, stored = lite["asked"], lite["whole"], lite["rows"]
    lines.append(row("Milvus Lite: on disk", {stored: lite["size"]}, size_of))
    lines.append(row("Milvus Lite: memory to query", {stored: asked["memory"]}, size_of))
    lines.append(row("Milvus Lite: upload, one core", {stored: whole["processor"]}, time_of))
    lines.append(row("Milvus Lite: time per query", {stored: asked["processor"]}, time_of))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    print(table())
