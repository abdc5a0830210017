"""`swan eval --figures`: five pictures of one evaluation, and what becomes of those that cannot be drawn."""

import json
import shutil
import sys

import numpy as np
import pytest
from conftest import execute, invoke
from PIL import Image

FIGURES = {"training.png", "recall.png", "scene_confusion.png", "map.png", "mistakes.png"}


def drawn(folder):
    """The names in a folder, all of them pictures with something on them."""
    for path in folder.iterdir():
        with Image.open(path) as image:
            assert image.format == "PNG"
            pixels = np.asarray(image.convert("L"))
        assert min(pixels.shape) > 400, path
        assert 0.001 < np.mean(pixels < 200) < 0.9, path  # ink, and paper
    return {path.name for path in folder.iterdir()}


@pytest.fixture
def plots():
    pytest.importorskip("matplotlib", reason="the extra `plots` is not installed")


@pytest.fixture
def noted(monkeypatch):
    """Makes standard error a terminal to the command, so that notes appear."""
    monkeypatch.setenv("FORCE_COLOR", "1")


def test_figures_are_drawn_beside_the_same_results(finished, tmp_path, plots):
    printed = execute("eval", "--json", "--figures", tmp_path / "a" / "figures", root=finished.root)
    assert (printed.returncode, printed.stderr) == (0, "")
    assert json.loads(printed.stdout) == json.loads(invoke("eval", "--json", root=finished.root).stdout)
    assert drawn(tmp_path / "a" / "figures") == FIGURES


def test_figures_of_an_embeddings_file_beside_its_run(finished, tmp_path, plots, noted):
    options = ["--embeddings", finished.run / "embeddings.h5", "--figures", tmp_path]
    printed = invoke("eval", *options, root=finished.root)
    assert printed.returncode == 0, printed.stderr
    assert drawn(tmp_path) == FIGURES
    assert printed.stderr.count("wrote") == 5
    assert "wrote" not in printed.stdout


def test_figures_that_cannot_be_drawn_are_left_out_and_old_ones_removed(finished, tmp_path, plots, noted):
    moved = shutil.copy(finished.run / "embeddings.h5", tmp_path / "moved.h5")
    folder = tmp_path / "figures"
    folder.mkdir()
    (folder / "mistakes.png").write_bytes(b"of another evaluation")
    printed = invoke("eval", "--embeddings", moved, "--figures", folder, root=tmp_path)
    assert printed.returncode == 0, printed.stderr
    assert drawn(folder) == FIGURES - {"training.png", "mistakes.png"}
    notes = " ".join(printed.stderr.split())
    assert "left out training.png: no metrics.csv beside" in notes
    assert "left out mistakes.png:" in notes
    assert "dataset.h5" in notes


def test_figures_without_the_extra_are_refused_before_anything_else(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    printed = invoke(
        "eval", "--checkpoint", tmp_path / "none.pt", "--figures", tmp_path / "figures", root=tmp_path
    )
    assert printed.returncode == 2
    assert "pip install 'swancli[plots]'" in printed.stderr
    assert "matplotlib" in printed.stderr
    assert not (tmp_path / "figures").exists()


def test_figures_of_a_group_are_refused(tmp_path, plots):
    group = tmp_path / "small" / "runs" / "cv"
    group.mkdir(parents=True)
    member = {"run": "cv-1", "label": "", "fold": 1, "config": {}}
    (group / "group.json").write_text(json.dumps({"members": [member]}))
    printed = invoke("eval", "--run", "cv", "--figures", tmp_path / "figures", root=tmp_path)
    assert printed.returncode == 2
    assert "--run: cv-1" in printed.stderr
    printed = invoke("eval", "--folds", "--figures", tmp_path / "figures", root=tmp_path)
    assert printed.returncode == 2
    assert "--figures and --folds cannot be combined" in printed.stderr


def test_figures_into_a_file_are_refused(tmp_path):
    (tmp_path / "file").write_text("")
    assert invoke("eval", "--figures", tmp_path / "file", root=tmp_path).returncode == 2
