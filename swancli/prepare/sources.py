"""Detects and reads a source: a list of entries in the source's order, and the folder of its images.

    swan prepare --dataset NAME --source SOURCE [--format FORMAT] [--images DIR]

Images are not read, so captions can be counted without them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path

from swancli.errors import SwanError
from swancli.images import SUFFIXES, leads_out
from swancli.prepare.entries import Entry
from swancli.prepare.json_lists import read_json_entries
from swancli.prepare.listing import TAR, has_images, list_folder, not_read_text
from swancli.prepare.scene_names import found_scenes
from swancli.prepare.tables import TABLES, read_table
from swancli.prepare.text_lists import find_descriptions, read_precomp, read_ucm, ucm_filenames

FORMATS = ("karpathy", "precomp", "ucm", "nwpu", "table", "folder")
LISTS_NEEDED = (
    "a .json list (karpathy, nwpu), a .csv, .tsv or .parquet table (table), or a folder with one of those, "
    "with train_caps.txt and train_filename.txt (precomp), "
    "with descriptions_*.txt and filenames_train.txt (ucm) or with images (folder)"
)


@dataclass(frozen=True)
class Source:
    """A source that was read.

    entries: its images, in order.
    images: the folder that file names are relative to; it may not exist.
    format: one of `FORMATS`.
    scenes: where their scenes are from, for the user.
    listed_scenes: file name -> scene, of the entries whose scene the source names.
    found: whether `images` was found beside the source, and not given by the user.
    not_read: what a folder of images holds beside them, by kind.
    unreadable: folders in it that cannot be listed, and why.
    """

    entries: list[Entry]
    images: Path
    format: str
    scenes: str
    listed_scenes: Mapping[str, str] = field(default_factory=dict)
    found: bool = False
    not_read: Counter[str] = field(default_factory=Counter)
    unreadable: Sequence[tuple[str, str]] = ()

    def check_folder(self) -> None:
        """Raises a SwanError if the folder of the images was found, and is a link that leads elsewhere."""
        if self.found and leads_out(self.images, self.images.parent):
            raise SwanError(
                f"{self.images}: is a link that leads out of its folder",
                f"if it is the right one, give it: --images {self.images.resolve()}",
            )


def read_source(
    path: str | PathLike[str],
    format: str | None = None,
    images: str | PathLike[str] | None = None,
    scene_from: str | None = None,
) -> Source:
    """Reads a source's entries, in its order.

    Args:
        path: a JSON file, a table, or the folder that holds the lists or the images.
        format: one of `FORMATS`; None detects it.
        images: folder of the images; None looks next to the source.
        scene_from: as the rule of `found_scenes`; None keeps the scenes of a source that names any.

    Raises:
        SwanError: the source does not exist, has no known format or several, or contains a wrong value;
            names the file and the place in it.
    """
    path, images = Path(path), Path(images) if images else None
    if not path.exists():
        raise SwanError(f"{path}: no such source", "give a file or a folder that exists: --source PATH")
    listing, kind = _find_listing(path, format)
    if kind == "folder":
        return _read_folder(images or listing.resolve(), scene_from)
    if kind == "json":
        entries, kind = read_json_entries(listing, format)
    else:
        readers = {"precomp": read_precomp, "ucm": read_ucm, "table": read_table}
        entries = readers[kind](listing)
    if not entries:
        raise SwanError(f"{path}: lists no images", f"looked for {LISTS_NEEDED}")
    listed = {entry.filename: entry.scene for entry in entries if entry.scene}
    scenes = "as the source names them"
    if scene_from or not listed:
        entries, scenes = _with_scenes(entries, scene_from)
    if images:
        return Source(entries, images, kind, scenes, listed)
    home = listing.resolve() if listing.is_dir() else listing.resolve().parent
    is_json = kind in ("karpathy", "nwpu")
    name = (listing.stem.removeprefix("dataset").lstrip("_") if is_json else "") or home.name
    images = _find_images(home, name.removesuffix("_precomp"))
    return Source(entries, images, kind, scenes, listed, found=True)


def _with_scenes(entries: list[Entry], rule: str | None) -> tuple[list[Entry], str]:
    """The entries with scenes from their folders or names, and where they are from, for the user."""
    given = found_scenes([entry.filename for entry in entries], rule)
    return [replace(one, scene=scene) for one, scene in zip(entries, given.scene, strict=True)], given.taken


# ---------------------------------------------------------------------------------------------------------
# which files make up a source


def _find_listing(path: Path, format: str | None) -> tuple[Path, str]:
    """The file or folder to read and its kind: "json", or a format other than the two that are JSON."""
    wanted = "json" if format in ("karpathy", "nwpu") else format
    if path.is_file():
        found = [(path, kind) for kind in _kinds_of_file(path)]
    elif wanted == "folder":
        found = [(path, "folder")]
    else:
        found = list(_listings(path))
        if not found and has_images(path):
            found = [(path, "folder")]
    fitting = [(listing, kind) for listing, kind in found if wanted in (None, kind)]
    if not fitting:
        problem = f"{path}: not a source of format {format}" if format else f"{path}: not a known source"
        held = not_read_text(list_folder(path).not_read) if path.is_dir() else ""
        raise SwanError(problem + (f"; in it: {held}" if held else ""), f"looked for {LISTS_NEEDED}")
    if len(fitting) > 1 and not _json_and_its_lists(fitting):
        shown = {"json": "karpathy or nwpu"}
        names = ", ".join(f"{listing.name} ({shown.get(kind, kind)})" for listing, kind in fitting)
        problem = f"{path}: several sources fit: {names}"
        raise SwanError(problem, f"give the file itself, --source FILE, or add --format {'|'.join(FORMATS)}")
    return fitting[0]


def _json_and_its_lists(found: list[tuple[Path, str]]) -> bool:
    """Whether these are a JSON file and text lists of the same images, as UCM-Captions is distributed."""
    if [kind for _, kind in found] != ["json", "ucm"]:
        return False
    (file, _), (folder, _) = found
    return ucm_filenames(folder) <= {entry.filename for entry in read_json_entries(file, None)[0]}


def _kinds_of_file(path: Path) -> list[str]:
    suffix = path.suffix.lower()
    return ["json"] if suffix == ".json" else ["table"] if suffix in TABLES else []


def _listings(folder: Path) -> Iterator[tuple[Path, str]]:
    """The lists in a folder that may be sources."""
    # Hidden files, such as ._list.json beside list.json from a Mac, are none.
    files = sorted(file for file in folder.iterdir() if not file.name.startswith("."))
    documents = [file for file in files if file.suffix == ".json"]
    named = [file for file in documents if file.name.startswith("dataset")]
    yield from ((file, "json") for file in named or documents)
    if any(file.name.endswith(("_caps.txt", "_caps_verify.txt")) for file in files):
        yield folder, "precomp"
    if find_descriptions(folder):
        yield folder.parent if folder.name == "filenames" else folder, "ucm"
    yield from ((file, "table") for file in files if file.suffix.lower() in TABLES)


def _find_images(home: Path, name: str) -> Path:
    own = [place / f"{spelled}_images" for place in (home, home.parent) for spelled in (name, name.upper())]
    known = [home / "images", home / "imgs", home / "Images", *own]
    return next((folder for folder in known if folder.is_dir()), home)


# ---------------------------------------------------------------------------------------------------------
# images without a list


def _read_folder(folder: Path, scene_from: str | None) -> Source:
    """Every image below a folder, in natural order."""
    if not folder.is_dir():
        raise SwanError(f"{folder}: no such folder of images")
    listing = list_folder(folder)
    not_read = listing.not_read + Counter({TAR: len(listing.tars)})
    if not len(listing.names):
        held = not_read_text(not_read)
        problem = f"{folder}: no images in it{f'; not read: {held}' if held else ''}"
        raise SwanError(problem, f"looked for {', '.join(SUFFIXES)}")
    entries, scenes = _with_scenes([Entry(name) for name in listing.names], scene_from)
    return Source(entries, folder, "folder", scenes, not_read=not_read, unreadable=listing.unreadable)
