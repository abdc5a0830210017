"""Questions to a collection of Milvus: `swan query --from milvus:// "many boats in a harbor"`.

Milvus proposes images with their vectors; they are scored and ranked as exact search ranks them. On Milvus
Lite, which looks at every vector, nothing is missing; a cluster's index may miss some. Letters in shapes:
D embedding, Q questions.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from swancli.errors import SwanError
from swancli.evaluate.match_threshold import MatchThreshold
from swancli.milvus.collection import Address, connected, count_images, patience, read_card
from swancli.model.checkpoint import file_sha256, load_maker
from swancli.model.encoder import Encoder
from swancli.query.questions import BaseSearcher, Hit, Scope
from swancli.query.ranking import ROUNDING, similarities
from swancli.store.catalogue import names_in
from swancli.store.made_by import MadeBy
from swancli.workspace import Workspace, relocated_checkpoint

if TYPE_CHECKING:
    from pymilvus import MilvusClient

MOST = 16_384  # results of a request that Milvus gives
SPARE = 10  # results asked for beyond those wanted, since Milvus rounds otherwise than `similarities`
CELLS = 2**22  # numbers in the vectors of a request's results, at most (but one question's at least)

ESCAPED = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"})
LIKE = str.maketrans({"\\": "\\\\", "%": "\\%", "_": "\\_", "*": "%", "?": "_"})


@dataclass(frozen=True)
class FoundImage:
    """An image that a question found, with its score, the cosine similarity."""

    dataset: str
    filename: str
    scene: str | None
    score: float


class CollectionRanking:
    """Searches the images of a collection that a filter leaves.

    Attributes:
        size: how many images the collection holds, whatever the filter.
    """

    def __init__(self, client: MilvusClient, address: Address, condition: str, size: int) -> None:
        self.size = size
        self._client, self._address, self._condition = client, address, condition

    def searched(self, top_k: int) -> str:
        """What finds so many."""
        return "milvus-flat" if self._address.is_lite else "milvus-autoindex"

    def note(self, top_k: int) -> str:
        """What people should know of it; "" for nothing."""
        return "" if self._address.is_lite else "its index is Milvus' AUTOINDEX, which may miss some images"

    def best(self, vectors: np.ndarray, top_k: int, threshold: float = -1.0) -> Iterator[list[FoundImage]]:
        """For each question, of float32 (Q, D), the best images; equal scores in the order of file names."""
        limit = min(top_k + SPARE, MOST)
        together = max(1, CELLS // (limit * vectors.shape[1]))
        for start in range(0, len(vectors), together):
            questions = vectors[start : start + together]
            for question, hits in zip(questions, self._proposed(questions, limit), strict=True):
                yield self._ranked(question, hits, limit, top_k, threshold)

    def _proposed(self, questions: np.ndarray, limit: int) -> list[list[dict[str, Any]]]:
        return self._client.search(
            self._address.collection,
            data=list(questions),
            filter=self._condition,
            limit=limit,
            output_fields=["embedding", "dataset", "filename", "scene"],
            timeout=patience(self._address),
        )

    def _ranked(
        self, question: np.ndarray, hits: list[dict[str, Any]], limit: int, top_k: int, threshold: float
    ) -> list[FoundImage]:
        """The best of what is proposed; more is asked for while what is left out may be as good."""
        if not hits:
            return []
        while True:
            vectors = np.array([hit["entity"]["embedding"] for hit in hits], np.float32)
            scores = similarities(vectors, question)
            kept = np.sort(scores)[::-1][:top_k][-1]
            if len(hits) < limit or limit == MOST or scores.min() < kept - ROUNDING:
                break
            limit = min(2 * limit, MOST)
            (hits,) = self._proposed(question[None], limit)
        rows = [hit["entity"] for hit in hits]
        found = [
            FoundImage(row["dataset"], row["filename"], row["scene"], float(score))
            for row, score in zip(rows, scores, strict=True)
        ]
        found.sort(key=lambda one: (-one.score, one.filename, one.dataset))
        return [one for one in found[:top_k] if threshold <= -1 or one.score >= threshold]


class CollectionSearcher(BaseSearcher):
    """An open collection with its checkpoint, ready to answer; see `open_collection`.

    Args:
        size: how many images it holds.

    Attributes:
        filename: of each row that its hits name; it grows with the answers.
    """

    def __init__(self, client: MilvusClient, address: Address, size: int, encoder: Encoder) -> None:
        super().__init__(encoder)
        self._size = size
        self.filename: list[str] = []
        self._client, self._address = client, address
        self._rows: dict[tuple[str, str], int] = {}
        self._narrowed = lru_cache(1)(self._new_ranking)

    def ranking(self, scope: Scope) -> CollectionRanking:
        """What finds the best images in a scope.

        Raises:
            SwanError: the scope leaves none, or cannot be asked of Milvus.
        """
        if scope.top_k > MOST:
            raise SwanError(f"--top-k {scope.top_k}: Milvus gives {MOST} results at most", "ask for fewer")
        return self._narrowed(scope.scenes, scope.split, scope.files)

    def match_threshold(self) -> MatchThreshold:
        """From which score on a query matches, as set in training.

        Raises:
            SwanError: the checkpoint has none.
        """
        if stored := self.stored_threshold():
            return stored
        problem = f"--threshold auto: {self.checkpoint.path} has none"
        raise SwanError(problem, "give a number, such as --threshold 0.7")

    def _hits(self, vectors: np.ndarray, scope: Scope) -> Iterator[tuple[Hit, ...]]:
        for found in self.ranking(scope).best(vectors, scope.top_k, scope.threshold):
            yield tuple(
                Hit(rank, self._row(one), one.score, one.filename, one.scene, (), one.dataset)
                for rank, one in enumerate(found, start=1)
            )

    def _row(self, found: FoundImage) -> int:
        """The number by which the picture of a hit is asked for."""
        image = found.dataset, found.filename
        if image not in self._rows:
            self._rows[image] = len(self.filename)
            self.filename.append(found.filename)
        return self._rows[image]

    def datasets(self) -> list[str]:
        """The data sets of the hits so far, whose pictures lie in folders of their own."""
        return list(dict.fromkeys(dataset for dataset, _ in self._rows))

    def _new_ranking(
        self, scenes: tuple[str, ...], split: str | None, files: str | None
    ) -> CollectionRanking:
        within = [f"scene in [{', '.join(map(_quoted, scenes))}]"] if scenes else []
        within += [f"split == {_quoted(split)}"] if split else []
        named = [f"filename like {_quoted(_as_like(files))}"] if files else []
        condition = " and ".join(within + named)
        if condition and not self._holds(condition):
            raise self._nothing_left(scenes, split, files, " and ".join(within))
        for scene in scenes if len(scenes) > 1 else ():
            if not self._holds(f"scene == {_quoted(scene)}"):
                raise self._unknown_value_error("scene", repr(scene))
        return CollectionRanking(self._client, self._address, condition, self._size)

    def _nothing_left(
        self, scenes: tuple[str, ...], split: str | None, files: str | None, within: str
    ) -> SwanError:
        """Which of its filters leave no image; `within` is the condition of all but that of names."""
        if split and not self._holds(f"split == {_quoted(split)}"):
            return self._unknown_value_error("split", split)
        for scene in scenes:
            if not self._holds(f"scene == {_quoted(scene)}"):
                return self._unknown_value_error("scene", repr(scene))
        if files and (not within or self._holds(within)):
            return SwanError(
                f"--files {files!r}: none of these images has such a name",
                "it is to match whole names as they are stored",
            )
        return SwanError(f"no image is of {', '.join(scenes)} and of split {split}")

    def _holds(self, condition: str) -> bool:
        """Whether an image fulfils a condition: a search for one finds it soonest, in Lite by far.

        The index of a cluster may miss the only one, so where nothing is found all are looked at.
        """
        width = self.encoder.dimensions
        any_question = np.full((1, width), width**-0.5, np.float32)
        ranking = CollectionRanking(self._client, self._address, condition, self._size)
        return bool(next(ranking.best(any_question, 1))) or bool(self._query(condition, "id", 1))

    def _unknown_value_error(self, column: str, name: str) -> SwanError:
        return SwanError(f"--{column} {name}: no image has it", self._there_are(column))

    def _there_are(self, column: str) -> str:
        """The names in a column, of as many images as Milvus gives at a time."""
        rows = self._query(f"{column} is not null", column, MOST)
        more = " and perhaps more" if len(rows) == MOST else ""
        return f"there are: {names_in(np.array([row[column] for row in rows], object)) or 'none'}{more}"

    def _query(self, condition: str, column: str, limit: int) -> list[dict[str, Any]]:
        options = {"output_fields": [column], "limit": limit, "timeout": patience(self._address)}
        return self._client.query(self._address.collection, filter=condition, **options)


def _quoted(text: str) -> str:
    """A text as a literal of Milvus' filters, whatever quotes and backslashes it holds."""
    return f'"{text.translate(ESCAPED)}"'


