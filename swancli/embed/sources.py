"""The images of a folder, of an address (s3://bucket/tiles) or of tars, such as those of WebDataset.

swan embed --images DIR
swan embed --images s3://bucket/tiles
swan embed --images 's3://bucket/tiles-{000..099}.tar'

A source lists its images in pieces with fixed borders. A piece is read in one pass from its start, since a
tar is a stream. Nothing is unpacked.
"""

from __future__ import annotations

import os
import re
import stat
import tarfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NoReturn
from urllib.parse import unquote

from swancli.errors import ImageError, SwanError, unread_image_error
from swancli.images import LEADS_OUT, LEADS_OUT_HINT, SUFFIXES, check_bytes, leads_out, read_inside
from swancli.prepare.listing import (
    IN_HIDDEN,
    TAR,
    is_hidden,
    is_image,
    kind_of,
    list_folder,
    natural_order,
    not_read_text,
)
from swancli.store.digest import content_digest

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

NO_TAR = f"give a folder of images, or {TAR} files or a pattern of them; compressed ones are not read"
PATTERN = "{*?["  # characters that make an address a pattern, if nothing has that name itself
NAMES_AS_THEY_ARE = {"encoding": "utf-8", "errors": "surrogateescape"}
UNNAMED = "images"  # for a source without a name, such as the root of a disk
# Names of an entity tag or a time of change in the various file systems.
STAMPS = ("ETag", "etag", "mtime", "LastModified", "last_modified", "updated", "created")


@dataclass(frozen=True)
class SourceFile:
    """One image file.

    name: below the folder or address, or below its tar.
    read: gives its bytes; raises ImageError if it is absent, damaged or too large.
    """

    name: str
    read: Callable[[], bytes]


@dataclass(frozen=True)
class Piece:
    """Images that are read in one pass.

    border: the name of the tar, or in a list of files the first row and the one after the last.
    pictures: yields them in order; raises ImageError if a tar is absent, or where it is damaged or cut short.
        Of several with one name the last one counts: that is how tar replaces a file.
    not_read: what a tar holds beside images, by kind; known once its pictures were read.
    """

    border: str | list[int]
    pictures: Callable[[], Iterator[SourceFile]]
    not_read: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class ImageSource:
    """Images in a fixed order.

    name: the last part of its address.
    pictures: the folder or address.
    listed: a row of plain values for each file or tar, such as its name, size and time.
    pieces: takes the number of files per piece; a tar is one piece.
    files: the number of files; 0 for tars, which are read from their start only.
    file: takes the number of a file, from 0; None for tars.
    not_read: what the folder or address holds beside images or tars, by kind.
    unreadable: folders in it that cannot be listed, and why.
    """

    name: str
    pictures: str
    listed: Iterable[tuple[Any, ...]]
    pieces: Callable[[int], list[Piece]]
    files: int = 0
    file: Callable[[int], SourceFile] | None = None
    not_read: Counter[str] = field(default_factory=Counter)
    unreadable: Sequence[tuple[str, str]] = ()

    def identity(self) -> str:
        """A hash of what is listed; it differs once a file is added, removed or written again."""
        return content_digest(self.listed)


def open_source(images: str) -> ImageSource:
    """The images of a folder, a tar, an address or a pattern of tars.

    What exists under exactly this name is read; only then it is taken for a pattern.

    Raises:
        SwanError: nothing is there, it does not answer, or the package for its protocol is not installed.
    """
    if images.startswith("file://"):
        images = images.removeprefix("file://")
        images = images if os.path.lexists(images) else unquote(images)
    if "://" not in images:
        return _local_source(images)
    scheme, _, place = images.partition("://")
    if "@" in place.partition("/")[0]:
        raise SwanError(
            f"--images {scheme}://...: holds a user name or a password",
            "leave it out; give it where the client of the service looks, such as the environment",
        )
    return _remote_source(images)


# ---------------------------------------------------------------------------------------------------------
# folders


