"""From embeddings to the figures that `swan eval` reports: nested records for JSON, flat rows for CSV.

swan eval --scene-recall
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from swancli.embed.embed import embed_dataset, open_dataset
from swancli.errors import StoreError, SwanError
from swancli.evaluate.metrics import Scores, retrieval_scores
from swancli.evaluate.reranking import reranked_similarity
from swancli.evaluate.scene_recall import SceneRecall, scene_recall
from swancli.evaluate.similarity import ceiling_grids, embedding_grids, matrix_grids
from swancli.machine.progress import Progress, quiet
from swancli.model.checkpoint import TRAIN_AGAIN, Checkpoint, checkpoint_sha256
from swancli.model.encoder import Encoder
from swancli.prepare.misplaced import described_images, misplaced_captions
from swancli.prepare.splits import overlap
from swancli.store.catalogue import Catalogue, names_in
from swancli.store.dataset import Dataset
from swancli.store.embeddings import Embeddings, changed_since, read_embeddings
from swancli.store.seen import LIKE, SAME
from swancli.store.text import read_json, read_text
from swancli.vocab.known_words import KnownWords, known_words
from swancli.workspace import Group, Run, Workspace, relocated_checkpoint


@dataclass(frozen=True)
class Seen:
    """The images of a split that a checkpoint was trained on, or that the one it started from was.

    same: number of those whose pixels are those of a training image.
    alike: of the others, number of those that look like one: another size or compression.
    """

    same: int
    alike: int

    @property
    def total(self) -> int:
        """Their number."""
        return self.same + self.alike


@dataclass(frozen=True)
class Report:
    """The figures of one evaluation; recalls in percent.

    source: what was evaluated: data set, run, checkpoint or embeddings file.
    split: its name, or "all".
    ties: the rule for equal scores.
    images: number in the split.
    captions: number in the split.
    scores: recalls and ranks.
    embeddings: of the split only.

    None unless asked for:

    ceiling: of a perfect model.
    scenes: scene recall.
    reranked: after re-ranking.
    new: with only those captions whose text no training caption has; images without such a caption are not
        queries, but remain candidates.
    new_ceiling: of a perfect model, with only those captions.
    new_captions: the number of those captions.

    seen: how many of the images the checkpoint was trained on; None if that is not known.
    known_words: how many words of the captions the text tower knows; None for embeddings from a file.
    warnings: reasons to doubt the figures.
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
    seen: Seen | None = None
    known_words: KnownWords | None = None
    warnings: tuple[str, ...] = ()

    def record(self) -> dict[str, Any]:
        """Nested plain values, for JSON."""
        record: dict[str, Any] = {
            **self.source,
            "split": self.split,
            "ties": self.ties,
            "images": self.images,
            "captions": self.captions,
            "seen_in_training": self.seen and asdict(self.seen),
            "known_words": self.known_words and self.known_words.record(),
            **self.scores.record(),
        }
        if self.ceiling:
            record["ceiling"] = self.ceiling.record()
        if self.reranked:
            record["reranked"] = self.reranked.record()
        if self.new:
            record["new_captions"] = {"captions": self.new_captions, **self.new.record()}
            if self.new_ceiling:
                record["new_captions"]["ceiling"] = self.new_ceiling.record()
        if self.scenes:
            record["scene_recall"] = self.scenes.record()
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
        """The record as one flat row, `i2t_R@1` and so on, for CSV."""
        return [flat(self.record())]


@dataclass(frozen=True)
class GroupRow:
    """One run of a group.

    label: of its variant, "" if there is only one.
    fold: from 1; 0 without folds.
    report: its figures.
    """

    label: str
    fold: int
    report: Report


