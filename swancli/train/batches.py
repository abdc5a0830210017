"""From a data set to training batches: which pairs meet, how images are varied, and loading ahead.

Every random choice comes from a generator made of the seed and the epoch, so an epoch can be repeated
without the ones before it.
"""

from __future__ import annotations

import math
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F

from swancli.images import resize_image
from swancli.model.settings import MAX_WORDS, PIXEL_MEAN, PIXEL_STD

# Section 4.1: training images are resized to 278 and cropped to 256.
CROP_MARGIN = 278 / 256
MAX_ROTATION = math.pi / 2

Item = TypeVar("Item")


@dataclass(frozen=True)
class Batch:
    """Images and captions that meet in one step.

    pixels: float32 (B, 3, S, S), normalised; tokens: int64 (C, L), 0 past the end; lengths: int64 (C,);
    positive: bool (B, C), whether a caption describes an image; images: int64 (B,), their rows.
    """

    pixels: torch.Tensor
    tokens: torch.Tensor
    lengths: torch.Tensor
    positive: torch.Tensor
    images: np.ndarray

    def to(self, device: torch.device) -> Batch:
        moved = (part.to(device, non_blocking=True) for part in (self.pixels, self.tokens, self.lengths))
        return Batch(*moved, self.positive.to(device, non_blocking=True), self.images)


def pair_batches(
    caption_image: np.ndarray, batch_size: int, captions_per_image: int, generator: np.random.Generator
) -> list[list[np.ndarray]]:
    """One epoch's batches: every caption once, in random order.

    Args:
        caption_image: int64 (M,), the image of each caption.
        batch_size: captions in a batch; the last one may hold fewer, and is dropped when it holds one image.
        captions_per_image: captions that share one pass of their image. With 1 an image comes as often as it
            has captions, as in the paper.

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
    return [batch for batch in batches if len(batch) > 1]


def pad_tokens(captions: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Word numbers as int64 (C, L), filled with 0, and the lengths int64 (C,); cut at `MAX_WORDS`."""
    cut = [torch.tensor(caption[:MAX_WORDS], dtype=torch.int64) for caption in captions]
    lengths = torch.tensor([len(caption) for caption in cut])
    return torch.nn.utils.rnn.pad_sequence(cut, batch_first=True), lengths


def stack_images(images: Iterable[np.ndarray], size: int) -> torch.Tensor:
    """uint8 (B, 3, size, size), channels last in memory, from uint8 (H, W, 3) images of any size."""
    stacked = np.stack([resize_image(image, size, size) for image in images])
    return torch.from_numpy(stacked).permute(0, 3, 1, 2)


def normalise(pixels: torch.Tensor) -> torch.Tensor:
    """float32 (B, 3, S, S) with ImageNet's mean and deviation taken out of uint8 or float 0..255 pixels."""
    mean = torch.tensor(PIXEL_MEAN, device=pixels.device).view(1, 3, 1, 1) * 255
    std = torch.tensor(PIXEL_STD, device=pixels.device).view(1, 3, 1, 1) * 255
    return (pixels.float() - mean) / std


def augment(pixels: torch.Tensor, size: int, kind: str, generator: torch.Generator) -> torch.Tensor:
    """Training views of a batch of images.

    `paper`: a rotation by 0 to 90 degrees to the nearest pixel, what leaves the picture black, then a random
    crop to `size`, as torchvision's `RandomRotation` and `RandomCrop` in the published code.
    `overhead`: any quarter turn, either flip, a random crop of 70 to 100 % of the side, brightness and
    contrast: what a picture taken from above may undergo without changing what is in it.

    Args:
        pixels: uint8 (B, 3, R, R), with R about `CROP_MARGIN` times `size`.

    Returns:
        float32 (B, 3, size, size) in 0..255.
    """
    count, source = len(pixels), pixels.shape[-1]

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
    grid = F.affine_grid(torch.stack([x_row, y_row], dim=1), [count, 3, size, size], align_corners=False)
    mode = "nearest" if kind == "paper" else "bilinear"
    views = F.grid_sample(pixels.float(), grid, mode=mode, padding_mode="zeros", align_corners=False)
    if kind == "overhead":
        level = views.mean(dim=(1, 2, 3), keepdim=True)
        contrast, brightness = uniform(0.7, 1.3, 1, 1, 1), uniform(0.8, 1.2, 1, 1, 1)
        views = ((views - level) * contrast + level * brightness).clamp(0, 255)
    return views.contiguous(memory_format=torch.channels_last)


def load_batches(
    groups: list[list[np.ndarray]],
    read_image: Callable[[int], np.ndarray],
    caption_image: np.ndarray,
    tokens: Sequence[Sequence[int]],
    *,
    size: int,
    augmentation: str,
    generator: torch.Generator,
    own_captions_only: bool = False,
) -> Iterator[Batch]:
    """The batches of `pair_batches`, read, varied and ready for the model.

    Args:
        read_image: from an image's row to its uint8 (H, W, 3) pixels.
        tokens: word numbers of every caption.
        own_captions_only: as in `TrainSettings`.
    """
    stored = size if augmentation == "none" else round(size * CROP_MARGIN)
    for batch in groups:
        rows = caption_image[[group[0] for group in batch]]
        pixels = stack_images((read_image(row) for row in rows), stored)
        if augmentation != "none":
            pixels = augment(pixels, size, augmentation, generator)
        captions = np.concatenate(batch)
        padded, lengths = pad_tokens([tokens[caption] for caption in captions])
        if own_captions_only:
            place = np.arange(len(batch))
            positive = np.repeat(place, [len(group) for group in batch]) == place[:, None]
        else:
            positive = caption_image[captions] == rows[:, None]
        yield Batch(normalise(pixels), padded, lengths, torch.from_numpy(positive), rows)


def read_ahead(items: Iterator[Item], depth: int = 2) -> Iterator[Item]:
    """The same items, made in a thread up to `depth` ahead of their use; its exceptions appear here."""
    waiting: queue.Queue = queue.Queue(depth)
    stopped = threading.Event()
    end = object()

    def put(entry: object) -> None:
        while not stopped.is_set():
            try:
                return waiting.put(entry, timeout=0.1)
            except queue.Full:
                continue

    def produce() -> None:
        # A team of threads of its own would spin on the cores that the model needs: half the speed, on two.
        # The setting holds for this thread alone.
        torch.set_num_threads(1)
        try:
            for item in items:
                put((item, None))
                if stopped.is_set():
                    return
            put((end, None))
        except BaseException as error:
            put((end, error))

    thread = threading.Thread(target=produce, daemon=True)
    thread.start()
    try:
        while True:
            item, error = waiting.get()
            if error:
                raise error
            if item is end:
                return
            yield item
    finally:
        stopped.set()
        thread.join()
