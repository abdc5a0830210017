"""TIFF files: what their tags say, and their samples as far as these tags allow for.

Only the first picture of a file is read, and its mask. Tags are read here, before a library sees the file, so
that nothing is decoded that would be larger than they say.
"""

from __future__ import annotations

import io
import math
import os
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO
from xml.etree import ElementTree

import numpy as np

from swancli.errors import ImageError, import_error
from swancli.images.headers import Header, jpeg2000_header, jpeg_header, lerc_header, webp_header
from swancli.images.rule import COLOURS, INKS, Said

TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC = 256, 257, 258, 259, 262
STRIPS, ORIENTATION, BANDS, ROWS, STRIP_BYTES, PLANES = 273, 274, 277, 278, 279, 284
COLOUR_MAP, TILE_WIDTH, TILE_HEIGHT, TILES, TILE_BYTES = 320, 322, 323, 324, 325
SUBFILE, EXTRA, FORMAT, DEPTH = 254, 338, 339, 32997
METADATA, NODATA = 42112, 42113
PLACED = (33550, 33922, 34264)  # tags that give a picture its place on the Earth
KEPT = {
    *(WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, STRIPS, ORIENTATION, BANDS, ROWS, STRIP_BYTES, PLANES),
    *(COLOUR_MAP, TILE_WIDTH, TILE_HEIGHT, TILES, TILE_BYTES, SUBFILE, EXTRA, FORMAT, DEPTH),
    *(METADATA, NODATA, *PLACED),
}
OF_A_MASK = {SUBFILE, PHOTOMETRIC, HEIGHT, WIDTH}  # tell it from other pictures
# Types of the values of a tag, as numpy and struct call them.
TYPES = {1: "u1", 2: "S", 3: "u2", 4: "u4", 6: "i1", 7: "u1", 8: "i2", 9: "i4", 11: "f4", 12: "f8", 13: "u4"}
TYPES |= {16: "u8", 17: "i8", 18: "u8"}
SIZES = {kind: np.dtype(name.replace("S", "S1")).itemsize for kind, name in TYPES.items()} | {5: 8, 10: 8}
MOST_TAG_BYTES = 2**26  # of all tags of a file
MOST_DIRECTORIES = 64  # looked through for a mask
MOST_BANDS = 2**16 - 1
MOST_COLOURS = 2**16  # of a palette
USUAL_TILE = 2048  # pixels a side; tiles of a mask may be larger than a picture up to this size
WHITE_IS_0, BLACK_IS_0, RGB, PALETTE, MASK, CMYK, YCBCR, LAB = 0, 1, 2, 3, 4, 5, 6, 8
# Compressions whose decoder is given the size that the tags declare, and those with a size in each strip.
BOUNDED = {1, 5, 8, 32773, 32946, 34925, 50000}
# What Pillow decodes wherever it was built: those, fax, and JPEG, old and new. It prints a line about others.
COMMON = {1, 2, 3, 4, 5, 6, 7, 8, 32773, 32946}
NONE, DEFLATE = 1, (8, 32946)
OWN_SIZE: dict[int, Callable[[bytes], Header]] = {
    7: jpeg_header,
    33003: jpeg2000_header,
    33004: jpeg2000_header,
    33005: jpeg2000_header,
    34712: jpeg2000_header,
    34887: lerc_header,
    34927: webp_header,
    50001: webp_header,
}
ALPHA_EXTRAS = (1, 2)  # premultiplied, and plain

Tags = dict[int, Any]


class PackageError(ImageError):
    """The package that would read the image is absent, or does not work."""


def package_error(error: ImportError, need: str) -> PackageError:
    """For a package of the extra `tiff` that cannot be imported; `need` is what needs it."""
    found = import_error(error, need, "tiff")
    return PackageError(found.problem, found.hint)


