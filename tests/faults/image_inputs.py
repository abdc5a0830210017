"""Bad and odd images: refused by `swan prepare` and `swan query --image`, or left out, counted and listed."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from cases import Case, Make, content
from PIL import Image
from readers import png

from swancli.images import decode_image


def saved(picture: Image.Image, kind: str, **options: Any) -> bytes:
    written = io.BytesIO()
    picture.save(written, kind, **options)
    return written.getvalue()


def noise(side: int = 64) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8))


def half(data: bytes) -> bytes:
    return data[: len(data) // 2]


def chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG file."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of(width: int, height: int, rows: bytes, depth: int = 8, colours: int = 2) -> bytes:
    """A PNG file that claims a size, whatever rows it has."""
    head = struct.pack(">IIBBBBB", width, height, depth, colours, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def tiff(samples: np.ndarray, **options: Any) -> bytes:
    written = io.BytesIO()
    tifffile.imwrite(written, samples, **options)
    return written.getvalue()


def retagged(data: bytes, tag: int, value: int) -> bytes:
    """A little-endian TIFF with another value of a tag of its first directory."""
    changed = bytearray(data)
    (start,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, start)
    for entry in range(start + 2, start + 2 + 12 * count, 12):
        if struct.unpack_from("<H", data, entry)[0] == tag:
            struct.pack_into("<HII", changed, entry + 2, 4, 1, value)  # as a LONG
    return bytes(changed)


def bad_check_sum() -> bytes:
    data = bytearray(png())
    data[data.index(b"IDAT") + 6] ^= 255
    return bytes(data)


def text_bomb() -> bytes:
    """A PNG file whose comment grows from 64 KB to 64 MB."""
    data = png()
    comment = chunk(b"zTXt", b"note\0\0" + zlib.compress(bytes(64 * 2**20), 9))
    return data[:33] + comment + data[33:]


GREY = np.full((9, 9), 90, np.uint8)
WIDE = tiff(np.full((9, 9, 3), 9000, np.uint16))
PLAIN_TIFF = saved(noise(), "TIFF")
BAD = {  # name of the file, its bytes, and what is said of it
    "no bytes": ("bad.jpg", b"", "not an image"),
    "a text file": ("bad.jpg", b"not an image at all", "not an image"),
    "a web page": ("bad.jpg", b"<!DOCTYPE html><title>404</title>", "not an image"),
    "a PDF": ("bad.png", b"%PDF-1.7\n1 0 obj", "not an image"),
    "a zip archive": ("bad.tif", b"PK\x03\x04" + bytes(60), "not an image"),
    "a pointer of Git LFS": (
        "bad.jpg",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0",
        "not an image",
    ),
    "NUL bytes": ("bad.jpg", bytes(4096), "not an image"),
    "a signature alone, JPEG": ("bad.jpg", b"\xff\xd8\xff\xe0", "bad.jpg"),
    "a signature alone, PNG": ("bad.png", b"\x89PNG\r\n\x1a\n", "bad.png"),
    "a signature alone, TIFF": ("bad.tif", b"II*\0\x08\0\0\0", "bad.tif"),
    "cut in the middle, JPEG": ("bad.jpg", half(saved(noise(), "JPEG")), "damaged"),
    "cut in the middle, progressive JPEG": (
        "bad.jpg",
        half(saved(noise(), "JPEG", progressive=True)),
        "damaged",
    ),
    "cut in the middle, PNG": ("bad.png", half(saved(noise(), "PNG")), "damaged"),
    "cut in the middle, TIFF": ("bad.tif", half(PLAIN_TIFF), "damaged"),
    "cut in the middle, compressed TIFF": (
        "bad.tif",
        half(saved(noise(), "TIFF", compression="tiff_lzw")),
        "damaged",
    ),
    "cut in the middle, 16-bit TIFF": ("bad.tif", half(WIDE), "damaged"),
    "cut in the middle, BMP": ("bad.bmp", half(saved(noise(), "BMP")), "damaged"),
    "cut in the middle, WebP": ("bad.webp", half(saved(noise(), "WEBP")), "bad.webp"),
    "cut in the middle, JPEG 2000": ("bad.jp2", saved(noise(), "JPEG2000")[:200], "bad.jp2"),
    "cut in the middle, GIF": ("bad.gif", half(saved(noise(), "GIF")), "damaged"),
    "cut within its header, JPEG": ("bad.jpg", saved(noise(), "JPEG")[:100], "bad.jpg"),
    "cut within its header, PNG": ("bad.png", png()[:20], "bad.png"),
    "cut within its header, BMP": ("bad.bmp", saved(noise(), "BMP")[:20], "bad.bmp"),
    "a wrong check sum": ("bad.png", bad_check_sum(), "damaged"),
    "no width": ("bad.png", png_of(0, 9, b""), "bad.png"),
    "a bit depth that PNG does not have": ("bad.png", png_of(9, 9, bytes(252), depth=3), "bad.png"),
    "a colour type that PNG does not have": ("bad.png", png_of(9, 9, bytes(252), colours=5), "bad.png"),
    "a bomb, PNG": ("bad.png", png_of(60_000, 60_000, bytes(9)), "too large"),
    "a bomb, comment of a PNG": ("bad.png", text_bomb(), "bad.png"),
    "a bomb, TIFF": ("bad.tif", retagged(retagged(PLAIN_TIFF, 256, 60_000), 257, 60_000), "too large"),
    "a bomb, 16-bit TIFF": ("bad.tif", retagged(retagged(WIDE, 256, 60_000), 257, 60_000), "too large"),
    "a bomb, BMP": (
        "bad.bmp",
        struct.pack("<2sIHHIIiiHHIIiiII", b"BM", 99, 0, 0, 54, 40, 60_000, 60_000, 1, 24, 0, 0, 1, 1, 0, 0),
        "too large",
    ),
    "a negative size": (
        "bad.bmp",
        struct.pack("<2sIHHIIiiHHIIiiII", b"BM", 99, 0, 0, 54, 40, -9, 9, 1, 24, 0, 0, 1, 1, 0, 0),
        "bad.bmp",
    ),
    "a TIFF without a directory": ("bad.tif", b"II*\0\xff\xff\xff\x7f", "bad.tif"),
    "a TIFF whose directory is itself": ("bad.tif", b"II*\0\x08\0\0\0\0\0\x08\0\0\0", "bad.tif"),
    "a TIFF of an unknown compression": ("bad.tif", retagged(PLAIN_TIFF, 259, 60_001), "bad.tif"),
    "a TIFF whose strips lie outside of it": ("bad.tif", retagged(PLAIN_TIFF, 273, 2**31), "damaged"),
    "a TIFF without a pixel": ("bad.tif", retagged(PLAIN_TIFF, 257, 0), "bad.tif"),
}


def listed(name: str, data: bytes | None) -> Make:
    """A table of two images, of which one is sound; None for a file that is not there."""

    def make(folder: Path) -> Path:
        content("source/table.csv", f"filename,caption,split\n0.png,a,train\n{name},b,train\n")(folder)
        content("source/0.png", png())(folder)
        if data is not None:
            content(f"source/{name}", data)(folder)
        return folder / "source" / "table.csv"

    return make


def prepare(path: Path) -> list[object]:
    return ["prepare", "--dataset", "small", "--source", path, "--workers", "1"]


def folder_of_that_name(folder: Path) -> Path:
    path = listed("bad.jpg", None)(folder)
    (path.parent / "bad.jpg").mkdir()
    return path


# Refused, and with `--missing skip` left out, counted and listed.
SKIPPED = [
    Case("image", defect, listed(name, data), prepare, (name, said, "--missing skip"))
    for defect, (name, data, said) in BAD.items()
]
SKIPPED += [
    Case("image", "not there", listed("bad.jpg", None), prepare, ("bad.jpg", "1 of 2", "--missing skip")),
    Case("image", "a folder of that name", folder_of_that_name, prepare, ("bad.jpg", "--missing skip")),
]


def sound_folder(*files: tuple[str, bytes]) -> Make:
    def make(folder: Path) -> Path:
        for name, data in files:
            content(f"photos/{name}", data)(folder)
        return folder / "photos"

    return make


def ask_by_image(path: Path) -> list[object]:
    """The image is looked at before the model: an embeddings file is not even there."""
    return ["query", "--image", path, "--embeddings", path.parent / "none.h5"]


# ---------------------------------------------------------------------------------------------------------
# odd, but pictures


def decoded(
    pixel: tuple[int, int, int], shape: tuple[int, int] = (9, 9), near: int = 0
) -> Callable[[Path], None]:
    """A check of the size and of the first pixel."""

    def check(path: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pixels = decode_image(path.read_bytes(), str(path))
        assert pixels.dtype == np.uint8
        assert pixels.shape == (*shape, 3)
        assert np.abs(pixels[0, 0].astype(int) - pixel).max() <= near

    return check


def frames(kind: str) -> bytes:
    first, second = Image.new("RGB", (9, 9), (250, 0, 0)), Image.new("RGB", (9, 9), (0, 250, 0))
    options = {"lossless": True} if kind == "WEBP" else {}
    return saved(first, kind, save_all=True, append_images=[second], **options)


def coloured_palette(transparent: bool = False) -> bytes:
    picture = Image.new("P", (9, 9))
    picture.putpalette([10, 20, 30, 40, 50, 60])
    return saved(picture, "PNG", **({"transparency": 0} if transparent else {}))


RED = Image.new("RGB", (9, 9), (250, 0, 0))
ODD = {
    "one pixel": (png(side=1), decoded((90, 90, 90), (1, 1))),
    "one pixel high and 3,000 wide": (
        saved(Image.new("L", (3000, 1), 7), "PNG"),
        decoded((7, 7, 7), (1, 3000)),
    ),
    "1-bit": (saved(Image.new("1", (9, 9), 1), "PNG"), decoded((255, 255, 255))),
    "grey": (saved(Image.new("L", (9, 9), 90), "JPEG"), decoded((90, 90, 90))),
    "16-bit grey, PNG": (
        saved(Image.fromarray(np.full((9, 9), 65535, np.uint16)), "PNG"),
        decoded((255, 255, 255)),
    ),
    "16-bit grey, TIFF": (tiff(np.full((9, 9), 65535, np.uint16)), decoded((255, 255, 255))),
    "16-bit colours, TIFF": (tiff(np.full((9, 9, 3), 65535, np.uint16)), decoded((255, 255, 255))),
    "16-bit colours, PNG": (
        png_of(9, 9, (b"\0" + b"\xff\xff\0\0\0\0" * 9) * 9, depth=16),
        decoded((255, 0, 0)),
    ),
    "32-bit whole numbers": (tiff(np.full((9, 9), 2**31, np.uint32)), decoded((255, 255, 255))),
    "fractions": (tiff(np.full((9, 9), 0.5, np.float32)), decoded((128, 128, 128), near=1)),
    "fractions, some of them NaN": (tiff(np.full((9, 9), np.nan, np.float32)), decoded((0, 0, 0))),
    "five bands": (
        tiff(np.full((5, 9, 9), 200, np.uint8), planarconfig="separate", photometric="minisblack"),
        decoded((200, 200, 200)),
    ),
    "CMYK, JPEG": (saved(Image.new("CMYK", (9, 9), (0, 255, 255, 0)), "JPEG"), decoded((255, 0, 0), near=3)),
    "CMYK, TIFF": (saved(Image.new("CMYK", (9, 9), (0, 255, 255, 0)), "TIFF"), decoded((255, 0, 0), near=3)),
    "a palette": (coloured_palette(), decoded((10, 20, 30))),
    "a palette with a transparent colour": (coloured_palette(True), decoded((0, 0, 0))),
    "transparent": (saved(Image.new("RGBA", (9, 9), (200, 9, 9, 0)), "PNG"), decoded((0, 0, 0))),
    "grey with transparency": (saved(Image.new("LA", (9, 9), (90, 255)), "PNG"), decoded((90, 90, 90))),
    "animated GIF: the first": (frames("GIF"), decoded((250, 0, 0), near=3)),
    "animated PNG: the first": (frames("PNG"), decoded((250, 0, 0))),
    "animated WebP: the first": (frames("WEBP"), decoded((250, 0, 0), near=3)),
    "TIFF of several pages: the first": (frames("TIFF"), decoded((250, 0, 0))),
    "bytes after its end, JPEG": (saved(RED, "JPEG") + b"more", decoded((250, 0, 0), near=4)),
    "bytes after its end, PNG": (saved(RED, "PNG") + b"more", decoded((250, 0, 0))),
    "a damaged EXIF block": (
        saved(RED, "JPEG", exif=b"Exif\0\0" + b"\xff" * 30),
        decoded((250, 0, 0), near=4),
    ),
    "a damaged colour profile": (saved(RED, "PNG", icc_profile=b"nonsense"), decoded((250, 0, 0))),
    "a PNG named .jpg": (saved(RED, "PNG"), decoded((250, 0, 0))),
}
ODD_CASES = [
    Case("image", defect, content("odd.jpg", data), check=check) for defect, (data, check) in ODD.items()
]

CASES = [*SKIPPED, *ODD_CASES]
