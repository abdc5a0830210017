"""Writing torch files, and reading them safely: nothing in a file can run code."""

from __future__ import annotations

import errno
import re
from os import PathLike
from pathlib import Path
from typing import Any
from zipfile import ZipFile, is_zipfile

import torch
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from swancli.errors import StoreError, outside_cause, system_number
from swancli.store.atomic import atomic_path


def write_torch_file(path: str | PathLike[str], content: Any) -> None:
    """Writes tensors and plain values, whole or not at all; the bytes do not depend on the name."""
    # A file that torch opened itself would carry its temporary name inside.
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        torch.save(content, file)


class Unread:
    """In place of an object whose class swan does not import, such as the options of a training script.

    It ignores the content of the object; the class or function that the file names is not imported or called.
    """

    def __new__(cls, *_: Any, **__: Any) -> Unread:
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def read_torch_file(path: str | PathLike[str], hint: str, *, in_part: bool = False) -> Any:
    """The content of a torch file, on the CPU: tensors and plain values; `Unread` for every other object.

    It is read by torch's restricted unpickler (`weights_only=True`).

    Args:
        path: the file.
        hint: of the error.
        in_part: read each tensor when it is used, if the format allows it: few of them are needed.

    Raises:
        SwanError: the system does not give the file.
        StoreError: the file is absent, damaged, or contains something that the unpickler refuses.
    """
    path = Path(path)
    if not path.is_file():
        raise StoreError(f"{path}: no such file", hint)
    try:
        _check_archive(path)
        with safe_globals([(Unread, name) for name in foreign_names(path)]):
            mapped = in_part and is_zipfile(path)
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:
        if in_part and not_mapped(error):
            return read_torch_file(path, hint)
        if found := outside_cause(error, path):
            raise found from error
        raise StoreError(f"{path}: cannot be loaded safely ({_reason(error)})", hint) from error


def not_mapped(error: Exception) -> bool:
    """Whether an error says that the file system maps no files into memory, as some shared ones."""
    return "unable to mmap" in str(error) and system_number(error) != errno.ENOMEM


def _check_archive(path: Path) -> None:
    """Raises a ValueError if a file unpacks to more than its size, which torch writes no file to do."""
    if not is_zipfile(path):  # the format before torch 1.6
        return
    with ZipFile(path) as archive:
        size = sum(part.file_size for part in archive.infolist())
    if size > path.stat().st_size:
        raise ValueError(f"its parts take {size / 1e6:.0f} MB, more than the file has")


def foreign_names(path: Path) -> list[str]:
    """The classes and functions that a file names, except those that torch knows as safe."""
    try:
        return get_unsafe_globals_in_checkpoint(path)
    except ValueError:  # the format before torch 1.6, whose names cannot be listed
        return ["argparse.Namespace"]


def _reason(error: Exception) -> str:
    """The error in a few words; torch's own text advises the user to load the file unsafely."""
    named = re.search(r"GLOBAL ([\w.]+)", str(error))
    if named:
        return f"it asks for {named[1]}"
    return "neither tensors nor plain values" if "weights_only" in str(error) else str(error).split("\n")[0]
