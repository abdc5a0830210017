"""`prepare --features` and `train --features`, from outside."""

import csv
import json
import re
import shutil

import h5py
import pytest
import torch
from conftest import RANDOM, invoke

from swancli.errors import SwanError
from swancli.model.checkpoint import load_checkpoint
from swancli.train import features
from swancli.train.features import FeatureSettings
from swancli.workspace import shipped_checkpoint

VIEWS = [*RANDOM, "--image-size", "32", "--augmentation", "overhead", "--views", "2"]
NARROW = ["--embed-dim", "32", "--schedule", "step"]  # little to write, and resumable


@pytest.fixture(scope="module")
def root(finished, tmp_path_factory):
    """A root whose data set has features of the first run's backbone."""
    root = tmp_path_factory.mktemp("features") / "root"
    shutil.copytree(finished.root, root)
    options = ["--dataset", "small", "--features", "--weights", finished.run / "best.pt", *VIEWS]
    printed = invoke("prepare", *options, root=root)
    assert printed.returncode == 0, printed.stderr
    assert re.search(r"size +\d+\.\d [kM]B\n", printed.stdout)
    return root


def figures(root, run):
    with (root / "small" / "runs" / run / "metrics.csv").open() as file:
        return [
            {name: value for name, value in row.items() if name not in ("seconds", "pairs_per_second")}
            for row in csv.DictReader(file)
        ]


def test_run_on_features_takes_over_what_they_were_made_with_and_resumes(root, finished):
    options = ["--dataset", "small", "--features", *NARROW]
    straight = invoke("train", *options, "--epochs", "2", "--run", "straight", root=root)
    assert straight.returncode == 0, straight.stderr
    assert invoke("train", *options, "--epochs", "1", "--run", "halted", root=root).returncode == 0
    resumed = invoke("train", "--resume", "--run", "halted", "--epochs", "2", root=root)
    assert resumed.returncode == 0, resumed.stderr
    assert figures(root, "halted") == figures(root, "straight")

    config = json.loads((root / "small/runs/straight/config.json").read_text())
    assert (config["image_size"], config["training"]["augmentation"]) == (32, "overhead")
    assert config["frozen"]
    trained, started = (
        torch.load(folder / "best.pt", weights_only=True)["model"]
        for folder in (root / "small/runs/straight", finished.run)
    )
    for name in (name for name in started if name.startswith("backbone")):
        assert torch.equal(trained[name], started[name]), name


def test_checkpoint_of_a_run_on_features_needs_no_features(root):
    options = ["--dataset", "small", "--features", *NARROW, "--epochs", "1", "--run", "alone"]
    assert invoke("train", *options, root=root).returncode == 0
    moved = shutil.move(root / "small/features.h5", root / "small/elsewhere.h5")
    try:
        printed = invoke("eval", "--run", "alone", "--json", root=root)
    finally:
        shutil.move(moved, root / "small/features.h5")
    assert printed.returncode == 0, printed.stderr
    assert json.loads(printed.stdout)["images"] > 0


@pytest.mark.parametrize(
    ("options", "made_of"),
    [
        ([], FeatureSettings("timm/tf_efficientnet_lite0", "imagenet", 224, "overhead", "minilm")),
        (["--backbone", "resnet18"], FeatureSettings("resnet18", "", 256, "overhead", "minilm")),
        (
            ["--weights", "none", "--text", "gru"],
            FeatureSettings("timm/tf_efficientnet_lite0", "", 224, "overhead", "gru"),
        ),
    ],
)
def test_features_are_made_with_the_towers_that_plain_training_has(finished, monkeypatch, options, made_of):
    asked = []

    def towers(settings):
        asked.append(settings)
        raise SwanError("enough")

    monkeypatch.setattr(features, "Towers", towers)
    invoke("prepare", "--dataset", "small", "--features", *options, root=finished.root)
    assert asked == [made_of]


def test_run_without_features_is_refused_with_how_to_make_them(finished):
    printed = invoke("train", "--dataset", "small", "--features", "--run", "x", root=finished.root)
    assert printed.returncode == 2
    assert "swan prepare --features" in printed.stderr
    assert not (finished.root / "small/runs/x").exists()


