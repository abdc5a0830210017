"""Exact ranking: what a stable sort of all scores gives, for files held, streamed, and searched in part."""

import io

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from swancli.errors import SwanError
from swancli.query import ranking
from swancli.query.ranking import HeldRanking, StreamedRanking, exact_ranking, similarities

CPU = torch.device("cpu")
KINDS = [HeldRanking, StreamedRanking]


def stored(vectors):
    """The vectors as a column of a file that is in memory, not on disk in one piece."""
    file = h5py.File(io.BytesIO(), "w")
    return file.create_dataset("vectors", data=np.asarray(vectors, np.float32), chunks=True)


def normalised(rng, *shape):
    vectors = rng.standard_normal(shape).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def by_a_full_sort(vectors, candidates, question, top_k, threshold=-1.0):
    scores = similarities(vectors[candidates], question)
    order = [at for at in np.argsort(-scores, kind="stable")[:top_k] if scores[at] >= threshold]
    return candidates[order].tolist(), scores[order].tolist()


def listed(found):
    return [(rows.tolist(), scores.tolist()) for rows, scores in found]


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_way_to_search_gives_what_a_full_stable_sort_gives(data):
    """With few different vectors among many rows most scores have equals, in the same block and in others."""
    count = data.draw(st.integers(0, 60), "rows")
    seed, top_k = data.draw(st.integers(0, 2**32 - 1), "seed"), data.draw(st.integers(1, 70), "top_k")
    threshold = data.draw(st.sampled_from([-1.0, -0.3, 0.0, 0.4]), "threshold")
    rng = np.random.default_rng(seed)
    vectors = normalised(rng, data.draw(st.integers(1, 60), "different"), 24)
    vectors = vectors[rng.integers(0, len(vectors), count)]
    questions = normalised(rng, data.draw(st.integers(1, 5), "questions"), 24)
    candidates = np.flatnonzero(rng.random(count) < data.draw(st.sampled_from([0.2, 0.7, 1.0])))
    expected = [by_a_full_sort(vectors, candidates, question, top_k, threshold) for question in questions]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranking, "BLOCK", data.draw(st.integers(1, 70), "block"))
        patch.setattr(ranking, "CELLS", data.draw(st.sampled_from([1, 100, 2**24]), "cells"))
        for kind in KINDS:
            found = kind(stored(vectors), candidates, CPU).best(questions, top_k, threshold)
            assert listed(found) == expected


@pytest.mark.parametrize("kind", KINDS)
def test_scores_do_not_depend_on_what_is_searched_or_asked_beside(kind):
    """To the last bit; a matrix product would round by the place of a row and the number of questions."""
    rng = np.random.default_rng(0)
    vectors, questions = normalised(rng, 1003, 33), normalised(rng, 7, 33)
    vectors[1002] = vectors[400] = vectors[3]
    everything = kind(stored(vectors), np.arange(1003), CPU)
    together = listed(everything.best(questions, 1003))
    assert together == [
        found for question in questions for found in listed(everything.best(question[None], 1003))
    ]
    few = np.array([3, 77, 400, 1002])
    for question, (rows, scores) in zip(questions, together, strict=True):
        ((some, their_scores),) = listed(kind(stored(vectors), few, CPU).best(question[None], 4))
        score = dict(zip(rows, scores, strict=True))
        assert their_scores == [score[row] for row in some]
        assert score[3] == score[400] == score[1002]


def test_few_results_are_the_first_of_many():
    rng = np.random.default_rng(1)
    search = HeldRanking(stored(normalised(rng, 300, 16)), np.arange(300), CPU)
    question = normalised(rng, 1, 16)
    ((many, _),), ((few, _),) = search.best(question, 200), search.best(question, 7)
    assert many[:7].tolist() == few.tolist()


class Spy:
    """A column that notes which slices are read."""

    def __init__(self, column):
        self.column, self.read = column, []

    def __getattr__(self, name):
        return getattr(self.column, name)

    def __len__(self):
        return len(self.column)

    def __getitem__(self, rows):
        self.read.append((rows.start, rows.stop))
        return self.column[rows]


def test_streamed_search_reads_a_block_at_a_time_once_for_many_questions(monkeypatch, tmp_path):
    monkeypatch.setattr(ranking, "BLOCK", 16)
    rng = np.random.default_rng(2)
    with h5py.File(tmp_path / "vectors.h5", "w") as file:
        vectors, questions = normalised(rng, 100, 8), normalised(rng, 50, 8)
        column = Spy(file.create_dataset("vectors", data=vectors))
        file.flush()
        found = StreamedRanking(column, np.arange(100), CPU).best(questions, 5)
        assert listed(found) == [by_a_full_sort(vectors, np.arange(100), asked, 5) for asked in questions]
        assert column.read == [(start, start + 16) for start in range(0, 100, 16)]


def test_blocks_without_a_row_that_is_wanted_are_not_read(monkeypatch, tmp_path):
    monkeypatch.setattr(ranking, "BLOCK", 16)
    rng = np.random.default_rng(3)
    with h5py.File(tmp_path / "vectors.h5", "w") as file:
        column = Spy(file.create_dataset("vectors", data=normalised(rng, 100, 8)))
        file.flush()
        list(StreamedRanking(column, np.array([20, 21, 99]), CPU).best(normalised(rng, 1, 8), 5))
        assert column.read == [(16, 32), (96, 112)]


