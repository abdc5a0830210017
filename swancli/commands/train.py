"""`swan train`: dataset.h5 and vocab.h5 -> a run."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import typer
from rich.progress import Progress, TextColumn

from swancli.commands import options
from swancli.commands.options import (
    checkpoint_named,
    exclusive,
    given_options,
    option,
    option_in,
    prepared_dataset,
    rare,
)
from swancli.commands.recall_tables import print_report, recall_cells
from swancli.console import Display, phase_bars, warn
from swancli.errors import SwanError
from swancli.evaluate import RECALL_AT
from swancli.workspace import Workspace, named_checkpoint

if TYPE_CHECKING:
    from swancli.machine.processes import Processes
    from swancli.train.config import RunConfig
    from swancli.train.group import Runs
    from swancli.train.loop import Epoch

Loss = Literal["sum", "hardest", "contrastive"]
Schedule = Literal["step", "cosine"]
Variant = Literal["repaired", "published"]
FoldRule = Literal["random", "stratified"]

model = option_in("Model and where it starts")
recipe = option_in("Recipe")
several = option_in("Several runs")
speed = option_in("Speed")

# What can be given beside `train --resume`.
RESUMABLE = {"dataset", "run", "epochs", "resume", "device", "export_published", "json_", "root", "quiet"}


def train(
    context: typer.Context,
    dataset: str | None = options.DATASET,
    run: str | None = option(None, "NAME", "Name of the run. Default: date and time."),
    resume: bool = option(
        False, "--resume", "Resume --run or the newest run; --epochs may extend step schedules."
    ),
    vocab: Path | None = model(
        None, "FILE", "vocab.h5, or JSON of the published code. Default: the data set's."
    ),
    backbone: str | None = model(
        None, "NAME", "timm/NAME or resnet18, 34, 50 (paper: resnet50). Default: timm/tf_efficientnet_lite0."
    ),
    weights: str | None = model(
        None, "FILE", "Backbone weights; none: random. Default: imagenet, if they fit."
    ),
    text: str | None = model(
        None, "NAME", "Text tower: minilm (default), gru (paper), or a folder with a BERT.", path=True
    ),
    init_from: str = model(
        "", "RUN", "Start from a run, `shipped`, a checkpoint or open_clip:NAME:FILE.", path=True
    ),
    freeze: bool | None = model(
        None, "--freeze/--fine-tune", "Freeze (paper) or train the backbone. Default: train its last stages."
    ),
    freeze_stages: int | None = model(
        None, "N", "Freeze the first N of the backbone's 4 stages. Default: 2 (random: 0).", min=0
    ),
    freeze_text: int | None = model(
        None, "N", "Freeze the first N text layers. Default: all, or as in --init-from.", min=0
    ),
    image_size: int | None = model(
        None, "N", "Side in pixels of the input. Default: the backbone's own (ResNets: 256).", min=32
    ),
    embed_dim: int = model(256, "N", "Dimensions of an embedding, a multiple of 8 (paper: 512).", min=16),
    variant: Variant = model(
        "repaired",
        "NAME",
        "repaired (default), or published: model and recipe of the published code.",
        show_default=False,
    ),
    without: list[str] | None = model(
        None, "PART", "Leave out a part of the model: vmsf, sfgs, tcge, wsa or pool; repeatable."
    ),
    epochs: int | None = recipe(
        None, "N", "Passes over all captions (paper: 50). Default: 15 to 45 (random: 30).", min=1
    ),
    batch_size: int | None = recipe(
        None, "N", "Captions per step (paper: 100). Default: 2000 (random: 100).", min=2
    ),
    lr: float | None = recipe(
        None,
        "X",
        "Learning rate (paper: 2e-4). Default: 2e-3 (random or --init-from: 1e-3; open_clip: 1e-5).",
        min=0.0,
    ),
    schedule: Schedule = recipe(
        "cosine",
        "step|cosine",
        "cosine (default): warm-up, then to 0. step: x0.7 every 20 epochs (paper).",
        show_default=False,
    ),
    augmentation: options.Augmentation = recipe(
        "overhead",
        "NAME",
        "overhead: flips, turns, crops, colour. paper: rotation, crop. none: for captions with "
        "words such as left.",
    ),
    loss: Loss | None = recipe(
        None, "NAME", "contrastive (default; random: sum), or a hinge: sum (paper) or hardest."
    ),
    margin: float = recipe(0.2, "X", "Margin of the hinge loss, in cosine similarity.", min=0.0),
    temperature: float = recipe(0.05, "X", "Temperature of the contrastive loss.", min=0.001),
    seed: int = recipe(0, "N", "Seed for weights, batches, views and dropout."),
    compare: str = several(
        "",
        "LIST",
        "One run per entry: full, repaired, published, or parts to leave out.",
    ),
    folds: int = several(
        0,
        "K",
        "Train K runs on random 80/20 splits of the train and val images; average.",
        min=0,
        show_default=False,
    ),
    fold_split: FoldRule = several("random", "RULE", "How to split: random or stratified (by scene)."),
    features: bool = speed(
        False, "--features", "Train only the heads, on features from `prepare --features`."
    ),
    precision: options.Precision = speed(
        "fp32", "fp32|bf16", "bf16: faster on GPUs and CPUs with AVX512-BF16 or AMX."
    ),
    compile: bool = speed(
        False, "--compile", "Compile the backbone; takes up to a minute and is only worth it on GPUs."
    ),
    captions_per_image: int | None = rare(
        None,
        "N",
        "Captions per pass of an image (paper: 1). Default: 5 (open_clip: 1).",
        min=1,
    ),
    backbone_rate: float | None = rare(
        None, "X", "Backbone's share of --lr. Default: 0.5 (random: 1; --init-from: 1).", min=0.0
    ),
    text_rate: float | None = rare(
        None, "X", "Text transformer's share of --lr. Default: 0.1 (open_clip: 1).", min=0.0
    ),
    heads_first: int | None = rare(
        None, "N", "Epochs that train only the heads. Default: half (random: 0).", min=0
    ),
    average: float | None = rare(
        None,
        "X",
        "Decay of the average of weights; 0: none. Default: 0.99 (random: 0).",
        min=0.0,
        max=0.9999,
    ),
    clip_norm: float = rare(0.0, "X", "Clip gradients to this norm; 0: no clipping.", min=0.0),
    export_published: Path | None = rare(
        None, "FILE", "Also write the best checkpoint in the layout of the published code.", dir_okay=False
    ),
    device: str = options.DEVICE,
    json_: bool = options.JSON,
    root: Path = options.ROOT,
    quiet: bool = options.QUIET,
) -> None:
    """Train SWAN; the validation split chooses the best checkpoint.

    Examples:
        swan train --dataset ucm
        swan train --dataset ucm --folds 5 --run cv
        torchrun --nproc-per-node 4 -m swancli train --dataset rsicd
    """
    from swancli.machine.device import choose_device
    from swancli.machine.processes import joined
    from swancli.model.checkpoint import export_published as export
    from swancli.model.checkpoint import load_checkpoint
    from swancli.model.published import refuse_unpublishable
    from swancli.train.config import model_settings
    from swancli.train.group import train_runs

    exclusive(compare=compare, without=without)
    exclusive(weights=weights, init_from=init_from)
    exclusive(export_published=export_published, folds=folds, compare=compare)
    exclusive(features=features, folds=folds)  # features.h5 has one draw of train and val
    exclusive(features=features, compile=compile)  # the backbone does not run
    if resume:
        _refuse_changes(context)
    workspace = Workspace(root)
    with joined(choose_device(device)) as processes:
        runs = processes.by_first(lambda: _planned_runs(workspace, context, processes))
        config = runs.members[0].config
        if export_published:
            refuse_unpublishable(model_settings(config, words=0))
        if processes.first:
            _warn_of_random_weights(config)
        display = Display(quiet or not processes.first)
        report = train_runs(workspace, runs, device, partial(training_display, display), processes)
    if not report:
        return
    if export_published:
        export(load_checkpoint(runs.folder / "best.pt"), export_published)
    print_report(report, as_json=json_, as_csv=False)
    display.note(f"wrote {runs.folder}; next: swan eval --run {runs.folder.name}")


def _warn_of_random_weights(config: RunConfig) -> None:
    """Warns if nothing that the backbone's frozen part computes has been learnt."""
    if config.weights or config.init_from:
        return
    if config.frozen:
        warn("the backbone is frozen at random weights: give --weights FILE, or --fine-tune it")
    elif config.freeze_stages:
        warn(
            f"--freeze-stages {config.freeze_stages}: these stages are frozen at random weights: "
            "give --weights FILE, or leave it out"
        )


