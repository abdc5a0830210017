"""`swan eval`: a run or embeddings -> recalls; a run and annotated scenes -> localization indicators."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import typer

from swancli.commands import options
from swancli.commands.options import alone, exclusive, general, large_scene, option, option_in
from swancli.commands.recall_tables import print_report
from swancli.console import NOT_MET, Display, print_json, show_table, warn
from swancli.errors import SwanError
from swancli.workspace import Workspace

if TYPE_CHECKING:
    from swancli.evaluate.report import Report
    from swancli.model.encoder import Encoder
    from swancli.workspace import Group

Ties = Literal["expected", "best", "worst"]

showing = option_in("What is reported")


def evaluate(
    run: str | None = options.RUN,
    dataset: str | None = options.DATASET,
    checkpoint: Path | None = options.CHECKPOINT,
    embeddings: Path | None = option(None, "FILE", "An embeddings file instead of a run and its images."),
    folds: bool = option(
        False, "--folds", "Average over all folds of --run, or of the newest training with --folds."
    ),
    split: str = option("test", "NAME", "train, val, test or all."),
    ties: Ties = showing(
        "expected", "RULE", "How equal scores count: expected (mean over all orders), best or worst."
    ),
    ceiling: bool = showing(
        False, "--ceiling", "Also report the recall of a perfect model (below 100 if captions repeat)."
    ),
    scene_recall: bool = showing(
        False, "--scene-recall", "Also report the share of results from the query's scene."
    ),
    new_captions: bool = showing(
        False,
        "--new-captions",
        "Also report recall on only the captions whose text is not in the training split.",
    ),
    rerank: bool = showing(
        False, "--rerank", "Also report recall after re-ranking (needs all queries at once)."
    ),
    figures: Path | None = showing(
        None,
        "DIR",
        "Also draw figures: training, recall, scene confusion, map, mistakes (extra `plots`).",
        file_okay=False,
    ),
    min_mr: float | None = showing(None, "X", "Exit with code 3 if mR, the mean recall, is below X percent."),
    localization: Path | None = large_scene(
        None, "FILE", "Instead of recall, report how well heat maps mark the annotated places (extra `geo`)."
    ),
    images: Path | None = large_scene(
        None, "DIR", "Folder of the scenes. Default: that of the --localization file."
    ),
    tile_size: list[int] | None = options.TILE_SIZES,
    vocab: Path | None = options.CHECKPOINT_VOCAB,
    batch_size: int | None = options.BATCH_SIZE,
    device: str = options.DEVICE,
    json_: bool = options.JSON,
    csv_: bool = general(False, "--csv", "Print CSV: a header, and one row per run."),
    root: Path = options.ROOT,
    quiet: bool = options.QUIET,
) -> None:
    """Evaluate the recall of one or more runs on the test split.

    Examples:
        swan eval --scene-recall --ceiling
        swan eval --run cv --folds --csv
        swan eval --json --min-mr 30
    """
    from swancli.evaluate.report import evaluate_checkpoint, evaluate_file, evaluate_group
    from swancli.model.encoder import Encoder

    exclusive(run=run, checkpoint=checkpoint, embeddings=embeddings)
    exclusive(folds=folds, checkpoint=checkpoint, embeddings=embeddings)
    exclusive(vocab=vocab, embeddings=embeddings)
    exclusive(dataset=dataset, embeddings=embeddings)
    exclusive(json=json_, csv=csv_)
    exclusive(figures=figures, folds=folds)
    workspace, display = Workspace(root), Display(quiet)
    encoder_of = partial(Encoder, device=device, batch_size=batch_size, vocab=vocab)
    also = {"ceiling": ceiling, "rerank": rerank, "new_captions": new_captions}
    if localization:
        of_recall = {"folds": folds, "embeddings": embeddings, "figures": figures, "min_mr": min_mr}
        alone("localization", localization, **also, **of_recall, scene_recall=scene_recall, csv=csv_)
        path = checkpoint or workspace.find_encoder(run, dataset, foreign=True)
        _localize(localization, images, partial(encoder_of, path), tile_size or (), json_, display)
        return
    if images or tile_size:
        raise SwanError("--images and --tile-size need annotated scenes", "give them: --localization FILE")
    also |= {"split": None if split == "all" else split, "ties": ties, "scenes": scene_recall}
    group = _group(workspace, run, dataset, folds)
    if figures:
        _check_figures(group)
    with display.progress() as progress:
        if embeddings:
            report = evaluate_file(embeddings, **also)
        elif group:
            report = evaluate_group(
                workspace, group, dataset, encoder_of=encoder_of, progress=progress, **also
            )
        else:
            encoder = encoder_of(checkpoint or workspace.find_run_for(run, dataset))
            report = evaluate_checkpoint(encoder, workspace, dataset, progress=progress, **also)
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
        hint = "train some: swan train --folds 3 --run NAME"
        raise SwanError(f"{workspace.root}: no {which} with folds", hint)
    return group


def _check_figures(group: Group | None) -> None:
    """Refuses --figures without its extra, or of a group."""
    from swancli.evaluate import require_plots

    require_plots("--figures")
    if group:
        runs = ", ".join(member["run"] for member in group.members())
        raise SwanError(f"{group.file}: --figures draws one run, not a group", f"choose with --run: {runs}")


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
    """Prints the mean indicators of a checkpoint on annotated scenes."""
    from swancli.scene_image.annotations import evaluate_localization, read_annotations

    read = read_annotations(annotations, images)
    encoder = encoder_of()
    source = {"checkpoint": str(encoder.checkpoint.path), "localization": str(annotations)}
    with display.progress() as progress:
        report = evaluate_localization(encoder, read, source, sizes=sizes, progress=progress)
    record = report.record()
    if as_json:
        print_json(record, indent=1)
        return
    show_table(
        f"localization · {encoder.checkpoint.path}",
        ["Rsu (higher)", "Ras (lower)", "Rda (higher)", "Rmi (higher)"],
        [[f"{value:.4f}" for value in report.mean().values()]],
        notes=[f"means, each from 0 to 1; annotations: {record['annotations']}, scenes: {record['scenes']}"],
    )