def _as_like(pattern: str) -> str:
    """A shell pattern as one of Milvus' `like`.

    Raises:
        SwanError: it has a set of characters, for which `like` has no word.
    """
    if "[" in pattern:
        raise SwanError(f"--files {pattern!r}: Milvus knows * and ? only", "leave [...] out")
    return pattern.translate(LIKE)


@contextmanager
def open_collection(
    address: Address,
    device: str = "auto",
    *,
    workspace: Workspace,
    checkpoint: str | PathLike[str] | None = None,
    vocab: str | PathLike[str] | None = None,
    texts_only: bool = False,
) -> Iterator[CollectionSearcher]:
    """Opens a collection and the checkpoint that made its vectors.

    Args:
        workspace: whose newest run is tried where the collection's checkpoint is not there any more.
        checkpoint, vocab, texts_only: as of `search.open_search`.

    Raises:
        SwanError: there is nothing to search, or the checkpoint is not the one that made its vectors.
    """
    fill = f"fill it: swan embed --to '{address}'"
    if address.is_lite and not Path(address.uri).exists():  # which opening would make
        raise SwanError(f"{address.uri}: no such database", fill)
    with connected(address) as client:
        made_by = read_card(client, address)
        if not made_by:
            raise SwanError(f"{address}: no such collection", fill)
        client.load_collection(address.collection)
        size = count_images(client, address)
        if not size:
            raise SwanError(f"{address}: holds nothing to search", fill)
        loaded = load_maker(
            made_by,
            address,
            "give the one that made them: --checkpoint FILE; or fill another: ?collection=NAME",
            checkpoint=checkpoint or _maker(made_by, workspace),
            vocab=vocab,
            captions_only=texts_only,
        )
        yield CollectionSearcher(client, address, size, Encoder(loaded, device))


def _maker(made_by: MadeBy, workspace: Workspace) -> Path | None:
    """The checkpoint that made a collection, in its place or the newest run; None where it is in neither."""
    places = [relocated_checkpoint(Path(made_by.checkpoint))]
    with suppress(SwanError):  # no run
        places.append(workspace.find_run().best)
    return next((path for path in places if path.is_file() and file_sha256(path) == made_by.sha256), None)
