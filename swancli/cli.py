"""The commands of `swan`: each reads its options, calls one function of its step and prints.

Heavy imports (torch, pandas, h5py) stand inside the commands, so that `swan --help` answers at once.
"""

from __future__ import annotations

import gc
import json
import os
import re
import sys
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from swancli.console import (
    NOT_MET,
    Boundary,
    Display,
    show_answer,
    show_embedded,
    show_features,
    show_group,
    show_prepared,
    show_pretrained,
    show_report,
    show_scores,
    show_vocabulary,
    step,
    warn,
)
from swancli.errors import SwanError
from swancli.workspace import SHIPPED, Workspace, is_shipped, named_checkpoint

if TYPE_CHECKING:
    from swancli.evaluate.report import GroupReport, Report
    from swancli.model.checkpoint import Checkpoint
    from swancli.query.search import Answer

app = typer.Typer(
    cls=Boundary,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Find the overhead image that a sentence describes, and the sentence for an image.",
    epilog="The way through: prepare, vocab, train, eval, embed, query. `swan demo` shows all of it.",
)


SourceFormat = Literal["karpathy", "precomp", "ucm", "nwpu", "table", "folder"]
Missing = Literal["error", "skip"]
SplitRule = Literal["given", "random", "stratified"]
StopWords = Literal["keep", "drop"]
CountedSplits = Literal["train", "all"]
BackboneName = Literal["resnet18", "resnet34", "resnet50"]
Augmentation = Literal["paper", "overhead", "none"]
Loss = Literal["sum", "hardest"]
Schedule = Literal["step", "cosine"]
Precision = Literal["fp32", "bf16"]
Variant = Literal["repaired", "published"]
FoldRule = Literal["random", "stratified"]
Ties = Literal["expected", "best", "worst"]

Root = Annotated[
    Path, typer.Option(envvar="SWAN_ROOT", help="Folder that everything is written under.", file_okay=False)
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no notes on standard error.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps; auto takes a GPU when there is one.")]
DatasetName = Annotated[str | None, typer.Option(help="Name of the data set. Default: the newest one.")]
RunName = Annotated[str | None, typer.Option("--run", help="Name of the run. Default: the newest one.")]
CheckpointFile = Annotated[
    Path | None,
    typer.Option(
        help="A checkpoint file, in place of a run; `shipped` is the one that comes with swan.",
        callback=lambda path: named_checkpoint(path) if path else None,
    ),
]
Format = Annotated[SourceFormat | None, typer.Option(help="Layout of the source. Default: recognised.")]
CheckpointVocab = Annotated[
    Path | None,
    typer.Option(
        "--vocab", help="Vocabulary of a published checkpoint, which carries none: JSON or vocab.h5."
    ),
]
BatchSize = Annotated[
    int | None, typer.Option(min=1, help="Images encoded at a time. Default: 32, on a GPU 256.")
]

# Panels of `swan train --help`.
MODEL, RECIPE, SEVERAL = "Model and where it starts", "Recipe", "Several runs"
SPEED = "Speed"
FEATURES = "Features: maps of the frozen backbone, so that `train --features` trains the heads alone"

# Options of `prepare` that act on the source, and those that act on features.
SOURCE_OPTIONS = {"images", "format", "size", "missing", "split", "val_fraction", "workers"}
FEATURE_OPTIONS = {"backbone", "weights", "image_size", "augmentation", "views", "max_gb", "device"}

QUESTIONS = 256  # of `query --batch` at a time
DEFAULT_ROOT = Path("swan-data")
# What may stand beside `train --resume`.
RESUMABLE = {"dataset", "run", "epochs", "resume", "device", "export_published", "json_", "root", "quiet"}


def _version(asked: bool) -> None:
    if asked:
        from swancli import __version__

        typer.echo(f"swan {__version__}")
        raise typer.Exit


@app.callback()
def swan(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and leave.")
    ] = False,
) -> None:
    """Find the overhead image that a sentence describes, and the sentence for an image."""


