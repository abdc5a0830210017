"""How a file comes into being, whole and on the disk, and how a folder has one writer at a time."""

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

    When the body raises, the temporary file is removed and whatever stood at `path` stays as it was. What a
    killed process left of the same file is removed first.

    Raises:
        SwanError: the disk is full, or a folder has that name.
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
        if _tells_of_full_disk(error):
            raise SwanError(f"{path}: no room left on the disk", "make room, then run it again") from error
        raise
    finally:
        temporary.unlink(missing_ok=True)
        TEMPORARY.discard(temporary)


def _tells_of_full_disk(error: BaseException | None) -> bool:
    """Whether an error, or one that it came from, is of a disk or a quota without room.

    HDF5 says so in its text alone when it fails to close a file; torch raises another error on top.
    """
    while error:
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            return True
        if any(f"errno = {number}," in str(error) for number in NO_ROOM):
            return True
        error = error.__context__
    return False


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


@contextmanager
def only_writer(folder: Path, wait: bool = False) -> Iterator[None]:
    """Keeps other processes from writing into a folder; it is free again when this one ends, however it does.

    Args:
        wait: for the end of another one that writes into it.

    Raises:
        SwanError: another process writes into it.
    """
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ".lock"
    lock = FileLock(path)
    try:
        lock.acquire(timeout=-1 if wait else 0)
    except Timeout:
        raise SwanError(f"{folder}: another swan is writing there", "wait for its end, or stop it") from None
    TEMPORARY.add(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        TEMPORARY.discard(path)
        lock.release()
        with suppress(OSError):  # which a folder raises that something came into
            for place in missing:
                place.rmdir()
