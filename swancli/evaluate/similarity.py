"""The similarity matrix, computed block by block, for `metrics` and `scene_recall`.

A `Grid` is the similarity matrix of one direction, never held in memory as a whole. Equal queries and equal
candidates form groups, and each pair of groups is scored once, so equal items have exactly equal scores,
whatever the order of the rows.

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

    scores: from start and stop to (stop - start, groups of candidates), for these groups of queries.
    query: int64 (Q,), the group of each query.
    candidate: int64 (C,), the group of each candidate.
    """

    scores: Callable[[int, int], np.ndarray]
    query: np.ndarray
    candidate: np.ndarray

    def blocks(self, asked: np.ndarray | None = None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Rows int64 (q,) and their similarities (q, C), q <= `BLOCK`; each query once, in any order.

        Args:
            asked: bool (Q,), the queries wanted; None for all.

        Raises:
            SwanError: a similarity is NaN.
        """
        block = max(1, min(BLOCK, CELLS // max(1, len(self.candidate))))
        order = np.argsort(self.query, kind="stable")
        if asked is not None:
            order = order[asked[order]]
        groups = int(self.query.max()) + 1 if len(self.query) else 0
        ends = np.searchsorted(self.query[order], np.arange(groups + 1))
        for start in range(0, groups, block):
            stop = min(start + block, groups)
            scores = self.scores(start, stop)
            if np.isnan(scores).any():
                raise SwanError("a similarity is NaN", "the model or the embeddings contain NaN: train again")
            for first in range(ends[start], ends[stop], block):  # many queries may share a group
                rows = order[first : min(first + block, ends[stop])]
                yield rows, scores[self.query[rows] - start][:, self.candidate]


Grids = tuple[Grid, Grid]  # image to text, text to image


def _distinct(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct rows (U, D), in any order, and for each row its place among them, int64 (R,)."""
    if not rows.size:
        return rows[:1], np.zeros(len(rows), dtype=np.int64)
    rows = np.ascontiguousarray(rows) + 0.0  # makes -0.0 and 0.0 the same bytes
    keys = rows.view(np.dtype((np.void, rows.dtype.itemsize * rows.shape[1]))).ravel()
    _, first, group = np.unique(keys, return_index=True, return_inverse=True)
    return rows[first], group.ravel()


def _product_grid(queries: tuple[np.ndarray, np.ndarray], candidates: tuple[np.ndarray, np.ndarray]) -> Grid:
    # Only distinct rows are multiplied: in a matrix product equal columns can differ in the last bit.
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
    """Similarity 1 for the pairs (query groups, candidate groups), 0 for all others."""
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
    """Similarity 1 for some pairs of groups, 0 for all others.

    Args:
        pairs: int64 (P,) groups of images and int64 (P,) groups of captions.
        image: int64 (N,), the group of each image.
        caption: int64 (M,), the group of each caption.
    """
    return _pair_grid(pairs, image, caption), _pair_grid(pairs[::-1], caption, image)


def ceiling_grids(text: np.ndarray, caption_image: np.ndarray, images: int) -> Grids:
    """The similarities of a perfect model, limited only by captions that repeat.

    An image and its own caption strings have the highest score, all other pairs a lower one.

    Args:
        text: object (M,) of str, the captions.
        caption_image: int64 (M,), the row of each caption's image, -1 for none.
        images: N.
    """
    _, string = np.unique(text.astype(str), return_inverse=True)
    paired = caption_image >= 0
    return pair_grids((caption_image[paired], string[paired]), np.arange(images), string)


def chance_grids(images: int, captions: int) -> Grids:
    """N images and M captions of equal similarity, whose order is random."""
    nothing = np.zeros(0, dtype=np.int64)
    return pair_grids((nothing, nothing), np.zeros(images, np.int64), np.zeros(captions, np.int64))
