"""Detects and reads a source: a list of entries in the source's order, and the folder of its images.

    swan prepare --dataset NAME --source SOURCE [--format FORMAT] [--images DIR]

Images are not read, so captions can be counted without them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path

from swancli.errors import SwanError
from swancli.images import SUFFIXES
from swancli.prepare.entries import Entry, check_filename, natural_order
from swancli.prepare.json_lists import read_json_entries
from swancli.prepare.scene_names import found_scenes, letters_before_number
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
    """

    entries: list[Entry]
    images: Path
    format: str
    scenes: str
    listed_scenes: Mapping[str, str]

    def image_path(self, entry: Entry) -> Path:
        """Path of an entry's image: its file name, or that name in a folder named after its scene."""
        path = self.images / entry.filename
        if not path.is_file():
            for scene in (self.listed_scenes.get(entry.filename), letters_before_number(entry.filename)):
                if scene and (in_scene := self.images / scene / entry.filename).is_file():
                    return in_scene
        return path


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
    if kind == "json":
        entries, found = read_json_entries(listing, format)
    else:
        readers = {"precomp": read_precomp, "ucm": read_ucm, "table": read_table, "folder": _read_folder}
        entries, found = readers[kind](images or listing if kind == "folder" else listing), kind
    if not entries:
        if kind == "folder":
            raise SwanError(f"{path}: no images in it", f"looked for {', '.join(SUFFIXES)}")
        raise SwanError(f"{path}: lists no images", f"looked for {LISTS_NEEDED}")
    listed = {entry.filename: entry.scene for entry in entries if entry.scene}
    scenes = "as the source names them"
    if scene_from or not listed:
        given = found_scenes([entry.filename for entry in entries], scene_from)
        scenes = given.taken
        entries = [replace(entry, scene=scene) for entry, scene in zip(entries, given.scene, strict=True)]
    home = listing.resolve() if listing.is_dir() else listing.resolve().parent
    name = (listing.stem.removeprefix("dataset").lstrip("_") if kind == "json" else "") or home.name
    default = home if kind == "folder" else _find_images(home, name.removesuffix("_precomp"))
    return Source(entries, images or default, found, scenes, listed)


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
        if not found and next(_image_files(path), None):
            found = [(path, "folder")]
    fitting = [(listing, kind) for listing, kind in found if wanted in (None, kind)]
    if not fitting:
        problem = f"{path}: not a source of format {format}" if format else f"{path}: not a known source"
        raise SwanError(problem, f"looked for {LISTS_NEEDED}")
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
    documents = sorted(folder.glob("dataset*.json")) or sorted(folder.glob("*.json"))
    yield from ((file, "json") for file in documents)
    if any(folder.glob("*_caps.txt")) or any(folder.glob("*_caps_verify.txt")):
        yield folder, "precomp"
    if find_descriptions(folder):
        yield folder.parent if folder.name == "filenames" else folder, "ucm"
    yield from ((file, "table") for file in sorted(folder.iterdir()) if file.suffix.lower() in TABLES)


def _image_files(folder: Path) -> Iterator[Path]:
    return (
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()
    )


def _find_images(home: Path, name: str) -> Path:
    own = [place / f"{spelled}_images" for place in (home, home.parent) for spelled in (name, name.upper())]
    known = [home / "images", home / "imgs", home / "Images", *own]
    return next((folder for folder in known if folder.is_dir()), home)


# ---------------------------------------------------------------------------------------------------------
# images without a list


def _read_folder(folder: Path) -> list[Entry]:
    """Every image below a folder, in natural order: 2.jpg before 10.jpg."""
    if not folder.is_dir():
        raise SwanError(f"{folder}: no such folder of images")
    names = sorted((path.relative_to(folder).as_posix() for path in _image_files(folder)), key=natural_order)
    return [Entry(check_filename(name, f"{folder}: file name")) for name in names]
