"""Embeddings in HDF5 files: written, hashed, read and checked in blocks of rows.

Letters in shapes: N rows, D embedding.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import h5py
import numpy as np

from swancli.errors import StoreError
from swancli.store.hdf5 import EMBEDDINGS, damage_named
from swancli.store.unfailing_file import StoreFile

IMAGE_VECTORS = "images/embedding"
BLOCK = 2**14  # rows of embeddings read or written at a time: 32 MB of 512 dimensions
NO_MAPPING = (errno.ENODEV, errno.EINVAL, errno.ENOSYS)  # some network and shared file systems
LENGTH_ERROR = 1e-2  # how far from 1 the length of a vector may be; what swan writes is off by 1e-6


class Rows(Protocol):
    """float32 (N, D), in memory or read when it is sliced."""

    shape: tuple[int, ...]

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice) -> np.ndarray: ...


def write_vectors(file: StoreFile, vectors: Rows) -> str:
    """Writes `/images/embedding` block by block, and its digest; returns the digest."""
    image = file.create_dataset(IMAGE_VECTORS, vectors.shape, np.float32)

    def write(start: int, block: np.ndarray) -> None:
        image[start : start + BLOCK] = block
        file.check()

    file.attrs["digest"] = digest = digest_of(vectors, write)
    return digest


def digest_of(vectors: Rows, take: Callable[[int, np.ndarray], None] = lambda start, block: None) -> str:
    """A hash of vectors.

    Args:
        vectors: float32 (N, D), read block by block.
        take: called with the first row of each block, and the block.
    """
    digest = hashlib.blake2b(f"{vectors.shape}".encode(), digest_size=16)
    for start in range(0, len(vectors), BLOCK):
        block = np.ascontiguousarray(vectors[start : start + BLOCK], np.float32)
        take(start, block)
        digest.update(block)
    return digest.hexdigest()


def read_rows(embedding: h5py.Dataset, start: int, stop: int) -> np.ndarray:
    """float32 (stop - start, D): L2-normalised rows of an array of embeddings in a store.

    Raises:
        StoreError: they cannot be read, or one is not normalised or contains NaN or infinity; names its row.
    """
    path = Path(embedding.file.filename)
    with damage_named(path, embedding.file.attrs.get("format", EMBEDDINGS)):
        vectors = embedding[start:stop]
    check_normalised(vectors, f"{path}: {embedding.name}", start)
    return vectors


def check_normalised(vectors: np.ndarray, name: str, rows: int | np.ndarray = 0) -> None:
    """Raises an error if scores of these vectors would not be cosine similarities.

    Args:
        vectors: float32 (n, D).
        name: the file and the array that they come from.
        rows: the row of the first vector there, or int64 (n,), the row of each.

    Raises:
        StoreError: the length of one is not 1, or it contains NaN or infinity; names its row.
    """
    length = np.sqrt(np.einsum("nd,nd->n", vectors, vectors))
    odd = np.flatnonzero(~(np.abs(length - 1) <= LENGTH_ERROR))  # also if it is NaN
    if len(odd):
        row = odd[0] + rows if isinstance(rows, int) else rows[odd[0]]
        finite = np.isfinite(length[odd[0]])
        problem = f"has the length {length[odd[0]]:.3g}, not 1" if finite else "contains NaN or infinity"
        raise StoreError(f"{name}[{row}] {problem}", "make the file again, with an undamaged checkpoint")


def mapped(array: h5py.Dataset) -> np.ndarray:
    """An array of a store, mapped into memory: only the rows that are used are read.

    An array that is not in one piece in the file is read as a whole; swan writes none. So is one of text or
    other objects, whose bytes in the file are not its values, and one on a file system that maps no files. It
    is the file that is open that is mapped: its name may mean another one by now.
    """
    start = array.id.get_offset()
    if start is None or not array.size or array.dtype.hasobject:
        return array[:]
    try:
        with os.fdopen(os.dup(array.file.id.get_vfd_handle()), "rb") as file:
            return np.memmap(file, array.dtype, "r", offset=start, shape=array.shape)
    except OSError as error:
        if error.errno not in NO_MAPPING:
            raise
        return array[:]
