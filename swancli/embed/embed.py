"""Embeddings of a data set or of lines of text, in memory; `archive` embeds images piece by piece.

swan embed --texts FILE
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from os import PathLike
from pathlib import Path

import numpy as np

from swancli.errors import StoreError, SwanError
from swancli.machine.progress import Progress, quiet
from swancli.model.checkpoint import TRAIN_AGAIN, Checkpoint
from swancli.model.encoder import Encoder
from swancli.prepare.splits import Fold, redrawn
from swancli.store.catalogue import Catalogue
from swancli.store.dataset import Dataset
from swancli.store.embeddings import Embeddings
from swancli.store.hdf5 import DATASET, damage_named
from swancli.store.text import decode_text, read_text


def open_dataset(path: str | PathLike[str], checkpoint: Checkpoint) -> Dataset:
    """A data set, with the splits of the checkpoint's fold if it was trained on a fold of this data set."""
    dataset = Dataset(path)
    fold = checkpoint.origin.get("fold")
    if fold and dataset.name == checkpoint.origin["dataset"]:
        try:
            drawn = Fold(**fold)
        except TypeError as error:
            dataset.close()
            raise StoreError(f"{checkpoint.path}: its fold is {fold!r}", TRAIN_AGAIN) from error
        dataset.catalogue = redrawn(dataset.catalogue, drawn)
    return dataset


def embed_dataset(
    encoder: Encoder, dataset: Dataset, *, split: str | None = None, progress: Progress = quiet
) -> Embeddings:
    """Embeddings of a data set: of one split, or of all its images and captions.

    Args:
        encoder: what encodes them.
        dataset: the data set.
        split: its name; None for all.
        progress: called with "images" or "captions", the number done, and the number in all.

    Raises:
        SwanError: the split has no captions.
    """
    rows = dataset.catalogue.image_rows(None) if split is None else dataset.rows_of(split)
    part, _ = dataset.catalogue.select(rows)
    return Embeddings(
        image=encoder.rows(dataset, rows, progress),
        caption=encoder.captions_of(part, progress),
        catalogue=part,
        dataset=dataset.name,
        made_by=encoder.made_by,
        pictures=str(dataset.path),
        dataset_digest=dataset.digest,
        seen=seen_before(encoder.checkpoint, dataset, rows),
        rendering=dataset.rendering,
    )


def seen_before(checkpoint: Checkpoint, dataset: Dataset, rows: np.ndarray) -> np.ndarray | None:
    """`SeenImages.marks` of some images of a data set; None if it is not known what a checkpoint has seen."""
    if checkpoint.seen is None:
        return None
    with damage_named(dataset.path, DATASET):
        return checkpoint.seen.marks(dataset.digests(rows), dataset.looks(rows))


def text_lines(path: Path) -> list[str]:
    """The lines of a UTF-8 file, or of standard input for `-`, without blank ones.

    Raises:
        SwanError: the file cannot be read, or a line is not UTF-8 text; names the line.
    """
    if str(path) != "-":
        text = read_text(path)
    elif sys.stdin is None:
        raise SwanError("--texts -: standard input is closed", "give it one caption per line")
    else:
        text = decode_text(sys.stdin.buffer.read(), "--texts -")
    return [line for line in map(str.strip, text.split("\n")) if line]


def embed_texts(encoder: Encoder, lines: Iterable[str], name: str, progress: Progress = quiet) -> Embeddings:
    """Embeddings of lines of text, as captions without an image.

    Args:
        encoder: what encodes them.
        lines: one caption each.
        name: recorded as the name of the data set.
        progress: called with "captions", the number done, and the number in all.

    Raises:
        SwanError: there are no lines.
    """
    texts = list(lines)
    if not texts:
        raise SwanError(f"{name}: no lines of text in it", "give one caption per line")
    no_images = np.empty((0, encoder.dimensions), np.float32)
    catalogue = Catalogue.of(text=texts, image=[-1] * len(texts))
    return Embeddings(no_images, encoder.captions(texts, progress), catalogue, name, encoder.made_by)
