"""What the figures show: which captions, and text as it is written."""

import numpy as np
import pandas as pd
import pytest

from swancli.evaluate.report import evaluate
from swancli.store.catalogue import Catalogue
from swancli.store.embeddings import Embeddings
from swancli.store.made_by import MadeBy
from swancli.workspace import Workspace

figures = pytest.importorskip("swancli.evaluate.figures", reason="the extra `plots` is not installed")
plots, draw_figures, worst_captions = figures.plots, figures.draw_figures, figures.worst_captions

HOSTILE = "$\\frac$ 100_% {"  # mathtext that does not parse


def embeddings(image, caption, catalogue):
    vectors = (np.asarray(rows, dtype=np.float32) for rows in (image, caption))
    return Embeddings(*vectors, catalogue, "small", MadeBy("best.pt", "", 4, "repaired"))


def test_worst_captions_come_once_a_string_and_once_an_image():
    image = np.eye(4)
    ranks = {"a": (4, 3, 2, 1), "b": (1, 2, 3, 4), "c": (4, 3, 1, 2)}  # the scores of images 0 to 3
    rows = [("a", 3), ("a", 2), ("b", 0), ("b", 1), ("c", 3), ("c", 0), ("c", 2)]
    catalogue = Catalogue.of(
        [f"{row}.png" for row in range(4)],
        [None] * 4,
        ["test"] * 4,
        [text for text, _ in rows],
        [row for _, row in rows],
    )
    # ranks of the rows: 4, 3, 4, 3, 3, 1, 4
    found = worst_captions(embeddings(image, [ranks[text] for text, _ in rows], catalogue), 9)
    assert found == [(0, 4), (2, 4), (6, 4)]
    assert worst_captions(embeddings(image, [ranks[text] for text, _ in rows], catalogue), 1) == [(0, 4)]


def test_caption_that_finds_its_image_first_is_no_mistake():
    catalogue = Catalogue.of(["a.png", "b.png"], [None] * 2, ["test"] * 2, ["a", "b"], [0, 1])
    assert worst_captions(embeddings(np.eye(2), np.eye(2), catalogue), 6) == []


def test_figures_without_scenes_and_images_are_left_out(tmp_path):
    random = np.random.default_rng(0)
    names = [f"{HOSTILE}{row}.png" for row in range(6)]
    texts = [f"{HOSTILE} {row}" for row in range(12)]
    catalogue = Catalogue.of(names, [None] * 6, ["test"] * 6, texts, np.arange(12) // 2)
    vectors = random.standard_normal((6, 4)), random.standard_normal((12, 4))
    source = {"dataset": "small", "checkpoint": str(tmp_path / HOSTILE / "best.pt")}
    report = evaluate(embeddings(*vectors, catalogue), source, split="test")
    shown = []
    written, left_out = draw_figures(
        report, tmp_path / "figures", Workspace(tmp_path), lambda *step: shown.append(step)
    )
    assert [path.name for path in written] == ["recall.png", "map.png"]
    assert set(left_out) == {"training.png", "scene_confusion.png", "mistakes.png"}
    assert left_out["scene_confusion.png"] == "no caption's image has a scene"
    assert shown[-1] == ("figures", 5, 5)


def test_damaged_metrics_leave_the_training_curves_out(tmp_path):
    catalogue = Catalogue.of(["a.png", "b.png"], [None] * 2, ["test"] * 2, ["a", "b"], [0, 1])
    (tmp_path / "metrics.csv").write_text("epoch,loss\n1,2\n")
    source = {"dataset": "small", "checkpoint": str(tmp_path / "best.pt")}
    report = evaluate(embeddings(np.eye(2), np.eye(2), catalogue), source, split="test")
    _, left_out = draw_figures(report, tmp_path / "figures", Workspace(tmp_path))
    assert "metrics.csv: damaged" in left_out["training.png"]
    assert "finds its own image first" in left_out["mistakes.png"]


def written(figure):
    """Every text of a figure, as it is drawn."""
    figure.canvas.draw()
    return [text.get_text() for text in figure.findobj(match=lambda artist: hasattr(artist, "get_text"))]


def test_scenes_captions_and_file_names_are_drawn_as_they_are_written():
    pixels = np.zeros((8, 8, 3), dtype=np.uint8)
    own = plots.Result(pixels, HOSTILE, same_caption=True)
    other = plots.Result(pixels, None, same_caption=False)
    scenes = np.array([HOSTILE, None], dtype=object)
    names = [HOSTILE, "pond"]
    confusion = pd.DataFrame([[0.5, 0, 0.5], [np.nan] * 3], index=names, columns=[*names, "no scene"])
    with plots.style():
        for figure in (
            plots.mistakes_sheet([plots.Mistake(HOSTILE, HOSTILE, 2, own, [own, other])], 2, HOSTILE),
            plots.embedding_map(np.eye(2), np.eye(2), scenes, scenes, HOSTILE),
            plots.scene_confusion_matrix(confusion, HOSTILE),
        ):
            texts = written(figure)
            assert HOSTILE in texts
            assert any(text.endswith(f"\n{HOSTILE}") for text in texts)


def test_long_captions_and_titles_are_cut():
    own = plots.Result(np.zeros((8, 8, 3), dtype=np.uint8), None, same_caption=True)
    with plots.style():
        figure = plots.mistakes_sheet([plots.Mistake("word " * 500, "f" * 500, 2, own, [own])], 2, "t" * 500)
        assert max(map(len, written(figure))) < 250


def test_training_curves_mark_the_best_epoch():
    recalls = {f"{way}_R@{k}": [5.0, 9.0, 7.0] for way in ("i2t", "t2i") for k in (1, 5, 10)}
    history = pd.DataFrame({"epoch": [1.0, 2, 3], "loss": [3.0, 2, 1], "mR": [5.0, 9.25, 7.0], **recalls})
    with plots.style():
        assert "validation mR, best 9.2 % in epoch 2" in written(plots.training_curves(history, ""))
