"""Image files to RGB pixels: the decoder of every step."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from swancli.errors import ImageError, SwanError
from swancli.images import tiff
from swancli.images.files import TOO_LARGE_HINT, read_bytes
from swancli.images.headers import CODESTREAM, JP2_START, Header, jpeg2000_header, png_exif
from swancli.images.notes import LIBRARY, MANY_BANDS, NO_MASK, Notes, listening
from swancli.images.pixels import upright
from swancli.images.rule import (
    AS_SAID,
    PROBE,
    Chosen,
    Probe,
    Rendering,
    Said,
    chosen_bands,
    every_nth,
    known_scale,
    measured_values,
    view_of,
)
from swancli.images.scale import largest_value

# The only formats that Pillow may open, whatever the file name says: others, such as EPS, run programs.
FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "DIB", "WEBP", "JPEG2000", "GIF", "PPM")
MOST_SAMPLES = 250_000_000  # per image, at least three per pixel: 9,100 x 9,100 in colour
ITEM_HINT = "give a path, a PIL image, or a uint8 (H, W, 3) array, RGB"
EXIF_ORIENTATION = 0x0112
LARGE = 2**23  # pixels; a picture of more is taken over from Pillow in blocks of rows
BLOCK_ROWS = 256
COMMON_SIDE = 64  # samples a side of each picture, at most, on which a scale for all of them is decided


@dataclass(frozen=True)
class Stored:
    """An image as it is stored.

    samples: (H, W, C), of any type.
    said: what the file says of them.
    mask: bool (H, W), False where the file's mask says that there is no data; None if it has none.
    orientation: of EXIF, 1 to 8.
    """

    samples: np.ndarray
    said: Said
    mask: np.ndarray | None = None
    orientation: int = 1


def decode_image(
    data: bytes,
    name: str,
    rendering: Rendering = AS_SAID,
    notes: Notes | None = None,
    most_samples: int = MOST_SAMPLES,
) -> np.ndarray:
    """The pixels of an encoded image of one of `FORMATS`, upright, black where there is no data.

    `swancli.images.rule` decides what becomes which colour.

    Args:
        data: the content of the file.
        name: of the image, for errors.
        rendering: what the user says about bands and scale.
        notes: where to count what is doubtful.
        most_samples: limit on pixels times bands; a small file may claim many.

    Returns:
        uint8 (H, W, 3), RGB.

    Raises:
        ImageError: the image is damaged, incomplete or too large, or lacks the bands of `rendering`.
        SwanError: there is not enough memory left, which is no reason to leave this image out.
    """
    with listening() as messages, _enough_memory(name):
        stored = _read(data, name, most_samples)
        pixels = _shown(stored, name, rendering, notes)
    if notes and messages:
        notes.add(LIBRARY, name, messages[0])
    return pixels


@contextmanager
def _enough_memory(name: str) -> Iterator[None]:
    """What it means if no memory is left while an image is read: the image is not damaged."""
    try:
        yield
    except MemoryError as error:
        problem = f"{name}: there is not enough memory left for a picture of this size"
        raise SwanError(problem, f"end other programs, or {TOO_LARGE_HINT}") from error


def _shown(stored: Stored, name: str, rendering: Rendering, notes: Notes | None) -> np.ndarray:
    said, samples, mask = stored.said, stored.samples, stored.mask
    chosen = chosen_bands(said, rendering, name)
    view = view_of(said, chosen, rendering, lambda: _probe(stored, chosen, PROBE))
    whole = view.read == list(range(samples.shape[2]))
    pixels, _ = view.rgb(samples if whole else samples[..., view.read], mask)
    pixels = upright(pixels, stored.orientation)
    if notes:
        if chosen.doubtful:
            notes.add(MANY_BANDS, name)
        if view.false_alpha:
            notes.add(NO_MASK, name)
        notes.add_pixels(pixels, name)
    return pixels


def scale_values(data: bytes, name: str, rendering: Rendering) -> tuple[np.ndarray, float] | None:
    """The values of one picture that count for a scale for several; None if its scale is known, as of 8 bits.

    Args:
        data: the content of the file.
        name: of the image, for errors.
        rendering: with the bands.

    Returns:
        float64 (n,), and the largest value of their type, as `largest_value`.

    Raises:
        ImageError: as in `decode_image`.
    """
    with listening(), _enough_memory(name):
        stored = _read(data, name, MOST_SAMPLES)
    said = stored.said
    chosen = chosen_bands(said, rendering, name)
    if known_scale(said, chosen, rendering)[0]:
        return None
    samples, mask = _probe(stored, chosen, COMMON_SIDE)
    values = measured_values(said, chosen, samples, mask).astype(np.float64)
    return values, largest_value(said.dtype)


def _probe(stored: Stored, chosen: Chosen, most: int) -> Probe:
    """Samples (h, w, C) of the chosen bands, at most n a side, evenly spaced, and their mask."""
    part = np.ix_(*(every_nth(length, most) for length in stored.samples.shape[:2]))
    return stored.samples[part][..., chosen.read], None if stored.mask is None else stored.mask[part]


def image_size(path: Path) -> tuple[int, int]:
    """(height, width) in pixels, upright, read from the header alone if it is complete.

    Raises:
        ImageError: the file is absent or not an image.
    """
    try:
        with path.open("rb") as file, listening():
            orientation = orientation_in(file)
            file.seek(0)
            if file.read(4) in tiff.TIFF_STARTS:
                file.seek(0)
                tags, _ = tiff.read_tags(file)
                size = tags[tiff.HEIGHT][0], tags[tiff.WIDTH][0]
            else:
                with Image.open(file, formats=FORMATS) as image:
                    size = image.height, image.width
            height, width = map(int, size)
            if height and width:
                return (width, height) if orientation > 4 else (height, width)
    except Exception:  # whatever it is, decoding says it better
        pass
    return decode_image(read_bytes(path), str(path)).shape[:2]


def orientation_in(file: BinaryIO) -> int:
    """The orientation of an image file, 1 to 8, from its header; 1 if it has none, or is a map."""
    start = file.read(4)
    file.seek(0)
    try:
        if start in tiff.TIFF_STARTS:
            return tiff.orientation_in(tiff.read_tags(file)[0])
        exif = Image.Exif()
        if start == b"\x89PNG":  # Pillow would decode it to look behind its pixels
            exif.load(png_exif(file))
        else:
            with Image.open(file, formats=FORMATS) as image:
                exif = image.getexif()
        found = exif.get(EXIF_ORIENTATION, 1)
    except Exception:  # not of Pillow's formats, or damaged, which is reported where it is read
        return 1
    return found if found in range(1, 9) else 1


def pixels_of(
    item: object, name: str, rendering: Rendering = AS_SAID, notes: Notes | None = None
) -> np.ndarray:
    """The pixels of an image given as a path, a PIL image or an array.

    Args:
        item: a path, a PIL image (shown as in `decode_image`), or a uint8 (H, W, 3) array, RGB.
        name: of an item that is not a path, for errors.
        rendering: as in `decode_image`.
        notes: as in `decode_image`.

    Returns:
        uint8 (H, W, 3), RGB.

    Raises:
        ImageError: the file cannot be read, or the item is something else.
        SwanError: as in `decode_image`.
    """
    if isinstance(item, (str, os.PathLike)):
        return decode_image(read_bytes(Path(item)), str(item), rendering, notes)
    if isinstance(item, Image.Image):
        try:
            with _enough_memory(name):
                item.load()  # which turns a TIFF, and forgets its orientation
                orientation = item.getexif().get(EXIF_ORIENTATION, 1)
                return _shown(_from_pillow(item, orientation), name, rendering, notes)
        except OSError as error:  # Pillow reads a file when its pixels are used
            raise ImageError(f"{name}: damaged image ({error})") from error
    if not isinstance(item, np.ndarray):
        raise ImageError(f"{name}: {type(item).__name__} is not an image", ITEM_HINT)
    if item.dtype != np.uint8 or item.ndim != 3 or item.shape[2] != 3 or not item.size:
        raise ImageError(f"{name}: an array of {item.dtype} {item.shape} is not an image", ITEM_HINT)
    return item


# ---------------------------------------------------------------------------------------------------------
# reading


def _read(data: bytes, name: str, most: int) -> Stored:
    if data[:4] in tiff.TIFF_STARTS:
        return _read_tiff(data, name, most)
    if data.startswith((JP2_START, CODESTREAM)):
        return _read_jpeg2000(data, name, most)
    if data[:2] in (b"P5", b"P6"):
        wide = _read_wide_pnm(data, name, most)
        if wide:
            return wide
    return _read_with_pillow(data, name, most)


def _check_samples(shape: tuple[int, ...], name: str, most: int) -> None:
    if math.prod(shape) > most:
        raise ImageError(f"{name}: image too large ({' x '.join(map(str, shape))})", TOO_LARGE_HINT)


def _read_with_pillow(data: bytes, name: str, most: int) -> Stored:
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check_samples((image.height, image.width, max(3, len(image.getbands()))), name, most)
            orientation, raw_mode = orientation_in(io.BytesIO(data)), _raw_mode(image)
            if image.format == "PNG" and image.mode != "I;16" and raw_mode.endswith(";16B"):
                return _read_wide_png(data, image, orientation)
            image.load()
            return _from_pillow(image, orientation, {"1": 1, "L;2": 2, "L;4": 4}.get(raw_mode, 0))
    except (ImageError, MemoryError):
        raise
    except Image.UnidentifiedImageError:
        raise ImageError(f"{name}: not an image ({len(data)} bytes)") from None
    except Image.DecompressionBombError as error:
        raise ImageError(f"{name}: image too large ({error})", TOO_LARGE_HINT) from error
    except Exception as error:
        # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error and more on damaged files.
        raise ImageError(f"{name}: damaged image ({error})") from error


def _raw_mode(image: Image.Image) -> str:
    """Pillow's name for how samples are stored, of an image that is open but not read; "" if unknown."""
    tiles = getattr(image, "tile", None)
    mode = tiles[0][3] if tiles else ""
    return str(mode[0] if isinstance(mode, tuple) and mode else mode)


