"""Writing HDF5 files so that a full disk ends in an OSError, not in a crash.

The HDF5 library cannot recover from a failed write. It keeps the data, and writes it again when the file is
closed and when the process ends. With h5py 3.16 that ends in a segmentation fault, both with HDF5's own file
driver and with a Python file whose `write` raises. So HDF5 writes into a file whose calls always succeed.
Data that could not be written stays in memory, since HDF5 reads it again; the error is raised outside HDF5.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py


class UnfailingFile(io.FileIO):
    """A file for HDF5 to write into; after an error it keeps all further data in memory."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "w+")
        self._error: OSError | None = None
        self._kept: list[tuple[int, bytes]] = []

    def check(self) -> None:
        """Raises the first OSError of a write, if there was one."""
        if self._error:
            raise self._error

    def write(self, data: Any) -> int:
        start, left = self.tell(), memoryview(data)
        while left and not self._error:
            try:
                left = left[super().write(left) :]
            except OSError as error:
                self._error = error
        if self._error:
            self._kept.append((start, bytes(data)))
            self.seek(start + len(data))
        return len(data)

    def readinto(self, buffer: Any) -> int:
        start, view = self.tell(), memoryview(buffer).cast("B")
        count = super().readinto(view)
        if not self._error:
            return count
        view[count:] = bytes(len(view) - count)
        for place, data in self._kept:
            first, last = max(start, place), min(start + len(view), place + len(data))
            if first < last:
                view[first - start : last - start] = data[first - place : last - place]
        self.seek(start + len(view))
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        try:
            return super().truncate(size)
        except OSError as error:
            self._error = self._error or error
            return size or 0


class StoreFile(h5py.File):
    """A new HDF5 file that is being written; see `writing`."""

    def __init__(self, target: UnfailingFile) -> None:
        super().__init__(target, "w")
        self._target = target

    def check(self) -> None:
        """Ends a long loop of writes after an error, before the data fills the memory.

        Raises:
            OSError: something could not be written.
        """
        self._target.check()


@contextmanager
def writing(path: Path) -> Iterator[StoreFile]:
    """A new HDF5 file, closed when the body ends.

    Raises:
        OSError: something could not be written.
    """
    with UnfailingFile(path) as target:
        try:
            with StoreFile(target) as file:
                yield file
        finally:
            target.check()
