"""From pixels and word numbers to the input tensors of the model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch

from swancli.images import resize_image
from swancli.model.settings import MAX_WORDS, PIXEL_MEAN, PIXEL_STD


def pad_tokens(captions: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Word numbers int64 (C, L), padded with 0, and lengths int64 (C,); cut to `MAX_WORDS` words."""
    cut = [torch.tensor(caption[:MAX_WORDS], dtype=torch.int64) for caption in captions]
    lengths = torch.tensor([len(caption) for caption in cut])
    return torch.nn.utils.rnn.pad_sequence(cut, batch_first=True), lengths


def stack_images(images: Iterable[np.ndarray], size: int) -> torch.Tensor:
    """uint8 (B, 3, size, size), channels last in memory, from uint8 (H, W, 3) images of any size."""
    stacked = np.stack([resize_image(image, size, size) for image in images])
    return torch.from_numpy(stacked).permute(0, 3, 1, 2)


def normalise(pixels: torch.Tensor) -> torch.Tensor:
    """float32 (B, 3, S, S): pixels (uint8 or float, 0..255) normalised by ImageNet's mean and deviation."""
    mean = torch.tensor(PIXEL_MEAN, device=pixels.device).view(1, 3, 1, 1) * 255
    std = torch.tensor(PIXEL_STD, device=pixels.device).view(1, 3, 1, 1) * 255
    return (pixels.float() - mean) / std
