"""JSON files as sources, formats `karpathy` and `nwpu`.

    karpathy   {"images": [{"filename", "split", "sentences": [{"raw"}]}]}
    nwpu       {scene: [{"filename", "split", "raw", "raw_1", ...}]}

Errors name the key.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from swancli.errors import SwanError
from swancli.prepare.entries import (
    Entry,
    check_caption,
    check_filename,
    check_optional,
    check_split,
    check_text,
    distinct,
)
from swancli.prepare.listing import natural_order
from swancli.store.text import read_json


def read_json_entries(path: Path, format: str | None) -> tuple[list[Entry], str]:
    """The entries and their format; `format` None detects it."""
    content = read_json(path, "is the download whole?")
    is_classes = isinstance(content, dict) and content and all(isinstance(v, list) for v in content.values())
    found = format or ("nwpu" if is_classes and "images" not in content else "karpathy")
    if found == "nwpu" and not is_classes:
        raise SwanError(f"{path}: not NWPU's layout", "write an object of scene: list of images")
    reader = _read_nwpu if found == "nwpu" else _read_karpathy
    return distinct(reader(path, content)), found


def _read_karpathy(path: Path, content: Any) -> Iterator[tuple[Entry, str]]:
    """Each entry with its place."""
    images = content.get("images") if isinstance(content, dict) else None
    if not isinstance(images, list):
        raise SwanError(
            f"{path}: no list under the key 'images'",
            "needed are images[].filename, .split and .sentences[].raw, or NWPU's scene: list of images",
        )
    for row, image in enumerate(images):
        place = f"{path}: images[{row}]"
        yield _read_image(image, place), place


def _read_image(image: Any, place: str) -> Entry:
    filename = _read_filename(image, place)
    captions = []
    for index, sentence in enumerate(_require(image, "sentences", place, list)):
        raw = _require(sentence, "raw", f"{place}.sentences[{index}]")
        captions.append(check_caption(raw, f"{place}.sentences[{index}].raw", filename))
    split = check_split(image.get("split"), f"{place}.split")
    return Entry(filename, tuple(captions), split, check_optional(image.get("scene"), f"{place}.scene"))


def _require(value: Any, key: str, place: str, kind: type | None = None) -> Any:
    if not isinstance(value, dict):
        raise SwanError(f"{place} is not an object but {type(value).__name__}", f"it needs the key {key!r}")
    if key not in value:
        raise SwanError(f"{place} has no key {key!r}", f"it has {', '.join(value) or 'none'}")
    if kind and not isinstance(value[key], kind):
        raise SwanError(f"{place}.{key} is not a {kind.__name__} but {type(value[key]).__name__}")
    return value[key]


def _read_filename(image: Any, place: str) -> str:
    filename = check_filename(_require(image, "filename", place), f"{place}.filename")
    folder = check_optional(image.get("filepath"), f"{place}.filepath")
    if folder is None:
        return filename
    folder = check_filename(folder, f"{place}.filepath")
    return folder if PurePosixPath(folder).name == filename else str(PurePosixPath(folder, filename))


def _read_nwpu(path: Path, content: dict[str, list[Any]]) -> Iterator[tuple[Entry, str]]:
    """Each entry with its place."""
    for scene, images in content.items():
        for row, image in enumerate(images):
            place = f"{path}: {scene}[{row}]"
            filename = check_filename(_require(image, "filename", place), f"{place}.filename")
            _require(image, "raw", place)
            keys = ["raw", *sorted((key for key in image if key.startswith("raw_")), key=natural_order)]
            captions = tuple(check_caption(image[key], f"{place}.{key}", filename) for key in keys)
            split = check_split(image.get("split"), f"{place}.split")
            yield Entry(filename, captions, split, check_text(scene, f"{path}: scene name")), place
