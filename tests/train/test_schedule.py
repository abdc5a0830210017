"""The learning rate at single steps, worked out by hand."""

import pytest

from swancli.train.schedule import stepped, warmed_cosine


def test_paper_schedule_steps_down_at_epochs_20_and_40():
    assert [stepped(epoch) for epoch in (1, 19, 20, 39, 40)] == pytest.approx([1, 1, 0.7, 0.7, 0.49])


def test_cosine_rises_in_its_warm_up_and_ends_near_0():
    assert warmed_cosine(1, 100, 4) == pytest.approx(0.25)
    assert warmed_cosine(51, 100, 4) == pytest.approx(0.5)
    expected = [1, (1 + 0.5**0.5) / 2, 0.5, (1 - 0.5**0.5) / 2]
    assert [warmed_cosine(step, 4, 1) for step in (1, 2, 3, 4)] == pytest.approx(expected)
