"""Learning rate schedules, as shares of the highest rate."""

from __future__ import annotations

import math

# Section 4.1 and the published options file.
DECAY = 0.7
DECAY_EPOCHS = 20


def stepped(epoch: int) -> float:
    """The paper's: x0.7 at epoch 20, again at 40 and so on (epoch indices 19, 39, ...)."""
    return DECAY ** (epoch // DECAY_EPOCHS)


def warmed_cosine(step: int, steps: int, warm_up: int) -> float:
    """Rises linearly over the first `warm_up` steps and follows half a cosine to 0 at the end of all `steps`.

    Args:
        step: from 1.
        steps: of the whole training.
        warm_up: steps in which the rate rises.
    """
    return min(1.0, step / max(1, warm_up)) * (1 + math.cos(math.pi * (step - 1) / steps)) / 2