def _from_pillow(image: Image.Image, orientation: int = 1, bits: int = 0) -> Stored:
    """The samples of an image that Pillow has opened.

    Args:
        image: opened.
        orientation: of EXIF.
        bits: of a sample of grey in the file if they are fewer than 8, which Pillow scales to 8; else 0.
    """
    transparent, mode = image.info.get("transparency"), image.mode
    if mode == "P":
        palette = np.array(image.getpalette("RGBA"), np.uint8).reshape(-1, 4)
        if isinstance(transparent, bytes):
            palette[: len(transparent), 3] = np.frombuffer(transparent, np.uint8)[: len(palette)]
        elif isinstance(transparent, int) and transparent < len(palette):
            palette[transparent, 3] = 0
        samples = _array_of(image)[..., None]
        return Stored(samples, Said(samples.dtype, 1, ("palette",), palette=palette), None, orientation)
    if mode in ("La", "RGBa", "PA"):
        image = image.convert("LA" if mode == "La" else "RGBA")
    elif mode not in ("1", "L", "LA", "RGB", "RGBA", "F") and not mode.startswith("I"):
        image = image.convert("RGB")
    samples = _array_of(image)
    if samples.dtype == np.bool_:
        samples = samples.astype(np.uint8) * np.uint8(255)
    samples = samples[..., None] if samples.ndim == 2 else samples
    colours = {1: ("gray",), 2: ("gray", "alpha"), 3: ("red", "green", "blue")}
    said = Said(
        samples.dtype.newbyteorder("="),
        samples.shape[2],
        colours.get(samples.shape[2], ("red", "green", "blue", "alpha")),
    )
    if isinstance(transparent, int) and samples.shape[2] == 1:
        scale = 255 // (2**bits - 1) if bits else 1
        said = replace(said, nodata=(float(transparent * scale),))
    elif isinstance(transparent, tuple) and samples.shape[2] == 3:
        said = replace(said, nodata=tuple(map(float, transparent)))
    return Stored(samples, said, None, orientation)