@app.command()
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
    path, given = workspace.dataset(dataset), _given(context)
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
    from swancli.device import choose_device
    from swancli.features import FeatureSettings, features_cost, write_features
    from swancli.store import Dataset

    path, settings = workspace.features(dataset), FeatureSettings(**made_of)
    with Dataset(workspace.dataset(dataset)) as stored:
        cost = features_cost(stored, settings, path, max_gb)
        display.note(f"features will take {cost.size / 1e9:.2f} GB in {path}")
        with display.progress() as progress:
            write_features(stored, settings, path, choose_device(device), progress)
    show_features(path, cost)
    display.note(f"next: swan train --dataset {dataset} --features")


@app.command()
def vocab(
    dataset: DatasetName = None,
    source: Annotated[
        Path | None, typer.Option(help="Count the captions of a source (as for prepare); needs no images.")
    ] = None,
    format: Format = None,
    output: Annotated[
        Path | None, typer.Option(help="File to write. Default: vocab.h5 of the data set.")
    ] = None,
    min_count: Annotated[
        int, typer.Option(min=1, help="Least number of times a word is seen (paper: 5).")
    ] = 1,
    stop_words: Annotated[StopWords, typer.Option(help="English stop words (paper: drop).")] = "keep",
    splits: Annotated[
        CountedSplits, typer.Option(help="Captions to count (paper: train and test).")
    ] = "train",
    import_: Annotated[
        Path | None, typer.Option("--import", help="Take the words of a published JSON vocabulary.")
    ] = None,
    export: Annotated[Path | None, typer.Option(help="Also write the published JSON layout.")] = None,
    vectors: Annotated[
        Path | None, typer.Option(help="Add the words' vectors from a GloVe text file of 300 dimensions.")
    ] = None,
    root: Root = DEFAULT_ROOT,
    quiet: Quiet = False,
) -> None:
    """Count the words of the captions into vocab.h5."""
    from swancli.vocab import count_words, export_json, read_vocabulary, write_vocabulary
    from swancli.word_vectors import read_word_vectors

    _exclusive(source=source, **{"import": import_})
    workspace = Workspace(root)
    if source and not (dataset or output):
        raise SwanError(
            "--source alone does not say where the words go", "add --dataset NAME or --output FILE"
        )
    if not (output and (source or import_)):
        dataset = dataset or workspace.newest_dataset()
    path = output or workspace.vocab(dataset)
    if import_:
        vocabulary = read_vocabulary(import_)
    else:
        texts = _captions(workspace, dataset, source, format, splits)
        name = dataset or source.resolve().stem
        vocabulary = count_words(texts, min_count=min_count, stop_words=stop_words, dataset=name)
    display, found = Display(quiet), None
    if vectors:
        with display.progress() as progress:
            found = read_word_vectors(vectors, vocabulary.words, progress)
    write_vocabulary(path, vocabulary, found)
    if export:
        export_json(export, vocabulary)
    show_vocabulary(vocabulary, path, found)
    if dataset:
        display.note(f"next: swan train --dataset {dataset}")


@app.command()
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
        Path | None, typer.Option(help="File to write. Default: backbone-NAME.pt beside the data set.")
    ] = None,
    precision: Annotated[Precision, typer.Option(help="bf16: bfloat16, as for train.")] = "fp32",
    device: Device = "auto",
    seed: Annotated[int, typer.Option(help="Seed of weights, batches and views.")] = 0,
    json_: Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")] = False,
    root: Root = DEFAULT_ROOT,
    quiet: Quiet = False,
) -> None:
    """Train a backbone to tell the scenes of the training images apart, for `train --weights`."""
    from swancli.device import choose_device
    from swancli.store import Dataset
    from swancli.train.scenes import SceneSettings, train_on_scenes

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
        print(json.dumps({"dataset": name, "file": str(path), **asdict(outcome)}))
    else:
        show_pretrained(name, path, outcome)
    display.note(f"next: swan train --dataset {name} --backbone {backbone} --weights {path}")


