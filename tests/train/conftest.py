"""Fixtures of what is trained on: the tiny data set, and configurations of small runs."""

import pytest
from made_workspace import make_workspace

from swancli.train.config import RunConfig, TrainSettings
from swancli.train.loop import Watch
from swancli.train.run import train_run


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
