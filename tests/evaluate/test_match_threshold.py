"""From which score on a query matches: worked out by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swancli.evaluate.match_threshold import MatchThreshold, equal_errors, match_threshold


def test_equal_errors_by_hand():
    """At 0.6 one of four is missed (0.5) and one of four is taken all the same (0.7)."""
    there, not_there = np.array([0.9, 0.8, 0.6, 0.5]), np.array([0.7, 0.4, 0.3, 0.2])
    assert equal_errors(there, not_there) == (0.6, 0.25, 0.25)


def test_equal_errors_of_scores_that_are_apart_are_none():
    """The lowest score that is a match still is the threshold."""
    assert equal_errors(np.array([0.9, 0.8]), np.array([0.1, 0.3])) == (0.8, 0.0, 0.0)


@given(
    there=st.lists(st.integers(-20, 20), min_size=1, max_size=40),
    not_there=st.lists(st.integers(-20, 20), min_size=1, max_size=40),
)
def test_errors_are_what_counting_gives_and_no_threshold_brings_them_nearer(there, not_there):
    threshold, false_alarm, miss = equal_errors(np.array(there, float), np.array(not_there, float))

    def counted(least):
        missed = sum(score < least for score in there) / len(there)
        return missed, sum(score >= least for score in not_there) / len(not_there)

    assert (miss, false_alarm) == pytest.approx(counted(threshold))
    nearest = min(abs(np.subtract(*counted(least))) for least in there + not_there)
    assert abs(miss - false_alarm) == pytest.approx(nearest)


def test_threshold_of_two_scenes_by_hand():
    """Both captions find their own image at 1; without its scene the best is 0 and 0.6."""
    image = np.array([[1, 0], [0, 1]], np.float32)
    caption = np.array([[1, 0], [0.6, 0.8]], np.float32)
    scene = np.array(["river", "airport"], dtype=object)
    found = match_threshold(image, caption, np.array([0, 1]), scene)
    assert found.threshold == pytest.approx(0.8)  # the first at 1 and 0.8; the others at 0 and 0.6
    assert (found.false_alarm, found.miss, found.images, found.captions) == (0.0, 0.0, 2, 2)


def test_captions_without_an_image_or_a_scene_do_not_count():
    image = np.eye(3, dtype=np.float32)
    scene = np.array(["river", "airport", None], dtype=object)
    caption = np.eye(3, dtype=np.float32)[[0, 1, 2, 2]]
    found = match_threshold(image, caption, np.array([0, 1, 2, -1]), scene)
    assert (found.images, found.captions) == (3, 2)


@pytest.mark.parametrize("scene", [["river", "river"], [None, None], ["river", None]])
def test_fewer_than_two_scenes_tell_no_threshold(scene):
    vectors = np.eye(2, dtype=np.float32)
    assert match_threshold(vectors, vectors, np.array([0, 1]), np.array(scene, dtype=object)) is None


PLAIN = {"threshold": 0.5, "false_alarm": 10.0, "miss": 10.0, "images": 9, "captions": 9}


def test_threshold_comes_back_from_plain_values():
    assert MatchThreshold.from_plain(PLAIN) == MatchThreshold(**PLAIN)


@pytest.mark.parametrize(
    "stored",
    [
        PLAIN | {"recall": 1.0},
        {"threshold": 0.5},
        PLAIN | {"threshold": "0.5"},
        [0.5],
        PLAIN | {"miss": np.nan},
    ],
)
def test_other_values_are_no_threshold(stored):
    with pytest.raises(TypeError):
        MatchThreshold.from_plain(stored)