def _array_of(image: Image.Image) -> np.ndarray:
    """`np.asarray` of an image; a large one in blocks of rows, as Pillow copies twice what it hands over."""
    width, height = image.size
    if width * height <= LARGE:
        return np.asarray(image)
    blocks = (
        np.asarray(image.crop((0, top, width, min(top + BLOCK_ROWS, height))))
        for top in range(0, height, BLOCK_ROWS)
    )
    first = next(blocks)
    whole = np.empty((height, *first.shape[1:]), first.dtype)
    whole[: len(first)] = first
    for number, block in enumerate(blocks, start=1):
        whole[number * BLOCK_ROWS :][: len(block)] = block
    return whole


def _read_wide_png(data: bytes, image: Image.Image, orientation: int) -> Stored:
    """A PNG of 16 bits in colour or with alpha, of which Pillow itself keeps the upper 8.

    The upper and the lower bytes are read one after the other. For grey with alpha Pillow has no such mode,
    so the four bytes of a pixel are read as four bands.
    """
    bands = 2 if _raw_mode(image).startswith("LA") else len(image.getbands())
    transparent = image.info.get("transparency")
    if bands == 2:
        image._mode = "RGBA"
        image.tile = [_with_raw_mode(tile, "RGBA") for tile in image.tile]
        image.load()
        halves = np.asarray(image).reshape(image.height, image.width, 2, 2).astype(np.uint16)
        samples = halves[..., 0] << 8 | halves[..., 1]
    else:
        image.load()
        with Image.open(io.BytesIO(data), formats=("PNG",)) as lower:
            lower.tile = [_with_raw_mode(tile, f"{image.mode};16L") for tile in lower.tile]
            lower.load()
            samples = np.asarray(image).astype(np.uint16) << 8 | np.asarray(lower)
    colours = ("gray", "alpha") if bands == 2 else ("red", "green", "blue", "alpha")[:bands]
    nodata = tuple(map(float, transparent)) if isinstance(transparent, tuple) else ()
    return Stored(samples, Said(samples.dtype, bands, colours, nodata=nodata), None, orientation)


