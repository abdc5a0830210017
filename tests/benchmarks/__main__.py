"""How fast each step is, beside the same work done the published way and beside this machine's floor.

python tests/benchmarks --data FOLDER              # about an hour and a half; FOLDER holds ucm/ and rsicd/
python tests/benchmarks --data FOLDER --quick      # two minutes: does all of it work, roughly how fast
python tests/benchmarks --data FOLDER --only embed --only query
python tests/benchmarks --gpu check                # on a CUDA GPU, no data: does it compute the same
python tests/benchmarks --gpu speed                # likewise: how fast, beside what the GPU can do
python tests/benchmarks --gpu check --device cpu   # tiny sizes, to try the script; also for speed
python tests/benchmarks --show                     # the table of results.json, and its plot

Give the machine nothing else to do meanwhile. What is measured replaces its rows in results.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import tempfile
from pathlib import Path

from results import RESULTS, draw, headlines, table

SHARED = Path(__file__).resolve().parents[3] / "shared" / "datasets"


def machine() -> dict[str, object]:
    """What this is measured on, plain values."""
    import torch
    import torchvision
    from measure import memory_bandwidth, multiplication_rate

    found = {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "python": platform.python_version(),
        "matrix product, GFLOP/s": round(multiplication_rate() / 1e9, 1),
        "memory, GB/s": round(memory_bandwidth() / 1e9, 1),
    }
    if Path("/proc/cpuinfo").exists():
        models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line]
        found["processor"] = models[0].partition(":")[2].strip() if models else found["processor"]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, default=SHARED, help="folder that holds ucm/ and rsicd/")
    parser.add_argument("--quick", action="store_true", help="small sizes, one run each; nothing is kept")
    parser.add_argument("--only", action="append", help="a section; may be given several times")
    parser.add_argument("--gpu", choices=("check", "speed"), help="on a GPU, and nothing else")
    parser.add_argument("--device", default="cuda", help="of --gpu; cpu: tiny sizes, to try the script")
    parser.add_argument(
        "--parity", type=Path, default=SHARED.parent / "parity", help="reference values of --gpu"
    )
    parser.add_argument("--root", type=Path, help="keep the data sets made for it here")
    parser.add_argument("--json", type=Path, help=f"file to write; default {RESULTS.name} beside this one")
    parser.add_argument("--plot", type=Path, help="file of the plot, cost against size")
    parser.add_argument("--show", action="store_true", help="measure nothing")
    options = parser.parse_args()
    if options.gpu:
        return gpu(options)
    target = options.json or RESULTS
    if not options.show:
        if options.quick and not options.json:
            target = Path(tempfile.mkdtemp()) / RESULTS.name
        measure_all(options, target)
    results = json.loads(target.read_text())
    print(table(results["rows"]))
    if options.show:
        print(f"\nIn README:\n\n{table(headlines(results['rows']))}")
    if options.plot:
        draw(results["rows"], options.plot)


def gpu(options: argparse.Namespace) -> None:
    """One of the two commands for a GPU; what is only tried is not kept beside this file."""
    import gpu

    target = gpu.RESULTS[options.gpu]
    if options.device == "cpu":
        target = Path(tempfile.mkdtemp()) / target.name
    gpu.run(options.gpu, options.device, options.json or target, options.parity)


def measure_all(options: argparse.Namespace, target: Path) -> None:
    """Runs the sections; after each, its rows are in the target."""
    from material import FULL, QUICK, Material
    from sections import SECTIONS

    root = options.root or Path(tempfile.mkdtemp(prefix="swan-benchmark-"))
    root.mkdir(parents=True, exist_ok=True)
    material = Material(options.data, root, QUICK if options.quick else FULL)
    for name in options.only or SECTIONS:
        print(f"measuring {name}", flush=True)
        results = json.loads(target.read_text()) if target.exists() else {"rows": []}
        results["rows"] = [row for row in results["rows"] if row["section"] != name]
        results["machine"] = machine()
        for row in SECTIONS[name](material):
            results["rows"].append(row)
            print(f"  {row['what']}, {row['size']}: {row['tool']['median']:.4g} {row['unit']}", flush=True)
        target.write_text(json.dumps(results, indent=1) + "\n")
    if not options.root:
        shutil.rmtree(root)


if __name__ == "__main__":
    main()
