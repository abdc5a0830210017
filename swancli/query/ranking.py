"""Exact search: the rows of an embeddings file most similar to a question, whatever the file's size.

Up to `HELD` bytes of vectors are held in memory. More than that stay in the file, which is read block by
block, once for all questions asked together, and the best of each block are merged. Both ways find what a
stable sort of all scores would, for any number of results. Letters in shapes: N rows of the file, n of them
searched, D embedding, Q questions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

import h5py
import numpy as np
import torch

from swancli.errors import SwanError
from swancli.store.vectors import BLOCK, LENGTH_ERROR, mapped, read_rows

HELD = 2**30  # bytes of vectors held in memory, at most
CELLS = 2**24  # similarities computed at a time, at most (but at least one question's): 64 MB
# The score that a matrix product gives a row depends, by less than this at 512 dimensions, on the row's
# position. So rows this close to the last place are scored again, see `similarities`.
ROUNDING = 1e-5

RankedRows = tuple[np.ndarray, np.ndarray]  # rows int64 and their scores float32, best first


class Ranking(ABC):
    """Finds the best of some rows; exact search, unless a subclass says otherwise.

    Args:
        embedding: float32 (N, D) of an open file, L2-normalised.
        candidates: int64 (n,), the rows to search, ascending.
        device: where similarities are computed.

    Attributes:
        size: number of rows searched.
    """

    def __init__(self, embedding: h5py.Dataset, candidates: np.ndarray, device: torch.device) -> None:
        self.size = len(candidates)
        self._candidates = candidates
        self._device = device
        self._embedding = embedding
        self._stored = mapped(embedding)

    def searched(self, top_k: int) -> str:
        """What finds this many results: `exact`, or the kind of an index."""
        return "exact"

    def note(self, top_k: int) -> str:
        """What a user should know about the search; "" for nothing."""
        return ""

    @abstractmethod
    def best(self, vectors: np.ndarray, top_k: int, threshold: float = -1.0) -> Iterator[RankedRows]:
        """For each question the rows most similar to it, best first; equal scores in the order of the rows.

        Args:
            vectors: float32 (Q, D), L2-normalised.
            top_k: number of rows per question, at most.
            threshold: the minimum cosine similarity.
        """


def exact_ranking(embedding: h5py.Dataset, candidates: np.ndarray, device: torch.device) -> Ranking:
    """Exact search, in memory if the rows fit into `HELD`; arguments as for `Ranking`."""
    fits = 4 * len(candidates) * embedding.shape[1] <= HELD
    return (HeldRanking if fits else StreamedRanking)(embedding, candidates, device)


class HeldRanking(Ranking):
    """Searches rows that are held in memory."""

    def __init__(self, embedding: h5py.Dataset, candidates: np.ndarray, device: torch.device) -> None:
        super().__init__(embedding, candidates, device)
        # Dimensions first: one vector against many is then three times as fast on a CPU.
        self._image = torch.empty(embedding.shape[1], len(candidates), device=device)
        filled = 0
        for rows, block in row_blocks(embedding, candidates):
            self._image[:, filled : filled + len(rows)] = torch.from_numpy(block).to(device).T
            filled += len(rows)

    def best(self, vectors: np.ndarray, top_k: int, threshold: float = -1.0) -> Iterator[RankedRows]:
        together = max(1, CELLS // max(1, len(self._candidates)))
        for start in range(0, len(vectors), together):
            questions = vectors[start : start + together]
            products = torch.from_numpy(questions).to(self._device) @ self._image
            for question, scores in zip(questions, products.cpu().numpy(), strict=True):
                rows = self._candidates[scores >= _least(scores, top_k)]
                yield ranked(rows, self._stored, question, top_k, threshold)


class StreamedRanking(Ranking):
    """Searches rows that stay in their file. In memory are one block, and `top_k` rows per question."""

    def best(self, vectors: np.ndarray, top_k: int, threshold: float = -1.0) -> Iterator[RankedRows]:
        together = max(1, CELLS // max(BLOCK, min(top_k, len(self._candidates))))
        for start in range(0, len(vectors), together):
            yield from self._pass(vectors[start : start + together], top_k, threshold)

    def _pass(self, vectors: np.ndarray, top_k: int, threshold: float) -> Iterator[RankedRows]:
        """One pass over the file, for questions whose best rows fit into memory together."""
        asked = torch.from_numpy(vectors).to(self._device)
        best = [(np.empty(0, np.int64), np.empty(0, np.float32))] * len(vectors)
        least = np.full(len(vectors), -np.inf, np.float32)  # score that can still be among the best
        for rows, block in row_blocks(self._embedding, self._candidates):
            products = torch.from_numpy(block).to(self._device) @ asked.T
            for question, scores in enumerate(products.T.cpu().numpy()):
                near = np.flatnonzero(scores >= least[question])
                if not len(near):
                    continue
                merged = np.concatenate([best[question][1], scores[near]])
                least[question] = _least(merged, top_k)
                kept = merged >= least[question]
                best[question] = np.concatenate([best[question][0], rows[near]])[kept], merged[kept]
        for question, (rows, _) in zip(vectors, best, strict=True):
            yield ranked(rows, self._stored, question, top_k, threshold)


def row_blocks(embedding: h5py.Dataset, candidates: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Block by block, the candidates in that block, int64 (r,), and their vectors, float32 (r, D).

    Raises:
        StoreError: the file is damaged, or a vector is not L2-normalised; names its row.
    """
    for start in range(0, len(embedding), BLOCK):
        rows = candidates[slice(*np.searchsorted(candidates, (start, start + BLOCK)))]
        if len(rows):
            block = read_rows(embedding, start, start + BLOCK)
            yield rows, block if len(rows) == len(block) else block[rows - start]