def test_questions_of_many_results_share_fewer_passes(monkeypatch):
    """What is kept of all questions of a pass stays bounded."""
    monkeypatch.setattr(ranking, "BLOCK", 4)
    monkeypatch.setattr(ranking, "CELLS", 40)
    passes, whole = [], StreamedRanking._pass
    monkeypatch.setattr(
        StreamedRanking,
        "_pass",
        lambda self, vectors, *rest: passes.append(len(vectors)) or whole(self, vectors, *rest),
    )
    rng = np.random.default_rng(4)
    search = StreamedRanking(stored(normalised(rng, 30, 8)), np.arange(30), CPU)
    for top_k, expected in ((1, [10, 2]), (10, [4, 4, 4]), (1000, [1] * 12)):
        passes.clear()
        list(search.best(normalised(rng, 12, 8), top_k))
        assert passes == expected


def test_what_is_searched_decides_whether_it_is_held(monkeypatch):
    """A filter that leaves few rows of a large file makes them fit."""
    monkeypatch.setattr(ranking, "HELD", 4 * 8 * 50)
    column = stored(normalised(np.random.default_rng(5), 100, 8))
    assert isinstance(exact_ranking(column, np.arange(100), CPU), StreamedRanking)
    assert isinstance(exact_ranking(column, np.arange(50), CPU), HeldRanking)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("top_k", [1, 3, 50])
def test_vector_that_is_nan_is_reported_and_not_skipped(kind, top_k):
    vectors = normalised(np.random.default_rng(0), 10, 4)
    vectors[3] = np.nan
    with pytest.raises(SwanError, match=r"vectors\[3\] contains NaN or infinity"):
        list(kind(stored(vectors), np.arange(10), CPU).best(vectors[:1], top_k))


@pytest.mark.parametrize("kind", KINDS)
def test_only_rows_that_can_be_among_the_best_are_scored_again(kind, monkeypatch):
    monkeypatch.setattr(ranking, "BLOCK", 100)
    scored, whole = [], ranking.ranked
    monkeypatch.setattr(ranking, "ranked", lambda rows, *rest: scored.append(len(rows)) or whole(rows, *rest))
    rng = np.random.default_rng(6)
    vectors, questions = normalised(rng, 1000, 32), normalised(rng, 3, 32)
    search = kind(stored(vectors), np.arange(1000), CPU)
    assert search.size == 1000
    found = search.best(questions, 5)
    assert listed(found) == [by_a_full_sort(vectors, np.arange(1000), asked, 5) for asked in questions]
    assert scored == [5, 5, 5]


@pytest.mark.parametrize("kind", KINDS)
def test_many_equal_rows_come_in_their_order(kind):
    vectors = np.tile(normalised(np.random.default_rng(7), 1, 8), (2000, 1))
    ((rows, _),) = kind(stored(vectors), np.arange(2000), CPU).best(vectors[:1], 1500)
    assert rows.tolist() == list(range(1500))


@pytest.mark.parametrize("kind", KINDS)
def test_row_whose_score_is_the_threshold_is_found(kind):
    vectors = normalised(np.random.default_rng(10), 20, 8)
    search = kind(stored(vectors), np.arange(20), CPU)
    ((rows, scores),) = search.best(vectors[:1], 20)
    ((above, _),) = search.best(vectors[:1], 20, threshold=float(scores[4]))
    assert above.tolist() == rows[:5].tolist()


def test_opposite_whose_score_is_rounded_below_minus_1_is_found_without_a_threshold():
    vectors = normalised(np.random.default_rng(8), 200, 24)
    score = np.array([similarities(-row[None], row)[0] for row in vectors])
    (row,) = vectors[score < -1][:1]
    ((rows, scores),) = HeldRanking(stored(-row[None]), np.arange(1), CPU).best(row[None], 1)
    assert rows.tolist() == [0]
    assert scores[0] < -1


@pytest.mark.parametrize(("length", "said"), [(1.5, "1.5"), (-2.0, "-2"), (np.nan, "nan")])
def test_score_that_is_no_cosine_is_reported_with_its_row(length, said):
    """An index may propose a row of a damaged file that was never checked."""
    vectors = np.eye(8, dtype=np.float32)
    vectors[5] *= np.float32(length)
    with pytest.raises(SwanError, match=f"^the similarity of embedding 5 is {said}, not a cosine") as caught:
        ranking.ranked(np.arange(3, 8), vectors, np.eye(8, dtype=np.float32)[5], 2)
    assert caught.value.hint.startswith("make the embeddings again")


@pytest.mark.parametrize("held", [0, 2**20])
def test_similarities_are_computed_on_the_device_that_is_asked_for(monkeypatch, held):
    """On the device `meta` nothing is computed, so nothing can be copied from it."""
    monkeypatch.setattr(ranking, "HELD", held)
    vectors = normalised(np.random.default_rng(9), 10, 8)
    search = exact_ranking(stored(vectors), np.arange(10), torch.device("meta"))
    with pytest.raises(NotImplementedError, match="meta"):
        list(search.best(vectors[:2], 3))