def _local_source(images: str) -> ImageSource:
    path = Path(images)
    if path.is_dir():
        return _folder_source(path)
    is_pattern = any(letter in images for letter in PATTERN) and not os.path.lexists(path)
    if not is_pattern and not path.exists():
        what = "a link to nothing" if path.is_symlink() else "no such folder or tar"
        raise SwanError(f"--images {images}: {what}", "check the path")
    if not is_pattern and path.suffix.lower() != TAR:
        raise SwanError(f"--images {images}: is not a {TAR} file", NO_TAR)
    absolute = str(path.absolute())
    if is_pattern:
        base, tars = _matching_tars(absolute)
        return _tar_source(base.name, absolute, tars)
    return _tar_source(path.stem, absolute, [_local_tar(absolute)])


def _folder_source(folder: Path) -> ImageSource:
    home = folder.resolve()
    listing = list_folder(home, stamps=True)
    name = f"--images {folder}"
    if len(listing.names) and listing.tars:
        raise _images_and_tars(name)
    if listing.tars:
        tars = [_local_tar(f"{home}/{tar}", home) for tar in listing.tars]
        return _tar_source(home.name, str(home), tars, listing.not_read, listing.unreadable)
    if not len(listing.names):
        raise _no_images(name, listing.not_read, listing.unreadable)

    def file(row: int) -> SourceFile:
        name = listing.names[row]
        return SourceFile(name, partial(read_inside, home / name, home))

    kept = listing.not_read, listing.unreadable
    return _source_of_files(home.name or UNNAMED, str(home), listing, len(listing.names), file, *kept)


def _source_of_files(
    name: str,
    address: str,
    listed: Iterable[tuple[Any, ...]],
    count: int,
    file: Callable[[int], SourceFile],
    not_read: Counter[str],
    unreadable: Sequence[tuple[str, str]] = (),
) -> ImageSource:
    """A source whose pieces have as many files each as is asked for; the last one may have fewer."""

    def pieces(rows: int) -> list[Piece]:
        borders = ([start, min(start + rows, count)] for start in range(0, count, rows))
        return [Piece(border, partial(map, file, range(*border))) for border in borders]

    return ImageSource(name, address, listed, pieces, count, file, not_read, unreadable)


def _images_and_tars(name: str) -> SwanError:
    return SwanError(
        f"{name}: holds images and tars of images",
        "give the tars alone, as FOLDER/*.tar, or a folder of images alone",
    )


def _no_images(name: str, not_read: Counter[str], unreadable: Sequence[tuple[str, str]] = ()) -> SwanError:
    found = not_read_text(not_read)
    if unreadable:
        found = ", ".join(filter(None, [f"{unreadable[0][0]} ({unreadable[0][1]})", found]))
    return SwanError(
        f"{name}: no images in it{f'; not read: {found}' if found else ''}",
        f"known are {', '.join(SUFFIXES)} and {TAR}; links to folders are not followed",
    )


# ---------------------------------------------------------------------------------------------------------
# addresses


def _file_system(address: str) -> tuple[AbstractFileSystem, str]:
    """The file system of an address, and the path in it."""
    from fsspec.core import url_to_fs

    with _answering(address):
        try:
            return url_to_fs(address)
        except (ImportError, ValueError) as error:  # a missing package, an unknown protocol: both say which
            raise SwanError(f"--images {address}: {error}") from error


@contextmanager
def _answering(address: str) -> Iterator[None]:
    """Errors of a file system, which differ from one service to the next, become a SwanError."""
    try:
        yield
    except SwanError:
        raise
    except FileNotFoundError as error:
        raise SwanError(f"--images {address}: no such folder or file") from error
    except Exception as error:
        reason = (str(error) or type(error).__name__).partition("\n")[0]
        raise SwanError(
            f"--images {address}: cannot be read ({reason})",
            "check the service and your access to it, then run it again, with --resume if it had begun",
        ) from error


