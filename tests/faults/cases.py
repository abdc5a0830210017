"""What a case of bad or odd input is: told apart from others by its reader and its defect."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from swancli.errors import SwanError

Make = Callable[[Path], Path]  # writes an input below a folder, and returns the file or folder to give


@dataclass(frozen=True)
class Case:
    """An input, and what becomes of it.

    reader: which code reads it. defect: what is wrong with it, or odd. make: writes it. arguments: of the
    command that reads it, from its path, for an input that is refused. named: what the message names.
    check: reads an input that is odd but right, from its path, and asserts what comes of it.
    """

    reader: str
    defect: str
    make: Make
    arguments: Callable[[Path], Sequence[object]] | None = None
    named: tuple[str, ...] = ()
    check: Callable[[Path], None] | None = None

    def __str__(self) -> str:
        return f"{self.reader}: {self.defect}"


def refuses(read: Callable[[Path], Any], *named: str) -> Callable[[Path], None]:
    """A check that a reader, without its command, refuses an input in two lines that name it."""

    def check(path: Path) -> None:
        with pytest.raises(SwanError) as caught:
            read(path)
        assert str(caught.value).count("\n") <= 1
        for name in named:
            assert name in str(caught.value)

    return check


def content(name: str, value: Any) -> Make:
    """Writes a file of a name: bytes as they are, text as UTF-8, all else as JSON."""

    def make(folder: Path) -> Path:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        data = value if isinstance(value, (bytes, str)) else json.dumps(value)
        path.write_bytes(data if isinstance(data, bytes) else data.encode())
        return path

    return make


def contents(given: str, **files: Any) -> Make:
    """Writes several files, `train_caps` as train_caps.txt; `given` is the one to give, "" their folder."""

    def make(folder: Path) -> Path:
        for name, value in files.items():
            content(f"{name}.txt", value)(folder)
        return folder / given if given else folder

    return make
