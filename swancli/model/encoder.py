"""From images and captions to embeddings, for all commands and from Python.

    encoder = Encoder("shipped")
    encoder.images(["a.tif", "b.jpg"]) @ encoder.captions(["many boats in a harbor"]).T

Letters in shapes: N images, M captions, D embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from os import PathLike
from typing import Any

import numpy as np
import torch
from PIL.Image import Image

from swancli.errors import SwanError
from swancli.images import pixel_digest, pixels_of
from swancli.machine.device import autocast, choose_device, image_batch, move, pinned, reading_threads
from swancli.machine.progress import Progress, quiet
from swancli.machine.threads import in_order, read_ahead
from swancli.model.checkpoint import Checkpoint, load_checkpoint
from swancli.model.inputs import pad_tokens, stack_images
from swancli.store.catalogue import Catalogue
from swancli.store.dataset import Dataset
from swancli.store.made_by import MadeBy
from swancli.workspace import Run

# Captions per shard in the published evaluation, which pads each shard by itself (item 4).
TEST_SHARD, VALIDATION_SHARD = 128, 256
CAPTIONS = 256  # encoded at a time
GATHERED = 64  # batches of images whose embeddings are joined at a time
PRECISIONS = ("fp32", "bf16")


@dataclass(frozen=True)
class Picture:
    """A picture without its pixels.

    name: as in its source.
    digest: of its pixels, equal for equal pixels.
    reason: why it is left out; "" if it is not.
    """

    name: str
    digest: str
    reason: str = ""


Load = Callable[[], tuple[np.ndarray | None, Picture]]  # uint8 (H, W, 3), None if it is left out


@dataclass(frozen=True)
class EncodedPiece:
    """The embeddings of one piece.

    image: float32 (n, D), L2-normalised, of the pictures that are not left out.
    pictures: all pictures in order.
    """

    image: np.ndarray
    pictures: list[Picture]


class Encoder:
    """A checkpoint on a device, ready to encode images and captions.

    Args:
        checkpoint: "shipped", the path of a checkpoint (ours or the published code's), a run, or a loaded
            checkpoint; a model of open_clip by open_clip:NAME:FILE, or by a folder with its files.
        device: "auto", "cpu", "cuda", "cuda:1" or "mps"; auto takes a GPU if there is one.
        precision: "fp32" or "bf16", which is faster on GPUs and changes embeddings slightly.
        batch_size: images encoded at a time; None for 32, on a GPU 256.
        vocab: the vocabulary of a published checkpoint, which contains none: a `vocab.h5` or its JSON.
        captions_only: do not load the image side, which is faster; only captions can be encoded.

    Attributes:
        checkpoint: the loaded checkpoint.
        device: the `torch.device` that computes.
        precision: as given.
        batch_size: images encoded at a time.

    Raises:
        SwanError: the checkpoint cannot be read, or there is no such device or precision.
    """

    def __init__(
        self,
        checkpoint: str | PathLike[str] | Run | Checkpoint,
        device: str | torch.device = "auto",
        precision: str = "fp32",
        batch_size: int | None = None,
        vocab: str | PathLike[str] | None = None,
        *,
        captions_only: bool = False,
    ) -> None:
        if precision not in PRECISIONS:
            raise SwanError(f"precision {precision!r}: not known", f"give {' or '.join(PRECISIONS)}")
        if batch_size is not None and batch_size < 1:
            raise SwanError(f"batch_size {batch_size}: less than 1")
        self.device = choose_device(device) if isinstance(device, str) else device
        if not isinstance(checkpoint, Checkpoint):
            checkpoint = load_checkpoint(checkpoint, vocab, captions_only=captions_only)
        self.checkpoint = checkpoint
        self.precision = precision
        self.batch_size = batch_size or image_batch(self.device)
        self._model = checkpoint.model.to(self.device, memory_format=torch.channels_last).eval()

    @property
    def dimensions(self) -> int:
        """D, the length of an embedding."""
        return self._model.settings.embed_dim

    @property
    def made_by(self) -> MadeBy:
        """The record stored with the embeddings that it makes."""
        return self.checkpoint.made_by

    # images

    def images(
        self, items: Iterable[str | PathLike[str] | Image | np.ndarray], progress: Progress = quiet
    ) -> np.ndarray:
        """Embeddings of images; identical images are encoded once.

        A stream, such as a generator, is read in another thread while it is encoded; only a few batches of
        pixels are in memory at a time.

        Args:
            items: paths, PIL images or uint8 (H, W, 3) arrays, RGB, of any size.
            progress: called with "images", the number read, and the number of all (0 if unknown).

        Returns:
            float32 (N, D), L2-normalised, in the order of the items.

        Raises:
            ImageError: an item cannot be read.
            SwanError: an item is something else, or `items` is a single one.
        """
        if isinstance(items, (str, PathLike, Image)):
            raise SwanError("images: this is a single image", "give a list, as in images([one])")

        def load(numbered: tuple[int, object]) -> tuple[np.ndarray, Picture]:
            number, item = numbered
            pixels = pixels_of(item, f"image {number}")
            return pixels, Picture("", pixel_digest(pixels))

        count = len(items) if hasattr(items, "__len__") else 0
        loads = (partial(load, numbered) for numbered in enumerate(items))
        (encoded,) = self.pieces([loads], lambda loaded: progress("images", loaded, count))
        return encoded.image

    def rows(self, dataset: Dataset, rows: np.ndarray, progress: Progress = quiet) -> np.ndarray:
        """Embeddings of rows of a data set; images with equal digests are read and encoded once.

        Args:
            dataset: with the images.
            rows: int64 (N,), in the order of the result.
            progress: called with "images", the number of rows done, and N.

        Returns:
            float32 (N, D), L2-normalised.
        """
        digests = dataset.digests(rows)
        places = first_of_each(digests)

        def load(place: int) -> tuple[np.ndarray, Picture]:
            return dataset.image(rows[place]), Picture("", digests[place])

        def show(loaded: int) -> None:
            done = len(rows) if loaded == len(places) else int(places[loaded - 1]) + 1
            progress("images", done if loaded else 0, len(rows))

        (encoded,) = self.pieces([(partial(load, place) for place in places)], show)
        return _row_each(encoded.image, digests)

    def pieces(
        self, pieces: Iterable[Iterable[Load]], progress: Callable[[int], None] = lambda loaded: None
    ) -> Iterator[EncodedPiece]:
        """Embeddings of pictures, piece by piece; identical pictures of a piece are encoded once.

        No batch contains pictures of two pieces, so the embeddings of a piece do not depend on other pieces.
        The next piece is read while one is encoded. Close the generator before the source that it reads.

        Args:
            pieces: a function for each picture that loads it; may be called in another thread.
            progress: called with the number of pictures loaded so far.
        """
        encoded, vectors = [], [np.empty((0, self.dimensions), np.float32)]
        progress(0)
        with closing(read_ahead(self._batches(pieces))) as batches:
            for batch, loaded, pictures in batches:
                if batch is not None:
                    encoded.append(self._encode(batch))
                # Many small results that stay where they were allocated would fragment the memory.
                if encoded and (len(encoded) == GATHERED or pictures is not None):
                    vectors.append(self._gathered(encoded))
                    encoded.clear()
                progress(loaded)
                if pictures is not None:
                    digests = [picture.digest for picture in pictures if not picture.reason]
                    yield EncodedPiece(_row_each(np.concatenate(vectors), digests), pictures)
                    vectors = vectors[:1]

    def _batches(
        self, pieces: Iterable[Iterable[Load]]
    ) -> Iterator[tuple[torch.Tensor | None, int, list[Picture] | None]]:
        """Batches of pixels, the number of pictures loaded, and at the end of a piece its pictures."""
        resized = self._model.settings.preprocessing.resized

        def entries() -> Iterator[Load | None]:
            for piece in pieces:
                yield from piece
                yield None  # end of the piece

        def load(entry: Load | None) -> tuple[np.ndarray | None, Picture | None]:
            pixels, picture = entry() if entry else (None, None)
            return None if pixels is None else resized(pixels), picture

        loaded, pictures, seen, waiting = 0, [], set(), []
        for pixels, picture in in_order(load, entries(), reading_threads(self.device)):
            if picture:
                loaded += 1
                pictures.append(picture)
                if pixels is not None and picture.digest not in seen:
                    seen.add(picture.digest)
                    waiting.append(pixels)
            if not picture or len(waiting) == self.batch_size:
                batch = pinned(stack_images(waiting), self.device) if waiting else None
                yield batch, loaded, None if picture else pictures
                waiting = []
            if not picture:
                pictures, seen = [], set()

    def views(self, batches: Iterable[dict[str, torch.Tensor]]) -> np.ndarray:
        """Embeddings of images whose maps were computed earlier by a frozen backbone.

        Args:
            batches: maps of B images, see `Backbone.forward`, of any float type; at least one batch.

        Returns:
            float32 (N, D), L2-normalised.
        """
        return self._encode_each(
            lambda maps: self._model.encode_maps(
                {depth: move(values, self.device).float() for depth, values in maps.items()}
            ),
            batches,
        )

    def _encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """The embeddings (B, D) of a batch of pixels, on their way to the CPU."""
        with torch.inference_mode(), autocast(self.device, self.precision):
            normalised = self._model.settings.preprocessing.normalise(move(pixels, self.device))
            return move(self._model.encode_images(normalised), "cpu")

    def states(self, batches: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> np.ndarray:
        """Embeddings of captions whose word states were computed earlier by a frozen text transformer.

        Args:
            batches: states of B captions, see `TextTower.read`, of any float type, and their lengths, int64
                (B,); at least one batch.

        Returns:
            float32 (M, D), L2-normalised.
        """
        return self._encode_each(
            lambda batch: self._model.encode_states(move(batch[0], self.device).float(), batch[1]), batches
        )

    # captions

    def captions(
        self, texts: Iterable[str], progress: Progress = quiet, *, shard: int = TEST_SHARD
    ) -> np.ndarray:
        """Embeddings of captions; captions of the same words are encoded once, in order of length.

        If padding counts (item 4 of the published code), an embedding depends on the captions of its batch.
        They are then encoded as published: in the order given, in shards padded to their longest caption.

        Args:
            texts: the captions.
            progress: called with "captions", the number encoded, and the number of all.
            shard: captions per shard, if they are encoded as published.

        Returns:
            float32 (M, D), L2-normalised.

        Raises:
            SwanError: an item is not text, or `texts` is a single one.
        """
        if isinstance(texts, str):
            raise SwanError("captions: this is a single text", "give a list, as in captions([text])")
        texts = list(texts)
        for place, text in enumerate(texts):
            if not isinstance(text, str):
                raise SwanError(f"caption {place}: {type(text).__name__} is not text", "give strings")
        numbers = [tuple(words) for words in self.checkpoint.tokenizer.encode_all(texts)]
        batch_size = CAPTIONS
        if self._model.settings.quirks.counted_padding:
            ordered, rows, batch_size = numbers, list(range(len(numbers))), shard
        else:
            ordered = sorted(set(numbers), key=lambda words: (len(words), words))
            place = {words: index for index, words in enumerate(ordered)}
            rows = [place[words] for words in numbers]
        encoded = []
        progress("captions", 0, len(ordered))
        for start in range(0, len(ordered), batch_size):
            tokens, lengths = pad_tokens(ordered[start : start + batch_size])
            with torch.inference_mode(), autocast(self.device, self.precision):
                tokens = move(tokens, self.device)
                encoded.append(move(self._model.encode_captions(tokens, lengths), "cpu"))
            progress("captions", min(start + batch_size, len(ordered)), len(ordered))
        if not encoded:
            return np.empty((0, self.dimensions), dtype=np.float32)
        return self._gathered(encoded)[rows]

    def captions_of(self, catalogue: Catalogue, progress: Progress = quiet) -> np.ndarray:
        """Embeddings of all captions of a catalogue, as float32 (M, D), L2-normalised.

        If padding counts (item 4), each split is encoded by itself, in the shards of the published code.
        """
        texts = catalogue.text
        if not self._model.settings.quirks.counted_padding:
            return self.captions(texts, progress)
        caption = np.empty((len(texts), self.dimensions), np.float32)
        split = catalogue.split[catalogue.image]
        for name in dict.fromkeys(split):
            rows = np.flatnonzero(split == name)
            shard = VALIDATION_SHARD if name == "val" else TEST_SHARD
            caption[rows] = self.captions(texts[rows], progress, shard=shard)
        return caption

    def _encode_each(self, encode: Callable[[Any], torch.Tensor], batches: Iterable[Any]) -> np.ndarray:
        """The embeddings (N, D) of all batches, from a function that encodes one."""
        encoded = []
        for batch in batches:
            with torch.inference_mode(), autocast(self.device, self.precision):
                encoded.append(move(encode(batch), "cpu"))
        return self._gathered(encoded)

    def _gathered(self, encoded: Sequence[torch.Tensor]) -> np.ndarray:
        """Batches that were sent to the CPU, as one array; waits for the last of them."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return torch.cat(list(encoded)).numpy()


def first_of_each(values: Sequence[str] | np.ndarray) -> np.ndarray:
    """int64 (n,), ascending: the first place of each different value, of texts or numbers."""
    values = np.asarray(values)
    comparable = values.astype(str) if values.dtype.hasobject else values
    return np.sort(np.unique(comparable, return_index=True)[1])


def _row_each(vectors: np.ndarray, digests: Sequence[str]) -> np.ndarray:
    """float32 (n, D): one row per digest, from one row per different digest in order."""
    number = {digest: index for index, digest in enumerate(dict.fromkeys(digests))}
    return vectors if len(vectors) == len(digests) else vectors[[number[digest] for digest in digests]]