def _remote_source(address: str) -> ImageSource:
    is_pattern = any(letter in address for letter in PATTERN)
    if is_pattern:
        system, root = _file_system(address)
        with _answering(address):
            is_pattern = not system.exists(root)
    if is_pattern:
        folder = re.split(r"[{*?[]", address)[0].rpartition("/")[0]
        return _tar_source(_last_part(folder), address, _matching_remote_tars(address))
    if address.lower().endswith(TAR):
        return _tar_source(_last_part(address[: -len(TAR)]), address, [_remote_tar(address)])
    system, root = _file_system(address)
    with _answering(address):
        files = {path: known for path, known in system.find(root, detail=True).items() if path[-1:] != "/"}
    if not files:
        raise SwanError(f"--images {address}: no such folder, or nothing in it", "check the address")
    if root in files:
        raise SwanError(f"--images {address}: is not a {TAR} file", NO_TAR)
    start = root.rstrip("/") + "/"
    # The names are keys, not paths: nothing in them is resolved.
    names = {path.removeprefix(start): path for path in files}
    kinds = {name: kind_of(name) for name in names}
    read = [name for name in names if not kinds[name].startswith(IN_HIDDEN)]
    images = sorted(filter(is_image, read), key=natural_order)
    tars = sorted((name for name in read if kinds[name] == TAR), key=natural_order)
    not_read = Counter(kinds[name] for name in names.keys() - {*images, *tars})
    if images and tars:
        raise _images_and_tars(f"--images {address}")
    if tars:
        found = [_remote_tar(system.unstrip_protocol(names[tar])) for tar in tars]
        return _tar_source(_last_part(address), address, found, not_read)
    if not images:
        raise _no_images(f"--images {address}", not_read)
    known = [(name, names[name], files[names[name]]) for name in images]

    def file(row: int) -> SourceFile:
        name, path, facts = known[row]
        return SourceFile(name, partial(_read_remote, system, path, facts))

    listed = tuple((name, *_stamp(facts)) for name, _, facts in known)
    return _source_of_files(_last_part(address), address, listed, len(known), file, not_read)


def _read_remote(system: AbstractFileSystem, path: str, known: dict[str, Any]) -> bytes:
    """The bytes of a file.

    Raises:
        ImageError: it is gone, or too large.
        SwanError: the service does not answer; leaving the image out would not help.
    """
    check_bytes(known.get("size") or 0, path)
    with _answering(system.unstrip_protocol(path)):
        try:
            return system.cat_file(path)
        except FileNotFoundError as error:
            raise ImageError(f"{path}: no such file any more") from error


def _stamp(known: dict[str, Any]) -> tuple[int | None, str]:
    """Size in bytes, and entity tag or time of a file, as far as its file system knows them."""
    marks = (str(known[name]) for name in STAMPS if known.get(name))
    return known.get("size"), next(marks, "")


def _last_part(address: str) -> str:
    """The name of a source: the last part of its address."""
    return address.rstrip("/").rpartition("/")[2].removesuffix(":")


# ---------------------------------------------------------------------------------------------------------
# tars


@dataclass(frozen=True)
class _Tar:
    """A tar.

    address: its path or address.
    open: opens it; raises ImageError if it is not there, or is no file.
    stamp: gives its size and time, or entity tag; raises FileNotFoundError.
    """

    address: str
    open: Callable[[], IO[bytes]]
    stamp: Callable[[], tuple[Any, ...]]


def _local_tar(path: str, folder: Path | None = None) -> _Tar:
    """A tar of this machine; one that was found in a folder may not be a link that leads out of it."""

    def stamp() -> tuple[int, int]:
        status = Path(path).stat()
        return status.st_size, status.st_mtime_ns

    return _Tar(path, partial(_open_file, path, folder), stamp)


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


def _remote_tar(address: str) -> _Tar:
    system, path = _file_system(address)

    def open_() -> IO[bytes]:
        with _answering(address):
            try:
                return system.open(path, "rb")
            except FileNotFoundError as error:
                raise ImageError(f"{address}: no such file") from error

    def stamp() -> tuple[Any, ...]:
        with _answering(address):
            try:
                return _stamp(system.info(path))
            except FileNotFoundError:
                return ()  # reading its piece raises an error

    return _Tar(address, open_, stamp)


def _matching_tars(pattern: str) -> tuple[Path, list[_Tar]]:
    """The local tars that match an absolute path with braces and stars, in order, and where they are.

    The folders at its start that exist are no pattern, whatever characters their names have.
    """
    base = Path(Path(pattern).anchor)
    rest = Path(pattern).as_posix()[len(base.as_posix()) :].split("/")
    while len(rest) > 1 and (base / rest[0]).is_dir():
        base, rest = base / rest[0], rest[1:]
    found = []
    for one in _written_out("/".join(rest), pattern):
        if os.path.lexists(base / one) or not any(letter in one for letter in PATTERN):
            found.append(_local_tar(str(base / one)))
        else:
            matches = (path.relative_to(base).as_posix() for path in base.glob(one))
            seen = sorted((name for name in matches if not is_hidden(name)), key=natural_order)
            found += [_local_tar(str(base / name), base) for name in seen]
    return base, _checked_tars(pattern, found)


