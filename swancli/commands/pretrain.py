"""`swan pretrain`: the scenes of a data set -> a backbone."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from swancli.commands import options
from swancli.commands.options import chosen, option, prepared_dataset
from swancli.console import Display, print_json, show_fields
from swancli.workspace import NO_WEIGHTS, Workspace, named_checkpoint

if TYPE_CHECKING:
    from swancli.train.pretrain import SceneAccuracy


def pretrain(
    context: typer.Context,
    dataset: str | None = options.DATASET,
    backbone: str = option("resnet18", "NAME", "resnet18, 34, 50 or timm/NAME (paper: resnet50)."),
    weights: str = option("", "FILE", "Weights to start from, as for train. Default: random."),
    image_size: int | None = option(
        None, "N", "Side in pixels of the input. Default: the network's, 256 for ResNets.", min=32
    ),
    epochs: int = option(30, "N", "Passes over all training images.", min=1),
    batch_size: int = option(64, "N", "Images per step.", min=2),
    lr: float = option(0.1, "X", "Peak learning rate of SGD.", min=0.0),
    precision: options.Precision = option("fp32", "fp32|bf16", "bf16: bfloat16, as for train."),
    seed: int = option(0, "N", "Seed for weights, batches and views."),
    output: Path | None = option(None, "FILE", "Output file. Default: next to the data set.", dir_okay=False),
    device: str = options.DEVICE,
    json_: bool = options.JSON,
    root: Path = options.ROOT,
    quiet: bool = options.QUIET,
) -> None:
    """Train a backbone to classify the scenes of the training images, for `train --weights`.

    Examples:
        swan pretrain --dataset rsicd
        swan pretrain --dataset rsicd --backbone resnet50 --epochs 60
    """
    from swancli.machine.device import choose_device
    from swancli.model.backbone import preprocessing_of
    from swancli.store.dataset import Dataset
    from swancli.train.pretrain import SceneSettings, train_on_scenes

    workspace, display = Workspace(root), Display(quiet)
    name = prepared_dataset(workspace, dataset)
    path = output or workspace.dataset(name).with_name(f"backbone-{backbone.replace('/', '-')}.pt")
    recipe = chosen(context, "backbone", "epochs", "batch_size", "lr", "precision", "seed")
    recipe["image_size"] = image_size or preprocessing_of(backbone).size
    start = "" if weights == NO_WEIGHTS else weights and str(named_checkpoint(Path(weights)))
    settings = SceneSettings(weights=start, **recipe)

    def on_epoch(epoch: int, loss: float, accuracy: SceneAccuracy) -> None:
        share = _percent(accuracy.accuracy)
        display.note(f"epoch {epoch:3}  loss {loss:.3f}  validation accuracy {share}")

    with Dataset(workspace.dataset(name)) as stored, display.progress() as progress:
        outcome = train_on_scenes(stored, settings, path, choose_device(device), progress, on_epoch)
    if json_:
        print_json({"dataset": name, "file": str(path), **asdict(outcome)})
    else:
        show_fields(
            f"backbone trained on the scenes of {name}",
            scenes=outcome.scenes,
            training_images=outcome.training,
            validation_images=outcome.validation,
            accuracy=_percent(outcome.accuracy),
            file=path,
        )
    display.note(f"next: swan train --dataset {name} --backbone {backbone} --weights {path}")


def _percent(share: float | None) -> str:
    return "none" if share is None else f"{share:.1f} %"
