"""The commands that are disturbed, and the small material that they work on."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from swancli.prepare.demo import generate_demo

RANDOM = ["--backbone=resnet18", "--text=gru"]
SMALL = [*RANDOM, "--image-size=32", "--embed-dim=16", "--freeze", "--captions-per-image=1"]
RUN = "small/runs/first"


@dataclass(frozen=True)
class Command:
    """A command that writes.

    arguments: of `swan`; SOURCE in them stands for the folder of the source, ROOT for the root. follows: the
    command that has to have run before. again: from the root, the arguments to run it again with, after it
    was ended; None for the same.
    """

    name: str
    arguments: tuple[str, ...]
    follows: str | None = None
    again: Callable[[Path], tuple[str, ...] | None] = lambda root: None


def _resumed(root: Path) -> tuple[str, ...] | None:
    begun = (root / RUN / "config.json").exists()
    return ("train", "--resume", "--run=first") if begun else None


COMMANDS = {
    command.name: command
    for command in (
        Command("prepare", ("prepare", "--dataset=small", "--source=SOURCE")),
        Command("vocab", ("vocab", "--dataset=small", "--vectors=SOURCE/vectors.txt"), "prepare"),
        Command(
            "train",
            ("train", "--dataset=small", "--run=first", "--epochs=2", "--batch-size=40", *SMALL),
            "vocab",
            _resumed,
        ),
        Command("embed", ("embed",), "train"),
        Command(
            "embed --resume",
            ("embed", "--batch-size=2"),  # in two pieces
            "train",
            lambda root: ("embed", "--batch-size=2", "--resume"),
        ),
        Command(
            "embed --index", ("embed", "--index=hnsw", f"--embeddings=ROOT/{RUN}/embeddings.h5"), "embed"
        ),
        Command(
            "embed --scene-image", ("embed", "--scene-image=SOURCE/scene.tif", "--tile-size=64"), "train"
        ),
        Command(
            "prepare --features",
            (
                "prepare",
                "--dataset=small",
                "--features",
                *RANDOM,
                "--image-size=32",
                "--views=2",
            ),
            "prepare",
        ),
    )
}


def write_source(folder: Path, images: int = 48) -> None:
    """Generated scenes as PNG files and a list, word vectors, and one large scene."""
    (folder / "images").mkdir(parents=True)
    entries = []
    for image, pixels in generate_demo(images, seed=3, size=48):
        Image.fromarray(pixels).save(folder / "images" / image.filename)
        sentences = [{"raw": caption} for caption in image.captions]
        entries.append({"filename": image.filename, "split": image.split, "sentences": sentences})
    (folder / "dataset.json").write_text(json.dumps({"images": entries}))
    words = sorted({word for entry in entries for row in entry["sentences"] for word in row["raw"].split()})
    numbers = np.random.default_rng(0).random((len(words), 300)).round(4)
    lines = (f"{word} {' '.join(map(str, row))}\n" for word, row in zip(words, numbers, strict=True))
    (folder / "vectors.txt").write_text("".join(lines))
    scene = np.random.default_rng(0).integers(0, 255, (256, 256, 3), np.uint8)
    Image.fromarray(scene).save(folder / "scene.tif")


def linked_copy(source: Path, target: Path) -> None:
    """A copy that shares the bytes of the files; swan writes none in place."""
    shutil.copytree(source, target, copy_function=os.link)