def _with_raw_mode(tile: tuple, mode: str) -> tuple:
    return type(tile)(*tile[:3], mode) if hasattr(tile, "_fields") else (*tile[:3], mode)


def _read_wide_pnm(data: bytes, name: str, most: int) -> Stored | None:
    """A PGM or PPM of more than 8 bits, which Pillow scales to 8 or 16; None for others."""
    numbers, place = [], 2
    while len(numbers) < 3:
        while data[place : place + 1].isspace() or data[place : place + 1] == b"#":
            place = data.find(b"\n", place) + 1 or len(data) if data[place : place + 1] == b"#" else place + 1
        end = place
        while data[end : end + 1].isdigit() and end - place < 10:
            end += 1
        if end == place:
            return None
        numbers.append(int(data[place:end]))
        place = end
    width, height, largest = numbers
    if not 255 < largest < 65536:
        return None
    bands = 3 if data[1:2] == b"6" else 1
    _check_samples((height, width, max(3, bands)), name, most)
    count = height * width * bands
    body = data[place + 1 : place + 1 + 2 * count]
    if len(body) < 2 * count or not count:
        raise ImageError(f"{name}: damaged image ({len(body)} bytes of {2 * count})")
    samples = np.frombuffer(body, ">u2").astype(np.uint16).reshape(height, width, bands)
    colours = ("red", "green", "blue") if bands == 3 else ("gray",)
    return Stored(samples, Said(samples.dtype, bands, colours))


def _read_jpeg2000(data: bytes, name: str, most: int) -> Stored:
    try:
        header = jpeg2000_header(data)
    except ValueError as error:
        raise ImageError(f"{name}: damaged image ({error})") from error
    _check_samples((header.height, header.width, max(3, header.bands)), name, most)
    refused = None
    if header.bits <= 8 and header.bands <= 4 and not header.signed:
        try:
            stored = _read_with_pillow(data, name, most)
            return replace(stored, said=replace(stored.said, colours=_colours_of(header, stored.said)))
        except ImageError as error:  # Pillow does not know bands without a colour space
            refused = error
    try:
        import imagecodecs
    except ImportError as error:
        need = f"{name}: a JPEG 2000 image of {header.bands} bands of {header.bits} bits"
        raise refused or tiff.package_error(error, need) from None
    try:
        samples = imagecodecs.jpeg2k_decode(data)
    except MemoryError:
        raise
    except Exception as error:
        raise ImageError(f"{name}: damaged image ({error})") from error
    samples = samples[..., None] if samples.ndim == 2 else samples
    said = Said(samples.dtype, samples.shape[2])
    return Stored(samples, replace(said, colours=_colours_of(header, said)))


