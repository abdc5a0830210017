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


def test_cells_are_half_of_the_smallest_tile_wherever_it_is_in_the_list():
    boxes = np.array([[0, 0, 14, 14], [0, 0, 7, 14], [0, 0, 6, 6], [8, 8, 14, 14]])
    heat = heat_map(boxes[1:], np.array([0.2, 0.4, 0.6]), 14, 20)
    assert (heat.cell, heat.side) == ((3, 3), (6, 6))
    with np.errstate(all="raise"):  # cells without a tile are not divided by 0
        again = heat_map(boxes[:0:-1], np.array([0.6, 0.4, 0.2]), 14, 20)
    np.testing.assert_array_equal(again.scores, heat.scores)
    assert np.isnan(heat.scores[:, 5:]).all()


def test_pixels_have_the_values_of_their_cells_by_hand():
    """Cells of 3 x 2 pixels, of which the right and the lower ones reach beyond a scene of 4 x 3."""
    heat = HeatMap(np.array([[0, 1], [2, 4]], np.float32), (3, 2), (6, 4), 3, 4)
    assert heat.span == (0, 4)
    assert heat.at_pixels().tolist() == [[0, 0, 0, 0.25], [0, 0, 0, 0.25], [0.5, 0.5, 0.5, 1]]


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


def test_plateau_with_a_corner_missing_is_one_maximum():
    p = np.full((3, 3), 2.0)
    p[2, 2] = 1
    places, values = local_maxima(p)
    assert places.tolist() == [[1.375, 1.375]]  # the mean of eight: (3 * 0.5 + 3 * 1.5 + 2 * 2.5) / 8
    assert values.tolist() == [2]


@pytest.mark.parametrize("axis", [0, 1])
def test_plateaus_that_do_not_touch_are_two_maxima(axis):
    p = np.array([[0, 2, 2, 0, 2, 2, 2]], float)
    places, values = local_maxima(p if axis else p.T)
    assert sorted(places[:, 1 - axis].tolist()) == [2, 5.5]
    assert places[:, axis].tolist() == [0.5, 0.5]
    assert values.tolist() == [2, 2]


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


def test_hits_of_oblong_cells_by_hand():
    """Cells of 4 x 2 pixels under tiles of 8 x 4; the middles are (10, 3), (18, 5) and (2, 1)."""
    scores = np.zeros((3, 5), np.float32)
    scores[1, 2], scores[2, 4], scores[0, 0] = 0.75, 0.5, 0.25
    boxes, found = best_places(HeatMap(scores, (4, 2), (8, 4), 6, 20), 10, threshold=0.25)
    assert boxes.tolist() == [[6, 1, 14, 5], [12, 2, 20, 6], [0, 0, 8, 4]]
    assert boxes.dtype == np.int32
    assert found.tolist() == [0.75, 0.5, 0.25]


def test_equal_hits_come_in_the_order_of_rows():
    scores = np.zeros((5, 5))
    scores[::4, ::4] = 0.5
    assert best_places(hot(scores), 10)[0][:, :2].tolist() == [[0, 0], [6, 0], [0, 6], [6, 6]]
    # A plateau and a single cell in one row.
    assert best_places(hot([[0.5, 0.5, 0, 0, 0.5], [0] * 5]), 10)[0][:, 0].tolist() == [0, 6]


def test_hits_do_not_share_more_than_a_quarter():
    # Maxima two cells apart: boxes [0, 4) and [3, 7) across would share a quarter, of the same height: kept.
    boxes, _ = best_places(hot([[0, 0, 0, 0, 0, 0], [0.9, 0, 0.8, 0, 0.7, 0]]), 10)
    assert boxes[:, 0].tolist() == [0, 3, 7]
    # In a scene 7 pixels wide the last box is moved to [3, 7) and would share half of [1, 5): it is left out.
    cut = HeatMap(np.array([[0, 0.9, 0, 0.8], [0, 0, 0, 0]], np.float32), (2, 2), (4, 4), 4, 7)
    assert best_places(cut, 10)[0].tolist() == [[1, 0, 5, 4]]
    scores = np.array([[0] * 5 + [0.9, 0, 0.8], [0] * 8], np.float32)  # the same far from the corner
    assert best_places(HeatMap(scores, (2, 2), (4, 4), 4, 15), 10)[0].tolist() == [[9, 0, 13, 4]]


def test_small_hits_side_by_side_are_both_kept():
    assert best_places(hot([[0.9, 0, 0, 0.8], [0] * 4], cell=1), 10)[0][:, 0].tolist() == [0, 2]


def test_scene_of_one_tile_is_one_hit():
    for height, width in ((20, 31), (1, 1), (7, 64)):
        boxes = scene_boxes(Frame(height, width), [64])
        found, scores = best_places(heat_map(boxes, np.array([0.25]), height, width), 10)
        assert found.tolist() == [[0, 0, width, height]]
        assert scores.tolist() == [0.25]
