"""Recall@K and ranks: pure functions of arrays that know nothing about models or files.

The similarity matrix of a direction, a `Grid`, is read block by block. For each query the candidates above
and at the score of its best positive are counted; the figures follow from these counts and a tie rule:

    expected   the mean over all orders of equal scores, computed exactly
    best       the luckiest order of equal scores
    worst      the unluckiest

Equal queries share one order, as in any ranking that a program can return: of two images with the same
caption string, the same one comes first for both captions.

Letters in shapes: N images, M captions, D embedding, Q queries, C candidates, q queries of a block.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from swancli.errors import SwanError
from swancli.evaluate import DIRECTIONS, RECALL_AT
from swancli.evaluate.similarity import Grid, Grids, matrix_grids

if TYPE_CHECKING:
    import pandas as pd

TIES = ("expected", "best", "worst")


@dataclass(frozen=True)
class Direction:
    """The figures of one direction of retrieval.

    recall: K -> recall@K in percent, at 1, 5, 10 and every K asked for.
    median_rank: of the best positive, from 1, rounded down as in published tables.
    mean_rank: of the best positive, from 1.
    queries: how many were averaged.
    skipped: how many were left out because no candidate belongs to them.
    """

    recall: dict[int, float]
    median_rank: float
    mean_rank: float
    queries: int
    skipped: int


@dataclass(frozen=True)
class Scores:
    """The figures of both directions of retrieval."""

    image_to_text: Direction
    text_to_image: Direction

    @property
    def mean_recall(self) -> float:
        """mR in percent: the mean of the recalls at 1, 5 and 10 in both directions."""
        directions = (self.image_to_text, self.text_to_image)
        return math.fsum(d.recall[k] for d in directions for k in RECALL_AT) / (2 * len(RECALL_AT))

    def record(self) -> dict[str, Any]:
        """Recalls and ranks under "i2t" and "t2i", and "mR", as plain values."""
        record: dict[str, Any] = {}
        for short, name in DIRECTIONS.items():
            direction = getattr(self, name)
            recalls = {f"R@{k}": value for k, value in direction.recall.items()}
            ranks = {"median_rank": direction.median_rank, "mean_rank": direction.mean_rank}
            record[short] = recalls | ranks
        return record | {"mR": self.mean_recall}


@dataclass(frozen=True)
class Placing:
    """The candidates around the best positive of each query: int64 (Q,) counts.

    above: those with a higher score.
    positives: the positives with its score, itself included.
    negatives: the other candidates with its score.
    """

    above: np.ndarray
    positives: np.ndarray
    negatives: np.ndarray


def _placing(grid: Grid, owner: np.ndarray, candidate_owner: np.ndarray, asked: np.ndarray) -> Placing:
    """The placing of the queries in `asked`, bool (Q,), which have a positive each."""
    counts = np.zeros((3, len(owner)), dtype=np.int64)
    for rows, similarity in grid.blocks(asked):
        positive = owner[rows, None] == candidate_owner
        highest = np.where(positive, similarity, -np.inf).max(axis=1, keepdims=True)
        tied = similarity == highest
        counts[0, rows] = np.count_nonzero(similarity > highest, axis=1)
        counts[1, rows] = np.count_nonzero(tied & positive, axis=1)
        counts[2, rows] = np.count_nonzero(tied & ~positive, axis=1)
    return Placing(*counts[:, asked])


def expected_hits(placing: Placing, k: int) -> np.ndarray:
    """float64 (Q,): the probability that a positive is among the k best, equal scores in random order.

    With G above, p positives and n negatives tied and r = max(0, k - G): 1 - C(n, r) / C(n + p, r), which is
    1 - product over j = 1..p of max(0, n - r + j) / (n + j).
    """
    room = np.maximum(k - placing.above, 0)
    missed = np.ones(len(room))
    for j in range(1, int(placing.positives.max(initial=0)) + 1):
        factor = np.maximum(placing.negatives - room + j, 0) / (placing.negatives + j)
        missed *= np.where(j <= placing.positives, factor, 1.0)
    return 1.0 - missed


def expected_ranks(placing: Placing) -> np.ndarray:
    """float64 (Q,): the expected rank, from 1, of the first positive, equal scores in random order.

    With G above, p positives and n negatives tied: G + (n + p + 1) / (p + 1).
    """
    positives = placing.positives
    return placing.above + (placing.negatives + positives + 1) / (positives + 1)


def ordered_ranks(placing: Placing, group: np.ndarray, owner: np.ndarray, ties: str) -> np.ndarray:
    """int64 (Q,): the rank, from 1, of the first positive in the luckiest or the unluckiest order.

    With G above and n negatives tied, a query alone in its group has rank G + 1 at best, G + n + 1 at worst.
    Queries of a group whose best positives tie share one order. Best: one positive per owner, owners of more
    queries first. Worst: first the candidates that belong to none of these queries, then all candidates of
    one owner after another, owners of fewer queries and more candidates first. No other order hits more
    (fewer) of them at any K, because each owner has either one query here (image to text) or one candidate
    (text to image).

    Args:
        placing: of the queries.
        group: int64 (Q,), the group of equal queries that each belongs to.
        owner: int64 (Q,), the image of each.
        ties: "best" or "worst".
    """
    level = _codes(group, placing.above)
    _, first, member, queries = np.unique(
        _codes(level, owner), return_index=True, return_inverse=True, return_counts=True
    )
    level, positives = level[first], placing.positives[first]
    if ties == "best":
        order, step = np.lexsort((-queries, level)), np.ones_like(positives)
        outside = np.zeros_like(positives)
    else:
        order, step = np.lexsort((-positives, queries, level)), positives
        tied = positives + placing.negatives[first]
        outside = tied - np.bincount(level, weights=positives).astype(np.int64)[level]
    passed = np.cumsum(step[order]) - step[order]
    starts = np.searchsorted(level[order], level[order])  # where the level of each begins
    before = np.empty_like(passed)
    before[order] = passed - passed[starts]
    return placing.above + (outside + before)[member.ravel()] + 1


def _codes(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """int64 (Q,): small numbers, equal for equal pairs."""
    _, codes = np.unique(first * (int(second.max(initial=0)) + 1) + second, return_inverse=True)
    return codes.ravel()


def _direction(
    grid: Grid, owner: np.ndarray, candidate_owner: np.ndarray, ties: str, ks: Sequence[int]
) -> Direction:
    """The figures of one direction; queries and candidates of the same owner belong together.

    Args:
        grid: of the direction.
        owner: int64 (Q,), the row of each query's image, -1 for none.
        candidate_owner: int64 (C,), the same for the candidates.
        ties: see `TIES`.
        ks: as in `retrieval_scores`.
    """
    asked = (owner >= 0) & np.isin(owner, candidate_owner)
    if not asked.any():
        raise SwanError("nothing to score: no image has a caption", "check the split and the data set")
    placing = _placing(grid, owner, candidate_owner, asked)
    if ties == "expected":
        rank = expected_ranks(placing)
    else:
        rank = ordered_ranks(placing, grid.query[asked], owner[asked], ties)
    recall = {}
    for k in sorted({*ks, *RECALL_AT}):
        recall[k] = 100 * exact_mean(expected_hits(placing, k) if ties == "expected" else rank <= k)
    return Direction(
        recall=recall,
        median_rank=float(np.floor(np.median(rank))),
        mean_rank=exact_mean(rank),
        queries=len(rank),
        skipped=len(owner) - len(rank),
    )


def exact_mean(values: np.ndarray) -> float:
    """The mean, exactly rounded, so that it does not depend on the order of the values."""
    return math.fsum(values) / len(values)


def check_request(grids: Grids, caption_image: np.ndarray, ties: str, ks: Sequence[int]) -> None:
    """Raises a ValueError for arguments that do not fit together or are not known."""
    captions = len(grids[1].query)
    if caption_image.shape != (captions,):
        raise ValueError(f"caption_image has the shape {caption_image.shape}, there are {captions} captions")
    if ties not in TIES:
        raise ValueError(f"ties {ties!r} is none of {TIES}")
    if min(ks, default=1) < 1:
        raise ValueError(f"K starts at 1, not {min(ks)}")


def retrieval_scores(
    grids: Grids, caption_image: np.ndarray, *, ties: str = "expected", ks: Sequence[int] = RECALL_AT
) -> Scores:
    """Recall and ranks in both directions.

    An image-to-text query is a hit when any of its captions is among the K best, a text-to-image query when
    its image is. Images without a caption are not queries; captions without an image are neither queries nor
    positives, but remain candidates.

    Args:
        grids: the similarities of N images and M captions, see `similarity`.
        caption_image: int64 (M,), the row of each caption's image, -1 for none.
        ties: "expected", "best" or "worst".
        ks: further K beside 1, 5 and 10.

    Raises:
        SwanError: there is no query, or a similarity is NaN.
    """
    check_request(grids, caption_image, ties, ks)
    images = np.arange(len(grids[0].query))
    return Scores(
        image_to_text=_direction(grids[0], images, caption_image, ties, ks),
        text_to_image=_direction(grids[1], caption_image, images, ties, ks),
    )


def recall(similarity: np.ndarray, image_of_caption: Sequence[int] | np.ndarray) -> pd.DataFrame:
    """Recall@K of a similarity matrix, in percent, as `swan eval` counts it: ties at their expected value.

    Args:
        similarity: (N, M), of each image with each caption; higher means more similar.
        image_of_caption: int (M,), the row of each caption's image, from 0; -1 for none.

    Returns:
        One row with the columns "i2t R@1", "i2t R@5", "i2t R@10", "t2i R@1", "t2i R@5", "t2i R@10" and "mR".

    Raises:
        SwanError: the two do not fit together, no image has a caption, or a similarity is NaN.
    """
    import pandas as pd

    similarity, image = np.asarray(similarity), np.asarray(image_of_caption)
    if similarity.ndim != 2 or image.shape != similarity.shape[1:]:
        raise SwanError(
            f"similarity has the shape {similarity.shape}, image_of_caption {image.shape}",
            "give (N, M) for N images and M captions, and (M,), the image of each caption",
        )
    if len(image) and not (image.dtype.kind in "iu" and -1 <= image.min() <= image.max() < len(similarity)):
        raise SwanError(
            f"image_of_caption contains {image.dtype} from {image.min()} to {image.max()}",
            f"give the row of each caption's image, 0 to {len(similarity) - 1}, or -1 for none",
        )
    record = retrieval_scores(matrix_grids(similarity), image).record()
    row = {f"{way} R@{k}": record[way][f"R@{k}"] for way in DIRECTIONS for k in RECALL_AT}
    return pd.DataFrame([row | {"mR": record["mR"]}])


def caption_ranks(grids: Grids, caption_image: np.ndarray) -> np.ndarray:
    """float64 (M,): the rank, from 1, of each caption's own image among all images; NaN without an image.

    Equal scores count at their expected value, so a rank can end in .5 or another fraction. Arguments as in
    `retrieval_scores`.

    Raises:
        SwanError: a similarity is NaN.
    """
    ranks, asked = np.full(len(caption_image), np.nan), caption_image >= 0
    images = np.arange(len(grids[0].query))
    ranks[asked] = expected_ranks(_placing(grids[1], caption_image, images, asked))
    return ranks