@app.command()
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
        int, typer.Option(min=2, help="Captions in a step (paper: 100).", rich_help_panel=RECIPE)
    ] = 100,
    captions_per_image: Annotated[
        int,
        typer.Option(
            min=1, help="Captions that share one pass of their image (paper: 1).", rich_help_panel=RECIPE
        ),
    ] = 5,
    lr: Annotated[
        float, typer.Option(min=0.0, help="Adam's learning rate (paper: 2e-4).", rich_help_panel=RECIPE)
    ] = 1e-3,
    backbone_rate: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            help="Share of --lr for a backbone that is trained (paper: frozen). Default: 1 from random "
            "weights, else 0.2.",
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
        typer.Option(help="Also write the best checkpoint in the layout of the published code."),
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")] = False,
    root: Root = DEFAULT_ROOT,
    quiet: Quiet = False,
) -> None:
    """Train SWAN on a data set; the best checkpoint is chosen on its validation split."""
    from swancli.model.checkpoint import export_published as export
    from swancli.model.checkpoint import load_checkpoint
    from swancli.model.published import refuse_unpublishable
    from swancli.train.group import plan_runs, resumed_runs, train_runs
    from swancli.train.run import model_settings, new_config

    _exclusive(compare=compare, without=without)
    _exclusive(weights=weights, init_from=init_from)
    _exclusive(export_published=export_published, folds=folds, compare=compare)
    _exclusive(features=features, folds=folds)  # whose draws of train and val are others
    _exclusive(features=features, compile=compile)  # of a backbone that does not run
    workspace, display = Workspace(root), Display(quiet)
    if resume:
        _refuse_changes(context, RESUMABLE)
        runs = resumed_runs(workspace, run, dataset, epochs if "epochs" in _given(context) else None)
    else:
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
        runs = plan_runs(
            workspace.run(name, run or datetime.now().strftime("%Y%m%d-%H%M%S")),
            new_config(options, _given(context)),
            variants=[entry.strip() for entry in compare.split(",") if entry.strip()],
            folds=folds,
            fold_rule=fold_split,
        )
    config = runs.members[0].config
    if export_published:
        refuse_unpublishable(model_settings(config, words=0))
    if config.frozen and not (config.weights or config.init_from):
        warn("the backbone is frozen at random weights: give --weights FILE, or --fine-tune it")
    report = train_runs(workspace, runs, device, display.training)
    if export_published:
        export(load_checkpoint(runs.folder / "best.pt"), export_published)
    _print_report(report, as_json=json_, as_csv=False)
    display.note(f"wrote {runs.folder}; next: swan eval --run {runs.folder.name}")


@app.command(name="eval")
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
    min_mr: Annotated[
        float | None, typer.Option(help="Exit with code 3 when mR, in percent, is below.")
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")] = False,
    csv_: Annotated[bool, typer.Option("--csv", help="A header and a row a run on standard output.")] = False,
    batch_size: BatchSize = None,
    device: Device = "auto",
    root: Root = DEFAULT_ROOT,
    quiet: Quiet = False,
) -> None:
    """Recall of a run, or of a group of runs, on the test split of its data set."""
    from swancli.evaluate.figures import draw_figures, require_plots
    from swancli.evaluate.report import evaluate_checkpoint, evaluate_file, evaluate_group

    _exclusive(run=run, checkpoint=checkpoint, embeddings=embeddings)
    _exclusive(folds=folds, checkpoint=checkpoint, embeddings=embeddings)
    _exclusive(vocab=vocab, embeddings=embeddings)
    _exclusive(dataset=dataset, embeddings=embeddings)
    _exclusive(json=json_, csv=csv_)
    _exclusive(figures=figures, folds=folds)
    if figures:
        require_plots()
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
            options |= {"vocab": vocab, "batch_size": batch_size, "device": device, "progress": progress}
            if group:
                report = evaluate_group(workspace, group, dataset, **options)
            else:
                path = checkpoint or workspace.find_run_for(run, dataset).best
                report = evaluate_checkpoint(workspace, path, dataset, **options)
    for warning in report.warnings:
        warn(warning)
    _print_report(report, as_json=json_, as_csv=csv_)
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


