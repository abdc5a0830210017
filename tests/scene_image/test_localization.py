"""The localization indicators on maps whose values can be worked out by hand."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from swancli.errors import SwanError
from swancli.scene_image.annotations import read_annotations, score_map
from swancli.scene_image.heat import HeatMap
from swancli.scene_image.localization import (
    Indicators,
    attention_concentration,
    attention_shift,
    indicators,
    significant_share,
)

SQUARE = np.array([[0, 0], [4, 0], [4, 4], [0, 4]], float)
RADIUS = 3 * math.sqrt(2)  # its centre is (2, 2), each vertex is 2 sqrt(2) away, and 1.5 times that is r
NONE = np.zeros((0, 2))

shares = st.floats(0, 1, width=32)


def test_significant_share_by_hand():
    p = np.array([[1, 0.5], [0.5, 0]])
    m = np.array([[True, False], [False, False]])
    # in = 1, out = 1, (4 - 1) / 1 = 3: 1 - exp(-0.707 * 3) = 1 - exp(-2.121)
    assert significant_share(p, m) == pytest.approx(1 - math.exp(-2.121))


def test_significant_share_of_an_even_map_does_not_depend_on_the_area():
    # in / out = |m| / (H W - |m|), which the other factor takes back: 1 - exp(-0.707)
    for area in (1, 5, 11):
        m = np.arange(12).reshape(3, 4) < area
        assert significant_share(np.full((3, 4), 0.3), m) == pytest.approx(1 - math.exp(-0.707))


def test_significant_share_at_its_ends():
    m = np.array([[True, False]])
    assert significant_share(np.array([[0.2, 0.0]]), m) == 1
    assert significant_share(np.array([[0.0, 0.2]]), m) == 0
    assert significant_share(np.zeros((1, 2)), m) == 0
    assert significant_share(np.ones((1, 2)), np.ones((1, 2), bool)) == 0
    assert significant_share(np.array([[0.2, np.nan]]), m) == 1  # no tile lies there


def test_attention_shift_by_hand():
    assert attention_shift(np.array([[2.0, 2.0]]), [SQUARE]) == 0
    halfway = np.array([[2 + RADIUS / 2, 2.0]])
    # x = 0.5: (exp(1.5) - 1) / (exp(3) - 1) = 3.481689 / 19.085537
    assert attention_shift(halfway, [SQUARE]) == pytest.approx(3.481689 / 19.085537, abs=1e-6)
    assert attention_shift(NONE, [SQUARE]) == 1
    assert attention_shift(np.array([[2 + 1.01 * RADIUS, 2.0]]), [SQUARE]) == 1  # none within r


def test_attention_shift_is_the_mean_over_maxima_and_then_over_regions():
    far = SQUARE + 100
    # The square's maxima are 0 and r away: 0.5. The far region has none: 1. x = 0.75
    maxima = np.array([[2.0, 2.0], [2 + RADIUS * 0.9999999, 2.0]])
    expected = (math.exp(3 * 0.75) - 1) / (math.exp(3) - 1)
    assert attention_shift(maxima, [SQUARE, far]) == pytest.approx(expected, abs=1e-5)


def test_attention_concentration_by_hand():
    assert attention_concentration(NONE, [SQUARE]) == 0
    assert attention_concentration(np.array([[3.0, 3.0]]), [SQUARE]) == 1
    pair = np.array([[1.0, 2.0], [3.0, 2.0]])
    # Their middle is (2, 2), d = 1, n = 2: 0.5 (1 - 1 / 4.242641) + exp(-2) = 0.382149 + 0.135335
    assert attention_concentration(pair, [SQUARE]) == pytest.approx(0.517484, abs=1e-6)
    # The far region has no maximum: the mean of 0.517484 and 0.
    assert attention_concentration(pair, [SQUARE, SQUARE + 100]) == pytest.approx(0.258742, abs=1e-6)


def test_mean_indicator_by_hand():
    # 0.4 * 0.5 + 0.35 * (1 - 0.2) + 0.25 * 1 = 0.2 + 0.28 + 0.25
    assert Indicators(rsu=0.5, ras=0.2, rda=1.0).rmi == pytest.approx(0.73)


@given(
    st.lists(shares, min_size=12, max_size=12),
    st.lists(st.booleans(), min_size=12, max_size=12).filter(any),
    st.lists(st.tuples(st.floats(-9, 9), st.floats(-9, 9)), max_size=5),
)
def test_indicators_stay_within_0_and_1(values, places, maxima):
    p, m = np.array(values).reshape(3, 4), np.array(places).reshape(3, 4)
    found = indicators(p, m, np.array(maxima, float).reshape(-1, 2), [SQUARE, SQUARE - 7])
    for name in ("rsu", "ras", "rda", "rmi"):
        assert 0 <= getattr(found, name) <= 1


@given(st.lists(st.floats(0.125, 0.5, width=32), min_size=6, max_size=6), st.floats(0.01, 0.5))
def test_more_heat_in_the_true_place_gives_a_higher_share(values, more):
    p = np.array(values).reshape(2, 3)
    m = np.array([[True, True, False], [False, False, False]])
    assert significant_share(p + more * m, m) > significant_share(p, m)
    assert significant_share(p + more * ~m, m) < significant_share(p, m)


@given(st.floats(0, 0.99), st.floats(0.001, 0.5))
def test_shift_rises_with_the_distance_of_the_maximum(share, more):
    near, far = ([[2 + RADIUS * part, 2.0]] for part in (share, min(0.999, share + more)))
    assert attention_shift(np.array(near), [SQUARE]) <= attention_shift(np.array(far), [SQUARE])


def test_map_is_scored_at_its_pixels(tmp_path):
    """2 x 2 cells of 2 pixels; the true place is the upper left cell, and the map is 1 there, 0 elsewhere."""
    annotated(tmp_path, [[[0, 0], [2, 0], [2, 2], [0, 2]]])
    heat = HeatMap(np.array([[0.4, 0.1], [0.1, 0.1]], np.float32), (2, 2), (4, 4), 4, 4)
    found = score_map(heat, read_annotations(tmp_path / "places.json")[0])
    # The one maximum lies at (1, 1), the centre of the place.
    assert (found.rsu, found.ras, found.rda) == (1, 0, 1)
    assert found.rmi == pytest.approx(1)


def test_maxima_of_a_wide_scene_are_found_at_their_pixels(tmp_path):
    """2 x 2 cells of 6 x 2 pixels; the true place is the upper right cell, whose middle is (9, 1)."""
    annotated(tmp_path, [[[6, 0], [12, 0], [12, 2], [6, 2]]])
    heat = HeatMap(np.array([[0.1, 0.4], [0.1, 0.1]], np.float32), (6, 2), (12, 4), 4, 12)
    found = score_map(heat, read_annotations(tmp_path / "places.json")[0])
    assert (found.rsu, found.ras, found.rda) == (1, 0, 1)


# ---------------------------------------------------------------------------------------------------------
# annotations


def annotated(folder, points, **changed):
    Image.new("RGB", (4, 4)).save(folder / "scene.png")
    entry = {"jpg_name": "scene.png", "caption": "a river", "points": points, **changed}
    (folder / "places.json").write_text(json.dumps([entry]))
    return folder / "places.json"


@pytest.mark.parametrize(
    ("points", "changed", "named"),
    [
        ([], {}, "annotation 1"),
        ([[[0, 0], [1, 1]]], {}, "fewer than three points"),
        ([[[0, 0], [0, 0], [1, 1]]], {}, "fewer than three points"),
        ([[[0, 0], [1, float("nan")], [1, 1]]], {}, "finite"),
        ([[0, 0], [1, 0], [1, 1]], {}, "annotation 1"),
        ("river", {}, "annotation 1"),
        ([[[0, 0], [1, 0], [1, 1]]], {"jpg_name": "other.png"}, "--images"),
        ([[[0, 0], [1, 0], [1, 1]]], {"caption": "  "}, "no word"),
        ([[[0, 0], [1, 0], [1, 1]]], {"caption": None}, "annotation 1"),
    ],
)
def test_annotations_that_are_none_are_refused_by_number(tmp_path, points, changed, named):
    with pytest.raises(SwanError, match=named):
        read_annotations(annotated(tmp_path, points, **changed))


@pytest.mark.parametrize("text", ["", "{}", "[]", "[1]", '[{"jpg_name": "a"}]'])
def test_file_that_is_no_list_of_annotations_is_refused(tmp_path, text):
    (tmp_path / "places.json").write_text(text)
    with pytest.raises(SwanError, match=r"places\.json"):
        read_annotations(tmp_path / "places.json")
    with pytest.raises(SwanError, match="No such file"):
        read_annotations(tmp_path / "absent.json")


def test_place_outside_of_its_scene_is_refused(tmp_path):
    annotated(tmp_path, [[[10, 10], [12, 10], [12, 12]]])
    heat = HeatMap(np.ones((2, 2), np.float32), (2, 2), (4, 4), 4, 4)
    with pytest.raises(SwanError, match="outside"):
        score_map(heat, read_annotations(tmp_path / "places.json")[0])


@pytest.mark.parametrize("name", ["../secret.png", "/etc/passwd", "link.png"])
def test_annotated_scene_outside_of_its_folder_is_refused(tmp_path, name):
    folder = tmp_path / "folder"
    folder.mkdir()
    (tmp_path / "secret.png").touch()
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    entry = {"jpg_name": name, "caption": "a road", "points": [[[0, 0], [4, 0], [4, 4]]]}
    (folder / "list.json").write_text(json.dumps([entry]))
    with pytest.raises(SwanError, match=r"annotation 1: .* leads out of the folder"):
        read_annotations(folder / "list.json")
