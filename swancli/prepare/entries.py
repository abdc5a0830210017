"""Entries of a source, and the checks of their values.

A check takes a value and its `place`, the file and the row or key that a `SwanError` names.
"""

from __future__ import annotations

import os
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
    value = _filled_in(value, place).strip()
    if not is_text(value):
        raise SwanError(f"{place} contains characters that are not text: {value!r}", "remove them")
    return value


def _filled_in(value: Any, place: str) -> str:
    if not isinstance(value, str):
        raise SwanError(f"{place} is not text but {type(value).__name__}", "make it text")
    if not value.strip():
        raise SwanError(f"{place} is empty", "fill it in, or remove the row")
    return value


def check_filename(value: Any, place: str) -> str:
    """A file name in a list that someone has written, as it is there.

    It may not lead out of the folder of images, by the rules of this system or, with backslashes, of Windows.
    """
    name = _filled_in(value, place)
    if "\0" in name or not _is_name(name):
        raise SwanError(f"{place} contains characters that are not text: {name!r}", "remove them")
    for path in (PurePosixPath(name.strip()), PureWindowsPath(name.strip())):
        if path.root or ".." in path.parts:
            problem = f"{place} leads out of the folder of images: {name}"
            raise SwanError(problem, "make it relative, without '..'")
    path = PurePosixPath(name)
    if not path.name:
        raise SwanError(f"{place} names a folder: {name}", "name the image file in it")
    if any(len(os.fsencode(part)) > LONGEST_NAME for part in path.parts):
        raise SwanError(f"{place} is too long for a file name: {name[:40]}...", "shorten it")
    return str(path)


def _is_name(name: str) -> bool:
    """Whether a file can have the name: surrogates stand for bytes that are not UTF-8."""
    try:
        name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False
    return True


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
