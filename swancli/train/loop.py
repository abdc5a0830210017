"""The training loop: epochs of steps, each epoch followed by validation and checkpoints.

swan train --dataset ucm
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from swancli.errors import SwanError
from swancli.evaluate.match_threshold import MatchThreshold
from swancli.machine.device import autocast, move, pinned
from swancli.machine.processes import ALONE, Processes
from swancli.machine.threads import read_ahead
from swancli.model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from swancli.model.encoder import Encoder
from swancli.model.swan import Swan
from swancli.prepare.splits import Fold
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
from swancli.train.config import TrainSettings
from swancli.train.distributed import pair_encoder
from swancli.train.features import Features
from swancli.train.history import Epoch, add_events, metrics_row, tensorboard_writer, write_metrics
from swancli.train.losses import hinge_loss
from swancli.train.nan_guard import (
    Step,
    StepWatch,
    UnsoundStepError,
    UnsoundWeightsError,
    gradient_norm,
    step_error,
)
from swancli.train.schedule import stepped, warmed_cosine
from swancli.train.validation import validate
from swancli.vocab.vocabulary import Vocabulary
from swancli.workspace import Run


class Watch:
    """Callbacks during training. These do nothing; the console's show progress."""

    def note(self, text: str) -> None:
        """A line of information."""

    def step(self, epoch: int, step: int, steps: int, loss: float, pairs_per_second: float) -> None:
        """After each step, counted from 1; loss: the mean over the step's pairs."""

    def validation(self, phase: str, done: int, total: int) -> None:
        """While the validation split is encoded."""

    def epoch(self, report: Epoch) -> None:
        """After each epoch."""


@dataclass(frozen=True)
class TrainingData:
    """The training split, ready to be batched.

    features: maps of the frozen backbone, or None. catalogue: of the split's images and captions. rows: int64
    (N,), its images' rows in the data set. tokens: word numbers of each caption. wording: int64 (M,), equal
    for captions of the same words.
    """

    dataset: Dataset
    vocabulary: Vocabulary
    features: Features | None
    catalogue: Catalogue
    rows: np.ndarray
    tokens: list[list[int]]
    wording: np.ndarray


def training_part(dataset: Dataset) -> Catalogue:
    """The training split of a data set that can be trained on.

    Raises:
        SwanError: the data set has no training pairs, a single training image, or no validation split.
    """
    training_rows = dataset.rows_of("train")
    dataset.rows_of("val")
    training, _ = dataset.catalogue.select(training_rows)
    if len(set(training.image)) < 2:
        raise SwanError(f"{dataset.path}: only one training image; training takes two", "add images")
    return training


