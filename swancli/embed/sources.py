"""Where the images of an archive are: a folder, an address of a remote store, or tars, as of WebDataset.

swan embed --images DIR
swan embed --images s3://bucket/tiles
swan embed --images 's3://bucket/tiles-{000..099}.tar'

A source lists its pictures in pieces with fixed borders. Reading a piece is one pass from its start: a tar is
a stream. Nothing is unpacked.
"""

from __future__ import annotations

import posixpath
import re
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from swancli.errors import ImageError, SwanError
from swancli.images import SUFFIXES, read_inside
from swancli.prepare.entries import check_filename, natural_order
from swancli.prepare.sources import read_source, scene_in_name
from swancli.store.digest import content_digest

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

MOST_BYTES = 2**31  # of one image file, which is read into memory
TAR = ".tar"
NO_TAR = f"give a folder of images, or {TAR} files or a pattern of them; compressed ones are not read"
PATTERN = "{*?["  # what makes an address a pattern
STAMPS = ("ETag", "etag", "mtime", "LastModified", "last_modified", "updated", "created")  # by file system


@dataclass(frozen=True)
class SourceFile:
    """One image file. read: its bytes; raises ImageError where it is absent, damaged or too large."""

    name: str
    scene: str | None
    read: Callable[[], bytes]


@dataclass(frozen=True)
class Piece:
    """Pictures that are read in one pass.

    name: of the tar, "" for a range of a list of files. pictures: yields them in order; raises ImageError
    where a tar is absent, damaged or cut short, after those before.
    """

    name: str
    pictures: Callable[[], Iterator[SourceFile]]


@dataclass(frozen=True)
class ImageSource:
    """Images in a fixed order.

    name: the last part of its address.
    pictures: the folder, or the address.
    listed: a row of plain values for each file or tar, such as its name, size and time.
    pieces: from the number of files in a piece; tars are one each.
    """

    name: str
    pictures: str
    listed: tuple[tuple[Any, ...], ...]
    pieces: Callable[[int], list[Piece]]

    def identity(self) -> str:
        """A digest of what is listed: another one once a file was added, removed or written again."""
        return content_digest(self.listed)


def open_source(images: str) -> ImageSource:
    """The source that a folder, a tar, an address or a pattern of tars stands for.

    Raises:
        SwanError: nothing is there, or it does not answer; a package for its protocol is missing.
    """
    images = images.removeprefix("file://")
    local = Path(images)
    if "://" not in images and (local.is_dir() or not any(letter in images for letter in PATTERN)):
        return _local_source(local)
    address = images if "://" in images else local.absolute().as_posix()
    if urlsplit(address).password or urlsplit(address).username:
        raise SwanError(
            f"--images {urlsplit(address).scheme}://...: holds a user name or a password",
            "leave it out; give it where the service's own client looks, such as the environment",
        )
    if any(letter in address for letter in PATTERN) or address.lower().endswith(TAR):
        return _tar_source(address, _expanded(address))
    files, root = _find(address)
    pictures = [path for path in files if _is_image(path)]
    tars = [path for path in files if path.lower().endswith(TAR)]
    _refuse_both(address, bool(pictures), bool(tars))
    if pictures:
        return _remote_source(address, {path: files[path] for path in pictures}, root)
    if tars:
        system, _ = _file_system(address)
        return _tar_source(
            address, [system.unstrip_protocol(path) for path in sorted(tars, key=natural_order)]
        )
    raise SwanError(f"--images {address}: no images there", f"known are {', '.join(SUFFIXES)} and {TAR}")


# ---------------------------------------------------------------------------------------------------------
# folders


def _local_source(folder: Path) -> ImageSource:
    if folder.suffix.lower() == TAR and folder.is_file():
        return _tar_source(str(folder), [folder.absolute().as_posix()])
    if folder.is_file():
        raise SwanError(f"--images {folder}: is no {TAR}", NO_TAR)
    if not folder.is_dir():
        raise SwanError(f"--images {folder}: no such folder or tar")
    files = [path for path in folder.rglob("*") if not path.name.startswith(".")]
    tars = [path.absolute().as_posix() for path in files if path.suffix.lower() == TAR]
    _refuse_both(str(folder), any(path.suffix.lower() in SUFFIXES for path in files), bool(tars))
    if tars:
        return _tar_source(str(folder), sorted(tars, key=natural_order))
    source = read_source(folder, "folder")
    pictures = [
        SourceFile(
            entry.filename, entry.scene, partial(read_inside, source.images / entry.filename, source.images)
        )
        for entry in source.entries
    ]
    listed = []
    for picture in pictures:
        found = (source.images / picture.name).stat()
        listed.append((picture.name, found.st_size, found.st_mtime_ns))
    name = folder.resolve().name
    return ImageSource(name, str(source.images), tuple(listed), partial(_ranges, pictures))


def _refuse_both(images: str, pictures: bool, tars: bool) -> None:
    if pictures and tars:
        raise SwanError(
            f"--images {images}: holds images and tars of images",
            "give the tars alone, as FOLDER/*.tar, or a folder of images alone",
        )


def _ranges(pictures: list[SourceFile], rows: int) -> list[Piece]:
    """Pieces of so many pictures of a list."""

    def some(start: int) -> Iterator[SourceFile]:
        return iter(pictures[start : start + rows])

    return [Piece("", partial(some, start)) for start in range(0, len(pictures), rows)]


# ---------------------------------------------------------------------------------------------------------
# addresses


