"""What is known of images and captions beside pixels and embeddings.

Letters in shapes: N images, M captions.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import h5py
import numpy as np

from swancli.store.hdf5 import TEXT, array_in, damage_named, objects, text_attribute, texts_in

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Catalogue:
    """The rows of a data set, in the source's order.

    filename: object (N,) of str; scene, split: object (N,) of str or None; text: object (M,) of str;
    image: int64 (M,), the row of the image that each caption describes, -1 when there is none.
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
        """Built from plain sequences."""
        return cls(
            *(objects(column) for column in (filename, scene, split, text)),
            np.asarray(list(image), dtype=np.int64),
        )

    def image_rows(self, split: str | None) -> np.ndarray:
        """int64 (n,): the rows of a split's images; of all images for None."""
        return np.arange(len(self.filename)) if split is None else np.flatnonzero(self.split == split)

    def select(self, images: np.ndarray) -> tuple[Catalogue, np.ndarray]:
        """The catalogue of some images and their captions alone, and the rows of those captions here.

        Args:
            images: int64 (n,), rows of images, in the order wanted.
        """
        place = np.full(len(self.filename) + 1, -1, dtype=np.int64)  # the last one serves image -1
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
    """The different names in a scene or split column, in order."""
    return sorted({name for name in column if name})


def names_in(column: np.ndarray) -> str:
    """The different names in a scene or split column, for a message; "" when there are none."""
    return ", ".join(different_names(column))


def write_catalogue(file: h5py.File, catalogue: Catalogue) -> None:
    """Writes `/images/{filename,scene,split}` and `/captions/{text,image}`.

    A category is stored as int32 codes with its names beside it (`scene_names`, `split_names`); -1 is none.
    """
    file.create_dataset("images/filename", data=catalogue.filename, dtype=TEXT)
    for name in ("scene", "split"):
        column = getattr(catalogue, name)
        names = sorted({value for value in column if value is not None})
        code = {value: index for index, value in enumerate(names)}
        codes = np.array([code.get(value, -1) for value in column], dtype=np.int32)
        file.create_dataset(f"images/{name}", data=codes)
        file.create_dataset(f"images/{name}_names", data=objects(names), dtype=TEXT)
    file.create_dataset("captions/text", data=catalogue.text, dtype=TEXT)
    file.create_dataset("captions/image", data=catalogue.image)


def read_catalogue(file: h5py.File) -> Catalogue:
    """Reads what `write_catalogue` wrote.

    Raises:
        StoreError: a column is missing or damaged, or a caption belongs to an image row that does not exist.
    """
    with damage_named(file.filename, text_attribute(file, "format")):
        filename = texts_in(file, "images/filename")
        categories = []
        for name in ("scene", "split"):
            names = texts_in(file, f"images/{name}_names")
            codes = array_in(file, f"images/{name}", "iu", len(filename))[:].astype(np.int64)
            _check_rows(codes, len(names), f"/images/{name}")
            categories.append(np.append(names, None)[codes])  # -1 picks this last one
        text = texts_in(file, "captions/text")
        image = array_in(file, "captions/image", "iu", len(text))[:].astype(np.int64)
        _check_rows(image, len(filename), "/captions/image")
    return Catalogue(objects(filename), *map(objects, categories), objects(text), image)


def _check_rows(numbers: np.ndarray, count: int, name: str) -> None:
    """Refuses a number that stands for none of so many things, nor, as -1, for nothing."""
    odd = np.flatnonzero((numbers < -1) | (numbers >= count))
    if len(odd):
        raise ValueError(f"{name}[{odd[0]}] is {numbers[odd[0]]}, and there are {count}")


def write_skipped(file: h5py.File, skipped: Sequence[tuple[str, str]]) -> None:
    """Writes `/skipped/{filename,reason}`."""
    for column, name in enumerate(("filename", "reason")):
        values = objects(row[column] for row in skipped)
        file.create_dataset(f"skipped/{name}", data=values, dtype=TEXT)


def read_skipped(file: h5py.File) -> list[tuple[str, str]]:
    """File name and reason of each image that was left out.

    Raises:
        StoreError: a column is missing or damaged.
    """
    with damage_named(file.filename, text_attribute(file, "format")):
        names = texts_in(file, "skipped/filename")
        return list(zip(names, texts_in(file, "skipped/reason", len(names)), strict=True))
