"""The size that an encoded picture declares in its own header, read before anything decodes it.

A strip of a TIFF, or a JPEG 2000 file, may hold a picture of another size than its container says, and a few
bytes may claim gigabytes.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

JP2_START = b"\0\0\0\x0cjP  \r\n\x87\n"
MOST_EXIF = 2**20  # bytes
CODESTREAM = b"\xff\x4f\xff\x51"
FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # JPEG markers that begin a frame
ALPHA_KINDS = (1, 2)  # of a channel definition: opacity, and opacity of premultiplied colours


@dataclass(frozen=True)
class Header:
    """What an encoded picture says of itself.

    height: in pixels.
    width: in pixels.
    bands: number of components.
    bits: of the widest component.
    signed: whether samples may be negative.
    alpha: the components, from 0, that are opacity; None if the file does not say.
    """

    height: int
    width: int
    bands: int
    bits: int = 8
    signed: bool = False
    alpha: tuple[int, ...] | None = None


def jpeg2000_header(data: bytes) -> Header:
    """The header of a JP2 file or a bare codestream.

    Raises:
        ValueError: it has none.
    """
    start, alpha = 0, None
    if data.startswith(JP2_START):
        found = _first_boxes(data, 0, len(data))
        if b"jp2c" not in found:
            raise ValueError("no codestream")
        start = found[b"jp2c"][0]
        inner = _first_boxes(data, *found[b"jp2h"]) if b"jp2h" in found else {}
        if b"cdef" in inner:
            begin, end = inner[b"cdef"]
            alpha = tuple(
                channel
                for channel, kind, _ in struct.iter_unpack(">HHH", data[begin + 2 : end][: 6 * 100])
                if kind in ALPHA_KINDS
            )
    if data[start : start + 4] != CODESTREAM:
        raise ValueError("no codestream")
    try:
        right, bottom, left, top = struct.unpack_from(">4I", data, start + 8)
        (bands,) = struct.unpack_from(">H", data, start + 40)
        depths = struct.unpack_from(">" + "B2x" * bands, data, start + 42)
    except struct.error as error:
        raise ValueError("its header is cut short") from error
    bits = max(((depth & 0x7F) + 1 for depth in depths), default=0)
    signed = any(depth & 0x80 for depth in depths)
    return Header(max(0, bottom - top), max(0, right - left), bands, bits, signed, alpha)


def _first_boxes(data: bytes, start: int, stop: int) -> dict[bytes, tuple[int, int]]:
    """Start and end of the first box of each kind, which is the one that decoders use."""
    found: dict[bytes, tuple[int, int]] = {}
    for kind, place in _boxes(data, start, stop):
        found.setdefault(kind, place)
    return found


def _boxes(data: bytes, start: int, stop: int) -> Iterator[tuple[bytes, tuple[int, int]]]:
    """Kind, start and end of the content of each box of a JP2 file; of the last one, to the end."""
    for _ in range(1000):
        if start + 8 > stop:
            return
        length, kind = struct.unpack_from(">I4s", data, start)
        head = 8
        if length == 1 and start + 16 <= stop:
            (length,) = struct.unpack_from(">Q", data, start + 8)
            head = 16
        end = stop if length == 0 else start + length
        if length and length < head:
            return
        yield kind, (start + head, min(end, stop))
        start = end


def png_exif(file: BinaryIO) -> bytes:
    """The EXIF data of a PNG file, wherever it lies; b"" if there is none."""
    file.seek(8)
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        if kind == b"eXIf" and length <= MOST_EXIF:
            return file.read(length)
        file.seek(length + 4, os.SEEK_CUR)
    return b""


def jpeg_header(data: bytes) -> Header:
    """The header of a JPEG stream.

    Raises:
        ValueError: it has none.
    """
    place = 2
    while data.startswith(b"\xff\xd8") and place + 4 <= len(data):
        if data[place] != 0xFF:
            break
        marker = data[place + 1]
        if marker == 0xFF or marker in (0x01, *range(0xD0, 0xD9)):  # filling, or a marker without content
            place += 1 if marker == 0xFF else 2
            continue
        (length,) = struct.unpack_from(">H", data, place + 2)
        if marker in FRAMES and place + 10 <= len(data):
            bits, height, width, bands = struct.unpack_from(">BHHB", data, place + 4)
            return Header(height, width, bands, bits)
        place += 2 + length
    raise ValueError("no JPEG frame")


def webp_header(data: bytes) -> Header:
    """The header of a WebP stream.

    Raises:
        ValueError: it has none.
    """
    kind = data[12:16]
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP" and len(data) >= 30:
        if kind == b"VP8X":
            width, height = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (24, 27))
            return Header(height, width, 4)
        if kind == b"VP8 ":
            width, height = struct.unpack_from("<HH", data, 26)
            return Header(height & 0x3FFF, width & 0x3FFF, 3)
        if kind == b"VP8L":
            (packed,) = struct.unpack_from("<I", data, 21)
            return Header((packed >> 14 & 0x3FFF) + 1, (packed & 0x3FFF) + 1, 4)
    raise ValueError("no WebP frame")


def lerc_header(data: bytes) -> Header:
    """The header of a LERC blob.

    Raises:
        ValueError: it has none.
    """
    if not data.startswith(b"Lerc2 ") or len(data) < 30:
        raise ValueError("no LERC blob")
    (version,) = struct.unpack_from("<i", data, 6)
    start = 14 if version >= 3 else 10
    height, width = struct.unpack_from("<ii", data, start)
    bands = struct.unpack_from("<i", data, start + 8)[0] if version >= 4 else 1
    return Header(max(0, height), max(0, width), max(1, bands))
