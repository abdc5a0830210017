"""From the bytes of an image file to RGB pixels: the one decoder that every step uses."""

from __future__ import annotations

import hashlib
import io
import math
import os
from pathlib import Path

import numpy as np
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    Jpeg2KImagePlugin,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from swancli.errors import ImageError

# All that Pillow may take a file for, whatever it is called: it hands others, such as EPS, to other programs.
FORMATS = tuple(
    kind.format
    for kind in (
        JpegImagePlugin.JpegImageFile,
        PngImagePlugin.PngImageFile,
        TiffImagePlugin.TiffImageFile,
        BmpImagePlugin.BmpImageFile,
        WebPImagePlugin.WebPImageFile,
        Jpeg2KImagePlugin.Jpeg2KImageFile,
        GifImagePlugin.GifImageFile,
        PpmImagePlugin.PpmImageFile,
    )
)
TOO_LARGE_HINT = "cut it into tiles"
LEADS_OUT = "leads out of the folder of images"
LEADS_OUT_HINT = "give the folder that the images themselves are in, or copy them: cp -rL"
SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp", ".jp2")
MOST_SAMPLES = 250_000_000  # of a picture, three a pixel at least: 9,100 x 9,100 in colour
BLOCK_SAMPLES = 2**22  # that are scaled at a time
TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def read_bytes(path: Path) -> bytes:
    """The bytes of an image file.

    Raises:
        ImageError: the file is absent or cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise ImageError(f"{path}: {error.strerror or error}") from error


def leads_out(path: Path, folder: Path) -> bool:
    """Whether a path below a folder leads out of it, by its name or by a link; the folder may be a link."""
    return not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


def read_inside(path: Path, folder: Path) -> bytes:
    """The bytes of an image file below a folder, which a stranger may have named or put there.

    Raises:
        ImageError: it is absent, cannot be read, is a pipe or a device, or leads out of the folder.
    """
    try:
        outside = leads_out(path, folder)
    except ValueError as error:  # a NUL in the name
        raise ImageError(f"{str(path)!r}: {error}") from error
    if outside:
        raise ImageError(f"{path}: {LEADS_OUT}", LEADS_OUT_HINT)
    if path.exists() and not path.is_file():
        raise ImageError(f"{path}: not a file")
    return read_bytes(path)


def image_size(path: Path) -> tuple[int, int]:
    """(height, width) in pixels, from the header alone where Pillow knows the format.

    Raises:
        ImageError: the file is absent or not an image.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            return image.height, image.width
    except Exception:
        return decode_image(read_bytes(path), str(path)).shape[:2]


def decode_image(data: bytes, name: str, most_samples: int = MOST_SAMPLES) -> np.ndarray:
    """The pixels of an encoded image of one of `FORMATS`.

    Grey and palette images become RGB. Where an alpha channel says transparent the image becomes black
    (no data). Samples wider than 8 bits are scaled by the smallest bit depth that holds the image's
    largest value, so that 12-bit data in a 16-bit file is not nearly black; floating-point
    samples up to 1 are scaled by 1.

    Args:
        name: tells the user which image it is. most_samples: pixels times bands; a small file may claim many.

    Returns:
        uint8 (H, W, 3), RGB.

    Raises:
        ImageError: the bytes are not a whole image, or too large a one.
    """
    tiff = data[:4] in TIFF_STARTS
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if not (tiff and _beyond_pillow(image)):
                shape = (image.height, image.width, max(3, len(image.getbands())))
                _check_samples(shape, name, most_samples)
                image.load()
                return _to_rgb(image)
    except ImageError:
        raise
    except Image.UnidentifiedImageError:
        if not tiff:
            raise ImageError(f"{name}: not an image ({len(data)} bytes)") from None
    except Image.DecompressionBombError as error:
        raise ImageError(f"{name}: too large an image ({error})", TOO_LARGE_HINT) from error
    except Exception as error:
        # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error and more on damaged files.
        if not tiff:
            raise ImageError(f"{name}: damaged image ({error})") from error
    return _decode_tiff(data, name, most_samples)


