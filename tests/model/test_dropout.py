"""Our dropout is torch's in all that can be counted: shares, scale, gradients; nothing outside training."""

import pytest
import torch
import torch.nn.functional as F

from swancli.model.dropout import Dropout, attend


@pytest.mark.parametrize("rate", [0.1, 0.4])
def test_share_of_zeros_is_the_rate_and_the_others_are_scaled_up(rate):
    torch.manual_seed(0)
    dropped = Dropout(rate)(torch.ones(1000, 1003))
    kept = dropped[dropped != 0]
    # The share of a million draws has a deviation of at most 0.0005.
    assert (dropped == 0).float().mean().item() == pytest.approx(rate, abs=0.002)
    torch.testing.assert_close(kept, torch.full_like(kept, 1 / (1 - rate)), rtol=1e-4, atol=0)
    assert dropped.mean().item() == pytest.approx(1, abs=0.005)


def test_every_place_is_drawn_apart():
    torch.manual_seed(0)
    kept = torch.stack([Dropout(0.5)(torch.ones(64)) != 0 for _ in range(2000)]).float()
    assert (kept.mean(dim=0) - 0.5).abs().max() < 0.06  # five deviations of 0.011
    together = torch.corrcoef(kept.T) - torch.eye(64)
    assert together.abs().max() < 0.15


def test_gradients_pass_where_values_pass():
    torch.manual_seed(0)
    values = torch.randn(7, 5, requires_grad=True)
    dropped = Dropout(0.3)(values)
    dropped.sum().backward()
    scale = torch.where(dropped != 0, dropped / values, torch.zeros(()))
    torch.testing.assert_close(values.grad, scale.detach())


def test_seed_repeats_it_and_evaluation_leaves_values_alone():
    layer, values = Dropout(0.4), torch.randn(3, 33)
    torch.manual_seed(1)
    first = layer(values)
    torch.manual_seed(1)
    assert torch.equal(layer(values), first)
    assert torch.equal(layer.eval()(values), values)


def test_attention_is_torchs_scaled_dot_product():
    query, key, value = (torch.randn(2, 4, 6, 8) for _ in range(3))
    expected = F.scaled_dot_product_attention(query, key, value)
    torch.testing.assert_close(attend(query, key, value, Dropout(0.0)), expected)
    torch.testing.assert_close(attend(query, key, value, Dropout(0.5).eval()), expected)


def test_attention_drops_whole_weights():
    """With values of one each, a query's result is the sum of the weights that are left: 0, 2 or 1 in two."""
    torch.manual_seed(0)
    query = torch.zeros(1, 1, 500, 4)
    key = torch.zeros(1, 1, 2, 4)
    results = attend(query, key, torch.ones(1, 1, 2, 1), Dropout(0.5)).flatten()
    counts = {level: (results - level).abs().lt(1e-3).float().mean().item() for level in (0, 1, 2)}
    assert counts == pytest.approx({0: 0.25, 1: 0.5, 2: 0.25}, abs=0.08)
