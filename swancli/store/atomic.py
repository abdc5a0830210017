"""Atomic, durable file writes."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from os import PathLike
from pathlib import Path

from swancli.errors import SwanError, os_error, outside_cause, warn_once
from swancli.machine.interrupt import TEMPORARY
from swancli.machine.place import is_running, this_place

# What the sync of a folder answers where the file system has no such thing, or the folder cannot be opened.
NO_SYNC = (
    errno.EINVAL,
    errno.ENOTSUP,
    errno.EOPNOTSUPP,
    errno.ENOSYS,
    errno.EBADF,
    errno.EACCES,
    errno.EPERM,
)
NO_FOLLOWING = getattr(os, "O_NOFOLLOW", 0)
LONGEST = 150  # bytes of a name that a temporary name contains; most file systems take 255
FORGOTTEN = 7 * 24 * 3600  # seconds after which a temporary file of another machine counts as left over
MOST_LINKS = 40  # followed one after the other, as by Linux


@contextmanager
def atomic_path(path: str | PathLike[str]) -> Iterator[Path]:
    """Yields a temporary path beside `path`; on success it is synced to disk and renamed to `path`.

    If the body raises an error, the temporary file is removed and an existing file is not changed. The new
    file has the permissions of the existing one. A link stays, and the file that it leads to is replaced. A
    pipe or a device gets the content at the end. Temporary files of killed processes are removed first.

    Raises:
        SwanError: the disk is full, or the path cannot be written or is a folder.
    """
    path = Path(path)
    with _refusals_named(path):
        write = _into_stream if _is_stream(path) else _into_file
        with write(path) as temporary:
            yield temporary


@contextmanager
def _refusals_named(path: Path) -> Iterator[None]:
    """Errors of the system that are about a path or name none become a SwanError that names the path."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        named = str(getattr(error, "filename", None) or path)
        if named != str(path) and not named.endswith(".tmp"):
            raise
        found = outside_cause(error, path, "written")
        if found is None and isinstance(error, OSError):
            found = os_error(error, path, "written")
        if found is None:
            raise
        raise found from error


@contextmanager
def _into_file(path: Path) -> Iterator[Path]:
    place = _behind_links(path)
    make_folder(place.parent)
    _remove_left_over(place)
    old = place.stat() if place.exists() else None
    with _new_file(place, private=old is not None) as temporary:
        yield temporary
        if old:
            _take_permissions(temporary, old)
        _sync(temporary)
        temporary.replace(place)
        sync_folder(place.parent)


@contextmanager
def _into_stream(path: Path) -> Iterator[Path]:
    with _new_file(Path(tempfile.gettempdir()) / path.name, private=True) as temporary:
        yield temporary
        with temporary.open("rb") as content, path.open("wb", buffering=0) as stream:
            shutil.copyfileobj(content, stream)


def _is_stream(path: Path) -> bool:
    """Whether a path is a pipe or a device such as /dev/null.

    Raises:
        SwanError: it is a folder or something else that is no file.
    """
    if not path.exists():
        return False
    kind = path.stat().st_mode
    if stat.S_ISDIR(kind):
        raise SwanError(f"{path}: is a folder", "name a file")
    if not (stat.S_ISREG(kind) or stat.S_ISFIFO(kind) or stat.S_ISCHR(kind)):
        raise SwanError(f"{path}: neither a file nor a pipe", "name a file")
    return not stat.S_ISREG(kind)


def _behind_links(path: Path) -> Path:
    """The path that a link leads to.

    A link in a folder that several users write to may lead to a file that only one of them may change. So
    only links of this user and of the owner of the folder are followed, as Linux does with /tmp.

    Raises:
        SwanError: the link belongs to somebody else, or leads back to itself.
    """
    first = path
    for _ in range(MOST_LINKS):
        if not path.is_symlink():
            return path
        owner = path.lstat().st_uid
        if owner not in (os.geteuid(), path.parent.stat().st_uid):
            raise SwanError(
                f"{path}: a link of another user is not followed", "remove it, or name another file"
            )
        path = path.parent / path.readlink()
    raise SwanError(f"{first}: a link that leads back to itself", "remove it")


@contextmanager
def _new_file(place: Path, private: bool) -> Iterator[Path]:
    """A new empty file beside a place, under a name that nobody can know before; removed at the end.

    Args:
        place: where its content is to be.
        private: only this user may read it, until it gets the permissions of the file that it replaces.
    """
    temporary = place.with_name(f"{_prefix(place)}{this_place()}.{os.getpid()}.{secrets.token_hex(8)}.tmp")
    TEMPORARY.add(temporary)
    try:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | NO_FOLLOWING
        os.close(os.open(temporary, flags, 0o600 if private else 0o666))
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)
        TEMPORARY.discard(temporary)


def _prefix(place: Path) -> str:
    """How the names of temporary files for a place start."""
    name = os.fsencode(place.name)
    if len(name) > LONGEST:
        return f".{hashlib.blake2b(name, digest_size=16).hexdigest()}."
    return f".{place.name}."


def _take_permissions(temporary: Path, old: os.stat_result) -> None:
    """Gives a new file the permissions of the one that it replaces, and if possible its owner."""
    mode = stat.S_IMODE(old.st_mode) & 0o777
    with suppress(OSError):  # some file systems have none
        new = temporary.stat()
        if (new.st_uid, new.st_gid) != (old.st_uid, old.st_gid):
            try:
                os.chown(temporary, old.st_uid, old.st_gid)
            except PermissionError:
                mode &= 0o707  # not for another group
        temporary.chmod(mode)


def _remove_left_over(place: Path) -> None:
    """Removes temporary files that ended processes of this machine have left, and old ones of others.

    They are of no use to anybody, but they are no reason to fail either.
    """
    name = re.compile(re.escape(_prefix(place)) + r"(\w+)\.(\d+)\.\w+\.tmp")
    with suppress(OSError):  # a folder that cannot be listed, a file of another user
        for entry in place.parent.iterdir():
            left = name.fullmatch(entry.name)
            if left and _is_left_over(entry, left[1], int(left[2])):
                with suppress(OSError):
                    entry.unlink()


def _is_left_over(entry: Path, machine: str, process: int) -> bool:
    if machine == this_place():
        return not is_running(process)
    return time.time() - entry.lstat().st_mtime > FORGOTTEN


def make_folder(folder: Path) -> list[Path]:
    """Makes a folder and those above it that do not exist; the name of each is synced to disk.

    Returns:
        The folders that did not exist, the innermost first.
    """
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    for place in reversed(missing):
        place.mkdir(exist_ok=True)
        sync_folder(place.parent)
    return missing


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Syncs the names in a folder to disk, if its file system can do that; if not, a warning says so once."""
    try:
        _sync(folder)
    except OSError as error:
        if error.errno not in NO_SYNC:
            raise
        reason = f"its file system does not sync folders ({os.strerror(error.errno)})"
        warn_once("sync", f"{folder}: {reason}; after a power cut, the last files may be missing")