def _check_samples(shape: tuple[int, ...], name: str, most: int) -> None:
    if math.prod(shape) > most:
        raise ImageError(f"{name}: too large an image ({' x '.join(map(str, shape))})", TOO_LARGE_HINT)


def _beyond_pillow(image: Image.Image) -> bool:
    """Whether Pillow gets a TIFF wrong.

    It does with wide samples in several bands, with bands plane by plane, and with unsigned ones of 32 bits.
    """
    bits, bands, planes, kind = (image.tag_v2.get(tag, 1) for tag in (258, 277, 284, 339))
    bits, unsigned = max(np.atleast_1d(bits)), np.atleast_1d(kind)[0] == 1
    return (bands > 1 and (bits > 8 or planes == 2)) or (bits == 32 and unsigned)


def _to_rgb(image: Image.Image) -> np.ndarray:
    if image.mode.startswith("I") or image.mode == "F":
        return _from_wide(np.asarray(image))
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image)
    return np.array(image.convert("RGB"))


def _from_wide(samples: np.ndarray) -> np.ndarray:
    """uint8 (H, W, 3) from samples of any type, (H, W) or (H, W, C); the first three channels count.

    Fractions of one (reflectance) are scaled by one; infinite and missing values are black, as no data.
    """
    samples = samples[..., None] if samples.ndim == 2 else samples
    rows = max(1, BLOCK_SAMPLES // max(1, math.prod(samples.shape[1:])))
    blocks = [slice(start, start + rows) for start in range(0, len(samples), rows)]
    full = full_scale(
        max((_known(samples[block]).max(initial=0) for block in blocks), default=0), samples.dtype
    )
    channels = samples[..., :3] if samples.shape[2] >= 3 else samples[..., :1]
    pixels = np.empty((*samples.shape[:2], 3), np.uint8)
    for block in blocks:
        pixels[block] = np.rint(_known(channels[block]) * (255 / full)).clip(0, 255)
    return pixels


def _known(samples: np.ndarray) -> np.ndarray:
    """float64 samples, 0 where they are infinite, missing or below 0."""
    return np.nan_to_num(samples.astype(np.float64), posinf=0, neginf=0).clip(min=0)


def full_scale(top: float, kind: np.dtype) -> float:
    """What counts as white among samples of a type whose largest is `top`; see `decode_image`."""
    fractions = np.issubdtype(kind, np.floating) and top <= 1
    return 1.0 if fractions else 2.0 ** max(8, math.ceil(math.log2(top + 1))) - 1


def _decode_tiff(data: bytes, name: str, most_samples: int) -> np.ndarray:
    """TIFF kinds that Pillow does not know: 16-bit RGB, more than four bands, floating point."""
    try:
        import tifffile
    except ImportError:
        raise ImageError(
            f"{name}: a TIFF that Pillow cannot read (16-bit RGB or many bands)",
            "install the extra that can: pip install 'swancli[tiff]'",
        ) from None
    try:
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            picture = file.series[0]  # of several pages, where they are of one size
            _check_samples(picture.shape, name, most_samples)
            samples, axes = picture.asarray(), picture.axes
    except ImageError:
        raise
    except Exception as error:
        raise ImageError(f"{name}: damaged TIFF ({error})") from error
    if not samples.size:
        raise ImageError(f"{name}: damaged TIFF (no picture in it)")
    if samples.ndim == 3 and axes.endswith("YX"):
        samples = np.moveaxis(samples, 0, 2)  # bands stored plane by plane
    if samples.ndim not in (2, 3):
        raise ImageError(f"{name}: a TIFF with {samples.ndim} dimensions is not one picture")
    return _from_wide(samples)


def resize_image(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """uint8 (height, width, 3): bilinear with antialiasing, aspect ratio not kept, as the paper resizes."""
    if pixels.shape[:2] == (height, width):
        return pixels
    return np.array(Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR))


def pixel_digest(pixels: np.ndarray) -> str:
    """A hash of shape and pixels: equal for identical pictures, whatever file they came in."""
    return hashlib.blake2b(
        pixels.tobytes(), digest_size=16, salt=repr(pixels.shape).encode()[:16]
    ).hexdigest()
