"""Columns of vectors in a store: L2-normalised embeddings, written, hashed and read in blocks.

Letters in shapes: N rows, D embedding.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import h5py
import numpy as np

from swancli.errors import StoreError
from swancli.store.hdf5 import EMBEDDINGS, damage_named, text_attribute
from swancli.store.unfailing_file import StoreFile

IMAGE_VECTORS = "images/embedding"
BLOCK = 2**14  # rows of embeddings read or written at a time: 32 MB of 512 dimensions
LENGTH_ERROR = 1e-2  # of an L2-normalised vector at most; what swan writes is off by 1e-6


class Rows(Protocol):
    """float32 (N, D), in memory or read where it is sliced."""

    shape: tuple[int, ...]

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice) -> np.ndarray: ...


def write_vectors(file: StoreFile, vectors: Rows) -> str:
    """Writes `/images/embedding`, a block at a time, and its digest, which it returns."""
    image = file.create_dataset(IMAGE_VECTORS, vectors.shape, np.float32)

    def write(start: int, block: np.ndarray) -> None:
        image[start : start + BLOCK] = block
        file.check()

    file.attrs["digest"] = digest = digest_of(vectors, write)
    return digest


def digest_of(vectors: Rows, take: Callable[[int, np.ndarray], None] = lambda start, block: None) -> str:
    """A hash of vectors, float32 (N, D), read in blocks; each is handed to `take` with its first row."""
    digest = hashlib.blake2b(f"{vectors.shape}".encode(), digest_size=16)
    for start in range(0, len(vectors), BLOCK):
        block = np.ascontiguousarray(vectors[start : start + BLOCK], np.float32)
        take(start, block)
        digest.update(block)
    return digest.hexdigest()


def read_rows(embedding: h5py.Dataset, start: int, stop: int) -> np.ndarray:
    """float32 (stop - start, D): some of the vectors in a store, each L2-normalised.

    Raises:
        StoreError: they cannot be read, or one is not normalised or contains NaN or infinity; names its row.
    """
    path = Path(embedding.file.filename)
    with damage_named(path, text_attribute(embedding.file, "format", EMBEDDINGS)):
        vectors = embedding[start:stop]
    check_normalised(vectors, f"{path}: {embedding.name}", start)
    return vectors


def check_normalised(vectors: np.ndarray, name: str, rows: int | np.ndarray = 0) -> None:
    """Refuses vectors whose scores would not be cosine similarities.

    Args:
        vectors: float32 (n, D).
        name: of the file and the array they come from.
        rows: the row of the first of them there, or int64 (n,) of each.

    Raises:
        StoreError: one is not of length 1, or contains NaN or infinity; names its row.
    """
    length = np.sqrt(np.einsum("nd,nd->n", vectors, vectors))
    odd = np.flatnonzero(~(np.abs(length - 1) <= LENGTH_ERROR))  # also of NaN
    if len(odd):
        row = odd[0] + rows if isinstance(rows, int) else rows[odd[0]]
        is_number = np.isfinite(length[odd[0]])
        problem = f"has the length {length[odd[0]]:.3g}, not 1" if is_number else "holds what is no number"
        raise StoreError(f"{name}[{row}] {problem}", "make the file again, with a checkpoint that is sound")


def mapped(array: h5py.Dataset) -> np.ndarray:
    """A column of a store as an array whose values the system fetches from the file where they are touched.

    So a few rows of many cost nothing else. A column that is not in one piece in the file, as no swan writes
    it, is read; so is one of texts or other objects, whose bytes in the file are no values.
    """
    start = array.id.get_offset()
    if start is None or not array.size or array.dtype.hasobject:
        return array[:]
    return np.memmap(array.file.filename, array.dtype, "r", offset=start, shape=array.shape)
