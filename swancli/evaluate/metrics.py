"""Recall@K, ranks and scene recall: pure functions of arrays that know nothing of models or files.

Each figure comes out of one core, which goes through the similarity matrix of a direction, a `Grid`, block by
block. For each query it counts the candidates above and at the score of its best positive; the figures follow
from these counts under a tie rule:

    expected   the mean over all orders of equal scores, computed exactly
    best       the luckiest order of equal scores
    worst      the unluckiest

An order belongs to a query, and equal queries share it, as in any ranking that a program can give: of two
images with the same caption string, one comes first for both captions.

Letters in shapes: N images, M captions, D embedding, Q queries, C candidates, q queries of a block, S scenes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from swancli.errors import SwanError
from swancli.evaluate import RECALL_AT
from swancli.evaluate.similarity import Grid, Grids, embedding_grids, matrix_grids, pair_grids

if TYPE_CHECKING:
    import pandas as pd

TIES = ("expected", "best", "worst")


# ---------------------------------------------------------------------------------------------------------
# figures


@dataclass(frozen=True)
class Direction:
    """What one direction of retrieval reached.

    recall: K -> recall@K in percent, at 1, 5, 10 and every K asked for. median_rank (rounded down, as
    published tables do), mean_rank: of the best positive, counted from 1. queries: how many were averaged;
    skipped: how many were left out because nothing among the candidates belongs to them.
    """

    recall: dict[int, float]
    median_rank: float
    mean_rank: float
    queries: int
    skipped: int


@dataclass(frozen=True)
class Scores:
    """Both directions of retrieval."""

    image_to_text: Direction
    text_to_image: Direction

    @property
    def mean_recall(self) -> float:
        """mR in percent: the mean of the recalls at 1, 5 and 10 in both directions."""
        directions = (self.image_to_text, self.text_to_image)
        return math.fsum(d.recall[k] for d in directions for k in RECALL_AT) / (2 * len(RECALL_AT))


@dataclass(frozen=True)
class SceneDirection:
    """One direction of scene recall.

    share: K -> scene recall@K in percent. queries: how many were averaged; skipped: those without a scene.
    """

    share: dict[int, float]
    queries: int
    skipped: int


@dataclass(frozen=True)
class SceneRecall:
    """Scene recall of both directions."""

    image_to_text: SceneDirection
    text_to_image: SceneDirection


@dataclass(frozen=True)
class SceneConfusion:
    """Which scenes the results of each scene's captions are of.

    names: the S scenes, sorted. share: float64 (S, S + 1), from 0 to 1: for the captions of the row's scene,
    the mean share of their results that have the column's scene; the last column is for results without one.
    A row sums to 1, and is NaN where the scene has no caption. queries: int64 (S,), captions of each scene.
    """

    names: tuple[str, ...]
    share: np.ndarray
    queries: np.ndarray


# ---------------------------------------------------------------------------------------------------------
# recall and rank


@dataclass(frozen=True)
class Placing:
    """Where the best positive of each query stands: int64 (Q,) counts of candidates.

    above: those that score higher. positives, negatives: those at exactly its score, itself among them.
    """

    above: np.ndarray
    positives: np.ndarray
    negatives: np.ndarray


def place(similarity: np.ndarray, positive: np.ndarray) -> Placing:
    """The placing of the best positive in each row.

    Args:
        similarity: (q, C). positive: bool (q, C), at least one in each row.
    """
    highest = np.where(positive, similarity, -np.inf).max(axis=1, keepdims=True)
    tied = similarity == highest
    positives = np.count_nonzero(tied & positive, axis=1)
    return Placing(
        above=np.count_nonzero(similarity > highest, axis=1),
        positives=positives,
        negatives=np.count_nonzero(tied, axis=1) - positives,
    )


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

    A query alone in its group: G + 1 at best, G + n + 1 at worst. Queries of a group whose best positives tie
    share the order. Best: one positive of each owner in turn, those of more queries first. Worst: first what
    belongs to none of these queries, then all of one owner after the other, those of fewer queries and of
    more candidates first. No other order hits more (fewer) of them at any K, because either each owner has
    one query here (image to text) or each has one candidate (text to image).

    Args:
        group, owner: int64 (Q,), the group of equal queries and the image of each. ties: "best" or "worst".
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
    starts = np.searchsorted(level[order], level[order])  # where each one's level begins in this order
    before = np.empty_like(passed)
    before[order] = passed - passed[starts]
    return placing.above + (outside + before)[member.ravel()] + 1


def _codes(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """int64 (Q,): the same small number for equal pairs."""
    _, codes = np.unique(first * (int(second.max(initial=0)) + 1) + second, return_inverse=True)
    return codes.ravel()


def _direction(
    grid: Grid, owner: np.ndarray, candidate_owner: np.ndarray, ties: str, ks: Sequence[int]
) -> Direction:
    """One direction; a candidate is a positive of the queries with its owner, an image row, -1 for none."""
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
        recall[k] = 100 * _mean(expected_hits(placing, k) if ties == "expected" else rank <= k)
    return Direction(
        recall=recall,
        median_rank=float(np.floor(np.median(rank))),
        mean_rank=_mean(rank),
        queries=len(rank),
        skipped=len(owner) - len(rank),
    )


def _placing(grid: Grid, owner: np.ndarray, candidate_owner: np.ndarray, asked: np.ndarray) -> Placing:
    """The placing of the queries that `asked`, bool (Q,), picks; each of these has a positive."""
    counts = np.zeros((3, len(owner)), dtype=np.int64)
    for rows, similarity in grid.blocks():
        kept = asked[rows]
        if kept.any():
            rows, similarity = rows[kept], similarity[kept]
            placing = place(similarity, owner[rows, None] == candidate_owner)
            counts[:, rows] = placing.above, placing.positives, placing.negatives
    return Placing(*counts[:, asked])


def _mean(values: np.ndarray) -> float:
    return math.fsum(values) / len(values)  # exact sums do not depend on the order of the rows


def _scores(grids: Grids, caption_image: np.ndarray, ties: str, ks: Sequence[int]) -> Scores:
    _check(grids, caption_image, ties, ks)
    images = np.arange(len(grids[0].query))
    return Scores(
        image_to_text=_direction(grids[0], images, caption_image, ties, ks),
        text_to_image=_direction(grids[1], caption_image, images, ties, ks),
    )


def _check(grids: Grids, caption_image: np.ndarray, ties: str, ks: Sequence[int]) -> None:
    captions = len(grids[1].query)
    if caption_image.shape != (captions,):
        raise ValueError(f"caption_image has the shape {caption_image.shape}, there are {captions} captions")
    if ties not in TIES:
        raise ValueError(f"ties {ties!r} is none of {TIES}")
    if min(ks, default=1) < 1:
        raise ValueError(f"K starts at 1, not {min(ks)}")


def retrieval_scores(
    image: np.ndarray,
    caption: np.ndarray,
    caption_image: np.ndarray,
    *,
    ties: str = "expected",
    ks: Sequence[int] = RECALL_AT,
) -> Scores:
    """Recall and ranks of embeddings, by inner product.

    An image-to-text query is a hit when any of its captions is among the K best, a text-to-image query when
    its image is. Images without a caption are no queries; captions without an image are neither queries nor
    positives, but stay among the candidates.

    Args:
        image: float32 (N, D) and caption: float32 (M, D), L2-normalised rows; equal items have equal rows.
        caption_image: int64 (M,), the row of each caption's image, -1 for none.
        ties: "expected", "best" or "worst". ks: further K beside 1, 5 and 10.

    Raises:
        SwanError: there is no query, or a similarity is not a number.
    """
    return _scores(embedding_grids(image, caption), caption_image, ties, ks)


def scores_from_similarity(
    similarity: np.ndarray,
    caption_image: np.ndarray,
    *,
    ties: str = "expected",
    ks: Sequence[int] = RECALL_AT,
) -> Scores:
    """Recall and ranks of a similarity matrix (N, M); the rest as in `retrieval_scores`."""
    return _scores(matrix_grids(similarity), caption_image, ties, ks)


def recall(similarity: np.ndarray, image_of_caption: Sequence[int] | np.ndarray) -> pd.DataFrame:
    """Recall@K of a similarity matrix, in percent, as `swan eval` counts it: ties at their expected value.

    Args:
        similarity: (N, M), of each image and each caption, higher for more alike.
        image_of_caption: (M,) whole numbers, the row of each caption's image, from 0; -1 for none.

    Returns:
        One row with the columns "i2t R@1", "i2t R@5", "i2t R@10", "t2i R@1", "t2i R@5", "t2i R@10" and "mR".

    Raises:
        SwanError: the two do not fit together, no image has a caption, or a similarity is not a number.
    """
    import pandas as pd

    similarity, image = np.asarray(similarity), np.asarray(image_of_caption)
    if similarity.ndim != 2 or image.shape != similarity.shape[1:]:
        raise SwanError(
            f"a similarity matrix of the shape {similarity.shape}, and images of {image.shape} captions",
            "give (N, M) for N images and M captions, and the image of each of the M",
        )
    if len(image) and not (image.dtype.kind in "iu" and -1 <= image.min() <= image.max() < len(similarity)):
        raise SwanError(
            f"image_of_caption holds {image.dtype} from {image.min()} to {image.max()}",
            f"give the row of each caption's image, 0 to {len(similarity) - 1}, or -1 for none",
        )
    scores = scores_from_similarity(similarity, image)
    directions = {"i2t": scores.image_to_text, "t2i": scores.text_to_image}
    row = {f"{name} R@{k}": way.recall[k] for name, way in directions.items() for k in RECALL_AT}
    return pd.DataFrame([row | {"mR": scores.mean_recall}])


def caption_ranks(image: np.ndarray, caption: np.ndarray, caption_image: np.ndarray) -> np.ndarray:
    """float64 (M,): the rank, from 1, of each caption's own image among all images; NaN without an image.

    Equal scores count at their expected value, so a rank can be half a number. Arguments as in
    `retrieval_scores`.

    Raises:
        SwanError: a similarity is not a number.
    """
    ranks, asked = np.full(len(caption), np.nan), caption_image >= 0
    grid = embedding_grids(image, caption)[1]
    ranks[asked] = expected_ranks(_placing(grid, caption_image, np.arange(len(image)), asked))
    return ranks


# ---------------------------------------------------------------------------------------------------------
# what a perfect model, chance and a scene classifier would reach


def ceiling_scores(
    text: np.ndarray,
    caption_image: np.ndarray,
    images: int,
    *,
    ties: str = "expected",
    ks: Sequence[int] = RECALL_AT,
) -> Scores:
    """What a perfect model gets, given that captions repeat.

    It gives an image and its own caption strings the highest score and everything else a lower one.

    Args:
        text: object (M,) of str, the captions. images: N. The rest as in `retrieval_scores`.
    """
    _, string = np.unique(text.astype(str), return_inverse=True)
    paired = caption_image >= 0
    pairs = caption_image[paired], string[paired]
    return _scores(pair_grids(pairs, np.arange(images), string), caption_image, ties, ks)


def chance_scores(
    caption_image: np.ndarray, images: int, *, ties: str = "expected", ks: Sequence[int] = RECALL_AT
) -> Scores:
    """What a random order gets: every score is equal. `images`: N; the rest as in `retrieval_scores`."""
    none = np.zeros(0, dtype=np.int64)
    alike = np.zeros(images, dtype=np.int64), np.zeros(len(caption_image), dtype=np.int64)
    return _scores(pair_grids((none, none), *alike), caption_image, ties, ks)


def scene_oracle_scores(
    scene: np.ndarray, caption_image: np.ndarray, *, ties: str = "expected", ks: Sequence[int] = RECALL_AT
) -> Scores:
    """What knowing the scene, and nothing else, gets: similarity 1 within a scene, 0 elsewhere.

    Args:
        scene: object (N,) of str or None. The rest as in `retrieval_scores`.
    """
    code = scene_codes(scene)
    known = np.unique(code[code >= 0])
    groups = code + 1, caption_codes(code, caption_image) + 1  # group 0 has no scene and pairs with nothing
    return _scores(pair_grids((known + 1, known + 1), *groups), caption_image, ties, ks)


# ---------------------------------------------------------------------------------------------------------
# scene recall


def scene_shares(
    similarity: np.ndarray, code: np.ndarray, member: np.ndarray, weight: np.ndarray, k: int, ties: str
) -> np.ndarray:
    """float64 (q,): the share of the k best candidates that have the query's scene.

    k is lowered to C. Let t be the k-th highest score, a the same-scene candidates above t, r the room left
    for those at t, T all and s the same-scene ones at t. Expected: (a + r s / T) / k. Best and worst:
    (a + what is taken) / k where scenes fill the room in turn, at best those of more equal queries first, at
    worst those of fewer; for a query alone, min(s, r) and max(0, r - (T - s)) are taken.

    Args:
        similarity: (q, C). code: int64 (q,), the scene of each query, 0 to S - 1.
        member: float32 (C, S + 1), 1 at the scene of each candidate, at the last for one without.
        weight: int64 (q, S + 1), how many of the queries equal to this one have each scene.
    """
    k = min(k, similarity.shape[1])
    above, tied, room = _scene_counts(similarity, member, k)
    own = np.arange(len(code)), code
    if ties == "expected":
        taken = room * tied[own] / tied.sum(axis=1)
    else:
        order = np.argsort(-weight if ties == "best" else weight, axis=1, kind="stable")
        ordered = np.take_along_axis(tied, order, axis=1)
        before = np.empty_like(ordered)
        np.put_along_axis(before, order, np.cumsum(ordered, axis=1) - ordered, axis=1)
        taken = np.clip(room - before[own], 0, tied[own])
    return (above[own] + taken) / k


def _scene_counts(
    similarity: np.ndarray, member: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Candidates above and at the k-th highest score by scene, int64 (q, S + 1), and the room left, (q,)."""
    place = similarity.shape[1] - k
    threshold = np.partition(similarity, place, axis=1)[:, place, None]
    above = (similarity > threshold).astype(np.float32) @ member  # whole numbers
    tied = (similarity == threshold).astype(np.float32) @ member
    above, tied = above.astype(np.int64), tied.astype(np.int64)
    return above, tied, k - above.sum(axis=1)


