"""Image files to RGB pixels: the decoder of every step."""

from __future__ import annotations

import hashlib
import io
import math
import os
from pathlib import Path

import numpy as np
from PIL import Image

from swancli.errors import ImageError, extra_hint

# The only formats that Pillow may open, whatever the file name says: others, such as EPS, run programs.
FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "WEBP", "JPEG2000", "GIF", "PPM")
TOO_LARGE_HINT = "cut it into tiles"
LEADS_OUT = "leads out of the folder of images"
LEADS_OUT_HINT = "give the folder that the images themselves are in, or copy them: cp -rL"
SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp", ".jp2")
MOST_SAMPLES = 250_000_000  # per image, at least three per pixel: 9,100 x 9,100 in colour
MOST_BYTES = 8 * MOST_SAMPLES  # of an image file
ITEM_HINT = "give a path, a PIL image, or a uint8 (H, W, 3) array, RGB"
BLOCK_SAMPLES = 2**22  # samples scaled at a time
TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """The bytes of an image file.

    Raises:
        ImageError: the file is absent, cannot be read, or is larger than any image that swan decodes.
    """
    try:
        size = Path(path).stat().st_size  # a sparse file takes no place on the disk, but all of it in memory
        if size > MOST_BYTES:
            raise ImageError(f"{path}: image too large ({size / 1e9:.1f} GB)", TOO_LARGE_HINT)
        return Path(path).read_bytes()
    except OSError as error:
        raise ImageError(f"{path}: {error.strerror or error}") from error


def leads_out(path: Path, folder: Path) -> bool:
    """Whether a path leads out of a folder, by its name or by a link; the folder itself may be a link."""
    return not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


def read_inside(path: Path, folder: Path) -> bytes:
    """The bytes of an image file below a folder whose names and content are not trusted.

    Raises:
        ImageError: the file is absent, unreadable, a pipe or a device, or leads out of the folder.
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
    """(height, width) in pixels, read from the header alone if Pillow can.

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

    Grey and palette images become RGB. Transparent pixels become black (no data). Samples wider than 8 bits
    are scaled by the smallest bit depth that fits the image's largest value, so that 12-bit data in a 16-bit
    file is not nearly black; floating-point samples up to 1 are scaled by 1.

    Args:
        data: the content of the file.
        name: of the image, for errors.
        most_samples: limit on pixels times bands; a small file may claim many.

    Returns:
        uint8 (H, W, 3), RGB.

    Raises:
        ImageError: the image is damaged, incomplete or too large.
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
        raise ImageError(f"{name}: image too large ({error})", TOO_LARGE_HINT) from error
    except Exception as error:
        # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error and more on damaged files.
        if not tiff:
            raise ImageError(f"{name}: damaged image ({error})") from error
    return _decode_tiff(data, name, most_samples)


def _check_samples(shape: tuple[int, ...], name: str, most: int) -> None:
    if math.prod(shape) > most:
        raise ImageError(f"{name}: image too large ({' x '.join(map(str, shape))})", TOO_LARGE_HINT)


