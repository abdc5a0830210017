"""The hinge loss, against numbers worked out by hand and against the published code's."""

import math

import pytest
import torch

from swancli.train.losses import contrastive_loss, hinge_loss

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


def test_contrastive_loss_is_a_softmax_over_the_positive_and_its_negatives():
    # temperature 0.1: scores 5, 4 / 6, 3. Image 0: log(1 + e^-1), image 1: log(1 + e^3),
    # caption 0: log(1 + e^1), caption 1: log(1 + e^1).
    expected = sum(math.log1p(math.exp(power)) for power in (-1, 3, 1, 1))
    positive = torch.eye(2).bool()
    loss = contrastive_loss(SCORES, positive, ~positive, temperature=0.1)
    assert loss.item() == pytest.approx(expected)


def test_contrastive_loss_leaves_out_pairs_that_are_neither_positive_nor_negative():
    # Caption 1 could describe image 0 too: image 0 has no negative left, caption 1 neither.
    negative = torch.tensor([[False, False], [True, False]])
    scores = SCORES.clone().requires_grad_()
    loss = contrastive_loss(scores, torch.eye(2).bool(), negative, temperature=0.1)
    assert loss.item() == pytest.approx(math.log1p(math.exp(3)) + math.log1p(math.exp(1)))
    loss.backward()
    assert scores.grad.isfinite().all()
    assert scores.grad[0, 1] == 0


def test_contrastive_loss_is_that_of_cross_entropy_with_one_caption_an_image():
    scores = torch.randn(7, 7, generator=torch.Generator().manual_seed(0))
    positive = torch.eye(7).bool()
    target = torch.arange(7)
    both = [torch.nn.functional.cross_entropy(s / 0.07, target, reduction="sum") for s in (scores, scores.T)]
    assert contrastive_loss(scores, positive, ~positive).item() == pytest.approx(sum(both).item(), rel=1e-5)
