"""The images in a folder, in natural order, and a count of what is passed over.

Names are those that the disk has: nothing is stripped, replaced or refused. Bytes that are not UTF-8 become
surrogates, as everywhere in Python. 10^7 names take about 600 MB.
"""

from __future__ import annotations

import os
import re
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from heapq import merge
from pathlib import Path, PurePosixPath

from swancli.errors import ABOUT_THE_PATH, os_error
from swancli.images import SUFFIXES

TAR = ".tar"
# Folders that a system or a program keeps, in lower case; those that start with a dot are hidden, too.
SYSTEM_FOLDERS = {
    *("@eadir", "#recycle", "@recycle", "#snapshot", "@recently-snapshot", "~snapshot"),  # network storage
    *("$recycle.bin", "recycler", "recycled", "system volume information", "found.000"),  # Windows
    *("__macosx", "lost+found"),
}
IN_HIDDEN, HIDDEN_FOLDER = "in ", "folder "  # start of a kind, before the name of a folder
KINDS_SHOWN, FOLDERS_SHOWN = 8, 3
LONGEST_SUFFIX = 10
SORTED_AT_ONCE = 65_536  # names whose sort keys are in memory
DIGITS = re.compile("[0-9]+")


def natural_order(name: str) -> str:
    """A sort key for names that orders the numbers in them by value: 2.jpg before 10.jpg."""

    def by_value(found: re.Match[str]) -> str:
        digits = found[0].lstrip("0") or "0"
        return f"\0{chr(min(len(digits), 0xFFFF))}{digits}"

    return f"{DIGITS.sub(by_value, name)}\0\0{name}"


def is_hidden_folder(name: str) -> bool:
    """Whether a folder's images are not the user's, such as .Trash-1000, @eaDir and .ipynb_checkpoints."""
    return (name.startswith(".") and name not in (".", "..")) or name.lower() in SYSTEM_FOLDERS


def is_image(name: str) -> bool:
    """Whether a file's name has the suffix of an image; those of hidden files do not count."""
    name = name.rpartition("/")[2]
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")


def is_hidden(path: str) -> bool:
    """Whether a path's name, or that of a folder in it, is hidden."""
    *folders, name = path.split("/")
    return any(map(is_hidden_folder, folders)) or name.startswith(".")


def kind_of(path: str) -> str:
    """The kind of a file that is not read, for `not_read_text`: its suffix, or the folder that hides it."""
    *folders, name = path.split("/")
    hidden = next(filter(is_hidden_folder, folders), None)
    if hidden:
        return IN_HIDDEN + hidden
    if name.startswith("."):
        return "hidden file"
    suffixes = [suffix.lower() for suffix in PurePosixPath(name).suffixes[-2:]]
    suffix = "".join(suffixes) if suffixes[:1] == [TAR] else suffixes[-1] if suffixes else ""
    return suffix if 1 < len(suffix) <= LONGEST_SUFFIX else "without a suffix"


def not_read_text(kinds: Counter[str]) -> str:
    """What was not read, such as "3 .heic, 1 linked folder, 1 hidden folder (@eaDir)"; "" if nothing."""
    shown: Counter[str] = Counter()
    for start, phrase in ((IN_HIDDEN, "in hidden folders"), (HIDDEN_FOLDER, "hidden folder")):
        own = {kind: count for kind, count in kinds.items() if kind.startswith(start)}
        names = sorted(kind.removeprefix(start) for kind in own)
        more = ", ..." if len(names) > FOLDERS_SHOWN else ""
        total = sum(own.values())
        phrase += "s" if total > 1 and start == HIDDEN_FOLDER else ""
        if own:
            shown[f"{phrase} ({', '.join(names[:FOLDERS_SHOWN])}{more})"] = total
    for kind, count in kinds.items():
        if not kind.startswith((IN_HIDDEN, HIDDEN_FOLDER)):
            counted_apart = count == 1 or kind.startswith(".") or kind == "without a suffix"
            shown[kind if counted_apart else f"{kind}s"] = count
    parts = [f"{count} {kind}" for kind, count in shown.most_common(KINDS_SHOWN)]
    rest = shown.total() - sum(count for _, count in shown.most_common(KINDS_SHOWN))
    return ", ".join(parts) + (f" and {rest} of other kinds" if rest else "")


