from collections import Counter

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from swancli.prepare.demo import COLOURS, NUMBERS, PLACES, SCENES, SPLIT_PATTERN, generate_demo


@pytest.fixture(scope="module")
def images():
    return list(generate_demo())


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


def test_default_holds_1200_images_of_128_by_128_pixels(images):
    assert len(images) == len({image.filename for image in images}) == 1200
    assert {(image.pixels.shape, image.pixels.dtype) for image in images} == {
        ((128, 128, 3), np.dtype(np.uint8))
    }


def test_size_is_the_side_of_an_image():
    assert next(generate_demo(1, size=64)).pixels.shape == (64, 64, 3)


def test_same_seed_gives_the_same_images():
    for one, other in zip(generate_demo(36, seed=5), generate_demo(24, seed=5), strict=False):
        assert np.array_equal(one.pixels, other.pixels)
        assert (one.filename, one.split, one.captions) == (other.filename, other.split, other.captions)


def test_another_seed_gives_other_images():
    pairs = list(zip(generate_demo(24, seed=0), generate_demo(24, seed=1), strict=True))
    assert not any(np.array_equal(one.pixels, other.pixels) for one, other in pairs)
    assert sum(one.captions != other.captions for one, other in pairs) > 20


def test_every_split_has_every_scene_equally_often(images):
    counts = Counter((image.split, image.scene) for image in images)
    for split, least in (("train", 800), ("val", 150), ("test", 150)):
        of_split = {counts[split, scene] for scene in SCENES}
        assert len(of_split) == 1
        assert of_split.pop() * len(SCENES) >= least
    assert len(SCENES) >= 8


def test_a_small_set_has_every_scene_in_every_split():
    found = {(image.split, image.scene) for image in generate_demo(48)}
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
def test_pictures_show_the_number_and_place_that_captions_name(images, colour):
    words = {word: number for number, word in NUMBERS.items()}
    shown = [image for image in images[:240] if attributes(image)[1] == colour]
    assert len({image.scene for image in shown}) == len(SCENES)
    for image in shown:
        number, _, place = attributes(image)
        count, x, y = blobs(image.pixels, colour)
        assert count == words[number], image.filename
        for coordinate, side in zip((x, y), PLACES[place], strict=True):
            assert coordinate == pytest.approx(0.5 + 0.225 * side, abs=0.06), image.filename
