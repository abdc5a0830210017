"""A lock that gives a folder one writer at a time, also where the file system has no locks."""

from __future__ import annotations

import errno
import os
import secrets
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from swancli.errors import SwanError, os_error, warn_once
from swancli.machine.interrupt import TEMPORARY
from swancli.machine.place import is_running, this_place
from swancli.store.atomic import NO_FOLLOWING, make_folder

NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)  # where a file system has none
PAUSE = 0.1  # seconds until a lock file is looked at again


@contextmanager
def only_writer(folder: Path, wait: bool = False) -> Iterator[None]:
    """Locks a folder against other processes that write into it; the end of this process always unlocks it.

    Where the file system has no locks, a file that names the process takes the place of the lock. If another
    machine has left it there, the user has to remove it.

    Args:
        folder: made if it does not exist, and then removed if it is still empty at the end.
        wait: wait until another process has unlocked it.

    Raises:
        SwanError: another process has locked it, or nothing can be written there.
    """
    made = make_folder(folder)
    path, release = _acquired(folder, wait)
    TEMPORARY.add(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)  # while it is locked: afterwards it may be the lock of another process
        TEMPORARY.discard(path)
        release()
        with suppress(OSError):  # not empty
            for place in made:
                place.rmdir()


def _acquired(folder: Path, wait: bool, attempts: int = 5) -> tuple[Path, Callable[[], None]]:
    """The file of a lock that this process now has, and what releases it once the file is removed."""
    path = folder / ".lock"
    lock = FileLock(path)
    try:
        lock.acquire(timeout=-1 if wait else 0)
    except Timeout:
        raise _in_use_error(folder) from None
    except OSError as error:
        if not folder.exists() and attempts > 1:  # a process that has ended there removed the empty folder
            make_folder(folder)
            return _acquired(folder, wait, attempts - 1)
        if error.errno not in NO_LOCKS:
            raise os_error(error, folder, "locked") from error
        path.unlink(missing_ok=True)
        _warn_of_no_locks(folder)
        return _own_lock_file(folder, wait), lambda: None
    if path.stat().st_size:  # filelock has written its own lock file
        _warn_of_no_locks(folder)
    return path, lock.release


def _in_use_error(folder: Path, more: str = "") -> SwanError:
    return SwanError(f"{folder}: another swan is writing there", f"wait until it ends, or stop it{more}")


def _warn_of_no_locks(folder: Path) -> None:
    warn_once("locks of folders", f"{folder}: its file system has no locks; swan uses a lock file instead")


def _own_lock_file(folder: Path, wait: bool) -> Path:
    """Makes the file that takes the place of a lock.

    Raises:
        SwanError: it is there, and the process that it names may be running.
    """
    path = folder / ".writer"
    while True:
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | NO_FOLLOWING, 0o644)
        except FileExistsError:
            owner = _owner(path)
            if _has_ended(owner):
                _remove_left_lock(path, owner)
            elif wait:
                time.sleep(PAUSE)
            else:
                whose = " ".join(owner.split()[1:]) or "an unknown process"
                raise _in_use_error(folder, f"; if it has ended ({whose}), remove {path}") from None
        else:
            with os.fdopen(descriptor, "w") as file:
                file.write(f"{this_place()} {os.getpid()} on {socket.gethostname()}\n")
            return path


def _owner(path: Path) -> str:
    """The line that names the process which made a lock file; "" if it is not written yet, or gone."""
    with suppress(FileNotFoundError):
        return path.read_text(errors="replace")
    return ""


def _has_ended(owner: str) -> bool:
    place, process, *_ = [*owner.split(), "", ""]
    return place == this_place() and process.isdecimal() and not is_running(int(process))


def _remove_left_lock(path: Path, owner: str) -> None:
    """Removes the lock file of a process that has ended, unless another process has just done so."""
    aside = path.with_name(f".writer.{secrets.token_hex(8)}")
    with suppress(FileNotFoundError):
        path.rename(aside)
        if _owner(aside) == owner:
            aside.unlink()
        else:
            aside.rename(path)  # the new lock of the other process
