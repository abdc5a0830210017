"""The tables of recall that `train`, `eval` and `demo` print."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from swancli.console import harmless, print_json, show_table
from swancli.evaluate import RECALL_AT

if TYPE_CHECKING:
    from swancli.evaluate.metrics import Scores
    from swancli.evaluate.report import GroupReport, Report

WAYS = ("i2t", "t2i")  # image to text, and text to image
HEADS = ("", *(f"{way} R@{k}" for way in WAYS for k in RECALL_AT), "mR")
# Spreadsheets take cells that begin like this for formulas, whatever blanks are before it.
FORMULA_STARTS = ("=", "+", "-", "@", "＝", "＋", "－", "＠")


def recall_cells(scores: Scores) -> list[str]:
    """Recall of image to text and of text to image, and their mean; in percent."""
    directions = (scores.image_to_text, scores.text_to_image)
    return [*(f"{way.recall[k]:.2f}" for way in directions for k in RECALL_AT), f"{scores.mean_recall:.2f}"]


def show_scores(title: str, scores: Mapping[str, Scores]) -> None:
    """A table of recalls in percent, one row for each named set of scores."""
    rows = [[name, *recall_cells(found)] for name, found in scores.items()]
    show_table(title, HEADS, rows, texts=HEADS[:1])


def print_report(report: Report | GroupReport, as_json: bool, as_csv: bool) -> None:
    """A report as one JSON document, as CSV with a header, or as a table."""
    from swancli.evaluate.report import GroupReport

    if as_json:
        print_json(report.record(), indent=1)
    elif as_csv:
        rows = report.table()
        writer = csv.DictWriter(sys.stdout, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: _csv_cell(value) for name, value in row.items()} for row in rows)
    elif isinstance(report, GroupReport):
        _show_group(report)
    else:
        _show_report(report)


def _csv_cell(value: Any) -> Any:
    """A value that a spreadsheet does not take for a formula; numbers are not changed."""
    if not isinstance(value, str):
        return value
    value = harmless(value)
    formula = value.lstrip().startswith(FORMULA_STARTS) or value.startswith(("\t", "\n"))
    return f"'{value}" if formula else value


def _show_report(report: Report) -> None:
    """One run: its recalls, and below them what else was asked for."""
    both = (report.scores.image_to_text, report.scores.text_to_image)
    medians, means = ([getattr(way, name) for way in both] for name in ("median_rank", "mean_rank"))
    notes = [
        _conditions(report),
        f"rank of the first hit: median {medians[0]:.0f} i2t, {medians[1]:.0f} t2i; "
        f"mean {means[0]:.2f} i2t, {means[1]:.2f} t2i",
    ]
    if report.reranked:
        notes.append("re-ranked: each score is weighted by those of all other queries, unknown to a search")
    if report.new:
        notes.append(f"new captions: only the {report.new_captions} whose text is in no training caption")
    if report.scenes:
        images, captions = report.scenes.image_to_text.skipped, report.scenes.text_to_image.skipped
        left_out = f" (without one: {images} images, {captions} captions)" if images or captions else ""
        notes.append(f"scene recall: share of the K best that have the query's scene{left_out}")
    notes.append(_seen_in_training(report))
    if report.known_words:
        notes.append(f"known words of the captions: {report.known_words}")
    rows = [(row, "bold" if row[0] == "recall" else "") for row in _rows(report.record(), "recall")]
    _show_rows(report.title, rows, notes)


def _show_group(report: GroupReport) -> None:
    """Several runs: each fold, their mean and spread; of several variants one row each."""
    rows, first = [], report.rows[0].report
    for label in report.labels:
        runs, named = report.of(label), []
        if len(runs) == 1 or len(report.labels) == 1:
            folds = [f"{label} fold {row.fold}" if row.fold else label for row in runs]
            named += [(name, row.report.record(), "") for name, row in zip(folds, runs, strict=True)]
        if len(runs) > 1:
            mean, spread = report.averaged(label)
            named += [(f"{label} mean", mean, "bold"), (f"{label} ± spread", spread, "dim")]
        for name, record, style in named:
            rows += [(row, style) for row in _rows(record, name.strip(), "  ")]
    notes = [_conditions(first)]
    runs = [row.report for row in report.rows]
    notes.append(_seen_in_training(max(runs, key=lambda run: run.seen.total if run.seen else 0)))
    fewest = min((run.known_words for run in runs if run.known_words), key=lambda known: known.percent)
    notes.append(f"known words of the captions: {fewest}")
    if any(row.fold for row in report.rows):
        notes.append("spread: standard deviation over the folds (n - 1)")
    _show_rows(f"{first.source.get('dataset', '')} {first.split} · {report.name}", rows, notes)


def _show_rows(title: str, rows: list[tuple[list[str], str]], notes: list[str]) -> None:
    """A table of recalls; each row is its cells and its style."""
    cells, styles = zip(*rows, strict=True)
    show_table(title, HEADS, cells, texts=HEADS[:1], styles=styles, notes=notes)


def _rows(record: Mapping[str, Any], name: str, ahead: str = "") -> Iterator[list[str]]:
    """The cells of a record's recalls and of what else it has, whose names have `ahead` before them."""
    yield [name, *(f"{record[way][f'R@{k}']:.2f}" for way in WAYS for k in RECALL_AT), f"{record['mR']:.2f}"]
    for key, other in (("ceiling", "ceiling"), ("reranked", "re-ranked"), ("new_captions", "new captions")):
        if key in record:
            yield from _rows(record[key], f"{ahead}{other}", f"{ahead}{other}: ")
    if "scene_recall" in record:
        shares = [record["scene_recall"][way][f"SR@{k}"] for way in WAYS for k in RECALL_AT]
        yield [f"{ahead}scene recall", *(f"{share:.2f}" for share in shares), ""]


def _seen_in_training(report: Report) -> str:
    """How many images of a split the checkpoint was trained on."""
    if report.seen is None:
        return "it is not known which of the images were seen in training"
    if not report.seen.total:
        return "no image was seen in training, nor one that looks the same"
    counts = f"{report.seen.same} with the same pixels, {report.seen.alike} that look the same"
    return f"{report.seen.total} of {report.images} images were seen in training: {counts}"


def _conditions(report: Report) -> str:
    counts = f"{report.images} images, {report.captions} captions"
    return f"{counts}; in percent; equal scores: {report.ties} order"
