"""From embeddings to the figures that `swan eval` shows: as a record for JSON, as a row for CSV.

swan eval --scene-recall
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from swancli.embed.embed import embed_dataset, open_dataset
from swancli.errors import SwanError
from swancli.evaluate.metrics import (
    SceneRecall,
    Scores,
    ceiling_scores,
    retrieval_scores,
    scene_recall,
    scores_from_similarity,
)
from swancli.evaluate.reranking import reranked_similarity
from swancli.machine.progress import Progress, quiet
from swancli.model.checkpoint import TRAIN_AGAIN, Checkpoint, file_sha256
from swancli.model.encoder import Encoder
from swancli.prepare.misplaced import described_images, misplaced_captions
from swancli.prepare.splits import overlap
from swancli.store.catalogue import Catalogue, names_in
from swancli.store.dataset import Dataset
from swancli.store.embeddings import Embeddings, changed_since, read_embeddings
from swancli.store.text import read_json, read_text
from swancli.workspace import Group, Run, Workspace, relocated_checkpoint

DIRECTIONS = {"i2t": "image_to_text", "t2i": "text_to_image"}


@dataclass(frozen=True)
class Report:
    """The figures of one evaluation; recalls in percent.

    source: what was evaluated, plain values (data set, run, checkpoint). images, captions: how many.
    embeddings: of the split alone, what the figures were counted from.
    ceiling, scenes, reranked and new are None unless asked for. reranked: recalls after re-ranking. new:
    recalls with only those captions whose text no training caption has; images without such a caption are no
    queries, but still found; new_ceiling is theirs. new_captions: how many they are.
    warnings: what makes the figures doubtful.
    """

    source: dict[str, str]
    split: str
    ties: str
    images: int
    captions: int
    scores: Scores
    embeddings: Embeddings = field(repr=False, compare=False)
    ceiling: Scores | None = None
    scenes: SceneRecall | None = None
    reranked: Scores | None = None
    new: Scores | None = None
    new_ceiling: Scores | None = None
    new_captions: int = 0
    warnings: tuple[str, ...] = ()

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
        if self.reranked:
            record["reranked"] = scores_record(self.reranked)
        if self.new:
            record["new_captions"] = {"captions": self.new_captions, **scores_record(self.new)}
            if self.new_ceiling:
                record["new_captions"]["ceiling"] = scores_record(self.new_ceiling)
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

    @property
    def title(self) -> str:
        """Data set, split and run; the file where there is no run."""
        named = self.source.get("run") or self.source.get("embeddings") or self.source.get("checkpoint", "")
        return f"{self.source.get('dataset', '')} {self.split} · {named}"

    @property
    def mean_recall(self) -> float:
        """mR, in percent."""
        return self.scores.mean_recall

    def table(self) -> list[dict[str, Any]]:
        """The same as one flat row, `i2t_R@1` and so on, for CSV."""
        return [_flatten(self.record())]


@dataclass(frozen=True)
class GroupRow:
    """One run of a group. label: of its variant, "" where there is but one; fold: from 1, 0 for none."""

    label: str
    fold: int
    report: Report


@dataclass(frozen=True)
class GroupReport:
    """The figures of several runs told as one; recalls in percent. name: the group's."""

    name: str
    rows: tuple[GroupRow, ...]

    @property
    def labels(self) -> list[str]:
        """The variants, in order; one "" where there is but one."""
        return list(dict.fromkeys(row.label for row in self.rows))

    def of(self, label: str) -> list[GroupRow]:
        """The runs of a variant, one a fold."""
        return [row for row in self.rows if row.label == label]

    def averaged(self, label: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """Mean and spread of each figure of a variant over its folds, nested as in `Report.record`.

        The spread is the standard deviation of a sample (n - 1); 0 for a single run.
        """
        records = [row.report.record() for row in self.of(label)]
        return _combined(records, statistics.fmean), _combined(records, _spread)

    @property
    def warnings(self) -> list[str]:
        """The different warnings of its runs."""
        return list(dict.fromkeys(warning for row in self.rows for warning in row.report.warnings))

    @property
    def mean_recall(self) -> float:
        """The mean mR over the folds; of the lowest variant where there are several."""
        return min(self.averaged(label)[0]["mR"] for label in self.labels)

    def table(self) -> list[dict[str, Any]]:
        """Flat rows for CSV: each run, and after the folds of a variant their mean and spread."""
        table = []
        for label in self.labels:
            rows = [row.report.table()[0] for row in self.of(label)]
            named = {"variant": label} if label else {}
            for member, row in zip(self.of(label), rows, strict=True):
                table.append({**named, **({"fold": member.fold} if member.fold else {}), **row})
            if len(rows) > 1:
                shared = {name: value for name, value in rows[0].items() if len({r[name] for r in rows}) == 1}
                for name, figures in zip(("mean", "spread"), self.averaged(label), strict=True):
                    table.append({**named, "fold": name, **shared, **_flatten(figures)})
        return table

    def record(self) -> dict[str, Any]:
        """Nested plain values, for JSON; one variant stands at the top, several under `variants`."""
        variants = []
        for label in self.labels:
            runs = [{"fold": row.fold, **row.report.record()} for row in self.of(label)]
            mean, spread = self.averaged(label)
            variants.append({"variant": label, "runs": runs, "mean": mean, "spread": spread})
        if self.labels == [""]:
            del variants[0]["variant"]
            return {"group": self.name, **variants[0]}
        return {"group": self.name, "variants": variants}


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


def _combined(records: list[dict[str, Any]], figure: Callable[[list[float]], float]) -> dict[str, Any]:
    """One record that holds, in place of each figure, one of all the records' values of it."""
    combined: dict[str, Any] = {}
    for key, value in records[0].items():
        values = [record[key] for record in records]
        if isinstance(value, dict):
            combined[key] = _combined(values, figure)
        elif isinstance(value, float):
            combined[key] = figure(values)
    return combined


def _spread(values: list[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0


def evaluate(
    embeddings: Embeddings,
    source: dict[str, str],
    *,
    split: str | None,
    ties: str = "expected",
    ceiling: bool = False,
    scenes: bool = False,
    rerank: bool = False,
    known: Collection[str] | None = None,
) -> Report:
    """The figures of embeddings, on one split of them or on all (None).

    Args:
        known: texts of the training captions, to count the captions of another text apart; None not to.

    Raises:
        SwanError: the split has no images with captions, no image has a scene when `scenes` asks for it, or
            every caption is known.
    """
    rows = embeddings.catalogue.image_rows(split)
    part, captions = embeddings.catalogue.select(rows)
    if not len(captions):
        if not len(embeddings.catalogue.text):
            raise SwanError("these embeddings have no captions", "eval needs a data set with captions")
        there = names_in(embeddings.catalogue.split)
        raise SwanError(
            f"no captions to evaluate in split {split!r} (there are: {there or 'no splits'})",
            "choose another with --split, or --split all",
        )
    image, caption = embeddings.image[rows], embeddings.caption[captions]
    new = np.array([text not in known for text in part.text]) if known is not None else np.zeros(0, bool)
    if known is not None and not new.any():
        raise SwanError(
            f"--new-captions: every caption of split {split!r} has the text of a training caption",
            "leave it out, or choose another with --split",
        )
    reranked = reranked_similarity(image, caption) if rerank else None
    misplaced = misplaced_captions(described_images(part))
    return Report(
        source=source,
        split=split or "all",
        ties=ties,
        images=len(rows),
        captions=len(captions),
        scores=retrieval_scores(image, caption, part.image, ties=ties),
        embeddings=replace(embeddings, image=image, caption=caption, catalogue=part),
        ceiling=ceiling_scores(part.text, part.image, len(rows), ties=ties) if ceiling else None,
        scenes=scene_recall(image, caption, part.image, part.scene, ties=ties) if scenes else None,
        reranked=scores_from_similarity(reranked, part.image, ties=ties) if rerank else None,
        new=retrieval_scores(image, caption[new], part.image[new], ties=ties) if new.any() else None,
        new_ceiling=(
            ceiling_scores(part.text[new], part.image[new], len(rows), ties=ties)
            if ceiling and new.any()
            else None
        ),
        new_captions=int(new.sum()),
        warnings=(f"{misplaced}: are captions and images off by some rows?",) if misplaced else (),
    )


def training_texts(catalogue: Catalogue) -> set[str]:
    """The texts of the training captions.

    Raises:
        SwanError: there is none.
    """
    texts = set(catalogue.select(catalogue.image_rows("train"))[0].text)
    if not texts:
        raise SwanError("--new-captions: no training captions to compare with", "evaluate with the data set")
    return texts


def evaluate_checkpoint(
    encoder: Encoder,
    workspace: Workspace,
    dataset: str | None = None,
    *,
    split: str | None = "test",
    progress: Progress = quiet,
    new_captions: bool = False,
    **options: Any,
) -> Report:
    """Encodes a split with a checkpoint and evaluates it.

    Args:
        workspace: where the data set is.
        dataset: name of the data set; None for the one that the checkpoint was trained on, or the newest one.
        split: None for all images.
        new_captions: also count the captions apart whose text no training caption of the data set has.
        options: `ties`, `ceiling`, `scenes` and `rerank` of `evaluate`.

    Raises:
        SwanError: no such data set, or the split has no captions.
    """
    checkpoint = encoder.checkpoint
    hint = "eval needs a data set with captions: swan prepare --dataset NAME --source PATH"
    name = dataset or checkpoint.origin["dataset"] or workspace.newest_dataset(hint)
    with open_dataset(workspace.dataset(name), checkpoint) as stored:
        embeddings = embed_dataset(encoder, stored, split=split, progress=progress)
        warnings = [_changed_since_training(checkpoint, stored)]
        if split:
            digests = stored.digests(stored.catalogue.image_rows(None))
            warnings.append(overlap(stored.catalogue, digests, split))
        options["known"] = training_texts(stored.catalogue) if new_captions else None
    source = {"dataset": name, "run": checkpoint.origin["run"], "checkpoint": str(checkpoint.path)}
    return _warned(evaluate(embeddings, source, split=split, **options), warnings)


def _warned(report: Report, warnings: Iterable[str]) -> Report:
    """The report with further warnings; "" is none."""
    return replace(report, warnings=(*report.warnings, *filter(None, warnings)))


def evaluate_group(
    workspace: Workspace,
    group: Group,
    dataset: str | None = None,
    *,
    encoder_of: Callable[[Run], Encoder] = Encoder,
    **options: Any,
) -> GroupReport:
    """Evaluates every run of a group; data set and options as in `evaluate_checkpoint`.

    Args:
        encoder_of: opens a run's best checkpoint.

    Raises:
        SwanError: one of its runs has not finished an epoch, or its files are damaged.
    """
    rows = []
    for member in group.members():
        run, resume = group.run(member["run"]), f"swan train --resume --run {group.name}"
        if not run.best.exists():
            raise SwanError(f"{run.folder}: not trained yet", f"go on: {resume}")
        unfinished = _unfinished(run)
        report = evaluate_checkpoint(encoder_of(run), workspace, dataset, **options)
        if unfinished:
            report = _warned(report, [f"{unfinished}: {resume}"])
        rows.append(GroupRow(member["label"], member["fold"], report))
    return GroupReport(group.name, tuple(rows))


def _unfinished(run: Run) -> str:
    """What a run lacks of its epochs, in words; "" when it has them all.

    Raises:
        SwanError: its `config.json` or its `metrics.csv` is damaged.
    """
    rows = read_text(run.metrics).splitlines() if run.metrics.exists() else []
    done = max(0, len(rows) - 1)  # without the header
    content = read_json(run.config, TRAIN_AGAIN)
    try:
        epochs = int(content["training"]["epochs"])
    except (KeyError, TypeError, ValueError) as error:
        raise SwanError(f"{run.config}: it does not say how many epochs ({error!r})", TRAIN_AGAIN) from error
    return f"{run.folder}: only {done} of {epochs} epochs are trained" if done < epochs else ""


def _changed_since_training(checkpoint: Checkpoint, dataset: Dataset) -> str:
    """A warning where a data set was prepared again since: its test images may have been trained on."""
    trained_on = checkpoint.origin.get("dataset_digest")
    if not trained_on or dataset.name != checkpoint.origin["dataset"] or dataset.digest == trained_on:
        return ""
    return (
        f"{dataset.path} was prepared again after the training; its images, captions or splits have changed, "
        "so test images may be among those trained on"
    )


def evaluate_file(
    path: str | PathLike[str], *, split: str | None = "test", new_captions: bool = False, **options: Any
) -> Report:
    """Evaluates an `embeddings.h5` as it is; options as in `evaluate_checkpoint`."""
    embeddings = read_embeddings(path)
    options["known"] = training_texts(embeddings.catalogue) if new_captions else None
    source = {"dataset": embeddings.dataset, "embeddings": str(path)}
    return _warned(evaluate(embeddings, source, split=split, **options), _doubts(embeddings, split))


def _doubts(embeddings: Embeddings, split: str | None) -> Iterator[str]:
    """What may have changed since the embeddings were made, and which images were seen in training."""
    made_by = embeddings.made_by
    path = relocated_checkpoint(Path(made_by.checkpoint))
    if path.is_file():
        now = replace(made_by, checkpoint=str(path), sha256=file_sha256(path))
        if difference := made_by.difference(now):
            yield f"the embeddings were {difference}: was it trained on since?"
    yield changed_since(embeddings)
    if split:
        marks = [vector.tobytes() for vector in embeddings.image]
        yield overlap(embeddings.catalogue, marks, split, of="embedding")