def read_tags(file: BinaryIO) -> tuple[Tags, Tags | None]:
    """The tags of the first picture in a TIFF, and of its mask, or None: arrays of numbers, bytes of texts.

    Raises:
        ValueError: it is damaged.
    """
    head = file.read(16)
    if head[:4] not in TIFF_STARTS:
        raise ValueError("not a TIFF")
    order, big = "<" if head[:2] == b"II" else ">", head[2:4] in (b"+\0", b"\0+")
    try:
        (place,) = struct.unpack_from(order + ("Q" if big else "I"), head, 8 if big else 4)
        if not place:
            raise ValueError("it contains no image")
        reader, seen = _TagReader(file, order, big), {0, place}
        entries, place = reader.entries(place)
        first = reader.values(entries, KEPT, whole=True)
    except (struct.error, OverflowError, OSError) as error:
        raise ValueError(f"damaged directory ({error})") from error
    size = [number_in(first, tag, 0) for tag in (HEIGHT, WIDTH)]
    try:
        while place not in seen and len(seen) <= MOST_DIRECTORIES:
            seen.add(place)
            entries, place = reader.entries(place)
            tags = reader.values(entries, OF_A_MASK)
            is_mask = number_in(tags, SUBFILE, 0) == 4 and number_in(tags, PHOTOMETRIC, 0) == MASK
            if is_mask and [number_in(tags, tag, 0) for tag in (HEIGHT, WIDTH)] == size:
                return first, reader.values(entries, KEPT)
    except (struct.error, OverflowError, OSError):
        pass
    return first, None


Entry = tuple[int, int, int, bytes]  # tag, type and number of its values, and these or their place


class _TagReader:
    """Reads the tags of a TIFF.

    Their values do not overlap, so all together have fewer bytes than the file. A file whose tags claim more
    is made to harm: each tag is copied in full.
    """

    def __init__(self, file: BinaryIO, order: str, big: bool) -> None:
        self._file, self._order, self._big = file, order, big
        self._length = file.seek(0, os.SEEK_END)
        self._left = min(self._length, MOST_TAG_BYTES)

    def entries(self, place: int) -> tuple[list[Entry], int]:
        """The entries of a directory, and the place of the next directory; 0 for none."""
        count_form, form, link = (
            self._order + one for one in (("Q", "HHQ8s", "Q") if self._big else ("H", "HHI4s", "I"))
        )
        self._file.seek(place)
        (count,) = struct.unpack(count_form, self._file.read(struct.calcsize(count_form)))
        if count > 4096:
            raise struct.error(f"{count} tags")
        entries = list(struct.iter_unpack(form, self._file.read(count * struct.calcsize(form))))
        if len(entries) < count:
            raise struct.error("it is cut short")
        (following,) = struct.unpack_from(link, self._file.read(struct.calcsize(link)) + bytes(8))
        return entries, following

    def values(self, entries: list[Entry], wanted: set[int], *, whole: bool = False) -> Tags:
        """Some of the tags; with `whole`, the others count as well, since libraries copy them."""
        tags: Tags = {}
        for tag, kind, number, own in entries:
            if tag in wanted and kind in TYPES and tag not in tags:
                tags[tag] = self._value(kind, number, own)
            elif whole and len(own) < number * SIZES.get(kind, 0) <= self._length:
                self._count(number * SIZES[kind])
        return tags

    def _count(self, length: int) -> None:
        self._left -= length
        if self._left < 0:
            raise struct.error("its tags are too large")

    def _value(self, kind: int, number: int, own: bytes) -> Any:
        dtype = np.dtype(TYPES[kind] + ("1" if kind == 2 else "")).newbyteorder(self._order)
        length = number * dtype.itemsize
        if length > len(own):
            self._count(length)
            self._file.seek(int.from_bytes(own, "little" if self._order == "<" else "big"))
            own = self._file.read(length)
        value = own[:length]
        if len(value) < length:
            raise struct.error("a tag is cut short")
        return value if kind == 2 else np.frombuffer(value, dtype).astype(dtype.newbyteorder("="))


def stored_upright(data: bytes, tags: Tags) -> bytes:
    """The same TIFF without an orientation, which some versions of Pillow apply by themselves."""
    if number_in(tags, ORIENTATION, 1) == 1:
        return data
    order, big = "<" if data[:2] == b"II" else ">", data[2:4] in (b"+\0", b"\0+")
    (place,) = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)
    (count,) = struct.unpack_from(order + ("Q" if big else "H"), data, place)
    changed, start, size = bytearray(data), place + (8 if big else 2), 20 if big else 12
    for entry in range(start, start + count * size, size):
        if struct.unpack_from(order + "H", data, entry)[0] == ORIENTATION:
            struct.pack_into(order + ("HHQHHHH" if big else "HHIHH"), changed, entry, *_UPRIGHT[big])
    return bytes(changed)


