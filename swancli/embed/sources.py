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
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import starmap
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from swancli.embed.addresses import answering, file_stamp, file_system
from swancli.embed.tars import Tar, local_tar, remote_tar, tar_pictures
from swancli.errors import ImageError, SwanError
from swancli.images import SUFFIXES, check_bytes, read_inside
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
UNNAMED = "images"  # for a source without a name, such as the root of a disk


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
    return _tar_source(path.stem, absolute, [local_tar(absolute)])


def _folder_source(folder: Path) -> ImageSource:
    home = folder.resolve()
    listing = list_folder(home, stamps=True)
    name = f"--images {folder}"
    if len(listing.names) and listing.tars:
        raise _images_and_tars(name)
    if listing.tars:
        tars = [local_tar(f"{home}/{tar}", home) for tar in listing.tars]
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


def _remote_source(address: str) -> ImageSource:
    is_pattern = any(letter in address for letter in PATTERN)
    if is_pattern:
        system, root = file_system(address)
        with answering(address):
            is_pattern = not system.exists(root)
    if is_pattern:
        folder = re.split(r"[{*?[]", address)[0].rpartition("/")[0]
        return _tar_source(_last_part(folder), address, _matching_remote_tars(address))
    if address.lower().endswith(TAR):
        return _tar_source(_last_part(address[: -len(TAR)]), address, [remote_tar(address)])
    system, root = file_system(address)
    with answering(address):
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
        found = [remote_tar(system.unstrip_protocol(names[tar])) for tar in tars]
        return _tar_source(_last_part(address), address, found, not_read)
    if not images:
        raise _no_images(f"--images {address}", not_read)
    known = [(name, names[name], files[names[name]]) for name in images]

    def file(row: int) -> SourceFile:
        name, path, facts = known[row]
        return SourceFile(name, partial(_read_remote, system, path, facts))

    listed = tuple((name, *file_stamp(facts)) for name, _, facts in known)
    return _source_of_files(_last_part(address), address, listed, len(known), file, not_read)


def _read_remote(system: AbstractFileSystem, path: str, known: dict[str, Any]) -> bytes:
    """The bytes of a file.

    Raises:
        ImageError: it is gone, or too large.
        SwanError: the service does not answer; leaving the image out would not help.
    """
    check_bytes(known.get("size") or 0, path)
    with answering(system.unstrip_protocol(path)):
        try:
            return system.cat_file(path)
        except FileNotFoundError as error:
            raise ImageError(f"{path}: no such file any more") from error


def _last_part(address: str) -> str:
    """The name of a source: the last part of its address."""
    return address.rstrip("/").rpartition("/")[2].removesuffix(":")


# ---------------------------------------------------------------------------------------------------------
# tars


def _matching_tars(pattern: str) -> tuple[Path, list[Tar]]:
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
            found.append(local_tar(str(base / one)))
        else:
            matches = (path.relative_to(base).as_posix() for path in base.glob(one))
            seen = sorted((name for name in matches if not is_hidden(name)), key=natural_order)
            found += [local_tar(str(base / name), base) for name in seen]
    return base, _checked_tars(pattern, found)


def _matching_remote_tars(pattern: str) -> list[Tar]:
    """The tars that match an address with braces and stars, in order."""
    found = []
    for one in _written_out(pattern, pattern):
        if not any(letter in one for letter in PATTERN):
            found.append(one)
            continue
        system, path = file_system(one)
        with answering(one):
            matches = sorted(system.glob(path), key=natural_order)
        found += [system.unstrip_protocol(match) for match in matches]
    return _checked_tars(pattern, [remote_tar(one) for one in found])


def _written_out(pattern: str, images: str) -> list[str]:
    """The patterns that one with braces stands for. A backslash is a character like others."""
    from braceexpand import braceexpand

    try:
        return list(braceexpand(pattern, escape=False))
    except ValueError as error:
        raise SwanError(f"--images {images}: {error}") from error


def _checked_tars(pattern: str, found: list[Tar]) -> list[Tar]:
    others = [tar.address for tar in found if not tar.address.lower().endswith(TAR)]
    if others or not found:
        problem = f"{others[0]} is not a {TAR} file" if others else "nothing has such a name"
        raise SwanError(f"--images {pattern}: {problem}", NO_TAR)
    return found


def _tar_source(
    name: str,
    address: str,
    tars: list[Tar],
    not_read: Counter[str] | None = None,
    unreadable: Sequence[tuple[str, str]] = (),
) -> ImageSource:
    """The images in tars, named like `tiles-000.tar/0001.jpg`."""
    paths = [tar.address.split("/") for tar in tars]
    levels = enumerate(zip(*(path[:-1] for path in paths), strict=False))
    common = next((level for level, parts in levels if len(set(parts)) > 1), min(map(len, paths)) - 1)
    names = ["/".join(path[common:]) for path in paths]

    def piece(tar: Tar, name: str) -> Piece:
        kinds: Counter[str] = Counter()
        return Piece(name, lambda: starmap(SourceFile, tar_pictures(tar, name, kinds)), kinds)

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
