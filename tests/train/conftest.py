"""A tiny data set of plain colours, ready to train on."""

import numpy as np
import pytest

from swancli.store.catalogue import Catalogue
from swancli.store.dataset import Dataset, create_dataset
from swancli.train.config import RunConfig, TrainSettings
from swancli.train.loop import Watch
from swancli.train.run import train_run
from swancli.vocab.vocabulary import count_words, write_vocabulary
from swancli.workspace import Workspace

COLOURS = {"red": (200, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 200), "white": (240, 240, 240)}


def make_dataset(path, name="tiny"):
    """Twelve plain images of four colours, two captions each; four of them in each split."""
    rng = np.random.default_rng(0)
    names = list(COLOURS) * 3
    splits = ["train"] * 4 + ["val"] * 4 + ["test"] * 4
    with create_dataset(path, name, (40, 40)) as writer:
        for row, colour in enumerate(names):
            noise = rng.integers(0, 15, (40, 40, 3))
            writer.add((np.array(COLOURS[colour]) + noise).clip(0, 255).astype(np.uint8), str(row))
        texts = [
            text for colour in names for text in (f"a {colour} field", f"there is one {colour} roof here")
        ]
        writer.finish(
            Catalogue.of(
                [f"{c}_{i}.png" for i, c in enumerate(names)], names, splits, texts, np.repeat(range(12), 2)
            )
        )


def make_workspace(root):
    """A root with the tiny data set and its vocabulary."""
    workspace = Workspace(root)
    make_dataset(workspace.dataset("tiny"))
    with Dataset(workspace.dataset("tiny")) as dataset:
        vocabulary = count_words(dataset.catalogue.text[:8], min_count=1, stop_words="keep", dataset="tiny")
    write_vocabulary(workspace.vocab("tiny"), vocabulary)
    return workspace


@pytest.fixture
def workspace(tmp_path):
    return make_workspace(tmp_path)


@pytest.fixture(scope="module")
def module_workspace(tmp_path_factory):
    """The same, of all tests of a file."""
    return make_workspace(tmp_path_factory.mktemp("root"))


@pytest.fixture
def tiny_config(workspace):
    """Makes the configuration of a small run; training settings by `training` or only `epochs`."""

    def make(epochs=2, training=None, **changes):
        training = training or TrainSettings(
            epochs=epochs, batch_size=4, captions_per_image=1, lr=1e-3, schedule="step"
        )
        settings = {
            "dataset": "tiny",
            "vocab": str(workspace.vocab("tiny")),
            "weights": "",
            "backbone": "resnet18",
            "image_size": 32,
            "embed_dim": 16,
            "frozen": True,
            "training": training,
        }
        return RunConfig(**settings | changes)

    return make


@pytest.fixture
def run_training(workspace, tiny_config):
    """Trains a small run of a name; changes as in `tiny_config`."""

    def train(name, resume=False, watch=None, **changes):
        run = workspace.run("tiny", name)
        train_run(workspace, run, tiny_config(**changes), "cpu", resume=resume, watch=watch or Watch())
        return run

    return train
