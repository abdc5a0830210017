"""`swan train`: dataset.h5 and vocab.h5 -> a run."""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

import typer

from swancli.commands.options import (
    DEFAULT_ROOT,
    Augmentation,
    BackboneName,
    DatasetName,
    Device,
    Json,
    Precision,
    Quiet,
    Root,
    exclusive,
    given_options,
)
from swancli.console import Display, print_report, warn
from swancli.errors import SwanError
from swancli.workspace import Workspace, named_checkpoint

Loss = Literal["sum", "hardest"]
Schedule = Literal["step", "cosine"]
Variant = Literal["repaired", "published"]
FoldRule = Literal["random", "stratified"]

# Panels of `swan train --help`.
MODEL, RECIPE, SEVERAL = "Model and where it starts", "Recipe", "Several runs"
SPEED = "Speed"

# What may stand beside `train --resume`.
RESUMABLE = {"dataset", "run", "epochs", "resume", "device", "export_published", "json_", "root", "quiet"}


def train(
    context: typer.Context,
    dataset: DatasetName = None,
    vocab: Annotated[
        Path | None,
        typer.Option(
            help="vocab.h5 or published JSON. Default: vocab.h5 of the data set.", rich_help_panel=MODEL
        ),
    ] = None,
    epochs: Annotated[
        int, typer.Option(min=1, help="Passes over all captions (paper: 50).", rich_help_panel=RECIPE)
    ] = 30,
    batch_size: Annotated[
        int,
        typer.Option(
            min=2, help="Captions in a step, of all processes (paper: 100).", rich_help_panel=RECIPE
        ),
    ] = 100,
    captions_per_image: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Captions that share one pass of their image (paper: 1). Default: 5 from random weights, "
            "else 1.",
            rich_help_panel=RECIPE,
        ),
    ] = None,
    lr: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            help="Adam's learning rate (paper: 2e-4). Default: 1e-3 from random weights, else 5e-4.",
            rich_help_panel=RECIPE,
        ),
    ] = None,
    backbone_rate: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            help="Share of --lr for a backbone that is trained (paper: frozen). Default: 1 from random "
            "weights, else 0.4.",
            rich_help_panel=RECIPE,
        ),
    ] = None,
    variant: Annotated[
        Variant,
        typer.Option(
            help="published: as the published code computes, defects included, and trained by its recipe "
            "where no other option is given. repaired: as the paper describes it.",
            rich_help_panel=MODEL,
        ),
    ] = "repaired",
    without: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[vmsf|sfgs|tcge|wsa]",
            help="Leave a part of the model out; may be given several times. wsa: plain attention.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    compare: Annotated[
        str,
        typer.Option(
            help="Train each of a list and print one table: full, published, repaired, or what to leave out, "
            "as in full,vmsf,sfgs,vmsf+sfgs.",
            rich_help_panel=SEVERAL,
        ),
    ] = "",
    folds: Annotated[
        int,
        typer.Option(
            min=0,
            help="Train so many runs on drawn 80/20 splits of train and val; average them.",
            rich_help_panel=SEVERAL,
        ),
    ] = 0,
    fold_split: Annotated[
        FoldRule,
        typer.Option(
            help="How --folds draws: over all images, or within each scene.", rich_help_panel=SEVERAL
        ),
    ] = "random",
    init_from: Annotated[
        str,
        typer.Option(
            help="Start from the weights of a run or a checkpoint file, also a published one; or `shipped`.",
            rich_help_panel=MODEL,
        ),
    ] = "",
    schedule: Annotated[
        Schedule,
        typer.Option(
            help="step: x0.7 every 20 epochs, as the paper. cosine: up in the first epoch, then down to 0.",
            rich_help_panel=RECIPE,
        ),
    ] = "cosine",
    backbone: Annotated[
        BackboneName, typer.Option(help="Convolutional network (paper: resnet50).", rich_help_panel=MODEL)
    ] = "resnet18",
    weights: Annotated[
        Path | None,
        typer.Option(
            help="Starting weights of the backbone: of torchvision, AID, `swan pretrain` or a checkpoint.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    freeze: Annotated[
        bool | None,
        typer.Option(
            "--freeze/--fine-tune",
            help="Default: frozen when --weights is given (paper: frozen).",
            rich_help_panel=MODEL,
        ),
    ] = None,
    image_size: Annotated[
        int, typer.Option(min=32, help="Side in pixels of the model's input.", rich_help_panel=MODEL)
    ] = 256,
    embed_dim: Annotated[
        int,
        typer.Option(
            min=16, help="Dimensions of an embedding, a multiple of 8 (paper: 512).", rich_help_panel=MODEL
        ),
    ] = 512,
    augmentation: Annotated[
        Augmentation,
        typer.Option(
            help="paper: rotation up to 90 degrees, crop. overhead: flips, quarter turns, crops, colour; "
            "none, where captions say left or upper.",
            rich_help_panel=RECIPE,
        ),
    ] = "overhead",
    loss: Annotated[
        Loss,
        typer.Option(
            help="Hinge loss over all negatives of a batch, or the hardest.", rich_help_panel=RECIPE
        ),
    ] = "sum",
    margin: Annotated[
        float, typer.Option(min=0.0, help="Margin of the hinge loss, in cosine.", rich_help_panel=RECIPE)
    ] = 0.2,
    clip_norm: Annotated[
        float,
        typer.Option(
            min=0.0, help="Largest norm of the gradients; 0 does not clip (paper: 0).", rich_help_panel=RECIPE
        ),
    ] = 0.0,
    features: Annotated[
        bool,
        typer.Option(
            "--features",
            help="Train the heads alone, on what `prepare --features` wrote.",
            rich_help_panel=SPEED,
        ),
    ] = False,
    precision: Annotated[
        Precision,
        typer.Option(
            help="bf16: bfloat16, faster on GPUs and on CPUs that multiply it (AVX512-BF16, AMX).",
            rich_help_panel=SPEED,
        ),
    ] = "fp32",
    compile: Annotated[
        bool,
        typer.Option(
            "--compile",
            help="torch.compile the backbone, for up to a minute: for GPUs; gains next to nothing on a CPU.",
            rich_help_panel=SPEED,
        ),
    ] = False,
    device: Device = "auto",
    seed: Annotated[
        int, typer.Option(help="Seed of weights, batches, views and dropout.", rich_help_panel=RECIPE)
    ] = 0,
    run: Annotated[str | None, typer.Option(help="Name of the run. Default: date and time.")] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Go on with --run, or the newest run; with --schedule step --epochs may change."
        ),
    ] = False,
    export_published: Annotated[
        Path | None,
        typer.Option(
            dir_okay=False, help="Also write the best checkpoint in the layout of the published code."
        ),
    ] = None,
    json_: Json = False,
    root: Root = DEFAULT_ROOT,
    quiet: Quiet = False,
) -> None:
    """Train SWAN on a data set; the best checkpoint is chosen on its validation split.

    On several processes: torchrun --nproc-per-node 4 -m swancli train ...
    """
    from swancli.machine.device import choose_device
    from swancli.machine.processes import joined
    from swancli.model.checkpoint import export_published as export
    from swancli.model.checkpoint import load_checkpoint
    from swancli.model.published import refuse_unpublishable
    from swancli.train.config import model_settings, new_config
    from swancli.train.group import Runs, plan_runs, resumed_runs, train_runs

    exclusive(compare=compare, without=without)
    exclusive(weights=weights, init_from=init_from)
    exclusive(export_published=export_published, folds=folds, compare=compare)
    exclusive(features=features, folds=folds)  # whose draws of train and val are others
    exclusive(features=features, compile=compile)  # of a backbone that does not run
    if resume:
        _refuse_changes(context, RESUMABLE)
    workspace = Workspace(root)

    def new_runs(run_name: str) -> Runs:
        name = dataset or workspace.newest_dataset()
        options = {
            "dataset": name,
            "vocab": str(vocab or workspace.vocab(name)),
            "weights": str(named_checkpoint(weights)) if weights else "",
            "init_from": str(workspace.find_checkpoint(init_from)) if init_from else "",
            "freeze": freeze,
            "backbone": backbone,
            "image_size": image_size,
            "embed_dim": embed_dim,
            "variant": variant,
            "without": tuple(part for parts in without or () for part in re.split("[,+]", parts)),
            "epochs": epochs,
            "batch_size": batch_size,
            "captions_per_image": captions_per_image,
            "lr": lr,
            "backbone_rate": backbone_rate,
            "schedule": schedule,
            "loss": loss,
            "margin": margin,
            "clip_norm": clip_norm,
            "augmentation": augmentation,
            "precision": precision,
            "compiled": compile,
            "features": str(workspace.features(name)) if features else "",
            "seed": seed,
        }
        return plan_runs(
            workspace.run(name, run_name),
            new_config(options, given_options(context)),
            variants=[entry.strip() for entry in compare.split(",") if entry.strip()],
            folds=folds,
            fold_rule=fold_split,
        )

    with joined(choose_device(device)) as processes:

        def planned() -> Runs:
            begun = processes.agreed("run", "")  # before torchrun started the processes again
            if resume or (begun and workspace.has_run(begun, dataset)):
                length = epochs if resume and "epochs" in given_options(context) else None
                return resumed_runs(workspace, begun or run, dataset, length)
            runs = new_runs(begun or run or datetime.now().strftime("%Y%m%d-%H%M%S"))
            processes.agreed("run", runs.folder.name)
            return runs

        runs = processes.by_first(planned)
        config = runs.members[0].config
        if export_published:
            refuse_unpublishable(model_settings(config, words=0))
        if processes.first and config.frozen and not (config.weights or config.init_from):
            warn("the backbone is frozen at random weights: give --weights FILE, or --fine-tune it")
        display = Display(quiet or not processes.first)
        report = train_runs(workspace, runs, device, display.training, processes)
    if not report:
        return
    if export_published:
        export(load_checkpoint(runs.folder / "best.pt"), export_published)
    print_report(report, as_json=json_, as_csv=False)
    display.note(f"wrote {runs.folder}; next: swan eval --run {runs.folder.name}")


def _refuse_changes(context: typer.Context, allowed: set[str]) -> None:
    changed = sorted(given_options(context) - allowed)
    if changed:
        option = "--" + changed[0].replace("_", "-")
        raise SwanError(
            f"--resume goes on with the run's own settings, {option} cannot change them",
            "leave it out, or start a new run",
        )
