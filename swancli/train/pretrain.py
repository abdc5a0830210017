"""Supervised pretraining of the backbone on scene labels, for `swan train --weights`.

swan pretrain --dataset rsicd
swan train --dataset rsicd --backbone resnet18 --weights swan-data/rsicd/backbone-resnet18.pt
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import nn

from swancli.errors import SwanError
from swancli.machine.device import autocast, image_batch, move, pinned
from swancli.machine.progress import Progress
from swancli.machine.threads import read_ahead
from swancli.model.backbone import Backbone, preprocessing_of
from swancli.store.dataset import Dataset
from swancli.store.hdf5 import CREATED_BY
from swancli.store.seen import SeenImages
from swancli.store.torch_file import write_torch_file
from swancli.train.batches import augment, draw_views, read_images, stored_size
from swancli.train.nan_guard import Step, StepWatch, gradient_norm, step_error
from swancli.train.schedule import warmed_cosine

# The usual values for a ResNet trained from random weights.
MOMENTUM, WEIGHT_DECAY, SMOOTHING = 0.9, 5e-4, 0.1
WARM_UP = 2  # epochs in which the learning rate rises


@dataclass(frozen=True)
class SceneSettings:
    """The recipe of scene pretraining.

    backbone: as in `ModelSettings`.
    weights: path of the weights to start from, or imagenet; "" for random ones.
    image_size: side of the square input in pixels.
    epochs: passes over the training images.
    batch_size: images per step, at most.
    lr: the highest learning rate of SGD with momentum.
    precision: as in `TrainSettings`.
    seed: of the random weights, the order of the images and their augmentation.
    """

    backbone: str = "resnet18"
    weights: str = ""
    image_size: int = 256
    epochs: int = 30
    batch_size: int = 64
    lr: float = 0.1
    precision: str = "fp32"
    seed: int = 0


@dataclass(frozen=True)
class SceneAccuracy:
    """How well scenes are predicted.

    scenes: number of different scenes.
    training: number of training images.
    validation: number of validation images.
    accuracy: in percent of the validation images; None if there are none.
    """

    scenes: int
    training: int
    validation: int
    accuracy: float | None


class SceneClassifier(nn.Module):
    """A backbone with a linear classifier on the mean of its deepest map."""

    def __init__(self, backbone: Backbone, scenes: int, size: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.preprocessing = replace(preprocessing_of(backbone.name), size=size)
        self.classifier = nn.Linear(backbone.channels[-1], scenes)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Scores (B, scenes) of uint8 or float (B, 3, S, S) pixels in 0..255."""
        maps = self.backbone(self.preprocessing.normalise(pixels))
        return self.classifier(maps["deep3"].mean(dim=(2, 3)))


@dataclass(frozen=True)
class Pretraining:
    """What the epochs share.

    dataset: with scenes.
    settings: the recipe.
    model: on the device.
    optimizer: of the model.
    label: int64 (N,), the scene of each image of the data set as a number; -1 for none.
    device: where the model runs.
    """

    dataset: Dataset
    settings: SceneSettings
    model: SceneClassifier
    optimizer: torch.optim.Optimizer
    label: np.ndarray
    device: torch.device


