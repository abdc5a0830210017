"""Ranking: exact, in order, equal scores by row, whatever the number of questions and of results."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from swancli.query import search
from swancli.query.search import best_rows


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
