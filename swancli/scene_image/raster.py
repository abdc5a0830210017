"""Reading a large scene by windows, so that memory does not depend on its size.

Pixel coordinates: x to the right and y down, from the upper left corner of the upper left pixel.
"""

from __future__ import annotations

import math
import os
import threading
import warnings
from contextlib import ExitStack
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from types import ModuleType

import numpy as np

from swancli.errors import ImageError, SwanError, extra_hint
from swancli.images import TIFF_STARTS, full_scale

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
        SwanError: it is not installed.
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
        raise SwanError(
            f"scenes are read with rasterio, which is not installed ({error})",
            extra_hint("geo"),
        ) from error
    return rasterio


def _format_of(path: Path) -> str:
    """GDAL's name of the format of a file, by its first bytes.

    Raises:
        ImageError: swan does not read the format.
    """
    with path.open("rb") as file:
        start = file.read(16)
    if path.suffix.lower() == ".vrt":
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

    The bands named red, green and blue are read, else the first three, else the first as grey. Samples wider
    than 8 bits are scaled as in `images.decode_image`, by one factor for the whole scene, which is chosen on
    the preview.

    Attributes:
        path: of its file.
        frame: where it lies.
        preview: uint8 (h, w, 3), the whole scene, at most `PREVIEW` pixels per side.

    Raises:
        ImageError: the file is absent, damaged, or in a format that swan does not read. A VRT file is read
            only if its name ends in `.vrt`, since it refers to other files.
    """

    def __init__(self, path: str | PathLike[str]) -> None:
        self.path = path = Path(path)
        self._rasterio = require_rasterio()
        self._reading = threading.Lock()  # GDAL reads a file from one thread at a time
        if not path.is_file():
            raise ImageError(f"{path}: no such file", "give the scene's image file")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", self._rasterio.errors.NotGeoreferencedWarning)
            try:
                self._file = self._rasterio.open(path, driver=_format_of(path))
                with ExitStack() as undone:
                    undone.callback(self._file.close)
                    self._describe()
                    self.preview = self._small_view()
                    undone.pop_all()
            except (self._rasterio.errors.RasterioError, ValueError) as error:
                raise ImageError(f"{path}: not an image that GDAL reads ({error})") from error

    def _describe(self) -> None:
        file, colour = self._file, self._rasterio.enums.ColorInterp
        if not file.count:
            raise ImageError(
                f"{self.path}: contains no image of its own, but {len(file.subdatasets)} others",
                "extract one of them: gdal_translate",
            )
        if np.issubdtype(np.dtype(file.dtypes[0]), np.complexfloating):
            raise ImageError(f"{self.path}: its samples are complex numbers", "convert it to an image first")
        named = [colour.red, colour.green, colour.blue]
        if set(named) <= set(file.colorinterp):
            self._bands = [file.colorinterp.index(kind) + 1 for kind in named]
        else:
            self._bands = [1, 2, 3] if file.count >= 3 else [1]
        self._palette = None
        if file.colorinterp[0] == colour.palette:
            entries = file.colormap(1)
            self._palette = np.zeros((max(entries) + 1, 3), np.uint8)
            self._palette[list(entries)] = [entry[:3] for entry in entries.values()]
        self.frame = Frame(file.height, file.width)
        if file.crs is not None and not file.transform.is_identity:
            self.frame = Frame(file.height, file.width, file.crs.to_wkt(), tuple(file.transform)[:6])

    def _small_view(self) -> np.ndarray:
        """The preview; its largest sample determines the scale of the scene."""
        shrink = max(1.0, max(self.frame.height, self.frame.width) / PREVIEW)
        shape = tuple(max(1, round(side / shrink)) for side in (self.frame.height, self.frame.width))
        samples, valid = self._samples(None, shape)
        self._full = 255.0
        if samples.dtype != np.uint8:
            self._full = full_scale(float(np.where(valid, samples, 0).max(initial=0)), samples.dtype)
        return self._to_rgb(samples, valid)

    def read(self, box: np.ndarray) -> tuple[np.ndarray, float]:
        """The pixels of a window, black where it has no data, and the share of them that hold data.

        Args:
            box: left, top, right, bottom in pixels, inside the scene.

        Returns:
            uint8 (bottom - top, right - left, 3), and a number from 0 to 1.

        Raises:
            ImageError: the file is damaged there.
        """
        left, top, right, bottom = map(int, box)
        window = self._rasterio.windows.Window(left, top, right - left, bottom - top)
        samples, valid = self._samples(window, (bottom - top, right - left))
        return self._to_rgb(samples, valid), float(valid.mean())

    def _samples(self, window: object, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        """Samples (bands, h, w) of the file's own type, and bool (h, w): where they hold data."""
        resampling = self._rasterio.enums.Resampling
        try:
            with self._reading:
                samples = self._file.read(
                    self._bands,
                    window=window,
                    out_shape=(len(self._bands), *shape),
                    resampling=resampling.average if self._palette is None else resampling.nearest,
                )
                valid = self._file.dataset_mask(window=window, out_shape=shape) > 0
        except (self._rasterio.errors.RasterioError, OSError) as error:
            cause = error.__cause__ or error
            raise ImageError(f"{self.path}: damaged or cut short ({cause})") from error
        if np.issubdtype(samples.dtype, np.floating):
            valid &= np.isfinite(samples).all(axis=0)
            samples = np.nan_to_num(samples, posinf=0, neginf=0)
        return samples, valid

    def _to_rgb(self, samples: np.ndarray, valid: np.ndarray) -> np.ndarray:
        if self._palette is not None:
            pixels = self._palette[np.minimum(samples[0], len(self._palette) - 1)]
        else:
            if samples.dtype != np.uint8:
                samples = np.rint(samples * (255 / self._full)).clip(0, 255).astype(np.uint8)
            pixels = np.repeat(samples, 3, axis=0) if len(samples) == 1 else samples
            pixels = np.ascontiguousarray(np.moveaxis(pixels, 0, 2))
        return pixels if valid.all() else np.where(valid[..., None], pixels, np.uint8(0))

    def __enter__(self) -> Raster:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