@app.command()
def embed(
    run: RunName = None,
    dataset: DatasetName = None,
    checkpoint: CheckpointFile = None,
    vocab: CheckpointVocab = None,
    images: Annotated[
        Path | None, typer.Option(help="Embed a folder of images, in place of a data set.")
    ] = None,
    texts: Annotated[
        Path | None, typer.Option(help="Embed lines of text, one caption a line; - reads standard input.")
    ] = None,
    missing: Annotated[
        Missing, typer.Option(help="What to do about unreadable images of --images.")
    ] = "error",
    output: Annotated[
        Path | None, typer.Option(help="File to write. Default: embeddings.h5 of the run.")
    ] = None,
    batch_size: BatchSize = None,
    device: Device = "auto",
    precision: Annotated[
        Precision,
        typer.Option(help="bf16: faster on GPUs and on CPUs that multiply it; embeddings change a little."),
    ] = "fp32",
    root: Root = DEFAULT_ROOT,
    quiet: Quiet = False,
) -> None:
    """Encode a data set, a folder of images or lines of text into embeddings.h5."""
    from swancli.device import choose_device, describe_device
    from swancli.embed import embed_dataset, embed_folder, embed_texts, open_dataset
    from swancli.model.checkpoint import load_checkpoint
    from swancli.store import write_embeddings

    _exclusive(run=run, checkpoint=checkpoint)
    _exclusive(dataset=dataset, images=images, texts=texts)
    workspace, display = Workspace(root), Display(quiet)
    target = choose_device(device)
    encoder = checkpoint or workspace.find_encoder(run, dataset, foreign=bool(images or texts))
    model = load_checkpoint(encoder, vocab)
    name = dataset or model.origin["dataset"]
    if not (name or images or texts):
        name = workspace.newest_dataset()
    if is_shipped(encoder) and not checkpoint:
        warn(
            f"{root}: no run there, so the checkpoint that comes with swan encodes (README, Without training)"
        )
    path = output or _embeddings_path(workspace, model, name, images, texts)
    display.note(f"embedding with {model.path} on {describe_device(target)}")
    with display.progress() as progress:
        options = {"batch_size": batch_size, "device": target, "precision": precision, "progress": progress}
        if images:
            embeddings, skipped = embed_folder(model, images, missing=missing, **options)
        elif texts:
            embeddings, skipped = embed_texts(model, _lines(texts), str(texts), **options), []
        else:
            with open_dataset(workspace.dataset(name), model) as stored:
                embeddings, skipped = embed_dataset(model, stored, **options), []
    write_embeddings(path, embeddings)
    show_embedded(path, embeddings, skipped)
    where = "" if path.is_relative_to(root) else f" --embeddings {path}"
    display.note(f'next: swan query "what to look for"{where}')


