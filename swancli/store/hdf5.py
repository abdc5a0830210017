"""What all HDF5 stores share: opened and created whole or not at all, and told when they are damaged.

    prepare -> dataset.h5 -> vocab -> vocab.h5 -> train -> best.pt -> embed -> embeddings.h5 -> eval, query

Every file carries the attributes `format`, `version`, `created_by` and `complete`. The layouts are a public
contract (README.md here); the modules here and those named at the kinds are their only writers and readers.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from os import PathLike
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from swancli.errors import StoreError, SwanError
from swancli.store.atomic import atomic_path
from swancli.store.unfailing_file import StoreFile, writing

VERSION = 1
CREATED_BY = f"swancli {version('swancli')}"
DATASET, VOCABULARY, EMBEDDINGS = "swan-dataset", "swan-vocab", "swan-embeddings"
FEATURES = "swan-features"  # see `features`
INDEX = "swan-index"  # see `query.index`
TILES = "swan-tiles"  # see `query.tiles`
PART = "swan-embeddings-part"  # a piece of embeddings, see `embed.archive`
MADE_BY = {
    DATASET: "swan prepare",
    VOCABULARY: "swan vocab",
    EMBEDDINGS: "swan embed",
    FEATURES: "swan prepare --features",
    INDEX: "swan embed --index",
    TILES: "swan embed --scene-image",
    PART: "swan embed",
}
TEXT = h5py.string_dtype(encoding="utf-8")
# What h5py and numpy raise where a file holds something else than it should, or where its bytes are damaged.
DAMAGE = (KeyError, IndexError, ValueError, TypeError, AttributeError, OSError, RuntimeError, MemoryError)


@contextmanager
def create_store(path: str | PathLike[str], kind: str) -> Iterator[StoreFile]:
    """A new HDF5 file of a kind (a key of `MADE_BY`), complete when the body ends.

    Raises:
        SwanError: the disk is full; or what stands there is a folder, or a store of another kind.
    """
    refuse_other_kind(Path(path), kind)
    with atomic_path(path) as temporary, writing(temporary) as file:
        file.attrs.update(format=kind, version=VERSION, created_by=CREATED_BY)
        yield file
        file.attrs["complete"] = True


def refuse_other_kind(path: Path, kind: str) -> None:
    """Refuses a place to write where a store of another kind stands; a damaged one may be replaced."""
    found = None
    if path.is_file():
        with suppress(*DAMAGE), h5py.File(path, "r") as file:
            found = text_attribute(file, "format")
    if found in MADE_BY and found != kind:
        raise SwanError(f"{path}: holds a {found} file, of `{MADE_BY[found]}`", "give another --output")


def open_store(path: str | PathLike[str], kind: str) -> h5py.File:
    """Opens a store for reading.

    Raises:
        StoreError: the file is absent, not HDF5, of another format or version, not complete, or part of it
            lies in another file: a stranger's could show any file of this machine as pictures.
    """
    path, again = Path(path), f"make it with `{MADE_BY[kind]}`"
    if not path.is_file():
        raise StoreError(f"{path}: no such file", again)
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise StoreError(f"{path}: not a readable HDF5 file ({error})", again) from error
    try:
        with damage_named(path, kind):
            found, stored, complete = (_single(file, name) for name in ("format", "version", "complete"))
        if found != kind:
            raise StoreError(
                f"{path}: a {kind} file is needed, its format attribute says {found or 'nothing'}", again
            )
        if stored != VERSION:
            raise StoreError(f"{path}: version {stored} of {kind}; this swan reads version {VERSION}", again)
        if not complete:
            raise StoreError(f"{path}: not complete, the command that wrote it was interrupted", again)
        with damage_named(path, kind):
            elsewhere = _leading_elsewhere(file)
        if elsewhere:
            problem = f"{path}: its /{elsewhere} lies in another file, which no swan writes and none reads"
            raise StoreError(problem, again)
    except StoreError:
        file.close()
        raise
    return file


def _single(file: h5py.File, name: str) -> Any:
    """An attribute that is one value; None where there is none."""
    value = file.attrs.get(name)
    if getattr(value, "shape", ()) != ():
        raise ValueError(f"its attribute {name} has the shape {value.shape}")
    return _as_text(value) if isinstance(value, (bytes, str)) else value


@contextmanager
def damage_named(name: Path | str, kind: str) -> Iterator[None]:
    """Around reading what is in a store: where the file is damaged, the error names it.

    Raises:
        StoreError: something else is there than the layout says, or bytes cannot be read.
    """
    try:
        yield
    except DAMAGE as error:
        text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
        reason = text.partition("\n")[0]
        raise StoreError(f"{name}: damaged ({reason})", f"make it again: {MADE_BY[kind]}") from error


def _leading_elsewhere(file: h5py.File) -> str:
    """Name of a link or an array in a file whose content lies in another file; "" when there is none."""

    def check(name: bytes, link: h5py.h5l.LinkInfo) -> str | None:
        if link.type == h5py.h5l.TYPE_HARD:
            found = file[name]
            outside = isinstance(found, h5py.Dataset) and bool(found.is_virtual or found.external)
        else:
            outside = link.type != h5py.h5l.TYPE_SOFT
        return name.decode(errors="replace") if outside else None

    return file.id.links.visit(check, info=True) or ""


def _as_text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def text_attribute(file: h5py.File, name: str, default: str | None = None) -> str:
    """An attribute that is text.

    Raises:
        KeyError: it is not there, and has no default. TypeError: it is something else.
    """
    value = file.attrs[name] if default is None else file.attrs.get(name, default)
    if not isinstance(value, (str, bytes)):
        raise TypeError(f"its attribute {name} is no text")
    return _as_text(value)


def array_in(file: h5py.File, name: str, kinds: str, *shape: int | None) -> h5py.Dataset:
    """An array of a store, when it is as the layout says; none of it is read.

    Args:
        kinds: of numpy's types, as in `dtype.kind`: "iu" for whole numbers, "f" for fractions.
        shape: its size on each axis, None for any.

    Raises:
        KeyError: it is not there. TypeError, ValueError: its type or its shape is another.
    """
    if name not in file:
        raise KeyError(f"no /{name}")
    found = file[name]
    if not isinstance(found, h5py.Dataset):
        raise TypeError(f"/{name} is no array")
    fits = found.shape is not None and len(found.shape) == len(shape)
    if not fits or any(size not in (None, own) for size, own in zip(shape, found.shape, strict=True)):
        wanted = ", ".join("any" if size is None else str(size) for size in shape)
        raise ValueError(f"/{name} has the shape {found.shape}, not ({wanted})")
    if found.dtype.kind not in kinds:
        raise TypeError(f"/{name} holds {found.dtype}")
    return found


def texts_in(file: h5py.File, name: str, rows: int | None = None) -> np.ndarray:
    """object (n,) of str: a column of text; raises as `array_in` does, and UnicodeDecodeError."""
    return array_in(file, name, "OS", rows).asstr()[:]


def objects(values: Iterable[Any]) -> np.ndarray:
    """object (n,): a column of any values, such as texts, as h5py writes them."""
    values = list(values)
    column = np.empty(len(values), dtype=object)
    column[:] = values
    return column


def to_relative(path: str, folder: Path) -> str:
    """A path as it is stored in a file of a folder, so that both can move together; "" and addresses stay."""
    return os.path.relpath(path, folder) if path and "://" not in path else path


def from_relative(path: str, folder: Path) -> str:
    """The path that `to_relative` stored in a file of a folder; "" and addresses stay."""
    return os.path.normpath(folder / path) if path and "://" not in path else path
