"""The images in a tar, on this machine or at an address, read in one pass from its start.

swan embed --images 's3://bucket/tiles-{000..099}.tar'

A tar is a stream. Nothing is unpacked.
"""

from __future__ import annotations

import os
import stat
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any, NoReturn

from swancli.embed.addresses import answering, file_stamp, file_system
from swancli.errors import ImageError, unread_image_error
from swancli.images import LEADS_OUT, LEADS_OUT_HINT, check_bytes, leads_out
from swancli.prepare.listing import IN_HIDDEN, is_image, kind_of

NAMES_AS_THEY_ARE = {"encoding": "utf-8", "errors": "surrogateescape"}
TarImage = tuple[str, Callable[[], bytes]]  # the name of an image, with that of its tar; gives its bytes


@dataclass(frozen=True)
class Tar:
    """A tar.

    address: its path or address.
    open: opens it; raises ImageError if it is not there, or is no file.
    stamp: gives its size and time, or entity tag; raises FileNotFoundError.
    """

    address: str
    open: Callable[[], IO[bytes]]
    stamp: Callable[[], tuple[Any, ...]]


def local_tar(path: str, folder: Path | None = None) -> Tar:
    """A tar of this machine; one that was found in a folder may not be a link that leads out of it."""

    def stamp() -> tuple[int, int]:
        status = Path(path).stat()
        return status.st_size, status.st_mtime_ns

    return Tar(path, partial(_open_file, path, folder), stamp)


def _open_file(path: str, folder: Path | None) -> IO[bytes]:
    """A tar of this machine, opened.

    Raises:
        ImageError: it is absent, no file, not for this user, or leads out of the folder.
        SwanError: the disk fails or the like, which is no reason to leave this tar out.
    """
    if folder and leads_out(Path(path), folder):
        raise ImageError(f"{path}: {LEADS_OUT}", LEADS_OUT_HINT)
    try:
        # A pipe without a writer would be waited for.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except OSError as error:
        raise unread_image_error(error, path) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ImageError(f"{path}: not a file")
    return os.fdopen(descriptor, "rb")


def remote_tar(address: str) -> Tar:
    """A tar at an address; raises as `file_system`."""
    system, path = file_system(address)

    def open_() -> IO[bytes]:
        with answering(address):
            try:
                return system.open(path, "rb")
            except FileNotFoundError as error:
                raise ImageError(f"{address}: no such file") from error

    def stamp() -> tuple[Any, ...]:
        with answering(address):
            try:
                return file_stamp(system.info(path))
            except FileNotFoundError:
                return ()  # reading its piece raises an error

    return Tar(address, open_, stamp)


class _Stream:
    """A file that is read from its start to its end, for tarfile, which must not go back.

    last: the bytes that were read last.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self.last = b""
        self._file, self._place, self._again = file, 0, b""

    def tell(self) -> int:
        return self._place

    def read(self, size: int) -> bytes:
        parts, left = [self._again[:size]], size - len(self._again[:size])
        self._again = self._again[size:]
        while left > 0 and (part := self._file.read(left)):  # a network may give less at a time
            parts.append(part)
            left -= len(part)
        self.last = b"".join(parts)
        self._place += len(self.last)
        return self.last

    def seek(self, place: int) -> None:
        step = place - self._place
        if step < 0:
            raise tarfile.StreamError("a tar is read in one pass")
        if step > len(self._again) and self._file.seekable():
            self._file.seek(step - len(self._again), os.SEEK_CUR)
            self._again, self._place = b"", place
        while self._place < place and self.read(min(place - self._place, tarfile.RECORDSIZE)):
            pass

    def skip_zeros(self) -> bool:
        """Goes to the next block that is not zero; returns whether there is one."""
        while block := self.read(tarfile.BLOCKSIZE):
            if block.strip(b"\0"):
                self._again, self._place = block + self._again, self._place - len(block)
                return True
        return False


def tar_pictures(tar: Tar, name: str, not_read: Counter[str]) -> Iterator[TarImage]:
    """The images in a tar, in order, with those of tars that were joined to it (`cat a.tar b.tar`).

    Args:
        tar: to read.
        name: of the tar, the start of the names of its images.
        not_read: set to the number of members that are no images, by kind.

    Raises:
        ImageError: it is absent, or here it is damaged or cut short.
        SwanError: its service does not answer, or the disk fails or the like.
    """
    not_read.clear()
    count, regular = 0, {}
    with answering(tar.address), tar.open() as file:
        stream = _Stream(file)
        try:
            while stream.skip_zeros():
                with tarfile.open(fileobj=stream, mode="r:", **NAMES_AS_THEY_ARE) as archive:
                    while member := archive.next():
                        archive.members.clear()  # all are kept otherwise
                        picture = _tar_picture(tar, archive, member, name, regular, not_read)
                        if picture:
                            yield picture
                            count += 1
                # tarfile takes a header that is cut or damaged for the end.
                if stream.last != bytes(tarfile.BLOCKSIZE):
                    raise tarfile.ReadError("it does not end where its members do")
            if not stream.tell():
                raise tarfile.ReadError("empty file")
        except (tarfile.TarError, EOFError, ValueError, OverflowError) as error:
            raise ImageError(f"{tar.address}: damaged or cut short after {count} images ({error})") from error


def _tar_picture(
    tar: Tar,
    archive: tarfile.TarFile,
    member: tarfile.TarInfo,
    tar_name: str,
    regular: dict[str, tuple[int, int]],
    not_read: Counter[str],
) -> TarImage | None:
    """The image that a member is; None if it is none, which is counted.

    Its bytes are read now, since a stream cannot go back.

    Args:
        tar: that is read.
        archive: of it.
        member: of the archive.
        tar_name: the start of the image's name.
        regular: place and size of each file so far, for hard links to it; grows.
        not_read: counts members that are not read, by kind; grows.
    """
    inner = unpacked_name(member.name)
    if member.isdir():
        return None
    if member.isreg() and not member.issparse():
        regular[inner] = (member.offset_data, member.size)
    kind = kind_of(inner)
    if kind.startswith(IN_HIDDEN) or not is_image(inner):
        not_read[kind] += 1
        return None
    target = regular.get(unpacked_name(member.linkname)) if member.islnk() else None
    if not member.isreg() and not target:
        not_read["link" if member.issym() or member.islnk() else "special file"] += 1
        return None
    name = f"{tar_name}/{inner}"
    place = f"{tar.address}, member {member.name!r}"
    try:
        if "\0" in inner:
            raise ImageError(f"{place}: has a NUL character in its name", "pack it under another name")
        check_bytes(member.size, place)
    except ImageError as error:
        return name.replace("\0", "\ufffd"), partial(_raise, error)
    if target:  # another name of a file that has passed
        regular[inner] = target
        return name, partial(_read_part, tar, *target)
    data = archive.extractfile(member).read()
    return name, lambda: data


def unpacked_name(name: str) -> str:
    """Where GNU tar would unpack a member, relative to the folder where it does: never outside of it."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    after = len(parts) - parts[::-1].index("..") if ".." in parts else 0
    return "/".join(parts[after:])


def _read_part(tar: Tar, start: int, size: int) -> bytes:
    with tar.open() as file:
        if file.seekable():
            file.seek(start)
        else:
            _Stream(file).seek(start)
        return _Stream(file).read(size)


def _raise(error: ImageError) -> NoReturn:
    raise error
