"""Pieces of embeddings: files of their own until all of them are there and are copied into one.

Letters in shapes: N rows, D embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from swancli.errors import StoreError
from swancli.store.catalogue import Catalogue, read_catalogue, read_skipped, write_catalogue, write_skipped
from swancli.store.hdf5 import (
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
from swancli.store.vectors import IMAGE_VECTORS, digest_of, write_vectors


@dataclass(frozen=True)
class Part:
    """What is known of a piece of an archive's embeddings beside its vectors.

    catalogue: its n rows, without splits and captions.
    pixel_digest: object (n,) of str, of each image's pixels.
    skipped: file name and reason of each image left out.
    """

    catalogue: Catalogue
    pixel_digest: np.ndarray
    skipped: list[tuple[str, str]]


def write_part(path: Path, part: Part, image: np.ndarray, identity: str) -> None:
    """Writes a piece of an archive.

    Args:
        image: float32 (n, D), L2-normalised.
        identity: of the archive.
    """
    with create_store(path, PART) as file:
        file.attrs.update(identity=identity, part=path.stem)
        write_catalogue(file, part.catalogue)
        file.create_dataset("images/digest", data=objects(part.pixel_digest), dtype=TEXT)
        write_skipped(file, part.skipped)
        write_vectors(file, image)


def read_part(path: Path, identity: str) -> Part:
    """A piece without its vectors.

    Args:
        identity: of its archive.

    Raises:
        StoreError: see `open_store`; also when it is of another archive, or not the piece of its name.
    """
    with open_store(path, PART) as file:
        with damage_named(path, PART):
            found, name = (text_attribute(file, name) for name in ("identity", "part"))
            catalogue = read_catalogue(file)
            digests = texts_in(file, "images/digest", len(catalogue.filename))
            part = Part(catalogue, digests, read_skipped(file))
        if (found, name) != (identity, path.stem):
            raise StoreError(f"{path}: of another archive, or another piece", "remove it, and make it again")
    return part


def read_part_vectors(path: Path, rows: int, width: int) -> np.ndarray:
    """float32 (n, D), L2-normalised: the vectors of a piece.

    Args:
        rows: n.
        width: D.

    Raises:
        StoreError: see `open_store`; also when they are not those that were written.
    """
    with open_store(path, PART) as file, damage_named(path, PART):
        vectors = array_in(file, IMAGE_VECTORS, "f", rows, width)[:]
        written = text_attribute(file, "digest")
    if digest_of(vectors) != written:
        raise StoreError(f"{path}: its vectors are damaged", "remove it, and run again with --resume")
    return vectors


class GatheredRows:
    """float32 (N, D): vectors of several pieces as one array. A slice of it reads the pieces that it needs.

    Args:
        paths: of the pieces.
        lengths: rows of each.
        place: int64 (N,), where each row is among those of all pieces, one after the other.
        width: D.
    """

    def __init__(self, paths: Sequence[Path], lengths: Sequence[int], place: np.ndarray, width: int) -> None:
        self.shape = (len(place), width)
        self._paths = paths
        self._borders = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        self._place = place

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> np.ndarray:
        """float32 (n, D); raises as `read_part_vectors`."""
        place = self._place[rows]
        part = np.searchsorted(self._borders, place, "right") - 1
        found = np.empty((len(place), self.shape[1]), np.float32)
        for number in np.unique(part).tolist():
            first, stop = self._borders[number : number + 2].tolist()
            vectors = read_part_vectors(self._paths[number], stop - first, self.shape[1])
            found[part == number] = vectors[place[part == number] - first]
        return found
