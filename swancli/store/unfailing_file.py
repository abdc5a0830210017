"""Writing an HDF5 file so that neither a full disk nor an interrupt ends the process.

HDF5 survives no call of ours that fails while it writes, nor one whose bytes it does not read again: the
process crashes, then or at its end. So it writes into a file that never fails, which remembers what it should
have raised.
"""

from __future__ import annotations

import io
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import h5py


class UnfailingFile(io.FileIO):
    """A file that HDF5 writes into. What comes after an error is kept in memory, until `check` raises it."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "w+")
        self._error: BaseException | None = None
        self._kept: list[tuple[int, bytes]] = []

    def remember(self, error: BaseException) -> None:
        """Has `check` raise an error, unless it has another one to raise."""
        self._error = self._error or error

    def check(self) -> None:
        """Raises what went wrong so far."""
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
            self.remember(error)
            return size or 0


CALLED_BY_HDF5 = {getattr(UnfailingFile, name).__code__ for name in ("write", "readinto", "truncate")}


class StoreFile(h5py.File):
    """A new HDF5 file while it is written; see `writing`."""

    def __init__(self, target: UnfailingFile) -> None:
        super().__init__(target, "w")
        self._target = target

    def check(self) -> None:
        """To be called now and then in a long write, which would go on for nothing.

        Raises:
            OSError: something could not be written. KeyboardInterrupt: the user interrupted a write.
        """
        self._target.check()


@contextmanager
def writing(path: Path) -> Iterator[StoreFile]:
    """A new HDF5 file at a path, closed when the body ends; raises as `StoreFile.check` does."""
    with UnfailingFile(path) as target, _interrupts_remembered(target):
        try:
            with StoreFile(target) as file:
                yield file
        finally:
            target.check()


@contextmanager
def _interrupts_remembered(target: UnfailingFile) -> Iterator[None]:
    """An interrupt that comes while HDF5 calls is remembered; at any other time it is what it was."""
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        if frame and frame.f_code in CALLED_BY_HDF5:
            target.remember(KeyboardInterrupt())
        else:
            before(number, frame)

    signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
