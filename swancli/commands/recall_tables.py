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
# A spreadsheet takes a cell that begins like this for a formula.
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\n", "＝", "＋", "－", "＠")


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
    """A text that a spreadsheet shows as it is, and takes for no formula; numbers are left alone."""
    if not isinstance(value, str):
        return value
    value = harmless(value)
    return f"'{value}" if value.lstrip(" ").startswith(FORMULA_STARTS) else value


def _show_report(report: Report) -> None:
    """One run: its recalls, and below them what else was asked for."""
    both = (report.scores.image_to_text, report.scores.text_to_image)
    medians, means = ([getattr(way, name) for way in both] for name in ("median_rank", "mean_rank"))
    rows = [["recall", *recall_cells(report.scores)]]
    notes = [
        _conditions(report),
        f"rank of the first hit: median {medians[0]:.0f} i2t, {medians[1]:.0f} t2i; "
        f"mean {means[0]:.2f} i2t, {means[1]:.2f} t2i",
    ]
    if report.ceiling:
        rows.append(["ceiling", *recall_cells(report.ceiling)])
    if report.reranked:
        rows.append(["re-ranked", *recall_cells(report.reranked)])
        notes.append(
            "re-ranked: each score is weighted by those of all other queries; a search cannot do that"
        )
    if report.new:
        rows.append(["new captions", *recall_cells(report.new)])
        notes.append(
            f"new captions: only the {report.new_captions} whose text no training caption of the data set has"
        )
    if report.new_ceiling:
        rows.append(["  their ceiling", *recall_cells(report.new_ceiling)])
    if report.scenes:
        ways = (report.scenes.image_to_text, report.scenes.text_to_image)
        rows.append(["scene recall", *(f"{way.share[k]:.2f}" for way in ways for k in RECALL_AT), ""])
        left_out = f"without one: {ways[0].skipped} images, {ways[1].skipped} captions"
        notes.append(f"scene recall: share of the K best that have the query's scene ({left_out})")
    styles = ["bold", *[""] * (len(rows) - 1)]
    show_table(report.title, HEADS, rows, texts=HEADS[:1], styles=styles, notes=notes)


def _show_group(report: GroupReport) -> None:
    """Several runs: each fold, their mean and spread; of several variants one row each."""
    rows, styles = [], []
    first = report.rows[0].report
    for label in report.labels:
        runs = report.of(label)
        named = []
        if len(runs) == 1 or len(report.labels) == 1:
            folds = [f"{label} fold {row.fold}" if row.fold else label for row in runs]
            named += [(name, row.report.record(), "") for name, row in zip(folds, runs, strict=True)]
        if len(runs) > 1:
            mean, spread = report.averaged(label)
            named += [(f"{label} mean", mean, "bold"), (f"{label} ± spread", spread, "dim")]
        for name, record, style in named:
            found = list(_record_rows(name.strip(), record, bool(first.scenes)))
            rows += found
            styles += [style] * len(found)
    notes = [_conditions(first)]
    if any(row.fold for row in report.rows):
        notes.append("spread: standard deviation over the folds (n - 1)")
    title = f"{first.source.get('dataset', '')} {first.split} · {report.name}"
    show_table(title, HEADS, rows, texts=HEADS[:1], styles=styles, notes=notes)


def _record_rows(name: str, record: Mapping[str, Any], scenes: bool) -> Iterator[list[str]]:
    """The cells of a record's recalls, and of its scene recalls when asked for."""
    yield [
        name,
        *(f"{record[way][f'R@{k}']:.2f}" for way in WAYS for k in RECALL_AT),
        f"{record['mR']:.2f}",
    ]
    for key in ("ceiling", "reranked", "new_captions"):
        if key in record:
            yield from _record_rows(f"  {name}: {key.replace('_', ' ')}", record[key], scenes=False)
    if scenes:
        shares = [record["scene_recall"][way][f"SR@{k}"] for way in WAYS for k in RECALL_AT]
        yield [f"  {name}: scene recall", *(f"{share:.2f}" for share in shares), ""]


def _conditions(report: Report) -> str:
    return (
        f"{report.images} images, {report.captions} captions; in percent; equal scores: {report.ties} order"
    )
