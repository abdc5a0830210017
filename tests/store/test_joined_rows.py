"""Rows of several parts as one array: each row once, in order, from where it lies."""

from contextlib import nullcontext

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from swancli.store.joined_rows import JoinedRows, Runs, virtual_layout

in_one_folder = settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
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
def test_virtual_array_shows_the_same_rows(tmp_path, made):
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


@pytest.mark.parametrize(
    ("starts", "part", "first", "said"),
    [
        ([0, 2, 4], [0, 1], [0, 1], ""),
        ([], [], [], "4 rows"),
        ([0, 2, 3], [0, 1], [0, 1], "4 rows"),
        ([1, 2, 4], [0, 1], [0, 1], "4 rows"),
        ([0, 3, 2, 4], [0, 1, 0], [0, 0, 0], "4 rows"),
        ([0, 2, 2, 4], [0, 1, 0], [0, 0, 0], "4 rows"),
        ([0, 2, 4], [0], [0, 1], "4 rows"),
        ([0, 2, 4], [0, 1], [0], "4 rows"),
        ([0, 2, 4], [0, 2], [0, 1], "not there"),
        ([0, 2, 4], [0, -1], [0, 1], "not there"),
        ([0, 2, 4], [0, 1], [-1, 1], "not there"),
        ([0, 2, 4], [0, 1], [0, 2], "do not have"),
    ],
)
def test_runs_that_lead_nowhere_are_refused(starts, part, first, said):
    runs = Runs(*(np.array(column, np.int64) for column in (starts, part, first)))
    with pytest.raises(ValueError, match=said) if said else nullcontext():
        runs.check([3, 3], 4)
