"""Which images a checkpoint was trained on: recognised by their pixels, and by their look."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from swancli.images import look_hash, pixel_digest
from swancli.store.seen import LIKE, NEW, SAME, SeenImages

LOOKS = st.lists(st.integers(0, 2**64 - 1), max_size=5).map(lambda values: np.array(values, np.uint64))


def digests(*numbers):
    return np.array([f"{number:032x}" for number in numbers], object)


def uint64(*values):
    return np.array(values, np.uint64)


def test_images_are_the_same_alike_or_new():
    seen = SeenImages.of(digests(1, 2, 3), uint64(0b1111, 0, 2**63))
    marks = seen.marks(
        digests(2, 9, 9, 9, 9),
        # With four more bits it is still alike, with five it is not; 0 is like nothing.
        uint64(0, 0b1111_1111, 0b1_1111_1111, 0, 2**63 + 15),
    )
    assert marks.tolist() == [SAME, LIKE, NEW, NEW, LIKE]


@given(LOOKS, LOOKS)
def test_joined_images_are_those_of_both(one, other):
    first = SeenImages.of(digests(*range(len(one))), one)
    second = SeenImages.of(digests(*range(100, 100 + len(other))), other)
    both = first.joined(second)
    assert len(both.digest) == len(one) + len(other)
    assert set(both.look.tolist()) == (set(one.tolist()) | set(other.tolist())) - {0}
    assert (both.marks(digests(*range(len(one))), one) == SAME).all()
    shown = both.marks(digests(*[500] * len(other)), other)
    assert (shown == np.where(other > 0, LIKE, NEW)).all()


@given(LOOKS, st.integers(0, 2**64 - 1))
def test_likeness_counts_the_bits_that_differ(looks, own):
    seen = SeenImages.of(digests(*range(len(looks))), looks)
    near = own > 0 and any(look and (int(look) ^ own).bit_count() <= 4 for look in looks.tolist())
    assert seen.marks(digests(500), uint64(own)).tolist() == [LIKE if near else NEW]


def test_plain_form_holds_everything_and_another_form_is_refused():
    seen = SeenImages.of(digests(1, 2), uint64(7, 2**64 - 1))
    found = SeenImages.from_plain(seen.to_plain())
    assert (found.digest == seen.digest).all()
    assert (found.look == seen.look).all()
    with pytest.raises(TypeError, match="its seen images are"):
        SeenImages.from_plain({"digest": seen.to_plain()["look"], "look": seen.to_plain()["look"]})
    with pytest.raises(KeyError):
        SeenImages.from_plain({})


def picture(seed):
    """A smooth random picture with some detail."""
    generator = np.random.default_rng(seed)
    coarse = Image.fromarray(generator.integers(0, 256, (9, 9, 3), dtype=np.uint8))
    return coarse.resize((224, 224), Image.Resampling.BICUBIC)


def test_copies_of_another_size_or_as_jpeg_look_the_same_and_other_pictures_do_not():
    pictures = [picture(seed) for seed in range(30)]
    pixels = [np.array(one) for one in pictures]
    seen = SeenImages.of(
        np.array([pixel_digest(one) for one in pixels], object), uint64(*[look_hash(one) for one in pixels])
    )

    def jpeg(image):
        file = io.BytesIO()
        image.save(file, "JPEG", quality=60)
        return np.array(Image.open(file))

    for copies, mark in (
        (pixels, SAME),
        ([np.array(one.resize((256, 256))) for one in pictures], LIKE),
        ([jpeg(one.resize((150, 150))) for one in pictures], LIKE),
        ([np.array(picture(seed)) for seed in range(100, 130)], NEW),
    ):
        marks = seen.marks(
            np.array([pixel_digest(one) for one in copies], object),
            uint64(*[look_hash(one) for one in copies]),
        )
        assert (marks == mark).all()


def test_pictures_of_a_single_colour_look_like_nothing():
    assert look_hash(np.full((40, 40, 3), 7, np.uint8)) == 0
