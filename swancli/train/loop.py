"""The training loop: epochs of steps, each epoch followed by validation and checkpoints.

swan train --dataset ucm
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from swancli.errors import SwanError
from swancli.machine.device import autocast, move, pinned, release_freed_memory
from swancli.machine.processes import ALONE, Processes
from swancli.machine.threads import read_ahead
from swancli.model.checkpoint import Checkpoint, Model, Tokenizer, load_checkpoint, save_checkpoint
from swancli.model.encoder import Encoder
from swancli.model.inputs import pad_tokens
from swancli.prepare.splits import Fold
from swancli.store.catalogue import Catalogue
from swancli.store.dataset import Dataset
from swancli.store.hdf5 import DATASET, damage_named
from swancli.store.seen import SeenImages
from swancli.train.average import follow
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
from swancli.train.caption_states import CaptionStates, states_of
from swancli.train.config import TrainSettings
from swancli.train.distributed import pair_encoder
from swancli.train.features import Features
from swancli.train.history import Epoch, add_events, metrics_row, tensorboard_writer, write_metrics
from swancli.train.losses import contrastive_loss, hinge_loss
from swancli.train.nan_guard import Step, StepWatch, gradient_norm, step_error
from swancli.train.schedule import stepped, warmed_cosine
from swancli.train.validation import validate
from swancli.workspace import Run

RELEASE_STEPS = 2  # between two releases of freed memory
MOST_STATES = 4 * 10**9  # bytes of states of captions that are kept in memory, by all processes together


class Watch:
    """Callbacks during training. These do nothing; the console's show progress."""

    def note(self, text: str) -> None:
        """A line of information."""

    def part(self, first: int, last: int, what: str) -> None:
        """Before the epochs `first` to `last`, which are alike: what is trained in them."""

    def step(self, epoch: int, step: int, steps: int, loss: float, pairs_per_second: float) -> None:
        """After each step, counted from 1; loss: the mean over the step's pairs."""

    def validation(self, phase: str, done: int, total: int) -> None:
        """While the validation split, or what is frozen, is encoded."""

    def epoch(self, report: Epoch) -> None:
        """After each epoch."""


@dataclass(frozen=True)
class TrainingData:
    """The training split, ready to be batched.

    dataset: that the split is from.
    tokenizer: of the model.
    features: of frozen towers, or None.
    states: of its captions, in memory; None to compute them at each step.
    catalogue: of the split's images and captions.
    rows: int64 (N,), the images' rows in the data set.
    captions: int64 (M,), the captions' rows in the data set.
    tokens: token numbers of each caption.
    wording: int64 (M,), equal for captions of the same words.
    seen: its images, and those that the checkpoint to start from was trained on.
    """

    dataset: Dataset
    tokenizer: Tokenizer
    features: Features | None
    states: CaptionStates | None
    catalogue: Catalogue
    rows: np.ndarray
    captions: np.ndarray
    tokens: list[list[int]]
    wording: np.ndarray
    seen: SeenImages


@dataclass(frozen=True)
class Training:
    """What the epochs of a run share.

    run: where files are written.
    settings: the recipe.
    data: the training split.
    model: on the device.
    average: of the model's weights, on the device; None if it is not kept.
    encoders: from `pair_encoder`; None before the first epoch.
    optimizer: from `make_optimizer`.
    device: where the model runs.
    watch: receives progress.
    processes: that train together.
    """

    run: Run
    settings: TrainSettings
    data: TrainingData
    model: Model
    average: Model | None
    encoders: nn.Module | None
    optimizer: torch.optim.Optimizer
    device: torch.device
    watch: Watch
    processes: Processes


def training_part(dataset: Dataset) -> tuple[Catalogue, np.ndarray]:
    """The training split of a data set that can be trained on, and the rows int64 (M,) of its captions.

    Raises:
        SwanError: the data set has no training pairs, a single training image, or no validation split.
    """
    training_rows = dataset.rows_of("train")
    dataset.rows_of("val")
    training, captions = dataset.catalogue.select(training_rows)
    if len(set(training.image)) < 2:
        raise SwanError(f"{dataset.path}: only one training image; training takes two", "add images")
    return training, captions


def training_data(
    dataset: Dataset,
    tokenizer: Tokenizer,
    features: Features | None = None,
    seen: SeenImages | None = None,
) -> TrainingData:
    """The training split of a data set; raises as `training_part` does.

    Args:
        dataset: the data set.
        tokenizer: as in `TrainingData`.
        features: as in `TrainingData`.
        seen: the images that the model was trained on before.
    """
    (catalogue, captions), rows = training_part(dataset), dataset.rows_of("train")
    tokens = tokenizer.encode_all(catalogue.text)
    wording = number_wordings(tokens)
    with damage_named(dataset.path, DATASET):
        own = SeenImages.of(dataset.digests(rows), dataset.looks(rows))
    seen = own.joined(seen) if seen else own
    return TrainingData(dataset, tokenizer, features, None, catalogue, rows, captions, tokens, wording, seen)


