"""Runs a command of swan in a process that was forked for it, and does something to it at a chosen write.

The moments are the calls by which swan writes, numbered in their order: a piece of a file, its sync to the
disk, its name, the sync of its folder. Each is written down before it happens, and outlives the process.
"""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

TEMPORARY = re.compile(r"\.(.+)\.\w+\.\d+\.\w+\.tmp")


class Moments:
    """Numbers the moments from 1 and acts at one of them.

    Args:
        record: file that gets a line each, what happens and to which file.
        at: number of the moment to act before; 0 for none. act: what to do then.
    """

    def __init__(self, record: Path, at: int, act: Callable[[], None]) -> None:
        self._record = os.open(record, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        self._at, self._act, self._count = at, act, 0

    def happen(self, what: str, path: Any) -> None:
        self._count += 1
        os.write(self._record, f"{what} {final_name(path)}\n".encode())
        if self._count == self._at:
            self._act()

    def watch(self) -> None:
        """Puts itself before every call that writes."""
        import pandas as pd
        import torch

        from swancli import images
        from swancli.store import unfailing_file

        def before(holder: Any, name: str, what: str, path_of: Callable[..., Any]) -> None:
            call = getattr(holder, name)

            def watched(*arguments: Any, **options: Any) -> Any:
                self.happen(what, path_of(*arguments))
                return call(*arguments, **options)

            setattr(holder, name, watched)

        before(unfailing_file.UnfailingFile, "write", "write", lambda file, data: file.name)
        before(Path, "write_text", "write", lambda path, *_: path)
        before(pd.DataFrame, "to_csv", "write", lambda frame, path: path)
        before(os, "fsync", "sync", lambda number: Path(f"/proc/self/fd/{number}").readlink())
        before(os, "replace", "name", lambda old, new: new)
        before(images, "read_bytes", "read", lambda path: path)
        save = torch.save
        torch.save = lambda content, file: save(content, _Pieces(file, self))


class _Pieces:
    """A file that torch writes piece by piece."""

    def __init__(self, file: Any, moments: Moments) -> None:
        self._file, self._moments = file, moments

    def write(self, data: Any) -> int:
        self._moments.happen("write", self._file.name)
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()


def final_name(path: Any) -> str:
    """The name that a temporary file is to have; of a folder, `folder`."""
    path = Path(path)
    if path.is_dir():
        return "folder"
    temporary = TEMPORARY.fullmatch(path.name)
    return temporary[1] if temporary else path.name


def kill() -> None:
    """As a power button would: nothing of this process runs any more."""
    os.kill(os.getpid(), signal.SIGKILL)


def remove(path: Path) -> None:
    """As someone would who tidies up."""
    path.unlink()


def run(
    arguments: list[str], root: Path, record: Path, printed: Path, at: int = 0, act: Callable[[], None] = kill
) -> None:
    """Runs one command to its end; the exit code is the process's.

    Args:
        record, at, act: as in `Moments`. printed: file that gets both of its outputs.
    """
    target = os.open(printed, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(target, 1)
    os.dup2(target, 2)
    os.environ["SWAN_ROOT"] = str(root)
    sys.argv = ["swan", *arguments]
    moments = Moments(record, at, act)
    moments.watch()
    from swancli.cli import main

    try:
        main()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