_UPRIGHT = {False: (ORIENTATION, 3, 1, 1, 0), True: (ORIENTATION, 3, 1, 1, 0, 0, 0)}


def number_in(tags: Tags, tag: int, default: int) -> int:
    """The first number of a tag."""
    value = tags.get(tag)
    return int(value[0]) if isinstance(value, np.ndarray) and value.size else default


def bits_in(tags: Tags) -> int:
    """Bits of the widest sample."""
    return int(np.max(tags.get(BITS, 1), initial=1))


def placed_on_earth(tags: Tags) -> bool:
    """Whether a picture has coordinates; then its orientation is that of a map, whatever the tag says."""
    return any(tag in tags for tag in PLACED)


def orientation_in(tags: Tags) -> int:
    """The orientation of a picture, 1 to 8; 1 where it is a map."""
    found = 1 if placed_on_earth(tags) else number_in(tags, ORIENTATION, 1)
    return found if found in range(1, 9) else 1


# ---------------------------------------------------------------------------------------------------------
# what the tags say


def said_in(tags: Tags) -> Said:
    """What the tags of a picture say of its samples."""
    bands, bits = number_in(tags, BANDS, 1), bits_in(tags)
    kind, photometric = number_in(tags, FORMAT, 1), number_in(tags, PHOTOMETRIC, BLACK_IS_0)
    base = {RGB: COLOURS, CMYK: INKS, PALETTE: ("palette",), YCBCR: COLOURS, LAB: COLOURS}
    colours = [*base.get(photometric, ("gray",))][:bands]
    colours += [""] * (bands - len(colours))
    extra = list(tags.get(EXTRA, [])[-bands:])
    for band, meaning in enumerate(extra, start=bands - len(extra)):
        if meaning in ALPHA_EXTRAS:
            colours[band] = "alpha"
    names, stated = [""] * bands, False
    for item in metadata_items(tags):
        place = item.get("sample", "")
        if not (place.isdigit() and int(place) < bands):
            continue
        text = (item.text or "").strip().lower()
        if item.get("name") == "DESCRIPTION":
            names[int(place)] = text
        elif item.get("name") == "COLORINTERP":
            colours[int(place)], stated = text, True
    value = nodata_in(tags)
    return Said(
        dtype_of(bits, kind),
        bands,
        tuple(colours),
        tuple(names),
        (value,) * bands,
        bits if bits < 8 else 0,
        _palette_in(tags) if photometric == PALETTE else None,
        premultiplied=1 in extra,
        inverted=photometric == WHITE_IS_0,
        default_colours=not stated,
    )


def metadata_items(tags: Tags) -> Iterator[ElementTree.Element]:
    """The items of GDAL's metadata; none if they are damaged."""
    text = bytes(tags.get(METADATA, b"")).rstrip(b"\0")
    if not text or len(text) > 2**20 or b"<!" in text:  # no entities, which may grow without limit
        return
    try:
        yield from ElementTree.fromstring(text).iter("Item")
    except (ElementTree.ParseError, ValueError, LookupError):
        return


def nodata_in(tags: Tags) -> float | None:
    """The value that marks no data, or None."""
    text = bytes(tags.get(NODATA, b"")).rstrip(b"\0 ").strip()
    try:
        return float(re.sub(rb",", b".", text)) if text else None
    except ValueError:
        return None


def dtype_of(bits: int, kind: int) -> np.dtype:
    """The type of samples of n bits; kind as in SampleFormat: 1 unsigned, 2 signed, 3 float, 6 complex."""
    if kind == 3:
        return np.dtype(np.float16 if bits <= 16 else np.float32 if bits <= 32 else np.float64)
    if kind in (5, 6):
        return np.dtype(np.complex64 if bits <= 64 else np.complex128)
    size = next((size for size in (8, 16, 32) if bits <= size), 64)
    return np.dtype(f"{'int' if kind == 2 else 'uint'}{size}")