def rate_share(settings: TrainSettings, epoch: int, step: int, steps: int) -> float:
    """Share of the highest learning rate at one step.

    Args:
        settings: of the run.
        epoch: from 1.
        step: of that epoch, from 1.
        steps: in an epoch.
    """
    if settings.schedule == "step":
        return stepped(epoch)
    return warmed_cosine((epoch - 1) * steps + step, settings.epochs * steps, steps)


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
    """Trains a model, with recall on the validation split after every epoch.

    Writes after every epoch: `metrics.csv`, `last.pt` and, when validation mR is the highest so far,
    `best.pt`. The test split is never read. With `resume` training continues after the epochs in `last.pt`
    and ends where an uninterrupted run would. With several processes each encodes its share of every batch;
    the gradients equal those of one process, and the first process writes.

    Args:
        dataset: read for images, captions and splits.
        vocabulary: stored in the checkpoints.
        model: trained in place.
        settings: the recipe.
        run: where files are written.
        device: where the model runs.
        watch: receives progress.
        fold: how the splits of `dataset` were drawn; stored in the checkpoints.
        features: maps of the frozen backbone; only the heads are trained.
        resume: continue from `last.pt` if it exists.
        processes: that train together.

    Raises:
        SwanError: there are no training pairs or no validation split, fewer training images than processes,
            the features belong to another model, or a step's loss or gradients are not finite; names the
            step, its images and the last good checkpoint.
    """
    data = _training_data(dataset, vocabulary, features)
    images = min(len(data.rows), settings.batch_size // settings.captions_per_image)
    if images < processes.count > 1:
        problem = f"{processes.count} processes for {images} images in a batch of {dataset.path}"
        raise SwanError(problem, "start fewer, or train with a larger --batch-size")
    model.to(device, memory_format=torch.channels_last)
    optimizer = _optimizer(model, settings)
    history = _restore(run, model, optimizer, dataset) if resume and run.last.exists() else []
    encoders = pair_encoder(model, processes)
    events = tensorboard_writer(run, len(history) + 1) if processes.first else None
    if history and processes.first:
        write_metrics(run, history)  # an epoch is missing if the process was killed after `last.pt`
    origin = {
        "dataset": dataset.name,
        "dataset_digest": dataset.digest,
        "run": run.name,
        "fold": asdict(fold) if fold else None,
    }
    for epoch in range(len(history) + 1, settings.epochs + 1):
        started = time.perf_counter()
        size = model.settings.image_size
        batches, steps = _epoch_batches(data, size, settings, epoch, device, processes)
        rate_at = partial(rate_share, settings, epoch, steps=steps)
        show = partial(watch.step, epoch)
        try:
            loss, rate = _train_epoch(
                encoders, batches, steps, optimizer, rate_at, settings, device, show, processes
            )
        except UnsoundStepError as unsound:
            names = data.catalogue.filename[unsound.step.images]
            where = f"{run.folder}: epoch {epoch} of {steps} steps"
            raise step_error(where, unsound.step, names, _recovery_hint(run)) from None
        try:
            encoder = Encoder(Checkpoint.unsaved(model, vocabulary), device, settings.precision)
            scores, match = validate(encoder, dataset, features, watch.validation, processes)
        except UnsoundWeightsError:  # the last step made them
            problem = f"{run.folder}: epoch {epoch}, validation: embeddings contain NaN or infinity"
            raise SwanError(problem, _recovery_hint(run)) from None
        best = scores.mean_recall > max((row["mR"] for row in history), default=-1.0)
        report = Epoch(epoch, loss, rate, time.perf_counter() - started, scores, best)
        history.append(metrics_row(report, settings.lr * rate_at(steps)))
        if processes.first:
            _save_checkpoints(run, model, vocabulary, origin, report, steps, match, optimizer, history)
            write_metrics(run, history)
            add_events(events, history[-1])
        watch.epoch(report)
    if events:
        events.close()


def _training_data(dataset: Dataset, vocabulary: Vocabulary, features: Features | None) -> TrainingData:
    catalogue, rows = training_part(dataset), dataset.rows_of("train")
    tokens = [vocabulary.encode(text) for text in catalogue.text]
    return TrainingData(dataset, vocabulary, features, catalogue, rows, tokens, number_wordings(tokens))


def _epoch_batches(
    data: TrainingData,
    size: int,
    settings: TrainSettings,
    epoch: int,
    device: torch.device,
    processes: Processes,
) -> tuple[Iterator[Batch], int]:
    """The batches of one epoch, and their number; seeds torch for the epoch's dropout."""
    generator = np.random.default_rng([settings.seed, epoch])
    # Dropout uses torch's global generator, and must differ between processes.
    torch.manual_seed(int(generator.integers(2**62)) + processes.rank)
    least = max(2, processes.count)
    sizes = settings.batch_size, settings.captions_per_image
    groups = pair_batches(data.catalogue.image, *sizes, generator, least)
    read = _image_reader(data, size, settings, generator, device)
    tokens = data.tokens
    if settings.hide_rare_words:
        tokens = hide_rare_words(tokens, data.vocabulary, generator)
    batches = load_batches(
        groups,
        read,
        data.catalogue.image,
        tokens,
        data.wording,
        own_captions_only=settings.own_captions_only,
        processes=processes,
    )
    return batches, len(groups)


def _save_checkpoints(
    run: Run,
    model: Swan,
    vocabulary: Vocabulary,
    origin: dict[str, Any],
    report: Epoch,
    steps: int,
    match: MatchThreshold | None,
    optimizer: torch.optim.Optimizer,
    history: list[dict[str, Any]],
) -> None:
    """Writes `last.pt`, and `best.pt` after the best epoch so far."""
    origin = origin | {
        "epoch": report.epoch,
        "steps": report.epoch * steps,
        "val_mR": report.scores.mean_recall,
        "match": asdict(match) if match else None,
    }
    if report.best:
        save_checkpoint(run.best, model, vocabulary, origin)
    state = {"optimizer": optimizer.state_dict(), "history": history}
    save_checkpoint(run.last, model, vocabulary, origin, state)


def _recovery_hint(run: Run) -> str:
    """What to do after training failed, and which checkpoints are good."""
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
    data: TrainingData,
    size: int,
    settings: TrainSettings,
    generator: np.random.Generator,
    device: torch.device,
) -> Callable[[np.ndarray, slice], tuple]:
    """A function from images of the training split to `pixels`, `views` and `deep` of a share of them.

    Random numbers are drawn for all images, so they do not depend on the share.
    """
    if features := data.features:
        return lambda images, share: features.read(features.varied(data.rows[images], generator)[share])
    chance = torch.Generator().manual_seed(int(generator.integers(2**62)))
    source = stored_size(size, settings.augmentation)

    def read(images: np.ndarray, share: slice) -> tuple:
        views = draw_views(len(images), source, size, settings.augmentation, chance)
        pixels = read_images(data.dataset, data.rows[images[share]], source, device)
        return pixels, views and views.part(share), None

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
    """Mean loss over the pairs of one epoch, and pairs per second, of all processes.

    Args:
        encoders: from `pair_encoder`.
        batches: of the epoch.
        steps: number of them.
        optimizer: whose groups have a highest rate, as from `_optimizer`.
        share_at: from a step's number to the share of the highest rates.
        settings: of the run.
        device: where the model runs.
        on_step: called with step, steps, mean loss of the step and pairs per second so far.
        processes: that train together.

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
    """One optimizer step; returns the summed loss of the batch.

    Every process has the whole loss, and the gradient of what it encoded itself. Their sum is the gradient;
    `DistributedDataParallel` takes the mean.

    Raises:
        UnsoundStepError: loss or gradients are not finite; the weights stay as they are.
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


def _restore(
    run: Run, model: Swan, optimizer: torch.optim.Optimizer, dataset: Dataset
) -> list[dict[str, Any]]:
    """Restores the state in `last.pt`; returns the rows of `metrics.csv` so far."""
    last = load_checkpoint(run.last)
    if not last.training:
        raise SwanError(f"{run.last}: cannot be resumed: it has no optimizer state")
    if last.origin.get("dataset_digest") != dataset.digest:
        raise SwanError(
            f"{dataset.path}: prepared again since the run began; images, captions or splits have changed",
            "start a new run",
        )
    model.load_state_dict(last.model.state_dict())
    optimizer.load_state_dict(last.training["optimizer"])
    return last.training["history"]
