"""Reading a large scene by windows, so that memory does not depend on its size.

Pixel coordinates: x to the right and y down, from the upper left corner of the upper left pixel.
"""

from __future__ import annotations

import math
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from swancli.errors import ImageError, import_error, outside_cause, warn_once
from swancli.images.decode import MOST_SAMPLES, orientation_in
from swancli.images.notes import LIBRARY, MANY_BANDS, NO_MASK, Notes, listening
from swancli.images.pixels import flips, upright
from swancli.images.rule import (
    AS_SAID,
    PROBE,
    Rendering,
    Said,
    View,
    chosen_bands,
    every_nth,
    view_of,
)
from swancli.images.tiff import TIFF_STARTS
from swancli.scene_image.mosaic import check_sources

if TYPE_CHECKING:
    from rasterio.io import DatasetReader

CACHE = 192  # MB of decoded blocks that GDAL keeps; its default grows with the memory of the machine
PREVIEW = 2000  # pixels, the longer side of the preview at most
# First bytes of the formats that swan reads, with their names in GDAL. Others, such as VRT or WMS, make GDAL
# open other files and addresses, whatever the file name says.
FORMATS = {
    **dict.fromkeys(TIFF_STARTS, "GTiff"),
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG": "PNG",
    b"\0\0\0\x0cjP": "JP2OpenJPEG",
    b"BM": "BMP",
    b"GIF8": "GIF",
    b"RIFF": "WEBP",
    b"NITF": "NITF",
}
NO_COORDINATES = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
# GDAL opens the file that it is given and nothing else: it lists no folder, so it finds no `.ovr`, `.msk` or
# world file, reads no `.aux.xml`, and asks no address. Overviews, which metadata may place anywhere, are off.
ALONE = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "GDAL_PAM_ENABLED": "NO",
    "GDAL_TIFF_INTERNAL_MASK_TO_8BIT": "YES",
    "CPL_VSIL_CURL_ALLOWED_FILENAME": "none",
    "GDAL_VRT_ENABLE_PYTHON": "NO",
    "GDAL_VRT_ENABLE_RAWRASTERBAND": "NO",
}
NO_OVERVIEWS = {"OVERVIEW_LEVEL": "NONE"}
# Their drivers look for files beside them all the same, so they are opened by a link in an empty folder.
CURIOUS = ("BMP", "NITF")


@dataclass(frozen=True)
class Frame:
    """The size of a scene and its place on the Earth.

    height: in pixels.
    width: in pixels.
    crs: its coordinate system as WKT, "" for a plain image.
    transform: a, b, c, d, e, f of x' = a x + b y + c and y' = d x + e y + f, from pixel coordinates to those
        of the coordinate system.
    """

    height: int
    width: int
    crs: str = ""
    transform: tuple[float, ...] = NO_COORDINATES

    @property
    def tile_shape(self) -> float:
        """Height over width, in pixels, of a tile that is square on the ground.

        It is 1 if pixels are square. A degree of longitude has its length at the centre of the scene.
        """
        a, b, _, d, e, f = self.transform
        across, down = math.hypot(a, d), math.hypot(b, e)
        if self.crs and require_rasterio().crs.CRS.from_wkt(self.crs).is_geographic:
            latitude = d * self.width / 2 + e * self.height / 2 + f
            across = math.hypot(a * max(0.01, math.cos(math.radians(latitude))), d)
        shape = across / down if down else 0.0
        # Outside of this range, or if it is NaN, the transform is wrong.
        return shape if 0.02 < shape < 50 else 1.0


def require_rasterio() -> ModuleType:
    """The package rasterio with the modules that swan uses, and GDAL's cache limited to `CACHE`.

    Raises:
        SwanError: it is not installed, or does not work.
    """
    # GDAL reads it once, before its first block; rasterio's own setting lasts only for a `with` block.
    os.environ.setdefault("GDAL_CACHEMAX", str(CACHE))
    try:
        import rasterio
        import rasterio.crs
        import rasterio.enums
        import rasterio.features
        import rasterio.warp
        import rasterio.windows
    except ImportError as error:
        raise import_error(error, "a scene", "geo") from error
    return rasterio