def train_on_scenes(
    dataset: Dataset,
    settings: SceneSettings,
    path: Path,
    device: torch.device,
    progress: Progress,
    on_epoch: Callable[[int, float, SceneAccuracy], None],
) -> SceneAccuracy:
    """Trains a backbone to classify the scenes of the training split and writes it to a file.

    The weights of the last epoch are kept, whatever their accuracy. The test split is never read, and images
    without a scene are left out.

    Args:
        dataset: with scenes.
        settings: the recipe.
        path: the file to write: a torchvision state dict without a classifier, under `state_dict`.
        device: where the model runs.
        progress: called after each step.
        on_epoch: called after each epoch with its number, its mean loss and the accuracy.

    Returns:
        The accuracy after the last epoch.

    Raises:
        SwanError: the training images have fewer than two scenes, the weights do not fit, or a step's loss or
            gradients are not finite.
    """
    scene, split = dataset.catalogue.scene, dataset.catalogue.split
    rows, validation = (np.flatnonzero((split == name) & pd.notna(scene)) for name in ("train", "val"))
    names = sorted(set(scene[rows]))
    if len(names) < 2:
        raise SwanError(
            f"{dataset.path}: its training images have {len(names)} scenes, and pretraining takes two",
            "give scenes with the source, as in a column `scene` or in names like river_12.jpg",
        )
    torch.manual_seed(settings.seed)
    backbone = Backbone(settings.backbone, frozen=False)
    if settings.weights:
        backbone.load_weights(settings.weights)
    backbone.map_shapes(settings.image_size)  # raises for a size that the network does not take
    model = SceneClassifier(backbone, len(names), settings.image_size)
    model = model.to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=settings.lr, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY, nesterov=True
    )
    label = pd.Categorical(scene, categories=names).codes.astype(np.int64)
    training = Pretraining(dataset, settings, model, optimizer, label, device)
    for epoch in range(1, settings.epochs + 1):
        loss = _train_epoch(training, rows, epoch, progress)
        share = _accuracy(training, validation)
        accuracy = SceneAccuracy(len(names), len(rows), len(validation), share)
        on_epoch(epoch, loss, accuracy)
    content = {
        "created_by": CREATED_BY,
        "settings": asdict(settings),
        "dataset": dataset.name,
        "scenes": names,
        "seen": SeenImages.of(dataset.digests(rows), dataset.looks(rows)).to_plain(),
        "state_dict": {key: value.cpu() for key, value in backbone.network.state_dict().items()},
    }
    write_torch_file(path, content)
    return accuracy


def _train_epoch(training: Pretraining, rows: np.ndarray, epoch: int, progress: Progress) -> float:
    """Mean loss over the steps of one epoch."""
    dataset, settings, model = training.dataset, training.settings, training.model
    device, optimizer = training.device, training.optimizer

    def failure(step: Step) -> SwanError:
        names = dataset.catalogue.filename[step.images]
        hint = "nothing was written; start again with a lower --lr"
        return step_error(f"{dataset.path}: epoch {epoch}", step, names, hint)

    model.train()
    total = torch.zeros((), device=device)
    steps = math.ceil(len(rows) / settings.batch_size)
    sound = StepWatch(device, steps, failure)
    for step, (batch, pixels) in enumerate(_varied_batches(training, rows, steps, epoch), start=1):
        done = (epoch - 1) * steps + step
        for group in optimizer.param_groups:
            group["lr"] = settings.lr * warmed_cosine(done, steps * settings.epochs, steps * WARM_UP)
        labels = move(torch.from_numpy(training.label[batch]), device)
        with autocast(device, settings.precision):
            scores = model(pixels)
        loss = F.cross_entropy(scores.float(), labels, label_smoothing=SMOOTHING)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        sound.see(Step(step, batch, loss.detach(), gradient_norm(model)))
        optimizer.step()
        total += loss.detach()
        progress("steps", done, steps * settings.epochs)
    return float(total) / steps


def _varied_batches(
    training: Pretraining, rows: np.ndarray, steps: int, epoch: int
) -> Iterator[tuple[np.ndarray, torch.Tensor]]:
    """One epoch's batches in random order: rows, and float (B, 3, S, S) views on the device."""
    dataset, settings, device = training.dataset, training.settings, training.device
    generator = np.random.default_rng([settings.seed, epoch])
    chance = torch.Generator().manual_seed(int(generator.integers(2**62)))
    size, kind = settings.image_size, "overhead"
    side = stored_size(size, kind)
    batches = np.array_split(generator.permutation(rows), steps)
    preprocessing = training.model.preprocessing

    def read(batch: np.ndarray) -> torch.Tensor:
        return pinned(read_images(dataset, batch, preprocessing, side, device), device)

    ready = ((batch, read(batch)) for batch in batches)
    for batch, pixels in read_ahead(ready):
        yield batch, augment(move(pixels, device), draw_views(len(batch), side, size, kind, chance))


def _accuracy(training: Pretraining, rows: np.ndarray) -> float | None:
    """Share of images whose scene is predicted, in percent; None without images."""
    settings, model, device = training.settings, training.model, training.device
    size = image_batch(device)
    model.eval()
    right = 0
    for start in range(0, len(rows), size):
        batch = rows[start : start + size]
        with torch.inference_mode(), autocast(device, settings.precision):
            pixels = read_images(training.dataset, batch, model.preprocessing, settings.image_size, device)
            predicted = model(move(pixels, device)).argmax(dim=1).cpu().numpy()
        right += np.count_nonzero(predicted == training.label[batch])
    return 100 * right / len(rows) if len(rows) else None
