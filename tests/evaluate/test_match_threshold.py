"""From which score on a query matches, among how many images: worked out by hand."""

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swancli.evaluate.match_threshold import (
    FALSE_ALARM,
    LEVELS,
    MatchThreshold,
    chances,
    expected_alarms,
    match_threshold,
)


def unit(rows, width, rng):
    vectors = rng.standard_normal((rows, width)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_chances_by_hand():
    """Two of four images: of 6 pairs, 3 avoid the one that counts, and 1 avoids the two that count."""
    assert chances(2, 4) == pytest.approx([0, 1 / 2, 5 / 6, 1, 1])
    assert chances(1, 4) == pytest.approx([0, 1 / 4, 2 / 4, 3 / 4, 1])
    assert chances(4, 4) == pytest.approx([0, 1, 1, 1, 1])


@given(
    st.integers(1, 3).flatmap(
        lambda captions: st.integers(1, 5).flatmap(
            lambda images: st.lists(
                st.lists(st.integers(-8, 8), min_size=images, max_size=images),
                min_size=captions,
                max_size=captions,
            )
        )
    )
)
def test_expected_alarms_are_what_going_through_all_searches_gives(eighths):
    scores = np.array(eighths, np.float32) / 8
    sizes = np.arange(1, scores.shape[1] + 1)

    def counted(size):
        searches = [scores[:, chosen].max(axis=1) for chosen in combinations(range(scores.shape[1]), size)]
        return np.mean([(best[:, None] >= LEVELS).sum(axis=0) for best in searches], axis=0)

    found = expected_alarms(scores, sizes)
    np.testing.assert_allclose(found, [counted(size) for size in sizes], atol=1e-9)
    assert (np.diff(found, axis=0) > -1e-9).all()  # more images, more alarms


def test_threshold_by_hand():
    """Five captions of a river, and two images of an airport: one of five searches may find an airport.

    Among one airport, the expected number of captions at 0.5, 0.25 and 0.125 is 0.5, 1 and 1.5; among both
    it is 1, 2 and 3. So the threshold has to be above 0.125 among one, and above 0.25 among two.
    """
    absent = np.array([[0.5, 0], [0.25, 0], [0, 0.125], [0, 0], [0, 0]], np.float32)
    caption = np.column_stack([np.sqrt(1 - (absent**2).sum(axis=1)), absent])
    scene = np.array(["river", "airport", "airport"], dtype=object)
    found = match_threshold(np.eye(3, dtype=np.float32), caption, np.zeros(5, np.int64), scene)
    assert FALSE_ALARM == found.false_alarm == 20
    assert (found.among(1), found.among(2)) == pytest.approx((0.13, 0.255))
    assert found.among(16) == pytest.approx(math.tanh(2 * math.atanh(0.255) - math.atanh(0.13)))
    assert (found.miss, found.images, found.captions) == (0, 3, 5)


def test_miss_is_the_share_of_captions_that_no_image_of_the_split_matches():
    """The airport is at 0.5 and 0; the second caption is as far from the river, its own image."""
    scene = np.array(["river", "airport", "airport"], dtype=object)
    caption = np.array([[0.75, 0.5, 0], [0.25, 0, 0]], np.float32)
    found = match_threshold(np.eye(3, dtype=np.float32), caption, np.zeros(2, np.int64), scene)
    assert found.among(3) == pytest.approx(0.505)
    assert found.miss == 50


@given(seed=st.integers(0, 2**32), rows=st.integers(2, 60), scenes=st.integers(2, 5))
def test_threshold_does_not_fall_as_more_images_are_searched(seed, rows, scenes):
    rng = np.random.default_rng(seed)
    scene = np.array(
        [f"scene {number}" for number in np.append([0, 0], rng.integers(1, scenes, rows))], object
    )
    vectors = unit(len(scene), 4, rng)
    found = match_threshold(vectors, vectors[:2], np.arange(2), scene)
    least = [found.among(images) for images in (1, 2, 3, 10, 100, 10**4, 10**9)]
    assert least == sorted(least)
    assert -1 < least[0] <= least[-1] <= 1


def test_rate_of_false_alarms_holds_among_twenty_times_as_many_images():
    rng = np.random.default_rng(0)
    scene = np.array([f"scene {number}" for number in rng.integers(0, 8, 500)], object)
    found = match_threshold(unit(500, 64, rng), unit(2000, 64, rng), rng.integers(0, 500, 2000), scene)
    best = (unit(1000, 64, rng) @ unit(10_000, 64, rng).T).max(axis=1)
    assert 100 * (best >= found.among(10_000)).mean() == pytest.approx(FALSE_ALARM, abs=5)
    assert (best >= found.among(500)).mean() > 0.9  # which is what one threshold for all would do


def test_captions_without_an_image_or_a_scene_do_not_count_and_images_without_a_scene_are_not_absent():
    """The third image, which has no scene, has the score of a match for the first caption."""
    scene = np.array(["river", "airport", None, "airport"], dtype=object)
    image = np.eye(4, dtype=np.float32)
    caption = np.array([[0.5, 0, 0.75, 0], [1, 0, 0, 0], [0, 0, 1, 0]], np.float32)
    found = match_threshold(image, caption, np.array([0, 2, -1]), scene)
    assert (found.images, found.captions) == (4, 1)
    assert found.among(4) == pytest.approx(0.005)


@pytest.mark.parametrize(
    "scene", [["river"] * 3, [None] * 3, ["river", "river", None], ["river", "airport", "airport"]]
)
def test_too_few_images_of_different_scenes_give_no_threshold(scene):
    """Of the last ones, the captions of the airports could be searched for in one image only."""
    vectors = np.eye(3, dtype=np.float32)
    assert match_threshold(vectors, vectors, np.arange(3), np.array(scene, dtype=object)) is None


PLAIN = {"offset": 0.1, "growth": 0.2, "false_alarm": 20.0, "miss": 10.0, "images": 9, "captions": 9}


def test_threshold_comes_back_from_plain_values():
    found = MatchThreshold.from_plain(PLAIN)
    assert found == MatchThreshold(**PLAIN)
    assert found.among(16) == pytest.approx(math.tanh(0.5))  # sqrt(log2 16) is 2


@pytest.mark.parametrize(
    "stored",
    [
        PLAIN | {"recall": 1.0},
        {"offset": 0.5},
        PLAIN | {"offset": "0.5"},
        [0.5],
        PLAIN | {"miss": np.nan},
        PLAIN | {"offset": 10**400},  # too large for a float
        PLAIN | {"offset": 1e308, "growth": 0},
        PLAIN | {"growth": -5.0},  # whose law lets everything pass
        PLAIN | {"growth": True},
        PLAIN | {"images": 0},
        PLAIN | {"miss": np.float32(1)},
    ],
)
def test_other_values_are_no_threshold(stored):
    with pytest.raises((TypeError, ValueError)):
        MatchThreshold.from_plain(stored)
