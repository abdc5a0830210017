"""`swan eval`: a run or embeddings -> recalls; a run and annotated scenes -> localization indicators."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import typer

from swancli.commands.options import (
    BATCH_SIZE,
    CHECKPOINT,
    CHECKPOINT_VOCAB,
    DATASET,
    DEVICE,
    JSON,
    QUIET,
    ROOT,
    RUN,
    TILE_SIZES,
    alone,
    exclusive,
    general,
    large_scene,
    option,
    option_in,
)
from swancli.commands.recall_tables import print_report
from swancli.console import NOT_MET, Display, print_json, show_table, warn
from swancli.errors import SwanError
from swancli.workspace import Workspace

if TYPE_CHECKING:
    from swancli.evaluate.report import GroupReport, Report
    from swancli.model.encoder import Encoder
    from swancli.scene_image.annotations import Localization
    from swancli.workspace import Group

Ties = Literal["expected", "best", "worst"]

showing = option_in("What is reported")


def evaluate(
    run: str | None = RUN,
    dataset: str | None = DATASET,
    checkpoint: Path | None = CHECKPOINT,
    embeddings: Path | None = option(
        None, "--embeddings FILE", "Evaluate an embeddings file; needs neither run nor images."
    ),
    folds: bool = option(
        False, "--folds", "All runs of --run, or of the newest training with folds; averaged."
    ),
    split: str = option("test", "--split NAME", "train, val, test or all."),
    ties: Ties = showing(
        "expected", "--ties RULE", "Order of equal scores: expected (the mean of all), best or worst case."
    ),
    ceiling: bool = showing(
        False, "--ceiling", "Also what a perfect model would get, given that captions repeat."
    ),
    scene_recall: bool = showing(
        False, "--scene-recall", "Also the share of the K best that have the query's scene."
    ),
    new_captions: bool = showing(
        False, "--new-captions", "Also recall with only the captions whose text is not in training."
    ),
    rerank: bool = showing(
        False, "--rerank", "Also recall after re-ranking, which needs all queries at once."
    ),
    figures: Path | None = showing(
        None,
        "--figures DIR",
        "Also draw PNG files: training, recall, scene confusion, a map, mistakes (extra `plots`).",
        file_okay=False,
    ),
    min_mr: float | None = showing(None, "--min-mr X", "Exit with code 3 when mR is below X percent."),
    localization: Path | None = large_scene(
        None,
        "--localization FILE",
        "In place of recall: how well heat maps of scenes mark the annotated places (extra `geo`).",
    ),
    images: Path | None = large_scene(
        None, "--images DIR", "Folder of the annotated scenes. Default: that of the FILE."
    ),
    tile_size: list[int] | None = TILE_SIZES,
    vocab: Path | None = CHECKPOINT_VOCAB,
    batch_size: int | None = BATCH_SIZE,
    device: str = DEVICE,
    json_: bool = JSON,
    csv_: bool = general(False, "--csv", "Print CSV: a header, and one row per run."),
    root: Path = ROOT,
    quiet: bool = QUIET,
) -> None:
    """Recall of a run, or of a group of runs, on the test split of its data set.

    Examples:
        swan eval --scene-recall --ceiling
        swan eval --run cv --folds --csv
        swan eval --json --min-mr 30
    """
    from swancli.model.encoder import Encoder

    exclusive(run=run, checkpoint=checkpoint, embeddings=embeddings)
    exclusive(folds=folds, checkpoint=checkpoint, embeddings=embeddings)
    exclusive(vocab=vocab, embeddings=embeddings)
    exclusive(dataset=dataset, embeddings=embeddings)
    exclusive(json=json_, csv=csv_)
    exclusive(figures=figures, folds=folds)
    workspace, display = Workspace(root), Display(quiet)
    encoder_of = partial(Encoder, device=device, batch_size=batch_size, vocab=vocab)
    options = {"ceiling": ceiling, "rerank": rerank, "new_captions": new_captions}
    if localization:
        recall_only = {**options, "folds": folds, "embeddings": embeddings, "scene_recall": scene_recall}
        recall_only |= {"figures": figures, "min_mr": min_mr, "csv": csv_}
        alone("localization", localization, **recall_only)
        path = checkpoint or workspace.find_encoder(run, dataset, foreign=True)
        _localize(localization, images, partial(encoder_of, path), tile_size or (), json_, display)
        return
    if images or tile_size:
        raise SwanError("--images and --tile-size need annotated scenes", "give them: --localization FILE")
    options |= {"split": None if split == "all" else split, "ties": ties, "scenes": scene_recall}
    group = _group(workspace, run, dataset, folds)
    _check_figures(figures, group)
    report = _report(workspace, group, run, dataset, checkpoint, embeddings, options, encoder_of, display)
    for warning in report.warnings:
        warn(warning)
    print_report(report, as_json=json_, as_csv=csv_)
    if figures:
        _draw(report, figures, workspace, display)
    if min_mr is not None and report.mean_recall < min_mr:
        warn(f"mR {report.mean_recall:.2f} is below --min-mr {min_mr:g}")
        raise typer.Exit(NOT_MET)


def _group(workspace: Workspace, run: str | None, dataset: str | None, folds: bool) -> Group | None:
    """The group of runs that --run or --folds means, of this data set or another; None for one run."""
    if not (folds or run):
        return None
    group = workspace.find_group(run, dataset, folds) or workspace.find_group(run, None, folds)
    if folds and not group:
        which = f"group {run!r} of runs" if run else "runs"
        fix = "train some: swan train --folds 3 --run NAME"
        raise SwanError(f"{workspace.root}: no {which} with folds", fix)
    return group


def _check_figures(figures: Path | None, group: Group | None) -> None:
    if not figures:
        return
    from swancli.evaluate import require_plots

    require_plots("--figures")
    if group:
        runs = ", ".join(member["run"] for member in group.members())
        raise SwanError(f"{group.file}: --figures draws one run, not a group", f"choose with --run: {runs}")


def _report(
    workspace: Workspace,
    group: Group | None,
    run: str | None,
    dataset: str | None,
    checkpoint: Path | None,
    embeddings: Path | None,
    options: dict[str, Any],
    encoder_of: Callable[..., Encoder],
    display: Display,
) -> Report | GroupReport:
    """The figures of an embeddings file, of a group of runs, or of one checkpoint."""
    from swancli.evaluate.report import evaluate_checkpoint, evaluate_file, evaluate_group

    if embeddings:
        return evaluate_file(embeddings, **options)
    with display.progress() as progress:
        options = {**options, "progress": progress}
        if group:
            return evaluate_group(workspace, group, dataset, encoder_of=encoder_of, **options)
        encoder = encoder_of(checkpoint or workspace.find_run_for(run, dataset))
        return evaluate_checkpoint(encoder, workspace, dataset, **options)


def _draw(report: Report, folder: Path, workspace: Workspace, display: Display) -> None:
    from swancli.evaluate.figures import draw_figures

    with display.progress() as progress:
        written, left_out = draw_figures(report, folder, workspace, progress)
    for path in written:
        display.note(f"wrote {path}")
    for name, reason in left_out.items():
        display.note(f"left out {name}: {reason}")


def _localize(
    annotations: Path,
    images: Path | None,
    encoder_of: Callable[[], Encoder],
    sizes: Sequence[int],
    as_json: bool,
    display: Display,
) -> None:
    """Prints the indicators of a checkpoint on annotated scenes."""
    from swancli.scene_image.annotations import evaluate_localization, read_annotations

    read = read_annotations(annotations, images)
    encoder = encoder_of()
    source = {"checkpoint": str(encoder.checkpoint.path), "localization": str(annotations)}
    with display.progress() as progress:
        report = evaluate_localization(encoder, read, source, sizes=sizes, progress=progress)
    if as_json:
        print_json(report.record(), indent=1)
    else:
        _show_localization(report)


def _show_localization(report: Localization) -> None:
    """A table with the mean of each indicator."""
    record = report.record()
    show_table(
        f"localization · {report.source['checkpoint']}",
        ["", "Rsu (higher)", "Ras (lower)", "Rda (higher)", "Rmi (higher)"],
        [["mean", *(f"{value:.4f}" for value in report.mean().values())]],
        styles=["bold"],
        notes=[
            f"{record['annotations']} annotations of {record['scenes']} scenes; each from 0 to 1; the heads "
            "say which way is better"
        ],
    )
