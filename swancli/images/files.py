"""Image files on the disk: which are read, their bytes, and links that lead out of a folder."""

from __future__ import annotations

import os
from pathlib import Path

from swancli.errors import ImageError, unread_image_error

MOST_BYTES = 2**31  # of an image file, which is read into memory
TOO_LARGE_HINT = "cut it into tiles"
LEADS_OUT = "leads out of the folder of images"
LEADS_OUT_HINT = "give the folder that the images themselves are in, or copy them: cp -rL"
SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".tif", ".tiff", ".bmp", ".dib", ".webp"),
    *(".jp2", ".j2k", ".gif", ".ppm", ".pgm"),
)


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """The bytes of an image file.

    Raises:
        ImageError: the file is absent, larger than any image that is decoded, or this user may not read it.
        SwanError: the disk fails or the like, which is no reason to leave this image out.
    """
    try:
        check_bytes(Path(path).stat().st_size, str(path))
        return Path(path).read_bytes()
    except OSError as error:
        raise unread_image_error(error, path) from error


def check_bytes(size: int, name: str) -> None:
    """Raises an ImageError if a file has too many bytes; a sparse one takes no place on the disk for them."""
    if size > MOST_BYTES:
        raise ImageError(f"{name}: image too large ({size / 1e9:.1f} GB)", TOO_LARGE_HINT)


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