def _file_system(address: str) -> tuple[AbstractFileSystem, str]:
    """The file system of an address, and the path in it."""
    from fsspec.core import url_to_fs

    try:
        return url_to_fs(address)
    except (ImportError, ValueError) as error:  # a missing package, an unknown protocol: both say which
        raise SwanError(f"--images {address}: {error}", "") from error
    except Exception as error:
        raise _unreachable_error(address, error) from error


def _unreachable_error(address: str, error: Exception) -> SwanError:
    """What is told of a store that fails; each has errors of its own."""
    if isinstance(error, FileNotFoundError):
        return SwanError(f"--images {address}: no such folder or file")
    reason = (str(error) or type(error).__name__).partition("\n")[0]
    return SwanError(
        f"--images {address}: cannot be read ({reason})",
        "see that it answers and may be read; then run it again, with --resume if it had begun",
    )


def _find(address: str) -> tuple[dict[str, dict[str, Any]], str]:
    """What is known of each file below an address, by its path; and the path of the address itself."""
    system, root = _file_system(address)
    try:
        files = system.find(root, detail=True)
    except Exception as error:
        raise _unreachable_error(address, error) from error
    if not files:
        raise SwanError(f"--images {address}: no such folder, or nothing in it")
    return files, root


def _is_image(path: str) -> bool:
    name = PurePosixPath(path)
    return name.suffix.lower() in SUFFIXES and not name.name.startswith(".")


def _remote_source(address: str, files: dict[str, dict[str, Any]], root: str) -> ImageSource:
    system, _ = _file_system(address)
    known = {check_filename(posixpath.relpath(path, root), f"{address}: file name"): path for path in files}
    names = sorted(known, key=natural_order)
    pictures = [
        SourceFile(name, scene_in_name(name), partial(_read_remote, system, known[name], files[known[name]]))
        for name in names
    ]
    listed = tuple((name, *_stamp(files[known[name]])) for name in names)
    return ImageSource(_last_part(address), address, listed, partial(_ranges, pictures))


def _read_remote(system: AbstractFileSystem, path: str, known: dict[str, Any]) -> bytes:
    """The bytes of a file.

    Raises:
        ImageError: it is gone, or too large. SwanError: the store does not answer, which is no image's fault.
    """
    _check_size(known.get("size") or 0, path)
    try:
        return system.cat_file(path)
    except FileNotFoundError as error:
        raise ImageError(f"{path}: no such file any more") from error
    except Exception as error:
        raise _unreachable_error(system.unstrip_protocol(path), error) from error


def _check_size(size: int, name: str) -> None:
    if size > MOST_BYTES:
        raise ImageError(f"{name}: {size / 1e9:.1f} GB are too large for an image", "cut it into tiles")


def _stamp(known: dict[str, Any]) -> tuple[int | None, str]:
    """Size and time, or mark, of a file, as far as a file system knows them."""
    marks = [str(known[name]) for name in STAMPS if known.get(name)]
    return known.get("size"), marks[0] if marks else ""


def _last_part(address: str) -> str:
    """What a source is called: the last part of its address that is no pattern, without its ending."""
    parts = [part for part in address.split("/") if part and not any(letter in part for letter in PATTERN)]
    return re.sub(r"[^\w.-]", "-", parts[-1].removesuffix(TAR).removesuffix(":")) if parts else "tars"


# ---------------------------------------------------------------------------------------------------------
# tars


def _expanded(address: str) -> list[str]:
    """The addresses that braces and stars stand for, in order."""
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
        try:
            matches = sorted(system.glob(path), key=natural_order)
        except Exception as error:
            raise _unreachable_error(one, error) from error
        found += [system.unstrip_protocol(match) for match in matches]
    others = [one for one in found if not one.lower().endswith(TAR)]
    if others or not found:
        problem = f"{others[0]} is no {TAR}" if others else "nothing has such a name"
        raise SwanError(f"--images {address}: {problem}", NO_TAR)
    return found


def _tar_source(address: str, tars: list[str]) -> ImageSource:
    """Pictures of tars, named like `tiles-000.tar/0001.jpg`."""
    common = posixpath.commonpath([posixpath.dirname(tar) for tar in tars])
    names = [posixpath.relpath(tar, common) for tar in tars]
    pieces = [Piece(name, partial(_tar_pictures, tar, name)) for name, tar in zip(names, tars, strict=True)]
    listed = []
    for tar in tars:
        system, path = _file_system(tar)
        try:
            listed.append((tar, *_stamp(system.info(path))))
        except FileNotFoundError:
            listed.append((tar,))  # its piece raises an error
        except Exception as error:
            raise _unreachable_error(tar, error) from error
    return ImageSource(_last_part(address), address, tuple(listed), lambda rows: pieces)


def _tar_pictures(tar: str, name: str) -> Iterator[SourceFile]:
    """The images of a tar, in order, whatever else is in it; raises ImageError as of `Piece`."""
    system, path = _file_system(tar)
    count = 0
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
    except SwanError:
        raise
    except Exception as error:
        raise _unreachable_error(tar, error) from error


def _tar_picture(archive: tarfile.TarFile, member: tarfile.TarInfo, tar: str) -> SourceFile:
    """An image of a tar that is being read: its bytes are taken now, while the stream stands at them."""
    place = f"{tar}, member {member.name!r}"
    try:
        name = check_filename(f"{tar}/{check_filename(member.name, place)}", place)
        _check_size(member.size, place)
        data = archive.extractfile(member).read()
    except SwanError as error:
        return SourceFile(
            f"{tar}/{member.name}", None, partial(_raise, ImageError(error.problem, error.hint))
        )
    return SourceFile(name, scene_in_name(name), lambda: data)


def _raise(error: ImageError) -> bytes:
    raise error
