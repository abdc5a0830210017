"""Training batches: which pairs share a batch, and random views of the images.

Random numbers come from a generator seeded by the run's seed and the epoch, so that an epoch can be repeated
without those before it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F

from swancli.machine.device import move, reading_threads
from swancli.machine.processes import ALONE, Processes
from swancli.machine.threads import in_order
from swancli.model.inputs import Preprocessing, stack_images
from swancli.store.dataset import Dataset
from swancli.vocab.vocabulary import UNKNOWN, Vocabulary

# Section 4.1: training images are resized to 278 and cropped to 256.
CROP_MARGIN = 278 / 256
MAX_ROTATION = math.pi / 2
HIDDEN = 0.25  # a word seen once is hidden with 0.25 / 1.25


@dataclass(frozen=True)
class Views:
    """Random views of the images of a batch.

    lookup: float32 (B, 2, 3), affine maps from output to input positions, in units of half the image's side
        from its centre.
    contrast: float32 (B, 1, 1, 1); None to keep the colours.
    brightness: float32 (B, 1, 1, 1); None to keep the colours.
    size: side of the views in pixels.
    """

    lookup: torch.Tensor
    contrast: torch.Tensor | None
    brightness: torch.Tensor | None
    size: int

    def part(self, share: slice) -> Views:
        """The views of a part of the images."""
        colours = (colour if colour is None else colour[share] for colour in (self.contrast, self.brightness))
        return Views(self.lookup[share], *colours, self.size)


@dataclass(frozen=True)
class Batch:
    """The B images and C captions of one step, of which this process encodes b and c.

    pixels: uint8 (b, 3, R, R), channels last; None if there are maps.
    views: of these images; None to take them as they are.
    maps: of the backbone, computed earlier, float16 (see `features`); None to compute them.
    tokens: int64 (c, L), 0 past the end; or states of the text transformer, computed earlier, float16
        (c, L, H).
    lengths: int64 (c,), on the CPU.
    positive: bool (B, C), on the CPU: the caption describes the image.
    negative: bool (B, C), on the CPU: the caption is a mistake for the image. A caption whose words equal
        those of another caption of the image is neither.
    images: int64 (B,), their rows.
    images_each: the number of images that each process encodes.
    captions_each: the number of captions that each process encodes.
    """

    pixels: torch.Tensor | None
    views: Views | None
    maps: dict[str, torch.Tensor] | None
    tokens: torch.Tensor
    lengths: torch.Tensor
    positive: torch.Tensor
    negative: torch.Tensor
    images: np.ndarray
    images_each: list[int]
    captions_each: list[int]

    def moved(self, move: Callable[[torch.Tensor], torch.Tensor]) -> Batch:
        """The batch with its large tensors moved, to a GPU or into pinned memory."""
        return replace(
            self,
            pixels=None if self.pixels is None else move(self.pixels),
            maps=self.maps and {depth: move(values) for depth, values in self.maps.items()},
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
        batch_size: captions per batch; the last batch may have fewer.
        captions_per_image: captions that share one pass of their image. With 1 an image occurs once per
            caption, as in the paper.
        generator: draws the order.
        least: images per batch; a smaller last batch joins the one before.

    Returns:
        Batches as lists of groups; a group is the caption rows, int64, of one image.
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
    """int64 (M,): a number for each caption, equal for equal words."""
    number: dict[tuple[int, ...], int] = {}
    return np.array([number.setdefault(tuple(caption), len(number)) for caption in tokens])


def hide_rare_words(
    tokens: Sequence[Sequence[int]], vocabulary: Vocabulary, generator: np.random.Generator
) -> list[list[int]]:
    """The captions with rare words replaced by the unknown word at random, so that it is trained too.

    A word seen n times in training is hidden with probability 0.25 / (0.25 + n), after Kiperwasser and
    Goldberg (TACL 2016). Words of unknown count are never hidden.
    """
    counts = np.array([0, *vocabulary.counts])
    rate = np.where(counts > 0, HIDDEN / (HIDDEN + counts), 0.0)
    unknown = vocabulary.words.index(UNKNOWN) + 1
    lengths = [len(caption) for caption in tokens]
    flat = np.concatenate([np.asarray(caption, dtype=np.int64) for caption in tokens])
    hidden = np.where(generator.random(len(flat)) < rate[flat], unknown, flat)
    return [part.tolist() for part in np.split(hidden, np.cumsum(lengths)[:-1])]


def read_images(
    dataset: Dataset, rows: np.ndarray, preprocessing: Preprocessing, side: int, device: torch.device
) -> torch.Tensor:
    """uint8 (B, 3, side, side): images of a data set, read by `reading_threads` threads."""

    def resized(row: int) -> np.ndarray:
        return preprocessing.resized(dataset.image(row), side)

    return stack_images(in_order(resized, rows, reading_threads(device)))


def draw_views(count: int, source: int, size: int, kind: str, generator: torch.Generator) -> Views | None:
    """Random training views of images with a side of `source` pixels; None to keep them as they are.

    `paper`: a rotation by 0 to 90 degrees to the nearest pixel, with black corners, then a random crop to
    `size`, as torchvision's `RandomRotation` and `RandomCrop` in the published code. `overhead`: quarter
    turns, flips, a random crop of 70 to 100 % of the side, brightness and contrast, none of which changes
    what an image from above shows. `none`: nothing.
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
    # From output to input positions: crop (scale and shift), flip, then rotate about the centre.
    x_row = torch.stack([cos * scale * flip, -sin * scale, cos * shift[:, 0] - sin * shift[:, 1]], dim=1)
    y_row = torch.stack([sin * scale * flip, cos * scale, sin * shift[:, 0] + cos * shift[:, 1]], dim=1)
    lookup = torch.stack([x_row, y_row], dim=1)
    if kind == "paper":
        return Views(lookup, None, None, size)
    return Views(lookup, uniform(0.7, 1.3, 1, 1, 1), uniform(0.8, 1.2, 1, 1, 1), size)