def _least(scores: np.ndarray, top_k: int) -> float:
    """The least score, of some rounded ones, that can be among the `top_k` best."""
    return np.partition(scores, -top_k)[-top_k] - ROUNDING if top_k < len(scores) else -np.inf


def ranked(
    rows: np.ndarray, stored: np.ndarray, question: np.ndarray, top_k: int, threshold: float = -1.0
) -> RankedRows:
    """The best of a few rows by their similarities; equal ones in the order of the rows.

    Args:
        rows: int64 (r,), ascending.
        stored: float32 (N, D), in memory or mapped from a file.
        question: float32 (D,).
        top_k: number of rows, at most.
        threshold: the minimum cosine similarity.

    Raises:
        SwanError: a score is not a cosine similarity, so a vector is damaged; names its row.
    """
    scores = np.empty(len(rows), np.float32)
    for start in range(0, len(rows), BLOCK):
        scores[start : start + BLOCK] = similarities(stored[rows[start : start + BLOCK]], question)
    odd = np.flatnonzero(~(np.abs(scores) <= 1 + LENGTH_ERROR))  # also of NaN
    if len(odd):
        problem = f"the similarity of embedding {rows[odd[0]]} is {scores[odd[0]]:.3g}, not a cosine"
        raise SwanError(problem, "make the embeddings again, with an undamaged checkpoint: swan embed")
    order = np.argsort(-scores, kind="stable")[:top_k]
    if threshold > -1:  # rounding can bring a score below -1
        order = order[scores[order] >= threshold]
    return rows[order], scores[order]


def similarities(vectors: np.ndarray, question: np.ndarray) -> np.ndarray:
    """float32 (r,): the cosine similarity of each row of (r, D) to a question (D,), all L2-normalised.

    Unlike a matrix product, it sums every row in the same order, whatever its position. So a score depends on
    the two vectors alone, not on what else is searched or asked, and equal rows have exactly equal scores.
    """
    return np.einsum("rd,d->r", vectors, question)
