"""From a question to ranked images: `swan query "two tennis courts beside a road"`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from swancli.device import choose_device
from swancli.embed import encode_captions, encode_images
from swancli.errors import SwanError
from swancli.images import decode_image, read_bytes
from swancli.model.checkpoint import Checkpoint, load_checkpoint
from swancli.store import Catalogue, Embeddings, names_in, read_embeddings
from swancli.vocab import tokenize


@dataclass(frozen=True)
class Hit:
    """One result. rank counts from 1; score: the cosine similarity, -1 to 1."""

    rank: int
    score: float
    filename: str
    scene: str | None
    captions: tuple[str, ...]


@dataclass(frozen=True)
class Answer:
    """The hits of one question, best first. unknown: its words that the vocabulary does not hold."""

    question: str
    unknown: tuple[str, ...]
    hits: tuple[Hit, ...]

    def record(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        hits = [
            {
                "rank": hit.rank,
                "score": hit.score,
                "filename": hit.filename,
                "scene": hit.scene,
                "captions": list(hit.captions),
            }
            for hit in self.hits
        ]
        return {"query": self.question, "unknown_words": list(self.unknown), "results": hits}


class Searcher:
    """An embeddings file with its checkpoint, ready to answer; it holds both in memory."""

    def __init__(
        self, embeddings: Embeddings, checkpoint: Checkpoint, device: torch.device, candidates: np.ndarray
    ) -> None:
        self.embeddings = embeddings
        self.checkpoint = checkpoint
        self.device = device
        self.candidates = candidates
        self._model = checkpoint.model.to(device)
        self._captions = _captions_of_images(embeddings.catalogue)

    def ask_text(self, question: str, top_k: int, threshold: float) -> Answer:
        """The images that a sentence describes best.

        Raises:
            SwanError: there is no word in the question.
        """
        if not tokenize(question):
            raise SwanError(
                f"query {question!r}: there is no word in it", "ask with words, as a caption would"
            )
        vocabulary = self.checkpoint.vocabulary
        vector = encode_captions(self._model, vocabulary, [question], device=self.device)[0]
        unknown = tuple(dict.fromkeys(vocabulary.unknown(question)))
        return Answer(question, unknown, self._best(vector, top_k, threshold))

    def ask_image(self, path: Path, top_k: int, threshold: float) -> Answer:
        """The images most like another one.

        Raises:
            ImageError: the file is not an image.
        """
        pixels = decode_image(read_bytes(path), str(path))
        vector = encode_images(self._model, lambda row: pixels, [0], device=self.device)[0]
        return Answer(str(path), (), self._best(vector, top_k, threshold))

    def _best(self, vector: np.ndarray, top_k: int, threshold: float) -> tuple[Hit, ...]:
        rows, scores = best_rows(self.embeddings.image, vector, self.candidates, top_k, threshold)
        catalogue = self.embeddings.catalogue
        return tuple(
            Hit(
                rank=rank,
                score=float(score),
                filename=catalogue.filename[row],
                scene=catalogue.scene[row],
                captions=tuple(catalogue.text[self._captions.get(int(row), [])]),
            )
            for rank, (row, score) in enumerate(zip(rows, scores, strict=True), start=1)
        )


def best_rows(
    image: np.ndarray, vector: np.ndarray, candidates: np.ndarray, top_k: int, threshold: float = -1.0
) -> tuple[np.ndarray, np.ndarray]:
    """The candidates most similar to a vector, best first; equal scores keep the order of the rows.

    Args:
        image: float32 (N, D), L2-normalised. vector: float32 (D,). candidates: int64 (n,), rows of `image`.
        threshold: the least cosine similarity.

    Returns:
        Rows int64 and their scores float32, at most `top_k`.
    """
    scores = (image if len(candidates) == len(image) else image[candidates]) @ vector
    order = np.argsort(-scores, kind="stable")[:top_k]
    order = order[scores[order] >= threshold]
    return candidates[order], scores[order]


def candidate_rows(catalogue: Catalogue, scenes: Sequence[str] = (), split: str | None = None) -> np.ndarray:
    """int64 (n,): the image rows of some scenes and a split; of all for none.

    Raises:
        SwanError: no image has such a scene or split.
    """
    rows = catalogue.image_rows(split)
    if split and not len(rows):
        raise SwanError(f"--split {split}: no image has it", _there_are(catalogue.split))
    for scene in scenes:
        if scene not in catalogue.scene:
            raise SwanError(f"--scene {scene!r}: no image has it", _there_are(catalogue.scene))
    return rows[np.isin(catalogue.scene[rows].astype(str), list(scenes))] if scenes else rows


def _there_are(column: np.ndarray) -> str:
    return f"there are: {names_in(column) or 'none'}"


def _captions_of_images(catalogue: Catalogue) -> dict[int, list[int]]:
    captions: dict[int, list[int]] = {}
    for caption, image in enumerate(catalogue.image.tolist()):
        captions.setdefault(image, []).append(caption)
    return captions


def open_search(
    path: Path,
    device: str = "auto",
    *,
    checkpoint: Path | None = None,
    vocab: Path | None = None,
    scenes: Sequence[str] = (),
    split: str | None = None,
) -> Searcher:
    """Opens an embeddings file and the checkpoint that made it.

    Args:
        checkpoint, vocab: where they are now; None for where they were when the embeddings were made.

    Raises:
        SwanError: the file holds no images, its checkpoint is not there, or is not the one that made it.
    """
    embeddings = read_embeddings(path)
    if not len(embeddings.image):
        raise SwanError(f"{path}: holds no images to search", "embed some: swan embed --images DIR")
    vocab = vocab or (Path(embeddings.vocab) if embeddings.vocab else None)
    model = load_checkpoint(checkpoint or Path(embeddings.checkpoint), vocab)
    if model.sha256 != embeddings.checkpoint_sha256:
        raise SwanError(
            f"{path}: its embeddings were made by another checkpoint than {model.path}",
            "make them again: swan embed",
        )
    return Searcher(
        embeddings, model, choose_device(device), candidate_rows(embeddings.catalogue, scenes, split)
    )