def augment(pixels: torch.Tensor, views: Views | None) -> torch.Tensor:
    """The views of a batch of images, computed in one operation on the pixels' device.

    Args:
        pixels: uint8 (B, 3, R, R).
        views: of the B images, or None.

    Returns:
        float32 (B, 3, size, size) in 0..255, channels last; the pixels themselves without views.
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
        [np.ndarray, slice], tuple[torch.Tensor | None, Views | None, dict[str, torch.Tensor] | None]
    ],
    read_captions: Callable[[np.ndarray, slice], tuple[torch.Tensor, torch.Tensor]],
    caption_image: np.ndarray,
    wording: np.ndarray,
    *,
    own_captions_only: bool = False,
    processes: Processes = ALONE,
) -> Iterator[Batch]:
    """The batches of `pair_batches`, read and ready for the model, with this process's share of each.

    Args:
        groups: from `pair_batches`.
        read_images: from the rows of a batch's images and the share to read, to `pixels`, `views` and `maps`
            of `Batch`.
        read_captions: from the numbers of a batch's captions and the share to read, to `tokens` and
            `lengths` of `Batch`.
        caption_image: int64 (M,), the image of each caption.
        wording: int64 (M,), equal for captions of the same words.
        own_captions_only: as in `TrainSettings`.
        processes: that train together.
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
        if own_captions_only:
            place = np.arange(len(batch))
            positive = np.repeat(place, [len(group) for group in batch]) == place[:, None]
            negative = ~positive
        else:
            positive = caption_image[captions] == rows[:, None]
            negative = np.stack([~np.isin(wording[captions], wordings_of[row]) for row in rows])
        masks = torch.from_numpy(positive), torch.from_numpy(negative)
        read = read_images(rows, processes.share(len(batch)))
        words = read_captions(captions, own)
        yield Batch(*read, *words, *masks, rows, images_each, np.diff(first).tolist())


def stored_size(size: int, augmentation: str) -> int:
    """Side in pixels that images are resized to before views of `size` are drawn."""
    return size if augmentation == "none" else round(size * CROP_MARGIN)
