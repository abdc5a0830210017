"""A moving average of a model's weights, which does better than the weights of the last step."""

from __future__ import annotations

import torch
from torch import nn

PARTS = 10  # of the steps so far; the average is over about the last of them


@torch.no_grad()
def follow(average: nn.Module, model: nn.Module, step: int, decay: float) -> None:
    """Brings an average up to date after a step: each weight w becomes d * w + (1 - d) * that of the model.

    d = min(decay, (step - 1) / (step + 8)): about the mean over the last tenth of the steps so far, and at
    most over the last 1 / (1 - decay). Batch statistics are those of the model, averages already.

    Args:
        average: of the same shape as the model.
        model: after the step.
        step: from 1, over all epochs.
        decay: of the average, from 0 to 1.
    """
    kept = min(decay, (step - 1) / (step + PARTS - 2))
    for mine, own in zip(average.parameters(), model.parameters(), strict=True):
        if own.requires_grad:
            mine.lerp_(own, 1 - kept)
    for mine, own in zip(average.buffers(), model.buffers(), strict=True):
        mine.copy_(own)