def _colours_of(header: Header, said: Said) -> tuple[str, ...]:
    """The colours of the bands of a JPEG 2000 image; only its channel definitions make a band alpha."""
    if said.palette is not None:
        return said.colours
    alpha = [band for band in header.alpha or () if band < said.bands]
    colours = ["red", "green", "blue"] if said.bands - len(alpha) == 3 else [""]
    colours += [""] * (said.bands - len(colours))
    for band in alpha:
        colours[band] = "alpha"
    return tuple(colours)


def _read_tiff(data: bytes, name: str, most: int) -> Stored:
    try:
        tags, mask_tags = tiff.read_tags(io.BytesIO(data))
        bands = tiff.number_in(tags, tiff.BANDS, 1)
        size = tuple(tiff.number_in(tags, tag, 0) for tag in (tiff.HEIGHT, tiff.WIDTH))
        if not all(size):
            raise ValueError("it contains no image")
        if bands > tiff.MOST_BANDS:
            raise ValueError(f"{bands} bands")
    except ValueError as error:
        raise ImageError(f"{name}: damaged TIFF ({error})") from error
    _check_samples((*size, max(3, bands)), name, most)
    said, orientation = tiff.said_in(tags), tiff.orientation_in(tags)
    samples = None
    if _plain(tags, said):
        samples, said = _tiff_with_pillow(tiff.stored_upright(data, tags), name, most, said)
    if samples is None:
        try:
            samples = tiff.read_tiff(data, tags, name, most)
        except tiff.PackageError:
            if said.dtype != np.uint8:
                raise
            samples, said = _tiff_with_pillow(tiff.stored_upright(data, tags), name, most, said)
            if samples is None:
                raise
    mask = tiff.read_mask(data, mask_tags, name, most) if mask_tags else None
    return Stored(samples, said, mask, orientation)


def _plain(tags: tiff.Tags, said: Said) -> bool:
    """Whether Pillow reads all samples of a TIFF as they are."""
    photometric, extra = tiff.number_in(tags, tiff.PHOTOMETRIC, 1), list(tags.get(tiff.EXTRA, [])[:2])
    if tiff.number_in(tags, tiff.COMPRESSION, tiff.NONE) not in tiff.COMMON:
        return False
    one_plane = said.bands == 1 or tiff.number_in(tags, tiff.PLANES, 1) == 1
    if said.dtype != np.uint8:
        kinds = (np.uint16, np.int32, np.float32)  # it misreads int16 of some shapes
        return said.bands == 1 and photometric == tiff.BLACK_IS_0 and said.dtype in kinds and _even(tags)
    if photometric in (tiff.CMYK, tiff.YCBCR, tiff.LAB):
        return one_plane and not extra
    if said.bands == 1:
        return photometric in (tiff.WHITE_IS_0, tiff.BLACK_IS_0, tiff.PALETTE)
    return (
        one_plane
        and _even(tags)
        and (photometric, said.bands, extra)
        in (
            (tiff.RGB, 3, []),
            (tiff.RGB, 4, [2]),
            (tiff.BLACK_IS_0, 2, [2]),
        )
    )


def _even(tags: tiff.Tags) -> bool:
    """Whether samples fill whole bytes."""
    return tiff.bits_in(tags) in (8, 16, 32)


def _tiff_with_pillow(data: bytes, name: str, most: int, said: Said) -> tuple[np.ndarray | None, Said]:
    """The samples of a TIFF as Pillow reads them, and what is said of these; None if it cannot."""
    try:
        stored = _read_with_pillow(data, name, most)
    except ImageError:
        return None, said
    own = stored.said
    converted = set(said.colours) & {"cyan"}
    names = own.colours if converted or own.bands != said.bands else said.colours
    # Pillow inverts what is white at 0, and scales fewer than 8 bits to 8.
    return stored.samples, replace(
        own,
        colours=names,
        names=said.names[: own.bands],
        nodata=_scaled_nodata(said, own),
        default_colours=said.default_colours,
    )


def _scaled_nodata(said: Said, own: Said) -> tuple[float | None, ...]:
    """The values that mark no data among samples that Pillow has scaled to 8 bits, and inverted."""
    scaled = []
    for band in range(own.bands):
        value = said.nodata_of(band)
        if value is not None and own.palette is None:
            value = value * 255 / (2**said.bits - 1) if said.bits else value
            value = 255 - value if said.inverted else value
        scaled.append(value)
    return tuple(scaled)
