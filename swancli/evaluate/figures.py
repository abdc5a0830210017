"""The figures of `swan eval`: collects what `plots` draws from the report, its run and its data set.

swan eval --figures figures
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from os import PathLike
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from swancli.errors import SwanError, os_error
from swancli.evaluate import DIRECTIONS, RECALL_AT, plots
from swancli.evaluate.metrics import caption_ranks, retrieval_scores
from swancli.evaluate.plots import Mistake, Result
from swancli.evaluate.report import Report
from swancli.evaluate.scene_recall import scene_confusion
from swancli.evaluate.similarity import ceiling_grids, chance_grids, embedding_grids
from swancli.evaluate.tsne import map_places
from swancli.machine.progress import Progress, quiet
from swancli.store.atomic import atomic_path
from swancli.store.embeddings import Embeddings
from swancli.store.pictures import Pictures
from swancli.workspace import Run, Workspace

RECALL_TO = 50  # the largest K of the recall curves, if there are as many images
POINTS = 2000  # images and captions on the map, at most
MISTAKES, PREFERRED = 6, 5  # captions on the sheet, and images beside each


def draw_figures(
    report: Report, folder: str | PathLike[str], workspace: Workspace, progress: Progress = quiet
) -> tuple[list[Path], dict[str, str]]:
    """Writes the figures of an evaluation into a folder, as PNG files.

    training.png, recall.png, scene_confusion.png, map.png and mistakes.png. A figure that lacks its data (a
    metrics.csv, scenes or images) is left out, and an earlier file of its name is deleted, so that all
    figures in the folder come from one evaluation.

    Args:
        report: of the evaluation.
        folder: for the files.
        workspace: where the data set is; mistakes.png shows its images.
        progress: called after each figure.

    Returns:
        The files, and for each figure left out its file name -> the reason.
    """
    figures: dict[str, Callable[[], Figure]] = {
        "training.png": partial(_training, report),
        "recall.png": partial(_recall, report),
        "scene_confusion.png": partial(_scene_confusion, report),
        "map.png": partial(_map, report),
        "mistakes.png": partial(_mistakes, report, workspace),
    }
    written, left_out = [], {}
    for done, (name, draw) in enumerate(figures.items()):
        progress("figures", done, len(figures))
        path = Path(folder) / name
        try:
            with plots.style():
                figure = draw()
                with atomic_path(path) as temporary:
                    figure.savefig(temporary, format="png")
            written.append(path)
        except SwanError as error:
            left_out[name] = error.problem
            path.unlink(missing_ok=True)
    progress("figures", len(figures), len(figures))
    return written, left_out


def _training(report: Report) -> Figure:
    evaluated = Path(report.source.get("checkpoint") or report.source["embeddings"])
    run = Run(evaluated.resolve().parent)
    if not run.metrics.is_file():
        raise SwanError(f"no metrics.csv beside {evaluated}")
    recalls = [f"{way}_R@{k}" for way in DIRECTIONS for k in RECALL_AT]
    try:
        history = pd.read_csv(run.metrics)[["epoch", "loss", "mR", *recalls]].astype(float)
    except OSError as error:
        raise os_error(error, run.metrics) from error
    except (ValueError, KeyError) as error:
        raise SwanError(f"{run.metrics}: damaged ({error})") from error
    if history.empty:
        raise SwanError(f"{run.metrics}: contains no epoch")
    return plots.training_curves(history, f"{run.dataset} val · {run.name}")


def _recall(report: Report) -> Figure:
    items, part = report.embeddings, report.embeddings.catalogue
    images, captions = len(items.image), len(items.caption)
    ks = range(1, min(RECALL_TO, images) + 1)
    rows = (
        embedding_grids(items.image, items.caption),
        ceiling_grids(part.text, part.image, images),
        chance_grids(images, captions),
    )
    scores = (retrieval_scores(grids, part.image, ties=report.ties, ks=ks) for grids in rows)
    return plots.recall_curves(*scores, report.title)


def _scene_confusion(report: Report) -> Figure:
    items, part = report.embeddings, report.embeddings.catalogue
    confusion = scene_confusion(embedding_grids(items.image, items.caption), part.image, part.scene)
    return plots.scene_confusion_matrix(confusion, report.title)


def _map(report: Report) -> Figure:
    items, part = report.embeddings, report.embeddings.catalogue
    embedding = np.concatenate([items.image, items.caption])
    scene = np.concatenate([part.scene, np.append(part.scene, None)[part.image]])
    images, title = len(items.image), report.title
    if len(embedding) > POINTS:
        drawn = np.sort(np.random.default_rng(0).choice(len(embedding), POINTS, replace=False))
        images = int(np.searchsorted(drawn, images))
        title += f" · {POINTS} of {len(embedding)} items, drawn at random"
        embedding, scene = embedding[drawn], scene[drawn]
    place = map_places(embedding)
    return plots.embedding_map(place[:images], place[images:], scene[:images], scene[images:], title)


def _mistakes(report: Report, workspace: Workspace) -> Figure:
    worst = worst_captions(report.embeddings, MISTAKES)
    if not worst:
        raise SwanError("every caption finds its own image first")
    pictures = Pictures(workspace.dataset(report.source["dataset"]), report.embeddings.catalogue.filename)
    mistakes = [_mistake(report.embeddings, pictures, *found) for found in worst]
    return plots.mistakes_sheet(mistakes, report.images, report.title)


def worst_captions(embeddings: Embeddings, count: int) -> list[tuple[int, float]]:
    """The captions whose own image ranks worst in text-to-image retrieval: row and rank, worst first.

    No caption string and no image occurs twice; captions that find their own image first are left out.

    Args:
        embeddings: of images and captions.
        count: at most this many.
    """
    part = embeddings.catalogue
    ranks = caption_ranks(embedding_grids(embeddings.image, embeddings.caption), part.image)
    found: dict[int, float] = {}
    texts, images = set(), set()
    for row in np.argsort(-np.nan_to_num(ranks), kind="stable"):
        text, image = part.text[row], part.image[row]
        if len(found) == count or not ranks[row] > 1:
            break
        if text not in texts and image not in images:
            found[int(row)] = float(ranks[row])
            texts.add(text)
            images.add(image)
    return list(found.items())


def _mistake(embeddings: Embeddings, pictures: Pictures, caption: int, rank: float) -> Mistake:
    """A caption, its own image, and the images with the same or a higher score, equal ones in row order."""
    part = embeddings.catalogue
    own, text = int(part.image[caption]), str(part.text[caption])
    _, text_to_image = embedding_grids(embeddings.image, embeddings.caption[[caption]])
    ((_, (scores,)),) = text_to_image.blocks()
    order = np.argsort(-scores, kind="stable")
    preferred = [row for row in order if row != own and scores[row] >= scores[own]][:PREFERRED]
    alike = set(part.image[part.text == text])

    def result(row: int) -> Result:
        return Result(pictures.pixels(row), part.scene[row], same_caption=row in alike)

    return Mistake(text, part.filename[own], rank, result(own), [result(row) for row in preferred])
