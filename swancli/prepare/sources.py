"""The start of the way: any source of images and captions, as a list of entries in the source's order.

    swan prepare --dataset NAME --source SOURCE [--format FORMAT] [--images DIR]

A source is one of `FORMATS`. Reading it touches no image, so that the captions of a source are there to count
without them.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from swancli.errors import SwanError
from swancli.images import SUFFIXES

FORMATS = ("karpathy", "precomp", "ucm", "nwpu", "table", "folder")
SPLIT_NAMES = {
    "train": "train",
    "restval": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
}
TABLES = {".csv": ",", ".tsv": "\t", ".parquet": None, ".pq": None}
LISTS_NEEDED = (
    "a .json list (karpathy, nwpu), a .csv, .tsv or .parquet table (table), or a folder with one of those, "
    "with train_caps.txt and train_filename.txt (precomp), "
    "with descriptions_*.txt and filenames_train.txt (ucm) or with images (folder)"
)
LETTERS_THEN_DIGITS = re.compile(r"([^\W\d_]+(?:[_-][^\W\d_]+)*)[_-]?\d+")


@dataclass(frozen=True)
class Entry:
    """One image of a source. filename: relative to the source's images, with `/`."""

    filename: str
    captions: tuple[str, ...] = ()
    split: str | None = None
    scene: str | None = None


@dataclass(frozen=True)
class Source:
    """What a source lists. images: the folder that file names are relative to; it need not exist."""

    entries: list[Entry]
    images: Path
    format: str

    def image_path(self, entry: Entry) -> Path:
        """Where an entry's image is: under its name, or in a folder named like its scene."""
        path = self.images / entry.filename
        if entry.scene and not path.is_file():
            in_scene = self.images / entry.scene / entry.filename
            return in_scene if in_scene.is_file() else path
        return path


def read_source(path: Path, format: str | None = None, images: Path | None = None) -> Source:
    """Reads a source's entries, in its order.

    Args:
        path: a JSON file, a table, or the folder that holds the lists or the images.
        format: one of `FORMATS`; None recognises it.
        images: folder of the images; None looks beside the source.

    Raises:
        SwanError: nothing there, no known format or several, or something in the source is wrong; names the
            file and the place in it.
    """
    if not path.exists():
        raise SwanError(f"{path}: no such source", "give a file or a folder that exists: --source PATH")
    listing, kind = _find_listing(path, format)
    if kind == "json":
        entries, found = _read_json_entries(listing, format)
    else:
        readers = {"precomp": _read_precomp, "ucm": _read_ucm, "table": _read_table, "folder": _read_folder}
        entries, found = readers[kind](images or listing if kind == "folder" else listing), kind
    if not entries:
        raise SwanError(f"{path}: lists no images", f"looked for {LISTS_NEEDED}")
    entries = [_with_scene(entry) for entry in entries]
    home = listing.resolve() if listing.is_dir() else listing.resolve().parent
    name = (listing.stem.removeprefix("dataset").lstrip("_") if kind == "json" else "") or home.name
    default = home if kind == "folder" else _find_images(home, name.removesuffix("_precomp"))
    return Source(entries, images or default, found)


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
    if len(fitting) > 1:
        names = ", ".join(f"{listing.name} ({kind})" for listing, kind in fitting)
        problem = f"{path}: several sources fit: {names}"
        raise SwanError(problem, f"give the file itself, --source FILE, or say --format {'|'.join(FORMATS)}")
    return fitting[0]


def _kinds_of_file(path: Path) -> list[str]:
    suffix = path.suffix.lower()
    return ["json"] if suffix == ".json" else ["table"] if suffix in TABLES else []


def _listings(folder: Path) -> Iterator[tuple[Path, str]]:
    """All that a folder may be a source by, but for its images."""
    documents = sorted(folder.glob("dataset*.json")) or sorted(folder.glob("*.json"))
    yield from ((file, "json") for file in documents)
    if any(folder.glob("*_caps.txt")) or any(folder.glob("*_caps_verify.txt")):
        yield folder, "precomp"
    if _descriptions(folder):
        yield folder.parent if folder.name == "filenames" else folder, "ucm"
    yield from ((file, "table") for file in sorted(folder.iterdir()) if file.suffix.lower() in TABLES)


