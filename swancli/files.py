"""How a file comes into being: whole, on the disk, and with nothing of an interrupted attempt left behind."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`; on success it is synced to disk and renamed to `path`.

    When the body raises, the temporary file is removed and whatever stood at `path` stays as it was. What a
    killed process left of the same file is removed first.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    host = re.sub(r"\W", "-", socket.gethostname())
    _remove_left_over(path, host)
    temporary = path.with_name(f".{path.name}.{host}.{os.getpid()}.tmp")
    try:
        yield temporary
        _sync(temporary)
        temporary.replace(path)
        _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _remove_left_over(path: Path, host: str) -> None:
    """Removes temporary files of processes of this machine that are no more."""
    name = re.compile(re.escape(f".{path.name}.{host}.") + r"(\d+)\.tmp")
    for entry in path.parent.iterdir():
        left = name.fullmatch(entry.name)
        if left and not _is_running(int(left[1])):
            entry.unlink(missing_ok=True)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
