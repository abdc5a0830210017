"""Items in, embeddings out, in batches: the encoding that `train`, `eval`, `embed` and `query` share.

swan embed
swan embed --images DIR
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from swancli.errors import StoreError, SwanError
from swancli.machine.progress import Progress, quiet
from swancli.model.checkpoint import TRAIN_AGAIN, Checkpoint
from swancli.model.encoder import TEST_SHARD, VALIDATION_SHARD, encode_captions, encode_images
from swancli.model.swan import Swan
from swancli.prepare.splits import Fold, redrawn
from swancli.store.catalogue import Catalogue
from swancli.store.dataset import Dataset
from swancli.store.embeddings import Embeddings
from swancli.store.joined_rows import JoinedRows


def open_dataset(path: Path, checkpoint: Checkpoint) -> Dataset:
    """A data set, with the splits of the checkpoint's fold when it was trained on one of this data set."""
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
    checkpoint: Checkpoint,
    dataset: Dataset,
    *,
    split: str | None = None,
    device: torch.device,
    batch_size: int | None = None,
    precision: str = "fp32",
    progress: Progress = quiet,
) -> Embeddings:
    """Embeddings of a data set, of one split or of all its images and captions.

    Raises:
        SwanError: the split has no captions.
    """
    options = {"device": device, "precision": precision, "progress": progress}
    model = checkpoint.model.to(device, memory_format=torch.channels_last)
    rows = dataset.catalogue.image_rows(None) if split is None else dataset.rows_of(split)
    part, _ = dataset.catalogue.select(rows)
    digests = dataset.digests(rows)
    image = encode_images(model, dataset.image, rows, digests=digests, batch_size=batch_size, **options)
    caption = encode_captions_of(checkpoint, part, **options)
    made = made_by(checkpoint, image, caption, part, dataset.name, dataset.path)
    return replace(made, dataset_digest=dataset.digest)


def encode_captions_of(
    checkpoint: Checkpoint, catalogue: Catalogue, *, device: torch.device, **options: Any
) -> np.ndarray:
    """float32 (M, D), L2-normalised: embeddings of all captions of a catalogue.

    Args:
        options: as of `encode_captions`.
    """
    model = checkpoint.model.to(device, memory_format=torch.channels_last)
    caption = np.empty((len(catalogue.text), model.settings.embed_dim), np.float32)
    for rows, shard in _encoded_together(catalogue, model):
        texts, own = catalogue.text[rows], {"device": device, "shard": shard, **options}
        caption[rows] = encode_captions(model, checkpoint.vocabulary, texts, **own)
    return caption


def _encoded_together(catalogue: Catalogue, model: Swan) -> list[tuple[np.ndarray, int]]:
    """Rows of captions that are encoded in the same shards, and their size: all, or each split (item 4)."""
    if not model.settings.quirks.counted_padding:
        return [(np.arange(len(catalogue.text)), TEST_SHARD)]
    split = catalogue.split[catalogue.image]
    return [
        (np.flatnonzero(split == name), VALIDATION_SHARD if name == "val" else TEST_SHARD)
        for name in dict.fromkeys(split)
    ]


def embed_texts(
    checkpoint: Checkpoint,
    lines: Iterable[str],
    name: str,
    *,
    device: torch.device,
    batch_size: int | None = None,
    precision: str = "fp32",
    progress: Progress = quiet,
) -> Embeddings:
    """Embeddings of lines of text, as captions without an image.

    Raises:
        SwanError: there is no line.
    """
    texts = list(lines)
    if not texts:
        raise SwanError(f"{name}: no lines of text in it", "give one caption a line")
    model = checkpoint.model.to(device)
    caption = encode_captions(
        model,
        checkpoint.vocabulary,
        texts,
        device=device,
        batch_size=batch_size,
        precision=precision,
        progress=progress,
    )
    no_images = np.empty((0, caption.shape[1]), np.float32)
    catalogue = Catalogue.of(text=texts, image=[-1] * len(texts))
    return made_by(checkpoint, no_images, caption, catalogue, name)


def made_by(
    checkpoint: Checkpoint,
    image: np.ndarray | JoinedRows,
    caption: np.ndarray,
    catalogue: Catalogue,
    dataset: str,
    pictures: Path | str = "",
) -> Embeddings:
    """Embeddings with what is recorded of a checkpoint; `dataset` and `pictures` as in `Embeddings`."""
    return Embeddings(
        image=image,
        caption=caption,
        catalogue=catalogue,
        dataset=dataset,
        checkpoint=str(checkpoint.path),
        checkpoint_sha256=checkpoint.sha256,
        variant=checkpoint.model.settings.variant,
        vocab=str(checkpoint.vocab or ""),
        pictures=str(pictures),
    )
