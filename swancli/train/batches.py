"""From a data set to training batches: which pairs meet, and how images are varied.

Every random choice comes from a generator made of the seed and the epoch, so an epoch can be repeated
without the ones before it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F

from swancli.images import resize_image
from swancli.machine.device import move, reading_threads
from swancli.machine.processes import ALONE, Processes
from swancli.machine.threads import in_order
from swancli.model.inputs import pad_tokens, stack_images
from swancli.store.dataset import Dataset
from swancli.vocab.vocabulary import UNKNOWN, Vocabulary

# Section 4.1: training images are resized to 278 and cropped to 256.
CROP_MARGIN = 278 / 256
MAX_ROTATION = math.pi / 2
HIDDEN = 0.25  # a word seen once is hidden with 0.25 / 1.25


@dataclass(frozen=True)
class Views:
    """How each image of a batch is varied in training.

    lookup: float32 (B, 2, 3), where an output pixel looks up, in units of half the image's side from its
    centre; contrast, brightness: float32 (B, 1, 1, 1), or None when the colours stay. size: side in pixels.
    """

    lookup: torch.Tensor
    contrast: torch.Tensor | None
    brightness: torch.Tensor | None
    size: int

    def part(self, share: slice) -> Views:
        """The views of some of the images."""
        colours = (colour if colour is None else colour[share] for colour in (self.contrast, self.brightness))
        return Views(self.lookup[share], *colours, self.size)


@dataclass(frozen=True)
class Batch:
    """Images and captions that meet in one step: B and C of them, of which this process encodes b and c.

    pixels: uint8 (b, 3, R, R), channels last; views: what to make of them, None to take them as they are;
    deep: the backbone's deep maps where they were computed before, float16 (see `features`), else None;
    tokens: int64 (c, L), 0 past the end; lengths: int64 (c,); positive: bool (B, C), whether a caption
    describes an image; negative: bool (B, C), whether it is to be told from the image's own (neither, where
    the words are those of another caption of the image); these three always on the CPU; images: int64 (B,),
    their rows; images_each, captions_each: how many each process encodes.
    """

    pixels: torch.Tensor
    views: Views | None
    deep: dict[str, torch.Tensor] | None
    tokens: torch.Tensor
    lengths: torch.Tensor
    positive: torch.Tensor
    negative: torch.Tensor
    images: np.ndarray
    images_each: list[int]
    captions_each: list[int]

    def moved(self, move: Callable[[torch.Tensor], torch.Tensor]) -> Batch:
        """The same, moved as to a GPU or into pinned memory."""
        return replace(
            self,
            pixels=move(self.pixels),
            deep=self.deep and {depth: move(deep) for depth, deep in self.deep.items()},
            tokens=move(self.tokens),
        )


def pair_batches(
    caption_image: np.ndarray,
    batch_size: int,
    captions_per_image: int,
    generator: np.random.Generator,
    least: int = 2,
) -> list[list[np.ndarray]]:
    """One epoch's batches: every caption once, in random order.

    Args:
        caption_image: int64 (M,), the image of each caption.
        batch_size: captions in a batch; the last one may hold fewer.
        captions_per_image: captions that share one pass of their image. With 1 an image comes as often as it
            has captions, as in the paper.
        least: images in a batch; a last one of fewer joins the batch before it.

    Returns:
        Batches as lists of groups; a group holds the caption rows, int64, of one image.
    """
    order = generator.permutation(len(caption_image))
    order = order[np.argsort(caption_image[order], kind="stable")]
    starts = np.flatnonzero(np.diff(caption_image[order], prepend=-1))
    groups = [
        captions[start : start + captions_per_image]
        for captions in np.split(order, starts[1:])
        for start in range(0, len(captions), captions_per_image)
    ]
    groups = [groups[place] for place in generator.permutation(len(groups))]
    size = max(2, batch_size // captions_per_image)
    batches = [groups[start : start + size] for start in range(0, len(groups), size)]
    if len(batches) > 1 and len(batches[-1]) < least:
        batches[-2:] = [batches[-2] + batches[-1]]
    return batches


def number_wordings(tokens: Sequence[Sequence[int]]) -> np.ndarray:
    """int64 (M,): a number for each caption, equal where the words are."""
    number: dict[tuple[int, ...], int] = {}
    return np.array([number.setdefault(tuple(caption), len(number)) for caption in tokens])


def hide_rare_words(
    tokens: Sequence[Sequence[int]], vocabulary: Vocabulary, generator: np.random.Generator
) -> list[list[int]]:
    """The captions with rare words made unknown at random, so that the unknown word is learnt too.

    A word seen n times in training is hidden with probability 0.25 / (0.25 + n), after Kiperwasser and
    Goldberg (TACL 2016); never one whose count is not known.
    """
    counts = np.array([0, *vocabulary.counts])
    rate = np.where(counts > 0, HIDDEN / (HIDDEN + counts), 0.0)
    unknown = vocabulary.words.index(UNKNOWN) + 1
    lengths = [len(caption) for caption in tokens]
    flat = np.concatenate([np.asarray(caption, dtype=np.int64) for caption in tokens])
    hidden = np.where(generator.random(len(flat)) < rate[flat], unknown, flat)
    return [part.tolist() for part in np.split(hidden, np.cumsum(lengths)[:-1])]


def read_images(dataset: Dataset, rows: np.ndarray, size: int, device: torch.device) -> torch.Tensor:
    """Images of a data set as `stack_images` gives them, read by as many threads as suit the device."""

    def resized(row: int) -> np.ndarray:
        return resize_image(dataset.image(row), size, size)

    return stack_images(in_order(resized, rows, reading_threads(device)), size)


def draw_views(count: int, source: int, size: int, kind: str, generator: torch.Generator) -> Views | None:
    """Random training views of so many images of `source` pixels a side; None when they stay as they are.

    `paper`: a rotation by 0 to 90 degrees to the nearest pixel, what leaves the picture black, then a random
    crop to `size`, as torchvision's `RandomRotation` and `RandomCrop` in the published code.
    `overhead`: any quarter turn, either flip, a random crop of 70 to 100 % of the side, brightness and
    contrast: what a picture taken from above may undergo without changing what is in it. `none`: nothing.
    """
    if kind == "none":
        return None

    def uniform(low: float, high: float, *shape: int) -> torch.Tensor:
        return low + (high - low) * torch.rand(count, *shape, generator=generator)

    if kind == "paper":
        angle, scale = uniform(0, MAX_ROTATION), torch.full((count,), size / source)
        flip = torch.ones(count)
        corner = torch.randint(source - size + 1, (count, 2), generator=generator)
        shift = (2 * corner - (source - size)) / source
    else:
        angle = torch.randint(4, (count,), generator=generator) * (math.pi / 2)
        flip = 1.0 - 2 * torch.randint(2, (count,), generator=generator)
        scale = uniform(0.7, 1.0)
        shift = uniform(-1, 1, 2) * (1 - scale)[:, None]
    cos, sin = angle.cos(), angle.sin()
    # Each output pixel looks up: crop (scale and shift), flip, then rotate about the centre.
    x_row = torch.stack([cos * scale * flip, -sin * scale, cos * shift[:, 0] - sin * shift[:, 1]], dim=1)
    y_row = torch.stack([sin * scale * flip, cos * scale, sin * shift[:, 0] + cos * shift[:, 1]], dim=1)
    lookup = torch.stack([x_row, y_row], dim=1)
    if kind == "paper":
        return Views(lookup, None, None, size)
    return Views(lookup, uniform(0.7, 1.3, 1, 1, 1), uniform(0.8, 1.2, 1, 1, 1), size)


def augment(pixels: torch.Tensor, views: Views | None) -> torch.Tensor:
    """The views of a batch of images, in one batched operation on the device where the pixels are.

    Args:
        pixels: uint8 (B, 3, R, R).

    Returns:
        float32 (B, 3, size, size) in 0..255, channels last; the pixels themselves when there are no views.
    """
    if views is None:
        return pixels
    lookup = move(views.lookup, pixels.device)
    grid = F.affine_grid(lookup, [len(pixels), 3, views.size, views.size], align_corners=False)
    mode = "nearest" if views.contrast is None else "bilinear"
    varied = F.grid_sample(pixels.float(), grid, mode=mode, padding_mode="zeros", align_corners=False)
    if views.contrast is not None:
        contrast, brightness = (move(part, pixels.device) for part in (views.contrast, views.brightness))
        level = varied.mean(dim=(1, 2, 3), keepdim=True)
        varied = ((varied - level) * contrast + level * brightness).clamp(0, 255)
    return varied.contiguous(memory_format=torch.channels_last)


def load_batches(
    groups: list[list[np.ndarray]],
    read_images: Callable[
        [np.ndarray, slice], tuple[torch.Tensor, Views | None, dict[str, torch.Tensor] | None]
    ],
    caption_image: np.ndarray,
    tokens: Sequence[Sequence[int]],
    wording: np.ndarray,
    *,
    own_captions_only: bool = False,
    processes: Processes = ALONE,
) -> Iterator[Batch]:
    """The batches of `pair_batches`, read and ready for the model; of each, this process's share of images.

    Args:
        read_images: from the rows of a batch's images, and which of them to read, to `pixels`, `views` and
            `deep` of `Batch`.
        tokens: word numbers of every caption, as the model is shown them.
        wording: int64 (M,), equal for captions of the same words.
        own_captions_only: as in `TrainSettings`.
    """
    order = np.argsort(caption_image, kind="stable")
    starts = np.searchsorted(caption_image[order], np.arange(1, caption_image.max() + 1))
    wordings_of = np.split(wording[order], starts)
    for batch in groups:
        rows = caption_image[[group[0] for group in batch]]
        captions = np.concatenate(batch)
        images_each = processes.shares(len(batch))
        first = np.cumsum([0, *map(len, batch)])[np.cumsum([0, *images_each])]  # caption of each process
        own = slice(*first[processes.rank : processes.rank + 2])
        padded, lengths = pad_tokens([tokens[caption] for caption in captions])
        if own_captions_only:
            place = np.arange(len(batch))
            positive = np.repeat(place, [len(group) for group in batch]) == place[:, None]
            negative = ~positive
        else:
            positive = caption_image[captions] == rows[:, None]
            negative = np.stack([~np.isin(wording[captions], wordings_of[row]) for row in rows])
        masks = torch.from_numpy(positive), torch.from_numpy(negative)
        read = read_images(rows, processes.share(len(batch)))
        each = images_each, np.diff(first).tolist()
        yield Batch(*read, padded[own], lengths[own], *masks, rows, *each)


def stored_size(size: int, augmentation: str) -> int:
    """Side in pixels that images are resized to before views of `size` are taken of them."""
    return size if augmentation == "none" else round(size * CROP_MARGIN)
