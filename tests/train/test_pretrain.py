"""A backbone trained on scenes: it learns them, repeats itself, and leaves test images alone."""

import h5py
import numpy as np
import pytest
import torch

from swancli.errors import SwanError
from swancli.model.backbone import Backbone
from swancli.store.dataset import Dataset
from swancli.train.pretrain import SceneSettings, train_on_scenes

SETTINGS = SceneSettings(image_size=32, epochs=6, batch_size=2, lr=0.02)
CPU = torch.device("cpu")


@pytest.fixture
def trained(workspace):
    """Trains on the tiny data set's scenes; returns the file's content and what was reported."""

    def train(name="backbone.pt", **changes):
        path, epochs, steps = workspace.root / name, [], []
        settings = SceneSettings(**{**vars(SETTINGS), **changes})
        with Dataset(workspace.dataset("tiny")) as dataset:
            outcome = train_on_scenes(
                dataset, settings, path, CPU, lambda *step: steps.append(step), lambda *e: epochs.append(e)
            )
        return path, outcome, epochs, steps

    return train


def test_backbone_learns_to_tell_four_colours(trained):
    path, outcome, epochs, steps = trained(epochs=30, batch_size=4, lr=0.05)
    assert (outcome.scenes, outcome.training, outcome.validation) == (4, 4, 4)
    assert outcome.accuracy >= 75  # chance: 25
    assert [epoch for epoch, _, _ in epochs] == list(range(1, 31))
    assert steps[-1] == ("steps", 30, 30)
    backbone = Backbone("resnet18", frozen=True)
    before = backbone.digest()
    backbone.load_weights(path)
    assert backbone.digest() != before


def test_same_seed_gives_the_same_backbone_and_another_seed_another(trained):
    first, again, other = (
        torch.load(trained(name, seed=seed, epochs=1)[0], weights_only=True)["state_dict"]["conv1.weight"]
        for name, seed in (("a.pt", 0), ("b.pt", 0), ("c.pt", 1))
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_backbone_starts_from_given_weights(trained):
    path, *_ = trained("first.pt", epochs=1)
    start = torch.load(path, weights_only=True)["state_dict"]["conv1.weight"]
    further = torch.load(trained("second.pt", epochs=1, lr=0.0, weights=str(path))[0], weights_only=True)
    assert torch.equal(further["state_dict"]["conv1.weight"], start)


def test_test_images_have_no_part_in_it(trained, workspace):
    first = torch.load(trained("a.pt", epochs=1)[0], weights_only=True)["state_dict"]
    with h5py.File(workspace.dataset("tiny"), "r+") as file:
        pixels = file["images/pixels"]
        pixels[8:] = np.random.default_rng(1).integers(0, 255, pixels[8:].shape, dtype=np.uint8)
    second = torch.load(trained("b.pt", epochs=1)[0], weights_only=True)["state_dict"]
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_training_images_of_one_scene_are_refused(trained, workspace):
    with h5py.File(workspace.dataset("tiny"), "r+") as file:
        file["images/scene"][:] = 0
    with pytest.raises(SwanError, match="training images have 1 scenes"):
        trained()
    assert not (workspace.root / "backbone.pt").exists()


def test_images_without_captions_or_validation_serve_too(trained, workspace):
    with h5py.File(workspace.dataset("tiny"), "r+") as file:
        names = [name.decode() for name in file["images/split_names"]]
        split = file["images/split"][:]
        split[split == names.index("val")] = names.index("train")
        file["images/split"][:] = split
    _, outcome, *_ = trained(epochs=1)
    assert (outcome.training, outcome.validation, outcome.accuracy) == (8, 0, None)


def test_loss_that_is_nan_stops_with_its_step_and_writes_nothing(trained, workspace):
    with pytest.raises(SwanError, match=r"epoch 1: the .* at step \d .*; its images: \w+_\d\.png") as told:
        trained(lr=1e30, epochs=2)
    assert told.value.hint.startswith("nothing was written")
    assert not (workspace.root / "backbone.pt").exists()
