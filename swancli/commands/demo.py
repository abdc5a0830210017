"""`swan demo`: the whole life cycle on generated data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from swancli.commands.embed import embed
from swancli.commands.evaluate import evaluate
from swancli.commands.options import DEFAULT_ROOT, Device, Quiet, Root
from swancli.commands.query import query
from swancli.commands.train import train
from swancli.commands.vocab import vocab
from swancli.console import Display, show_prepared, show_scores, step
from swancli.workspace import DEMO, Workspace

if TYPE_CHECKING:
    from swancli.evaluate.metrics import Scores

QUERIES = (
    "five white planes in the upper left of the airport",
    "three black boats in the center of the harbor",
)
# Small enough for two minutes on two cores. Views are not turned: the captions say left and right.
TRAINING = {
    "image_size": 64,
    "embed_dim": 128,
    "batch_size": 160,
    "lr": 1e-3,
    "augmentation": "none",
    "schedule": "step",  # five epochs are too few to rise and fall in
}


def demo(
    images: Annotated[int, typer.Option(min=48, help="Generated images.")] = 1200,
    epochs: Annotated[int, typer.Option(min=1, help="Training epochs.")] = 5,
    seed: Annotated[int, typer.Option(help="Seed of everything.")] = 0,
    device: Device = "auto",
    root: Root = DEFAULT_ROOT,
    quiet: Quiet = False,
) -> None:
    """The whole life cycle on generated data: prepare, vocab, train, eval, embed, query."""
    from swancli.prepare.build import prepare_demo

    workspace, common = Workspace(root), {"dataset": DEMO, "root": root, "quiet": quiet}
    step("prepare", f"--dataset {DEMO}")
    with Display(quiet).progress() as progress:
        summary = prepare_demo(workspace.dataset(DEMO), images, seed, progress)
    show_prepared(DEMO, summary)
    step("vocab", f"--dataset {DEMO}")
    vocab(**common)
    options = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in TRAINING.items())
    step("train", f"--dataset {DEMO} --epochs {epochs} {options}")
    train(None, epochs=epochs, seed=seed, device=device, **TRAINING, **common)
    step("eval", "--scene-recall --ceiling")
    evaluate(scene_recall=True, ceiling=True, device=device, **common)
    step("embed")
    embed(device=device, **common)
    scores = yardsticks(workspace.find_run(dataset=DEMO).embeddings)
    show_scores("demo test split, recall in percent", scores)
    for question in QUERIES:
        step("query", f'"{question}" --split test --top-k 3')
        query([question], split="test", top_k=3, device=device, root=root, quiet=True)


def yardsticks(embeddings: Path, split: str = "test") -> dict[str, Scores]:
    """Scores on one split of the model, of an oracle that knows the scene and nothing else, and of chance."""
    from swancli.evaluate.metrics import chance_scores, retrieval_scores, scene_oracle_scores
    from swancli.store.embeddings import read_embeddings

    stored = read_embeddings(embeddings)
    rows = stored.catalogue.image_rows(split)
    part, captions = stored.catalogue.select(rows)
    return {
        "SWAN": retrieval_scores(stored.image[rows], stored.caption[captions], part.image),
        "knows the scene only": scene_oracle_scores(part.scene, part.image),
        "chance": chance_scores(part.image, len(rows)),
    }
