"""The images of an embeddings file, read again from the data set or folder that was embedded.

swan query "a harbor" --html hits.html

A file may have been replaced since; then the score beside it is of another picture. So the pixels that are
shown are compared with those that were embedded.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from threading import Lock

import h5py
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from swancli.errors import SwanError
from swancli.images import AS_SAID, Rendering, decode_image, pixel_digest, read_inside
from swancli.store.dataset import Dataset
from swancli.store.embeddings import Embeddings

QUALITY = 85  # of JPEG files
CHANGED = "changed since it was embedded"
LEAST_NOTED = 240  # pixels per side of a picture with a note on it


class Pictures:
    """The images of an embeddings file, or of results, by row. Several threads may use it at once.

    Args:
        source: a `dataset.h5`, or the folder that the file names are relative to.
        filename: the file name of each row.
        digest: `/images/digest` of the embeddings, a hash of each row's pixels; None if it is not known.
        rendering: how samples became colours when the images were embedded.

    Attributes:
        changed: of the rows that were read so far, those whose pixels are not the ones that were embedded.

    Raises:
        SwanError: the source does not exist any more.
    """

    def __init__(
        self,
        source: str | PathLike[str],
        filename: Sequence[str],
        digest: h5py.Dataset | None = None,
        rendering: Rendering = AS_SAID,
    ) -> None:
        source = Path(source)
        self.changed: set[int] = set()
        self._filename, self._digest, self._rendering = filename, digest, rendering
        self._folder, self._dataset = source, None
        self._lock = Lock()  # an h5py file must not be read by several threads at once
        if source.is_file():
            self._dataset = Dataset(source)
            self._place = {name: row for row, name in enumerate(self._dataset.catalogue.filename)}
        elif not source.is_dir():
            raise SwanError(
                f"{source}: no such folder or file; the images were there when they were embedded",
                "give their new place: --pictures FOLDER (or a dataset.h5)",
            )

    def pixels(self, row: int) -> np.ndarray:
        """uint8 (H, W, 3), RGB; the row is then in `changed`, or not.

        Raises:
            SwanError: the row has no image, it is gone or unreadable, or its name leads out of the folder.
        """
        pixels = self._read(row)
        if self._digest is not None:
            with self._lock:
                embedded = self._digest[row]
            differs = embedded != pixel_digest(pixels).encode()
            (self.changed.add if differs else self.changed.discard)(row)
        return pixels

    def _read(self, row: int) -> np.ndarray:
        if row < 0:
            raise SwanError("a text without an image")
        name = self._filename[row]
        if self._dataset:
            if name not in self._place:
                raise SwanError(
                    f"{self._folder}: has no image {name!r} any more",
                    "embed again, or give a copy: --pictures FOLDER",
                )
            with self._lock:
                return self._dataset.image(self._place[name])
        path = self._folder / name
        return decode_image(read_inside(path, self._folder), str(path), self._rendering)

    def jpeg(self, row: int, side: int) -> bytes:
        """An image as a JPEG file, its longer side at most `side` pixels; raises as `pixels`."""
        return jpeg(self.pixels(row), side)


def pictures_of(embeddings: Embeddings, moved: str | PathLike[str] | None = None) -> Pictures:
    """The images of embeddings.

    Args:
        embeddings: the embeddings.
        moved: where the images are now; None for the place that the embeddings record.

    Raises:
        SwanError: they are not there, or no place is recorded.
    """
    if not len(embeddings.image):  # only lines of text
        return Pictures(Path(), embeddings.catalogue.filename)
    if not (moved or embeddings.pictures):
        raise SwanError(
            "the embeddings do not say where their images are", "give it: --pictures FOLDER (or a dataset.h5)"
        )
    first = embeddings.catalogue.filename[0]
    # A member is named after its tar; but a tar may be unpacked into a folder of its name.
    in_tars = ".tar/" in first.lower() and not (Path(embeddings.pictures) / first).is_file()
    if not moved and ("://" in embeddings.pictures or in_tars):
        raise SwanError(
            f"{embeddings.pictures}: images at an address or in tars cannot be shown",
            "copy them, each tar unpacked into a folder of its name, and give the copy: --pictures FOLDER",
        )
    digest = embeddings.image.file["images/digest"] if isinstance(embeddings.image, h5py.Dataset) else None
    place = moved or Path(embeddings.pictures)
    return Pictures(place, embeddings.catalogue.filename, digest, embeddings.rendering)


def jpeg(pixels: np.ndarray, side: int, note: str = "") -> bytes:
    """A JPEG file of uint8 (H, W, 3) pixels, scaled down so that the longer side is at most `side` pixels.

    Args:
        pixels: the image.
        side: in pixels.
        note: a few words to write on the image; "" for none.
    """
    image = Image.fromarray(pixels)
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    written = io.BytesIO()
    (_noted(image, note) if note else image).save(written, "JPEG", quality=QUALITY)
    return written.getvalue()


def _noted(image: Image.Image, note: str) -> Image.Image:
    """An image with a note on it; a small one becomes larger, so that the note can be read.

    The note is at the lower edge of the square in the middle, which is all that a page of results shows.
    """
    if min(image.size) < LEAST_NOTED:
        scale = max(1, LEAST_NOTED // max(image.size))
        image = image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)
        ground = Image.new("RGB", tuple(max(length, LEAST_NOTED) for length in image.size))
        ground.paste(image, ((ground.width - image.width) // 2, (ground.height - image.height) // 2))
        image = ground
    square = min(image.size)
    font = ImageFont.load_default(square / 17)
    draw, middle, low = ImageDraw.Draw(image), image.width / 2, (image.height + square) / 2
    draw.rectangle((0, low - square / 9, image.width, low), fill="#d55e00")
    draw.text((middle, low - square / 18), note, fill="white", font=font, anchor="mm")
    return image
