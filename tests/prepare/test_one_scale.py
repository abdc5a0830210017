"""One scale for all images: which of them are read, and what is reported of it."""

import io

import numpy as np
from PIL import Image

from swancli.images import AS_SAID
from swancli.prepare.one_scale import SCALED, spread_rows, with_one_scale


def wide_png(value):
    written = io.BytesIO()
    Image.fromarray(np.full((4, 4), value, np.uint16)).save(written, "PNG")
    return written.getvalue()


def test_rows_are_spread_evenly_and_always_the_same():
    assert spread_rows(0) == []
    assert spread_rows(7) == list(range(7))
    assert spread_rows(SCALED) == list(range(SCALED))
    rows = np.array(spread_rows(1_000_000))
    assert (rows // 1000 == np.arange(SCALED)).all()
    assert rows.tolist() == spread_rows(1_000_000)


def test_list_that_repeats_itself_is_not_seen_through_one_of_its_kinds():
    """Each tile has three files, the bands 2, 3 and 4."""
    counts = np.bincount(np.array(spread_rows(3 * SCALED)) % 3)
    assert counts.min() > 0.25 * SCALED


def test_only_the_rows_that_are_spread_are_read_and_each_is_reported():
    count, read, reported = 5 * SCALED, [], []
    data = wide_png(900)

    def reading(row):
        read.append(row)
        return data, f"{row}.png"

    rendering = with_one_scale(count, reading, AS_SAID, 2, lambda *done: reported.append(done))
    assert sorted(read) == spread_rows(count)
    assert len(read) == SCALED
    assert reported == [("choosing one scale", done, SCALED) for done in range(1, SCALED + 1)]
    assert rendering.stretch == (0, 1023)
