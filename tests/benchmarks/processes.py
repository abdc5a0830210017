"""How fast `swan train` is on one process and on two, on the same cores.

python tests/benchmarks/processes.py --data FOLDER --root DIR     # FOLDER holds ucm/; DIR is filled; minutes
python tests/benchmarks/processes.py --show

The second of two epochs of UCM at 96 px, in which nothing has to warm up; the ways in turn, several times.
The machine is to be idle: two processes that share their cores with others wait for each other.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from swancli.store.atomic import atomic_path

RESULTS = Path(__file__).with_name("processes.json")
SHARED = Path(__file__).resolve().parents[3] / "shared" / "datasets"
RECIPE = ["--dataset", "ucm", "--epochs", "2", "--backbone", "resnet18", "--image-size", "96"]
RECIPE += ["--text", "gru", "--embed-dim", "256", "--quiet"]
WAYS = {"1 process, 1 thread": (1, 1), "1 process, 2 threads": (1, 2), "2 processes, 1 thread each": (2, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, default=SHARED)
    parser.add_argument("--root", type=Path, default=Path("processes"))
    parser.add_argument("--runs", type=int, default=3, help="of each way")
    parser.add_argument("--show", action="store_true", help="measure nothing")
    options = parser.parse_args()
    if not options.show:
        prepare(options.data, options.root)
        found: dict[str, list[float]] = {way: [] for way in WAYS}
        for _ in range(options.runs):
            for way, (processes, threads) in WAYS.items():
                found[way].append(pairs_per_second(options.root, processes, threads))
                print(f"{way}: {found[way][-1]:.1f} pairs/s", file=sys.stderr)
        with atomic_path(RESULTS) as temporary:
            temporary.write_text(json.dumps(found, indent=1) + "\n")
    print(table(json.loads(RESULTS.read_text())))


def prepare(data: Path, root: Path) -> None:
    """Data set and vocabulary, unless they exist."""
    for command in ("prepare", "vocab"):
        if not (root / "ucm" / {"prepare": "dataset.h5", "vocab": "vocab.h5"}[command]).exists():
            source = ["--source", str(data / "ucm")] if command == "prepare" else []
            run(root, [sys.executable, "-m", "swancli", command, "--dataset", "ucm", *source], 2)


def run(root: Path, command: list[str], threads: int) -> None:
    environment = {**os.environ, "SWAN_ROOT": str(root), "OMP_NUM_THREADS": str(threads)}
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)


def pairs_per_second(root: Path, processes: int, threads: int) -> float:
    """Pairs a second of all processes together, in the second epoch of a run."""
    launcher = [sys.executable, "-m"]
    if processes > 1:
        launcher += ["torch.distributed.run", f"--nproc-per-node={processes}", "-m", "--"]
    name = f"speed-{processes}-{threads}"
    shutil.rmtree(root / "ucm" / "runs" / name, ignore_errors=True)
    run(root, [*launcher, "swancli", "train", *RECIPE, "--run", name], threads)
    rows = list(csv.DictReader((root / "ucm" / "runs" / name / "metrics.csv").open()))
    return float(rows[-1]["pairs_per_second"])


def table(found: dict[str, list[float]]) -> str:
    """The figures as README has them."""
    rows: list[Any] = [("way", "pairs/s", "relative to one process"), ("---", "---", "---")]
    best = statistics.median(found["1 process, 2 threads"])
    for way, figures in found.items():
        middle = statistics.median(figures)
        spread = f"{middle:.0f} ({min(figures):.0f} to {max(figures):.0f})"
        rows.append((way, spread, f"{middle / best:.2f}"))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


if __name__ == "__main__":
    main()