def _format_of(path: Path, mosaic: bool = False) -> str:
    """GDAL's name of the format of a file, by its first bytes; VRT only where that is allowed.

    Raises:
        ImageError: swan does not read the format.
    """
    with path.open("rb") as file:
        start = file.read(16)
    if mosaic and path.suffix.lower() == ".vrt":
        return "VRT"
    found = next((name for bytes_, name in FORMATS.items() if start.startswith(bytes_)), None)
    if not found:
        known = ", ".join(sorted({*FORMATS.values()}))
        raise ImageError(
            f"{path}: not in a format of a scene ({known})",
            "convert it to GeoTIFF: gdal_translate",
        )
    return found


class Raster:
    """A scene opened for reading; use it as a context manager. Several threads may read it at once.

    Samples become RGB by the rule of `swancli.images.rule`, as those of an image do, with one scale for the
    whole scene.

    Attributes:
        path: of its file.
        frame: where it lies.
        preview: uint8 (h, w, 3), the whole scene, at most `PREVIEW` pixels per side.
        rendering: as given.
        notes: what is doubtful about it.

    Args:
        path: of its file.
        rendering: what the user says about bands and scale.
        mosaic: whether it may be a VRT file, one whose name ends in `.vrt`: only if the user named it, since
            it refers to other files. These have to be in its folder.

    Raises:
        ImageError: the file is absent, damaged, or in a format that swan does not read.
        SwanError: the disk fails, or the like.
    """

    def __init__(
        self, path: str | PathLike[str], rendering: Rendering = AS_SAID, *, mosaic: bool = False
    ) -> None:
        self.path = path = Path(path)
        self.rendering, self.notes = rendering, Notes()
        self._rasterio = require_rasterio()
        self._reading = threading.Lock()  # GDAL reads a file from one thread at a time
        if not path.is_file():
            raise ImageError(f"{path}: no such file", "give the scene's image file")
        driver = _format_of(path, mosaic)
        with self._alone(), warnings.catch_warnings():
            warnings.simplefilter("ignore", self._rasterio.errors.NotGeoreferencedWarning)
            if driver == "VRT":
                for source in check_sources(path):
                    self._check_source(source)
            with ExitStack() as closing:
                opened = path.absolute()  # so that no part of the name is taken for a protocol
                if driver in CURIOUS:
                    opened = Path(closing.enter_context(TemporaryDirectory(prefix="swan-"))) / "scene"
                    opened.symlink_to(path.absolute())
                with self._rasterio.open(opened.as_posix(), driver=driver) as file:
                    _check_overviews(file, path)
                    self._describe(file)
                self._file = self._rasterio.open(opened.as_posix(), driver=driver, **NO_OVERVIEWS)
                closing.callback(self._file.close)
                self._decide()
                self.preview = self._small_view()
                self._closing = closing.pop_all()
        self.notes.add_pixels(self.preview, str(path))

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """GDAL with the settings `ALONE`, its messages kept from standard error, its errors as ours."""
        errors = (self._rasterio.errors.RasterioError, self._rasterio._err.CPLE_BaseError, ValueError)
        with listening() as messages:
            try:
                with self._rasterio.Env(**ALONE):
                    yield
                if messages:
                    warn_once(f"{LIBRARY} {self.path}", f"{self.path}: {LIBRARY}: {messages[0]}")
            except errors as error:
                cause = error.__cause__ or error
                unread = ImageError(f"{self.path}: not an image that GDAL reads ({cause})")
                raise outside_cause(error, self.path) or unread from error

    def _check_source(self, path: Path) -> None:
        """Refuses a file of a mosaic that makes GDAL open others."""
        driver = _format_of(path)
        if driver in CURIOUS:
            raise ImageError(f"{self.path}: refers to {path}, and no {driver} file may be part of a mosaic")
        with self._rasterio.open(path.absolute().as_posix(), driver=driver) as file:
            _check_overviews(file, path)

    def _describe(self, file: DatasetReader) -> None:
        """Frame, and what the file says of its samples."""
        if not file.count:
            raise ImageError(
                f"{self.path}: contains no image of its own, but {len(file.subdatasets)} others",
                "extract one of them: gdal_translate",
            )
        tall, wide = file.block_shapes[0]
        together = file.count if file.interleaving == self._rasterio.enums.Interleaving.pixel else 1
        if tall * wide * together > MOST_SAMPLES:
            blocks = f"{tall} x {wide} x {together} samples"
            raise ImageError(
                f"{self.path}: its blocks of {blocks} are too large to read in windows",
                "write it in tiles: gdal_translate -co TILED=YES",
            )
        self._size = file.height, file.width
        # Samples across whose blocks fit into half of GDAL's cache; the other half is for masks and the like.
        block = (
            tall * wide * together * np.dtype(file.dtypes[0].replace("complex_int16", "complex64")).itemsize
        )
        self._columns = wide * max(1, CACHE * 10**6 // 2 // block)
        with self.path.open("rb") as opened:
            self._orientation = orientation_in(opened)
        height, width = self._size[::-1] if self._orientation > 4 else self._size
        self.frame = Frame(height, width)
        if file.crs is not None and not file.transform.is_identity:
            self.frame = Frame(*self._size, file.crs.to_wkt(), tuple(file.transform)[:6])
        flags = self._rasterio.enums.MaskFlags
        self._masked = any(
            flags.per_dataset in own and flags.alpha not in own for own in file.mask_flag_enums
        )
        self._said = _said_by(file)

    def _decide(self) -> None:
        """How samples become RGB, decided on the whole scene."""
        chosen = chosen_bands(self._said, self.rendering, str(self.path))
        shape = tuple(min(side, PROBE) for side in self._size)
        self._view: View = view_of(
            self._said, chosen, self.rendering, lambda: self._spread_samples(chosen.read, shape)
        )
        if chosen.doubtful:
            self.notes.add(MANY_BANDS, str(self.path))
        if self._view.false_alpha:
            self.notes.add(NO_MASK, str(self.path))

    def _small_view(self) -> np.ndarray:
        shrink = max(1.0, max(self._size) / PREVIEW)
        shape = tuple(max(1, round(side / shrink)) for side in self._size)
        smooth = shrink > 1 and self._said.palette is None and self._said.dtype.kind != "c"
        if smooth:
            samples, mask = self._samples(self._view.read, None, shape, smooth=True)
        else:
            samples, mask = self._spread_samples(self._view.read, shape)
        return upright(self._view.rgb(samples, mask)[0], self._orientation)

    def read(self, box: np.ndarray) -> tuple[np.ndarray, float]:
        """The pixels of a window, black where it has no data, and the share of them that hold data.

        Args:
            box: left, top, right, bottom in pixels, inside the scene.

        Returns:
            uint8 (bottom - top, right - left, 3), and a number from 0 to 1.

        Raises:
            ImageError: the file is damaged there.
            SwanError: the disk fails, or the like.
        """
        left, top, right, bottom = self._stored_box(*map(int, box))
        window = self._rasterio.windows.Window(left, top, right - left, bottom - top)
        with self._alone():
            samples, mask = self._samples(self._view.read, window, (bottom - top, right - left))
        pixels, valid = self._view.rgb(samples, mask)
        return upright(pixels, self._orientation), float(valid.mean())

    def _stored_box(self, left: int, top: int, right: int, bottom: int) -> tuple[int, int, int, int]:
        """Where the pixels of a window of the upright scene are stored."""
        height, width = self.frame.height, self.frame.width
        rows, columns = flips(self._orientation)
        if rows:
            top, bottom = height - bottom, height - top
        if columns:
            left, right = width - right, width - left
        return (top, left, bottom, right) if self._orientation > 4 else (left, top, right, bottom)

    def _spread_samples(
        self, bands: list[int], shape: tuple[int, int]
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Samples at even distances over the whole scene, as from `_samples`.

        GDAL reads them row by row. If the blocks of a row do not fit into its cache, it decodes them again
        for every row; so they are read in parts, each as wide as the cache allows for.
        """
        height, width = self._size
        places = every_nth(width, shape[1])
        starts = np.flatnonzero(np.diff(places // self._columns, prepend=-1))
        parts = []
        for start, end in zip(starts, [*starts[1:], shape[1]], strict=True):
            left, right = (width * column / shape[1] for column in (start, end))
            window = self._rasterio.windows.Window(left, 0, right - left, height)
            parts.append(self._samples(bands, window, (shape[0], int(end - start))))
        samples, masks = zip(*parts, strict=True)
        return np.concatenate(samples, axis=1), np.concatenate(masks, axis=1) if self._masked else None

    def _samples(
        self, bands: list[int], window: object, shape: tuple[int, int], smooth: bool = False
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Samples (h, w, bands) of the file's own type, and bool (h, w): where its mask has data."""
        methods = self._rasterio.enums.Resampling
        method = methods.average if smooth else methods.nearest
        try:
            with self._reading:
                samples = self._file.read(
                    [band + 1 for band in bands],
                    window=window,
                    out_shape=(len(bands), *shape),
                    resampling=method,
                )
                mask = None
                if self._masked:
                    mask = self._file.read_masks(1, window=window, out_shape=shape) > 0
        except (self._rasterio.errors.RasterioError, OSError) as error:
            cause = error.__cause__ or error
            damaged = ImageError(f"{self.path}: damaged or cut short ({cause})")
            raise outside_cause(error, self.path) or damaged from error
        return np.moveaxis(samples, 0, 2), mask

    def __enter__(self) -> Raster:
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()


def _check_overviews(file: DatasetReader, path: Path) -> None:
    """Refuses a file whose metadata names another file as its overviews, before GDAL would open that."""
    if file.tags(ns="OVERVIEWS"):
        raise ImageError(
            f"{path}: refers to another file for its overviews, which swan does not open",
            "write it again without: gdal_translate -co COPY_SRC_OVERVIEWS=NO",
        )


def _said_by(file: DatasetReader) -> Said:
    """What GDAL reports of a file's samples."""
    colours = tuple(kind.name.lower() for kind in file.colorinterp)
    structure = file.tags(1, ns="IMAGE_STRUCTURE")
    bits = int(structure.get("NBITS", 8))
    inverted = file.tags(ns="IMAGE_STRUCTURE").get("MINISWHITE") == "YES"
    palette = None
    if colours[0] == "palette" and inverted:  # made up by GDAL
        colours = ("gray", *colours[1:])
    elif colours[0] == "palette":
        entries = file.colormap(1)
        palette = np.zeros((max(entries) + 1, 4), np.uint8)
        palette[list(entries)] = list(entries.values())
    return Said(
        np.dtype(file.dtypes[0].replace("complex_int16", "complex64")),
        file.count,
        tuple("" if colour == "undefined" else colour for colour in colours),
        tuple((name or "").strip().lower() for name in file.descriptions),
        _nodata_of(file),
        bits if bits < 8 else 0,
        palette,
        premultiplied=any(
            file.tags(band, ns="IMAGE_STRUCTURE").get("ALPHA") == "PREMULTIPLIED" for band in file.indexes
        ),
        inverted=inverted,
        default_colours=colours[:3] == ("red", "green", "blue"),
    )


def _nodata_of(file: DatasetReader) -> tuple[float | None, ...]:
    """The value of each band that marks no data; a PNG may name a colour instead."""
    named = file.tags().get("NODATA_VALUES", "").split()
    if len(named) == file.count:
        return tuple(map(float, named))
    return file.nodatavals
