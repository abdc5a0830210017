"""Checks and measurements on a GPU: two commands for a bare machine with torch, of at most five minutes each.

    python tests/benchmarks --gpu check --json tests/benchmarks/gpu-check.json
    python tests/benchmarks --gpu speed --json tests/benchmarks/gpu-speed.json
    python tests/benchmarks --gpu check --device cpu     # in tiny sizes, to try the script without a GPU

Packages that are missing there are taken from wheels in `build/wheels`, which git ignores. Results are
written after each section. A section that fails is a row with its error; the others follow.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import shutil
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any
from zipfile import ZipFile

ROOT = Path(__file__).resolve().parents[2]
WHEELS = ROOT / "build" / "wheels"
RESULTS = {command: Path(__file__).with_name(f"gpu-{command}.json") for command in ("check", "speed")}
LIMIT = 270  # seconds, after which no further section begins
# Packages that swan's modules import here, and the wheels that they come in.
PACKAGES = {
    "numpy": "numpy",
    "torchvision": "torchvision",
    "PIL": "pillow",
    "pandas": "pandas python-dateutil six pytz tzdata",
    "h5py": "h5py",
    "timm": "timm pyyaml",
    "tokenizers": "tokenizers",
    "safetensors": "safetensors",
    "nltk": "nltk joblib click tqdm",
    "filelock": "filelock",
    "fsspec": "fsspec",
    "regex": "regex",
    "open_clip": "open-clip-torch ftfy wcwidth",
}

Row = dict[str, Any]


@dataclass(frozen=True)
class Bench:
    """What the sections share.

    device: name of the device.
    tiny: sizes for trying the script.
    root: an empty folder.
    parity: folder of the reference values.
    """

    device: str
    tiny: bool
    root: Path
    parity: Path

    def size(self, full: int, tiny: int) -> int:
        """A number that depends on whether the script is only tried."""
        return tiny if self.tiny else full

    def wait(self) -> None:
        """Until the device has done all that is queued."""
        import torch

        if self.device.startswith("cuda"):
            torch.cuda.synchronize()


Section = Callable[[Bench], Iterator[Row]]


def run(command: str, device: str, target: Path, parity: Path) -> None:
    """Runs one of the two commands; its rows are in the target after each section.

    Raises:
        SystemExit: packages are missing, there is no such device, or a section failed.
    """
    sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "model")]
    unpack(WHEELS)
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("no CUDA GPU here; add --device cpu to try the script")
    from gpu_check import SECTIONS as CHECKS
    from gpu_speed import SECTIONS as SPEEDS

    root = Path(tempfile.mkdtemp(prefix="swan-gpu-"))
    bench = Bench(device, not device.startswith("cuda"), root, parity)
    results = {"command": command, "tiny": bench.tiny, "machine": machine(device), "rows": []}
    begun = perf_counter()
    try:
        for name, section in {"check": CHECKS, "speed": SPEEDS}[command].items():
            print(f"{name} ({perf_counter() - begun:.0f} s)", flush=True)
            results["rows"] += _rows_of(name, section, bench, begun)
            results["seconds"] = round(perf_counter() - begun, 1)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(json.dumps(results, indent=1) + "\n")
    finally:
        shutil.rmtree(root, ignore_errors=True)
    print(table(results))
    if any(failed(row) for row in results["rows"]):
        raise SystemExit(1)


def _rows_of(name: str, section: Section, bench: Bench, begun: float) -> list[Row]:
    if perf_counter() - begun > LIMIT:
        return [{"what": name, "error": f"not begun: {LIMIT} s were over"}]
    rows = []
    try:
        for row in section(bench):
            rows.append(row)
            print(f"  {_line(row)}", flush=True)
    except Exception as error:
        traceback.print_exc()
        rows.append({"what": name, "error": f"{type(error).__name__}: {error}".splitlines()[0]})
    return rows


def unpack(wheels: Path) -> None:
    """Makes the wheels in a folder, and swan itself, importable after what is installed.

    Raises:
        SystemExit: packages are missing; names them.
    """
    folder = Path(tempfile.mkdtemp(prefix="swan-wheels-"))
    for wheel in sorted(wheels.glob("*.whl")):
        with ZipFile(wheel) as archive:
            archive.extractall(folder)
    if not list(importlib.metadata.distributions(name="swancli")):
        import swancli

        metadata = folder / "swancli.dist-info" / "METADATA"  # swan writes its version into files
        metadata.parent.mkdir()
        metadata.write_text(f"Metadata-Version: 2.1\nName: swancli\nVersion: {swancli.__version__}\n")
    sys.path.append(str(folder))
    missing = [wheel for package, wheel in PACKAGES.items() if not importlib.util.find_spec(package)]
    if missing:
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        raise SystemExit(
            f"missing here, for Python {version}: {' '.join(missing)}\n"
            "fetch their wheels into build/wheels as tests/benchmarks/README.md says"
        )


def machine(device: str) -> dict[str, Any]:
    """What is measured on, plain values."""
    import os
    import platform

    import torch

    found = {
        "device": device,
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    if device.startswith("cuda"):
        properties = torch.cuda.get_device_properties(device)
        found["device"], found["memory, GB"] = properties.name, round(properties.total_memory / 1e9, 1)
    return found


def failed(row: Row) -> bool:
    """Whether a row has an error, or a value beyond its limit; a missed target is no failure."""
    return "error" in row or ("limit" in row and not row["value"] <= row["limit"])


def table(results: dict[str, Any]) -> str:
    """Markdown of either command."""
    checks = results["command"] == "check"
    heads = ("what", "largest difference", "allowed") if checks else SPEED_HEADS
    cells = _check_cells if checks else _speed_cells
    lines = [heads, ["---"] * len(heads), *map(cells, results["rows"])]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


SPEED_HEADS = ("what", "measured", "target", "ceiling", "share of the ceiling", "the ceiling is")


def _check_cells(row: Row) -> list[str]:
    if "error" in row:
        return [row["what"], row["error"], ""]
    if "skipped" in row:
        return [row["what"], f"skipped: {row['skipped']}", ""]
    return [row["what"], f"{row['value']:.2g}", f"{row['limit']:.2g}"]


def _speed_cells(row: Row) -> list[str]:
    if "error" in row:
        return [row["what"], row["error"], "", "", "", ""]
    unit, value, ceiling = row["unit"], row["value"], row.get("ceiling")
    faster = unit != "s"
    share = ceiling and (value / ceiling if faster else ceiling / value)
    return [
        row["what"],
        _figure(value, unit),
        f"{'at least' if faster else 'at most'} {_figure(row['target'], unit)}" if "target" in row else "",
        _figure(ceiling, unit) if ceiling else "",
        f"{share:.0%}" if share else "",
        row.get("of", ""),
    ]


def _figure(value: float, unit: str) -> str:
    return f"{value:,.0f} {unit}" if value >= 1000 else f"{value:.3g} {unit}"


def _line(row: Row) -> str:
    return ", ".join(
        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in row.items()
    )
