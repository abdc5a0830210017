"""HDF5 files of swan: created whole or not at all, checked when they are opened, damage reported by name.

    prepare -> dataset.h5 -> vocab -> vocab.h5 -> train -> best.pt -> embed -> embeddings.h5 -> eval, query

Every file has the attributes `format`, `version`, `created_by` and `complete`. The layouts are a public
contract, see README.md in this folder. Each kind of file is read and written by one module only.
"""

from __future__ import annotations

import errno
import math
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from importlib.metadata import version
from os import PathLike
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from swancli.errors import StoreError, SwanError, foreign_hint, outside_cause, system_number, warn_once
from swancli.store.atomic import atomic_path
from swancli.store.lock import NO_LOCKS
from swancli.store.unfailing_file import StoreFile, writing

CREATED_BY = f"swancli {version('swancli')}"
DATASET, VOCABULARY, EMBEDDINGS = "swan-dataset", "swan-vocab", "swan-embeddings"
FEATURES = "swan-features"  # see `train.features`
INDEX = "swan-index"  # see `query.index`
TILES = "swan-tiles"  # see `scene_image.tiles`
PART = "swan-embeddings-part"  # a piece of embeddings, see `store.parts`
WRITTEN_BY = {
    DATASET: "swan prepare",
    VOCABULARY: "swan vocab",
    EMBEDDINGS: "swan embed",
    FEATURES: "swan prepare --features",
    INDEX: "swan embed --index",
    TILES: "swan embed --scene-image",
    PART: "swan embed",
}
# Of each layout; raised when a swan can no longer read the files of earlier ones.
VERSIONS = {DATASET: 3, VOCABULARY: 1, EMBEDDINGS: 4, FEATURES: 2, INDEX: 1, TILES: 4, PART: 2}
DEFLATE, MOST_UNPACKED = 1100, 2**30  # the most that its compression gains; bytes unpacked at once
UNKNOWN_SOURCE = "an unknown source"  # of a store of an older version, which does not say
TEXT = h5py.string_dtype(encoding="utf-8")
LOCKING = "unable to lock file"  # in the text of an error of HDF5
# What HDF5 says of values that were compressed by a plugin which it cannot find.
NO_FILTER = re.compile("can't open directory|required filter|filter .*not (registered|available)")
# What h5py and numpy raise if the content of a file is not what it should be, or if its bytes are damaged.
DAMAGE = (KeyError, IndexError, ValueError, TypeError, AttributeError, OSError, RuntimeError, MemoryError)


@contextmanager
def create_store(path: str | PathLike[str], kind: str) -> Iterator[StoreFile]:
    """A new HDF5 file, complete when the body ends.

    Args:
        path: where it is written.
        kind: its format, a key of `WRITTEN_BY`.

    Raises:
        SwanError: the disk is full, or the path is a folder or a store of another kind.
    """
    refuse_other_kind(Path(path), kind)
    with atomic_path(path) as temporary, writing(temporary) as file:
        file.attrs.update(format=kind, version=VERSIONS[kind], created_by=CREATED_BY)
        yield file
        file.attrs["complete"] = True


def refuse_other_kind(path: Path, kind: str) -> None:
    """Raises a SwanError if a store of another kind would be overwritten; a damaged one may be."""
    found = _kind_of(path) if path.is_file() else None
    if found in WRITTEN_BY and found != kind:
        raise SwanError(f"{path}: is a {found} file, made by `{WRITTEN_BY[found]}`", "give another --output")


def _kind_of(path: Path) -> str | None:
    """The format of a store, also of one that is open elsewhere; None if it is damaged or no store.

    Raises:
        SwanError: the system does not give the file.
    """
    try:
        with h5py.File(path, "r", locking=False) as file:
            return text_attribute(file, "format")
    except DAMAGE as error:
        if found := outside_cause(error, path):
            raise found from error
        return None


def _opened(path: Path, kind: str) -> h5py.File:
    """An HDF5 file opened for reading; without a lock if its file system has none.

    Raises:
        SwanError: the system does not give the file, or another program writes into it.
        StoreError: it is not HDF5.
    """
    try:
        try:
            return h5py.File(path, "r")
        except OSError as error:
            if not (LOCKING in str(error) and system_number(error) in NO_LOCKS):
                raise
            file = h5py.File(path, "r", locking=False)
            text = "its file system has no locks, so files are read although another program may change them"
            warn_once("locks of files", f"{path.parent}: {text}")
            return file
    except OSError as error:
        raise _not_opened_error(path, kind, error) from error


def _not_opened_error(path: Path, kind: str, error: OSError) -> SwanError:
    if LOCKING in str(error) and error.errno in (errno.EAGAIN, errno.EACCES):
        return SwanError(
            f"{path}: another program has it open for writing, such as a notebook",
            "close it there (of h5py: file.close()), then run it again",
        )
    if "h5clear" in str(error):
        return SwanError(
            f"{path}: another program has it open for writing, or had when it ended",
            f"close it there; if that program has ended: h5clear --status {path}",
        )
    if found := outside_cause(error, path, "locked" if LOCKING in str(error) else "read"):
        variable = foreign_hint("HDF5_USE_FILE_LOCKING") if LOCKING in str(error) else ""
        return SwanError(found.problem, variable or found.hint)
    return StoreError(f"{path}: not a readable HDF5 file ({error})", f"make it: {WRITTEN_BY[kind]}")