def _descriptions(folder: Path) -> list[Path]:
    return sorted(folder.glob("descriptions_*.txt")) or sorted(folder.glob("filenames/descriptions_*.txt"))


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
# one value of a source, checked; `place` names the file and the row or key


def _check_text(value: Any, place: str) -> str:
    if not isinstance(value, str):
        raise SwanError(f"{place} is not text but {type(value).__name__}", "make it text")
    value = value.strip()
    if not value:
        raise SwanError(f"{place} is empty", "fill it in, or take the row out")
    if "\0" in value or any("\ud800" <= letter <= "\udfff" for letter in value):
        raise SwanError(f"{place} holds characters that are no text: {value!r}", "take them out")
    return value


def _check_filename(value: Any, place: str) -> str:
    name = _check_text(value, place).replace("\\", "/")
    path = PurePosixPath(name)
    if path.is_absolute() or PureWindowsPath(name).drive or ".." in path.parts:
        raise SwanError(
            f"{place} leads out of the folder of images: {name}", "make it relative, without '..'"
        )
    return str(path)


def _check_optional(value: Any, place: str) -> str | None:
    return None if value is None or value == "" or value != value else _check_text(value, place)


def _check_split(value: Any, place: str) -> str | None:
    name = _check_optional(value, place)
    if name is not None and name.lower() not in SPLIT_NAMES:
        raise SwanError(f"{place} is {name!r}, no known split", "one of " + ", ".join(SPLIT_NAMES))
    return name and SPLIT_NAMES[name.lower()]


def _with_scene(entry: Entry) -> Entry:
    """An entry without a scene gets the letters before the number in its file name, if that is its form."""
    match = None if entry.scene else LETTERS_THEN_DIGITS.fullmatch(PurePosixPath(entry.filename).stem)
    return replace(entry, scene=match.group(1)) if match else entry


def _check_distinct(places: Iterable[tuple[str, str]]) -> None:
    """Takes (file name, place) pairs."""
    seen: dict[str, str] = {}
    for filename, place in places:
        if filename in seen:
            raise SwanError(
                f"{place}: {filename} is listed twice, first at {seen[filename]}", "keep one of them"
            )
        seen[filename] = place


