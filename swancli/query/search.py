"""From a question to ranked images: `swan query "two tennis courts beside a road"`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from itertools import chain, compress
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from swancli.device import choose_device
from swancli.embed import encode_captions, encode_images
from swancli.errors import SwanError
from swancli.evaluate.matching import MatchThreshold, match_threshold
from swancli.model.checkpoint import Checkpoint, load_checkpoint
from swancli.store import Catalogue, Embeddings, names_in, read_embeddings
from swancli.vocab import tokenize
from swancli.workspace import shipped_checkpoint

CELLS = 2**24  # similarities at a time, at most (but one question's at least): 64 MB

# What an excluded text takes from a question. On the validation splits of UCM and RSICD 0.3 halved the share
# of the excluded scene among the first ten and kept the asked one's; from 0.5 on that fell too.
AWAY = 0.3

Find = Literal["images", "captions"]


@dataclass(frozen=True)
class Question:
    """What to look for, in words: the mean of some texts, away from others."""

    texts: tuple[str, ...]
    without: tuple[str, ...] = ()

    def __str__(self) -> str:
        return " + ".join(self.texts) + "".join(f" - {text}" for text in self.without)

    @property
    def words(self) -> tuple[str, ...]:
        """Its texts and those to keep away from."""
        return self.texts + self.without


@dataclass(frozen=True)
class Scope:
    """What is ranked, and how much of it is wanted.

    find: images, or captions, each different text once. threshold: the least score. scenes, split, files:
    only images of one of these scenes, of this split, with a name of this shell pattern; their captions.
    """

    find: Find = "images"
    top_k: int = 10
    threshold: float = -1.0
    scenes: tuple[str, ...] = ()
    split: str | None = None
    files: str | None = None


@dataclass(frozen=True)
class Hit:
    """One result. rank counts from 1; row: of the image, -1 for a caption without one.

    score: the cosine similarity of its embedding and the question's, -1 to 1. captions: of the image, or the
    one that was found.
    """

    rank: int
    row: int
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
    """An embeddings file with its checkpoint, ready to answer; it holds both in memory."""

    def __init__(self, embeddings: Embeddings, checkpoint: Checkpoint, device: torch.device) -> None:
        self.catalogue = embeddings.catalogue
        self.checkpoint = checkpoint
        self.device = device
        self._model = checkpoint.model.to(device)
        self._vectors = {
            # Dimensions first: one vector against many is then three times as fast on a CPU.
            "images": torch.from_numpy(embeddings.image).to(device).T.contiguous(),
            "captions": torch.from_numpy(embeddings.caption).to(device).T.contiguous(),
        }
        self._captions = _captions_of_images(embeddings.catalogue)
        self.pictures = embeddings.pictures
        self.candidates = lru_cache(maxsize=64)(self._candidates)

    def ask_texts(self, questions: Sequence[Question], scope: Scope) -> Iterator[Answer]:
        """What each question describes best; many at a time cost less each than one by one.

        A question that cannot be asked has its error in its answer, and the others are answered.

        Raises:
            SwanError: the scope leaves nothing to rank.
        """
        # A question of the published variant would depend on those beside it (item 4).
        alone = self.checkpoint.model.settings.quirks.counted_padding
        for together in [[question] for question in questions] if alone else [questions]:
            yield from self._ask_together(together, scope)

    def _ask_together(self, questions: Sequence[Question], scope: Scope) -> Iterator[Answer]:
        asked = [all(map(tokenize, question.words)) for question in questions]
        try:
            vectors = self._question_vectors(list(compress(questions, asked)))
        except SwanError as error:
            yield from (Answer(str(question), (), (), error) for question in questions)
            return
        hits = self._best(vectors, scope)
        wordless = SwanError("there is no word in it", "ask with words, as a caption would")
        for question, has_words in zip(questions, asked, strict=True):
            if has_words:
                unknown = chain.from_iterable(map(self.checkpoint.vocabulary.unknown, question.words))
                yield Answer(str(question), tuple(dict.fromkeys(unknown)), next(hits))
            else:
                yield Answer(str(question), (), (), wordless)

    def _question_vectors(self, questions: Sequence[Question]) -> np.ndarray:
        """float32 (Q, D), L2-normalised."""
        texts = [text for question in questions for text in question.words]
        encoded = encode_captions(self._model, self.checkpoint.vocabulary, texts, device=self.device)
        vectors = np.empty((len(questions), encoded.shape[1]), np.float32)
        start = 0
        for vector, question in zip(vectors, questions, strict=True):
            middle, end = start + len(question.texts), start + len(question.words)
            vector[:] = composed(encoded[start:middle], encoded[middle:end])
            start = end
        return vectors

    def ask_image(self, pixels: np.ndarray, name: str, scope: Scope) -> Answer:
        """What is most like an image.

        Args:
            pixels: uint8 (H, W, 3). name: what the answer calls it.

        Raises:
            SwanError: the scope leaves nothing to rank.
        """
        return self.ask_vector(self.image_vector(pixels), name, scope)

    def image_vector(self, pixels: np.ndarray) -> np.ndarray:
        """float32 (1, D), L2-normalised: the embedding of uint8 (H, W, 3) pixels."""
        return encode_images(self._model, lambda row: pixels, [0], device=self.device)

    def ask_vector(self, vector: np.ndarray, name: str, scope: Scope) -> Answer:
        """What is most like an embedding, float32 (1, D); raises as `ask_image` does."""
        return Answer(name, (), next(self._best(vector, scope)))

    def ask_row(self, row: int, scope: Scope) -> Answer:
        """What is most like one of the images that are searched; raises as `ask_image` does."""
        vector = self._vectors["images"][:, row : row + 1].T.cpu().numpy()
        return self.ask_vector(vector, self.catalogue.filename[row], scope)

    def match_threshold(self) -> MatchThreshold:
        """From which score on a query matches: as set in training, else on the validation split at hand.

        Raises:
            SwanError: neither can be had.
        """
        stored = self.checkpoint.origin.get("match")
        if stored:
            return MatchThreshold(**stored)
        rows = self.catalogue.image_rows("val")
        part, captions = self.catalogue.select(rows)
        vectors = (self._vectors[find].T.cpu().numpy() for find in ("images", "captions"))
        image, caption = (
            all_of_them[own] for all_of_them, own in zip(vectors, (rows, captions), strict=True)
        )
        found = match_threshold(image, caption, part.image, part.scene)
        if not found:
            raise SwanError(
                f"--threshold auto: {self.checkpoint.path} saw no scenes in its validation split",
                "give a number, such as --threshold 0.7",
            )
        return found

    def count(self, scope: Scope) -> int:
        """How many images or captions a scope leaves to rank; raises as `ask_image` does."""
        rows = self.candidates(scope)
        return self._vectors[scope.find].shape[1] if rows is None else len(rows)

    def _candidates(self, scope: Scope) -> np.ndarray | None:
        """int64 (n,): the rows that a scope leaves to rank, rising; None for all.

        Raises:
            SwanError: it leaves none.
        """
        images = image_rows(self.catalogue, scope)
        if scope.find == "images":
            return images
        text, image = self.catalogue.text, self.catalogue.image
        rows = np.arange(len(text)) if images is None else np.flatnonzero(np.isin(image, images))
        if not len(rows):
            raise SwanError(
                "there are no captions to rank",
                "embed a data set that has them, or lines: swan embed --texts",
            )
        return np.sort(rows[np.unique(text[rows].astype(str), return_index=True)[1]])

    def _best(self, vectors: np.ndarray, scope: Scope) -> Iterator[tuple[Hit, ...]]:
        candidates, searched = self.candidates(scope), self._vectors[scope.find]
        hit = self._image_hit if scope.find == "images" else self._caption_hit
        for rows, scores in best_rows(searched, vectors, scope.top_k, scope.threshold, candidates):
            found = zip(rows.tolist(), scores.tolist(), strict=True)
            yield tuple(hit(rank, row, score) for rank, (row, score) in enumerate(found, start=1))

    def _image_hit(self, rank: int, row: int, score: float) -> Hit:
        catalogue = self.catalogue
        captions = tuple(catalogue.text[self._captions.get(row, [])])
        return Hit(rank, row, score, catalogue.filename[row], catalogue.scene[row], captions)

    def _caption_hit(self, rank: int, row: int, score: float) -> Hit:
        catalogue, image = self.catalogue, int(self.catalogue.image[row])
        filename, scene = (catalogue.filename[image], catalogue.scene[image]) if image >= 0 else ("", None)
        return Hit(rank, image, score, filename, scene, (catalogue.text[row],))


def composed(texts: np.ndarray, without: np.ndarray) -> np.ndarray:
    """float32 (D,): the mean of some embeddings, less `AWAY` of each other one, L2-normalised.

    Args:
        texts: float32 (T, D), at least one. without: float32 (W, D), of what is to be kept away from.
    """
    if len(texts) == 1 and not len(without):
        return texts[0]  # to the last bit what `embed` stores of that text
    vector = texts.mean(axis=0) - AWAY * without.sum(axis=0)
    return vector / max(float(np.linalg.norm(vector)), 1e-8)


def best_rows(
    searched: torch.Tensor,
    vectors: np.ndarray,
    top_k: int,
    threshold: float = -1.0,
    candidates: np.ndarray | None = None,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """For each vector the rows most similar to it, best first; equal scores keep the order of the rows.

    Args:
        searched: float32 (D, N), L2-normalised. vectors: float32 (Q, D).
        threshold: the least cosine similarity. candidates: int64 (n,), the only rows that count, rising.

    Yields:
        Rows int64 and their scores float32, at most `top_k`.
    """
    block = max(1, CELLS // max(1, searched.shape[1]))
    for start in range(0, len(vectors), block):
        asked = torch.from_numpy(vectors[start : start + block]).to(searched.device)
        for scores in (asked @ searched).cpu().numpy():
            if candidates is not None:
                scores = scores[candidates]
            rows = np.arange(len(scores))
            if top_k < len(scores):
                rows = np.flatnonzero(scores >= np.partition(scores, -top_k)[-top_k])
            rows = rows[np.argsort(-scores[rows], kind="stable")][:top_k]
            rows = rows[scores[rows] >= threshold]
            yield rows if candidates is None else candidates[rows], scores[rows]


def image_rows(catalogue: Catalogue, scope: Scope) -> np.ndarray | None:
    """int64 (n,): the images that a scope leaves, rising; None for all.

    Raises:
        SwanError: it leaves none.
    """
    if not (scope.scenes or scope.split or scope.files):
        return None
    rows = catalogue.image_rows(scope.split)
    if not len(rows):
        raise SwanError(f"--split {scope.split}: no image has it", _there_are(catalogue.split))
    for scene in scope.scenes:
        if scene not in catalogue.scene:
            raise SwanError(f"--scene {scene!r}: no image has it", _there_are(catalogue.scene))
    if scope.scenes:
        rows = rows[np.isin(catalogue.scene[rows].astype(str), scope.scenes)]
    if scope.files:
        named = [fnmatchcase(name, scope.files) for name in catalogue.filename[rows]]
        rows = rows[np.array(named, dtype=bool)]
    if not len(rows):
        what = " ".join(filter(None, (*scope.scenes, scope.split, scope.files)))
        raise SwanError(f"no image passes the filters together: {what}", "loosen one of them")
    return rows


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
    captions: bool = False,
    texts_only: bool = False,
) -> Searcher:
    """Opens an embeddings file and the checkpoint that made it.

    Args:
        checkpoint, vocab: where they are now; None for where they were when the embeddings were made.
        captions: captions will be searched too.
        texts_only: it will be asked with texts alone, so the model's image side can stay in its file.

    Raises:
        SwanError: the file holds neither images nor captions to search, its checkpoint is not there, or is
            not the one that made it.
    """
    embeddings = read_embeddings(path, captions=captions)
    if not (len(embeddings.image) or captions):
        raise SwanError(f"{path}: holds no images to search", "embed some: swan embed --images DIR")
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
    return Searcher(embeddings, model, choose_device(device))
