"""`dataset.h5`: images and captions, as `swan prepare` writes them.

Letters in shapes: N images, H x W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from os import PathLike
from pathlib import Path

import h5py
import numpy as np

from swancli.errors import SwanError
from swancli.images import AS_SAID, MOST_SAMPLES, Rendering, decode_image
from swancli.store.catalogue import Catalogue, names_in, read_catalogue, write_catalogue, write_skipped
from swancli.store.digest import content_digest
from swancli.store.hdf5 import (
    DATASET,
    array_in,
    create_store,
    damage_named,
    reading,
    text_attribute,
    texts_in,
    write_texts,
)
from swancli.store.rendering import read_rendering, write_rendering
from swancli.store.unfailing_file import StoreFile


class DatasetWriter:
    """Writes the images of a new `dataset.h5` one by one, in the source's order; see `create_dataset`."""

    def __init__(self, file: StoreFile, shape: tuple[int, int] | None) -> None:
        self._file = file
        self._digests: list[str] = []
        self._looks: list[int] = []
        name = "images/pixels" if shape else "images/encoded"
        dtype, row = (np.uint8, (*shape, 3)) if shape else (h5py.vlen_dtype(np.uint8), ())
        self._images = file.create_dataset(name, (0, *row), dtype, maxshape=(None, *row), chunks=(1, *row))

    def add(self, image: np.ndarray | bytes, digest: str, look: int) -> None:
        """Appends an image.

        Args:
            image: uint8 (H, W, 3) pixels of the data set's shape, or the bytes of the original file.
            digest: of its pixels.
            look: `look_hash` of them.
        """
        self._images.resize(len(self._digests) + 1, axis=0)
        self._images[-1] = np.frombuffer(image, np.uint8) if isinstance(image, bytes) else image
        self._digests.append(digest)
        self._looks.append(look)
        self._file.check()

    def finish(self, catalogue: Catalogue, skipped: Sequence[tuple[str, str]] = ()) -> None:
        """Writes the columns.

        Args:
            catalogue: of the images that were added.
            skipped: file name and reason of each image left out.
        """
        write_catalogue(self._file, catalogue)
        write_texts(self._file, "images/digest", self._digests)
        self._file["images/look"] = np.array(self._looks, np.uint64)
        self._file.attrs["digest"] = _digest_of(catalogue, self._digests)
        write_skipped(self._file, skipped)


@contextmanager
def create_dataset(
    path: str | PathLike[str],
    name: str,
    shape: tuple[int, int] | None,
    rendering: Rendering = AS_SAID,
) -> Iterator[DatasetWriter]:
    """A new `dataset.h5`, complete when the body ends; raises as `create_store`.

    Args:
        path: where it is written.
        name: of the data set.
        shape: height and width of all images, stored as `/images/pixels`; None for `/images/encoded`.
        rendering: how their samples became colours.
    """
    with create_store(path, DATASET) as file:
        file.attrs["dataset"] = name
        write_rendering(file, rendering)
        yield DatasetWriter(file, shape)


def _digest_of(catalogue: Catalogue, digests: Sequence[str]) -> str:
    """A hash of file names, scenes, splits, pixels and captions, in their order."""
    images = zip(catalogue.filename, catalogue.scene, catalogue.split, digests, strict=True)
    captions = zip(catalogue.image.tolist(), catalogue.text, strict=True)
    return content_digest(chain(images, captions))


class Dataset:
    """A `dataset.h5` opened for reading; use it as a context manager.

    Attributes:
        name: the data set's name.
        catalogue: its rows.
        digest: a hash of its rows, pixels included; it differs once any of them has changed.
        rendering: how samples became colours.

    Raises:
        StoreError: as `open_store`; also if its columns do not fit each other.
    """

    def __init__(self, path: str | PathLike[str]) -> None:
        self.path = path = Path(path)
        with reading(path, DATASET, stay_open=True) as self._file:
            self.name = text_attribute(self._file, "dataset")
            self.digest = text_attribute(self._file, "digest")
            self.rendering = read_rendering(self._file)
            self.catalogue = read_catalogue(self._file)
            self._pixels, self._encoded = self._find_images(len(self.catalogue.filename))

    def _find_images(self, count: int) -> tuple[h5py.Dataset | None, h5py.Dataset | None]:
        """`/images/pixels` and `/images/encoded`, of which a file has one, with one row per file name."""
        array_in(self._file, "images/digest", "OS", count)
        array_in(self._file, "images/look", "u", count)
        if "images/pixels" not in self._file:
            return None, array_in(self._file, "images/encoded", "O", count)
        pixels = array_in(self._file, "images/pixels", "u", count, None, None, 3, by_rows=True)
        if pixels.dtype != np.uint8 or not 0 < math.prod(pixels.shape[1:]) <= MOST_SAMPLES:
            raise ValueError(f"/images/pixels contains {pixels.dtype} of the shape {pixels.shape}")
        return pixels, None

    @property
    def side(self) -> float:
        """The longer side of all images in pixels; infinity if their sizes differ."""
        return math.inf if self._pixels is None else max(self._pixels.shape[1:3])

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
        return decode_image(encoded, name, self.rendering)

    def digests(self, rows: np.ndarray) -> np.ndarray:
        """object (n,) of str: a hash of the pixels of some images.

        Raises:
            StoreError: the file is damaged there.
        """
        with damage_named(self.path, DATASET):
            return texts_in(self._file, "images/digest", len(self.catalogue.filename))[rows]

    def looks(self, rows: np.ndarray) -> np.ndarray:
        """uint64 (n,): `look_hash` of some images, 0 where there is none.

        Raises:
            StoreError: the file is damaged there.
        """
        with damage_named(self.path, DATASET):
            return self._file["images/look"][:].astype(np.uint64)[rows]

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
        """Closes the file."""
        self._file.close()

    def __enter__(self) -> Dataset:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