def _read_text(path: Path) -> str:
    try:
        data = path.read_bytes()
        if b"\0" in data:
            raise SwanError(f"{path}: holds NUL bytes, so it is not UTF-8 text", "save it as UTF-8")
        return data.decode("utf-8-sig")
    except OSError as error:
        raise SwanError(f"{path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise SwanError(f"{path}: line {line} is not UTF-8 text", "save it as UTF-8") from error


def _read_lines(path: Path) -> list[str]:
    lines = [line.strip() for line in _read_text(path).split("\n")]  # str.splitlines breaks at more than that
    return lines if lines[-1] else lines[:-1]


def _read_names(path: Path) -> list[tuple[str, str]]:
    """(file name, place) of each line that is not blank."""
    places = [(line, f"{path}: line {row}") for row, line in enumerate(_read_lines(path), start=1) if line]
    return [(_check_filename(line, place), place) for line, place in places]


# ---------------------------------------------------------------------------------------------------------
# JSON: karpathy, nwpu


def _read_json_entries(path: Path, format: str | None) -> tuple[list[Entry], str]:
    try:
        content = json.loads(_read_text(path))
    except json.JSONDecodeError as error:
        place = f"{path}: not valid JSON at line {error.lineno}, column {error.colno}"
        raise SwanError(f"{place} ({error.msg})", "is the download whole?") from error
    except RecursionError as error:
        raise SwanError(f"{path}: JSON nested too deeply for a list of images") from error
    is_classes = isinstance(content, dict) and content and all(isinstance(v, list) for v in content.values())
    found = format or ("nwpu" if is_classes and "images" not in content else "karpathy")
    if found == "nwpu" and not is_classes:
        raise SwanError(f"{path}: not NWPU's layout", "it is an object of scene: list of images")
    reader = _read_nwpu if found == "nwpu" else _read_karpathy
    return reader(path, content), found


def _read_karpathy(path: Path, content: Any) -> list[Entry]:
    images = content.get("images") if isinstance(content, dict) else None
    if not isinstance(images, list):
        raise SwanError(
            f"{path}: no list under the key 'images'",
            "needed are images[].filename, .split and .sentences[].raw, or NWPU's scene: list of images",
        )
    entries = []
    for row, image in enumerate(images):
        place = f"{path}: images[{row}]"
        filename = _read_filename(image, place)
        captions = []
        for index, sentence in enumerate(_require(image, "sentences", place, list)):
            raw = _require(sentence, "raw", f"{place}.sentences[{index}]")
            captions.append(_check_caption(raw, f"{place}.sentences[{index}].raw", filename))
        split = _check_split(image.get("split"), f"{place}.split")
        entries.append(
            Entry(filename, tuple(captions), split, _check_optional(image.get("scene"), f"{place}.scene"))
        )
    _check_distinct((entry.filename, f"{path}: images[{row}]") for row, entry in enumerate(entries))
    return entries


def _require(value: Any, key: str, place: str, kind: type | None = None) -> Any:
    if not isinstance(value, dict):
        raise SwanError(f"{place} is not an object but {type(value).__name__}", f"it needs the key {key!r}")
    if key not in value:
        raise SwanError(f"{place} has no key {key!r}", f"it has {', '.join(value) or 'none'}")
    if kind and not isinstance(value[key], kind):
        raise SwanError(f"{place}.{key} is not a {kind.__name__} but {type(value[key]).__name__}")
    return value[key]


def _read_filename(image: Any, place: str) -> str:
    filename = _check_filename(_require(image, "filename", place), f"{place}.filename")
    folder = _check_optional(image.get("filepath"), f"{place}.filepath")
    if folder is None:
        return filename
    folder = _check_filename(folder, f"{place}.filepath")
    return folder if PurePosixPath(folder).name == filename else str(PurePosixPath(folder, filename))


def _check_caption(value: Any, place: str, filename: str) -> str:
    if isinstance(value, str) and not value.strip():
        raise SwanError(f"{place} is empty (filename {filename})", "write the caption, or take it out")
    return _check_text(value, place)


def _read_nwpu(path: Path, content: dict[str, list[Any]]) -> list[Entry]:
    entries, places = [], []
    for scene, images in content.items():
        for row, image in enumerate(images):
            place = f"{path}: {scene}[{row}]"
            filename = _check_filename(_require(image, "filename", place), f"{place}.filename")
            _require(image, "raw", place)
            keys = ["raw", *sorted((key for key in image if key.startswith("raw_")), key=_natural)]
            captions = tuple(_check_caption(image[key], f"{place}.{key}", filename) for key in keys)
            split = _check_split(image.get("split"), f"{place}.split")
            entries.append(Entry(filename, captions, split, _check_text(scene, f"{path}: scene name")))
            places.append((filename, place))
    _check_distinct(places)
    return entries


# ---------------------------------------------------------------------------------------------------------
# text lists: precomp, ucm


def _read_precomp(folder: Path) -> list[Entry]:
    plain = [name for name in ("train", "val", "dev", "test") if (folder / f"{name}_caps.txt").is_file()]
    verify = [name for name in ("train", "val") if (folder / f"{name}_filename_verify.txt").is_file()]
    if "train" in plain:
        assigned = _read_verify(folder, verify)
        parts = [(name, "") for name in plain]
    else:
        # Only the verify lists divide the training images here, so they have the captions too.
        assigned = {}
        parts = [(name, "_verify") for name in verify] + [(name, "") for name in plain]
    entries, places = [], []
    for name, ending in parts:
        listed = _read_caption_list(folder, name, ending)
        entries += [Entry(*row, SPLIT_NAMES[name]) for row in listed]
        places += [(row[0], f"{folder / f'{name}_filename{ending}.txt'}") for row in listed]
    _check_distinct(places)
    return _assign_verify(folder, entries, assigned) if assigned else entries


def _read_verify(folder: Path, names: list[str]) -> dict[str, str]:
    """The split of each image that `train_filename.txt` lists."""
    assigned: dict[str, str] = {}
    for name in names:
        for filename, place in _read_names(folder / f"{name}_filename_verify.txt"):
            if assigned.setdefault(filename, name) != name:
                raise SwanError(f"{place}: {filename} is in train too", "keep it in one of the lists")
    return assigned


def _assign_verify(folder: Path, entries: list[Entry], assigned: dict[str, str]) -> list[Entry]:
    odd = sorted({entry.filename for entry in entries if entry.split == "train"} ^ assigned.keys())
    if odd:
        raise SwanError(
            f"{folder}: {len(odd)} images are not in both train_filename.txt and a *_filename_verify.txt, "
            f"first {odd[0]}",
            "mend the verify lists, or take them out to keep train whole",
        )
    return [
        replace(entry, split=assigned[entry.filename]) if entry.split == "train" else entry
        for entry in entries
    ]


def _read_caption_list(folder: Path, name: str, ending: str) -> list[tuple[str, tuple[str, ...]]]:
    """(file name, captions) of each image, from a caption list and its list of file names."""
    caption_file = folder / f"{name}_caps{ending}.txt"
    name_file = folder / f"{name}_filename{ending}.txt"
    for file, other in ((name_file, caption_file), (caption_file, name_file)):
        if not file.is_file():
            raise SwanError(f"{file}: no such file, but {other.name} is there", "a precomp list needs both")
    captions, names = _read_lines(caption_file), _read_names(name_file)
    if not names or len(captions) % len(names):
        raise SwanError(
            f"{caption_file} has {len(captions)} captions, no multiple of {len(names)}, "
            f"the number of file names in {name_file}",
            "one caption a line, in the order of the file names, the same number for each image",
        )
    each = len(captions) // len(names)
    if each > 1:
        _check_distinct(names)
    lines: dict[str, list[int]] = {}
    for line in range(len(captions)):
        lines.setdefault(names[line // each][0], []).append(line)
    return [
        (filename, _captions_of_lines(captions, own, caption_file, filename))
        for filename, own in lines.items()
    ]


def _captions_of_lines(captions: list[str], lines: list[int], file: Path, filename: str) -> tuple[str, ...]:
    """The captions on some lines, counted from 0.

    RSITMD as published has four training images with nothing but blank lines: images without captions.
    """
    if not any(captions[line] for line in lines):
        return ()
    return tuple(_check_caption(captions[line], f"{file}: line {line + 1}", filename) for line in lines)


def _read_ucm(folder: Path) -> list[Entry]:
    descriptions = _descriptions(folder)
    if len(descriptions) > 1:
        names = ", ".join(file.name for file in descriptions)
        raise SwanError(f"{folder}: several lists of captions: {names}", "keep one of them there")
    filenames = _read_ucm_names(descriptions[0].parent)
    captions: dict[int, list[str]] = {}
    for row, line in enumerate(_read_lines(descriptions[0]), start=1):
        if not line:
            continue
        place = f"{descriptions[0]}: line {row}"
        number, _, text = line.partition(" ")
        if not number.isdecimal():
            raise SwanError(
                f"{place} does not start with an image number: {line!r}", "<image number> <caption>"
            )
        if int(number) not in filenames:
            raise SwanError(
                f"{place}: image {number} is in no filenames_*.txt", "add it to one, or take it out"
            )
        filename = filenames[int(number)][0]
        captions.setdefault(int(number), []).append(_check_caption(text, f"{place}: the caption", filename))
    without = [filename for number, (filename, _) in filenames.items() if number not in captions]
    if without:
        raise SwanError(f"{descriptions[0]}: no caption for {len(without)} listed images, first {without[0]}")
    return [
        Entry(filenames[number][0], tuple(texts), filenames[number][1]) for number, texts in captions.items()
    ]


def _read_ucm_names(folder: Path) -> dict[int, tuple[str, str]]:
    """The file name and split of each image number."""
    files = [(name, folder / f"filenames_{name}.txt") for name in SPLIT_NAMES]
    names = [(*row, SPLIT_NAMES[name]) for name, file in files if file.is_file() for row in _read_names(file)]
    if not names:
        raise SwanError(
            f"{folder}: no file names in filenames_train.txt and so on", "they are listed one a line"
        )
    filenames: dict[int, tuple[str, str]] = {}
    for filename, place, split in names:
        stem = PurePosixPath(filename).stem
        if not stem.isdecimal():
            raise SwanError(f"{place}: {filename} is not <image number>.<suffix>")
        if int(stem) in filenames:
            raise SwanError(f"{place}: image {stem} is listed twice", "keep one of them")
        filenames[int(stem)] = (filename, split)
    return filenames


# ---------------------------------------------------------------------------------------------------------
# table, folder


def _read_table(path: Path) -> list[Entry]:
    rows = _read_rows(path)
    entries: dict[str, Entry] = {}
    for row, (filename, caption, split, scene) in rows:
        place = f"{path}: row {row}"
        filename = _check_filename(filename, f"{place}: filename")
        entry = Entry(
            filename,
            (_check_caption("" if caption is None else caption, f"{place}: caption", filename),),
            _check_split(split, f"{place}: split"),
            _check_optional(scene, f"{place}: scene"),
        )
        entries[filename] = _join(entries[filename], entry, place) if filename in entries else entry
    return list(entries.values())


def _join(entry: Entry, later: Entry, place: str) -> Entry:
    for name in ("split", "scene"):
        first, second = getattr(entry, name), getattr(later, name)
        if first and second and first != second:
            raise SwanError(f"{place}: {name} of {entry.filename} is {second}, but {first} in a row before")
    return Entry(
        entry.filename,
        entry.captions + later.captions,
        entry.split or later.split,
        entry.scene or later.scene,
    )


def _read_rows(path: Path) -> list[tuple[int, list[Any]]]:
    """Number of each row, the header being row 1, with filename, caption, split and scene or None."""
    import pandas

    separator = TABLES[path.suffix.lower()]
    frame = _read_parquet(path) if separator is None else _read_csv(path, separator)
    frame.columns = [str(name).strip().lower() for name in frame.columns]
    lacking = [name for name in ("filename", "caption") if name not in frame.columns]
    if lacking:
        there = ", ".join(frame.columns)
        raise SwanError(f"{path}: no column {' and no column '.join(lacking)} (it has {there})", "name it so")
    repeated = frame.columns[frame.columns.duplicated()]
    if len(repeated):
        raise SwanError(f"{path}: two columns are named {repeated[0]}", "keep one of them")
    columns = [
        frame[name] if name in frame.columns else pandas.Series([None] * len(frame))
        for name in ("filename", "caption", "split", "scene")
    ]
    rows = [
        [None if pandas.api.types.is_scalar(value) and pandas.isna(value) else value for value in values]
        for values in zip(*columns, strict=True)
    ]
    return [
        (number, row)
        for number, row in enumerate(rows, start=2)
        if any(value not in (None, "") for value in row)
    ]


def _read_csv(path: Path, separator: str) -> Any:
    import pandas

    try:
        text = io.StringIO(_read_text(path))
        # Blank lines are kept here and passed over later, so that row numbers are those of the file.
        frame = pandas.read_csv(text, sep=separator, dtype=object, na_filter=False, skip_blank_lines=False)
    except (pandas.errors.ParserError, pandas.errors.EmptyDataError) as error:
        raise SwanError(
            f"{path}: not a readable table ({error})", "put captions with commas in quotes"
        ) from error
    if not isinstance(frame.index, pandas.RangeIndex):
        raise SwanError(
            f"{path}: rows have more values than the header", "put captions with commas in quotes"
        )
    return frame


def _read_parquet(path: Path) -> Any:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise SwanError(
            f"{path}: Parquet needs pyarrow", "install the extra: pip install 'swancli[parquet]'"
        ) from error
    try:
        return pyarrow.parquet.read_table(path).to_pandas().reset_index(drop=True)
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise SwanError(f"{path}: not a readable Parquet file ({error})", "is the download whole?") from error


def _read_folder(folder: Path) -> list[Entry]:
    """Every image below a folder, in natural order: 2.jpg before 10.jpg."""
    if not folder.is_dir():
        raise SwanError(f"{folder}: no such folder of images")
    names = sorted((path.relative_to(folder).as_posix() for path in _image_files(folder)), key=_natural)
    return [Entry(_check_filename(name, f"{folder}: file name")) for name in names]


def _natural(name: str) -> tuple[list[tuple[str, int]], str]:
    """A key to sort names by, numbers in them by value."""
    parts = re.findall(r"(\D*)(\d*)", name)
    return [(letters, int(digits or -1)) for letters, digits in parts], name
