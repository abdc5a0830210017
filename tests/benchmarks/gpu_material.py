"""What the GPU script works on: pictures, data sets, models and recipes, all made on the spot."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gpu import Bench
from torch import nn

from swancli.images import pixel_digest
from swancli.model.checkpoint import Checkpoint, Model, Tokenizer, load_checkpoint
from swancli.model.open_clip import OpenClip
from swancli.model.settings import ModelSettings
from swancli.model.start import new_model
from swancli.model.swan import Swan
from swancli.prepare.demo import generate_demo
from swancli.store.catalogue import Catalogue
from swancli.store.dataset import Dataset, create_dataset
from swancli.train.config import FROM_RANDOM_WEIGHTS, FROM_TRAINED_WEIGHTS, TrainSettings
from swancli.train.history import Epoch
from swancli.train.loop import Watch, train, training_data
from swancli.vocab.vocabulary import count_words
from swancli.workspace import WITH_SWAN, Workspace

WORDS = 1000


@dataclass(frozen=True)
class NumberedWords:
    """A tokenizer for random weights: a number for each word, from its letters.

    words: the largest number.
    length: of a padded text; 0 to pad none.
    """

    words: int = WORDS
    length: int = 0

    def encode_all(self, texts: Any) -> list[list[int]]:
        """Numbers from 1 to `words` for each word of each text."""
        numbers = [[1 + sum(map(ord, word)) % self.words for word in text.split()] for text in texts]
        return [row + [0] * (self.length - len(row)) for row in numbers]


def pictures(count: int, side: int, seed: int = 0) -> list[np.ndarray]:
    """Different images, uint8 (side, side, 3): coarse random colours with a little noise."""
    rng = np.random.default_rng(seed)
    steps = -(-side // 16)
    coarse = rng.integers(0, 230, (count, steps, steps, 3), dtype=np.uint8)
    noise = rng.integers(0, 25, (side, side, 3), dtype=np.uint8)
    return [image.repeat(16, 0).repeat(16, 1)[:side, :side] + noise for image in coarse]


def checkpoint_of(kind: str, bench: Bench) -> Checkpoint:
    """The shipped checkpoint, or a model with random weights in evaluation mode."""
    if kind == "shipped":
        return load_checkpoint("shipped")
    torch.manual_seed(0)
    backbone, size = ("resnet18", 64) if bench.tiny else ("resnet50", 256)
    if kind == "open_clip":
        config = {
            "embed_dim": 64,
            "vision_cfg": {"image_size": 64, "layers": 3, "width": 128, "head_width": 32, "patch_size": 8},
            "text_cfg": {"context_length": 24, "vocab_size": WORDS + 1, "width": 64, "heads": 4, "layers": 3},
        }
        model = OpenClip(ModelSettings(0, "open_clip/small", 64, 64, open_clip=config))
        return Checkpoint.unsaved(model.eval(), NumberedWords(length=24))
    variant = "published" if "published" in kind else "repaired"
    model = Swan(ModelSettings(WORDS, backbone, size, frozen=True, variant=variant))
    return Checkpoint.unsaved(model.eval(), NumberedWords())


def demo_set(bench: Bench, name: str, count: int) -> Path:
    """The path of a data set of generated scenes with five captions each."""
    entries, path = [], Workspace(bench.root).dataset(name)
    with create_dataset(path, name, (96, 96)) as writer:
        for entry, pixels in generate_demo(count, 0, 96):
            entries.append(entry)
            writer.add(pixels, pixel_digest(pixels), len(entries))
        captions = [entry.captions for entry in entries]
        owners = np.repeat(range(count), [len(texts) for texts in captions])
        writer.finish(
            Catalogue.of(
                [entry.filename for entry in entries],
                [entry.scene for entry in entries],
                [entry.split for entry in entries],
                [text for texts in captions for text in texts],
                owners,
            )
        )
    return path


def settings_of(kind: str, bench: Bench) -> tuple[Model, Tokenizer, TrainSettings]:
    """A model before its first step, its tokenizer, and a recipe for the generated scenes."""
    size = bench.size(128, 64)
    if kind == "towers that come with swan":
        shape = ModelSettings(0, "timm/tf_efficientnet_lite0", size, 256, freeze_stages=2)
        model, tokenizer, _ = new_model(shape, 0, WITH_SWAN, "minilm", None, None, None)
        usual = {**FROM_TRAINED_WEIGHTS, "batch_size": bench.size(500, 50)}
    else:
        texts = [text for entry, _ in generate_demo(bench.size(500, 56), 0, 8) for text in entry.captions]
        tokenizer = count_words(texts, min_count=1, stop_words="keep", dataset="")
        backbone = "resnet18" if bench.tiny else "resnet50"
        model, tokenizer, _ = new_model(
            ModelSettings(len(tokenizer), backbone, size, 256), 0, "", "gru", tokenizer, None, None
        )
        usual = {**FROM_RANDOM_WEIGHTS, "batch_size": 100}
    return model, tokenizer, TrainSettings(**{key: usual[key] for key in usual if key != "freeze_stages"})


class _Interrupted(Exception):
    pass


class _Epochs(Watch):
    """Keeps what each epoch reports; may interrupt the second one after its first step."""

    def __init__(self, interrupt: bool = False) -> None:
        self.reports: list[Epoch] = []
        self._interrupt = interrupt

    def step(self, epoch: int, step: int, steps: int, loss: float, pairs_per_second: float) -> None:
        if self._interrupt and epoch == 2:
            raise _Interrupted

    def epoch(self, report: Epoch) -> None:
        self.reports.append(report)


def trained_epochs(
    bench: Bench,
    dataset: Dataset,
    model: Model,
    tokenizer: Tokenizer,
    settings: TrainSettings,
    device: str,
    *,
    dropout: bool = True,
    interrupted: bool = False,
    run: str = "",
    features: Any = None,
) -> list[Epoch]:
    """Trains a copy of a model as `swan train` does; what each epoch reports.

    Args:
        bench: for the files.
        dataset: to train on.
        model: is copied.
        tokenizer: of the model.
        settings: the recipe.
        device: where the model runs.
        dropout: whether there is any.
        interrupted: interrupt the second epoch, and resume.
        run: its name; "" for one that is deleted before.
        features: of frozen towers, or None.
    """
    import shutil

    place = Workspace(bench.root).run(dataset.name, run or "trained")
    shutil.rmtree(place.folder, ignore_errors=True)
    place.folder.mkdir(parents=True)
    watch = _Epochs(interrupted)

    def once(resume: bool) -> None:
        copy = deepcopy(model)
        if not dropout:
            without_dropout(copy)
        data = training_data(dataset, tokenizer, features)
        train(data, copy, settings, place, torch.device(device), watch, resume=resume)

    if interrupted:
        try:
            once(resume=False)
        except _Interrupted:
            watch._interrupt = False
    once(resume=interrupted)
    return watch.reports


def without_dropout(model: nn.Module) -> None:
    """Turns all dropout of a model off."""
    for part in model.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
        elif isinstance(part, nn.MultiheadAttention):
            part.dropout = 0.0
