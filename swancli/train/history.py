"""The history of a run: one row per epoch, in `metrics.csv` and as TensorBoard events."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from swancli.evaluate.metrics import Scores
from swancli.evaluate.report import flat
from swancli.store.atomic import atomic_path
from swancli.workspace import Run


@dataclass(frozen=True)
class Epoch:
    """The result of one epoch.

    epoch: its number, from 1.
    loss: mean over its pairs.
    pairs_per_second: in training, without validation.
    seconds: of training and validation.
    scores: on the validation split.
    best: whether mR is the highest so far.
    """

    epoch: int
    loss: float
    pairs_per_second: float
    seconds: float
    scores: Scores
    best: bool


def metrics_row(report: Epoch, lr: float) -> dict[str, float | int]:
    """One row of `metrics.csv`: recalls and mR in percent; lr is that of the heads at the last step."""
    figures = flat(report.scores.record())
    clock = {"pairs_per_second": report.pairs_per_second, "seconds": report.seconds}
    return {"epoch": report.epoch, "lr": lr, "loss": report.loss, **figures, **clock}


def write_metrics(run: Run, history: list[dict[str, Any]]) -> None:
    """Writes `metrics.csv`."""
    with atomic_path(run.metrics) as temporary:
        pd.DataFrame(history).to_csv(temporary, index=False)


def tensorboard_writer(run: Run, first_epoch: int) -> Any | None:
    """A writer of TensorBoard events if tensorboard is installed; drops events from `first_epoch` on."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(run.folder), purge_step=first_epoch)


def add_events(events: Any | None, row: dict[str, Any]) -> None:
    """Adds one row of the history to the events, if they are written."""
    if events:
        for name, value in row.items():
            events.add_scalar(name, value, row["epoch"])
        events.flush()
