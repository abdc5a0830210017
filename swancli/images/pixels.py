"""Pixels of a decoded image: another size, upright, and hashes of what they show."""

from __future__ import annotations

import hashlib

import numpy as np
from PIL import Image


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


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Pixels as a viewer shows them.

    Args:
        pixels: (H, W, ...), as they are stored.
        orientation: of EXIF and TIFF, 1 to 8; 1 is upright, other numbers count as 1.
    """
    if orientation in (5, 6, 7, 8):
        pixels = np.swapaxes(pixels, 0, 1)
    rows, columns = flips(orientation)
    if rows or columns:
        pixels = pixels[:: -1 if rows else 1, :: -1 if columns else 1]
    return np.ascontiguousarray(pixels)


def flips(orientation: int) -> tuple[bool, bool]:
    """Whether rows and columns run backwards, after 5 to 8 have swapped them."""
    return orientation in (3, 4, 7, 8), orientation in (2, 3, 6, 7)


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