def rate_share(settings: TrainSettings, epoch: int, step: int, steps: int, waits: int = 0) -> float:
    """Share of the highest learning rate at one step.

    Args:
        settings: of the run.
        epoch: from 1.
        step: of that epoch, from 1.
        steps: in an epoch.
        waits: epochs before the first in which the weights in question are trained; their schedule begins
            with that one.
    """
    epoch, epochs = epoch - waits, settings.epochs - waits
    if epoch < 1:
        return 0.0
    if settings.schedule == "step":
        return stepped(epoch)
    return warmed_cosine((epoch - 1) * steps + step, epochs * steps, steps)


def train(
    data: TrainingData,
    model: Model,
    settings: TrainSettings,
    run: Run,
    device: torch.device,
    watch: Watch,
    *,
    fold: Fold | None = None,
    resume: bool = False,
    processes: Processes = ALONE,
) -> None:
    """Trains a model, with recall on the validation split after every epoch.

    Writes after every epoch: `metrics.csv`, `last.pt` and, when validation mR is the highest so far,
    `best.pt`. The test split is never read. With `resume` training continues after the epochs in `last.pt`
    and ends where an uninterrupted run would. With several processes each encodes its share of every batch;
    the gradients equal those of one process, and the first process writes.

    Args:
        data: the training split; only the heads are trained if it has features.
        model: trained in place.
        settings: the recipe.
        run: where files are written.
        device: where the model runs.
        watch: receives progress.
        fold: how the splits of the data set were drawn; stored in the checkpoints.
        resume: continue from `last.pt` if it exists.
        processes: that train together.

    Raises:
        SwanError: there are fewer training images than processes, the data set has changed since the run
            began, or a step's loss or gradients are not finite; names the step, its images and the last good
            checkpoint.
    """
    dataset = data.dataset
    images = min(len(data.rows), settings.batch_size // settings.captions_per_image)
    if images < processes.count > 1:
        problem = f"{processes.count} processes for {images} images in a batch of {dataset.path}"
        raise SwanError(problem, "start fewer, or train with a larger --batch-size")
    model.to(device, memory_format=torch.channels_last)
    optimizer = make_optimizer(model, settings)
    average = deepcopy(model) if settings.average else None
    history = _restore(run, model, average, optimizer, dataset) if resume and run.last.exists() else []
    if not data.features:
        data = replace(data, states=_frozen_states(data, model, settings, device, watch, processes.count))
    training = Training(run, settings, data, model, average, None, optimizer, device, watch, processes)
    kept = average or model
    events = tensorboard_writer(run, len(history) + 1) if processes.first else None
    if history and processes.first:
        write_metrics(run, history)  # an epoch is missing if the process was killed after `last.pt`
    origin = {
        "dataset": dataset.name,
        "dataset_digest": dataset.digest,
        "run": run.name,
        "fold": asdict(fold) if fold else None,
    }
    begins = {group["waits"] + 1 for group in optimizer.param_groups}  # epochs in which a part begins
    for epoch in range(len(history) + 1, settings.epochs + 1):
        started = time.perf_counter()
        if training.encoders is None or epoch in begins:
            training = _part_from(training, epoch)
        loss, rate, steps = _train_epoch(training, epoch)
        try:
            encoder = Encoder(Checkpoint.unsaved(kept, data.tokenizer), device, settings.precision)
            scores, match = validate(encoder, dataset, data.features, watch.validation, processes)
        except FloatingPointError as error:  # the last step made the weights so
            problem = f"{run.folder}: epoch {epoch}, validation: {error}"
            raise SwanError(problem, _recovery_hint(run)) from None
        best = scores.mean_recall > max((row["mR"] for row in history), default=-1.0)
        report = Epoch(epoch, loss, rate, time.perf_counter() - started, scores, best)
        history.append(metrics_row(report, settings.lr * rate_share(settings, epoch, steps, steps)))
        if processes.first:
            reached = {"epoch": epoch, "steps": epoch * steps, "val_mR": scores.mean_recall}
            reached["match_threshold"] = asdict(match) if match else None
            if best:
                save_checkpoint(run.best, kept, data.tokenizer, origin | reached, seen=data.seen)
            state = {"optimizer": optimizer.state_dict(), "history": history}
            if average:
                state["weights"] = _trained_weights(model)
            save_checkpoint(run.last, kept, data.tokenizer, origin | reached, state, data.seen)
            write_metrics(run, history)
            add_events(events, history[-1])
        watch.epoch(report)
    if events:
        events.close()


def _epoch_batches(training: Training, epoch: int) -> tuple[Iterator[Batch], int]:
    """The batches of one epoch, and their number; seeds torch for the epoch's dropout."""
    data, settings, processes = training.data, training.settings, training.processes
    generator = np.random.default_rng([settings.seed, epoch])
    # Dropout uses torch's global generator, and must differ between processes.
    torch.manual_seed(int(generator.integers(2**62)) + processes.rank)
    least = max(2, processes.count)
    sizes = settings.batch_size, settings.captions_per_image
    groups = pair_batches(data.catalogue.image, *sizes, generator, least)
    read = _image_reader(training, generator)
    batches = load_batches(
        groups,
        read,
        _caption_reader(training, generator),
        data.catalogue.image,
        data.wording,
        own_captions_only=settings.own_captions_only,
        processes=processes,
    )
    return batches, len(groups)


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


def make_optimizer(model: Model, settings: TrainSettings) -> torch.optim.Optimizer:
    """Adam, with each tower in a group of its own.

    Each group keeps its highest rate as `highest` and the epochs before its first as `waits`.
    """
    shares = {"heads": 1.0, "backbone": settings.backbone_rate, "text": settings.text_rate}
    groups = [
        {
            "params": part,
            "highest": settings.lr * shares[name],
            "waits": 0 if name == "heads" else settings.heads_first,
        }
        for name, part in model.parts().items()
        if part
    ]
    if not groups:
        raise SwanError("nothing is left to train: both towers are frozen", "add --fine-tune")
    return torch.optim.Adam(groups, lr=settings.lr)


def _frozen_states(
    data: TrainingData,
    model: Model,
    settings: TrainSettings,
    device: torch.device,
    watch: Watch,
    processes: int,
) -> CaptionStates | None:
    """The states of the training captions, if the text transformer is frozen and they fit into memory.

    Each process keeps all of them.
    """
    bert = None if model.settings.open_clip else model.text_tower.bert
    if not bert or bert.frozen < bert.shape.layers:
        return None
    if 2 * bert.shape.width * sum(map(len, set(map(tuple, data.tokens)))) > MOST_STATES // processes:
        return None
    return states_of(bert.eval(), data.tokens, device, settings.precision, watch.validation)


def _part_from(training: Training, epoch: int) -> Training:
    """The training from an epoch on: of the heads alone, or also of what is not frozen of the towers."""
    settings, waiting = training.settings, False
    for group in training.optimizer.param_groups:
        waits = epoch <= group["waits"]
        waiting = waiting or waits
        for weight in group["params"]:
            weight.requires_grad_(not waits)
    last = min(settings.heads_first, settings.epochs) if waiting else settings.epochs
    training.watch.part(epoch, last, "the heads alone" if waiting else "")
    return replace(training, encoders=pair_encoder(training.model, training.processes))


def _image_reader(training: Training, generator: np.random.Generator) -> Callable[[np.ndarray, slice], tuple]:
    """A function from images of the training split to `pixels`, `views` and `maps` of a share of them.

    Random numbers are drawn for all images, so they do not depend on the share.
    """
    data, kind = training.data, training.settings.augmentation
    if features := data.features:

        def read_maps(images: np.ndarray, share: slice) -> tuple:
            return None, None, features.read(features.varied(data.rows[images], generator)[share])

        return read_maps
    chance = torch.Generator().manual_seed(int(generator.integers(2**62)))
    preprocessing = training.model.settings.preprocessing
    size = preprocessing.size
    source = stored_size(size, kind)

    def read(images: np.ndarray, share: slice) -> tuple:
        views = draw_views(len(images), source, size, kind, chance)
        pixels = read_images(data.dataset, data.rows[images[share]], preprocessing, source, training.device)
        return pixels, views and views.part(share), None

    return read


def _caption_reader(
    training: Training, generator: np.random.Generator
) -> Callable[[np.ndarray, slice], tuple[torch.Tensor, torch.Tensor]]:
    """A function from captions of the training split to `tokens` and `lengths` of a share of them."""
    data, tokens = training.data, training.data.tokens
    if data.features and data.features.has_states:
        return lambda captions, share: data.features.read_states(data.captions[captions[share]])
    if data.states:
        return lambda captions, share: data.states.read(captions[share])
    if training.settings.hide_rare_words:
        tokens = hide_rare_words(tokens, data.tokenizer, generator)

    def read(captions: np.ndarray, share: slice) -> tuple[torch.Tensor, torch.Tensor]:
        padded, lengths = pad_tokens([tokens[caption] for caption in captions])
        return padded[share], lengths[share]

    return read


def _train_epoch(training: Training, epoch: int) -> tuple[float, float, int]:
    """Mean loss over the pairs of one epoch, pairs per second of all processes, and the number of steps.

    Raises:
        SwanError: a step's loss or gradients are not finite.
    """
    device, settings = training.device, training.settings
    batches, steps = _epoch_batches(training, epoch)

    def failure(step: Step) -> SwanError:
        names = training.data.catalogue.filename[step.images]
        where = f"{training.run.folder}: epoch {epoch} of {steps} steps"
        return step_error(where, step, names, _recovery_hint(training.run))

    training.encoders.train()
    total = torch.zeros((), device=device)
    pairs, started, shown = 0, time.perf_counter(), 0.0
    sound = StepWatch(device, steps, failure)
    ready = (batch.moved(lambda tensor: pinned(tensor, device)) for batch in batches)
    for step, batch in enumerate(read_ahead(ready), start=1):
        batch = batch.moved(lambda tensor: move(tensor, device))
        for group in training.optimizer.param_groups:
            group["lr"] = group["highest"] * rate_share(settings, epoch, step, steps, group["waits"])
        loss = train_step(training, step, batch, sound)
        if training.average:
            follow(training.average, training.model, (epoch - 1) * steps + step, settings.average)
        total += loss
        pairs += batch.positive.shape[1]
        if step % RELEASE_STEPS == 0:
            release_freed_memory()
        if sound.looks_at(step):
            shown = float(loss) / batch.positive.shape[1]
        training.watch.step(epoch, step, steps, shown, pairs / (time.perf_counter() - started))
    return float(total) / pairs, pairs / (time.perf_counter() - started), steps


def train_step(training: Training, number: int, batch: Batch, sound: StepWatch) -> torch.Tensor:
    """One optimizer step; returns the summed loss of the batch.

    Every process has the whole loss, and the gradient of what it encoded itself. Their sum is the gradient;
    `DistributedDataParallel` takes the mean.

    Args:
        training: the run.
        number: of the step, from 1.
        batch: on the device.
        sound: raises if loss or gradients are not finite; the weights then stay as they are.
    """
    settings, encoders, processes = training.settings, training.encoders, training.processes
    with autocast(training.device, settings.precision):
        images, captions = encoders(batch)
    images = processes.gathered(images, batch.images_each)
    captions = processes.gathered(captions, batch.captions_each)
    loss = _loss(settings, images @ captions.T, batch.positive, batch.negative)
    training.optimizer.zero_grad(set_to_none=True)
    (loss * processes.count).backward()
    step = Step(number, batch.images, loss.detach(), gradient_norm(encoders))
    sound.see(step)
    if settings.clip_norm:
        torch.nn.utils.clip_grads_with_norm_(encoders.parameters(), settings.clip_norm, step.norm)
    training.optimizer.step()
    return step.loss


def _loss(
    settings: TrainSettings, similarity: torch.Tensor, positive: torch.Tensor, negative: torch.Tensor
) -> torch.Tensor:
    """The summed loss of a recipe; arguments as in `hinge_loss`."""
    if settings.loss == "contrastive":
        return contrastive_loss(similarity, positive, negative, temperature=settings.temperature)
    hardest = settings.loss == "hardest"
    return hinge_loss(similarity, positive, negative, margin=settings.margin, hardest=hardest)


def _trained_weights(model: Model) -> dict[str, torch.Tensor]:
    """The weights of the last step, where `last.pt` holds their average."""
    return {name: weight.detach() for name, weight in model.named_parameters() if weight.requires_grad}


def _restore(
    run: Run, model: Model, average: Model | None, optimizer: torch.optim.Optimizer, dataset: Dataset
) -> list[dict[str, Any]]:
    """Restores the state in `last.pt`; returns the rows of `metrics.csv` so far."""
    last = load_checkpoint(run.last)
    needed = ["optimizer", "history", *(["weights"] if average else [])]
    if lacking := [name for name in needed if name not in last.training]:
        raise SwanError(f"{run.last}: cannot be resumed: its training has no {lacking[0]}", "start a new run")
    if last.origin.get("dataset_digest") != dataset.digest:
        raise SwanError(
            f"{dataset.path}: prepared again since the run began; images, captions or splits have changed",
            "start a new run",
        )
    model.load_state_dict(last.model.state_dict())
    if average:
        average.load_state_dict(last.model.state_dict())
        model.load_state_dict(last.training["weights"], strict=False)
    optimizer.load_state_dict(last.training["optimizer"])
    return last.training["history"]
