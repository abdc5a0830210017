"""Questions, answers, and the embedding of a question, for every kind of search."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain, compress
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import numpy as np

from swancli.errors import StoreError, SwanError
from swancli.evaluate.match_threshold import MatchThreshold
from swancli.images import Notes, Rendering, pixels_of
from swancli.model.checkpoint import TRAIN_AGAIN, Tokenizer
from swancli.model.encoder import Encoder
from swancli.store.catalogue import names_in
from swancli.store.text import has_word

# Weight of an excluded text. On the validation splits of UCM and RSICD, 0.3 more than halved the share of the
# excluded scene among the ten best images and kept that of the wanted one within a point.
AWAY = 0.3

Find = Literal["images", "captions"]
Least = float | Literal["auto"]  # a minimum score; auto is that of a match, see `MatchThreshold`


@dataclass(frozen=True)
class Question:
    """What to look for, in words: the mean of `texts`, away from the texts of `without`."""

    texts: tuple[str, ...]
    without: tuple[str, ...] = ()

    def __str__(self) -> str:
        return " + ".join(self.texts) + "".join(f" - {text}" for text in self.without)

    @property
    def words(self) -> tuple[str, ...]:
        """All its texts, first those to look for, then those to keep away from."""
        return self.texts + self.without

    @property
    def has_words(self) -> bool:
        """Whether each of its texts contains a letter or a digit."""
        return all(map(has_word, self.words))

    def unknown(self, tokenizer: Tokenizer) -> tuple[str, ...]:
        """Its words that a model does not know, each once."""
        return tuple(dict.fromkeys(chain.from_iterable(map(tokenizer.unknown, self.words))))


@dataclass(frozen=True)
class Scope:
    """What is ranked, and how many results are wanted.

    find: images, or captions, each distinct text once.
    top_k: number of results, at most.
    threshold: the minimum score, or "auto" for that of a match among as many images.
    scenes: only images of one of these scenes, or their captions; () for all.
    split: only those of this split; None for all.
    files: only those with a file name of this shell pattern; None for all.
    """

    find: Find = "images"
    top_k: int = 10
    threshold: Least = -1.0
    scenes: tuple[str, ...] = ()
    split: str | None = None
    files: str | None = None

    @property
    def narrowed(self) -> bool:
        """Whether it has a filter."""
        return bool(self.scenes or self.split or self.files)


@dataclass(frozen=True)
class Hit:
    """One result.

    rank: from 1.
    row: of the image, -1 for a caption without one.
    score: the cosine similarity of its embedding and the question's, -1 to 1.
    filename: of the image.
    scene: of the image; None if it has none.
    captions: of the image, or the one that was found.
    dataset: its data set, if a database with several of them was searched; else "".
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
        record = dict(vars(self))
        del record["row"]
        if not self.dataset:
            del record["dataset"]
        return record


