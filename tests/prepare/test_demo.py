from collections import Counter

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from swancli.prepare.demo import COLOURS, NUMBERS, PLACES, SCENES, SPLIT_PATTERN, generate_demo


@pytest.fixture(scope="module")
def demo():
    return list(generate_demo(1200, seed=0, size=128))


@pytest.fixture(scope="module")
def images(demo):
    return [image for image, _ in demo]


def attributes(image):
    """(number, colour, place) as the words of the captions say them; fails where captions disagree."""

    def the_only(words):
        found = {word for word in words for caption in image.captions if f" {word} " in f" {caption} "}
        assert len(found) == 1, image.captions
        return found.pop()

    return the_only(NUMBERS.values()), the_only(COLOURS), the_only(PLACES)


def blobs(pixels, colour):
    """(number, mean x, mean y) of the connected patches near a colour, coordinates from 0 to 1."""
    near = np.abs(pixels.astype(int) - COLOURS[colour]).sum(axis=2) < 110
    mask = Image.fromarray((near * 255).astype(np.uint8)).filter(ImageFilter.MaxFilter(3))
    sizes = []
    while (left := np.argwhere(np.asarray(mask) == 255)).size:
        ImageDraw.floodfill(mask, tuple(left[0][::-1].tolist()), 0)
        sizes.append(len(left) - np.count_nonzero(np.asarray(mask) == 255))
    y, x = np.nonzero(near)
    return sum(size > 40 for size in sizes), x.mean() / pixels.shape[1], y.mean() / pixels.shape[0]


def test_images_have_names_of_their_own_and_the_side_that_was_asked_for(demo):
    assert len(demo) == len({image.filename for image, _ in demo}) == 1200
    assert {(pixels.shape, pixels.dtype) for _, pixels in demo} == {((128, 128, 3), np.dtype(np.uint8))}


def test_same_seed_gives_the_same_images():
    longer, shorter = (generate_demo(count, seed=5, size=64) for count in (36, 24))
    for (one, pixels), (other, same) in zip(longer, shorter, strict=False):
        assert np.array_equal(pixels, same)
        assert one == other


def test_another_seed_gives_other_images():
    pairs = list(zip(*(generate_demo(24, seed, size=64) for seed in (0, 1)), strict=True))
    assert not any(np.array_equal(pixels, others) for (_, pixels), (_, others) in pairs)
    assert sum(one.captions != other.captions for (one, _), (other, _) in pairs) > 20


def test_every_split_has_every_scene_equally_often(images):
    counts = Counter((image.split, image.scene) for image in images)
    for split, least in (("train", 800), ("val", 150), ("test", 150)):
        of_split = {counts[split, scene] for scene in SCENES}
        assert len(of_split) == 1
        assert of_split.pop() * len(SCENES) >= least
    assert len(SCENES) >= 8


def test_a_small_set_has_every_scene_in_every_split():
    found = {(image.split, image.scene) for image, _ in generate_demo(48, seed=0, size=16)}
    assert len(found) == len(set(SPLIT_PATTERN)) * len(SCENES)


def test_five_different_captions_agree_and_most_name_number_colour_and_place(images):
    for image in images:
        assert len(set(image.captions)) == 5
        number, colour, place = attributes(image)
        scene = SCENES[image.scene]
        for caption in image.captions:
            assert f"{number} {colour} {scene.thing}" in caption
            assert scene.words in caption
            assert ("s " in caption.split(scene.thing, 1)[1][:2]) == (number != "one")
        assert sum(place in caption for caption in image.captions) >= 3


def test_no_two_images_of_a_scene_share_number_colour_and_place(images):
    looks = Counter((image.scene, *attributes(image)) for image in images)
    assert max(looks.values()) == 1


def test_captions_of_a_test_image_belong_to_no_other(images):
    captions = Counter(frozenset(image.captions) for image in images if image.split == "test")
    assert max(captions.values()) == 1
    texts = Counter(text for image in images if image.split == "test" for text in image.captions)
    assert sum(count == 1 for count in texts.values()) > 0.9 * len(texts)


def test_attributes_are_balanced(images):
    for values, position in ((NUMBERS.values(), 0), (COLOURS, 1), (PLACES, 2)):
        counts = Counter(attributes(image)[position] for image in images)
        assert min(counts[value] for value in values) > 0.8 * len(images) / len(values)


@pytest.mark.parametrize("colour", ["red", "purple"])  # nothing but the objects has these colours
def test_pictures_show_the_number_and_place_that_captions_name(demo, colour):
    words = {word: number for number, word in NUMBERS.items()}
    shown = [(image, pixels) for image, pixels in demo[:240] if attributes(image)[1] == colour]
    assert len({image.scene for image, _ in shown}) == len(SCENES)
    for image, pixels in shown:
        number, _, place = attributes(image)
        count, x, y = blobs(pixels, colour)
        assert count == words[number], image.filename
        for coordinate, side in zip((x, y), PLACES[place], strict=True):
            assert coordinate == pytest.approx(0.5 + 0.225 * side, abs=0.06), image.filename
