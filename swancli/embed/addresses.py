"""Addresses (s3://bucket/tiles): their file systems, and what goes wrong in these.

swan embed --images s3://bucket/tiles
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from swancli.errors import SwanError

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

# Names of an entity tag or a time of change in the various file systems.
STAMPS = ("ETag", "etag", "mtime", "LastModified", "last_modified", "updated", "created")


def file_system(address: str) -> tuple[AbstractFileSystem, str]:
    """The file system of an address, and the path in it.

    Raises:
        SwanError: it does not answer, or the package for its protocol is not installed.
    """
    from fsspec.core import url_to_fs

    with answering(address):
        try:
            return url_to_fs(address)
        except (ImportError, ValueError) as error:  # a missing package, an unknown protocol: both say which
            raise SwanError(f"--images {address}: {error}") from error


@contextmanager
def answering(address: str) -> Iterator[None]:
    """Errors of a file system, which differ from one service to the next, become a SwanError."""
    try:
        yield
    except SwanError:
        raise
    except FileNotFoundError as error:
        raise SwanError(f"--images {address}: no such folder or file") from error
    except Exception as error:
        reason = (str(error) or type(error).__name__).partition("\n")[0]
        raise SwanError(
            f"--images {address}: cannot be read ({reason})",
            "check the service and your access to it, then run it again, with --resume if it had begun",
        ) from error


def file_stamp(known: dict[str, Any]) -> tuple[int | None, str]:
    """Size in bytes, and entity tag or time of a file, as far as its file system knows them."""
    marks = (str(known[name]) for name in STAMPS if known.get(name))
    return known.get("size"), next(marks, "")
