"""What is doubtful about pictures that were read, counted: one line per kind, not one per file."""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from swancli.errors import SwanWarning

MANY_BANDS = (
    "more than three bands, and nothing in the file names red, green and blue; the first three are shown "
    "(choose others: --bands 3,2,1)"
)
NO_MASK = "its band marked as alpha is full of values between transparent and opaque, so it is no mask"
ONE_COLOUR = "the picture has one colour"
NEARLY_BLACK = "the picture is nearly black (for samples of more than 8 bits: --stretch MIN,MAX)"
LIBRARY = "read, but a library reported"
SEEN = 64  # pixels a side, or somewhat more, on which that is decided
DARK, LIGHT = 16, 0.01  # a picture is nearly black if fewer than 1 % of its pixels reach 16 of 255
LIBRARIES = ("PIL", "tifffile", "rasterio")


class Notes:
    """Counts what was noticed about pictures. Several threads may add to it."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[int, str, str]] = {}
        self._lock = threading.Lock()

    def add(self, text: str, name: str, detail: str = "") -> None:
        """Counts a picture.

        Args:
            text: what was noticed.
            name: of the picture.
            detail: shown of the first picture only.
        """
        with self._lock:
            count, *shown = self._found.get(text, (0, name, detail))
            # The first by name: which one a thread meets first differs from run to run.
            self._found[text] = count + 1, *min(tuple(shown), (name, detail))

    def add_pixels(self, pixels: np.ndarray, name: str) -> None:
        """Counts a picture in which a person would see little.

        Args:
            pixels: uint8 (H, W, 3).
            name: of the picture.
        """
        if text := seen_little(pixels):
            self.add(text, name)

    def lines(self) -> tuple[str, ...]:
        """One line per kind."""
        with self._lock:
            return tuple(_line(text, *found) for text, found in sorted(self._found.items()))

    def warn(self) -> None:
        """Warns of each kind once."""
        for line in self.lines():
            warnings.warn(line, SwanWarning, stacklevel=3)


def _line(text: str, count: int, first: str, detail: str) -> str:
    which = first if count == 1 else f"{count:,} images, such as {first}"
    return f"{which}: {text}{detail and f': {detail}'}"


def seen_little(pixels: np.ndarray) -> str:
    """`ONE_COLOUR`, `NEARLY_BLACK`, or "".

    Args:
        pixels: uint8 (H, W, 3).
    """
    height, width = pixels.shape[:2]
    part = pixels[:: max(1, height // SEEN), :: max(1, width // SEEN)].reshape(-1, 3)
    if (part == part[0]).all() and (pixels == pixels[0, 0]).all():
        return ONE_COLOUR
    light = np.maximum(np.maximum(part[:, 0], part[:, 1]), part[:, 2]) >= DARK
    return NEARLY_BLACK if np.count_nonzero(light) < LIGHT * len(light) else ""


# ---------------------------------------------------------------------------------------------------------
# messages of libraries


class _Listener(logging.Handler):
    """Keeps the errors that libraries report while a thread listens, so that each is shown with a file name.

    Mere warnings are about tags that do not matter here, such as nodata in digits that tifffile rejects. What
    comes while nobody listens is for the handlers of the program.
    """

    def __init__(self) -> None:
        super().__init__()
        self.own = threading.local()

    def emit(self, record: logging.LogRecord) -> None:
        heard = getattr(self.own, "heard", None)
        if heard is None or record.levelno < logging.WARNING:
            logging.getLogger().handle(record)
        elif record.levelno >= logging.ERROR:
            heard.append(_first_line(record))


def _first_line(record: logging.LogRecord) -> str:
    try:
        text = record.getMessage().strip()
    except Exception:  # the arguments of a message may not fit it, which is no reason to end the work
        text = str(record.msg)
    return text.partition("\n")[0] or record.levelname


_LISTENER = _Listener()
for _library in LIBRARIES:
    logging.getLogger(_library).addHandler(_LISTENER)
    logging.getLogger(_library).propagate = False  # the listener hands on what it does not keep


@contextmanager
def listening() -> Iterator[list[str]]:
    """The first lines of errors that libraries report in this thread while the body runs."""
    before, heard = getattr(_LISTENER.own, "heard", None), []
    _LISTENER.own.heard = heard
    try:
        yield heard
    finally:
        _LISTENER.own.heard = before
