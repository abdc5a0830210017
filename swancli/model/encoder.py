"""Items in, embeddings out, in batches: the encoding that `train`, `eval`, `embed` and `query` share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from swancli.images import pixel_digest, resize_image
from swancli.machine.device import autocast, image_batch, move, pinned, reading_threads
from swancli.machine.progress import Progress, quiet
from swancli.machine.threads import in_order, read_ahead
from swancli.model.inputs import normalise, pad_tokens, stack_images
from swancli.model.swan import Swan
from swancli.vocab.vocabulary import Vocabulary

# The published evaluation pads captions in shards of so many (item 4): when testing, and when validating.
TEST_SHARD, VALIDATION_SHARD = 128, 256
CAPTIONS = 256  # encoded at a time
GATHERED = 64  # batches of images, after which their embeddings are put together


@dataclass(frozen=True)
class Picture:
    """What is known of a picture beside its pixels.

    name, scene: as its source has them. digest: of its pixels, equal when they are. reason: why it is left
    out, "" when it is not.
    """

    name: str
    scene: str | None
    digest: str
    reason: str = ""


Load = Callable[[], tuple[np.ndarray | None, Picture]]  # uint8 (H, W, 3), None where it is left out


@dataclass(frozen=True)
class EncodedPiece:
    """The pictures of a piece in order, and float32 (n, D), L2-normalised, of those not left out."""

    image: np.ndarray
    pictures: list[Picture]


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
    # Of pictures known to be equal the first is read, of others all.
    places = range(len(rows)) if digests is None else first_of_each(digests).tolist()

    def load(place: int) -> tuple[np.ndarray, Picture]:
        pixels = read_image(rows[place])
        return pixels, Picture("", None, pixel_digest(pixels) if digests is None else digests[place])

    def show(loaded: int) -> None:
        done = len(rows) if loaded == len(places) else places[loaded - 1] + 1
        progress("images", done if loaded else 0, len(rows))

    piece = (partial(load, place) for place in places)
    options = {"batch_size": batch_size, "precision": precision, "progress": show}
    (encoded,) = encode_pieces(model, [piece], device=device, **options)
    if len(places) == len(rows):
        return encoded.image
    number = {digests[place]: index for index, place in enumerate(places)}
    return encoded.image[[number[digest] for digest in digests]]


def first_of_each(values: Sequence[str] | np.ndarray) -> np.ndarray:
    """int64 (n,), ascending: where each different one, of texts or numbers, stands first."""
    values = np.asarray(values)
    comparable = values.astype(str) if values.dtype.hasobject else values
    return np.sort(np.unique(comparable, return_index=True)[1])


def encode_pieces(
    model: Swan,
    pieces: Iterable[Iterable[Load]],
    *,
    device: torch.device,
    batch_size: int | None = None,
    precision: str = "fp32",
    progress: Callable[[int], None] = lambda loaded: None,
) -> Iterator[EncodedPiece]:
    """Embeddings of pictures, piece by piece; identical pictures of a piece are encoded once.

    No batch holds pictures of two pieces, so what becomes of a piece does not depend on the others. Pictures
    of the next one are read while one is encoded.

    Args:
        pieces: for each picture what loads it, perhaps in another thread.
        batch_size: images at a time; None for as many as suit the device.
        progress: is told how many pictures are loaded so far.
    """
    batch_size = batch_size or image_batch(device)
    size = model.settings.image_size

    def entries() -> Iterator[Load | None]:
        for piece in pieces:
            yield from piece
            yield None  # the border

    def load(entry: Load | None) -> tuple[np.ndarray | None, Picture | None]:
        pixels, picture = entry() if entry else (None, None)
        return None if pixels is None else resize_image(pixels, size, size), picture

    def batches() -> Iterator[tuple[torch.Tensor | None, int, list[Picture] | None]]:
        loaded, pictures, seen, waiting = 0, [], set(), []
        for pixels, picture in in_order(load, entries(), reading_threads(device)):
            if picture:
                loaded += 1
                pictures.append(picture)
                if pixels is not None and picture.digest not in seen:
                    seen.add(picture.digest)
                    waiting.append(pixels)
            if not picture or len(waiting) == batch_size:
                batch = pinned(stack_images(waiting, size), device) if waiting else None
                yield batch, loaded, None if picture else pictures
                waiting = []
            if not picture:
                pictures, seen = [], set()

    model.eval()
    encoded, vectors = [], [np.empty((0, model.settings.embed_dim), np.float32)]
    progress(0)
    for batch, loaded, pictures in read_ahead(batches()):
        if batch is not None:
            with torch.inference_mode(), autocast(device, precision):
                pixels = normalise(move(batch, device))
                encoded.append(move(model.encode_images(pixels), "cpu"))
        # Thousands of small results, each kept where it came to lie, would keep the memory between them too.
        if encoded and (len(encoded) == GATHERED or pictures is not None):
            vectors.append(_gathered(encoded, device))
            encoded.clear()
        progress(loaded)
        if pictures is not None:
            yield EncodedPiece(_row_each(np.concatenate(vectors), pictures), pictures)
            vectors = vectors[:1]


def _row_each(vectors: np.ndarray, pictures: list[Picture]) -> np.ndarray:
    """float32 (n, D): a row for each picture that is not left out, from one for each different picture."""
    digests = [picture.digest for picture in pictures if not picture.reason]
    if len(vectors) == len(digests):
        return vectors
    number = {digest: index for index, digest in enumerate(dict.fromkeys(digests))}
    return vectors[[number[digest] for digest in digests]]


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
