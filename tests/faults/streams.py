"""Runs a command in a forked process whose standard streams are closed, full, or in another encoding."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

# What a standard stream is connected to: the path of a file and how to open it; None for closed.
Connection = tuple[str, int] | None
FULL = ("/dev/full", os.O_RDWR)
NO_INPUT = ("/dev/null", os.O_RDONLY)


def written_to(path: Path) -> Connection:
    """The connection to a file that takes what is printed; waits for the reader of a named pipe."""
    flags = 0 if path.is_fifo() else os.O_CREAT | os.O_TRUNC
    return str(path), os.O_WRONLY | flags


@cache
def _processes() -> Any:
    """The server that forks processes in which all large packages are imported."""
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["preloaded"])
    # The server does not know this process's path, and would pass over what it cannot import.
    os.environ["PYTHONPATH"] = os.pathsep.join(map(str, sys.path))
    return processes


def start(
    arguments: Sequence[object],
    streams: Sequence[Connection],
    encoding: str = "utf-8",
    folder: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> Any:
    """Starts a command; its exit code is `exitcode` of the process once that is joined.

    Args:
        arguments: of the command.
        streams: connections of standard input, output and error.
        encoding: of the output and of errors.
        folder: where it runs; None for here.
        environment: variables to set.
    """
    words = list(map(str, arguments))
    given = words, tuple(streams), encoding, str(folder or Path.cwd()), dict(environment or {})
    process = _processes().Process(target=_run, args=given)
    process.start()
    return process


def _run(
    words: list[str],
    streams: Sequence[Connection],
    encoding: str,
    folder: str,
    environment: dict[str, str],
) -> None:
    os.chdir(folder)
    os.environ.update(environment)
    for number, connection in enumerate(streams):
        os.close(number)
        if connection:
            opened = os.open(*connection)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
    # As Python does when it starts.
    modes = ("stdin", "r", "strict"), ("stdout", "w", "strict"), ("stderr", "w", "backslashreplace")
    for number, (name, mode, errors) in enumerate(modes):
        stream = os.fdopen(number, mode, encoding=encoding, errors=errors) if streams[number] else None
        setattr(sys, name, stream)
    sys.argv = ["swan", *words]
    from swancli.__main__ import main

    main()