@dataclass(frozen=True)
class GroupReport:
    """The figures of a group of runs; recalls in percent."""

    name: str
    rows: tuple[GroupRow, ...]

    @property
    def labels(self) -> list[str]:
        """The variants, in order; one "" if there is only one."""
        return list(dict.fromkeys(row.label for row in self.rows))

    def of(self, label: str) -> list[GroupRow]:
        """The runs of a variant, one per fold."""
        return [row for row in self.rows if row.label == label]

    def averaged(self, label: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """Mean and spread over the folds of each figure of a variant, nested as in `Report.record`.

        The spread is the sample standard deviation (n - 1); 0 for a single run.
        """
        records = [row.report.record() for row in self.of(label)]
        return _combined(records, statistics.fmean), _combined(records, _spread)

    @property
    def warnings(self) -> list[str]:
        """The warnings of its runs, each once."""
        return list(dict.fromkeys(warning for row in self.rows for warning in row.report.warnings))

    @property
    def mean_recall(self) -> float:
        """The mean mR over the folds, in percent; of several variants the lowest."""
        return min(self.averaged(label)[0]["mR"] for label in self.labels)

    def table(self) -> list[dict[str, Any]]:
        """Flat rows for CSV: one per run, and after the folds of a variant their mean and spread."""
        table = []
        for label in self.labels:
            rows = [row.report.table()[0] for row in self.of(label)]
            named = {"variant": label} if label else {}
            for member, row in zip(self.of(label), rows, strict=True):
                table.append({**named, **({"fold": member.fold} if member.fold else {}), **row})
            if len(rows) > 1:
                shared = {name: value for name, value in rows[0].items() if len({r[name] for r in rows}) == 1}
                for name, figures in zip(("mean", "spread"), self.averaged(label), strict=True):
                    table.append({**named, "fold": name, **shared, **flat(figures)})
        return table

    def record(self) -> dict[str, Any]:
        """Nested plain values, for JSON; several variants are listed under `variants`."""
        variants = []
        for label in self.labels:
            runs = [{"fold": row.fold, **row.report.record()} for row in self.of(label)]
            mean, spread = self.averaged(label)
            variants.append({"variant": label, "runs": runs, "mean": mean, "spread": spread})
        if self.labels == [""]:
            del variants[0]["variant"]
            return {"group": self.name, **variants[0]}
        return {"group": self.name, "variants": variants}


def flat(record: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested record as one level, with the keys joined by "_"."""
    row = {}
    for key, value in record.items():
        row |= flat(value, f"{prefix}{key}_") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return row


def _combined(records: list[dict[str, Any]], figure: Callable[[list[float]], float]) -> dict[str, Any]:
    """One record in which each number is computed from the values in all records."""
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
    warnings: Iterable[str] = (),
) -> Report:
    """The figures of embeddings.

    Args:
        embeddings: with captions.
        source: as in `Report`.
        split: the images and captions to evaluate; None for all.
        ties: "expected", "best" or "worst".
        ceiling: also compute the ceiling.
        scenes: also compute scene recall.
        rerank: also compute recalls after re-ranking.
        known: texts of the training captions; None not to evaluate new captions separately.
        warnings: for the report; "" is left out.

    Raises:
        SwanError: the split has no images with captions, scene recall is asked for and no image has a scene,
            or every caption is known.
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
    grids = embedding_grids(image, caption)
    score = partial(retrieval_scores, ties=ties)
    optional: dict[str, Any] = {}
    if ceiling:
        optional["ceiling"] = score(ceiling_grids(part.text, part.image, len(rows)), part.image)
    if scenes:
        optional["scenes"] = scene_recall(grids, part.image, part.scene, ties=ties)
    if rerank:
        optional["reranked"] = score(matrix_grids(reranked_similarity(image, caption)), part.image)
    if known is not None:
        new = np.array([text not in known for text in part.text])
        if not new.any():
            raise SwanError(
                f"--new-captions: every caption of split {split!r} has the text of a training caption",
                "leave it out, or choose another with --split",
            )
        optional["new"] = score(embedding_grids(image, caption[new]), part.image[new])
        optional["new_captions"] = int(new.sum())
        if ceiling:
            new_grids = ceiling_grids(part.text[new], part.image[new], len(rows))
            optional["new_ceiling"] = score(new_grids, part.image[new])
    seen = None if embeddings.seen is None else embeddings.seen[rows]
    if seen is not None:
        optional["seen"] = Seen(int((seen == SAME).sum()), int((seen == LIKE).sum()))
    misplaced = misplaced_captions(described_images(part))
    doubt = f"{misplaced}: are captions and images off by some rows?" if misplaced else ""
    return Report(
        source=source,
        split=split or "all",
        ties=ties,
        images=len(rows),
        captions=len(captions),
        scores=score(grids, part.image),
        embeddings=replace(embeddings, image=image, caption=caption, catalogue=part, seen=seen),
        warnings=tuple(filter(None, (doubt, *warnings))),
        **optional,
    )


def training_texts(catalogue: Catalogue) -> set[str]:
    """The texts of the training captions.

    Raises:
        SwanError: there are none.
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
        encoder: with the checkpoint.
        workspace: where the data set is.
        dataset: its name; None for the one that the checkpoint was trained on, or the newest one.
        split: None for all images.
        progress: called while the split is encoded.
        new_captions: also evaluate the captions whose text no training caption of the data set has.
        options: `ties`, `ceiling`, `scenes` and `rerank` of `evaluate`.

    Raises:
        SwanError: there is no such data set, or as in `evaluate`.
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
    known = known_words(embeddings.catalogue.text, checkpoint.tokenizer)
    report = evaluate(embeddings, source, split=split, warnings=(*warnings, known.warning), **options)
    return replace(report, known_words=known)


def evaluate_group(
    workspace: Workspace,
    group: Group,
    dataset: str | None = None,
    *,
    encoder_of: Callable[[Run], Encoder] = Encoder,
    **options: Any,
) -> GroupReport:
    """Evaluates every run of a group.

    Args:
        workspace: where the data set is.
        group: of runs.
        dataset: as in `evaluate_checkpoint`.
        encoder_of: opens a run's best checkpoint.
        options: as in `evaluate_checkpoint`.

    Raises:
        SwanError: one of the runs has not finished an epoch, or its files are damaged.
    """
    rows = []
    for member in group.members():
        run, resume = group.run(member["run"]), f"swan train --resume --run {group.name}"
        if not run.best.exists():
            raise SwanError(f"{run.folder}: not trained yet", f"train it: {resume}")
        unfinished = _unfinished(run)
        report = evaluate_checkpoint(encoder_of(run), workspace, dataset, **options)
        if unfinished:
            report = replace(report, warnings=(*report.warnings, f"{unfinished}: {resume}"))
        rows.append(GroupRow(member["label"], member["fold"], report))
    return GroupReport(group.name, tuple(rows))


def _unfinished(run: Run) -> str:
    """How many of its epochs a run has, as a warning; "" if it has all.

    Raises:
        SwanError: its `config.json` or its `metrics.csv` is damaged.
    """
    rows = read_text(run.metrics).splitlines() if run.metrics.exists() else []
    done = max(0, len(rows) - 1)  # without the header
    content = read_json(run.config, TRAIN_AGAIN)
    try:
        epochs = int(content["training"]["epochs"])
    except (KeyError, TypeError, ValueError) as error:
        raise SwanError(f"{run.config}: the number of epochs is missing ({error!r})", TRAIN_AGAIN) from error
    return f"{run.folder}: only {done} of {epochs} epochs are trained" if done < epochs else ""


def _changed_since_training(checkpoint: Checkpoint, dataset: Dataset) -> str:
    """A warning if the data set was prepared again, so test images may have been trained on; else ""."""
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
    """Evaluates an `embeddings.h5`; arguments as in `evaluate_checkpoint`."""
    embeddings = read_embeddings(path)
    options["known"] = training_texts(embeddings.catalogue) if new_captions else None
    source = {"dataset": embeddings.dataset, "embeddings": str(path)}
    return evaluate(embeddings, source, split=split, warnings=_doubts(embeddings, split), **options)


def _doubts(embeddings: Embeddings, split: str | None) -> Iterator[str]:
    """Warnings of what has changed since the embeddings were made, and of images seen in training."""
    made_by = embeddings.made_by
    path = relocated_checkpoint(Path(made_by.checkpoint))
    if path.exists():
        with suppress(StoreError):  # a folder without weights
            now = replace(made_by, checkpoint=str(path), sha256=checkpoint_sha256(path))
            if difference := made_by.difference(now):
                yield f"the embeddings were {difference}: was it trained on since?"
    yield changed_since(embeddings)
    if split:
        marks = [vector.tobytes() for vector in embeddings.image]
        yield overlap(embeddings.catalogue, marks, split, of="embedding")
