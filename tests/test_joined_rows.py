"""Rows of several parts as one array: each row once, in order, from where it lies."""

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from swancli.joined_rows import JoinedRows, Runs, virtual_layout, virtual_runs

in_one_folder = settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@st.composite
def parts_and_places(draw):
    """Parts, some of them empty, and where each row stands among theirs; None for all rows in order."""
    lengths = draw(st.lists(st.integers(0, 5), min_size=1, max_size=6))
    total, places = sum(lengths), None
    if total and draw(st.booleans()):
        places = np.array(draw(st.lists(st.integers(0, total - 1), min_size=1, max_size=20)))
    parts = np.split(np.arange(2 * total, dtype=np.float32).reshape(total, 2), np.cumsum(lengths)[:-1])
    return parts, places


@given(made=parts_and_places(), data=st.data())
def test_rows_are_those_of_all_parts_one_after_the_other(made, data):
    parts, places = made
    rows = JoinedRows(Runs.of([len(part) for part in parts], places), 2, parts.__getitem__)
    whole = np.concatenate(parts)[slice(None) if places is None else places]
    assert rows.shape == whole.shape
    start, stop = sorted(data.draw(st.tuples(*[st.integers(0, len(whole))] * 2)))
    np.testing.assert_array_equal(rows[start:stop], whole[start:stop])
    if len(whole):
        chosen = np.array(data.draw(st.lists(st.integers(0, len(whole) - 1), max_size=5)), np.int64)
        np.testing.assert_array_equal(rows[chosen], whole[chosen])


@given(made=parts_and_places())
@in_one_folder
def test_virtual_array_shows_the_same_rows_and_tells_where_they_lie(tmp_path, made):
    parts, places = made
    lengths, names = [len(part) for part in parts], [f"{number}.h5" for number in range(len(parts))]
    rows = JoinedRows(Runs.of(lengths, places), 2, parts.__getitem__)
    if not len(rows):
        return
    for name, part in zip(names, parts, strict=True):
        with h5py.File(tmp_path / name, "w") as file:
            file["a/b"] = part
    with h5py.File(tmp_path / "joined.h5", "w") as file:
        file.create_virtual_dataset("a/b", virtual_layout(rows, names, lengths, "a/b"))
    with h5py.File(tmp_path / "joined.h5") as file:
        np.testing.assert_array_equal(file["a/b"][:], rows[:])
        found, runs = virtual_runs(file["a/b"], "a/b")
    there = [(start, stop, found[part], first) for start, stop, part, first in runs]
    assert there == [(start, stop, names[part], first) for start, stop, part, first in rows.runs]


@pytest.mark.parametrize(
    ("put", "said"),
    [
        (lambda layout, source: layout.__setitem__((slice(0, 2), 0), source[0:2, 0]), "whole rows"),
        (lambda layout, source: layout.__setitem__(slice(1, 4), source[0:3]), "whole rows"),
        (lambda layout, source: layout.__setitem__(slice(0, 3), source[0:3]), "4 rows, and shards of 3"),
        (lambda layout, source: layout.__setitem__(slice(0, 4, 2), source[0:2]), "whole rows"),
    ],
)
def test_virtual_array_that_is_put_together_in_another_way_is_refused(tmp_path, put, said):
    layout = h5py.VirtualLayout((4, 2), np.float32)
    put(layout, h5py.VirtualSource("a.h5", "a", (4, 2)))
    with h5py.File(tmp_path / "joined.h5", "w") as file:
        array = file.create_virtual_dataset("a", layout)
        with pytest.raises(ValueError, match=said):
            virtual_runs(array, "a")