def _matching_remote_tars(pattern: str) -> list[_Tar]:
    """The tars that match an address with braces and stars, in order."""
    found = []
    for one in _written_out(pattern, pattern):
        if not any(letter in one for letter in PATTERN):
            found.append(one)
            continue
        system, path = _file_system(one)
        with _answering(one):
            matches = sorted(system.glob(path), key=natural_order)
        found += [system.unstrip_protocol(match) for match in matches]
    return _checked_tars(pattern, [_remote_tar(one) for one in found])


def _written_out(pattern: str, images: str) -> list[str]:
    """The patterns that one with braces stands for. A backslash is a character like others."""
    from braceexpand import braceexpand

    try:
        return list(braceexpand(pattern, escape=False))
    except ValueError as error:
        raise SwanError(f"--images {images}: {error}") from error


def _checked_tars(pattern: str, found: list[_Tar]) -> list[_Tar]:
    others = [tar.address for tar in found if not tar.address.lower().endswith(TAR)]
    if others or not found:
        problem = f"{others[0]} is not a {TAR} file" if others else "nothing has such a name"
        raise SwanError(f"--images {pattern}: {problem}", NO_TAR)
    return found


def _tar_source(
    name: str,
    address: str,
    tars: list[_Tar],
    not_read: Counter[str] | None = None,
    unreadable: Sequence[tuple[str, str]] = (),
) -> ImageSource:
    """The images in tars, named like `tiles-000.tar/0001.jpg`."""
    paths = [tar.address.split("/") for tar in tars]
    levels = enumerate(zip(*(path[:-1] for path in paths), strict=False))
    common = next((level for level, parts in levels if len(set(parts)) > 1), min(map(len, paths)) - 1)
    names = ["/".join(path[common:]) for path in paths]

    def piece(tar: _Tar, name: str) -> Piece:
        kinds: Counter[str] = Counter()
        return Piece(name, partial(_tar_pictures, tar, name, kinds), kinds)

    pieces = [piece(tar, name) for tar, name in zip(tars, names, strict=True)]
    listed = []
    for tar in tars:
        try:
            listed.append((tar.address, *tar.stamp()))
        except OSError:
            listed.append((tar.address,))  # reading its piece raises an error
    return ImageSource(
        name or UNNAMED,
        address,
        tuple(listed),
        lambda rows: pieces,
        not_read=not_read or Counter(),
        unreadable=unreadable,
    )


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


def _tar_pictures(tar: _Tar, name: str, not_read: Counter[str]) -> Iterator[SourceFile]:
    """The images in a tar, in order, with those of tars that were joined to it (`cat a.tar b.tar`).

    Other members are counted in `not_read`. Raises ImageError as `Piece.pictures`.
    """
    not_read.clear()
    count, regular = 0, {}
    with _answering(tar.address), tar.open() as file:
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
    tar: _Tar,
    archive: tarfile.TarFile,
    member: tarfile.TarInfo,
    tar_name: str,
    regular: dict[str, tuple[int, int]],
    not_read: Counter[str],
) -> SourceFile | None:
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
        return SourceFile(name.replace("\0", "\ufffd"), partial(_raise, error))
    if target:  # another name of a file that has passed
        regular[inner] = target
        return SourceFile(name, partial(_read_part, tar, *target))
    data = archive.extractfile(member).read()
    return SourceFile(name, lambda: data)


def unpacked_name(name: str) -> str:
    """Where GNU tar would unpack a member, relative to the folder where it does: never outside of it."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    after = len(parts) - parts[::-1].index("..") if ".." in parts else 0
    return "/".join(parts[after:])


def _read_part(tar: _Tar, start: int, size: int) -> bytes:
    with tar.open() as file:
        if file.seekable():
            file.seek(start)
        else:
            _Stream(file).seek(start)
        return _Stream(file).read(size)


def _raise(error: ImageError) -> NoReturn:
    raise error
