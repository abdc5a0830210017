"""Pieces and shards of embeddings: files of their own, read as one array where embeddings are joined.

Letters in shapes: N rows, D embedding.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from swancli.errors import StoreError
from swancli.images import leads_out
from swancli.store.catalogue import Catalogue, read_catalogue, read_skipped, write_catalogue, write_skipped
from swancli.store.hdf5 import (
    EMBEDDINGS,
    PART,
    TEXT,
    array_in,
    create_store,
    damage_named,
    objects,
    open_store,
    text_attribute,
    texts_in,
)
from swancli.store.joined_rows import JoinedRows, Runs, virtual_layout
from swancli.store.unfailing_file import StoreFile
from swancli.store.vectors import IMAGE_VECTORS, digest_of, mapped, write_vectors


@dataclass(frozen=True)
class Part:
    """A piece or a shard of an archive's embeddings.

    image: float32 (n, D), L2-normalised; catalogue: the same n rows, without splits and captions.
    pixel_digest: object (n,) of str, of each image's pixels. skipped: file name and reason of each image left
    out. digest: of `image`, as `write_part` stored it; "" before that.
    """

    image: np.ndarray | JoinedRows
    catalogue: Catalogue
    pixel_digest: np.ndarray
    skipped: list[tuple[str, str]]
    digest: str = ""


def write_part(path: Path, part: Part, identity: str) -> None:
    """Writes a part of the archive of that identity."""
    with create_store(path, PART) as file:
        file.attrs.update(identity=identity, part=path.stem)
        write_catalogue(file, part.catalogue)
        file.create_dataset("images/digest", data=objects(part.pixel_digest), dtype=TEXT)
        write_skipped(file, part.skipped)
        write_vectors(file, part.image)


def read_part(path: Path, identity: str) -> Part:
    """A part. Its vectors stay in the file, which is open only once they are asked for.

    Args:
        identity: of its archive; "" for any.

    Raises:
        StoreError: see `open_store`; also when it is of another archive, or not the part of its name.
    """
    with open_store(path, PART) as file:
        with damage_named(path, PART):
            found, name = (text_attribute(file, name) for name in ("identity", "part"))
            catalogue = read_catalogue(file)
            image = array_in(file, IMAGE_VECTORS, "f", len(catalogue.filename), None)
            if image.dtype != np.float32:
                raise TypeError(f"/{IMAGE_VECTORS} holds {image.dtype}, not float32")
            lazily = JoinedRows(Runs.of([len(image)]), image.shape[1], lambda _: _part_vectors(path))
            part = Part(
                lazily,
                catalogue,
                texts_in(file, "images/digest", len(image)),
                read_skipped(file),
                text_attribute(file, "digest"),
            )
        if identity and (found, name) != (identity, path.stem):
            raise StoreError(f"{path}: of another archive, or another part", "remove it, and make it again")
    return part


def check_part(path: Path, part: Part) -> None:
    """Reads a part's vectors.

    Raises:
        StoreError: they are not those that were written.
    """
    with damage_named(path, PART):
        digest = digest_of(part.image)
    if digest != part.digest:
        raise StoreError(f"{path}: its vectors are damaged", "remove it, and run again with --resume")


def joined_parts(
    paths: Sequence[Path], parts: Sequence[Part], width: int, place: np.ndarray | None = None
) -> JoinedRows:
    """float32 (N, D): rows of several parts as one array.

    Args:
        width: D. place: as in `Runs.of`.

    Raises:
        StoreError: a part is of another width.
    """
    for path, part in zip(paths, parts, strict=True):
        if part.image.shape[1] != width:
            raise StoreError(f"{path}: vectors of {part.image.shape[1]} dimensions, not {width}", "remove it")
    runs = Runs.of([len(part.image) for part in parts], place)
    return JoinedRows(runs, width, lambda number: _part_vectors(paths[number]))


def _part_vectors(path: Path) -> np.ndarray:
    with open_store(path, PART) as file, damage_named(path, PART):
        return mapped(array_in(file, IMAGE_VECTORS, "f", None, None))


SHARD_NAME = re.compile(r"([^/\\\0]+)\.shards/(\d+)-of-(\d+)\.h5")


def write_shards(file: StoreFile, rows: JoinedRows, shards: Sequence[tuple[Path, Part]]) -> None:
    """Writes `/images/embedding` as a virtual array, and `/shards/*`: which shards it lies in, and where.

    Args:
        shards: as in `write_embeddings`, those that `rows` are of.
    """
    names = [f"{shard.parent.name}/{shard.name}" for shard, _ in shards]
    lengths = [len(part.image) for _, part in shards]
    file.create_virtual_dataset(IMAGE_VECTORS, virtual_layout(rows, names, lengths, IMAGE_VECTORS))
    file.create_dataset("shards/file", data=objects(names), dtype=TEXT)
    file.create_dataset("shards/digest", data=objects(part.digest for _, part in shards), dtype=TEXT)
    for name, column in (("start", rows.runs.starts), ("part", rows.runs.part), ("first", rows.runs.first)):
        file[f"shards/{name}"] = column


def check_shards(path: Path, file: h5py.File) -> None:
    """Refuses joined embeddings unless each shard is there, and is the one that was joined."""
    with damage_named(path, EMBEDDINGS):
        names = texts_in(file, "shards/file")
        digests = texts_in(file, "shards/digest", len(names))
        rows, width = array_in(file, IMAGE_VECTORS, "f", None, None).shape
        parsed = [SHARD_NAME.fullmatch(name) for name in names]
        if not all(parsed) or len({match[1] for match in parsed if match}) != 1:
            raise ValueError("its shards are not those of one folder beside it")
    lengths = []
    for match, digest in zip(parsed, digests, strict=True):
        shard = _beside(file) / match[0]
        again = f"put it back, or make it again: swan embed --shard {match[2]}/{match[3]} --resume"
        if leads_out(shard, _beside(file)):
            raise StoreError(f"{path}: its shard {shard} is a link that leads elsewhere", again)
        try:
            with open_store(shard, PART) as part, damage_named(shard, PART):
                lengths.append(len(array_in(part, IMAGE_VECTORS, "f", None, width)))
                same = text_attribute(part, "digest") == digest
        except StoreError as error:
            raise StoreError(f"{path}: lacks a shard: {error.problem}", again) from error
        if not same:
            raise StoreError(f"{path}: its shard {shard} is another one than was joined", again)
    with damage_named(path, EMBEDDINGS):
        _read_runs(file).check(lengths, rows)


def rows_in_shards(array: h5py.Dataset) -> JoinedRows:
    """A virtual array, read from its shards and never by HDF5.

    That shows zeros for a shard that is gone, looks for it in other places too, follows a stranger's names to
    any file, and crashes at the end of a process.
    """
    paths = [_beside(array.file) / name for name in texts_in(array.file, "shards/file")]
    runs, width = _read_runs(array.file), array.shape[1]
    return JoinedRows(runs, width, lambda number: _part_vectors(paths[number]), array.file, array.name)


def _read_runs(file: h5py.File) -> Runs:
    """Where the rows of joined embeddings lie; asking HDF5 for it takes seconds where many are repeated."""
    names = [f"shards/{name}" for name in ("start", "part", "first")]
    return Runs(*(array_in(file, name, "iu", None)[:].astype(np.int64) for name in names))


def _beside(file: h5py.File) -> Path:
    """The folder that the shards of joined embeddings are looked for in."""
    return Path(file.filename).resolve().parent
