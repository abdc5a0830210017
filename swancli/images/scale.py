"""Which values become black and white: steady where data changes a little, and robust to outliers."""

from __future__ import annotations

import math

import numpy as np

LOW, MIDDLE, HIGH, TOP = 0.5, 50, 98, 99.5  # percentiles
# The value that becomes white, by the top of the data, with straight lines between: the full range of 8, 10,
# 12 and 16 bits and of reflectance x 10,000, wherever the data reaches half of it; of 10,000, most of it.
WHOLE_TOPS = (0, 127.5, 255, 511.5, 1023, 2047.5, 4095, 8000, 10000, 32767.5, 65535)
WHOLE_WHITES = (0, 255, 255, 1023, 1023, 4095, 4095, 10000, 10000, 65535, 65535)
FRACTION_TOPS, FRACTION_WHITES = (0, 0.5, 1), (0, 1, 1)
DARKEST = 8  # the middle of the data becomes at least this part of white, as far as percentile `HIGH` allows


def largest_value(kind: np.dtype) -> float:
    """The largest value of a type of whole numbers; infinity for others, which have no natural end."""
    return float(np.iinfo(kind).max) if np.issubdtype(kind, np.integer) else math.inf


def black_and_white(values: np.ndarray, largest: float) -> tuple[float, float]:
    """The values that become black and white, the second one larger.

    Args:
        values: (n,), what was measured, without what marks no data.
        largest: the `largest_value` of their type; none beyond it becomes white.
    """
    if not values.size:
        return 0.0, 1.0
    low, middle, high, top = map(float, np.percentile(values, (LOW, MIDDLE, HIGH, TOP)))
    tops, whites = (WHOLE_TOPS, WHOLE_WHITES) if math.isfinite(largest) else (FRACTION_TOPS, FRACTION_WHITES)
    end = tops[-1]
    natural = min(largest, float(np.interp(top, tops, whites))) if 0 < top <= end else top
    black = min(0.0, low)
    if top > end:  # no range is natural there; from twice the end, the data alone decides
        black += max(0.0, low) * min(1.0, top / end - 1)
    if low < 0 < top:  # the further it reaches below 0, the less does a range that starts at 0 mean
        natural = top + (natural - top) * max(0.0, 1 + low / top)
    white = black + min(max(DARKEST * (middle - black), high - black), natural - black)
    if not white > black:  # a single value
        black, white = min(0.0, black), max(0.0, white)
    return black, white if white > black else black + 1.0
