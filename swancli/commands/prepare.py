"""`swan prepare`: a source of images and captions -> dataset.h5, features.h5."""

from __future__ import annotations

import os
from dataclasses import astuple
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import typer
from rich.filesize import decimal

from swancli.commands import options
from swancli.commands.options import chosen, given_options, option, option_in, rendering_of
from swancli.console import Display, show_fields, show_table, warn
from swancli.errors import SwanError
from swancli.workspace import NO_WEIGHTS, WEIGHTS_HINT, WITH_SWAN, Workspace, named_checkpoint

if TYPE_CHECKING:
    from swancli.prepare.build import Summary

SplitRule = Literal["given", "random", "stratified"]

reading = option_in("How the source is read")
caching = option_in("Features, for `train --features`")

# Options of `prepare` that act on the source, and those that act on features.
SOURCE_OPTIONS = {
    *("images", "format", "size", "missing", "split", "val_fraction", "scene_from", "workers"),
    *("bands", "stretch"),
}
FEATURE_OPTIONS = {"backbone", "weights", "text", "image_size", "augmentation", "views", "max_gb", "device"}


def prepare(
    context: typer.Context,
    dataset: str = option(..., "NAME", "Name for the data set; the name `demo` generates one."),
    source: Path | None = option(
        None, "PATH", "A JSON list, a CSV or Parquet table, or a folder with lists or images."
    ),
    images: Path | None = option(None, "DIR", "Folder of the images. Default: found next to the source."),
    format: options.SourceFormat | None = options.FORMAT,
    split: SplitRule = reading(
        "given",
        "RULE",
        "given: as in the source. random or stratified (by scene): draw val, and test if "
        "the source has none.",
    ),
    val_fraction: float = reading(0.2, "X", "Share of images to draw for val.", min=0.01, max=0.9),
    scene_from: options.SceneFrom | None = reading(
        None,
        "name|folder|none",
        "Scenes: the letters before the number in a file name, or its folder. Default: those of the source; "
        "else folders or names, if several images share each.",
    ),
    missing: options.Missing = reading("error", "error|skip", "What to do with missing or damaged images."),
    size: int | None = reading(
        None, "N", "Store images with N pixels per side. Default: the most common.", min=16
    ),
    bands: str | None = options.BANDS,
    stretch: str | None = options.STRETCH,
    seed: int = reading(0, "N", "Seed for random splits, generated data and features."),
    workers: int | None = reading(None, "N", "Decoding threads. Default: one per core.", min=1),
    features: bool = caching(
        False, "--features", "Also write features.h5. Without --source, use the existing data set."
    ),
    backbone: str | None = caching(None, "NAME", "As for train."),
    weights: str | None = caching(None, "FILE", "As for train."),
    text: str | None = caching(
        None, "NAME", "As for train; gru, which is always trained, has no features.", path=True
    ),
    image_size: int | None = caching(
        None, "N", "Side in pixels of the input. Default: the backbone's, 256 for ResNets.", min=32
    ),
    augmentation: options.Augmentation = caching("overhead", "NAME", "paper, overhead or none, as in train."),
    views: int = caching(4, "N", "Augmented views per training image.", min=1),
    max_gb: float = caching(20, "X", "Maximum disk space for features, in GB (10^9 bytes).", min=0),
    device: str = options.DEVICE,
    root: Path = options.ROOT,
    quiet: bool = options.QUIET,
) -> None:
    """Read images and captions and write dataset.h5.

    Examples:
        swan prepare --dataset ucm --source UCM_captions
        swan prepare --dataset mine --source captions.csv --images photos --split random
        swan prepare --dataset ucm --features
    """
    from swancli.prepare.build import PrepareSettings, prepare_dataset

    workspace, display = Workspace(root), Display(quiet)
    path, given = workspace.dataset(dataset), given_options(context)
    exists = features and source is None and path.exists()
    needless = given & (SOURCE_OPTIONS if exists else set() if features else FEATURE_OPTIONS)
    if needless:
        option = "--" + min(needless).replace("_", "-")
        reason = f"{path} exists and is not read again" if exists else "no --features"
        raise SwanError(f"{option} has nothing to act on: {reason}", f"leave {option} out")
    weights = weights and str(named_checkpoint(Path(weights)))
    if weights and weights not in (WITH_SWAN, NO_WEIGHTS) and not Path(weights).is_file():
        raise SwanError(f"--weights {weights}: no such file", WEIGHTS_HINT)
    if not exists:
        read = chosen(
            context,
            *("source", "images", "format", "size", "missing", "split", "val_fraction", "seed", "scene_from"),
        )
        rendering, one_scale = rendering_of(bands, stretch)
        settings = PrepareSettings(
            dataset,
            **read,
            workers=workers or os.cpu_count() or 1,
            rendering=rendering,
            one_scale=one_scale,
        )
        with display.progress() as progress:
            summary = prepare_dataset(settings, path, progress)
        show_prepared(dataset, summary)
        display.note(f"wrote {path}; next: swan train --dataset {dataset}")
    if features:
        made_of = chosen(context, "backbone", "text", "image_size", "augmentation", "views", "seed")
        made_of["weights"] = weights
        _prepare_features(workspace, dataset, made_of, max_gb, device, display)


def show_prepared(dataset: str, summary: Summary) -> None:
    """Prints what was written, split by split, and what was left out and why; warns of doubtful data."""
    stored = "at their own sizes" if summary.shape is None else f"{summary.shape[1]} x {summary.shape[0]} px"
    heads = ["split", "images", "captions", "scenes"]
    rows = [[part.split or "none", *map(str, astuple(part)[1:])] for part in summary.splits]
    notes = [f"images stored {stored}"]
    if summary.scenes:
        notes.append(f"scenes: {summary.scenes}")
    show_table(dataset, heads, rows, left=["split"], notes=notes)
    if summary.skipped:
        left_out = [[group.reason, str(group.count), group.pattern, group.first] for group in summary.skipped]
        heads = ["why", "images", "named", "first"]
        show_table("left out", heads, left_out, texts=["why"], left=["named", "first"])
    for warning in summary.warnings:
        warn(warning)


def _prepare_features(
    workspace: Workspace, dataset: str, made_of: dict[str, Any], max_gb: float, device: str, display: Display
) -> None:
    from swancli.machine.device import choose_device
    from swancli.model.backbone import preprocessing_of
    from swancli.model.settings import GRU
    from swancli.model.start import named_towers
    from swancli.store.dataset import Dataset
    from swancli.train.features import FeatureSettings, Towers, features_cost, write_features

    names = ("backbone", "weights", "text")
    made_of |= zip(names, named_towers(*(made_of[name] for name in names)), strict=True)
    # Absolute, since a run may be started from elsewhere. Names of what comes with swan are no paths.
    for name in ("weights", "text"):
        if made_of[name] not in ("", GRU) and Path(made_of[name]).exists():
            made_of[name] = str(Path(made_of[name]).resolve())
    made_of["image_size"] = made_of["image_size"] or preprocessing_of(made_of["backbone"]).size
    path, towers = workspace.features(dataset), Towers(FeatureSettings(**made_of))
    with Dataset(workspace.dataset(dataset)) as stored:
        cost = features_cost(stored, towers, path, max_gb)
        size = decimal(cost.size)
        display.note(f"features will take {size} in {path}", at_once=True)
        with display.progress() as progress:
            write_features(stored, towers, path, choose_device(device), progress)
    show_fields(
        "features",
        training_images=cost.training,
        views_of_each=cost.views,
        validation_images=cost.validation,
        size=size,
        file=path,
    )
    display.note(f"next: swan train --dataset {dataset} --features")