def _palette_in(tags: Tags) -> np.ndarray | None:
    table = tags.get(COLOUR_MAP)
    if table is None or not 3 <= len(table) <= 3 * MOST_COLOURS:
        return None
    # Some writers store 8 bits, as GDAL and libtiff know.
    table = np.asarray(table[: len(table) // 3 * 3], np.uint16).reshape(3, -1).T
    colours = table if table.max(initial=0) < 256 else table >> 8
    return np.concatenate([colours, np.full((len(colours), 1), 255)], axis=1).astype(np.uint8)


# ---------------------------------------------------------------------------------------------------------
# samples


def segments_of(tags: Tags) -> tuple[int, int, int, np.ndarray, np.ndarray]:
    """Height, width and bands of the strips or tiles of a picture, where they start, and their lengths.

    Raises:
        ValueError: they do not fit the picture.
    """
    height, width, bands = (number_in(tags, tag, 0) for tag in (HEIGHT, WIDTH, BANDS))
    bands = bands or 1
    if TILES in tags or TILE_WIDTH in tags:
        tall, wide = (number_in(tags, tag, 0) for tag in (TILE_HEIGHT, TILE_WIDTH))
        starts, lengths = (np.asarray(tags.get(tag, [])) for tag in (TILES, TILE_BYTES))
    else:
        tall, wide = min(height, number_in(tags, ROWS, height)), width
        starts, lengths = (np.asarray(tags.get(tag, [])) for tag in (STRIPS, STRIP_BYTES))
    if min(tall, wide, height, width) < 1:
        raise ValueError("no pixels")
    planes = bands if number_in(tags, PLANES, 1) == 2 else 1
    count = -(-height // tall) * -(-width // wide) * planes
    if len(starts) != count or len(lengths) != count:
        raise ValueError(f"{len(starts)} strips or tiles, and {count} are needed")
    return tall, wide, bands // planes, starts, lengths


def _strips(data: bytes, starts: np.ndarray, lengths: np.ndarray) -> Iterator[bytes]:
    for start, length in zip(map(int, starts), map(int, lengths), strict=True):
        yield data[start : start + length]


def check_declared(data: bytes, tags: Tags, name: str, most: int) -> None:
    """Refuses a TIFF that would decode to more than its tags declare, or to more than n samples.

    Raises:
        ImageError: it is refused.
        ValueError: it is damaged.
    """
    tall, wide, bands, starts, lengths = segments_of(tags)
    if number_in(tags, DEPTH, 1) != 1:
        raise ImageError(f"{name}: a TIFF with {number_in(tags, DEPTH, 1)} layers is not a single image")
    if tall * wide * bands > most:
        raise ImageError(
            f"{name}: image too large (strips of {tall} x {wide} x {bands})", "cut it into tiles"
        )
    compression = number_in(tags, COMPRESSION, NONE)
    if compression in BOUNDED:
        return
    header_of = OWN_SIZE.get(compression)
    if header_of is None:
        raise ImageError(
            f"{name}: a TIFF of compression {compression}, which is not read",
            "write it again with another: gdal_translate -co COMPRESS=DEFLATE",
        )
    for strip in filter(None, _strips(data, starts, lengths)):
        header = header_of(strip)
        blobs = strip.count(b"Lerc2 ") if header_of is lerc_header else 1
        if header.height > tall or header.width > wide or header.bands > max(bands, 4) or blobs > bands:
            held = f"{header.height} x {header.width} x {header.bands}"
            declared = f"{tall} x {wide} x {bands}"
            raise ImageError(
                f"{name}: damaged TIFF (a strip of {held} samples where {declared} are declared)"
            )


def read_tiff(data: bytes, tags: Tags, name: str, most: int) -> np.ndarray:
    """The samples (H, W, C) of the first picture of a TIFF, of any type, decoded with tifffile.

    Raises:
        ImageError: it is damaged or too large.
        PackageError: see there.
    """
    try:
        import tifffile
    except ImportError as error:
        need = f"{name}: a TIFF that Pillow cannot read (signed or wide samples, or many bands)"
        raise package_error(error, need) from None
    try:
        check_declared(data, tags, name, most)
        _check_without_codecs(data, tags, name)
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            page = file.pages[0]
            bands, height, width = (number_in(tags, tag, 1) for tag in (BANDS, HEIGHT, WIDTH))
            if math.prod(page.shape) > height * width * bands:
                raise ValueError(f"its shape is {page.shape}")
            samples = np.asarray(page.asarray(maxworkers=1))
        if number_in(tags, PLANES, 1) == 2 and bands > 1:
            samples = np.moveaxis(samples.reshape(bands, height, width), 0, 2)
        samples = samples.reshape(height, width, bands)
    except (ImageError, MemoryError):
        raise
    except Exception as error:
        if "imagecodecs" in str(error):
            need = f"{name}: a TIFF of compression {number_in(tags, COMPRESSION, NONE)}"
            raise package_error(_import_error_of_codecs(error), need) from None
        raise ImageError(f"{name}: damaged TIFF ({error})") from error
    return samples.astype(np.uint8) if samples.dtype == np.bool_ else samples


def _import_error_of_codecs(error: Exception) -> ImportError:
    """Why tifffile does without imagecodecs: it says only that it does."""
    try:
        import imagecodecs  # noqa: F401
    except ImportError as reason:
        return reason
    return ImportError(str(error))


def _check_without_codecs(data: bytes, tags: Tags, name: str) -> None:
    """Refuses a strip that inflates to more than is declared, which tifffile does not without imagecodecs.

    Raises:
        ImageError: there is such a strip.
    """
    try:
        import imagecodecs  # noqa: F401
    except ImportError:
        if number_in(tags, COMPRESSION, NONE) in DEFLATE:
            tall, wide, bands, starts, lengths = segments_of(tags)
            most = tall * wide * bands * -(-bits_in(tags) // 8)
            for strip in _strips(data, starts, lengths):
                if len(zlib.decompressobj().decompress(strip, most + 1)) > most:
                    raise ImageError(f"{name}: damaged TIFF (a strip is larger than declared)") from None


def read_mask(data: bytes, tags: Tags, name: str, most: int) -> np.ndarray:
    """bool (H, W): where the first picture of a TIFF has data, by its mask.

    Args:
        data: the file.
        tags: of the mask.
        name: for errors.
        most: samples.

    Raises:
        ImageError: the mask is damaged or too large, or compressed in a way that is not read.
    """
    try:
        return _read_mask(data, tags, most)
    except (ValueError, zlib.error) as error:
        raise ImageError(f"{name}: damaged TIFF (its mask: {error})") from error


def _read_mask(data: bytes, tags: Tags, most: int) -> np.ndarray:
    tall, wide, bands, starts, lengths = segments_of(tags)
    height, width = (number_in(tags, tag, 0) for tag in (HEIGHT, WIDTH))
    bits, compression = number_in(tags, BITS, 1), number_in(tags, COMPRESSION, NONE)
    if bits not in (1, 8) or bands != 1 or compression not in (NONE, *DEFLATE):
        raise ValueError(f"{bits} bits, {bands} bands, compression {compression}")
    down, across = -(-height // tall), -(-width // wide)
    fits = tall < height + USUAL_TILE and wide < width + USUAL_TILE
    if not fits or down * tall * across * wide > most:
        raise ValueError(f"tiles of {tall} x {wide}, for {height} x {width} pixels")
    row_bytes = -(-wide // 8) if bits == 1 else wide
    mask = np.zeros((height, width), bool)
    for number, strip in enumerate(_strips(data, starts, lengths)):
        top, left = number // across * tall, number % across * wide
        part = mask[top : top + tall, left : left + wide]
        rows = np.zeros((len(part), row_bytes), np.uint8)
        if compression != NONE and strip:
            strip = zlib.decompressobj().decompress(strip, rows.size)
        held = np.frombuffer(strip, np.uint8)[: rows.size]
        rows.ravel()[: len(held)] = held
        part[:] = (np.unpackbits(rows, axis=1) if bits == 1 else rows)[:, : part.shape[1]]
    return mask