def test_features_past_the_cap_are_refused_and_nothing_is_written(finished):
    options = ["--dataset", "small", "--features", *VIEWS, "--max-gb", "0.0001"]
    printed = invoke("prepare", *options, root=finished.root)
    assert printed.returncode == 2
    assert "--max-gb 0.0001" in printed.stderr
    assert not list((finished.root / "small").glob("*features*"))


def test_contradicting_options_are_refused(root):
    for options in (["--fine-tune"], ["--image-size", "64"], ["--variant", "published"], ["--folds", "2"]):
        printed = invoke("train", "--dataset", "small", "--features", "--run", "x", *options, root=root)
        assert printed.returncode == 2, options
        assert not (root / "small/runs/x").exists(), options
        assert "--features" in printed.stderr or "--image-size 32" in printed.stderr
    for options in (["--compile"], ["--compare", "full,published"]):
        printed = invoke("train", "--dataset", "small", "--features", "--run", "x", *options, root=root)
        assert printed.returncode == 2, options
        assert not list((root / "small/runs").glob("x*")), options


def test_features_made_again_do_not_pass_for_those_that_a_run_began_with(root, finished):
    options = ["--dataset", "small", "--features", *NARROW, "--epochs", "1", "--run", "begun"]
    begun = invoke("train", *options, root=root)
    assert begun.returncode == 0, begun.stderr
    kept = shutil.copy(root / "small/features.h5", root / "small/kept.h5")
    made = ["--dataset", "small", "--features", "--weights", finished.run / "best.pt", *VIEWS, "--seed", "1"]
    assert invoke("prepare", *made, root=root).returncode == 0
    printed = invoke("train", "--resume", "--run", "begun", "--epochs", "2", root=root)
    shutil.move(kept, root / "small/features.h5")
    assert printed.returncode == 2
    assert "made again since the run began" in printed.stderr


def test_run_on_features_resumes_after_the_root_has_moved(root, tmp_path):
    options = ["--dataset", "small", "--features", *NARROW, "--epochs", "1", "--run", "moving"]
    assert invoke("train", *options, root=root).returncode == 0
    moved = tmp_path / "elsewhere"
    shutil.copytree(root, moved)
    resumed = invoke("train", "--resume", "--run", "moving", "--epochs", "2", root=moved)
    assert resumed.returncode == 0, resumed.stderr
    assert len(figures(moved, "moving")) == 2


def test_run_may_start_from_another_and_train_on_features_of_its_backbone(root, finished):
    options = ["--dataset", "small", "--features", "--init-from", finished.run / "best.pt", "--epochs", "1"]
    printed = invoke("train", *options, "--run", "further", root=root)
    assert printed.returncode == 0, printed.stderr
    config = json.loads((root / "small/runs/further/config.json").read_text())
    assert (config["weights"], config["embed_dim"], config["frozen"]) == ("", 32, True)


def test_features_of_the_shipped_backbone(finished, tmp_path):
    (tmp_path / "small").mkdir()
    shutil.copy(finished.root / "small/dataset.h5", tmp_path / "small")
    shipped = load_checkpoint("shipped").model
    options = [*VIEWS, "--backbone", shipped.settings.backbone, "--weights", "shipped"]
    printed = invoke("prepare", "--dataset", "small", "--features", *options, root=tmp_path)
    assert printed.returncode == 0, printed.stderr
    with h5py.File(tmp_path / "small/features.h5") as file:
        assert file.attrs["weights"] == str(shipped_checkpoint().resolve())
        assert file.attrs["backbone_digest"] == shipped.backbone.digest()


def test_options_of_features_without_features_are_refused_and_those_of_the_source_with_none(finished):
    for options in (
        ["--image-size", "64"],
        ["--features", "--size", "32"],
        ["--features", "--split", "random"],
    ):
        printed = invoke("prepare", "--dataset", "small", *options, root=finished.root)
        assert printed.returncode == 2, options
        assert "nothing to act on" in printed.stderr, options
    printed = invoke(
        "prepare", "--dataset", "small", "--features", "--weights", "gone.pt", root=finished.root
    )
    assert printed.returncode == 2
    assert "gone.pt: no such file\n  check the path" in printed.stderr