def _scene_direction(
    grid: Grid, code: np.ndarray, candidate_code: np.ndarray, ties: str, ks: Sequence[int]
) -> SceneDirection:
    """One direction; codes: int64 (Q,) and (C,), the scene of each, -1 for none."""
    asked = code >= 0
    if not asked.any() or not len(candidate_code):
        raise SwanError(
            "no scene recall: no query has a scene", "leave --scene-recall out, or check the split"
        )
    scenes = int(max(code.max(), candidate_code.max())) + 1
    member = _scene_members(candidate_code, scenes)
    weight = np.zeros((int(grid.query.max()) + 1, scenes + 1), dtype=np.int64)
    np.add.at(weight, (grid.query[asked], code[asked]), 1)
    shares = {k: np.zeros(len(code)) for k in sorted(set(ks))}
    for rows, similarity in grid.blocks():
        kept = asked[rows]
        if kept.any():
            rows, similarity = rows[kept], similarity[kept]
            for k, share in shares.items():
                share[rows] = scene_shares(similarity, code[rows], member, weight[grid.query[rows]], k, ties)
    queries = int(np.count_nonzero(asked))
    means = {k: 100 * _mean(share[asked]) for k, share in shares.items()}
    return SceneDirection(means, queries, skipped=len(code) - queries)


