"""From a question to ranked images: `swan query "two tennis courts beside a road"`."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
import torch

from swancli.device import choose_device
from swancli.embed import encode_captions, encode_images
from swancli.errors import SwanError
from swancli.images import decode_image, read_bytes
from swancli.model.checkpoint import Checkpoint, load_checkpoint
from swancli.query.index import open_index
from swancli.query.ranking import Ranking, exact_ranking
from swancli.store import Catalogue, names_in, open_embeddings
from swancli.vocab import tokenize
from swancli.workspace import shipped_checkpoint


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
    """The hits of one question, best first.

    unknown: its words that the vocabulary does not hold. error: why it could not be asked, None if it could.
    """

    question: str
    unknown: tuple[str, ...]
    hits: tuple[Hit, ...]
    error: SwanError | None = None

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
        error = {"error": self.error.problem} if self.error else {}
        return {"query": self.question, "unknown_words": list(self.unknown), "results": hits, **error}


class Searcher:
    """The images of an embeddings file with their checkpoint, ready to answer.

    Args:
        candidates: int64 (n,), rows of the images that are searched. ranking: finds the best of them.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        checkpoint: Checkpoint,
        device: torch.device,
        candidates: np.ndarray,
        ranking: Ranking,
    ) -> None:
        self.catalogue = catalogue
        self.checkpoint = checkpoint
        self.device = device
        self.candidates = candidates
        self.ranking = ranking
        self._model = checkpoint.model.to(device)
        self._by_image = np.argsort(catalogue.image, kind="stable")  # captions, image by image
        self._described = catalogue.image[self._by_image]

    def ask_texts(self, questions: Sequence[str], top_k: int, threshold: float) -> Iterator[Answer]:
        """The images that each sentence describes best; many at a time cost less each than one by one.

        A question that cannot be asked has its error in its answer, and the others are answered.
        """
        # A question of the published variant would depend on those beside it (item 4).
        alone = self.checkpoint.model.settings.quirks.counted_padding
        for together in [[question] for question in questions] if alone else [questions]:
            yield from self._ask_together(together, top_k, threshold)

    def _ask_together(self, questions: Sequence[str], top_k: int, threshold: float) -> Iterator[Answer]:
        asked = [bool(tokenize(question)) for question in questions]
        vocabulary = self.checkpoint.vocabulary
        worded = list(compress(questions, asked))
        try:
            vectors = encode_captions(self._model, vocabulary, worded, device=self.device)
        except SwanError as error:
            yield from (Answer(question, (), (), error) for question in questions)
            return
        hits = self._best(vectors, top_k, threshold)
        wordless = SwanError("there is no word in it", "ask with words, as a caption would")
        for question, has_words in zip(questions, asked, strict=True):
            if has_words:
                yield Answer(question, tuple(dict.fromkeys(vocabulary.unknown(question))), next(hits))
            else:
                yield Answer(question, (), (), wordless)

    def ask_image(self, path: Path, top_k: int, threshold: float) -> Answer:
        """The images most like another one.

        Raises:
            ImageError: the file is not an image.
        """
        pixels = decode_image(read_bytes(path), str(path))
        vectors = encode_images(self._model, lambda row: pixels, [0], device=self.device)
        return Answer(str(path), (), next(self._best(vectors, top_k, threshold)))

    def _best(self, vectors: np.ndarray, top_k: int, threshold: float) -> Iterator[tuple[Hit, ...]]:
        catalogue = self.catalogue
        for rows, scores in self.ranking.best(vectors, top_k, threshold):
            yield tuple(
                Hit(
                    rank=rank,
                    score=score,
                    filename=catalogue.filename[row],
                    scene=catalogue.scene[row],
                    captions=self._captions_of(row),
                )
                for rank, (row, score) in enumerate(zip(rows.tolist(), scores.tolist(), strict=True), start=1)
            )

    def _captions_of(self, row: int) -> tuple[str, ...]:
        first, last = np.searchsorted(self._described, (row, row + 1))
        return tuple(self.catalogue.text[self._by_image[first:last]])


def candidate_rows(
    catalogue: Catalogue, scenes: Sequence[str] = (), split: str | None = None, files: str | None = None
) -> np.ndarray:
    """int64 (n,), ascending: the image rows of some scenes, a split and a pattern; of all for none.

    Args:
        files: a shell pattern, with `*`, `?` and `[...]`, of whole file names as they are stored.

    Raises:
        SwanError: no image has such a scene or split, or none that has them such a name.
    """
    rows = catalogue.image_rows(split)
    if split and not len(rows):
        raise SwanError(f"--split {split}: no image has it", _there_are(catalogue.split))
    for scene in scenes:
        if scene not in catalogue.scene:
            raise SwanError(f"--scene {scene!r}: no image has it", _there_are(catalogue.scene))
    if scenes:
        rows = rows[np.isin(catalogue.scene[rows].astype(str), list(scenes))]
    if files:
        matches = re.compile(fnmatch.translate(files)).match
        others = rows
        rows = rows[[bool(matches(name)) for name in catalogue.filename[rows]]]
        if len(others) and not len(rows):
            first = catalogue.filename[others[0]]
            raise SwanError(
                f"--files {files!r}: none of {len(others)} images has such a name",
                f"it is to match whole names as they are stored, such as {first}",
            )
    return rows


def _there_are(column: np.ndarray) -> str:
    return f"there are: {names_in(column) or 'none'}"


def open_search(
    path: Path,
    device: str = "auto",
    *,
    checkpoint: Path | None = None,
    vocab: Path | None = None,
    scenes: Sequence[str] = (),
    split: str | None = None,
    files: str | None = None,
    exact: bool = False,
    texts_only: bool = False,
) -> Searcher:
    """Opens an embeddings file and the checkpoint that made it.

    All images are searched by the index beside the file, when there is one; a part of them exactly.

    Args:
        scenes, split, files: what to search, see `candidate_rows`. exact: use no index.
        texts_only: it will be asked with texts alone, so the model's image side can stay in its file.
        checkpoint, vocab: where they are now; None for where they were when the embeddings were made.

    Raises:
        SwanError: the file holds no images, its checkpoint is not there, or is not the one that made it; its
            index does not belong to it or cannot be read.
    """
    embeddings = open_embeddings(path)
    if not len(embeddings.image):
        raise SwanError(f"{path}: holds no images to search", "embed some: swan embed --images DIR")
    catalogue, target = embeddings.catalogue, choose_device(device)
    candidates = candidate_rows(catalogue, scenes, split, files)
    whole = len(candidates) == len(embeddings.image)
    indexed = open_index(path, embeddings, target) if whole and not exact else None
    vocab = vocab or (Path(embeddings.vocab) if embeddings.vocab else None)
    made_by = checkpoint or Path(embeddings.checkpoint)
    if not checkpoint and not made_by.exists() and made_by.name == shipped_checkpoint().name:
        made_by = shipped_checkpoint()  # where this installation has it
    with ThreadPoolExecutor(1) as pool:
        # Reading and hashing leave the interpreter free, which meanwhile imports the tokenizer.
        loading = pool.submit(load_checkpoint, made_by, vocab, captions_only=texts_only)
        tokenize("")
        model = loading.result()
    if model.sha256 != embeddings.checkpoint_sha256:
        raise SwanError(
            f"{path}: its embeddings were made by another checkpoint than {model.path}",
            "make them again: swan embed",
        )
    ranking = indexed or exact_ranking(embeddings.image, candidates, target)
    return Searcher(catalogue, model, target, candidates, ranking)
