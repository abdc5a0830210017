"""One timed process: the imports that all of this needs, then the work. It writes its times to a JSON file.

python tests/benchmarks/child.py TIMES.json swan eval --run heads --json
python tests/benchmarks/child.py TIMES.json published-evaluation SOURCE.json CHECKPOINT PASSES
python tests/benchmarks/child.py TIMES.json published-training SOURCE.json CHECKPOINT BATCH STEPS
python tests/benchmarks/child.py TIMES.json nothing

STEPS in the environment is the number of steps after which a training ends.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import perf_counter

Event = tuple[float, str, int]


class Enough(Exception):
    """The steps to measure are done, and the rest of the training is not wanted."""


class Listener:
    """Takes the place of a command's display and records the time of each progress report; 0 steps: all."""

    def __init__(self, steps: int = 0) -> None:
        self.events: list[Event] = []
        self.steps = steps

    def hear(self, phase: str, done: int, total: int = 0) -> None:
        self.events.append((perf_counter(), phase, done))

    validation = hear

    def step(self, epoch: int, step: int, steps: int, loss: float, pairs_per_second: float) -> None:
        self.hear("steps", step)
        if step == self.steps:
            raise Enough

    def note(self, text: str) -> None:
        """Of no use here."""

    epoch = note


def run_swan(arguments: list[str]) -> list[Event]:
    """Runs a command as `swan` does; returns its progress."""
    from swancli import cli, console
    from swancli.commands import train

    listener = Listener(int(os.environ.get("STEPS", "0")))

    @contextmanager
    def progress(_: console.Display) -> Iterator:
        yield listener.hear

    @contextmanager
    def training(_: console.Display, epochs: int) -> Iterator:
        yield listener

    console.Display.progress, train.training_display = progress, training
    with suppress(Enough):
        code = cli.app(arguments, standalone_mode=False)
        if code:
            raise SystemExit(code)
    return listener.events


def run_published(kind: str, arguments: list[str]) -> list[Event]:
    import published_way

    listener = Listener()
    source, checkpoint, *numbers = arguments
    run = {"published-evaluation": published_way.evaluate, "published-training": published_way.train}[kind]
    result = run(Path(source), Path(checkpoint), *map(int, numbers), listener.hear)
    print(json.dumps(result))
    return listener.events


def peak_memory() -> int:
    """Bytes of this process's largest resident memory; what `wait4` tells includes its parent's."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s*(\d+) kB", status)[1]) * 1024


def main() -> None:
    times, kind, *arguments = sys.argv[1:]
    begun = perf_counter()
    import torch  # noqa: F401
    import torchvision  # noqa: F401

    imported = perf_counter()
    events: list[Event] = []
    if kind == "swan":
        events = run_swan(arguments)
    elif kind != "nothing":
        events = run_published(kind, arguments)
    ended = perf_counter()
    record = {
        "imports": imported - begun,
        "work": ended - imported,
        "peak": peak_memory(),
        "events": [(at - imported, phase, done) for at, phase, done in events],
    }
    Path(times).write_text(json.dumps(record))


if __name__ == "__main__":
    main()
