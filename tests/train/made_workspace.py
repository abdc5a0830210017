"""A tiny data set of plain colours, ready to train on."""

import numpy as np

from swancli.store.catalogue import Catalogue
from swancli.store.dataset import Dataset, create_dataset
from swancli.vocab.vocabulary import count_words, write_vocabulary
from swancli.workspace import Workspace

COLOURS = {"red": (200, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 200), "white": (240, 240, 240)}


def make_dataset(path, name="tiny"):
    """Twelve plain images of four colours, two captions each; four of them in each split."""
    rng = np.random.default_rng(0)
    names = list(COLOURS) * 3
    splits = ["train"] * 4 + ["val"] * 4 + ["test"] * 4
    with create_dataset(path, name, (40, 40)) as writer:
        for row, colour in enumerate(names):
            noise = rng.integers(0, 15, (40, 40, 3))
            writer.add((np.array(COLOURS[colour]) + noise).clip(0, 255).astype(np.uint8), f"{row:032x}", row)
        texts = [
            text for colour in names for text in (f"a {colour} field", f"there is one {colour} roof here")
        ]
        writer.finish(
            Catalogue.of(
                [f"{c}_{i}.png" for i, c in enumerate(names)], names, splits, texts, np.repeat(range(12), 2)
            )
        )


def make_workspace(root):
    """A root with the tiny data set and its vocabulary."""
    workspace = Workspace(root)
    make_dataset(workspace.dataset("tiny"))
    with Dataset(workspace.dataset("tiny")) as dataset:
        vocabulary = count_words(dataset.catalogue.text[:8], min_count=1, stop_words="keep", dataset="tiny")
    write_vocabulary(workspace.vocab("tiny"), vocabulary)
    return workspace
