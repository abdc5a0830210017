"""Training: one run from a data set and a vocabulary to `best.pt`.

swan train --dataset ucm
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from swancli.errors import SwanError
from swancli.evaluate.metrics import Scores
from swancli.machine.device import autocast, move, pinned
from swancli.machine.processes import ALONE, Processes
from swancli.machine.threads import read_ahead
from swancli.model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from swancli.model.encoder import Encoder
from swancli.model.swan import Swan
from swancli.prepare.splits import Fold
from swancli.store.atomic import atomic_path
from swancli.store.catalogue import Catalogue
from swancli.store.dataset import Dataset
from swancli.train.batches import (
    Batch,
    draw_views,
    hide_rare_words,
    load_batches,
    number_wordings,
    pair_batches,
    read_images,
    stored_size,
)
from swancli.train.distributed import pair_encoder
from swancli.train.features import Features
from swancli.train.losses import hinge_loss
from swancli.train.nan_guard import (
    Step,
    StepWatch,
    UnsoundStepError,
    UnsoundWeightsError,
    gradient_norm,
    stopped,
)
from swancli.train.schedule import stepped, warmed_cosine
from swancli.train.validation import validate
from swancli.vocab.vocabulary import Vocabulary
from swancli.workspace import Run

# Section 4.1 and the published options file.
PAPER_RATE = 2e-4
MARGIN = 0.2


@dataclass(frozen=True)
class TrainSettings:
    """How a run is trained; written to its `config.json` beside the model's settings.

    backbone_rate: share of the learning rate at which a backbone that is not frozen learns.
    schedule: "step", the paper's, or "cosine", with a first epoch in which the rate rises (see `schedule`).
    clip_norm: largest norm of all gradients together, larger ones are scaled down to it; 0 leaves them.
    own_captions_only: other captions of the same image count as negatives, as in the published code.
    hide_rare_words: rare words are shown as unknown at random, which the published code does not do.
    compiled: torch.compile makes the backbone's kernels.
    """

    epochs: int = 30
    batch_size: int = 100
    captions_per_image: int = 5
    lr: float = 1e-3
    backbone_rate: float = 1.0
    schedule: str = "cosine"
    loss: str = "sum"
    margin: float = MARGIN
    clip_norm: float = 0.0
    own_captions_only: bool = False
    hide_rare_words: bool = True
    augmentation: str = "overhead"
    precision: str = "fp32"
    compiled: bool = False
    seed: int = 0


# How the published code shows pairs, whatever the recipe: it belongs to the variant.
PUBLISHED_PAIRS = {"own_captions_only": True, "hide_rare_words": False}
# What `--variant published` trains with where no other option is given: section 4.1 and the published README.
PUBLISHED_RECIPE = {
    "backbone": "resnet50",
    "image_size": 256,
    "embed_dim": 512,
    "freeze": True,
    "epochs": 50,
    "batch_size": 100,
    "captions_per_image": 1,
    "lr": PAPER_RATE,
    "backbone_rate": 1.0,
    "schedule": "step",
    "loss": "sum",
    "margin": MARGIN,
    "clip_norm": 0.0,
    "augmentation": "paper",
    **PUBLISHED_PAIRS,
}


@dataclass(frozen=True)
class Epoch:
    """What an epoch came to.

    loss: mean over its pairs; scores: on the validation split; seconds: training and validation.
    """

    epoch: int
    loss: float
    pairs_per_second: float
    seconds: float
    scores: Scores
    best: bool


def training_part(dataset: Dataset) -> Catalogue:
    """The training split of a data set that can be trained on.

    Raises:
        SwanError: it has no training pairs, one training image alone, or nothing to validate on.
    """
    training_rows = dataset.rows_of("train")
    dataset.rows_of("val")
    training, _ = dataset.catalogue.select(training_rows)
    if len(set(training.image)) < 2:
        raise SwanError(f"{dataset.path}: one training image leaves nothing to tell apart", "add images")
    return training


def rate_share(settings: TrainSettings, epoch: int, step: int, steps: int) -> float:
    """Share of the learning rate at a step of an epoch, both counted from 1; steps: in an epoch."""
    if settings.schedule == "step":
        return stepped(epoch)
    return warmed_cosine((epoch - 1) * steps + step, settings.epochs * steps, steps)


class Watch:
    """Hears what happens during training; this one ignores it, the console's shows it."""

    def note(self, text: str) -> None:
        """A line of information."""

    def step(self, epoch: int, step: int, steps: int, loss: float, pairs_per_second: float) -> None:
        """After each step, counted from 1; loss: the mean over the step's pairs."""

    def validation(self, phase: str, done: int, total: int) -> None:
        """While the validation split is encoded."""

    def epoch(self, report: Epoch) -> None:
        """After each epoch."""


