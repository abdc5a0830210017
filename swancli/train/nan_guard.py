"""Stops training at the first step whose loss or gradients contain NaN or infinity."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from swancli.errors import SwanError

READ_STEPS = 10  # between two reads of the losses on a GPU


@dataclass(frozen=True)
class Step:
    """One step of an epoch.

    number: from 1.
    images: int64 (B,), rows of the batch's images.
    loss: of the batch, a scalar on the device.
    norm: of all gradients together, a scalar on the device.
    """

    number: int
    images: np.ndarray
    loss: torch.Tensor
    norm: torch.Tensor


def gradient_norm(model: nn.Module) -> torch.Tensor:
    """The norm of all gradients together, a scalar; not finite if any of them is not."""
    return nn.utils.get_total_norm([part.grad for part in model.parameters() if part.grad is not None])


class StepWatch:
    """Checks the steps of an epoch: each one on a CPU, several at a time on a GPU, which has to synchronize.

    Args:
        device: where the losses are.
        steps: in the epoch.
        failure: the error for a step whose loss or gradients are not finite, see `step_error`.
    """

    def __init__(self, device: torch.device, steps: int, failure: Callable[[Step], SwanError]) -> None:
        self._each, self._steps, self._failure = device.type == "cpu", steps, failure
        self._unread: list[Step] = []

    def looks_at(self, number: int) -> bool:
        """Whether `see` checks at this step, so that reading its loss costs no further synchronization."""
        return self._each or number % READ_STEPS == 1 or number == self._steps

    def see(self, step: Step) -> None:
        """Call before the optimizer step.

        Raises:
            SwanError: for the first step since the last check that is not finite.
        """
        self._unread.append(step)
        if self.looks_at(step.number):
            finite = [step.loss.isfinite() & step.norm.isfinite() for step in self._unread]
            sound = torch.stack(finite).tolist()  # a GPU synchronizes once
            if not all(sound):
                raise self._failure(self._unread[sound.index(False)])
            self._unread.clear()


def step_error(where: str, step: Step, names: Iterable[str], hint: str) -> SwanError:
    """The error for a step that is not finite.

    Args:
        where: run and epoch.
        step: the first one that is not finite.
        names: files of its batch's images.
        hint: which checkpoint is good, and what to do.
    """
    loss, norm = float(step.loss), float(step.norm)
    what = "gradients are not finite" if np.isfinite(loss) else f"loss is {loss}"
    shown = f"{where}: the {what} at step {step.number} (gradient norm {norm:.3g}); its images: "
    return SwanError(shown + ", ".join(dict.fromkeys(names)), hint)
