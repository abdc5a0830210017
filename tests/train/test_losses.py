"""The hinge loss, against numbers worked out by hand and against the published code's."""

import pytest
import torch

from swancli.train.losses import hinge_loss

SCORES = torch.tensor([[0.5, 0.4], [0.6, 0.3]])
# image 0: 0.2 + 0.4 - 0.5 = 0.1; image 1: 0.2 + 0.6 - 0.3 = 0.5
# caption 0: 0.2 + 0.6 - 0.5 = 0.3; caption 1: 0.2 + 0.4 - 0.3 = 0.3


def test_hinge_loss_sums_violations_in_both_directions():
    assert hinge_loss(SCORES, torch.eye(2).bool(), ~torch.eye(2).bool()).item() == pytest.approx(1.2)


def test_satisfied_pairs_cost_nothing():
    assert hinge_loss(torch.eye(3), torch.eye(3).bool(), ~torch.eye(3).bool()).item() == 0


def test_hardest_takes_the_largest_violation_of_each_query():
    scores = torch.tensor([[0.5, 0.4, 0.45], [0.0, 0.9, 0.0], [0.0, 0.0, 0.9]])
    positive = torch.eye(3).bool()
    # image 0: 0.1 and 0.15; captions: none is above its own image's by 0.2
    assert hinge_loss(scores, positive, ~positive).item() == pytest.approx(0.25)
    assert hinge_loss(scores, positive, ~positive, hardest=True).item() == pytest.approx(0.15)


def test_captions_of_the_same_image_are_no_negatives():
    scores = torch.tensor([[0.5, 0.45, 0.0], [0.0, 0.0, 0.9]])
    positive = torch.tensor([[True, True, False], [False, False, True]])
    assert hinge_loss(scores, positive, ~positive).item() == 0
    # With the second caption the other image's instead, 0.2 + 0.45 - 0.5 counts, and 0.2 + 0.45 - 0.0 twice
    # (for image 1's pair with caption 1: 0.2 + 0.9 - 0.0 too).
    swapped = torch.tensor([[True, False, False], [False, True, True]])
    assert hinge_loss(scores, swapped, ~swapped).item() == pytest.approx(0.15 + 0.2 + 0.65)


def test_pair_that_is_neither_positive_nor_negative_costs_nothing():
    negative = torch.tensor([[False, False], [True, False]])
    # Caption 1 could describe image 0 too: its 0.1 (image 0) and 0.3 (caption 1) are left out.
    assert hinge_loss(SCORES, torch.eye(2).bool(), negative).item() == pytest.approx(0.5 + 0.3)


def test_hinge_loss_equals_the_published_values(parity):
    scores = torch.from_numpy(parity["loss_scores"]).double()
    positive = torch.eye(len(scores)).bool()
    for hardest, name in ((False, "loss_sum"), (True, "loss_hardest")):
        assert hinge_loss(scores, positive, ~positive, hardest=hardest).item() == pytest.approx(
            float(parity[name]), rel=1e-6
        )
