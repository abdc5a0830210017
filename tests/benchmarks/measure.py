"""Measuring: child processes with their times and memory, and the floor that this machine sets."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

CHILD = Path(__file__).with_name("child.py")
MEGABYTE = 10**6


@dataclass(frozen=True)
class Child:
    """A process that ended well. Times in seconds, `peak` in bytes.

    whole: from its start to its end. imports: of torch and torchvision. work: what came after. events: when,
    in seconds after the imports, how much of which phase was done. peak: its largest resident memory.
    """

    whole: float
    imports: float
    work: float
    events: list[tuple[float, str, int]]
    peak: int
    printed: str

    def seconds_each(self, phase: str, skip: int = 0) -> list[float]:
        """Seconds of each piece of a phase, without the first `skip` ones."""
        moments = [at for at, name, _ in self.events if name == phase]
        return np.diff(moments)[skip:].tolist()

    def rates(self, phase: str, parts: int = 1) -> list[float]:
        """Pieces per second from the end of a phase's first batch to its end, for each of n equal parts."""
        heard = np.array([(at, done) for at, name, done in self.events if name == phase and done])
        bounds = np.linspace(0, len(heard) - 1, parts + 1).round().astype(int)
        seconds, pieces = np.diff(heard[bounds], axis=0).T
        return (pieces / seconds).tolist()


def run_child(kind: str, *arguments: object, root: Path, steps: int = 0) -> Child:
    """Runs `child.py`; what it prints on standard output is kept, the rest is shown when it fails."""
    with tempfile.TemporaryDirectory() as folder:
        times = Path(folder) / "times.json"
        command = [sys.executable, str(CHILD), str(times), kind, *map(str, arguments)]
        environment = {**os.environ, "SWAN_ROOT": str(root), "STEPS": str(steps)}
        begun = perf_counter()
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        whole = perf_counter() - begun
        if done.returncode:
            raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
        record = json.loads(times.read_text())
    events = [tuple(event) for event in record["events"]]
    return Child(whole, record["imports"], record["work"], events, record["peak"], done.stdout)


def swan(*arguments: object, root: Path, steps: int = 0) -> Child:
    """Runs a command of `swan` in a process of its own; a training ends after n steps, 0 for all."""
    return run_child("swan", *arguments, root=root, steps=steps)


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, smallest and largest, as plain values."""
    return {
        "median": statistics.median(values),
        "low": min(values),
        "high": max(values),
        "runs": len(values),
    }


def repeated(action: Callable[[], float], runs: int = 5) -> list[float]:
    """Seconds, or whatever the action returns, of each of n runs."""
    return [action() for _ in range(runs)]


def timed(action: Callable[[], Any]) -> float:
    """Seconds that an action takes."""
    begun = perf_counter()
    action()
    return perf_counter() - begun


def fastest_rate(precision: str = "fp32", device: str = "cpu") -> float:
    """The rate of a large product in float32, or for bf16 in whichever of both types is faster here."""
    kinds = [torch.float32, torch.bfloat16] if precision == "bf16" else [torch.float32]
    return max(multiplication_rate(device, kind) for kind in kinds)


def multiplication_rate(device: str = "cpu", dtype: torch.dtype = torch.float32) -> float:
    """Floating-point operations a second of a large matrix product: the median of nine."""
    side = 2048 if device == "cpu" else 8192
    left, right, product = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(3))

    def multiply() -> None:
        torch.mm(left, right, out=product)  # into memory that is there: page faults are no multiplications
        if device != "cpu":
            torch.cuda.synchronize()

    repeated(multiply, 3)
    return 2 * side**3 / statistics.median(repeated(lambda: timed(multiply), 9))


def memory_bandwidth() -> float:
    """Bytes a second that a sum over a large array reads: the median of nine."""
    values = torch.ones(64 * 2**20)
    return values.numel() * 4 / statistics.median(repeated(lambda: timed(values.sum), 9))


def disk_bandwidth(folder: Path) -> float:
    """Bytes a second that are written and synced to disk: the median of five."""
    block = os.urandom(64 * 2**20)

    def write() -> None:
        with tempfile.NamedTemporaryFile(dir=folder) as file:
            file.write(block)
            os.fsync(file.fileno())

    return len(block) / statistics.median(repeated(lambda: timed(write), 5))


def operations(action: Callable[[], Any]) -> int:
    """Floating-point operations, two a multiplication and addition, of the products in an action."""
    with FlopCounterMode(display=False) as counter:
        action()
    return counter.get_total_flops()
