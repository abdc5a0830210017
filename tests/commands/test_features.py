"""`prepare --features` and `train --features`, from outside."""

import csv
import json
import shutil

import pytest
import torch
from conftest import invoke

VIEWS = ["--image-size", "32", "--augmentation", "overhead", "--views", "2"]


@pytest.fixture(scope="module")
def root(finished, tmp_path_factory):
    """A root whose data set has features of the first run's backbone."""
    root = tmp_path_factory.mktemp("features") / "root"
    shutil.copytree(finished.root, root)
    options = ["--dataset", "small", "--features", "--weights", finished.run / "best.pt", *VIEWS]
    printed = invoke("prepare", *options, root=root)
    assert printed.returncode == 0, printed.stderr
    assert "0.00 GB" in printed.stdout
    return root


def figures(root, run):
    with (root / "small" / "runs" / run / "metrics.csv").open() as file:
        return [
            {name: value for name, value in row.items() if name not in ("seconds", "pairs_per_second")}
            for row in csv.DictReader(file)
        ]


def test_run_on_features_takes_over_what_they_were_made_with_and_resumes(root, finished):
    options = ["--dataset", "small", "--features", "--embed-dim", "32"]
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
    invoke("train", "--dataset", "small", "--features", "--epochs", "1", "--run", "alone", root=root)
    moved = shutil.move(root / "small/features.h5", root / "small/elsewhere.h5")
    try:
        printed = invoke("eval", "--run", "alone", "--json", root=root)
    finally:
        shutil.move(moved, root / "small/features.h5")
    assert printed.returncode == 0, printed.stderr
    assert json.loads(printed.stdout)["images"] > 0


def test_run_without_features_is_told_how_to_make_them(finished):
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
