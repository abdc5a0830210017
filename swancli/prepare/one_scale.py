"""One scale for all images of a folder or a source: `--stretch folder`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from swancli.errors import ImageError
from swancli.images import Rendering, scale_values
from swancli.images.scale import black_and_white
from swancli.machine.progress import Progress, quiet
from swancli.machine.threads import in_order

SCALED = 1000  # images, at most, on which one scale for all is decided


def with_one_scale(
    count: int,
    read: Callable[[int], tuple[bytes, str]],
    rendering: Rendering,
    workers: int = 1,
    progress: Progress = quiet,
) -> Rendering:
    """The rendering with one scale for all images; unchanged if all that were looked at have 8 bits.

    The same images always give the same scale, in each of several processes too.

    Args:
        count: number of images.
        read: takes the number of an image, from 0, and gives the bytes of its file and its name.
        rendering: with the bands.
        workers: number of decoding threads.
        progress: called with a phase, the number of images read, and the number to read.
    """

    def values_of(row: int) -> tuple[np.ndarray, float] | None:
        try:
            return scale_values(*read(row), rendering)
        except ImageError:
            return None  # reported, or left out, where it is read again

    rows, parts = spread_rows(count), []
    for done, part in enumerate(in_order(values_of, rows, workers), start=1):
        parts += [part] if part else []
        progress("choosing one scale", done, len(rows))
    if not parts:
        return rendering
    values, largest = zip(*parts, strict=True)
    return replace(rendering, stretch=black_and_white(np.concatenate(values), max(largest)))


def spread_rows(count: int) -> list[int]:
    """At most `SCALED` rows, one somewhere in each of equal parts of all rows.

    Not every n-th row, since a list may repeat itself: a file for each band, or a preview beside each image.
    """
    borders = np.arange(min(count, SCALED) + 1) * count // max(1, min(count, SCALED))
    return np.random.default_rng(0).integers(borders[:-1], borders[1:]).tolist()
