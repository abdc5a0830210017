"""Which pairs meet in a batch, and what augmentation does to pixels."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import rotate

from swancli.machine.processes import ALONE, Processes
from swancli.model.inputs import Preprocessing, pad_tokens, stack_images
from swancli.train.batches import (
    augment,
    draw_views,
    hide_rare_words,
    load_batches,
    number_wordings,
    pair_batches,
)
from swancli.vocab.vocabulary import UNKNOWN, Vocabulary


@given(
    counts=st.lists(st.integers(1, 6), min_size=2, max_size=12),
    batch_size=st.integers(4, 20),
    per_image=st.integers(1, 5),
    seed=st.integers(0, 99),
    least=st.integers(2, 4),
)
def test_every_caption_comes_once_and_with_its_image(counts, batch_size, per_image, seed, least):
    caption_image = np.repeat(np.arange(len(counts)), counts)
    batches = pair_batches(caption_image, batch_size, per_image, np.random.default_rng(seed), least)
    captions = [caption for batch in batches for group in batch for caption in group]
    assert sorted(captions) == list(range(len(caption_image)))
    groups = [group for batch in batches for group in batch]
    assert all(len(set(caption_image[group])) == 1 and len(group) <= per_image for group in groups)
    size = max(2, batch_size // per_image)
    assert all(len(batch) == size for batch in batches[:-2])
    # A last batch of too few images has joined the one before.
    assert len(batches) == 1 or len(batches[-1]) >= min(least, size)


def test_same_seed_gives_the_same_batches_and_another_seed_others():
    caption_image = np.repeat(np.arange(50), 5)
    first, again, other = (
        pair_batches(caption_image, 20, 1, np.random.default_rng(seed)) for seed in (0, 0, 1)
    )
    assert [np.concatenate(b).tolist() for b in first] == [np.concatenate(b).tolist() for b in again]
    assert [np.concatenate(b).tolist() for b in first] != [np.concatenate(b).tolist() for b in other]


def test_captions_of_an_image_share_its_pass():
    caption_image = np.repeat(np.arange(8), 5)
    batches = pair_batches(caption_image, 20, 5, np.random.default_rng(0))
    assert [len(batch) for batch in batches] == [4, 4]
    assert sorted(np.concatenate([np.concatenate(batch) for batch in batches])) == list(range(40))


def read_from(images: list[np.ndarray]):
    """Reads images of 8 px as they are."""
    return lambda rows, share: (stack_images([images[row] for row in rows[share]]), None, None)


def read_words(tokens: list[list[int]]):
    """Reads captions padded to the longest of their batch."""

    def read(captions: np.ndarray, share: slice):
        padded, lengths = pad_tokens([tokens[caption] for caption in captions])
        return padded[share], lengths[share]

    return read


def batches_of(groups, images, caption_image, tokens, **options):
    """The batches of some groups, of images of 8 px and captions of these words."""
    readers = read_from(images), read_words(tokens)
    return load_batches(groups, *readers, caption_image, number_wordings(tokens), **options)


def test_batch_says_which_caption_describes_which_image():
    caption_image = np.array([2, 0, 1, 2, 0])
    images = [np.full((8, 8, 3), 10 * row, np.uint8) for row in range(3)]
    tokens = [[10 + caption] for caption in range(5)]
    groups = [[np.array([3, 0]), np.array([2])]]
    (batch,) = batches_of(groups, images, caption_image, tokens)
    assert batch.images.tolist() == [2, 1]
    assert batch.tokens.tolist() == [[13], [10], [12]]
    assert batch.positive.tolist() == [[True, True, False], [False, False, True]]
    assert batch.negative.tolist() == [[False, False, True], [True, True, False]]
    torch.testing.assert_close(batch.pixels, stack_images([images[2], images[1]]))


def test_processes_share_a_batch_and_each_knows_all_of_its_pairs():
    caption_image = np.array([2, 0, 1, 2, 0])
    images = [np.full((8, 8, 3), 10 * row, np.uint8) for row in range(3)]
    tokens = [[10, 11, 12], [11], [12], [13], [14, 15]]
    groups = [[np.array([3, 0]), np.array([2]), np.array([4, 1])]]
    whole, *parts = (
        next(batches_of(groups, images, caption_image, tokens, processes=processes))
        for processes in (ALONE, Processes(0, 2), Processes(1, 2))
    )
    assert (parts[0].images_each, parts[0].captions_each) == ([1, 2], [2, 3])
    assert parts[0].tokens.tolist() == [[13, 0, 0], [10, 11, 12]]  # as long as the batch's longest
    for name in ("pixels", "tokens", "lengths"):
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(whole, name))
    for part in parts:
        assert torch.equal(part.positive, whole.positive)
        assert torch.equal(part.negative, whole.negative)
        assert part.images.tolist() == whole.images.tolist() == [2, 1, 0]


def test_caption_in_the_words_of_an_images_own_is_no_negative_of_it():
    caption_image = np.array([1, 0, 0, 2])
    tokens = [[5, 6], [7], [5, 6], [5]]
    images = [np.zeros((8, 8, 3), np.uint8)] * 3
    groups = [[np.array([0]), np.array([1]), np.array([3])]]
    (batch,) = batches_of(groups, images, caption_image, tokens)
    # Image 0 has the words of caption 0 in its caption 2, though that one is not in the batch.
    assert batch.positive.tolist() == [[True, False, False], [False, True, False], [False, False, True]]
    assert batch.negative.tolist() == [[False, True, True], [False, False, True], [True, True, False]]


def test_published_batches_take_other_captions_of_the_same_image_as_negatives():
    caption_image = np.array([0, 0, 1])
    images = [np.zeros((8, 8, 3), np.uint8)] * 2
    groups = [[np.array([0]), np.array([2]), np.array([1])]]
    tokens = [[1], [2], [3]]
    shared, own = (
        next(batches_of(groups, images, caption_image, tokens, own_captions_only=published))
        for published in (False, True)
    )
    assert shared.positive.tolist() == [[True, False, True], [False, True, False], [True, False, True]]
    assert own.positive.tolist() == np.eye(3, dtype=bool).tolist()
    assert torch.equal(own.negative, ~own.positive)


def test_rare_words_are_hidden_at_a_rate_that_falls_with_their_count():
    vocabulary = Vocabulary(("rare", "common", "new", UNKNOWN), (1, 1000, 0, 0), 1, "keep", "")
    tokens = [[1, 2], [3], [1]] * 2000
    hidden = hide_rare_words(tokens, vocabulary, np.random.default_rng(0))
    assert [len(caption) for caption in hidden] == [2, 1, 1] * 2000
    shares = [np.mean([words[0] == 4 for words in hidden[start::3]]) for start in range(3)]
    assert shares == pytest.approx([0.2, 0, 0.2], abs=0.03)  # 0.25 / 1.25; never where no count is known
    assert np.mean([words[1] == 4 for words in hidden[::3]]) < 0.01
    assert tokens[0] == [1, 2]


def test_tokens_are_padded_with_zero():
    tokens, lengths = pad_tokens([[4, 5, 6], [7], list(range(1, 60))])
    assert lengths.tolist() == [3, 1, 59]
    assert tokens.shape == (3, 59)
    assert tokens[2].tolist() == list(range(1, 60))
    assert tokens[0, :4].tolist() == [4, 5, 6, 0]
    assert tokens[1, 1:].sum() == 0


def test_normalised_white_is_imagenets():
    white = Preprocessing().normalise(torch.full((1, 3, 2, 2), 255, dtype=torch.uint8))
    expected = [(1 - 0.485) / 0.229, (1 - 0.456) / 0.224, (1 - 0.406) / 0.225]
    assert white[0, :, 0, 0].tolist() == pytest.approx(expected, rel=1e-5)


def varied(pixels: torch.Tensor, size: int, kind: str, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return augment(pixels, draw_views(len(pixels), pixels.shape[-1], size, kind, generator))


def arrow() -> torch.Tensor:
    """uint8 (64, 3, 40, 40): bright upper left quadrant, dark rest."""
    image = torch.full((3, 40, 40), 20, dtype=torch.uint8)
    image[:, :20, :20] = 200
    return image.repeat(64, 1, 1, 1)


@pytest.mark.parametrize("kind", ["paper", "overhead"])
def test_augmentation_follows_its_generator(kind):
    views = [varied(arrow(), 32, kind, seed) for seed in (0, 0, 1)]
    assert torch.equal(views[0], views[1])
    assert not torch.equal(views[0], views[2])
    assert views[0].shape == (64, 3, 32, 32)
    assert views[0].min() >= 0
    assert views[0].max() <= 255


def test_paper_augmentation_turns_by_up_to_90_degrees_with_black_corners():
    views = varied(torch.full((64, 3, 70, 70), 255, dtype=torch.uint8), 64, "paper", 0)
    corners = torch.stack([views[:, 0, y, x] for y in (0, -1) for x in (0, -1)])
    assert (corners == 0).any()
    torch.testing.assert_close(views[:, :, 31, 31], torch.full((64, 3), 255.0))
    # A bright upper left quadrant turns one way only: its middle stays in the left half or comes to the lower
    # left, and never reaches the right half.
    turned = varied(arrow(), 37, "paper", 0)
    right = turned[:, 0, :, 22:].mean(dim=(1, 2))
    left = turned[:, 0, :, :15].mean(dim=(1, 2))
    assert (left > right).float().mean() in (0.0, 1.0) or (left > right).float().mean() > 0.9


def test_paper_augmentation_is_torchvisions_rotation_and_crop():
    """Against torchvision itself: for every view there is a crop of the turned image that equals it."""
    rng = np.random.default_rng(0)
    image = torch.from_numpy(rng.integers(1, 255, (1, 3, 70, 70), dtype=np.uint8))
    view = varied(image, 64, "paper", 5)[0]
    angle = math.degrees(float(torch.rand(1, generator=torch.Generator().manual_seed(5))) * math.pi / 2)
    turned = rotate(image.float(), angle, InterpolationMode.NEAREST)[0]
    equal = [
        float((turned[:, top : top + 64, left : left + 64] == view).float().mean())
        for top in range(7)
        for left in range(7)
    ]
    assert max(equal) > 0.999  # but for pixels whose source lies halfway between two
    assert sorted(equal)[-2] < 0.1


def test_overhead_augmentation_reaches_all_eight_orientations_and_leaves_no_black():
    image = torch.full((256, 3, 41, 41), 60, dtype=torch.uint8)
    image[:, :, :20, :10] = 250  # an L-less mark in one octant
    views = varied(image, 32, "overhead", 0)
    assert views.min() > 10
    bright = (views[:, 0] > views[:, 0].mean(dim=(1, 2), keepdim=True) + 40).float()
    quadrants = torch.stack(
        [bright[:, :16, :16], bright[:, :16, 16:], bright[:, 16:, :16], bright[:, 16:, 16:]]
    ).mean(dim=(2, 3))
    assert set(quadrants.argmax(dim=0).tolist()) == {0, 1, 2, 3}
