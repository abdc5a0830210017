"""From images and token numbers to the input tensors of a model."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from swancli.errors import SwanError
from swancli.images import resize_image
from swancli.machine.device import move

# ImageNet statistics of RGB in 0..1, which every torchvision backbone expects.
PIXEL_MEAN = (0.485, 0.456, 0.406)
PIXEL_STD = (0.229, 0.224, 0.225)
INTERPOLATIONS = ("bilinear", "bicubic")
FITS = ("squash", "crop")


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes the square input of a model.

    size: side of the input in pixels.
    mean: of each colour channel, RGB in 0..1.
    std: standard deviation of each colour channel, likewise.
    interpolation: "bilinear" (paper) or "bicubic", both with antialiasing.
    fit: "squash" to resize both sides to the size (paper), "crop" to resize the shorter side and crop the
        centre.
    """

    size: int = 256
    mean: tuple[float, float, float] = PIXEL_MEAN
    std: tuple[float, float, float] = PIXEL_STD
    interpolation: str = "bilinear"
    fit: str = "squash"

    def __post_init__(self) -> None:
        if not isinstance(self.size, int) or self.size < 1:
            raise SwanError(f"image_size {self.size!r}: not a whole number of at least 1")
        for name, least in (("mean", -math.inf), ("std", 0.0)):
            value = getattr(self, name)
            if not _three_numbers(value) or min(value) <= least:
                allowed = "three numbers above 0" if name == "std" else "three finite numbers"
                raise SwanError(f"{name} {value!r}: not {allowed}")
        for name, known in (("interpolation", INTERPOLATIONS), ("fit", FITS)):
            value = getattr(self, name)
            if value not in known:
                raise SwanError(f"{name} {value!r}: not one of {', '.join(known)}")

    def resized(self, pixels: np.ndarray, side: int | None = None) -> np.ndarray:
        """uint8 (side, side, 3) from uint8 (H, W, 3); the side is that of the input by default."""
        side = side or self.size
        if self.fit == "squash":
            return resize_image(pixels, side, side, self.interpolation)
        height, width = pixels.shape[:2]
        short = min(height, width)
        # Rounded as torchvision's `Resize` and `CenterCrop` do.
        height, width = int(side * height / short), int(side * width / short)
        resized = resize_image(pixels, height, width, self.interpolation)
        top, left = round((height - side) / 2), round((width - side) / 2)
        return resized[top : top + side, left : left + side]

    def normalise(self, pixels: torch.Tensor) -> torch.Tensor:
        """float32 (B, 3, S, S): pixels (uint8 or float, 0..255) normalised by mean and deviation."""
        # Not made on the device: a GPU would be waited for.
        mean, std = (torch.tensor(each).view(1, 3, 1, 1) * 255 for each in (self.mean, self.std))
        return (pixels.float() - move(mean, pixels.device)) / move(std, pixels.device)


def _three_numbers(values: object) -> bool:
    """Whether something is three finite numbers."""
    if not isinstance(values, (tuple, list)) or len(values) != 3:
        return False
    return all(isinstance(value, (int, float)) and math.isfinite(value) for value in values)


def pad_tokens(captions: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Token numbers int64 (C, L), padded with 0, and lengths int64 (C,)."""
    rows = [torch.tensor(caption, dtype=torch.int64) for caption in captions]
    lengths = torch.tensor([len(row) for row in rows])
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), lengths


def stack_images(images: Iterable[np.ndarray]) -> torch.Tensor:
    """uint8 (B, 3, S, S), channels last in memory, from uint8 (S, S, 3) images."""
    return torch.from_numpy(np.stack(list(images))).permute(0, 3, 1, 2)
