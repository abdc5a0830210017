"""Scene recall and scene confusion: how often the results have the scene of the query.

Queries and candidates are read block by block as in `metrics`, under the same tie rules. Letters in shapes:
N images, M captions, Q queries, C candidates, q queries of a block, S scenes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from swancli.errors import SwanError
from swancli.evaluate import DIRECTIONS, RECALL_AT
from swancli.evaluate.metrics import check_request, exact_mean
from swancli.evaluate.similarity import Grid, Grids, pair_grids

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class SceneDirection:
    """Scene recall of one direction.

    share: K -> scene recall@K in percent.
    queries: how many were averaged.
    skipped: how many have no scene.
    """

    share: dict[int, float]
    queries: int
    skipped: int


@dataclass(frozen=True)
class SceneRecall:
    """Scene recall of both directions."""

    image_to_text: SceneDirection
    text_to_image: SceneDirection

    def record(self) -> dict[str, Any]:
        """Scene recalls and numbers of queries under "i2t" and "t2i", as plain values."""
        record = {}
        for short, name in DIRECTIONS.items():
            direction = getattr(self, name)
            shares = {f"SR@{k}": share for k, share in direction.share.items()}
            record[short] = {**shares, "queries": direction.queries, "without_scene": direction.skipped}
        return record


def scene_recall(
    grids: Grids,
    caption_image: np.ndarray,
    scene: np.ndarray,
    *,
    ties: str = "expected",
    ks: Sequence[int] = RECALL_AT,
) -> SceneRecall:
    """The mean over queries of the share of the K best results that have the query's scene.

    A caption has its image's scene. Queries without a scene are left out and counted; candidates without one
    match no query. The share is of min(K, number of candidates).

    Args:
        grids: the similarities of N images and M captions, see `similarity`.
        caption_image: int64 (M,), the row of each caption's image, -1 for none.
        scene: object (N,) of str or None.
        ties: "expected", "best" or "worst".
        ks: every K.

    Raises:
        SwanError: no query has a scene, or a similarity is NaN.
    """
    check_request(grids, caption_image, ties, ks)
    code = scene_codes(scene)
    caption_code = caption_codes(code, caption_image)
    return SceneRecall(
        image_to_text=_direction(grids[0], code, caption_code, ties, ks),
        text_to_image=_direction(grids[1], caption_code, code, ties, ks),
    )


def _direction(
    grid: Grid, code: np.ndarray, candidate_code: np.ndarray, ties: str, ks: Sequence[int]
) -> SceneDirection:
    """One direction; codes: int64 (Q,) and (C,), the scene of each, -1 for none."""
    asked = code >= 0
    if not asked.any() or not len(candidate_code):
        raise SwanError(
            "no scene recall: no query has a scene", "leave --scene-recall out, or check the split"
        )
    scenes = int(max(code.max(), candidate_code.max())) + 1
    member = _members(candidate_code, scenes)
    weight = np.zeros((int(grid.query.max()) + 1, scenes + 1), dtype=np.int64)
    np.add.at(weight, (grid.query[asked], code[asked]), 1)
    shares = {k: np.zeros(len(code)) for k in sorted(set(ks))}
    for rows, similarity in grid.blocks(asked):
        for k, share in shares.items():
            share[rows] = _shares(similarity, code[rows], member, weight[grid.query[rows]], k, ties)
    queries = int(np.count_nonzero(asked))
    means = {k: 100 * exact_mean(share[asked]) for k, share in shares.items()}
    return SceneDirection(means, queries, skipped=len(code) - queries)


def _shares(
    similarity: np.ndarray, code: np.ndarray, member: np.ndarray, weight: np.ndarray, k: int, ties: str
) -> np.ndarray:
    """float64 (q,): the share of the k best candidates that have the query's scene.

    k is lowered to C. Let t be the k-th highest score, a the same-scene candidates above t, r the room left
    for those at t, T all and s the same-scene ones at t. Expected: (a + r s / T) / k. Best and worst:
    (a + those that fit) / k, where scenes fill the room in turn: at best those of more equal queries first,
    at worst those of fewer. For a query without equals, min(s, r) and max(0, r - (T - s)) fit.

    Args:
        similarity: (q, C).
        code: int64 (q,), the scene of each query, 0 to S - 1.
        member: float32 (C, S + 1), from `_members`.
        weight: int64 (q, S + 1), how many of the queries equal to this one have each scene.
        k: how many results count.
        ties: "expected", "best" or "worst".
    """
    k = min(k, similarity.shape[1])
    place = similarity.shape[1] - k
    threshold = np.partition(similarity, place, axis=1)[:, place, None]
    above, tied = (
        (part.astype(np.float32) @ member).astype(np.int64)  # whole numbers
        for part in (similarity > threshold, similarity == threshold)
    )
    room = k - above.sum(axis=1)
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


def scene_confusion(grids: Grids, caption_image: np.ndarray, scene: np.ndarray) -> pd.DataFrame:
    """The scene of the best image for the captions of each scene; equal scores at their expected value.

    Args:
        grids: the similarities of N images and M captions, see `similarity`.
        caption_image: int64 (M,), the row of each caption's image, -1 for none.
        scene: object (N,) of str or None.

    Returns:
        (S, S + 1), from 0 to 1: for the captions of a scene (row) the share whose best image has a scene
        (column); the last column, "no scene", is for images without one. A row sums to 1, and is NaN where
        the scene has no caption.

    Raises:
        SwanError: no caption's image has a scene, or a similarity is NaN.
    """
    import pandas as pd

    code, names = scene_codes(scene), _scene_names(scene)
    caption_code = caption_codes(code, caption_image)
    if (caption_code < 0).all():
        raise SwanError("no caption's image has a scene")
    member = _members(code, len(names))
    share = np.zeros((len(caption_image), len(names) + 1))
    for rows, similarity in grids[1].blocks():
        best = (similarity == similarity.max(axis=1, keepdims=True)).astype(np.float32) @ member
        share[rows] = best / best.sum(axis=1, keepdims=True)
    table = pd.DataFrame(share, columns=[*names, "no scene"]).groupby(caption_code).mean()
    return table.reindex(range(len(names))).set_axis(names)


def scene_oracle_grids(scene: np.ndarray, caption_image: np.ndarray) -> Grids:
    """The similarities of an oracle that knows the scene and nothing else: 1 within a scene, 0 elsewhere.

    Args:
        scene: object (N,) of str or None.
        caption_image: int64 (M,), the row of each caption's image, -1 for none.
    """
    code = scene_codes(scene)
    known = np.unique(code[code >= 0]) + 1
    groups = code + 1, caption_codes(code, caption_image) + 1  # group 0 has no scene and pairs with nothing
    return pair_grids((known, known), *groups)


def scene_codes(scene: np.ndarray) -> np.ndarray:
    """int64 (N,): a number for each scene of an object (N,) of str or None, by name from 0; -1 for none."""
    names = {name: code for code, name in enumerate(_scene_names(scene))}
    return np.array([names.get(name, -1) for name in scene], dtype=np.int64)


def caption_codes(code: np.ndarray, caption_image: np.ndarray) -> np.ndarray:
    """int64 (M,): the code of each caption's image, int64 (M,); -1 for a caption without one."""
    return np.append(code, -1)[caption_image]  # image -1 picks this last one


def _scene_names(scene: np.ndarray) -> list[str]:
    return sorted({name for name in scene if name is not None})


def _members(code: np.ndarray, scenes: int) -> np.ndarray:
    """float32 (C, S + 1): 1 at the scene of each candidate, in the last column for code -1, no scene."""
    return np.eye(scenes + 1, dtype=np.float32)[code]
