"""Items in, embeddings out, in batches: the encoding that `train`, `eval`, `embed` and `query` share.

swan embed
swan embed --images DIR
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from swancli.device import autocast, image_batch, move, pinned, reading_threads
from swancli.errors import ImageError, StoreError, SwanError
from swancli.images import decode_image, pixel_digest, read_inside, resize_image
from swancli.model.checkpoint import TRAIN_AGAIN, Checkpoint
from swancli.model.swan import Swan
from swancli.prepare.sources import read_source
from swancli.prepare.splits import Fold, redrawn
from swancli.store import Catalogue, Dataset, Embeddings
from swancli.threads import in_order, read_ahead
from swancli.train.batches import normalise, pad_tokens, stack_images
from swancli.vocab import Vocabulary

# The published evaluation pads captions in shards of so many (item 4): when testing, and when validating.
TEST_SHARD, VALIDATION_SHARD = 128, 256
CAPTIONS = 256  # encoded at a time
GATHERED = 64  # batches of images, after which their embeddings are put together

Progress = Callable[[str, int, int], None]


def quiet(phase: str, done: int, total: int) -> None:
    """A progress callback that shows nothing."""


def encode_images(
    model: Swan,
    read_image: Callable[[int], np.ndarray],
    rows: Sequence[int],
    *,
    device: torch.device,
    digests: Sequence[str] | None = None,
    batch_size: int | None = None,
    precision: str = "fp32",
    progress: Progress = quiet,
) -> np.ndarray:
    """Embeddings of images; identical pictures are encoded once.

    Args:
        read_image: from a row to its uint8 (H, W, 3) pixels.
        rows: which rows, in the order of the result.
        digests: of each row's pixels, equal when they are; None to make them of what is read.
        batch_size: images at a time; None for as many as suit the device.

    Returns:
        float32 (len(rows), D), L2-normalised.
    """
    batch_size = batch_size or image_batch(device)
    found: list[str] = [] if digests is None else list(digests)
    # Of pictures known to be equal the first is read, of others all.
    places = range(len(rows)) if digests is None else np.sort(np.unique(digests, return_index=True)[1])
    number: dict[str, int] = {}
    size = model.settings.image_size

    def load(place: int) -> tuple[np.ndarray, str]:
        pixels = read_image(rows[place])
        digest = pixel_digest(pixels) if digests is None else digests[place]
        return resize_image(pixels, size, size), digest

    def new_pictures() -> Iterator[tuple[int, torch.Tensor | None]]:
        waiting: list[np.ndarray] = []
        loaded = in_order(load, places, reading_threads(device))
        for place, (pixels, digest) in zip(places, loaded, strict=True):
            if digests is None:
                found.append(digest)
            if digest not in number:
                number[digest] = len(number)
                waiting.append(pixels)
            if len(waiting) == batch_size:
                yield int(place) + 1, pinned(stack_images(waiting, size), device)
                waiting = []
        yield len(rows), pinned(stack_images(waiting, size), device) if waiting else None

    model.eval()
    vectors, filled = np.empty((len(places), model.settings.embed_dim), np.float32), 0
    encoded = []
    progress("images", 0, len(rows))
    for done, batch in read_ahead(new_pictures()):
        if batch is not None:
            with torch.inference_mode(), autocast(device, precision):
                pixels = normalise(move(batch, device))
                encoded.append(move(model.encode_images(pixels), "cpu"))
        # Thousands of small results, each kept where it came to lie, would keep the memory between them too.
        if encoded and (len(encoded) == GATHERED or done == len(rows)):
            part = _gathered(encoded, device)
            vectors[filled : filled + len(part)] = part
            filled += len(part)
            encoded.clear()
        progress("images", done, len(rows))
    return vectors if filled == len(rows) else vectors[[number[digest] for digest in found]]


def encode_captions(
    model: Swan,
    vocabulary: Vocabulary,
    texts: Sequence[str],
    *,
    device: torch.device,
    batch_size: int | None = None,
    shard: int = TEST_SHARD,
    precision: str = "fp32",
    progress: Progress = quiet,
) -> np.ndarray:
    """Embeddings of captions; captions of the same words are encoded once, in order of length.

    Where padding counts (item 4 of the published code) an embedding depends on the captions beside it, so
    they are taken as published: in the order given, in shards padded each to its own longest.

    Args:
        batch_size: captions encoded at a time; None for `CAPTIONS`. shard: the same, as published.

    Returns:
        float32 (len(texts), D), L2-normalised.
    """
    batch_size = batch_size or CAPTIONS
    numbers = [tuple(vocabulary.encode(text)) for text in texts]
    if model.settings.quirks.counted_padding:
        ordered, rows, batch_size = numbers, list(range(len(numbers))), shard
    else:
        ordered = sorted(set(numbers), key=lambda words: (len(words), words))
        place = {words: index for index, words in enumerate(ordered)}
        rows = [place[words] for words in numbers]
    model.eval()
    encoded = []
    progress("captions", 0, len(ordered))
    for start in range(0, len(ordered), batch_size):
        tokens, lengths = pad_tokens(ordered[start : start + batch_size])
        with torch.inference_mode(), autocast(device, precision):
            encoded.append(move(model.encode_captions(move(tokens, device), lengths), "cpu"))
        progress("captions", min(start + batch_size, len(ordered)), len(ordered))
    if not encoded:
        return np.empty((0, model.settings.embed_dim), dtype=np.float32)
    return _gathered(encoded, device)[rows]


def _gathered(encoded: list[torch.Tensor], device: torch.device) -> np.ndarray:
    """Batches that were sent to the CPU, as one array, once the last of them has arrived."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return torch.cat(encoded).numpy()


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
    caption = np.empty((len(part.text), model.settings.embed_dim), np.float32)
    for captions, shard in _encoded_together(part, model):
        texts = part.text[captions]
        caption[captions] = encode_captions(model, checkpoint.vocabulary, texts, shard=shard, **options)
    made = _made_by(checkpoint, image, caption, part, dataset.name, dataset.path)
    return replace(made, dataset_digest=dataset.digest)


