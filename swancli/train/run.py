"""A run's folder and its `config.json`: starting a run, or going on with one.

swan train --dataset ucm --run first
swan train --resume --run first
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from swancli import __version__
from swancli.device import choose_device, describe_device
from swancli.errors import SwanError
from swancli.evaluate.report import Report, evaluate_checkpoint
from swancli.model.checkpoint import load_checkpoint
from swancli.model.settings import ModelSettings
from swancli.model.swan import Swan
from swancli.store import Dataset, atomic_path
from swancli.train.loop import TrainSettings, Watch, train
from swancli.vocab import Vocabulary, read_vocabulary
from swancli.workspace import Run, Workspace


@dataclass(frozen=True)
class RunConfig:
    """All that a run is started with, as its `config.json` holds it.

    vocab: path of the vocabulary; weights: path of the backbone's starting weights, "" for random ones; the
    rest as in `ModelSettings` and `TrainSettings`.
    """

    dataset: str
    vocab: str
    weights: str
    backbone: str
    image_size: int
    embed_dim: int
    frozen: bool
    training: TrainSettings


def resumed_config(run: Run, epochs: int | None = None) -> RunConfig:
    """The configuration of a run that stands already, with another number of epochs when one is given.

    Raises:
        SwanError: the run's `config.json` cannot be read.
    """
    try:
        content = json.loads(run.config.read_text(encoding="utf-8"))
        content.pop("created_by")
        config = RunConfig(**content | {"training": TrainSettings(**content["training"])})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SwanError(f"{run.config}: not a run's configuration ({error})", "start a new run") from error
    if epochs in (None, config.training.epochs):
        return config
    if config.training.schedule == "cosine":
        raise SwanError(
            f"{run.config}: its cosine schedule ends after {config.training.epochs} epochs, not {epochs}",
            "leave --epochs out, or start a new run",
        )
    return replace(config, training=replace(config.training, epochs=epochs))


def train_run(
    workspace: Workspace, run: Run, config: RunConfig, device: str, *, resume: bool, watch: Watch
) -> Report:
    """Trains a run to its last epoch; returns the recalls of its best checkpoint on the validation split.

    Raises:
        SwanError: data set or vocabulary is missing, they do not belong together, or the run exists already.
    """
    if not resume and run.config.exists():
        raise SwanError(f"{run.folder}: this run exists", "choose another --run, or go on with it: --resume")
    processor = choose_device(device)
    with Dataset(workspace.dataset(config.dataset)) as dataset:
        vocabulary = _vocabulary(run, config, resume)
        model = _new_model(config, vocabulary)
        config_text = json.dumps({"created_by": f"swancli {__version__}", **asdict(config)}, indent=1)
        with atomic_path(run.config) as temporary:
            temporary.write_text(config_text + "\n", encoding="utf-8")
        watch.note(
            f"training {run.name} on {describe_device(processor)}: {config.backbone}, "
            f"{'frozen' if config.frozen else 'fine-tuned'}, from {config.weights or 'random weights'}, "
            f"{config.image_size} px"
        )
        train(dataset, vocabulary, model, config.training, run, processor, watch, resume=resume)
    return evaluate_checkpoint(workspace, run.best, split="val", device=device)


def _vocabulary(run: Run, config: RunConfig, resume: bool) -> Vocabulary:
    """The vocabulary to train with: the run's own when it goes on."""
    if resume and run.last.exists():
        return load_checkpoint(run.last).vocabulary
    path = Path(config.vocab)
    vocabulary = read_vocabulary(path)
    if vocabulary.dataset not in ("", config.dataset):
        raise SwanError(
            f"{path}: counted from data set {vocabulary.dataset}, not from {config.dataset}",
            f"make its own: swan vocab --dataset {config.dataset}",
        )
    return vocabulary


def _new_model(config: RunConfig, vocabulary: Vocabulary) -> Swan:
    """The model as it stands before the first step: seeded weights, then the backbone's file."""
    torch.manual_seed(config.training.seed)
    model = Swan(
        ModelSettings(
            words=len(vocabulary),
            backbone=config.backbone,
            image_size=config.image_size,
            embed_dim=config.embed_dim,
            frozen=config.frozen,
        )
    )
    if config.weights:
        model.backbone.load_weights(Path(config.weights))
    return model