class Names(Sequence[str]):
    """Many names in little memory, in natural order.

    Args:
        names: in any order.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._bytes, self._ends = bytearray(), array("Q", [0])
        for name in names:
            self._bytes += name.encode("utf-8", "surrogateescape")
            self._ends.append(len(self._bytes))
        count = len(self._ends) - 1
        starts = range(0, count, SORTED_AT_ONCE)
        runs = [
            array("I", sorted(range(start, min(start + SORTED_AT_ONCE, count)), key=self._key))
            for start in starts
        ]
        # The place of each name among those given.
        self.order = runs[0] if len(runs) == 1 else array("I", merge(*runs, key=self._key))

    def _key(self, place: int) -> str:
        return natural_order(self._given(place))

    def _given(self, place: int) -> str:
        return self._bytes[self._ends[place] : self._ends[place + 1]].decode("utf-8", "surrogateescape")

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, row: int) -> str:
        return self._given(self.order[row])


@dataclass
class Listing:
    """What a folder holds.

    names: of the images below it, with `/`, in natural order.
    tars: names of the tars below it, likewise.
    not_read: how many of each kind are passed over, see `not_read_text`.
    unreadable: folders that cannot be listed, and why.
    sizes: bytes of each image, in the order in which they were found; -1 if it is gone.
    times: of its last change, in ns since 1970, likewise; both are empty without `stamps`.
    """

    names: Names
    tars: list[str]
    not_read: Counter[str] = field(default_factory=Counter)
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    sizes: array = field(default_factory=lambda: array("q"))
    times: array = field(default_factory=lambda: array("q"))

    def __iter__(self) -> Iterator[tuple[str, int, int]]:
        """Name, size and time of each image."""
        for row, place in enumerate(self.names.order):
            yield self.names[row], self.sizes[place], self.times[place]


def list_folder(folder: Path, *, stamps: bool = False) -> Listing:
    """Lists a folder and the folders in it, without those that are hidden or links.

    A link to a file is listed; whoever reads it checks where it leads.

    Args:
        folder: to list.
        stamps: also ask for the size and time of each image.

    Raises:
        SwanError: the folder itself cannot be listed, or the disk fails or the like.
    """
    listing = Listing(Names(()), [])
    listing.names = Names(_images_below(folder, listing, stamps))
    listing.tars.sort(key=natural_order)
    listing.unreadable.sort()
    return listing


def has_images(folder: Path) -> bool:
    """Whether `list_folder` finds an image; raises as it does."""
    return next(_images_below(folder, Listing(Names(()), []), False), None) is not None


def _images_below(folder: Path, listing: Listing, stamps: bool) -> Iterator[str]:
    """The names of the images, as they come; all else is added to the listing."""
    waiting = [""]
    while waiting:
        below = waiting.pop()
        try:
            with os.scandir(folder / below) as entries:
                for entry in entries:
                    name = f"{below}{entry.name}"
                    kind = _sort_out(entry, name)
                    if kind == "folder":
                        waiting.append(f"{name}/")
                    elif kind == "tar":
                        listing.tars.append(name)
                    elif kind == "image":
                        if stamps:
                            _add_stamp(listing, entry)
                        yield name
                    else:
                        listing.not_read[kind] += 1
        except OSError as error:
            if not below:
                raise os_error(error, folder, "listed") from error
            _only_about_the_path(error, folder / below, "listed")
            listing.unreadable.append((below, os.strerror(error.errno)))


def _only_about_the_path(error: OSError, path: Path | str, tried: str) -> None:
    """Raises a SwanError for a failing disk or the like, which is no reason to pass this path over."""
    if error.errno not in ABOUT_THE_PATH:
        raise os_error(error, path, tried) from error


def _sort_out(entry: os.DirEntry[str], name: str) -> str:
    """ "folder", "image" or "tar" for what is read, else the kind of what is not.

    Raises a SwanError as `list_folder` does.
    """
    try:
        is_folder, is_link = entry.is_dir(), entry.is_symlink()
        # A link to nothing is listed: that what it names is missing must not be passed over.
        is_file = entry.is_file() or (is_link and not Path(entry.path).exists())
    except OSError as error:  # a ring of links
        _only_about_the_path(error, entry.path, "looked up")
        is_folder, is_link, is_file = False, True, True
    if is_folder:
        if is_hidden_folder(entry.name):
            return HIDDEN_FOLDER + entry.name
        return "linked folder" if is_link else "folder"
    if not is_file:
        return "special file"  # a pipe, a socket or a device
    if is_image(entry.name):
        return "image"
    return "tar" if entry.name.lower().endswith(TAR) and not entry.name.startswith(".") else kind_of(name)


def _add_stamp(listing: Listing, entry: os.DirEntry[str]) -> None:
    try:
        status = entry.stat()
    except OSError as error:
        _only_about_the_path(error, entry.path, "looked up")
        listing.sizes.append(-1)
        listing.times.append(0)
    else:
        listing.sizes.append(status.st_size)
        listing.times.append(status.st_mtime_ns)
