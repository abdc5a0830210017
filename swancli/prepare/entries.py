"""Entries of a source, and the checks of their values.

A check takes a value and its `place`, the file and the row or key that a `SwanError` names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

from swancli.errors import SwanError
from swancli.store.text import is_text

SPLIT_NAMES = {
    "train": "train",
    "restval": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
}
LONGEST_NAME = 255  # bytes, on the usual file systems


@dataclass(frozen=True)
class Entry:
    """One image of a source.

    filename: relative to the source's images, with `/`.
    captions: in the order of the source.
    split: None if the source gives none.
    scene: None if the source gives none.
    """

    filename: str
    captions: tuple[str, ...] = ()
    split: str | None = None
    scene: str | None = None


def check_text(value: Any, place: str) -> str:
    if not isinstance(value, str):
        raise SwanError(f"{place} is not text but {type(value).__name__}", "make it text")
    value = value.strip()
    if not value:
        raise SwanError(f"{place} is empty", "fill it in, or remove the row")
    if not is_text(value):
        raise SwanError(f"{place} contains characters that are not text: {value!r}", "remove them")
    return value


def check_filename(value: Any, place: str) -> str:
    name = check_text(value, place).replace("\\", "/")
    path = PurePosixPath(name)
    if path.is_absolute() or PureWindowsPath(name).drive or ".." in path.parts:
        raise SwanError(
            f"{place} leads out of the folder of images: {name}", "make it relative, without '..'"
        )
    if not path.name:
        raise SwanError(f"{place} names a folder: {name}", "name the image file in it")
    if any(len(part.encode()) > LONGEST_NAME for part in path.parts):
        raise SwanError(f"{place} is too long for a file name: {name[:40]}...", "shorten it")
    return str(path)


def check_optional(value: Any, place: str) -> str | None:
    return None if value is None or value == "" or value != value else check_text(value, place)


def check_split(value: Any, place: str) -> str | None:
    name = check_optional(value, place)
    if name is not None and name.lower() not in SPLIT_NAMES:
        raise SwanError(f"{place} is {name!r}, not a known split", "one of " + ", ".join(SPLIT_NAMES))
    return name and SPLIT_NAMES[name.lower()]


def check_caption(value: Any, place: str, filename: str) -> str:
    if isinstance(value, str) and not value.strip():
        raise SwanError(f"{place} is empty (filename {filename})", "write the caption, or remove it")
    return check_text(value, place)


def check_distinct(places: Iterable[tuple[str, str]]) -> None:
    """Raises when one of (file name, place) pairs repeats a file name."""
    seen: dict[str, str] = {}
    for filename, place in places:
        if filename in seen:
            raise SwanError(
                f"{place}: {filename} is listed twice, first at {seen[filename]}", "keep one of them"
            )
        seen[filename] = place


def distinct(entries: Iterable[tuple[Entry, str]]) -> list[Entry]:
    """The entries of (entry, place) pairs; raises when a file name is repeated."""
    pairs = list(entries)
    check_distinct((entry.filename, place) for entry, place in pairs)
    return [entry for entry, _ in pairs]


def natural_order(name: str) -> tuple[list[tuple[str, int, str]], str]:
    """A sort key for names that orders the numbers in them by value."""
    parts = re.findall(r"(\D*)(\d*)", name)
    # Numbers as text without leading zeros, by length first: Python cannot read 5,000 digits as one.
    bare = [(letters, digits.lstrip("0"), digits) for letters, digits in parts]
    return [(letters, len(number) if digits else -1, number) for letters, number, digits in bare], name
