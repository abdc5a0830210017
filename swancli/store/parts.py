"""Pieces of unfinished embeddings: one file each, until the last one is there and all are copied together.

Letters in shapes: N rows, D embedding.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from swancli.errors import StoreError
from swancli.store.catalogue import Catalogue, read_catalogue, read_skipped, write_catalogue, write_skipped
from swancli.store.hdf5 import PART, array_in, create_store, reading, text_attribute, texts_in, write_texts
from swancli.store.vectors import IMAGE_VECTORS, digest_of, write_vectors


@dataclass(frozen=True)
class Part:
    """A piece of an archive's embeddings, without its vectors.

    catalogue: its n rows, without splits and captions.
    pixel_digest: object (n,) of str, a hash of each image's pixels.
    skipped: file name and reason of each image left out.
    not_read: what a tar holds beside images, by kind.
    """

    catalogue: Catalogue
    pixel_digest: np.ndarray
    skipped: list[tuple[str, str]]
    not_read: Counter[str] = field(default_factory=Counter)


def write_part(path: Path, part: Part, image: np.ndarray, identity: str) -> None:
    """Writes a piece of an archive.

    Args:
        path: where it is written; raises as `create_store`.
        part: what is written beside the vectors.
        image: float32 (n, D), L2-normalised.
        identity: of the archive.
    """
    with create_store(path, PART) as file:
        file.attrs.update(identity=identity, part=path.stem, not_read=json.dumps(part.not_read))
        write_catalogue(file, part.catalogue)
        write_texts(file, "images/digest", part.pixel_digest)
        write_skipped(file, part.skipped)
        write_vectors(file, image)


def read_part(path: Path, identity: str) -> Part:
    """Reads a piece without its vectors.

    Args:
        path: its file.
        identity: of its archive.

    Raises:
        StoreError: as `open_store`; also if it belongs to another archive, or is not the piece of its name.
    """
    with reading(path, PART) as file:
        catalogue = read_catalogue(file)
        digests = texts_in(file, "images/digest", len(catalogue.filename))
        if [text_attribute(file, name) for name in ("identity", "part")] != [identity, path.stem]:
            raise StoreError(f"{path}: of another archive, or another piece", "remove it, and make it again")
        kinds = dict(json.loads(text_attribute(file, "not_read")))
        not_read = Counter({str(kind): int(count) for kind, count in kinds.items()})
        return Part(catalogue, digests, read_skipped(file), not_read)


def read_part_vectors(path: Path, rows: int, width: int) -> np.ndarray:
    """float32 (n, D), L2-normalised: the vectors of a piece.

    Args:
        path: its file.
        rows: n.
        width: D.

    Raises:
        StoreError: as `open_store`; also if they are not those that were written.
    """
    with reading(path, PART) as file:
        vectors = array_in(file, IMAGE_VECTORS, "f", rows, width)[:]
        written = text_attribute(file, "digest")
    if digest_of(vectors) != written:
        raise StoreError(f"{path}: its vectors are damaged", "remove it, and run again with --resume")
    return vectors


class GatheredRows:
    """float32 (N, D): vectors of several pieces as one array. A slice reads the pieces that it needs.

    Args:
        paths: of the pieces.
        lengths: number of rows of each.
        place: int64 (N,), the place of each row among the rows of all pieces in order.
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
