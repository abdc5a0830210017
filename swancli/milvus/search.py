"""Search of a Milvus collection: `swan query --from milvus:// "many boats in a harbor"`.

Milvus proposes images with their vectors, which are then scored and ranked as in exact search. Milvus Lite
compares every vector, so no image is missing; the index of a cluster may miss some. Letters in shapes:
D embedding, Q questions.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import cached_property, lru_cache
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from swancli.errors import SwanError
from swancli.milvus.collection import Address, connected, count_images, patience, read_card
from swancli.model.checkpoint import checkpoint_sha256, load_maker
from swancli.model.encoder import Encoder
from swancli.query.questions import BaseSearcher, Hit, Scope, absent_error, no_image_error
from swancli.query.ranking import ROUNDING, similarities
from swancli.store.hdf5 import objects
from swancli.store.made_by import MadeBy
from swancli.workspace import Workspace, relocated_checkpoint

if TYPE_CHECKING:
    from pymilvus import MilvusClient

MOST = 16_384  # results of one request, at most; Milvus' limit
SPARE = 10  # results requested beyond those wanted, since Milvus rounds differently from `similarities`
CELLS = 2**22  # numbers in the vectors of one request's results, at most (but at least one question's)

ESCAPED = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"})
LIKE = str.maketrans({"\\": "\\\\", "%": "\\%", "_": "\\_", "*": "%", "?": "_"})


class CollectionRanking:
    """Searches the images of a collection that pass a filter.

    Args:
        client: the connection.
        address: of the collection.
        condition: the filter, as Milvus spells it; "" for all images.
        size: number of images in the collection, whatever the filter.
    """

    def __init__(self, client: MilvusClient, address: Address, condition: str, size: int) -> None:
        self.size = size
        self._client, self._address, self._condition = client, address, condition

    def searched(self, top_k: int) -> str:
        """What finds this many results: Milvus' name for its index."""
        return "milvus-flat" if self._address.is_lite else "milvus-autoindex"

    def note(self, top_k: int) -> str:
        """What a user should know about the search; "" for nothing."""
        return "" if self._address.is_lite else "its index is Milvus' AUTOINDEX, which may miss some images"

    @cached_property
    def count(self) -> int:
        """The number of images that pass the filter. Lite counts slowly, so only `--threshold auto` asks."""
        if not self._condition:
            return self.size
        return count_images(self._client, self._address, self._condition)

    def best(self, vectors: np.ndarray, top_k: int, threshold: float = -1.0) -> Iterator[list[Hit]]:
        """For each question the images most similar to it; equal scores in the order of file names.

        Args:
            vectors: float32 (Q, D), L2-normalised.
            top_k: number of images per question, at most.
            threshold: the least cosine similarity.

        Returns:
            Hits without a row (-1) and without captions.
        """
        limit = min(top_k + SPARE, MOST)
        together = max(1, CELLS // (limit * vectors.shape[1]))
        for start in range(0, len(vectors), together):
            questions = vectors[start : start + together]
            for question, proposed in zip(questions, self._proposed(questions, limit), strict=True):
                yield self._ranked(question, proposed, limit, top_k, threshold)

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
        self, question: np.ndarray, proposed: list[dict[str, Any]], limit: int, top_k: int, threshold: float
    ) -> list[Hit]:
        """The best of the proposed images; more are requested while those left out may be as good."""
        if not proposed:
            return []
        while True:
            images = [found["entity"] for found in proposed]
            scores = similarities(np.array([image["embedding"] for image in images], np.float32), question)
            kept = np.sort(scores)[::-1][:top_k][-1]
            if len(images) < limit or limit == MOST or scores.min() < kept - ROUNDING:
                break
            limit = min(2 * limit, MOST)
            (proposed,) = self._proposed(question[None], limit)
        ordered = sorted(
            zip(scores.tolist(), images, strict=True),
            key=lambda found: (-found[0], found[1]["filename"], found[1]["dataset"]),
        )
        return [
            Hit(rank, -1, score, image["filename"], image["scene"], (), image["dataset"])
            for rank, (score, image) in enumerate(ordered[:top_k], start=1)
            if threshold <= -1 or score >= threshold
        ]