@dataclass(frozen=True)
class Answer:
    """The hits of one question, best first.

    question: in words, or the name of an image.
    unknown: its words that the model does not know.
    hits: at most `Scope.top_k`.
    error: why the question could not be asked; None if it could.
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
    """Turns questions into embeddings; subclasses know how to search with them.

    Attributes:
        rendering: how the samples of a picture to search by become colours: as those of the images did.
    """

    def __init__(self, encoder: Encoder, match: str = "") -> None:  # match: as in `MadeBy`
        self.rendering = Rendering(lenient=True)
        self.encoder = encoder
        self.checkpoint = encoder.checkpoint
        self._match = match

    def ask_texts(self, questions: Sequence[Question], scope: Scope) -> Iterator[Answer]:
        """What each question describes best; many questions at once take less time than one by one.

        A question that cannot be asked has its error in its answer; the others are still answered.

        Raises:
            SwanError: the scope leaves nothing to rank.
        """
        # In the published variant, a question would depend on the others in its batch (item 4).
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
                yield Answer(str(question), question.unknown(self.checkpoint.tokenizer), next(hits))
            else:
                yield Answer(str(question), (), (), no_words_error())

    def ask_image(self, image: Path | np.ndarray, name: str, scope: Scope) -> Answer:
        """What is most similar to an image.

        Args:
            image: its file, or uint8 (H, W, 3) pixels.
            name: of the image in the answer.
            scope: what is ranked.

        Raises:
            SwanError: the scope leaves nothing to rank.
            ImageError: the file is not an image.
        """
        pixels = question_pixels(image, name, self.rendering)
        return self.ask_vector(self.encoder.images([pixels]), name, scope)

    def ask_vector(self, vector: np.ndarray, name: str, scope: Scope) -> Answer:
        """What is most similar to an embedding, float32 (1, D); raises as `ask_image` does."""
        return Answer(name, (), next(self._best(vector, scope)))

    @cached_property
    def match_threshold(self) -> MatchThreshold:
        """The score from which a result counts as a match.

        It is stored with the vectors if it was set in training or by `swan embed --calibrate`; else it is
        measured here.

        Raises:
            SwanError: it is not stored, and cannot be measured here.
        """
        own = self.checkpoint.origin.get("match_threshold")
        try:
            stored = json.loads(self._match) if self._match else own
            found = MatchThreshold.from_plain(stored) if stored else None
        except (TypeError, ValueError, RecursionError) as error:
            path = self.checkpoint.path
            if self._match and self._match != json.dumps(own):
                problem = f"vectors of {path}: damaged (the match threshold stored with them: {error})"
                raise StoreError(problem, "make them again: swan embed") from error
            problem = f"{path}: damaged checkpoint (its match threshold: {error})"
            raise StoreError(problem, TRAIN_AGAIN) from error
        found = found or self._measured_threshold()
        if not found:
            problem = "has no match threshold: it was not trained by swan, or on images without scenes"
            hint = "give a number, or set it on a data set: swan embed --calibrate DATASET"
            raise SwanError(f"--threshold auto: {self.checkpoint.path} {problem}", hint)
        return found

    def _measured_threshold(self) -> MatchThreshold | None:
        """The match threshold of a validation split that is searched; None where there is none."""
        return None

    def _best(self, vectors: np.ndarray, scope: Scope) -> Iterator[tuple[Hit, ...]]:
        if not np.isfinite(vectors).all():  # it would be similar to nothing, and nothing would be found
            problem = f"{self.checkpoint.path}: the embedding of a question contains NaN or infinity"
            raise StoreError(problem, "use an undamaged checkpoint, or train again")
        if scope.threshold == "auto":
            scope = replace(scope, threshold=self.match_threshold.among(self.count(scope)))
        if not -1 <= scope.threshold <= 1:  # nor NaN, which would let everything pass
            raise SwanError(f"threshold {scope.threshold}: not from -1 to 1")
        yield from self._hits(vectors, scope)

    @abstractmethod
    def count(self, scope: Scope) -> int:
        """Number of images, or captions, that a scope searches; raises as `ask_image` does."""

    @abstractmethod
    def _hits(self, vectors: np.ndarray, scope: Scope) -> Iterator[tuple[Hit, ...]]:
        """The hits of each question, given as embeddings, float32 (Q, D); the threshold is a number."""


def no_words_error() -> SwanError:
    """For a question without words."""
    return SwanError("there is no word in it", "ask with words, as a caption would")


def absent_error(option: str, name: str, known: np.ndarray) -> SwanError:
    """For a scene or a split that no image has.

    Args:
        option: that gave the name.
        name: of the scene or the split.
        known: object (n,), the scene or the split of each image, str or None.
    """
    found = names_in(known)
    hint = f"there are: {found}" if found else f"these embeddings have no {option}s"
    return SwanError(f"--{option} {name!r}: no image has this {option}", hint)


def no_image_error(scope: Scope) -> SwanError:
    """For scenes that have no image in a split."""
    return SwanError(f"no image of scene {' or '.join(scope.scenes)} is in split {scope.split}")


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
    """float32 (D,): the mean of `texts` minus `AWAY` times the sum of `without`, L2-normalised.

    Args:
        texts: float32 (T, D), at least one.
        without: float32 (W, D), what to keep away from.
    """
    if len(texts) == 1 and not len(without):
        return texts[0]  # to the last bit what `swan embed` stores for that text
    vector = texts.mean(axis=0) - AWAY * without.sum(axis=0)
    return vector / max(float(np.linalg.norm(vector)), 1e-8)


def question_pixels(image: str | PathLike[str] | np.ndarray, name: str, rendering: Rendering) -> np.ndarray:
    """uint8 (H, W, 3): an image to search by; warns if it is doubtful.

    Args:
        image: its file, or its pixels.
        name: of the image, for errors.
        rendering: how its samples become colours.

    Raises:
        ImageError: the file is not an image.
    """
    notes = Notes()
    pixels = pixels_of(image, name, rendering, notes)
    notes.warn()
    return pixels
