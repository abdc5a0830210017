"""The figures of an evaluation: takes what `plots` draws from the report, its run and its data set.

swan eval --figures figures
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from swancli.errors import SwanError
from swancli.evaluate.metrics import (
    caption_ranks,
    ceiling_scores,
    chance_scores,
    retrieval_scores,
    scene_confusion,
)
from swancli.evaluate.report import Report
from swancli.evaluate.similarity import similarity_blocks
from swancli.machine.progress import Progress, quiet
from swancli.store.atomic import atomic_path
from swancli.store.embeddings import Embeddings
from swancli.store.pictures import Pictures
from swancli.workspace import Run, Workspace

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from swancli.evaluate.plots import Mistake

RECALL_TO = 50  # the largest K of the recall curves, where there are as many images
POINTS = 2000  # images and captions on the map, at most
MISTAKES, PREFERRED = 6, 5  # captions on the sheet, and images beside each


@dataclass(frozen=True)
class Drawn:
    """written: the files. left_out: file name -> why that figure cannot be drawn."""

    written: list[Path]
    left_out: dict[str, str]


def require_plots(option: str) -> None:
    """Checks for what the figures of an option need, before anything long begins.

    Raises:
        SwanError: the extra `plots` is not installed.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise SwanError(
            f"{option} needs matplotlib", "install the extra: pip install 'swancli[plots]'"
        ) from error


def draw_figures(
    report: Report, folder: str | PathLike[str], workspace: Workspace, progress: Progress = quiet
) -> Drawn:
    """Writes the figures of an evaluation into a folder, as PNG files.

    training.png, recall.png, scene_confusion.png, map.png and mistakes.png. One that cannot be drawn, for
    want of a metrics.csv, of scenes or of the images, is left out, and an earlier one is removed, so that all
    figures in the folder are of one evaluation.

    Args:
        workspace: where the data set of that name is looked for; mistakes.png shows its images.
    """
    from swancli.evaluate import plots

    figures: dict[str, Callable[[], Figure]] = {
        "training.png": partial(_training, report),
        "recall.png": partial(_recall, report),
        "scene_confusion.png": partial(_scene_confusion, report),
        "map.png": partial(_map, report),
        "mistakes.png": partial(_mistakes, report, workspace),
    }
    drawn = Drawn([], {})
    for done, (name, draw) in enumerate(figures.items()):
        progress("figures", done, len(figures))
        path = Path(folder) / name
        try:
            with plots.style():
                figure = draw()
                with atomic_path(path) as temporary:
                    figure.savefig(temporary, format="png")
            drawn.written.append(path)
        except SwanError as error:
            drawn.left_out[name] = error.problem
            path.unlink(missing_ok=True)
    progress("figures", len(figures), len(figures))
    return drawn


def _training(report: Report) -> Figure:
    import pandas as pd

    from swancli.evaluate import plots

    evaluated = Path(report.source.get("checkpoint") or report.source["embeddings"])
    run = Run(evaluated.resolve().parent)
    if not run.metrics.is_file():
        raise SwanError(f"no metrics.csv beside {evaluated}")
    recalls = [f"{way}_R@{k}" for way in ("i2t", "t2i") for k in plots.RECALL_AT]
    try:
        history = pd.read_csv(run.metrics)[["epoch", "loss", "mR", *recalls]].astype(float)
    except (OSError, ValueError, KeyError) as error:
        raise SwanError(f"{run.metrics}: damaged ({error})") from error
    if history.empty:
        raise SwanError(f"{run.metrics}: holds no epoch")
    return plots.training_curves(history, f"{run.dataset} val · {run.name}")


def _recall(report: Report) -> Figure:
    from swancli.evaluate import plots

    items, part = report.embeddings, report.embeddings.catalogue
    options = {"ties": report.ties, "ks": range(1, min(RECALL_TO, report.images) + 1)}
    return plots.recall_curves(
        retrieval_scores(items.image, items.caption, part.image, **options),
        ceiling_scores(part.text, part.image, len(items.image), **options),
        chance_scores(part.image, len(items.image), **options),
        report.title,
    )


def _scene_confusion(report: Report) -> Figure:
    from swancli.evaluate import plots

    items, part = report.embeddings, report.embeddings.catalogue
    confusion = scene_confusion(items.image, items.caption, part.image, part.scene)
    return plots.scene_confusion_matrix(confusion, report.title)


def _map(report: Report) -> Figure:
    from swancli.evaluate import plots
    from swancli.evaluate.tsne import map_places

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
    from swancli.evaluate import plots

    worst = worst_captions(report.embeddings, MISTAKES)
    if not worst:
        raise SwanError("every caption finds its own image first")
    pictures = Pictures(workspace.dataset(report.source["dataset"]), report.embeddings.catalogue.filename)
    mistakes = [_mistake(report.embeddings, pictures, *found) for found in worst]
    return plots.mistakes_sheet(mistakes, report.images, report.title)


def worst_captions(embeddings: Embeddings, count: int) -> list[tuple[int, float]]:
    """The captions whose own image ranks worst in text-to-image retrieval: row and rank, the worst first.

    Each caption string and each image comes once; a caption whose image comes first is none of them.
    """
    part = embeddings.catalogue
    ranks = caption_ranks(embeddings.image, embeddings.caption, part.image)
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
    """A caption with its image and the images that score as high or higher, equal ones in row order."""
    from swancli.evaluate.plots import Mistake, Result

    part = embeddings.catalogue
    own, text = int(part.image[caption]), str(part.text[caption])
    ((_, (scores,)),) = similarity_blocks(embeddings.caption[[caption]], embeddings.image)
    order = np.argsort(-scores, kind="stable")
    preferred = [row for row in order if row != own and scores[row] >= scores[own]][:PREFERRED]
    alike = set(part.image[part.text == text])

    def result(row: int) -> Result:
        return Result(pictures.pixels(row), part.scene[row], same_caption=row in alike)

    return Mistake(text, part.filename[own], rank, result(own), [result(row) for row in preferred])
