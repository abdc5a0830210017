"""Maps and their highest places, against sums over single pixels and values worked out by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swancli.scene_image.heat import HeatMap, best_places, heat_map, local_maxima
from swancli.scene_image.raster import Frame
from swancli.scene_image.tiles import scene_boxes


def hot(scores, cell=2):
    """A map of the given scores, cells of `cell` pixels under tiles twice as wide."""
    scores = np.array(scores, np.float32)
    height, width = (cell * side for side in scores.shape)
    return HeatMap(scores, (cell, cell), (2 * cell, 2 * cell), height, width)


def test_map_is_the_mean_of_the_tiles_over_each_place_by_hand():
    """A row of 8 pixels, tiles of 4 at 0, 2 and 4: cells of 2 pixels are covered by 1, 2, 2 and 1 of them."""
    boxes = scene_boxes(Frame(4, 8), [4])
    assert boxes.tolist() == [[0, 0, 4, 4], [2, 0, 6, 4], [4, 0, 8, 4]]
    heat = heat_map(boxes, np.array([0.1, 0.3, 0.9]), 4, 8)
    assert heat.cell == (2, 2)
    assert heat.scores[0] == pytest.approx([0.1, 0.2, 0.6, 0.9])
    assert heat.values[0] == pytest.approx([0, 0.125, 0.625, 1])  # (0.2 - 0.1) / 0.8, (0.6 - 0.1) / 0.8
    assert heat.at_pixels()[3] == pytest.approx([0, 0, 0.125, 0.125, 0.625, 0.625, 1, 1])


@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    sizes=st.lists(st.integers(2, 24), min_size=1, max_size=3, unique=True),
    seed=st.integers(0, 9),
)
def test_map_equals_sums_over_single_pixels(height, width, sizes, seed):
    rng = np.random.default_rng(seed)
    boxes = scene_boxes(Frame(height, width), sizes)
    kept = boxes[rng.random(len(boxes)) < 0.8] if len(boxes) > 1 else boxes
    if not len(kept):
        return
    scores = rng.random(len(kept))
    total, count = np.zeros((height, width)), np.zeros((height, width))
    for (left, top, right, bottom), score in zip(kept, scores, strict=True):
        total[top:bottom, left:right] += score
        count[top:bottom, left:right] += 1
    heat = heat_map(kept, scores, height, width)
    across, down = heat.cell
    for row, column in np.ndindex(heat.scores.shape):
        here = np.s_[row * down : (row + 1) * down, column * across : (column + 1) * across]
        if count[here].sum():
            expected = total[here].sum() / count[here].sum()
            assert heat.scores[row, column] == pytest.approx(expected, abs=2e-6)
        else:
            assert np.isnan(heat.scores[row, column])
    known = heat.values[~np.isnan(heat.values)]
    assert 0 <= known.min() <= known.max() <= 1


@given(height=st.integers(1, 200), width=st.integers(1, 200), sizes=st.lists(st.integers(16, 99), min_size=1))
def test_tiles_cover_the_whole_scene_and_stay_within(height, width, sizes):
    boxes = scene_boxes(Frame(height, width), sizes)
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2] <= width).all()
    assert (boxes[:, 3] <= height).all()
    extent = boxes[:, 2:] - boxes[:, :2]
    assert {tuple(side) for side in extent.tolist()} == {
        (min(size, width), min(size, height)) for size in sizes
    }
    covered = np.zeros((height, width), bool)
    for left, top, right, bottom in boxes:
        covered[top:bottom, left:right] = True
    assert covered.all()


def test_sizes_that_would_give_the_same_tiles_give_them_once():
    assert scene_boxes(Frame(20, 30), [64, 128]).tolist() == [[0, 0, 30, 20]]


def test_map_of_equal_scores_has_nothing_that_stands_out():
    boxes = scene_boxes(Frame(100, 90), [64, 32])
    heat = heat_map(boxes, np.full(len(boxes), 0.123456789), 100, 90)
    assert (heat.values == 0).all()


def test_maxima_by_hand():
    p = np.array([[5, 1, 1, 7], [1, 1, 7, 1], [1, 1, 1, 1], [3, 1, np.nan, 2]], float)
    places, values = local_maxima(p)
    found = {tuple(place): value for place, value in zip(places.tolist(), values.tolist(), strict=True)}
    # The two sevens touch at a corner: one maximum, between (3.5, 0.5) and (2.5, 1.5). The ones hang together
    # and have a higher neighbour somewhere, so they are none.
    assert found == {(0.5, 0.5): 5, (3.0, 1.0): 7, (0.5, 3.5): 3, (3.5, 3.5): 2}


def test_plateau_below_something_is_no_maximum():
    places, values = local_maxima(np.array([[2, 2, 2, 3]], float))
    assert places.tolist() == [[3.5, 0.5]]
    assert values.tolist() == [3]


@given(st.lists(st.integers(0, 3), min_size=30, max_size=30))
def test_highest_value_is_a_maximum_and_no_maximum_is_below_a_neighbour(values):
    p = np.array(values, float).reshape(5, 6)
    places, heights = local_maxima(p)
    assert heights.max() == p.max()
    for (x, y), value in zip(places, heights, strict=True):
        if x % 1 == y % 1 == 0.5 and p[int(y), int(x)] == value:
            row, column = int(y), int(x)
            assert p[max(0, row - 1) : row + 2, max(0, column - 1) : column + 2].max() == value


def test_hits_are_the_highest_places_best_first():
    heat = hot([[0.9, 0, 0, 0, 0.5], [0, 0, 0, 0, 0], [0, 0, 0, 0, 0], [0.7, 0, 0, 0, 0]])
    boxes, scores = best_places(heat, 10)
    assert scores == pytest.approx([0.9, 0.7, 0.5])
    # 4 pixels wide; around the middles (1, 1), (1, 7) and (9, 1), and moved into the scene of 10 x 8 pixels.
    assert boxes.tolist() == [[0, 0, 4, 4], [0, 4, 4, 8], [6, 0, 10, 4]]
    assert best_places(heat, 1)[0].tolist() == [[0, 0, 4, 4]]
    assert best_places(heat, 10, threshold=0.6)[1] == pytest.approx([0.9, 0.7])
    assert len(best_places(heat, 10, threshold=0.95)[0]) == 0


def test_hits_do_not_share_more_than_a_quarter():
    # Maxima two cells apart: boxes [0, 4) and [3, 7) across would share a quarter, of the same height: kept.
    boxes, _ = best_places(hot([[0, 0, 0, 0, 0, 0], [0.9, 0, 0.8, 0, 0.7, 0]]), 10)
    assert boxes[:, 0].tolist() == [0, 3, 7]
    # One and a half cells, as with a plateau: the second is left out.
    boxes, _ = best_places(hot([[0, 0.9, 0, 0.8, 0.8, 0]], cell=4), 10)
    for place, box in enumerate(boxes):
        for other in boxes[:place]:
            shared = np.minimum(box[2:], other[2:]) - np.maximum(box[:2], other[:2])
            assert np.maximum(shared, 0).prod() <= 0.25 * 64


def test_scene_of_one_tile_is_one_hit():
    for height, width in ((20, 31), (1, 1), (7, 64)):
        boxes = scene_boxes(Frame(height, width), [64])
        found, scores = best_places(heat_map(boxes, np.array([0.25]), height, width), 10)
        assert found.tolist() == [[0, 0, width, height]]
        assert scores.tolist() == [0.25]
