"""The images of an embeddings file, read again from the data set or folder that was embedded.

swan query "a harbor" --html hits.html

A file may have been replaced since; then the score beside it is of another picture. So the pixels that are
shown are compared with those that were embedded.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from threading import Lock

import h5py
import numpy as np
from PIL import Image

from swancli.errors import SwanError, SwanWarning
from swancli.images import (
    AS_SAID,
    FORMATS,
    Rendering,
    decode_image,
    leads_out,
    pixel_digest,
    read_inside,
)
from swancli.store.dataset import Dataset
from swancli.store.embeddings import Embeddings

QUALITY = 85  # of JPEG files
SMALL_SIDE = 1024  # pixels at most, the longer side of a picture that is decoded in no time
NO_IMAGE = "a text without an image"
CHANGED = "changed since it was embedded"
NOT_SHOWN = "its picture was removed, or cannot be read"  # for those who may not see a path


class ChangedPicture(SwanError):
    """A file is not the picture that was embedded, so the score beside it would be of another one."""


def why_not_shown(error: SwanError) -> str:
    """The reason in place of a picture, for those who may not see its path."""
    return CHANGED if isinstance(error, ChangedPicture) else NOT_SHOWN


def warn_of_absent(path: str | PathLike[str], problems: Sequence[str]) -> None:
    """Warns that pictures are left out of a file, and why the first of them is; does nothing if none is."""
    if problems:
        text = f"{path}: pictures left out: {len(problems)}; the first: {problems[0]}"
        warnings.warn(text, SwanWarning, stacklevel=3)


class Pictures:
    """The images of an embeddings file, or of results, by row. Several threads may use it at once.

    Args:
        source: a `dataset.h5`, or the folder that the file names are relative to.
        filename: the file name of each row.
        rendering: how samples became colours when the images were embedded.
        embedded: text (N,), of an open file: a hash of the pixels of each row when it was embedded. Only
            these pixels are shown, since a stranger's embeddings may name any folder here. None for all.

    Raises:
        SwanError: the source does not exist any more.
    """

    def __init__(
        self,
        source: str | PathLike[str],
        filename: Sequence[str],
        embedded: h5py.Dataset | None = None,
        rendering: Rendering = AS_SAID,
    ) -> None:
        source = Path(source)
        self._filename, self._embedded, self._rendering = filename, embedded, rendering
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
        """uint8 (H, W, 3), RGB.

        Raises:
            ChangedPicture: it is another one than was embedded.
            SwanError: the row has no image, it is gone or unreadable, or its name leads out of the folder.
        """
        if row < 0:
            raise SwanError(NO_IMAGE)
        pixels = self._pixels(row)
        if self._embedded is not None:
            with self._lock:
                digest = self._embedded.asstr()[row]
            if pixel_digest(pixels) != digest:
                raise ChangedPicture(
                    f"{self._folder}: {self._filename[row]!r} has {CHANGED}",
                    "embed again; or show what is there now: --pictures FOLDER (or a dataset.h5)",
                )
        return pixels

    def _pixels(self, row: int) -> np.ndarray:
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

    def is_small(self, row: int) -> bool:
        """Whether an image takes little time and memory to decode, as its header says; False if in doubt."""
        if row < 0 or self._dataset:
            return row < 0 or self._dataset.side <= SMALL_SIDE
        path = self._folder / self._filename[row]
        try:
            if leads_out(path, self._folder) or not path.is_file():
                return True  # not decoded at all
            with Image.open(path, formats=FORMATS) as image:
                return max(image.size) <= SMALL_SIDE
        except Exception:  # Pillow raises errors of many kinds
            return False

    def jpeg(self, row: int, side: int) -> bytes:
        """An image as a JPEG file, its longer side at most `side` pixels; raises as `pixels`."""
        return jpeg(self.pixels(row), side)


def pictures_of(embeddings: Embeddings, moved: str | PathLike[str] | None = None) -> Pictures:
    """The images of embeddings.

    Args:
        embeddings: the embeddings.
        moved: where the images are now; None for the place that the embeddings record, whose pictures are
            shown if they are those that were embedded.

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
    names, rendering = embeddings.catalogue.filename, embeddings.rendering
    if moved:
        return Pictures(moved, names, rendering=rendering)
    return Pictures(Path(embeddings.pictures), names, embeddings.image.file["images/digest"], rendering)


def jpeg(pixels: np.ndarray, side: int) -> bytes:
    """A JPEG file of uint8 (H, W, 3) pixels, scaled down so that the longer side is at most `side` pixels."""
    image = _reduced(pixels, max(1, max(pixels.shape[:2]) // (2 * side)))
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    written = io.BytesIO()
    image.save(written, "JPEG", quality=QUALITY)
    return written.getvalue()


def _reduced(pixels: np.ndarray, factor: int) -> Image.Image:
    """An image of uint8 (H, W, 3) pixels, each side divided by a factor; without a copy of the whole."""
    if factor == 1:
        return Image.fromarray(pixels)
    rows = 64 * factor
    strips = (pixels[top : top + rows] for top in range(0, len(pixels), rows))
    return Image.fromarray(
        np.concatenate([np.asarray(Image.fromarray(one).reduce(factor)) for one in strips])
    )
