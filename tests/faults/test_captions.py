"""Whole commands on captions and file names that say nothing to the model; see the README."""

import csv
import json

import numpy as np
import pytest
from conftest import invoke
from PIL import Image

TINY = [
    "--image-size",
    "32",
    "--embed-dim",
    "32",
    "--epochs",
    "1",
    "--backbone",
    "resnet18",
    "--weights",
    "none",
]


def prepare(folder, captions, name="d"):
    """Twelve images with captions, prepared: `captions` gives that of a number."""
    rng = np.random.default_rng(0)
    with (folder / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("filename", "caption", "split"))
        for number in range(12):
            pixels = rng.integers(0, 255, (32, 32, 3), np.uint8)
            Image.fromarray(pixels).save(folder / f"DJI_{number:04}.png")
            rows.writerow(
                (f"DJI_{number:04}.png", captions(number), ("train", "train", "val", "test")[number % 4])
            )
    made = invoke("prepare", "--dataset", "d", "--source", folder / f"{name}.csv", root=folder / "root")
    assert made.returncode == 0, made.stderr
    return made


def english(number):
    return f"{['boats in a harbor', 'a wide river', 'two tennis courts'][number % 3]} beside a road"


@pytest.mark.parametrize(
    ("captions", "said"),
    [
        (
            lambda number: f"\u8bb8\u591a\u8239\u505c\u5728\u6e2f\u53e3\u91cc\u7b2c{number}\u5904",
            "--text gru",
        ),
        (lambda number: "\U0001f6a2" * (number + 1), "--text gru"),
        (lambda number: f"{number} {number * 7}", "in another column"),
    ],
    ids=["Chinese", "emoji", "numbers"],
)
def test_captions_without_a_known_word_are_refused(tmp_path, captions, said):
    prepare(tmp_path, captions)
    done = invoke("train", "--dataset", "d", *TINY, root=tmp_path / "root")
    assert done.returncode == 2
    assert "no word in the captions of split train is known" in done.stderr
    assert said in done.stderr
    assert not (tmp_path / "root" / "d" / "runs").exists()


def test_vocabulary_of_captions_that_were_prepared_before_is_refused(tmp_path):
    prepare(tmp_path, lambda number: f"alpha{number % 5} gamma")
    root = tmp_path / "root"
    assert invoke("vocab", "--dataset", "d", root=root).returncode == 0
    prepare(tmp_path, lambda number: f"beta{number % 5} delta", "later")
    done = invoke("train", "--dataset", "d", "--text", "gru", *TINY, root=root)
    assert done.returncode == 2
    assert "count them again: swan vocab --dataset d" in done.stderr


def test_sentences_taken_for_words_are_noticed(tmp_path):
    prepare(tmp_path, lambda number: f"\u6e2f\u53e3\u91cc\u505c\u7740\u8bb8\u591a\u8239\u7b2c{number}\u5904")
    root = tmp_path / "root"
    done = invoke("vocab", "--dataset", "d", "--json", root=root)
    shares = json.loads(done.stdout)["known_words"]
    assert {split: share["percent"] for split, share in shares.items()} == {"train": 100, "val": 0, "test": 0}
    assert "separate its words by spaces" in done.stderr
    done = invoke("vocab", "--dataset", "d", "--splits", "all", root=root)
    assert "100.0 % of the words occur only once" in done.stderr


def test_share_of_known_words_is_reported_by_train_and_eval(tmp_path):
    """Half of the words of the test captions are new; camera names give no scenes."""
    made = prepare(tmp_path, lambda number: english(number) if number % 4 < 3 else "a unbekannte road fremde")
    assert "scenes: none" in made.stdout
    root = tmp_path / "root"
    assert invoke("vocab", "--dataset", "d", root=root).returncode == 0
    done = invoke("train", "--dataset", "d", "--text", "gru", *TINY, root=root)
    assert done.returncode == 0, done.stderr
    assert "known words of the captions: 100.0 % of " in done.stdout
    evaluated = invoke("eval", "--dataset", "d", "--json", root=root)
    assert json.loads(evaluated.stdout)["known_words"] == {"words": 12, "known": 6, "percent": 50.0}
    assert (
        "few words of the captions are known: 50.0 % of 12 (unknown: unbekannte, fremde)" in evaluated.stderr
    )