@app.command()
def query(
    text: Annotated[str | None, typer.Argument(help="What to look for, in words.")] = None,
    image: Annotated[Path | None, typer.Option(help="Look for images like this one.")] = None,
    batch: Annotated[
        bool, typer.Option("--batch", help="One query a line on standard input; answers as they come.")
    ] = False,
    embeddings: Annotated[
        Path | None, typer.Option(help="Embeddings to search. Default: the newest.")
    ] = None,
    checkpoint: CheckpointFile = None,
    vocab: CheckpointVocab = None,
    top_k: Annotated[int, typer.Option("--top-k", "-k", min=1, help="Results of a query.")] = 10,
    threshold: Annotated[
        float, typer.Option(min=-1.0, max=1.0, help="Least score, the cosine similarity from -1 to 1.")
    ] = -1.0,
    scene: Annotated[
        list[str] | None, typer.Option(help="Only images of this scene; may be given several times.")
    ] = None,
    split: Annotated[str | None, typer.Option(help="Only images of this split.")] = None,
    json_: Annotated[bool, typer.Option("--json", help="One JSON document a query, on one line.")] = False,
    device: Device = "auto",
    root: Root = DEFAULT_ROOT,
    quiet: Quiet = False,
) -> None:
    """Rank the images of an embeddings file by how well a sentence, or an image, describes them."""
    from swancli.query.search import open_search

    if sum((text is not None, image is not None, batch)) != 1:
        raise SwanError(
            "nothing to look for" if not (text or image or batch) else "more than one way to ask",
            "give a text, --image FILE, or --batch, one of them",
        )
    path = embeddings or Workspace(root).find_embeddings()
    searcher = open_search(
        path,
        device,
        checkpoint=checkpoint,
        vocab=vocab,
        scenes=scene or (),
        split=split,
        texts_only=image is None,
    )
    Display(quiet).note(f"searching {len(searcher.candidates)} images of {path}")
    if image:
        _print_answer(searcher.ask_image(image, top_k, threshold), json_)
    for questions in _question_blocks() if batch else [[text]] if text is not None else []:
        for answer in searcher.ask_texts(questions, top_k, threshold):
            if answer.error:
                problem = f"query {answer.question!r}: {answer.error.problem}"
                if not batch:
                    raise SwanError(problem, answer.error.mend)
                warn(problem)  # and an answer a line, so that answers and lines stay side by side
            if answer.unknown:
                warn(f"words that the model does not know: {', '.join(answer.unknown)}")
            _print_answer(answer, json_)


@app.command()
def demo(
    images: Annotated[int, typer.Option(min=48, help="Generated images.")] = 1200,
    epochs: Annotated[int, typer.Option(min=1, help="Training epochs.")] = 5,
    seed: Annotated[int, typer.Option(help="Seed of everything.")] = 0,
    device: Device = "auto",
    root: Root = DEFAULT_ROOT,
    quiet: Quiet = False,
) -> None:
    """The whole life cycle on generated data: prepare, vocab, train, eval, embed, query."""
    from swancli import demo as settings
    from swancli.prepare.build import prepare_demo

    workspace, common = Workspace(root), {"dataset": settings.DATASET, "root": root, "quiet": quiet}
    step("prepare", f"--dataset {settings.DATASET}")
    with Display(quiet).progress() as progress:
        summary = prepare_demo(workspace.dataset(settings.DATASET), images, seed, progress)
    show_prepared(settings.DATASET, summary)
    step("vocab", f"--dataset {settings.DATASET}")
    vocab(**common)
    options = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in settings.TRAINING.items())
    step("train", f"--dataset {settings.DATASET} --epochs {epochs} {options}")
    train(None, epochs=epochs, seed=seed, device=device, **settings.TRAINING, **common)
    step("eval", "--scene-recall --ceiling")
    evaluate(scene_recall=True, ceiling=True, device=device, **common)
    step("embed")
    embed(device=device, **common)
    scores = settings.yardsticks(workspace.find_run(dataset=settings.DATASET).embeddings)
    show_scores("demo test split, recall in percent", scores)
    for question in settings.QUERIES:
        step("query", f'"{question}" --split test --top-k 3')
        query(question, split="test", top_k=3, device=device, root=root, quiet=True)


def _given(context: typer.Context | None) -> set[str]:
    """The options that stand on the command line; none for a command that another one calls."""
    if context is None:
        return set()
    return {name for name in context.params if context.get_parameter_source(name).name == "COMMANDLINE"}


def _refuse_changes(context: typer.Context, allowed: set[str]) -> None:
    changed = sorted(_given(context) - allowed)
    if changed:
        option = "--" + changed[0].replace("_", "-")
        raise SwanError(
            f"--resume goes on with the run's own settings, {option} cannot change them",
            "leave it out, or start a new run",
        )


def _captions(
    workspace: Workspace, dataset: str | None, source: Path | None, format: str | None, splits: str
) -> Iterable[str]:
    """The captions to count: of a source, or of a data set's dataset.h5."""
    from swancli.prepare.sources import read_source
    from swancli.store import Dataset

    if source:
        entries = read_source(source, format).entries
        counted = [entry for entry in entries if splits == "all" or entry.split == "train"]
        if not counted:
            raise SwanError(f"{source}: names no training images", "count all captions: --splits all")
        return [text for entry in counted for text in entry.captions]
    with Dataset(workspace.dataset(dataset)) as stored:
        rows = stored.catalogue.image_rows(None) if splits == "all" else stored.rows_of("train")
        return stored.catalogue.select(rows)[0].text