def _scene_members(code: np.ndarray, scenes: int) -> np.ndarray:
    """float32 (C, S + 1): 1 at the scene of each candidate, at the last for one without (code -1)."""
    return np.eye(scenes + 1, dtype=np.float32)[code]


def scene_codes(scene: np.ndarray) -> np.ndarray:
    """int64 (N,): a number for each scene of an object (N,) of str or None, by name from 0; -1 is none."""
    names = {name: code for code, name in enumerate(sorted({name for name in scene if name is not None}))}
    return np.array([names.get(name, -1) for name in scene], dtype=np.int64)


def caption_codes(code: np.ndarray, caption_image: np.ndarray) -> np.ndarray:
    """int64 (M,): the code of each caption's image, int64 (M,); -1 for a caption without one."""
    return np.append(code, -1)[caption_image]  # image -1 picks this last one


def _scene_recall(
    grids: Grids, scene: np.ndarray, caption_image: np.ndarray, ties: str, ks: Sequence[int]
) -> SceneRecall:
    _check(grids, caption_image, ties, ks)
    code = scene_codes(scene)
    caption_code = caption_codes(code, caption_image)
    return SceneRecall(
        image_to_text=_scene_direction(grids[0], code, caption_code, ties, ks),
        text_to_image=_scene_direction(grids[1], caption_code, code, ties, ks),
    )


