"""The similarity matrix, block by block: what every figure of `metrics` is counted from.

A `Grid` is the similarity matrix of one direction, never built whole: equal queries and equal candidates form
groups, and a score is computed once for a pair of groups, so equal items score exactly equal whatever the
order of the rows.

Letters in shapes: N images, M captions, D embedding, Q queries, C candidates, q queries of a block,
R rows, U distinct rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from swancli.errors import SwanError

BLOCK = 256  # queries at a time
CELLS = 2**23  # scores at a time, at most (but one row at least): 32 MB as float32


@dataclass(frozen=True)
class Grid:
    """The similarities of Q queries and C candidates, by groups of equal queries and of equal candidates.

    scores(start, stop): (stop - start, groups of candidates) for the groups start to stop of queries.
    query: int64 (Q,), candidate: int64 (C,), the group of each.
    """

    scores: Callable[[int, int], np.ndarray]
    query: np.ndarray
    candidate: np.ndarray

    def blocks(self, block: int = BLOCK) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Rows int64 (q,) and their similarities (q, C), q <= block; each query comes once, in any order.

        Raises:
            SwanError: a similarity is not a number.
        """
        block = max(1, min(block, CELLS // max(1, len(self.candidate))))
        order = np.argsort(self.query, kind="stable")
        groups = int(self.query.max()) + 1 if len(self.query) else 0
        ends = np.searchsorted(self.query[order], np.arange(groups + 1))
        for start in range(0, groups, block):
            stop = min(start + block, groups)
            scores = self.scores(start, stop)
            if np.isnan(scores).any():
                raise SwanError(
                    "a similarity is not a number", "the model or the embeddings hold NaN: train again"
                )
            for first in range(ends[start], ends[stop], block):  # many queries may share a group
                rows = order[first : min(first + block, ends[stop])]
                yield rows, scores[self.query[rows] - start][:, self.candidate]


Grids = tuple[Grid, Grid]  # image to text, text to image


def similarity_blocks(
    queries: np.ndarray, candidates: np.ndarray, block: int = BLOCK
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Inner products of every query with every candidate, block by block.

    Args:
        queries: float32 (Q, D). candidates: float32 (C, D). block: queries at a time.

    Yields:
        rows int64 (q,) of the queries and their similarities float32 (q, C). Rows with equal embeddings get
        exactly equal similarities, and no order of rows changes them.

    Raises:
        SwanError: a similarity is not a number.
    """
    return _product_grid(_distinct(queries), _distinct(candidates)).blocks(block)


def _distinct(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct rows (U, D), in an order of their own, and int64 (R,) where each row is among them."""
    if not rows.size:
        return rows[:1], np.zeros(len(rows), dtype=np.int64)
    rows = np.ascontiguousarray(rows) + 0.0  # makes -0.0 and 0.0 the same bytes
    keys = rows.view(np.dtype((np.void, rows.dtype.itemsize * rows.shape[1]))).ravel()
    _, first, group = np.unique(keys, return_index=True, return_inverse=True)
    return rows[first], group.ravel()


def _product_grid(queries: tuple[np.ndarray, np.ndarray], candidates: tuple[np.ndarray, np.ndarray]) -> Grid:
    # The product is taken among distinct rows alone: in a matrix product the last columns can differ from
    # equal earlier ones in the last bit.
    rows, columns = queries[0], candidates[0].T
    return Grid(lambda start, stop: rows[start:stop] @ columns, queries[1], candidates[1])


def embedding_grids(image: np.ndarray, caption: np.ndarray) -> Grids:
    """Inner products of float32 (N, D) images and (M, D) captions."""
    images, captions = _distinct(image), _distinct(caption)
    return _product_grid(images, captions), _product_grid(captions, images)


def matrix_grids(similarity: np.ndarray) -> Grids:
    """The values of a similarity matrix (N, M)."""
    return _matrix_grid(similarity), _matrix_grid(similarity.T)


def _matrix_grid(similarity: np.ndarray) -> Grid:
    rows, query = _distinct(similarity)
    return Grid(lambda start, stop: rows[start:stop], query, np.arange(similarity.shape[1]))


def _pair_grid(pairs: tuple[np.ndarray, np.ndarray], query: np.ndarray, candidate: np.ndarray) -> Grid:
    """Similarity 1 for the pairs (query groups, candidate groups), 0 for every other."""
    order = np.argsort(pairs[0], kind="stable")
    left, right = pairs[0][order], pairs[1][order]
    width = int(candidate.max(initial=-1)) + 1

    def scores(start: int, stop: int) -> np.ndarray:
        within = slice(*np.searchsorted(left, (start, stop)))
        block = np.zeros((stop - start, width), dtype=np.float32)
        block[left[within] - start, right[within]] = 1
        return block

    return Grid(scores, query, candidate)


def pair_grids(pairs: tuple[np.ndarray, np.ndarray], image: np.ndarray, caption: np.ndarray) -> Grids:
    """Similarity 1 for the pairs (image groups, caption groups), 0 for every other."""
    return _pair_grid(pairs, image, caption), _pair_grid(pairs[::-1], caption, image)