def _embeddings_path(
    workspace: Workspace, checkpoint: Checkpoint, dataset: str, images: Path | None, texts: Path | None
) -> Path:
    """embeddings.h5 beside the checkpoint; with a name in it for all but the run's own data set.

    What the shipped checkpoint makes does not stand beside it, in the package, but under the root.
    """
    if images:
        name = f"embeddings-{images.resolve().name}"
    elif texts:  # no image in it to search, so not under the name that `query` looks for
        name = "texts-stdin" if str(texts) == "-" else f"texts-{texts.name}"
    else:
        name = "embeddings" if dataset == checkpoint.origin["dataset"] else f"embeddings-of-{dataset}"
    folder = workspace.root / SHIPPED if is_shipped(checkpoint.path) else checkpoint.path.parent
    return folder / f"{name}.h5"


def _exclusive(**given: object) -> None:
    """Refuses options that would overrule each other."""
    named = [f"--{name.replace('_', '-')}" for name, value in given.items() if value]
    if len(named) > 1:
        raise SwanError(f"{' and '.join(named)} cannot go together", "give one of them")


def _question_blocks() -> Iterator[list[str]]:
    """The lines of standard input, as many at a time as have come, up to `QUESTIONS`.

    So whoever waits for each answer gets it at once, and a whole file of questions is answered in blocks.
    """
    number, begun = 0, []
    while chunk := sys.stdin.buffer.read1(1 << 16):
        first, *others = chunk.split(b"\n")
        begun.append(first)
        if others:
            lines = [b"".join(begun), *others[:-1]]
            begun = others[-1:]
            yield from _decoded(lines, number)
            number += len(lines)
    if any(begun):
        yield from _decoded([b"".join(begun)], number)


def _decoded(lines: list[bytes], before: int) -> Iterator[list[str]]:
    """Blocks of lines as text; `before` tells how many lines came earlier."""
    for start in range(0, len(lines), QUESTIONS):
        questions = []
        for number, line in enumerate(lines[start : start + QUESTIONS], start=before + start + 1):
            try:
                questions.append(line.decode("utf-8").strip())
            except UnicodeDecodeError as error:
                yield questions
                raise SwanError(
                    f"standard input: line {number} is not UTF-8 text ({error})", "convert it to UTF-8"
                ) from error
        yield questions


def _lines(path: Path) -> Iterator[str]:
    """The lines of a file, or of standard input for -, without blank ones."""
    try:
        with sys.stdin if str(path) == "-" else path.open(encoding="utf-8") as file:
            for line in file:
                if line.strip():
                    yield line.strip()
    except OSError as error:
        raise SwanError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SwanError(f"{path}: not UTF-8 text ({error})") from error


def _print_answer(answer: Answer, as_json: bool) -> None:
    if as_json:
        print(json.dumps(answer.record(), ensure_ascii=False), flush=True)
    else:
        show_answer(answer)


def _print_report(report: Report | GroupReport, as_json: bool, as_csv: bool) -> None:
    from swancli.evaluate.report import GroupReport

    if as_json:
        print(json.dumps(report.record(), indent=1, ensure_ascii=False))
    elif as_csv:
        import csv

        rows = report.table()
        writer = csv.DictWriter(sys.stdout, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    elif isinstance(report, GroupReport):
        show_group(report)
    else:
        show_report(report)


def main() -> None:
    """The executable `swan`."""
    if not sys.warnoptions:
        warnings.simplefilter("ignore")  # of libraries, which would end up between our own lines
    # A million objects come and go with torch. Looking through them for garbage every 700, and once more at
    # the end, takes longer than a query does.
    gc.set_threshold(10_000)
    try:
        app(prog_name="swan")
    finally:
        gc.freeze()
