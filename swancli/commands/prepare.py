"""`swan prepare`: a source of images and captions -> dataset.h5, features.h5."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from swancli.commands.options import (
    DEFAULT_ROOT,
    Augmentation,
    BackboneName,
    Device,
    Format,
    Missing,
    Quiet,
    Root,
    given_options,
)
from swancli.console import Display, show_features, show_prepared, warn
from swancli.errors import SwanError
from swancli.workspace import Workspace

SplitRule = Literal["given", "random", "stratified"]

FEATURES = "Features: maps of the frozen backbone, so that `train --features` trains the heads alone"

# Options of `prepare` that act on the source, and those that act on features.
SOURCE_OPTIONS = {"images", "format", "size", "missing", "split", "val_fraction", "workers"}
FEATURE_OPTIONS = {"backbone", "weights", "image_size", "augmentation", "views", "max_gb", "device"}


def prepare(
    context: typer.Context,
    dataset: Annotated[str, typer.Option(help="Name to give the data set; `demo` generates one.")],
    source: Annotated[
        Path | None, typer.Option(help="JSON, text lists, CSV or Parquet, or the folder that holds them.")
    ] = None,
    images: Annotated[
        Path | None, typer.Option(help="Folder of the images. Default: looked for beside the source.")
    ] = None,
    format: Format = None,
    size: Annotated[
        int | None,
        typer.Option(min=16, help="Side in pixels to store images at. Default: as most of them are."),
    ] = None,
    missing: Annotated[
        Missing, typer.Option(help="What to do about absent and unreadable images.")
    ] = "error",
    split: Annotated[
        SplitRule, typer.Option(help="Take the source's splits, or draw train and val (and test if none).")
    ] = "given",
    val_fraction: Annotated[
        float, typer.Option(min=0.01, max=0.9, help="Share of images drawn for val (paper: 0.2).")
    ] = 0.2,
    seed: Annotated[int, typer.Option(help="Seed of drawn splits, of generated data, and of features.")] = 0,
    workers: Annotated[int | None, typer.Option(min=1, help="Decoding threads. Default: one a core.")] = None,
    features: Annotated[
        bool,
        typer.Option(
            "--features",
            help="Write features.h5; of the data set that stands, when no source is given.",
            rich_help_panel=FEATURES,
        ),
    ] = False,
    backbone: Annotated[
        BackboneName,
        typer.Option(help="Convolutional network (paper: resnet50).", rich_help_panel=FEATURES),
    ] = "resnet18",
    weights: Annotated[
        Path | None,
        typer.Option(
            help="Weights of the backbone: a torchvision or AID file, or a checkpoint.",
            rich_help_panel=FEATURES,
        ),
    ] = None,
    image_size: Annotated[
        int, typer.Option(min=32, help="Side in pixels of the model's input.", rich_help_panel=FEATURES)
    ] = 256,
    augmentation: Annotated[
        Augmentation, typer.Option(help="How views vary, as for train.", rich_help_panel=FEATURES)
    ] = "overhead",
    views: Annotated[
        int, typer.Option(min=1, help="Views of each training image.", rich_help_panel=FEATURES)
    ] = 4,
    max_gb: Annotated[
        float,
        typer.Option(
            min=0, help="Most that features may take on disk, 10^9 bytes.", rich_help_panel=FEATURES
        ),
    ] = 20,
    device: Device = "auto",
    root: Root = DEFAULT_ROOT,
    quiet: Quiet = False,
) -> None:
    """Read a source of images and captions into dataset.h5; with --features, also into features.h5."""
    from swancli.prepare.build import PrepareSettings, prepare_dataset

    workspace, display = Workspace(root), Display(quiet)
    path, given = workspace.dataset(dataset), given_options(context)
    standing = features and source is None and path.exists()
    needless = given & (SOURCE_OPTIONS if standing else set() if features else FEATURE_OPTIONS)
    if needless:
        option = "--" + min(needless).replace("_", "-")
        whose = f"{path} stands and is not read again" if standing else "no --features"
        raise SwanError(f"{option} has nothing to act on: {whose}", f"leave {option} out")
    if weights and not weights.is_file():
        raise SwanError(f"--weights {weights}: no such file")
    settings = PrepareSettings(
        name=dataset,
        source=source,
        images=images,
        format=format,
        size=size,
        missing=missing,
        split=split,
        val_fraction=val_fraction,
        seed=seed,
        workers=workers or os.cpu_count() or 1,
    )
    if not standing:
        with display.progress() as progress:
            summary = prepare_dataset(settings, path, progress)
        show_prepared(dataset, summary)
        for warning in summary.warnings:
            warn(warning)
        display.note(f"wrote {path}; next: swan vocab --dataset {dataset}")
    if features:
        made_of = {
            "backbone": backbone,
            "weights": str(weights.resolve()) if weights else "",
            "image_size": image_size,
            "augmentation": augmentation,
            "views": views,
            "seed": seed,
        }
        _prepare_features(workspace, dataset, made_of, max_gb, device, display)


def _prepare_features(
    workspace: Workspace, dataset: str, made_of: dict[str, Any], max_gb: float, device: str, display: Display
) -> None:
    from swancli.machine.device import choose_device
    from swancli.store.dataset import Dataset
    from swancli.train.features import FeatureSettings, features_cost, write_features

    path, settings = workspace.features(dataset), FeatureSettings(**made_of)
    with Dataset(workspace.dataset(dataset)) as stored:
        cost = features_cost(stored, settings, path, max_gb)
        display.note(f"features will take {cost.size / 1e9:.2f} GB in {path}")
        with display.progress() as progress:
            write_features(stored, settings, path, choose_device(device), progress)
    show_features(path, cost)
    display.note(f"next: swan train --dataset {dataset} --features")
