"""From embeddings to the figures that `swan eval` shows: as a record for JSON, as a row for CSV.

swan eval --scene-recall
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from swancli.device import choose_device
from swancli.embed import Progress, embed_dataset, quiet
from swancli.errors import SwanError
from swancli.evaluate.metrics import (
    SceneRecall,
    Scores,
    ceiling_scores,
    retrieval_scores,
    scene_recall,
)
from swancli.model.checkpoint import Checkpoint, load_checkpoint
from swancli.store import Dataset, Embeddings, names_in, read_embeddings
from swancli.workspace import Workspace

DIRECTIONS = {"i2t": "image_to_text", "t2i": "text_to_image"}


@dataclass(frozen=True)
class Report:
    """The figures of one evaluation; recalls in percent.

    source: what was evaluated, plain values (data set, run, checkpoint). images, captions: how many.
    ceiling and scenes are None unless asked for. warning: what makes the figures doubtful, "" for nothing.
    """

    source: dict[str, str]
    split: str
    ties: str
    images: int
    captions: int
    scores: Scores
    ceiling: Scores | None = None
    scenes: SceneRecall | None = None
    warning: str = ""

    def record(self) -> dict[str, Any]:
        """Nested plain values, for JSON."""
        record: dict[str, Any] = {
            **self.source,
            "split": self.split,
            "ties": self.ties,
            "images": self.images,
            "captions": self.captions,
            **scores_record(self.scores),
        }
        if self.ceiling:
            record["ceiling"] = scores_record(self.ceiling)
        if self.scenes:
            record["scene_recall"] = {
                short: {
                    **{f"SR@{k}": share for k, share in getattr(self.scenes, name).share.items()},
                    "queries": getattr(self.scenes, name).queries,
                    "without_scene": getattr(self.scenes, name).skipped,
                }
                for short, name in DIRECTIONS.items()
            }
        return record

    def row(self) -> dict[str, Any]:
        """The same as one flat row, `i2t_R@1` and so on, for CSV."""
        return _flatten(self.record())


def scores_record(scores: Scores) -> dict[str, Any]:
    """Recalls (percent), ranks (from 1) and mR of both directions as plain values."""
    record: dict[str, Any] = {}
    for short, name in DIRECTIONS.items():
        direction = getattr(scores, name)
        record[short] = {
            **{f"R@{k}": value for k, value in direction.recall.items()},
            "median_rank": direction.median_rank,
            "mean_rank": direction.mean_rank,
        }
    return record | {"mR": scores.mean_recall}


def _flatten(record: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    row = {}
    for key, value in record.items():
        row |= _flatten(value, f"{prefix}{key}_") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return row


def evaluate(
    embeddings: Embeddings,
    source: dict[str, str],
    *,
    split: str | None,
    ties: str = "expected",
    ceiling: bool = False,
    scenes: bool = False,
) -> Report:
    """The figures of embeddings, on one split of them or on all (None).

    Raises:
        SwanError: the split has no images with captions, or no image has a scene when `scenes` asks for it.
    """
    rows = embeddings.catalogue.image_rows(split)
    part, captions = embeddings.catalogue.select(rows)
    if not len(captions):
        there = names_in(embeddings.catalogue.split)
        raise SwanError(
            f"no captions to evaluate in split {split!r} (there are: {there or 'no splits'})",
            "choose another with --split, or --split all",
        )
    image, caption = embeddings.image[rows], embeddings.caption[captions]
    return Report(
        source=source,
        split=split or "all",
        ties=ties,
        images=len(rows),
        captions=len(captions),
        scores=retrieval_scores(image, caption, part.image, ties=ties),
        ceiling=ceiling_scores(part.text, part.image, len(rows), ties=ties) if ceiling else None,
        scenes=scene_recall(image, caption, part.image, part.scene, ties=ties) if scenes else None,
    )


def evaluate_checkpoint(
    workspace: Workspace,
    path: Path,
    dataset: str | None = None,
    *,
    split: str | None = "test",
    device: str = "auto",
    batch_size: int = 32,
    progress: Progress = quiet,
    **options: Any,
) -> Report:
    """Encodes a split with a checkpoint and evaluates it.

    Args:
        dataset: name of the data set; None for the one that the checkpoint was trained on.
        options: `ties`, `ceiling` and `scenes` of `evaluate`.

    Raises:
        SwanError: no such checkpoint or data set, or the split has no captions.
    """
    checkpoint = load_checkpoint(path)
    name = dataset or checkpoint.origin["dataset"]
    with Dataset(workspace.dataset(name)) as stored:
        embeddings = embed_dataset(
            checkpoint,
            stored,
            split=split,
            device=choose_device(device),
            batch_size=batch_size,
            progress=progress,
        )
        warning = _changed_since_training(checkpoint, stored)
    source = {"dataset": name, "run": checkpoint.origin["run"], "checkpoint": str(path)}
    return replace(evaluate(embeddings, source, split=split, **options), warning=warning)


def _changed_since_training(checkpoint: Checkpoint, dataset: Dataset) -> str:
    """A warning when a data set was prepared anew after the training: its test images may have trained."""
    trained_on = checkpoint.origin.get("fingerprint")
    if not trained_on or dataset.name != checkpoint.origin["dataset"]:
        return ""
    if dataset.catalogue.fingerprint() == trained_on:
        return ""
    return f"{dataset.path} was prepared again after the training; its splits may overlap what was trained on"


def evaluate_file(path: Path, *, split: str | None = "test", **options: Any) -> Report:
    """Evaluates an `embeddings.h5` as it is; options as in `evaluate_checkpoint`."""
    embeddings = read_embeddings(path)
    source = {"dataset": embeddings.dataset, "embeddings": str(path)}
    return evaluate(embeddings, source, split=split, **options)
