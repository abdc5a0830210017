"""`swan demo`: the whole life cycle on generated data."""

from __future__ import annotations

from typing import Annotated

import typer

from swancli.commands.embed import embed
from swancli.commands.evaluate import evaluate
from swancli.commands.options import DEFAULT_ROOT, Device, Quiet, Root
from swancli.commands.query import query
from swancli.commands.train import train
from swancli.commands.vocab import vocab
from swancli.console import Display, show_prepared, show_scores, step
from swancli.workspace import Workspace


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
        query([question], split="test", top_k=3, device=device, root=root, quiet=True)