def train(
    dataset: Dataset,
    vocabulary: Vocabulary,
    model: Swan,
    settings: TrainSettings,
    run: Run,
    device: torch.device,
    watch: Watch,
    *,
    fold: Fold | None = None,
    features: Features | None = None,
    resume: bool = False,
    processes: Processes = ALONE,
) -> None:
    """Trains a model, epoch after epoch, each followed by the recall on the validation split.

    Writes after every epoch: `metrics.csv`, `last.pt` and, when validation mR is the highest so far,
    `best.pt`. The test split is never looked at. With `resume` it goes on after the epochs that `last.pt`
    holds and ends where the uninterrupted run would. Of several processes each encodes its share of every
    batch; their gradients are those that one process would have, and the first of them writes.

    Args:
        fold: whose splits `dataset` has; the checkpoints name it.
        features: maps of the frozen backbone, to train the heads alone on.

    Raises:
        SwanError: no training pairs or no validation split, fewer training images than processes, the
            features are not of this model, or a step's loss or gradients are not finite; tells the step, its
            images and the last good checkpoint.
    """
    training, training_rows = training_part(dataset), dataset.rows_of("train")
    images = min(len(training_rows), settings.batch_size // settings.captions_per_image)
    if images < processes.count > 1:
        problem = f"{processes.count} processes for {images} images in a batch of {dataset.path}"
        raise SwanError(problem, "start fewer, or train with a larger --batch-size")
    tokens = [vocabulary.encode(text) for text in training.text]
    wording = number_wordings(tokens)

    model.to(device, memory_format=torch.channels_last)
    optimizer = _optimizer(model, settings)
    history = _restore(run, model, optimizer, dataset) if resume and run.last.exists() else []
    encoders = pair_encoder(model, processes)
    events = _tensorboard(run, len(history) + 1) if processes.first else None
    if history and processes.first:
        _write_metrics(run, history)  # killed between `last.pt` and this, it lacks an epoch

    for epoch in range(len(history) + 1, settings.epochs + 1):
        started = time.perf_counter()
        generator = np.random.default_rng([settings.seed, epoch])
        # Dropout knows no other generator, and is to differ between processes.
        torch.manual_seed(int(generator.integers(2**62)) + processes.rank)
        least = max(2, processes.count)
        sizes = settings.batch_size, settings.captions_per_image
        groups = pair_batches(training.image, *sizes, generator, least)
        steps = len(groups)
        read = _image_reader(dataset, features, model.settings.image_size, settings, generator, device)
        batches = load_batches(
            groups,
            lambda rows, share, read=read: read(training_rows[rows], share),
            training.image,
            hide_rare_words(tokens, vocabulary, generator) if settings.hide_rare_words else tokens,
            wording,
            own_captions_only=settings.own_captions_only,
            processes=processes,
        )
        rate_at = partial(rate_share, settings, epoch, steps=steps)
        show = partial(watch.step, epoch)
        try:
            loss, rate = _train_epoch(
                encoders, batches, steps, optimizer, rate_at, settings, device, show, processes
            )
        except UnsoundStepError as unsound:
            names = training.filename[unsound.step.images]
            where = f"{run.folder}: epoch {epoch} of {steps} steps"
            raise stopped(where, unsound.step, names, _way_on(run)) from None
        try:
            encoder = Encoder(Checkpoint.unsaved(model, vocabulary), device, settings.precision)
            scores, match = validate(encoder, dataset, features, watch.validation, processes)
        except UnsoundWeightsError:  # which the last step made
            problem = f"{run.folder}: epoch {epoch}, validation: embeddings are not numbers"
            raise SwanError(problem, _way_on(run)) from None

        best = scores.mean_recall > max((row["mR"] for row in history), default=-1.0)
        report = Epoch(epoch, loss, rate, time.perf_counter() - started, scores, best)
        history.append(_metrics_row(report, settings.lr * rate_at(steps)))
        if processes.first:
            origin = {
                "dataset": dataset.name,
                "dataset_digest": dataset.digest,
                "run": run.name,
                "fold": asdict(fold) if fold else None,
                "epoch": epoch,
                "steps": epoch * steps,
                "val_mR": scores.mean_recall,
                "match": asdict(match) if match else None,
            }
            if best:
                save_checkpoint(run.best, model, vocabulary, origin)
            state = {"optimizer": optimizer.state_dict(), "history": history}
            save_checkpoint(run.last, model, vocabulary, origin, state)
            _write_metrics(run, history, events)
        watch.epoch(report)
    if events:
        events.close()


def _way_on(run: Run) -> str:
    """Where a run that was stopped can be taken up, and how; its last checkpoint is of before that epoch."""
    calmer = "a lower --lr, --clip-norm 1 or --precision fp32"
    if not run.last.exists():
        return f"no checkpoint is written yet; start again with {calmer}"
    best = f", the best one {run.best}" if run.best.exists() else ""
    return (
        f"the last good checkpoint is {run.last}{best}; "
        f"start from it with {calmer}: swan train --init-from {run.last}"
    )


def _optimizer(model: Swan, settings: TrainSettings) -> torch.optim.Optimizer:
    """Adam, with the backbone in a group of its own; each group keeps its highest rate as `highest`."""
    parts = {"heads": [], "backbone": []}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parts["backbone" if name.startswith("backbone.") else "heads"].append(parameter)
    rates = {"heads": settings.lr, "backbone": settings.lr * settings.backbone_rate}
    groups = [{"params": part, "highest": rates[name]} for name, part in parts.items() if part]
    return torch.optim.Adam(groups, lr=settings.lr)


def _image_reader(
    dataset: Dataset,
    features: Features | None,
    size: int,
    settings: TrainSettings,
    generator: np.random.Generator,
    device: torch.device,
) -> Callable[[np.ndarray, slice], tuple]:
    """From rows of the data set to `pixels`, `views` and `deep` of a share of them.

    All chance is from the generator, and drawn for all rows, so that it does not depend on the share.
    """
    if features:
        return lambda rows, share: features.read(features.varied(rows, generator)[share])
    chance = torch.Generator().manual_seed(int(generator.integers(2**62)))
    source = stored_size(size, settings.augmentation)

    def read(rows: np.ndarray, share: slice) -> tuple:
        views = draw_views(len(rows), source, size, settings.augmentation, chance)
        return read_images(dataset, rows[share], source, device), views and views.part(share), None

    return read


def _train_epoch(
    encoders: nn.Module,
    batches: Iterator[Batch],
    steps: int,
    optimizer: torch.optim.Optimizer,
    share_at: Callable[[int], float],
    settings: TrainSettings,
    device: torch.device,
    on_step: Callable[[int, int, float, float], None],
    processes: Processes,
) -> tuple[float, float]:
    """Mean loss over the pairs of one epoch, and pairs a second, of all processes.

    Args:
        encoders: as of `pair_encoder`. share_at: of the highest learning rates, from a step's number.

    Raises:
        UnsoundStepError: a step's loss or gradients are not finite.
    """
    encoders.train()
    total = torch.zeros((), device=device)
    pairs, started, shown = 0, time.perf_counter(), 0.0
    sound = StepWatch(device, steps)
    ready = (batch.moved(lambda tensor: pinned(tensor, device)) for batch in batches)
    for step, batch in enumerate(read_ahead(ready), start=1):
        batch = batch.moved(lambda tensor: move(tensor, device))
        for group in optimizer.param_groups:
            group["lr"] = group["highest"] * share_at(step)
        loss = _train_step(step, encoders, batch, optimizer, settings, device, sound, processes)
        total += loss
        pairs += batch.positive.shape[1]
        if sound.looks_at(step):
            shown = float(loss) / batch.positive.shape[1]
        on_step(step, steps, shown, pairs / (time.perf_counter() - started))
    return float(total) / pairs, pairs / (time.perf_counter() - started)


def _train_step(
    number: int,
    encoders: nn.Module,
    batch: Batch,
    optimizer: torch.optim.Optimizer,
    settings: TrainSettings,
    device: torch.device,
    sound: StepWatch,
    processes: Processes,
) -> torch.Tensor:
    """One step of the optimiser, unless it is not sound; returns the summed loss of the batch.

    Every process has the whole loss, and the gradient of what it encoded itself. Their sum is the gradient;
    `DistributedDataParallel` takes the mean.
    """
    with autocast(device, settings.precision):
        images, captions = encoders(batch)
    images = processes.gathered(images, batch.images_each)
    captions = processes.gathered(captions, batch.captions_each)
    loss = hinge_loss(
        images @ captions.T,
        batch.positive,
        batch.negative,
        margin=settings.margin,
        hardest=settings.loss == "hardest",
    )
    optimizer.zero_grad(set_to_none=True)
    (loss * processes.count).backward()
    step = Step(number, batch.images, loss.detach(), gradient_norm(encoders))
    sound.see(step)
    if settings.clip_norm:
        torch.nn.utils.clip_grads_with_norm_(encoders.parameters(), settings.clip_norm, step.norm)
    optimizer.step()
    return step.loss


def _metrics_row(report: Epoch, lr: float) -> dict[str, float | int]:
    """One row of `metrics.csv`; recalls and mR in percent on the validation split.

    Args:
        lr: of the heads, at the epoch's last step.
    """
    row = {"epoch": report.epoch, "lr": lr, "loss": report.loss}
    for name, direction in (("i2t", report.scores.image_to_text), ("t2i", report.scores.text_to_image)):
        row |= {f"{name}_R@{k}": value for k, value in direction.recall.items()}
        row |= {f"{name}_median_rank": direction.median_rank, f"{name}_mean_rank": direction.mean_rank}
    row |= {"mR": report.scores.mean_recall, "pairs_per_second": report.pairs_per_second}
    return row | {"seconds": report.seconds}


def _write_metrics(run: Run, history: list[dict[str, Any]], events: Any | None = None) -> None:
    """`metrics.csv`, and the last row of it among the events of TensorBoard, where these are written."""
    with atomic_path(run.metrics) as temporary:
        pd.DataFrame(history).to_csv(temporary, index=False)
    if events:
        for name, value in history[-1].items():
            events.add_scalar(name, value, history[-1]["epoch"])
        events.flush()


def _restore(
    run: Run, model: Swan, optimizer: torch.optim.Optimizer, dataset: Dataset
) -> list[dict[str, Any]]:
    """Puts the state of `last.pt` back; returns the rows of `metrics.csv` so far."""
    last = load_checkpoint(run.last)
    if not last.training:
        raise SwanError(f"{run.last}: cannot be resumed, it holds no optimiser state")
    if last.origin.get("dataset_digest") != dataset.digest:
        raise SwanError(
            f"{dataset.path}: prepared again since the run began; images, captions or splits have changed",
            "start a new run",
        )
    model.load_state_dict(last.model.state_dict())
    optimizer.load_state_dict(last.training["optimizer"])
    return last.training["history"]


def _tensorboard(run: Run, first_epoch: int) -> Any | None:
    """A writer of TensorBoard events when tensorboard is installed; a resumed run drops later events."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(run.folder), purge_step=first_epoch)
