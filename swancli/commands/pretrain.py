"""`swan pretrain`: the scenes of a data set -> a backbone."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from swancli.commands.options import (
    DEFAULT_ROOT,
    BackboneName,
    DatasetName,
    Device,
    Json,
    Precision,
    Quiet,
    Root,
)
from swancli.console import Display, print_json, show_pretrained
from swancli.workspace import Workspace, named_checkpoint


def pretrain(
    dataset: DatasetName = None,
    backbone: Annotated[
        BackboneName, typer.Option(help="Convolutional network (paper: resnet50).")
    ] = "resnet18",
    weights: Annotated[
        Path | None, typer.Option(help="Weights to start from, as for train. Default: random ones.")
    ] = None,
    image_size: Annotated[int, typer.Option(min=32, help="Side in pixels of the network's input.")] = 256,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over all training images.")] = 30,
    batch_size: Annotated[int, typer.Option(min=2, help="Images in a step.")] = 64,
    lr: Annotated[float, typer.Option(min=0.0, help="Learning rate of SGD at its highest.")] = 0.1,
    output: Annotated[
        Path | None,
        typer.Option(dir_okay=False, help="File to write. Default: backbone-NAME.pt beside the data set."),
    ] = None,
    precision: Annotated[Precision, typer.Option(help="bf16: bfloat16, as for train.")] = "fp32",
    device: Device = "auto",
    seed: Annotated[int, typer.Option(help="Seed of weights, batches and views.")] = 0,
    json_: Json = False,
    root: Root = DEFAULT_ROOT,
    quiet: Quiet = False,
) -> None:
    """Train a backbone to tell the scenes of the training images apart, for `train --weights`."""
    from swancli.machine.device import choose_device
    from swancli.store.dataset import Dataset
    from swancli.train.pretrain import SceneSettings, train_on_scenes

    workspace, display = Workspace(root), Display(quiet)
    name = dataset or workspace.newest_dataset()
    path = output or workspace.backbone(name, backbone)
    settings = SceneSettings(
        backbone=backbone,
        weights=str(named_checkpoint(weights)) if weights else "",
        image_size=image_size,
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        precision=precision,
        seed=seed,
    )
    with Dataset(workspace.dataset(name)) as stored, display.pretraining() as (progress, on_epoch):
        outcome = train_on_scenes(stored, settings, path, choose_device(device), progress, on_epoch)
    if json_:
        print_json({"dataset": name, "file": str(path), **asdict(outcome)})
    else:
        show_pretrained(name, path, outcome)
    display.note(f"next: swan train --dataset {name} --backbone {backbone} --weights {path}")
