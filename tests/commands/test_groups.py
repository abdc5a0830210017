"""Several runs by one command: what it prints, what `eval` reports, and resuming after a stop."""

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time

import pytest
from conftest import SMALL, invoke

RECALLS = [f"{way}_R@{k}" for way in ("i2t", "t2i") for k in (1, 5, 10)]


@pytest.fixture(scope="module")
def root(source, tmp_path_factory):
    """A prepared data set, and a cross-validated training on it."""
    root = tmp_path_factory.mktemp("root")
    steps = [
        ["prepare", "--dataset", "small", "--source", source],
        ["vocab", "--dataset", "small"],
        ["train", "--dataset", "small", "--folds", 2, "--epochs", 1, "--run", "cv", *SMALL],
    ]
    for step in steps:
        result = invoke(*step, root=root)
        assert result.returncode == 0, result.stderr
    (root / "printed.txt").write_text(result.stdout)
    return root


def table(root, *options):
    result = invoke("eval", *options, "--csv", root=root)
    assert result.returncode == 0, result.stderr
    return list(csv.DictReader(io.StringIO(result.stdout)))


def test_training_with_folds_prints_each_and_their_average(root):
    printed = (root / "printed.txt").read_text()
    rows = [line for line in printed.splitlines() if line.rstrip().endswith(tuple("0123456789"))]
    heads = [row.split()[0] for row in rows if "%" not in row]
    assert heads == ["fold", "fold", "mean", "±"]
    assert "small val · cv" in printed


def test_eval_of_folds_averages_the_test_recalls_of_their_runs(root):
    rows = table(root, "--folds")
    assert [row["fold"] for row in rows] == ["1", "2", "mean", "spread"]
    assert {row["split"] for row in rows} == {"test"}
    for number in (1, 2):
        (alone,) = table(root, "--run", f"cv-fold{number}")
        assert all(rows[number - 1][name] == alone[name] for name in RECALLS)
    for name in RECALLS:
        first, second, mean, spread = (float(row[name]) for row in rows)
        assert mean == pytest.approx((first + second) / 2)
        assert spread == pytest.approx(abs(first - second) / 2**0.5)


def test_eval_of_folds_as_json_and_against_a_threshold(root):
    result = invoke("eval", "--run", "cv", "--json", "--scene-recall", "--ceiling", root=root)
    report = json.loads(result.stdout)
    assert [run["fold"] for run in report["runs"]] == [1, 2]
    figures = [run["mR"] for run in report["runs"]]
    assert report["mean"]["mR"] == pytest.approx(sum(figures) / 2)
    assert {"ceiling", "scene_recall"} <= report["mean"].keys()
    assert invoke("eval", "--folds", "--min-mr", 100, root=root).returncode == 3
    assert invoke("eval", "--folds", "--min-mr", 0, root=root).returncode == 0


@pytest.mark.parametrize("content", ["{", "[]", '{"training": {}}', '{"training": {"epochs": "many"}}'])
def test_damaged_configuration_of_a_fold_is_an_error_that_names_it(root, content):
    config = root / "small/runs/cv-fold2/config.json"
    before = config.read_text()
    config.write_text(content)
    try:
        result = invoke("eval", "--folds", root=root)
    finally:
        config.write_text(before)
    assert result.returncode == 2
    assert "cv-fold2/config.json" in result.stderr.replace("\n", "")
    assert "Traceback" not in result.stderr


def test_stopped_training_of_folds_resumes_and_ends_with_the_same_figures(root):
    command = ["train", "--dataset", "small", "--folds", "2", "--epochs", "1", "--run", "cw", *SMALL]
    process = subprocess.Popen(
        [sys.executable, "-m", "swancli", *command],
        env={**os.environ, "SWAN_ROOT": str(root)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while process.poll() is None and not (root / "small/runs/cw-fold2/config.json").exists():
        time.sleep(0.05)  # until it is in its second fold
    process.send_signal(signal.SIGKILL)
    process.wait()
    unfinished = invoke("eval", "--run", "cw", root=root)
    if unfinished.returncode:
        assert "--resume --run cw" in unfinished.stderr
    result = invoke("train", "--resume", "--run", "cw", root=root)
    assert result.returncode == 0, result.stderr
    assert result.stdout.replace("cw", "cv") == (root / "printed.txt").read_text()


def test_list_of_variants_prints_a_row_for_each(root):
    variants = ["--compare", "full, vmsf+sfgs,published", "--run", "abl"]
    result = invoke("train", "--dataset", "small", *variants, "--epochs", 1, *SMALL, "--json", root=root)
    assert result.returncode == 0, result.stderr
    variants = json.loads(result.stdout)["variants"]
    assert [entry["variant"] for entry in variants] == ["full", "without vmsf+sfgs", "published"]
    rows = table(root, "--run", "abl")
    assert [row["run"] for row in rows] == ["abl-full", "abl-without-vmsf-sfgs", "abl-published"]
    shown = invoke("eval", "--run", "abl", root=root).stdout
    assert [name in shown for name in ("full", "without vmsf+sfgs", "published")] == [True] * 3
    # The newest group has no folds; `--folds` means the newest that has.
    assert len(table(root, "--folds")) == 4


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--compare", "full", "--without", "vmsf"], "--compare and --without"),
        (["--compare", "gru"], "gru"),
        (["--without", "gru"], "gru"),
        (["--without", "wsa,sfgs"], "wsa"),
        (["--folds", 2, "--export-published", "x.tar"], "--export-published"),
        (["--init-from", "nothing.pt"], "nothing.pt"),
        (["--init-from", "nothing"], "nothing"),
        (["--run", "cv"], "this run exists"),
        (["--run", "cv", "--folds", 2], "this run exists"),
        (["--folds", 2, "--resume"], "--resume keeps the run's own settings"),
        (["--export-published", "x.tar"], "--variant"),
    ],
)
def test_options_that_cannot_work_are_refused_before_training(root, options, named):
    before = sorted((root / "small" / "runs").iterdir())
    result = invoke("train", "--dataset", "small", *SMALL, *options, root=root)
    assert result.returncode == 2, result.stdout
    assert str(named) in result.stderr
    assert "Traceback" not in result.stderr
    assert sorted((root / "small" / "runs").iterdir()) == before


def test_eval_of_folds_where_there_are_none(root):
    result = invoke("eval", "--folds", "--run", "cv-fold1", root=root)
    assert result.returncode == 2
    assert "--folds" in result.stderr
