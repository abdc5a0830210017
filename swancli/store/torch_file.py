"""Writing files with `torch.save`, and reading them, from whomever they come: nothing in them can execute."""

from __future__ import annotations

import re
from os import PathLike
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import torch
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from swancli.errors import StoreError
from swancli.store.atomic import atomic_path


def write_torch_file(path: str | PathLike[str], content: Any) -> None:
    """Writes tensors and plain values, whole or not at all; the bytes do not depend on the name."""
    # A file that torch opened itself would carry its temporary name inside.
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        torch.save(content, file)


class Unread:
    """Stands for an object of a class that is not ours to import, such as the options of a training script.

    It swallows whatever the file would build the object from; nothing of the named class or function is
    imported or called.
    """

    def __new__(cls, *_: Any, **__: Any) -> Unread:
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def read_torch_file(path: str | PathLike[str], hint: str, *, in_part: bool = False) -> Any:
    """The content of a torch file, on the CPU: tensors and plain values; `Unread` for every other object.

    torch's own restricted unpickler reads it (`weights_only=True`).

    Args:
        in_part: few of its tensors are wanted; each is read when it is used, where the format allows it.

    Raises:
        StoreError: the file is absent, damaged, or holds more than that unpickler takes; with `hint`.
    """
    path = Path(path)
    if not path.is_file():
        raise StoreError(f"{path}: no such file", hint)
    try:
        with safe_globals([(Unread, name) for name in foreign_names(path)]):
            mapped = in_part and is_zipfile(path)
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:
        raise StoreError(f"{path}: cannot be loaded safely ({_reason(error)})", hint) from error


def foreign_names(path: Path) -> list[str]:
    """The classes and functions that a file names beyond what torch knows as safe."""
    try:
        return get_unsafe_globals_in_checkpoint(path)
    except ValueError:  # the format before torch 1.6, which cannot be listed
        return ["argparse.Namespace"]


def _reason(error: Exception) -> str:
    """In a few words; torch's own text would tell the user to load the file unsafely."""
    named = re.search(r"GLOBAL ([\w.]+)", str(error))
    if named:
        return f"it asks for {named[1]}"
    return "neither tensors nor plain values" if "weights_only" in str(error) else str(error).split("\n")[0]