def scene_recall(
    image: np.ndarray,
    caption: np.ndarray,
    caption_image: np.ndarray,
    scene: np.ndarray,
    *,
    ties: str = "expected",
    ks: Sequence[int] = RECALL_AT,
) -> SceneRecall:
    """The mean over queries of the share of the K best results that have the query's scene.

    A caption has its image's scene. Queries without a scene are left out and counted; candidates without one
    match nothing. A share is taken of min(K, number of candidates).

    Args:
        scene: object (N,) of str or None. The rest as in `retrieval_scores`.

    Raises:
        SwanError: no query has a scene, or a similarity is not a number.
    """
    return _scene_recall(embedding_grids(image, caption), scene, caption_image, ties, ks)


def scene_recall_from_similarity(
    similarity: np.ndarray,
    caption_image: np.ndarray,
    scene: np.ndarray,
    *,
    ties: str = "expected",
    ks: Sequence[int] = RECALL_AT,
) -> SceneRecall:
    """Scene recall of a similarity matrix (N, M); the rest as in `scene_recall`."""
    return _scene_recall(matrix_grids(similarity), scene, caption_image, ties, ks)


def scene_confusion(
    image: np.ndarray, caption: np.ndarray, caption_image: np.ndarray, scene: np.ndarray, *, k: int = 1
) -> SceneConfusion:
    """The scenes of the k best images for the captions of each scene; equal scores at their expected value.

    For a caption with a images of a scene above the k-th highest score, s of the T images at it, and r places
    left for those: (a + r s / T) / k of its results have the scene. k is lowered to the number of images.

    Args:
        scene: object (N,) of str or None. The rest as in `retrieval_scores`.

    Raises:
        SwanError: no caption's image has a scene, or a similarity is not a number.
    """
    code = scene_codes(scene)
    caption_code = caption_codes(code, caption_image)
    asked = caption_code >= 0
    if not asked.any():
        raise SwanError("no caption's image has a scene")
    k, scenes = min(k, len(image)), int(code.max()) + 1
    member = _scene_members(code, scenes)
    share = np.zeros((len(caption), scenes + 1))
    for rows, similarity in embedding_grids(image, caption)[1].blocks():
        above, tied, room = _scene_counts(similarity, member, k)
        share[rows] = (above + room[:, None] * tied / tied.sum(axis=1, keepdims=True)) / k
    queries = np.bincount(caption_code[asked], minlength=scenes)
    means = np.full((scenes, scenes + 1), np.nan)
    for row in np.flatnonzero(queries):
        means[row] = [_mean(column) for column in share[caption_code == row].T]
    return SceneConfusion(tuple(sorted({name for name in scene if name is not None})), means, queries)
