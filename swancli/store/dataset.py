"""`dataset.h5`: images and captions, as `swan prepare` writes them.

Letters in shapes: N images, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from os import PathLike
from pathlib import Path

import h5py
import numpy as np

from swancli.errors import StoreError, SwanError
from swancli.images import decode_image
from swancli.store.catalogue import Catalogue, names_in, read_catalogue, write_catalogue, write_skipped
from swancli.store.digest import content_digest
from swancli.store.hdf5 import (
    DATASET,
    TEXT,
    array_in,
    create_store,
    damage_named,
    objects,
    open_store,
    text_attribute,
    texts_in,
)
from swancli.store.unfailing_file import StoreFile


class DatasetWriter:
    """Takes the images of a new `dataset.h5` one by one, in the source's order; see `create_dataset`."""

    def __init__(self, file: StoreFile, shape: tuple[int, int] | None) -> None:
        self._file = file
        self._digests: list[str] = []
        if shape:
            size = (0, *shape, 3)
            self._images = file.create_dataset(
                "images/pixels", size, np.uint8, maxshape=(None, *shape, 3), chunks=(1, *shape, 3)
            )
        else:
            kind = h5py.vlen_dtype(np.uint8)
            self._images = file.create_dataset("images/encoded", (0,), kind, maxshape=(None,), chunks=(1,))

    def add(self, image: np.ndarray | bytes, digest: str) -> None:
        """Appends an image: uint8 (H, W, 3) pixels of the data set's shape, or its original bytes."""
        self._images.resize(len(self._digests) + 1, axis=0)
        self._images[-1] = np.frombuffer(image, np.uint8) if isinstance(image, bytes) else image
        self._digests.append(digest)
        self._file.check()

    def finish(self, catalogue: Catalogue, skipped: Sequence[tuple[str, str]] = ()) -> None:
        """Writes the columns; `skipped` holds a file name and a reason for each image left out."""
        write_catalogue(self._file, catalogue)
        self._file.create_dataset("images/digest", data=objects(self._digests), dtype=TEXT)
        self._file.attrs["digest"] = _digest_of(catalogue, self._digests)
        write_skipped(self._file, skipped)


@contextmanager
def create_dataset(
    path: str | PathLike[str], name: str, shape: tuple[int, int] | None
) -> Iterator[DatasetWriter]:
    """A new `dataset.h5`: `/images/pixels` of height x width `shape`, or for None `/images/encoded`."""
    with create_store(path, DATASET) as file:
        file.attrs["dataset"] = name
        yield DatasetWriter(file, shape)


def _digest_of(catalogue: Catalogue, digests: Sequence[str]) -> str:
    """The digest of a data set: of file names, scenes, splits, pixels and captions, in their order."""
    images = zip(catalogue.filename, catalogue.scene, catalogue.split, digests, strict=True)
    captions = zip(catalogue.image.tolist(), catalogue.text, strict=True)
    return content_digest(chain(images, captions))


class Dataset:
    """A `dataset.h5` opened for reading; use it as a context manager.

    Attributes:
        name: the data set's name.
        catalogue: its rows.
        digest: of its rows, pixels included, as `swan prepare` wrote them; another one once any of them
            has changed.
    """

    def __init__(self, path: str | PathLike[str]) -> None:
        self.path = path = Path(path)
        self._file = open_store(path, DATASET)
        try:
            with damage_named(path, DATASET):
                self.name = text_attribute(self._file, "dataset")
                self.digest = text_attribute(self._file, "digest")
                self.catalogue = read_catalogue(self._file)
                self._pixels, self._encoded = self._find_images(len(self.catalogue.filename))
        except StoreError:
            self._file.close()
            raise

    def _find_images(self, count: int) -> tuple[h5py.Dataset | None, h5py.Dataset | None]:
        """`/images/pixels` and `/images/encoded`, of which a file has one: a row for each file name."""
        array_in(self._file, "images/digest", "OS", count)
        if "images/pixels" not in self._file:
            return None, array_in(self._file, "images/encoded", "O", count)
        pixels = array_in(self._file, "images/pixels", "u", count, None, None, 3)
        if pixels.dtype != np.uint8 or not all(pixels.shape[1:]):
            raise ValueError(f"/images/pixels holds {pixels.dtype} of the shape {pixels.shape}")
        return pixels, None

    def image(self, row: int) -> np.ndarray:
        """uint8 (H, W, 3): the RGB pixels of one image.

        Raises:
            StoreError, ImageError: the file is damaged there.
        """
        name = f"{self.path}, image {self.catalogue.filename[row]}"
        with damage_named(name, DATASET):
            if self._pixels is not None:
                return self._pixels[row]
            encoded = np.asarray(self._encoded[row], np.uint8).tobytes()
        return decode_image(encoded, name)

    def digests(self, rows: np.ndarray) -> np.ndarray:
        """object (n,) of str: a hash of the pixels of some images.

        Raises:
            StoreError: the file is damaged there.
        """
        with damage_named(self.path, DATASET):
            return texts_in(self._file, "images/digest", len(self.catalogue.filename))[rows]

    def rows_of(self, split: str) -> np.ndarray:
        """int64 (n,): the image rows of a split that has captions.

        Raises:
            SwanError: the split has none.
        """
        rows = self.catalogue.image_rows(split)
        if not np.isin(rows, self.catalogue.image).any():
            there = names_in(self.catalogue.split)
            raise SwanError(
                f"{self.path}: no captions in split {split!r} (it has {there or 'no splits'})",
                "choose another --split, or prepare again with --split random or --split stratified",
            )
        return rows

    def close(self) -> None:
        """What leaving its context does."""
        self._file.close()

    def __enter__(self) -> Dataset:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
