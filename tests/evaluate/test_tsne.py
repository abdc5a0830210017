"""The map: neighbours by hand, groups that stay together, equal items at one place."""

import numpy as np
import pytest
import torch

from swancli.errors import SwanError
from swancli.evaluate.tsne import map_places, neighbour_probabilities


def test_neighbours_by_hand():
    # from the middle of three in a row both others are as far
    probability = neighbour_probabilities(torch.tensor([[0.0], [1.0], [2.0]]), 1.5)
    torch.testing.assert_close(probability[1], torch.tensor([0.5, 0.0, 0.5]))
    # from an end, p and 1 - p with the entropy log 1.5
    near, far = probability[0, 1].item(), probability[0, 2].item()
    assert near + far == pytest.approx(1, abs=1e-6)
    assert near > far
    assert -near * np.log(near) - far * np.log(far) == pytest.approx(np.log(1.5), abs=1e-4)


@pytest.mark.parametrize("scale", [1e-3, 1, 1e3])
def test_each_item_has_as_many_neighbours_as_the_perplexity_says(scale):
    items = torch.from_numpy(np.random.default_rng(0).standard_normal((50, 6))).float() * scale
    probability = neighbour_probabilities(items, 8.0)
    assert (probability.diagonal() == 0).all()
    entropy = torch.special.entr(probability).sum(dim=1)
    torch.testing.assert_close(entropy.exp(), torch.full((50,), 8.0), atol=1e-3, rtol=0)


def test_groups_stay_together_and_apart():
    random = np.random.default_rng(0)
    group = np.arange(120) % 4
    items = np.eye(4, 16)[group] + 0.05 * random.standard_normal((120, 16))
    places = map_places(items.astype(np.float32))
    distance = np.hypot(*(places[:, None] - places[None]).transpose(2, 0, 1))
    same = group[:, None] == group
    assert distance[same].max() < distance[~same].min()


def test_equal_items_have_one_place_and_the_same_rows_the_same_map():
    rows = np.random.default_rng(0).standard_normal((12, 5)).astype(np.float32)
    rows = np.concatenate([rows, rows[:3]])
    places = map_places(rows)
    assert places.shape == (15, 2)
    np.testing.assert_array_equal(places[:3], places[12:])
    assert len(np.unique(places, axis=0)) == 12
    np.testing.assert_array_equal(places, map_places(rows))


@pytest.mark.parametrize("rows", [np.eye(4), np.arange(9.0)[:, None], np.repeat(np.eye(5), 3, axis=0)])
def test_few_items_and_one_dimension_have_a_map(rows):
    assert np.isfinite(map_places(rows.astype(np.float32))).all()


def test_map_needs_four_different_items():
    with pytest.raises(SwanError, match="only 3"):
        map_places(np.repeat(np.eye(3, dtype=np.float32), 5, axis=0))
