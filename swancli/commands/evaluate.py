"""`swan eval`: a run or embeddings -> recalls; a run and annotated scenes -> localization indicators."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from swancli.commands.options import (
    DEFAULT_ROOT,
    BatchSize,
    CheckpointFile,
    CheckpointVocab,
    DatasetName,
    Device,
    Json,
    Quiet,
    Root,
    RunName,
    TileSizes,
    alone,
    exclusive,
)
from swancli.console import NOT_MET, Display, print_json, print_report, show_localization, warn
from swancli.errors import SwanError
from swancli.workspace import Workspace

if TYPE_CHECKING:
    from swancli.model.encoder import Encoder

Ties = Literal["expected", "best", "worst"]


def evaluate(
    run: RunName = None,
    dataset: DatasetName = None,
    checkpoint: CheckpointFile = None,
    vocab: CheckpointVocab = None,
    folds: Annotated[
        bool, typer.Option("--folds", help="Every run of the newest --folds training, or of --run; averaged.")
    ] = False,
    embeddings: Annotated[
        Path | None, typer.Option(help="Evaluate an embeddings file; needs neither run nor images.")
    ] = None,
    split: Annotated[str, typer.Option(help="train, val, test, or all.")] = "test",
    scene_recall: Annotated[
        bool, typer.Option("--scene-recall", help="Also the share of the K best that have the query's scene.")
    ] = False,
    ties: Annotated[
        Ties, typer.Option(help="How equal scores are ordered: on average, luckily, or not.")
    ] = "expected",
    ceiling: Annotated[
        bool,
        typer.Option("--ceiling", help="Also what a perfect model would get, given that captions repeat."),
    ] = False,
    figures: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            file_okay=False,
            help="Also draw PNG files into this folder: training, recall, scene confusion, a map, mistakes.",
        ),
    ] = None,
    new_captions: Annotated[
        bool,
        typer.Option(
            "--new-captions",
            help="Also with only those captions whose text no training caption of the data set has.",
        ),
    ] = False,
    rerank: Annotated[
        bool, typer.Option("--rerank", help="Also after re-ranking, which looks at all queries together.")
    ] = False,
    localization: Annotated[
        Path | None,
        typer.Option(
            metavar="ANNOTATIONS",
            help="In place of recall: how well the maps of large scenes mark annotated places (extra: geo).",
        ),
    ] = None,
    images: Annotated[
        Path | None, typer.Option(help="Folder of the scenes of --localization. Default: its own.")
    ] = None,
    tile_size: TileSizes = None,
    min_mr: Annotated[
        float | None, typer.Option(help="Exit with code 3 when mR, in percent, is below.")
    ] = None,
    json_: Json = False,
    csv_: Annotated[bool, typer.Option("--csv", help="A header and a row a run on standard output.")] = False,
    batch_size: BatchSize = None,
    device: Device = "auto",
    root: Root = DEFAULT_ROOT,
    quiet: Quiet = False,
) -> None:
    """Recall of a run, or of a group of runs, on the test split of its data set."""
    from swancli.evaluate.figures import draw_figures, require_plots
    from swancli.evaluate.report import evaluate_checkpoint, evaluate_file, evaluate_group
    from swancli.model.encoder import Encoder

    exclusive(run=run, checkpoint=checkpoint, embeddings=embeddings)
    exclusive(folds=folds, checkpoint=checkpoint, embeddings=embeddings)
    exclusive(vocab=vocab, embeddings=embeddings)
    exclusive(dataset=dataset, embeddings=embeddings)
    exclusive(json=json_, csv=csv_)
    exclusive(figures=figures, folds=folds)
    if localization:
        recall_only = {
            "folds": folds,
            "embeddings": embeddings,
            "scene_recall": scene_recall,
            "ceiling": ceiling,
            "figures": figures,
            "new_captions": new_captions,
            "rerank": rerank,
            "min_mr": min_mr,
            "csv": csv_,
        }
        alone("localization", localization, **recall_only)
        path = checkpoint or Workspace(root).find_encoder(run, dataset, foreign=True)
        encoder_of = partial(Encoder, path, device, batch_size=batch_size, vocab=vocab)
        _localize(localization, images, encoder_of, tile_size or (), json_, Display(quiet))
        return
    if images or tile_size:
        raise SwanError("--images and --tile-size are of annotated scenes", "give them: --localization FILE")
    if figures:
        require_plots("--figures")
    workspace, display = Workspace(root), Display(quiet)
    options = {
        "split": None if split == "all" else split,
        "ties": ties,
        "ceiling": ceiling,
        "scenes": scene_recall,
        "rerank": rerank,
        "new_captions": new_captions,
    }
    group = None
    if folds or run:  # a group of this data set, else one of another, as for single runs
        group = workspace.find_group(run, dataset, folds) or workspace.find_group(run, None, folds)
    if folds and not group:
        which = f"group {run!r} of runs" if run else "runs"
        problem = f"{root}: no {which} with folds"
        raise SwanError(problem, "train some: swan train --folds 3 --run NAME")
    if figures and group:
        runs = ", ".join(member["run"] for member in group.members())
        raise SwanError(f"{group.file}: --figures draws one run, not a group", f"choose with --run: {runs}")
    if embeddings:
        report = evaluate_file(embeddings, **options)
    else:
        with display.progress() as progress:
            encoder_of = partial(Encoder, device=device, batch_size=batch_size, vocab=vocab)
            options["progress"] = progress
            if group:
                report = evaluate_group(workspace, group, dataset, encoder_of=encoder_of, **options)
            else:
                encoder = encoder_of(checkpoint or workspace.find_run_for(run, dataset))
                report = evaluate_checkpoint(encoder, workspace, dataset, **options)
    for warning in report.warnings:
        warn(warning)
    print_report(report, as_json=json_, as_csv=csv_)
    if figures:
        with display.progress() as progress:
            drawn = draw_figures(report, figures, workspace, progress)
        for path in drawn.written:
            display.note(f"wrote {path}")
        for name, reason in drawn.left_out.items():
            display.note(f"left out {name}: {reason}")
    if min_mr is not None and report.mean_recall < min_mr:
        warn(f"mR {report.mean_recall:.2f} is below --min-mr {min_mr:g}")
        raise typer.Exit(NOT_MET)


def _localize(
    annotations: Path,
    images: Path | None,
    encoder_of: Callable[[], Encoder],
    sizes: Sequence[int],
    as_json: bool,
    display: Display,
) -> None:
    """The indicators of a checkpoint on annotated scenes."""
    from swancli.scene_image.annotations import evaluate_localization, read_annotations

    read = read_annotations(annotations, images)
    encoder = encoder_of()
    source = {"checkpoint": str(encoder.checkpoint.path), "localization": str(annotations)}
    with display.progress() as progress:
        report = evaluate_localization(encoder, read, source, sizes=sizes, progress=progress)
    if as_json:
        print_json(report.record(), indent=1)
    else:
        show_localization(report)
