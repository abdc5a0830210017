"""Atomic, durable file writes, and a lock that gives a folder one writer at a time."""

from __future__ import annotations

import errno
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from os import PathLike
from pathlib import Path

from filelock import FileLock, Timeout

from swancli.errors import SwanError
from swancli.machine.interrupt import TEMPORARY

NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def atomic_path(path: str | PathLike[str]) -> Iterator[Path]:
    """Yields a temporary path beside `path`; on success it is synced to disk and renamed to `path`.

    If the body raises an error, the temporary file is removed and an existing file is not changed. Temporary
    files of killed processes are removed first.

    Raises:
        SwanError: the disk is full, or the path is a folder.
    """
    path = Path(path)
    if path.is_dir():
        raise SwanError(f"{path}: is a folder", "name a file")
    path.parent.mkdir(parents=True, exist_ok=True)
    host = re.sub(r"\W", "-", socket.gethostname())
    _remove_left_over(path, host)
    temporary = path.with_name(f".{path.name}.{host}.{os.getpid()}.tmp")
    TEMPORARY.add(temporary)
    try:
        yield temporary
        _sync(temporary)
        temporary.replace(path)
        _sync(path.parent)
    except (OSError, RuntimeError) as error:
        if _is_full_disk(error):
            raise SwanError(f"{path}: no room left on the disk", "make room, then run it again") from error
        raise
    finally:
        temporary.unlink(missing_ok=True)
        TEMPORARY.discard(temporary)


def _is_full_disk(error: BaseException | None) -> bool:
    """Whether an error, or an earlier one behind it, is due to a full disk or quota.

    HDF5 gives the number only in its text if it fails to close a file; torch raises another error on top.
    """
    while error:
        texts = (f"errno = {number}," in str(error) for number in NO_ROOM)
        if getattr(error, "errno", None) in NO_ROOM or any(texts):
            return True
        error = error.__context__
    return False


def _remove_left_over(path: Path, host: str) -> None:
    """Removes temporary files of processes on this machine that have ended."""
    name = re.compile(re.escape(f".{path.name}.{host}.") + r"(\d+)\.tmp")
    for entry in path.parent.iterdir():
        left = name.fullmatch(entry.name)
        if left and not _is_running(int(left[1])):
            entry.unlink(missing_ok=True)


def _is_running(process: int) -> bool:
    try:
        with suppress(PermissionError):  # another user's
            os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def only_writer(folder: Path, wait: bool = False) -> Iterator[None]:
    """Locks a folder against other processes that write into it; the end of this process always unlocks it.

    Args:
        folder: made if it does not exist, and then removed if it is still empty at the end.
        wait: wait until another process has unlocked it.

    Raises:
        SwanError: another process has locked it.
    """
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ".lock"
    lock = FileLock(path)
    try:
        lock.acquire(timeout=-1 if wait else 0)
    except Timeout:
        raise SwanError(
            f"{folder}: another swan is writing there", "wait until it ends, or stop it"
        ) from None
    TEMPORARY.add(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        TEMPORARY.discard(path)
        lock.release()
        with suppress(OSError):  # not empty
            for place in missing:
                place.rmdir()