def _refuse_changes(context: typer.Context) -> None:
    """Refuses options beside --resume that would change the run."""
    changed = sorted(given_options(context) - RESUMABLE)
    if changed:
        option = "--" + changed[0].replace("_", "-")
        raise SwanError(
            f"--resume keeps the run's own settings, {option} cannot change them",
            f"leave {option} out, or start a new run",
        )


def _training_images(workspace: Workspace, dataset: str, folds: int) -> int:
    """The number of training images, of one fold if there are folds."""
    from swancli.prepare.splits import VAL_FRACTION
    from swancli.store.dataset import Dataset

    with Dataset(workspace.dataset(dataset)) as stored:
        split = stored.catalogue.split
    if folds:
        return int((1 - VAL_FRACTION) * ((split == "train") | (split == "val")).sum())
    return int((split == "train").sum())


def _planned_runs(workspace: Workspace, context: typer.Context, processes: Processes) -> Runs:
    """The runs to train: those to resume, or those that the options ask for."""
    from swancli.train.config import new_config
    from swancli.train.group import plan_runs, resumed_runs

    chosen, given = dict(context.params), given_options(context)
    dataset, run, resume = chosen["dataset"], chosen["run"], chosen["resume"]
    begun = processes.agreed("run", "")  # set when torchrun has restarted the processes
    if resume or (begun and workspace.has_run(begun, dataset)):
        length = chosen["epochs"] if resume and "epochs" in given else None
        return resumed_runs(workspace, begun or run, dataset, length)
    name = prepared_dataset(workspace, dataset)
    weights, init_from = chosen["weights"], chosen["init_from"]
    chosen |= {
        "dataset": name,
        "vocab": str(chosen["vocab"] or workspace.vocab(name)),
        "weights": weights and str(named_checkpoint(Path(weights))),
        "init_from": checkpoint_named(workspace, init_from) if init_from else "",
        "without": tuple(part for parts in chosen["without"] or () for part in re.split("[,+]", parts)),
        "features": str(workspace.features(name)) if chosen["features"] else "",
        "compiled": chosen["compile"],
    }
    runs = plan_runs(
        workspace,
        workspace.run(name, begun or run or datetime.now().strftime("%Y%m%d-%H%M%S")),
        new_config(chosen, given, _training_images(workspace, name, chosen["folds"])),
        variants=[entry.strip() for entry in chosen["compare"].split(",") if entry.strip()],
        folds=chosen["folds"],
        fold_rule=chosen["fold_split"],
    )
    processes.agreed("run", runs.folder.name)
    return runs


