"""`swan demo`: all six commands on generated data."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.text import Text

from swancli.commands import options
from swancli.commands.options import option
from swancli.commands.prepare import show_prepared
from swancli.commands.recall_tables import show_scores
from swancli.console import Display, deliver, output
from swancli.store import DEMO
from swancli.workspace import Workspace

if TYPE_CHECKING:
    from swancli.evaluate.metrics import Scores

QUERIES = (
    "five white planes in the upper left of the airport",
    "three black boats in the center of the harbor",
)
# Takes two minutes on two cores. Views are not turned, since the captions say left and right.
TRAINING = {
    "backbone": "resnet18",
    "text": "gru",
    "image-size": 64,
    "embed-dim": 128,
    "batch-size": 160,
    "lr": 1e-3,
    "augmentation": "none",
    "schedule": "step",  # five epochs are too few for a cosine
}


def demo(
    context: typer.Context,
    images: int = option(1200, "N", "Number of generated images.", min=48),
    epochs: int = option(5, "N", "Training epochs.", min=1),
    seed: int = option(0, "N", "Random seed."),
    device: str = options.DEVICE,
    root: Path = options.ROOT,
    quiet: bool = options.QUIET,
) -> None:
    """Run all six commands on generated data, in about two minutes on two CPU cores.

    Examples:
        swan demo
        swan demo --images 240 --epochs 1 --root /tmp/swan
    """
    from swancli.prepare.build import prepare_demo

    workspace = Workspace(root)
    _show_command("prepare", "--dataset", DEMO)
    with Display(quiet).progress() as progress:
        summary = prepare_demo(workspace.dataset(DEMO), images, seed, progress)
    show_prepared(DEMO, summary)
    own = ["--root", str(root), *(["--quiet"] if quiet else [])]
    hidden = [*own, "--device", device, "--dataset", DEMO]
    _run(context, ["vocab", "--dataset", DEMO], own)
    recipe = [word for name, value in TRAINING.items() for word in (f"--{name}", str(value))]
    training = ["train", "--dataset", DEMO, "--epochs", str(epochs), *recipe]
    _run(context, training, [*own, "--device", device, "--seed", str(seed)])
    _run(context, ["eval", "--scene-recall", "--ceiling"], hidden)
    _run(context, ["embed"], hidden)
    scores = yardsticks(workspace.find_run(dataset=DEMO).embeddings)
    show_scores("demo test split, recall in percent", scores)
    for question in QUERIES:
        found = ["query", question, "--split", "test", "--top-k", "3"]
        _run(context, found, ["--root", str(root), "--device", device, "--quiet"])
    output().print(Text("\nNow search your own photos, with the trained checkpoint that comes with swan:"))
    _show_command("embed", "--images", "path/to/photos")
    _show_command("query", "a car park beside a road")


def _show_command(*words: str) -> None:
    """Shows what has been printed so far, and a command line as a person would type it."""
    output().print(Text(f"\n$ swan {shlex.join(words)}", style="bold"), soft_wrap=True)
    deliver()


def _run(context: typer.Context, words: list[str], hidden: list[str]) -> None:
    """Shows a command line and runs it, with the hidden options as well."""
    _show_command(*words)
    name, *given = words
    command = context.parent.command.commands[name]
    with command.make_context(name, [*given, *hidden], parent=context.parent) as own:
        command.invoke(own)


def yardsticks(embeddings: Path) -> dict[str, Scores]:
    """Scores on the test split of the model, of an oracle that knows only the scene, and of chance."""
    from swancli.evaluate.metrics import retrieval_scores
    from swancli.evaluate.scene_recall import scene_oracle_grids
    from swancli.evaluate.similarity import chance_grids, embedding_grids
    from swancli.store.embeddings import read_embeddings

    stored = read_embeddings(embeddings)
    rows = stored.catalogue.image_rows("test")
    part, captions = stored.catalogue.select(rows)
    grids = {
        "SWAN": embedding_grids(stored.image[rows], stored.caption[captions]),
        "knows the scene only": scene_oracle_grids(part.scene, part.image),
        "chance": chance_grids(len(rows), len(captions)),
    }
    return {name: retrieval_scores(found, part.image) for name, found in grids.items()}
