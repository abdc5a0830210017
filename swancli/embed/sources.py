"""The images of a folder, of an address (s3://bucket/tiles) or of tars, such as those of WebDataset.

swan embed --images DIR
swan embed --images s3://bucket/tiles
swan embed --images 's3://bucket/tiles-{000..099}.tar'

A source lists its images in pieces with fixed borders. A piece is read in one pass from its start, since a
tar is a stream. Nothing is unpacked.
"""

from __future__ import annotations

import posixpath
import re
import tarfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import urlsplit

from swancli.errors import ImageError, SwanError
from swancli.images import SUFFIXES, read_inside
from swancli.prepare.entries import check_filename, natural_order
from swancli.prepare.sources import read_source
from swancli.store.digest import content_digest

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

MOST_BYTES = 2**31  # largest image file, which is read into memory
TAR = ".tar"
NO_TAR = f"give a folder of images, or {TAR} files or a pattern of them; compressed ones are not read"
PATTERN = "{*?["  # characters that make an address a pattern
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
    """

    border: str | list[int]
    pictures: Callable[[], Iterator[SourceFile]]


@dataclass(frozen=True)
class ImageSource:
    """Images in a fixed order.

    name: the last part of its address.
    pictures: the folder or address.
    listed: a row of plain values for each file or tar, such as its name, size and time.
    pieces: takes the number of files per piece; a tar is one piece.
    """

    name: str
    pictures: str
    listed: tuple[tuple[Any, ...], ...]
    pieces: Callable[[int], list[Piece]]

    def identity(self) -> str:
        """A hash of what is listed; it differs once a file is added, removed or written again."""
        return content_digest(self.listed)


def open_source(images: str) -> ImageSource:
    """The images of a folder, a tar, an address or a pattern of tars.

    Raises:
        SwanError: nothing is there, it does not answer, or the package for its protocol is not installed.
    """
    images = images.removeprefix("file://")
    local = Path(images)
    if "://" not in images and (local.is_dir() or not any(letter in images for letter in PATTERN)):
        return _local_source(local)
    address = images if "://" in images else local.absolute().as_posix()
    if urlsplit(address).password or urlsplit(address).username:
        raise SwanError(
            f"--images {urlsplit(address).scheme}://...: holds a user name or a password",
            "leave it out; give it where the client of the service looks, such as the environment",
        )
    if any(letter in address for letter in PATTERN) or address.lower().endswith(TAR):
        return _tar_source(address, _expanded(address))
    system, root = _file_system(address)
    with _answering(address):
        files = system.find(root, detail=True)
    if not files:
        raise SwanError(f"--images {address}: no such folder, or nothing in it", "check the address")
    if tars := _tars_among(list(files), address):
        return _tar_source(address, [system.unstrip_protocol(tar) for tar in tars])
    return _remote_source(address, {path: files[path] for path in files if _is_image(path)}, system, root)


# ---------------------------------------------------------------------------------------------------------
# folders


def _local_source(folder: Path) -> ImageSource:
    if folder.suffix.lower() == TAR and folder.is_file():
        return _tar_source(str(folder), [folder.absolute().as_posix()])
    if folder.is_file():
        raise SwanError(f"--images {folder}: is not a {TAR} file", NO_TAR)
    if not folder.is_dir():
        raise SwanError(f"--images {folder}: no such folder or tar", "check the path")
    files = [path.absolute().as_posix() for path in folder.rglob("*") if not path.name.startswith(".")]
    if tars := _tars_among(files, str(folder)):
        return _tar_source(str(folder), tars)
    source = read_source(folder, "folder")
    pictures, listed = [], []
    for entry in source.entries:
        path = source.images / entry.filename
        pictures.append(SourceFile(entry.filename, partial(read_inside, path, source.images)))
        listed.append((entry.filename, path.stat().st_size, path.stat().st_mtime_ns))
    return ImageSource(folder.resolve().name, str(source.images), tuple(listed), partial(_ranges, pictures))


def _is_image(path: str) -> bool:
    name = PurePosixPath(path)
    return name.suffix.lower() in SUFFIXES and not name.name.startswith(".")


def _tars_among(files: Sequence[str], images: str) -> list[str]:
    """The tars among the files of `images`, in natural order; raises if there are images beside them."""
    tars = sorted((path for path in files if path.lower().endswith(TAR)), key=natural_order)
    if tars and any(map(_is_image, files)):
        raise SwanError(
            f"--images {images}: holds images and tars of images",
            "give the tars alone, as FOLDER/*.tar, or a folder of images alone",
        )
    return tars


def _ranges(pictures: list[SourceFile], rows: int) -> list[Piece]:
    """Pieces of `rows` images each; the last one may be shorter."""
    starts = range(0, len(pictures), rows)
    parts = [pictures[start : start + rows] for start in starts]
    return [
        Piece([start, start + len(part)], partial(iter, part))
        for start, part in zip(starts, parts, strict=True)
    ]


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


def _remote_source(
    address: str, files: dict[str, dict[str, Any]], system: AbstractFileSystem, root: str
) -> ImageSource:
    """The images at an address, given what is known of each file there, by its path."""
    if not files:
        raise SwanError(f"--images {address}: no images there", f"known are {', '.join(SUFFIXES)} and {TAR}")
    known = {check_filename(posixpath.relpath(path, root), f"{address}: file name"): path for path in files}
    names = sorted(known, key=natural_order)
    pictures = [
        SourceFile(name, partial(_read_remote, system, known[name], files[known[name]])) for name in names
    ]
    listed = tuple((name, *_stamp(files[known[name]])) for name in names)
    return ImageSource(_last_part(address), address, listed, partial(_ranges, pictures))


def _read_remote(system: AbstractFileSystem, path: str, known: dict[str, Any]) -> bytes:
    """The bytes of a file.

    Raises:
        ImageError: it is gone, or too large.
        SwanError: the service does not answer; leaving the image out would not help.
    """
    _check_size(known.get("size") or 0, path)
    with _answering(system.unstrip_protocol(path)):
        try:
            return system.cat_file(path)
        except FileNotFoundError as error:
            raise ImageError(f"{path}: no such file any more") from error


def _check_size(size: int, name: str) -> None:
    if size > MOST_BYTES:
        raise ImageError(f"{name}: {size / 1e9:.1f} GB are too large for an image", "cut it into tiles")


def _stamp(known: dict[str, Any]) -> tuple[int | None, str]:
    """Size in bytes, and entity tag or time of a file, as far as its file system knows them."""
    marks = (str(known[name]) for name in STAMPS if known.get(name))
    return known.get("size"), next(marks, "")


def _last_part(address: str) -> str:
    """The name of a source: the last part of its address that is not a pattern, without its suffix."""
    parts = [part for part in address.split("/") if part and not any(letter in part for letter in PATTERN)]
    return re.sub(r"[^\w.-]", "-", parts[-1].removesuffix(TAR).removesuffix(":")) if parts else "tars"


# ---------------------------------------------------------------------------------------------------------
# tars


def _expanded(address: str) -> list[str]:
    """The addresses that a pattern with braces and stars matches, in order."""
    from braceexpand import braceexpand

    try:
        written = list(braceexpand(address))
    except ValueError as error:
        raise SwanError(f"--images {address}: {error}") from error
    found = []
    for one in written:
        if not any(letter in one for letter in PATTERN):
            found.append(one)
            continue
        system, path = _file_system(one)
        with _answering(one):
            matches = sorted(system.glob(path), key=natural_order)
        found += [system.unstrip_protocol(match) for match in matches]
    others = [one for one in found if not one.lower().endswith(TAR)]
    if others or not found:
        problem = f"{others[0]} is not a {TAR} file" if others else "nothing has such a name"
        raise SwanError(f"--images {address}: {problem}", NO_TAR)
    return found


def _tar_source(address: str, tars: list[str]) -> ImageSource:
    """The images in tars, named like `tiles-000.tar/0001.jpg`."""
    common = posixpath.commonpath([posixpath.dirname(tar) for tar in tars])
    names = [posixpath.relpath(tar, common) for tar in tars]
    pieces = [Piece(name, partial(_tar_pictures, tar, name)) for name, tar in zip(names, tars, strict=True)]
    listed = []
    for tar in tars:
        system, path = _file_system(tar)
        with _answering(tar):
            try:
                listed.append((tar, *_stamp(system.info(path))))
            except FileNotFoundError:
                listed.append((tar,))  # reading its piece raises an error
    return ImageSource(_last_part(address), address, tuple(listed), lambda rows: pieces)


def _tar_pictures(tar: str, name: str) -> Iterator[SourceFile]:
    """The images in a tar, in order; other members are ignored. Raises ImageError as `Piece.pictures`."""
    system, path = _file_system(tar)
    count = 0
    with _answering(tar):
        try:
            with system.open(path, "rb") as file, tarfile.open(fileobj=file, mode="r|") as archive:
                for member in archive:
                    if member.isfile() and _is_image(member.name):
                        yield _tar_picture(archive, member, name)
                        count += 1
                # tarfile takes a header that is cut or damaged for the end.
                if file.seekable():
                    file.seek(archive.offset)
                    if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                        raise tarfile.ReadError("it does not end where its members do")
        except FileNotFoundError as error:
            raise ImageError(f"{tar}: no such file") from error
        except (tarfile.TarError, EOFError, ValueError, OverflowError) as error:
            raise ImageError(f"{tar}: damaged or cut short after {count} images ({error})") from error


def _tar_picture(archive: tarfile.TarFile, member: tarfile.TarInfo, tar: str) -> SourceFile:
    """An image in a tar that is being read; its bytes are read now, since the stream cannot go back."""
    place = f"{tar}, member {member.name!r}"
    try:
        name = check_filename(f"{tar}/{check_filename(member.name, place)}", place)
        _check_size(member.size, place)
        data = archive.extractfile(member).read()
    except SwanError as error:
        unreadable = ImageError(error.problem, error.hint)
        return SourceFile(f"{tar}/{member.name}", partial(_raise, unreadable))
    return SourceFile(name, lambda: data)


def _raise(error: ImageError) -> NoReturn:
    raise error
