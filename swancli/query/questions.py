"""Questions and answers, and how a question becomes an embedding, whatever is searched with it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, compress
from pathlib import Path
from typing import Any, Literal

import numpy as np

from swancli.errors import StoreError, SwanError
from swancli.evaluate.match_threshold import MatchThreshold
from swancli.model.checkpoint import TRAIN_AGAIN
from swancli.model.encoder import Encoder
from swancli.vocab.vocabulary import Vocabulary, tokenize

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

    @property
    def has_words(self) -> bool:
        """Whether there is a word in each of them."""
        return all(map(tokenize, self.words))

    def unknown(self, vocabulary: Vocabulary) -> tuple[str, ...]:
        """Its words that a vocabulary does not hold, each once."""
        return tuple(dict.fromkeys(chain.from_iterable(map(vocabulary.unknown, self.words))))


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
    one that was found. dataset: that it is of, where what is searched holds several; else "".
    """

    rank: int
    row: int
    score: float
    filename: str
    scene: str | None
    captions: tuple[str, ...]
    dataset: str = ""

    def record(self) -> dict[str, Any]:
        """Plain values, for JSON; without the row, which means nothing elsewhere."""
        return {
            "rank": self.rank,
            "score": self.score,
            "filename": self.filename,
            "scene": self.scene,
            "captions": list(self.captions),
            **({"dataset": self.dataset} if self.dataset else {}),
        }


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
        hits = [hit.record() for hit in self.hits]
        error = {"error": self.error.problem} if self.error else {}
        return {"query": self.question, "unknown_words": list(self.unknown), "results": hits, **error}


class BaseSearcher(ABC):
    """Turns questions into embeddings; where their best results lie, a subclass knows."""

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder
        self.checkpoint = encoder.checkpoint

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
        asked = [question.has_words for question in questions]
        try:
            vectors = question_vectors(self.encoder, list(compress(questions, asked)))
        except SwanError as error:
            yield from (Answer(str(question), (), (), error) for question in questions)
            return
        hits = self._best(vectors, scope)
        for question, has_words in zip(questions, asked, strict=True):
            if has_words:
                yield Answer(str(question), question.unknown(self.checkpoint.vocabulary), next(hits))
            else:
                yield Answer(str(question), (), (), no_words_error())

    def ask_image(self, image: Path | np.ndarray, name: str, scope: Scope) -> Answer:
        """What is most like an image.

        Args:
            image: its file, or uint8 (H, W, 3) pixels.
            name: what the answer calls it.

        Raises:
            SwanError: the scope leaves nothing to rank.
            ImageError: the file is not an image.
        """
        return self.ask_vector(self.encoder.images([image]), name, scope)

    def ask_vector(self, vector: np.ndarray, name: str, scope: Scope) -> Answer:
        """What is most like an embedding, float32 (1, D); raises as `ask_image` does."""
        return Answer(name, (), next(self._best(vector, scope)))

    def stored_threshold(self) -> MatchThreshold | None:
        """From which score on a query matches, as set in training; None where the checkpoint has none."""
        stored = self.checkpoint.origin.get("match")
        try:
            return MatchThreshold.from_plain(stored) if stored else None
        except TypeError as error:
            problem = f"{self.checkpoint.path}: damaged checkpoint (its match threshold: {error})"
            raise StoreError(problem, TRAIN_AGAIN) from error

    def _best(self, vectors: np.ndarray, scope: Scope) -> Iterator[tuple[Hit, ...]]:
        if not np.isfinite(vectors).all():  # which is like nothing, so that nothing would be found
            raise StoreError(
                f"{self.checkpoint.path}: the embedding of a question is no number",
                "take a checkpoint that is sound, or train again",
            )
        yield from self._hits(vectors, scope)

    @abstractmethod
    def _hits(self, vectors: np.ndarray, scope: Scope) -> Iterator[tuple[Hit, ...]]:
        """The hits of each question, of embeddings float32 (Q, D)."""


def no_words_error() -> SwanError:
    """The error of a question without words."""
    return SwanError("there is no word in it", "ask with words, as a caption would")


def question_vectors(encoder: Encoder, questions: Sequence[Question]) -> np.ndarray:
    """float32 (Q, D), L2-normalised: the embedding of each question, see `composed`.

    Raises:
        SwanError: the model cannot encode one of its texts.
    """
    encoded = encoder.captions([text for question in questions for text in question.words])
    vectors = np.empty((len(questions), encoded.shape[1]), np.float32)
    start = 0
    for vector, question in zip(vectors, questions, strict=True):
        middle, end = start + len(question.texts), start + len(question.words)
        vector[:] = composed(encoded[start:middle], encoded[middle:end])
        start = end
    return vectors


def composed(texts: np.ndarray, without: np.ndarray) -> np.ndarray:
    """float32 (D,): the mean of some embeddings, less `AWAY` of each other one, L2-normalised.

    Args:
        texts: float32 (T, D), at least one. without: float32 (W, D), of what is to be kept away from.
    """
    if len(texts) == 1 and not len(without):
        return texts[0]  # to the last bit what `embed` stores of that text
    vector = texts.mean(axis=0) - AWAY * without.sum(axis=0)
    return vector / max(float(np.linalg.norm(vector)), 1e-8)