# ---------------------------------------------------------------------------------------------------------
# what is shown while it trains


@contextmanager
def training_display(display: Display, epochs: int) -> Iterator[TrainingDisplay]:
    """The live display of a training run, a `Watch` of `train.loop`."""
    with display.bars(TextColumn("{task.fields[figures]}")) as bars:
        yield TrainingDisplay(display, bars, epochs)


MEASURED = 15  # seconds of steps from which the time of the others is estimated
SLOWER = 2  # an epoch that also trains the last stages of the backbone, against one of the heads alone
HEADS = ("epoch", "loss", *(f"R@{k}" for _ in range(2) for k in RECALL_AT), "mR", "time")
ROW_WIDTH = 7 * len(HEADS) + len("best")


class TrainingDisplay:
    """A bar of epochs and one of steps with loss and speed; a row of recalls after each epoch."""

    def __init__(self, display: Display, bars: Progress, epochs: int) -> None:
        self._display = display
        self._bars = bars
        self._epochs = bars.add_task("epochs", total=epochs, figures="")
        self._steps = bars.add_task("steps", total=None, figures="")
        self._wide = display.console.width >= ROW_WIDTH
        self._count = epochs
        self._headed = False
        self._last = 0
        self.part(1, epochs, "")
        self.validation = phase_bars(bars)
        self.note = display.note

    def part(self, first: int, last: int, what: str) -> None:
        """As in `Watch`."""
        self._part = first, last, what
        self._began, self._announced = None, False

    def step(self, epoch: int, step: int, steps: int, loss: float, pairs_per_second: float) -> None:
        """Called after each step."""
        if epoch != self._last:
            self._last = epoch
            self._bars.reset(self._steps, description=f"epoch {epoch}")  # the time left is that of this epoch
        self._bars.update(self._epochs, completed=epoch - 1 + step / steps)  # so that it knows the time left
        if not self._announced:
            self._announce(step, steps, epoch)
        speed = f"  {pairs_per_second:.0f} pairs/s" if self._wide else ""
        self._bars.update(self._steps, completed=step, total=steps, figures=f"loss {loss:.3f}{speed}")

    def _announce(self, step: int, steps: int, epoch: int) -> None:
        """Says once for each part of the training how long its epochs will take, from the first steps."""
        now, number = time.monotonic(), (epoch - 1) * steps + step
        if self._began is None:
            self._began = now, number  # the first step starts up everything, and says little
            return
        seconds, done = now - self._began[0], number - self._began[1]
        if done and (seconds > MEASURED or step == steps):
            self._announced = True
            first, last, what = self._part
            left = (steps * (last - epoch + 1) - step) * seconds / done
            if not left:
                return
            named = f"epochs {first} to {last}" if last > first else f"epoch {last}"
            named += what and f", {what},"
            later = (self._count - last) * steps * SLOWER * seconds / done
            whole = f"; all {self._count} about {duration(left + later)}" if later else ""
            self.note(f"{named} will take about {duration(left)}, without the validations{whole}")

    def epoch(self, report: Epoch) -> None:
        """Called after each epoch: adds its row of recalls, or a short line where that is too wide."""
        self._bars.update(self._epochs, completed=report.epoch)
        recalls = recall_cells(report.scores)
        cells = [str(report.epoch), f"{report.loss:.3f}", *recalls, f"{report.seconds:.0f} s"]
        best = "best" if report.best else ""
        if not self._wide:
            self.note(f"epoch {cells[0]}  mR {cells[-2]}  {cells[-1]}  {best}".rstrip(), style="")
            return
        if not self._headed:
            self.note(f"{'':14}{'image to text':^20} {'text to image':^20}")
            self.note(_row(HEADS))
            self._headed = True
        self.note(f"{_row(cells)} {best}".rstrip(), style="green" if best else "")


def duration(seconds: float) -> str:
    """A length of time in words, such as 40 s, 12 min or 3 h 20 min."""
    minutes = round(seconds / 60)
    if minutes < 2:
        return f"{max(1, round(seconds))} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _row(cells: Sequence[str]) -> str:
    return " ".join(f"{cell:>6}" for cell in cells)