def open_store(path: str | PathLike[str], kind: str) -> h5py.File:
    """Opens a store for reading.

    Raises:
        SwanError: the system does not give the file, or another program writes into it.
        StoreError: the file is absent, not HDF5, of another format or version, not complete, or part of it
            is in another file: a file from a stranger could show any file of this machine as images.
    """
    path, again = Path(path), f"make it: {WRITTEN_BY[kind]}"
    if not path.is_file():
        raise StoreError(f"{path}: no such file", again)
    file = _opened(path, kind)
    with ExitStack() as undone:
        undone.callback(file.close)
        with damage_named(path, kind):
            elsewhere = _leading_elsewhere(file)
            found, stored, complete = (_single(file, name) for name in ("format", "version", "complete"))
        if found != kind:
            raise StoreError(
                f"{path}: a {kind} file is needed, its format attribute says {found or 'nothing'}", again
            )
        if stored != VERSIONS[kind]:
            raise StoreError(
                f"{path}: version {stored} of {kind}; this swan reads version {VERSIONS[kind]}",
                f"make it again: {WRITTEN_BY[kind]}",
            )
        if not complete:
            raise StoreError(f"{path}: not complete, the command that wrote it was interrupted", again)
        if elsewhere:
            raise StoreError(f"{path}: its /{elsewhere} is in another file, which swan does not read", again)
        undone.pop_all()
    return file


@contextmanager
def reading(path: str | PathLike[str], kind: str, *, stay_open: bool = False) -> Iterator[h5py.File]:
    """Opens a store as `open_store` does; if the body finds it damaged, the error names the file.

    Args:
        path: the file.
        kind: its format, a key of `WRITTEN_BY`.
        stay_open: close it only if the body raises an error.
    """
    with ExitStack() as opened:
        file = opened.enter_context(open_store(path, kind))
        with damage_named(path, kind):
            yield file
        if stay_open:
            opened.pop_all()


def _single(file: h5py.File, name: str) -> Any:
    """An attribute that is one value; None if it is absent."""
    value = file.attrs.get(name)
    if getattr(value, "shape", ()) != ():
        raise ValueError(f"its attribute {name} has the shape {value.shape}")
    return value


@contextmanager
def damage_named(name: str | PathLike[str], kind: str) -> Iterator[None]:
    """For the code that reads a store: if the file is damaged, the error names it.

    Args:
        name: of the file.
        kind: its format, a key of `WRITTEN_BY`.

    Raises:
        SwanError: the system does not give its bytes, or they need a filter that is not installed.
        StoreError: the content differs from the layout, or bytes are damaged.
    """
    try:
        yield
    except DAMAGE as error:
        text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
        reason = text.partition("\n")[0]
        if found := outside_cause(error, name):
            raise found from error
        if isinstance(error, OSError) and NO_FILTER.search(text):
            raise _no_filter_error(name, reason) from error
        if isinstance(error, MemoryError):
            problem = f"{name}: does not fit into memory ({reason or 'of this machine'})"
            raise StoreError(problem, "end other programs, or use a machine with more memory") from error
        raise StoreError(f"{name}: damaged ({reason})", f"make it again: {WRITTEN_BY[kind]}") from error


def _no_filter_error(name: str | PathLike[str], reason: str) -> SwanError:
    hint = f"write it again without: h5repack -f NONE {name} NEW.h5"
    return SwanError(
        f"{name}: compressed with a filter that is not installed ({reason})",
        f"{variable}; or {hint}" if (variable := foreign_hint("HDF5_PLUGIN_PATH")) else hint,
    )


def _leading_elsewhere(file: h5py.File) -> str:
    """Name of a link to another file, or of an array whose values are in one; "" if there is none."""

    def check(name: bytes, link: h5py.h5l.LinkInfo) -> str | None:
        if link.type in (h5py.h5l.TYPE_HARD, h5py.h5l.TYPE_SOFT):
            outside = _is_elsewhere(file.get(name))  # None for a soft link that leads nowhere
        else:
            outside = True
        return name.decode(errors="replace") if outside else None

    return file.id.links.visit(check, info=True) or ""


def _is_elsewhere(found: Any) -> bool:
    """Whether what a name leads to is an array whose values are in another file."""
    return isinstance(found, h5py.Dataset) and bool(found.is_virtual or found.external)


def text_attribute(file: h5py.File, name: str) -> str:
    """An attribute that is text.

    Raises:
        KeyError: it is absent.
        TypeError: it is something else.
    """
    value = file.attrs[name]
    if not isinstance(value, str):
        raise TypeError(f"its attribute {name} is not text")
    return value


