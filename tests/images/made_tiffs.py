"""Makes TIFF files by hand, tag by tag, so that a test can write what no library would."""

import struct

import numpy as np

TYPES = {"B": 1, "s": 2, "H": 3, "I": 4, "d": 12}


def made_tiff(tags, strips=(), more=()):
    """A little-endian TIFF.

    Args:
        tags: for each number, the letter of a type in `struct` and its values, or bytes of text.
        strips: the bytes of each strip, whose places and lengths are added to the tags.
        more: further directories, pairs of tags and strips.
    """
    pictures = [(dict(tags), tuple(strips)), *((dict(own), tuple(data)) for own, data in more)]
    body, links = bytearray(b"II*\0\0\0\0\0"), [4]
    for own, data in pictures:
        places = []
        for strip in data:
            places.append(len(body))
            body += strip + bytes(len(strip) % 2)
        if data:
            own |= {273: ("I", places), 279: ("I", [len(strip) for strip in data])}
        entries = []
        for number in sorted(own):
            kind, values = ("s", own[number]) if isinstance(own[number], bytes) else own[number]
            packed = values if kind == "s" else struct.pack(f"<{len(values)}{kind}", *values)
            count = len(values)
            if len(packed) > 4:
                packed, place = struct.pack("<I", len(body)), packed
                body += place + bytes(len(place) % 2)
            entries.append(struct.pack("<HHI", number, TYPES[kind], count) + packed.ljust(4, b"\0"))
        struct.pack_into("<I", body, links[-1], len(body))
        body += struct.pack("<H", len(entries)) + b"".join(entries)
        links.append(len(body))
        body += bytes(4)
    return bytes(body)


def picture_tags(height, width, bands=3, bits=8, **others):
    """The tags of a picture in one strip.

    Args:
        height: in pixels.
        width: in pixels.
        bands: samples per pixel.
        bits: per sample.
        others: values by the names compression, photometric, planes, kind, orientation.
    """
    numbers = {"compression": 259, "photometric": 262, "planes": 284, "orientation": 274}
    tags = {
        256: ("I", [width]),
        257: ("I", [height]),
        258: ("H", [bits] * bands),
        259: ("H", [1]),
        262: ("H", [2 if bands == 3 else 1]),
        277: ("H", [bands]),
        278: ("I", [height]),
        339: ("H", [others.pop("kind", 1)] * bands),
    }
    return tags | {numbers[name]: ("H", [value]) for name, value in others.items()}


def plain_tiff(samples, tags=None, more=(), **others):
    """An uncompressed TIFF of samples (H, W, C)."""
    height, width, bands = samples.shape
    kind = {"u": 1, "i": 2, "f": 3, "c": 6}[samples.dtype.kind]
    own = picture_tags(height, width, bands, 8 * samples.dtype.itemsize, kind=kind, **others)
    return made_tiff(own | (tags or {}), [np.ascontiguousarray(samples).tobytes()], more)