def _encoded_together(catalogue: Catalogue, model: Swan) -> list[tuple[np.ndarray, int]]:
    """Rows of captions that are encoded in the same shards, and their size: all, or each split (item 4)."""
    if not model.settings.quirks.counted_padding:
        return [(np.arange(len(catalogue.text)), TEST_SHARD)]
    split = catalogue.split[catalogue.image]
    return [
        (np.flatnonzero(split == name), VALIDATION_SHARD if name == "val" else TEST_SHARD)
        for name in dict.fromkeys(split)
    ]


def embed_folder(
    checkpoint: Checkpoint,
    folder: Path,
    *,
    missing: str = "error",
    device: torch.device,
    batch_size: int | None = None,
    precision: str = "fp32",
    progress: Progress = quiet,
) -> tuple[Embeddings, list[tuple[str, str]]]:
    """Embeddings of every image below a folder, and the file name and defect of those left out.

    Args:
        missing: "error", or "skip" to leave unreadable images out.

    Raises:
        SwanError: no images there. ImageError: one is unreadable, unless `missing` is "skip".
    """
    if not folder.is_dir():
        raise SwanError(f"--images {folder}: no such folder")
    source = read_source(folder, "folder")
    names = [entry.filename for entry in source.entries]
    skipped: dict[int, tuple[str, str]] = {}
    blank = np.zeros((1, 1, 3), np.uint8)

    def read_image(row: int) -> np.ndarray:
        try:
            path = source.images / names[row]
            return decode_image(read_inside(path, source.images), str(path))
        except ImageError as error:
            if missing == "error":
                mend = f"{error.mend or 'mend it'}; or pass over it: --missing skip"
                raise ImageError(error.problem, mend) from None
            skipped[row] = names[row], error.problem
            return blank

    model = checkpoint.model.to(device, memory_format=torch.channels_last)
    image = encode_images(
        model,
        read_image,
        range(len(names)),
        device=device,
        batch_size=batch_size,
        precision=precision,
        progress=progress,
    )
    kept = [row for row in range(len(names)) if row not in skipped]
    if not kept:
        raise SwanError(f"{folder}: none of its {len(names)} images can be read")
    catalogue = Catalogue.of(
        [names[row] for row in kept], [source.entries[row].scene for row in kept], [None] * len(kept)
    )
    no_captions = np.empty((0, image.shape[1]), np.float32)
    embeddings = _made_by(
        checkpoint,
        image[kept] if skipped else image,
        no_captions,
        catalogue,
        folder.resolve().name,
        source.images,
    )
    return embeddings, [skipped[row] for row in sorted(skipped)]


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
    return _made_by(checkpoint, no_images, caption, catalogue, name)


def _made_by(
    checkpoint: Checkpoint,
    image: np.ndarray,
    caption: np.ndarray,
    catalogue: Catalogue,
    dataset: str,
    pictures: Path | None = None,
) -> Embeddings:
    return Embeddings(
        image=image,
        caption=caption,
        catalogue=catalogue,
        dataset=dataset,
        checkpoint=str(checkpoint.path),
        checkpoint_sha256=checkpoint.sha256,
        variant=checkpoint.model.settings.variant,
        vocab=str(checkpoint.vocab or ""),
        pictures=str(pictures or ""),
    )
