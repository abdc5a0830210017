"""Ranking: exact, in order, equal scores by row, whatever the number of questions and of results."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from swancli.errors import SwanError
from swancli.query import search
from swancli.query.search import AWAY, Question, Scope, best_rows, composed, image_rows
from swancli.store import Catalogue


@given(
    scores=st.lists(st.integers(-3, 3), min_size=1, max_size=30),
    top_k=st.integers(1, 40),
    threshold=st.integers(-4, 4),
)
def test_best_rows_are_those_of_a_full_stable_sort(scores, top_k, threshold):
    """With one dimension a row's score is the row itself, so ties are exact."""
    image = torch.tensor(scores, dtype=torch.float32)[None]
    ((rows, found),) = best_rows(image, np.ones((1, 1), np.float32), top_k, threshold)
    ordered = sorted(range(len(scores)), key=lambda row: (-scores[row], row))[:top_k]
    assert rows.tolist() == [row for row in ordered if scores[row] >= threshold]
    assert found.tolist() == [scores[row] for row in rows]


@pytest.mark.parametrize("cells", [1, 25, 2**24])
def test_blocks_of_questions_give_what_each_gives_alone(monkeypatch, cells):
    monkeypatch.setattr(search, "CELLS", cells)
    rng = np.random.default_rng(0)
    image = torch.from_numpy(rng.integers(-5, 5, (4, 10)).astype(np.float32))
    questions = rng.integers(-5, 5, (7, 4)).astype(np.float32)
    together = [rows.tolist() for rows, _ in best_rows(image, questions, 3)]
    assert together == [next(best_rows(image, question[None], 3))[0].tolist() for question in questions]


def test_candidates_alone_are_ranked_and_keep_their_rows():
    image = torch.tensor([[5.0, 4.0, 3.0, 2.0, 1.0]])
    ((rows, scores),) = best_rows(image, np.ones((1, 1), np.float32), 2, candidates=np.array([1, 3, 4]))
    assert rows.tolist() == [1, 3]
    assert scores.tolist() == [4, 2]


def test_texts_are_averaged_and_others_taken_away():
    """(1, 0) and (0, 1) lie at 45 degrees; less 0.3 of (0, 1) it is (0.5, 0.2), of length 0.5385."""
    texts = np.eye(2, dtype=np.float32)
    np.testing.assert_allclose(composed(texts, texts[:0]), [0.7071, 0.7071], atol=1e-4)
    assert AWAY == 0.3
    np.testing.assert_allclose(composed(texts, texts[1:]), [0.9285, 0.3714], atol=1e-4)


def test_one_text_is_asked_with_its_very_embedding():
    text = np.array([[0.6, 0.8000001]], np.float32)
    assert np.array_equal(composed(text, text[:0]), text[0])


def test_question_is_told_as_it_was_put_together():
    assert str(Question(("a river",))) == "a river"
    assert str(Question(("a river", "a bridge"), ("boats",))) == "a river + a bridge - boats"


@pytest.fixture
def catalogue():
    return Catalogue.of(
        filename=["harbor_1.jpg", "harbor_2.png", "river_1.jpg", "7.jpg"],
        scene=["harbor", "harbor", "river", None],
        split=["train", "test", "test", None],
    )


@pytest.mark.parametrize(
    ("scope", "rows"),
    [
        (Scope(scenes=("harbor",)), [0, 1]),
        (Scope(scenes=("river", "harbor")), [0, 1, 2]),
        (Scope(split="test"), [1, 2]),
        (Scope(files="*.jpg"), [0, 2, 3]),
        (Scope(files="harbor_[12].*", split="test"), [1]),
        (Scope(scenes=("harbor",), split="test", files="*.png"), [1]),
    ],
)
def test_filters_leave_the_rows_that_pass_them_all(catalogue, scope, rows):
    assert image_rows(catalogue, scope).tolist() == rows


def test_no_filter_leaves_all(catalogue):
    assert image_rows(catalogue, Scope()) is None


@pytest.mark.parametrize(
    ("scope", "said"),
    [
        (Scope(scenes=("lake",)), "lake"),
        (Scope(split="val"), "val"),
        (Scope(files="x*"), r"x\*"),
        (Scope(scenes=("river",), split="train"), "river train"),
    ],
)
def test_filters_that_leave_nothing_are_refused_by_name(catalogue, scope, said):
    with pytest.raises(SwanError, match=said):
        image_rows(catalogue, scope)