def array_in(
    file: h5py.File, name: str, kinds: str, *shape: int | None, by_rows: bool = False
) -> h5py.Dataset:
    """An array of a store, of which nothing is read yet.

    Args:
        file: the store.
        name: of the array.
        kinds: the allowed types, as in numpy's `dtype.kind`: "iu" for integers, "f" for floats.
        shape: its size on each axis, None for any.
        by_rows: it is only ever read row by row.

    Raises:
        KeyError: it is absent.
        TypeError, ValueError: it has another type or shape.
        StoreError: it is compressed, and too large to be read.
    """
    if name not in file:
        raise KeyError(f"no /{name}")
    found = file[name]
    if not isinstance(found, h5py.Dataset):
        raise TypeError(f"/{name} is not an array")
    if _is_elsewhere(found):  # again where it is read, whatever path has led to it
        raise ValueError(f"/{name} is in another file, which swan does not read")
    fits = found.shape is not None and len(found.shape) == len(shape)
    if not fits or any(size not in (None, own) for size, own in zip(shape, found.shape, strict=True)):
        wanted = ", ".join("any" if size is None else str(size) for size in shape)
        raise ValueError(f"/{name} has the shape {found.shape}, not ({wanted})")
    if found.dtype.kind not in kinds:
        raise TypeError(f"/{name} contains {found.dtype}")
    _check_bytes(found, by_rows)
    return found


def _check_bytes(array: h5py.Dataset, by_rows: bool) -> None:
    """Raises an error, as `array_in` does, if values take more bytes than the file has or memory should hold.

    Values that were never written take no place in a file, and few if they are compressed, but all of it when
    they are read. Compressed ones are unpacked chunk by chunk.
    """
    needed, stored = array.size * array.dtype.itemsize, array.id.get_storage_size()
    packed = array.id.get_create_plist().get_nfilters() > 0
    if needed > stored * (DEFLATE if packed else 1):
        raise ValueError(f"{array.name} has the shape {array.shape}, and the file does not contain all of it")
    at_once = math.prod(array.chunks) * array.dtype.itemsize if packed and by_rows else needed
    if packed and at_once > MOST_UNPACKED:
        path = array.file.filename
        raise StoreError(
            f"{path}: {array.name} is compressed, and too large to unpack ({at_once / 2**30:.1f} GiB)",
            f"write it again without compression: h5repack -f NONE {path} NEW.h5",
        )


def texts_in(file: h5py.File, name: str, rows: int | None = None) -> np.ndarray:
    """object (n,) of str: a column of text; raises as `array_in` does, and UnicodeDecodeError."""
    return array_in(file, name, "OS", rows).asstr()[:]


def file_names_in(file: h5py.File, name: str, rows: int | None = None) -> np.ndarray:
    """object (n,) of str: a column of file names; bytes that are not UTF-8 become surrogates.

    Raises as `array_in` does.
    """
    return array_in(file, name, "OS", rows).asstr(errors="surrogateescape")[:]


def objects(values: Iterable[Any]) -> np.ndarray:
    """object (n,): a column of any values."""
    values = list(values)
    column = np.empty(len(values), dtype=object)
    column[:] = values
    return column


def write_texts(file: h5py.File, name: str, values: Iterable[str]) -> None:
    """Writes a column of text; an existing array of that name is an error.

    Surrogates, from file names that are not UTF-8, are written as the bytes that they stand for.
    """
    data = objects(value.encode("utf-8", "surrogateescape") for value in values)
    file.create_dataset(name, data=data, dtype=TEXT)


def write_text_attribute(file: h5py.File, name: str, value: str) -> None:
    """Writes an attribute that may be a path, as `write_texts` does."""
    file.attrs.create(name, value.encode("utf-8", "surrogateescape"), dtype=TEXT)


def to_relative(path: str, folder: Path) -> str:
    """A path relative to the folder of the file that records it, so that both can move together.

    "" and addresses (s3://...) stay as they are.
    """
    return os.path.relpath(path, folder) if path and "://" not in path else path


def from_relative(path: str, folder: Path) -> str:
    """The path that `to_relative` made relative to a folder."""
    return os.path.normpath(folder / path) if path and "://" not in path else path


def write_source(file: h5py.File, source: str, folder: Path) -> None:
    """Records what a file was made from: a path, relative to the folder of the file, or an address."""
    if source and "://" not in source:  # links on the way to the folder or the source do not count
        source = to_relative(os.path.realpath(source), Path(os.path.realpath(folder)))
    write_text_attribute(file, "source", source)


def recorded_source(path: Path) -> str:
    """What a file was made from, in full; "" if it is no store that can be read."""
    with suppress(*DAMAGE), h5py.File(path, "r", locking=False) as file:
        if "source" not in file.attrs and file.attrs["format"] in WRITTEN_BY:
            return UNKNOWN_SOURCE
        return from_relative(text_attribute(file, "source"), Path(os.path.realpath(path.parent)))
    return ""