class CollectionSearcher(BaseSearcher):
    """An open collection and its checkpoint, ready to answer; see `open_collection`.

    Args:
        client: the connection.
        address: of the collection.
        size: number of images in it.
        encoder: of the checkpoint that made its vectors.
        match: the match threshold stored with them.

    Attributes:
        filename: of each `row` in a hit; it grows with the answers.
    """

    def __init__(
        self, client: MilvusClient, address: Address, size: int, encoder: Encoder, match: str
    ) -> None:
        super().__init__(encoder, match)
        self.filename: list[str] = []
        self._client, self._address, self._size = client, address, size
        self._rows: dict[tuple[str, str], int] = {}
        self._narrowed = lru_cache(1)(self._new_ranking)

    def ranking(self, scope: Scope) -> CollectionRanking:
        """The search of a scope.

        Raises:
            SwanError: the filters leave no image, or Milvus cannot apply them.
        """
        if scope.top_k > MOST:
            raise SwanError(f"--top-k {scope.top_k}: Milvus gives at most {MOST} results", "ask for fewer")
        return self._narrowed(replace(scope, top_k=0, threshold=0.0))

    def count(self, scope: Scope) -> int:
        return self.ranking(scope).count

    def _hits(self, vectors: np.ndarray, scope: Scope) -> Iterator[tuple[Hit, ...]]:
        for hits in self.ranking(scope).best(vectors, scope.top_k, scope.threshold):
            yield tuple(replace(hit, row=self._row(hit)) for hit in hits)

    def _row(self, hit: Hit) -> int:
        """The place of a hit's image in `filename`."""
        row = self._rows.setdefault((hit.dataset, hit.filename), len(self.filename))
        if row == len(self.filename):
            self.filename.append(hit.filename)
        return row

    def datasets(self) -> list[str]:
        """The data sets of the hits so far, each with its own folder of pictures."""
        return list(dict.fromkeys(dataset for dataset, _ in self._rows))

    def _new_ranking(self, scope: Scope) -> CollectionRanking:
        groups = [f"scene in [{', '.join(map(_quoted, scope.scenes))}]"] if scope.scenes else []
        groups += [f"split == {_quoted(scope.split)}"] if scope.split else []
        named = [f"filename like {_quoted(_as_like(scope.files))}"] if scope.files else []
        condition = " and ".join(groups + named)
        found = not condition or self._holds(condition)
        if not found or len(scope.scenes) > 1:
            self._check_names(scope)
        if not found and named and (not groups or self._holds(" and ".join(groups))):
            problem = f"--files {scope.files!r}: none of these images has such a name"
            raise SwanError(problem, "match whole names as they are stored")
        if not found:
            raise no_image_error(scope)
        return CollectionRanking(self._client, self._address, condition, self._size)

    def _check_names(self, scope: Scope) -> None:
        """Refuses a split or a scene that no image has."""
        names = [("split", scope.split)] if scope.split else []
        for column, name in [*names, *(("scene", scene) for scene in scope.scenes)]:
            if not self._holds(f"{column} == {_quoted(name)}"):
                rows = self._query(f"{column} is not null", column, MOST)
                error = absent_error(column, name, objects(row[column] for row in rows))
                more = " and perhaps more" if len(rows) == MOST else ""
                raise SwanError(error.problem, error.hint + more)

    def _holds(self, condition: str) -> bool:
        """Whether an image meets a condition. A search for one is the fastest test, by far in Lite.

        The index of a cluster may miss the only one, so where it finds none, all are looked at.
        """
        width = self.encoder.dimensions
        any_question = np.full((1, width), width**-0.5, np.float32)
        ranking = CollectionRanking(self._client, self._address, condition, self._size)
        return bool(next(ranking.best(any_question, 1))) or bool(self._query(condition, "id", 1))

    def _query(self, condition: str, column: str, limit: int) -> list[dict[str, Any]]:
        options = {"output_fields": [column], "limit": limit, "timeout": patience(self._address)}
        return self._client.query(self._address.collection, filter=condition, **options)


def _quoted(text: str) -> str:
    """A text as a string literal in Milvus' filters, with its quotes and backslashes escaped."""
    return f'"{text.translate(ESCAPED)}"'


def _as_like(pattern: str) -> str:
    """A shell pattern as a pattern of Milvus' `like`.

    Raises:
        SwanError: it has a set of characters, which `like` cannot express.
    """
    if "[" in pattern:
        raise SwanError(f"--files {pattern!r}: Milvus knows only * and ?", "leave [...] out")
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
        address: of the collection.
        device: as in `open_search`.
        workspace: its newest run is tried if the collection's checkpoint no longer exists.
        checkpoint: as in `open_search`.
        vocab: as in `open_search`.
        texts_only: as in `open_search`.

    Raises:
        SwanError: there is nothing to search, or the checkpoint is not the one that made its vectors.
    """
    fill = f"fill it: swan embed --to '{address}'"
    if address.is_lite and not Path(address.uri).exists():  # opening it would create it
        raise SwanError(f"{address.uri}: no such database", fill)
    with connected(address) as client:
        made_by = read_card(client, address)
        if not made_by:
            raise SwanError(f"{address}: no such collection", fill)
        client.load_collection(address.collection)
        size = count_images(client, address)
        if not size:
            raise SwanError(f"{address}: contains nothing to search", fill)
        loaded = load_maker(
            made_by,
            address,
            "give the one that made them: --checkpoint FILE; or fill another collection: ?collection=NAME",
            checkpoint=checkpoint or _maker(made_by, workspace),
            vocab=vocab,
            captions_only=texts_only,
        )
        yield CollectionSearcher(client, address, size, Encoder(loaded, device), made_by.match)


def _maker(made_by: MadeBy, workspace: Workspace) -> Path | None:
    """The checkpoint that made a collection, where it was then or in the newest run; None if in neither."""
    places = [relocated_checkpoint(Path(made_by.checkpoint))]
    with suppress(SwanError):  # no run
        places.append(workspace.find_run().best)
    found = (path for path in places if path.exists() and checkpoint_sha256(path) == made_by.sha256)
    return next(found, None)
