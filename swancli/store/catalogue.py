"""File names, scenes, splits and captions: the columns that data sets and embeddings share.

Letters in shapes: N images, M captions.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import h5py
import numpy as np

from swancli.store.hdf5 import (
    array_in,
    damage_named,
    file_names_in,
    objects,
    text_attribute,
    texts_in,
    write_texts,
)

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Catalogue:
    """The rows of a data set, in the source's order.

    filename: object (N,) of str.
    scene: object (N,) of str or None.
    split: object (N,) of str or None.
    text: object (M,) of str, the captions.
    image: int64 (M,), the row of the image that each caption describes; -1 if there is none.
    """

    filename: np.ndarray
    scene: np.ndarray
    split: np.ndarray
    text: np.ndarray
    image: np.ndarray

    @classmethod
    def of(
        cls,
        filename: Iterable[str] = (),
        scene: Iterable[str | None] = (),
        split: Iterable[str | None] = (),
        text: Iterable[str] = (),
        image: Iterable[int] = (),
    ) -> Catalogue:
        """A catalogue of plain sequences."""
        return cls(
            *(objects(column) for column in (filename, scene, split, text)),
            np.asarray(list(image), dtype=np.int64),
        )

    def image_rows(self, split: str | None) -> np.ndarray:
        """int64 (n,): the rows of the images of a split, or of all images for None."""
        return np.arange(len(self.filename)) if split is None else np.flatnonzero(self.split == split)

    def select(self, images: np.ndarray) -> tuple[Catalogue, np.ndarray]:
        """The catalogue of some images and their captions, and the rows of these captions in this one.

        Args:
            images: int64 (n,), rows of images, in the order wanted.

        Returns:
            The catalogue, and int64 (m,).
        """
        place = np.full(len(self.filename) + 1, -1, dtype=np.int64)  # the last place is for image -1
        place[images] = np.arange(len(images))
        captions = np.flatnonzero(place[self.image] >= 0)
        chosen = Catalogue(
            self.filename[images],
            self.scene[images],
            self.split[images],
            self.text[captions],
            place[self.image[captions]],
        )
        return chosen, captions


def different_names(column: np.ndarray) -> list[str]:
    """The different names in a scene or split column, sorted."""
    return sorted({name for name in column if name})


def names_in(column: np.ndarray) -> str:
    """The different names in a scene or split column, for a message; "" if there are none."""
    return ", ".join(different_names(column))


def write_catalogue(file: h5py.File, catalogue: Catalogue) -> None:
    """Writes `/images/{filename,scene,split}` and `/captions/{text,image}`.

    A category is stored as int32 codes with its names beside it (`scene_names`, `split_names`); -1 is none.
    """
    write_texts(file, "images/filename", catalogue.filename)
    for name in ("scene", "split"):
        column = getattr(catalogue, name)
        names = sorted({value for value in column if value is not None})
        code = {value: index for index, value in enumerate(names)}
        codes = np.array([code.get(value, -1) for value in column], dtype=np.int32)
        file.create_dataset(f"images/{name}", data=codes)
        write_texts(file, f"images/{name}_names", names)
    write_texts(file, "captions/text", catalogue.text)
    file.create_dataset("captions/image", data=catalogue.image)


def read_catalogue(file: h5py.File) -> Catalogue:
    """Reads what `write_catalogue` wrote.

    Raises:
        StoreError: a column is missing or damaged, or refers to a row that does not exist.
    """
    with damage_named(file.filename, text_attribute(file, "format")):
        filename = file_names_in(file, "images/filename")
        categories = []
        for name in ("scene", "split"):
            names = texts_in(file, f"images/{name}_names")
            codes = array_in(file, f"images/{name}", "iu", len(filename))[:].astype(np.int64)
            _check_rows(codes, len(names), f"/images/{name}")
            categories.append(np.append(names, None)[codes])  # -1 is the last one, None
        text = texts_in(file, "captions/text")
        image = array_in(file, "captions/image", "iu", len(text))[:].astype(np.int64)
        _check_rows(image, len(filename), "/captions/image")
    return Catalogue(objects(filename), *map(objects, categories), objects(text), image)


def _check_rows(numbers: np.ndarray, count: int, name: str) -> None:
    """Raises a ValueError unless each number is -1 or less than the count."""
    odd = np.flatnonzero((numbers < -1) | (numbers >= count))
    if len(odd):
        raise ValueError(f"{name}[{odd[0]}] is {numbers[odd[0]]}, and there are {count}")


def write_skipped(file: h5py.File, skipped: Sequence[tuple[str, str]]) -> None:
    """Writes `/skipped/{filename,reason}`."""
    write_texts(file, "skipped/filename", (name for name, _ in skipped))
    write_texts(file, "skipped/reason", (reason for _, reason in skipped))


def read_skipped(file: h5py.File) -> list[tuple[str, str]]:
    """File name and reason of each image that was left out.

    Raises:
        StoreError: a column is missing or damaged.
    """
    with damage_named(file.filename, text_attribute(file, "format")):
        names = file_names_in(file, "skipped/filename")
        return list(zip(names, file_names_in(file, "skipped/reason", len(names)), strict=True))