def _beyond_pillow(image: Image.Image) -> bool:
    """Whether Pillow would misread a TIFF.

    It misreads wide samples in several bands, bands stored plane by plane, and unsigned 32-bit samples.
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
    """uint8 (H, W, 3) from samples of any type, (H, W) or (H, W, C), of which three channels are used.

    Fractions of one (reflectance) are scaled by one; infinite and missing values become black (no data).
    """
    samples = samples[..., None] if samples.ndim == 2 else samples
    rows = max(1, BLOCK_SAMPLES // max(1, math.prod(samples.shape[1:])))
    blocks = [slice(start, start + rows) for start in range(0, len(samples), rows)]
    top = max((_known(samples[block]).max(initial=0) for block in blocks), default=0)
    full = full_scale(top, samples.dtype)
    channels = samples[..., :3] if samples.shape[2] >= 3 else samples[..., :1]
    pixels = np.empty((*samples.shape[:2], 3), np.uint8)
    for block in blocks:
        pixels[block] = np.rint(_known(channels[block]) * (255 / full)).clip(0, 255)
    return pixels


def _known(samples: np.ndarray) -> np.ndarray:
    """float64 samples, 0 where they are infinite, missing or below 0."""
    return np.nan_to_num(samples.astype(np.float64), posinf=0, neginf=0).clip(min=0)


def full_scale(top: float, kind: np.dtype) -> float:
    """The value that becomes white if `top` is the largest sample; see `decode_image`."""
    fractions = np.issubdtype(kind, np.floating) and top <= 1
    return 1.0 if fractions else 2.0 ** max(8, math.ceil(math.log2(top + 1))) - 1


def _decode_tiff(data: bytes, name: str, most_samples: int) -> np.ndarray:
    """Decodes TIFFs that Pillow cannot read: 16-bit RGB, more than four bands, floating point."""
    try:
        import tifffile
    except ImportError:
        raise ImageError(
            f"{name}: a TIFF that Pillow cannot read (16-bit RGB or many bands)",
            extra_hint("tiff"),
        ) from None
    try:
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            picture = file.series[0]  # may have several pages of one size
            _check_samples(picture.shape, name, most_samples)
            samples, axes = picture.asarray(), picture.axes
    except ImageError:
        raise
    except Exception as error:
        raise ImageError(f"{name}: damaged TIFF ({error})") from error
    if not samples.size:
        raise ImageError(f"{name}: damaged TIFF (it contains no image)")
    if samples.ndim == 3 and axes.endswith("YX"):
        samples = np.moveaxis(samples, 0, 2)  # bands stored plane by plane
    if samples.ndim not in (2, 3):
        raise ImageError(f"{name}: a TIFF with {samples.ndim} dimensions is not a single image")
    return _from_wide(samples)


def pixels_of(item: object, name: str) -> np.ndarray:
    """The pixels of an image given as a path, a PIL image or an array.

    Args:
        item: a path, a PIL image (converted as in `decode_image`), or a uint8 (H, W, 3) array, RGB.
        name: of an item that is not a path, for errors.

    Returns:
        uint8 (H, W, 3), RGB.

    Raises:
        ImageError: the file cannot be read, or the item is something else.
    """
    if isinstance(item, (str, os.PathLike)):
        return decode_image(read_bytes(Path(item)), str(item))
    if isinstance(item, Image.Image):
        try:
            return _to_rgb(item)
        except OSError as error:  # Pillow reads a file when its pixels are used
            raise ImageError(f"{name}: damaged image ({error})") from error
    if not isinstance(item, np.ndarray):
        raise ImageError(f"{name}: {type(item).__name__} is not an image", ITEM_HINT)
    if item.dtype != np.uint8 or item.ndim != 3 or item.shape[2] != 3 or not item.size:
        raise ImageError(f"{name}: an array of {item.dtype} {item.shape} is not an image", ITEM_HINT)
    return item


def resize_image(pixels: np.ndarray, height: int, width: int, interpolation: str = "bilinear") -> np.ndarray:
    """uint8 (height, width, 3): with antialiasing, aspect ratio not kept, as the paper resizes.

    Args:
        pixels: uint8 (H, W, 3).
        height: in pixels.
        width: in pixels.
        interpolation: "bilinear" (paper) or "bicubic".
    """
    if pixels.shape[:2] == (height, width):
        return pixels
    method = Image.Resampling[interpolation.upper()]
    return np.array(Image.fromarray(pixels).resize((width, height), method))


def look_hash(pixels: np.ndarray) -> int:
    """A perceptual hash of 64 bits, few of which differ between copies of other sizes or as JPEG.

    `phash` of the library imagehash: the signs of the lowest frequencies. 0 for a picture of a single colour,
    which looks like nothing in particular.

    Args:
        pixels: uint8 (H, W, 3).
    """
    import imagehash

    bits = imagehash.phash(Image.fromarray(pixels)).hash
    # Half of the frequencies of a picture are above their median, of a single colour only the mean is.
    return int.from_bytes(np.packbits(bits).tobytes(), "big") if bits.sum() > 1 else 0


def pixel_digest(pixels: np.ndarray) -> str:
    """A hash of shape and pixels: equal for identical images, whatever their files."""
    return hashlib.blake2b(
        np.ascontiguousarray(pixels), digest_size=16, salt=repr(pixels.shape).encode()[:16]
    ).hexdigest()
