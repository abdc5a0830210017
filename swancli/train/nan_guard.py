"""Training that comes apart is stopped at the step where it does: a loss or gradients that are no numbers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from swancli.errors import SwanError

READ_STEPS = 10  # of a GPU: losses are read once in so many steps


@dataclass(frozen=True)
class Step:
    """A step of an epoch, counted from 1.

    images: int64 (B,), rows of its batch's images. loss, norm: of the batch and of all its gradients, scalars
    on the device.
    """

    number: int
    images: np.ndarray
    loss: torch.Tensor
    norm: torch.Tensor


class UnsoundStepError(Exception):
    """A step's loss or gradients are not numbers. Caught by the loop, which knows what to tell of it."""

    def __init__(self, step: Step) -> None:
        super().__init__(step.number)
        self.step = step


class UnsoundWeightsError(Exception):
    """The embeddings of a model are not numbers. Caught by the loop as well."""


def gradient_norm(model: nn.Module) -> torch.Tensor:
    """The norm of all gradients together, a scalar; not finite as soon as one of them is not."""
    return nn.utils.get_total_norm([part.grad for part in model.parameters() if part.grad is not None])


def check_steps(steps: Sequence[Step]) -> None:
    """Looks at steps together, which makes a GPU halt once.

    Raises:
        UnsoundStepError: with the first one that is not sound.
    """
    if steps:
        sound = torch.stack([step.loss.isfinite() & step.norm.isfinite() for step in steps]).tolist()
        if not all(sound):
            raise UnsoundStepError(steps[sound.index(False)])


class StepWatch:
    """Looks at the steps of an epoch: on a CPU at each; on a GPU, which halts for it, at some together.

    Args:
        steps: in the epoch.
    """

    def __init__(self, device: torch.device, steps: int) -> None:
        self._each, self._steps = device.type == "cpu", steps
        self._unread: list[Step] = []

    def looks_at(self, number: int) -> bool:
        """Whether it looks when a step comes, so that its loss costs no further halt to read."""
        return self._each or number % READ_STEPS == 1 or number == self._steps

    def see(self, step: Step) -> None:
        """To be called before the optimiser takes a step; raises as `check_steps` does."""
        self._unread.append(step)
        if self.looks_at(step.number):
            check_steps(self._unread)
            self._unread.clear()


def stopped(where: str, step: Step, names: Iterable[str], mend: str) -> SwanError:
    """What is told of an unsound step.

    Args:
        where: run and epoch. names: files of its batch's images. mend: which checkpoint is good, what to do.
    """
    loss, norm = float(step.loss), float(step.norm)
    what = "gradients are not finite" if np.isfinite(loss) else f"loss is {loss}"
    shown = f"{where}: the {what} at step {step.number} (gradient norm {norm:.3g}); its images: "
    return SwanError(shown + ", ".join(dict.fromkeys(names)), mend)
