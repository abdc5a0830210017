"""The score from which an image matches a caption, to tell "not in these images" from "found".

swan query "a stadium" --threshold auto
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace

import numpy as np

from swancli.errors import SwanError
from swancli.evaluate.scene_recall import caption_codes, scene_codes
from swancli.machine.progress import Progress, quiet
from swancli.model.checkpoint import Checkpoint
from swancli.model.encoder import Encoder
from swancli.store.dataset import Dataset

BLOCK = 256  # captions at a time


@dataclass(frozen=True)
class MatchThreshold:
    """The score from which the best image counts as a match, and how often that is wrong.

    threshold: a cosine similarity.
    false_alarm: of queries that no image shows, the percentage that find a match.
    miss: of queries that an image shows, the percentage that find none.
    images: number in the split that the threshold was set on.
    captions: the same.
    """

    threshold: float
    false_alarm: float
    miss: float
    images: int
    captions: int

    @classmethod
    def from_plain(cls, stored: object) -> MatchThreshold:
        """The threshold from the plain values in a checkpoint.

        Raises:
            TypeError: they are not a threshold.
        """
        numbers = isinstance(stored, dict) and all(
            isinstance(value, (int, float)) and math.isfinite(value) for value in stored.values()
        )
        if not numbers:
            raise TypeError(f"{stored!r} is not a record of finite numbers")
        return cls(**stored)


def calibrated(encoder: Encoder, dataset: Dataset, progress: Progress = quiet) -> Checkpoint:
    """The checkpoint of an encoder with the match threshold of a data set's validation split.

    Raises:
        SwanError: there is no validation split, or it has fewer than two scenes.
    """
    rows = dataset.rows_of("val")
    part, _ = dataset.catalogue.select(rows)
    image, caption = encoder.rows(dataset, rows, progress), encoder.captions(part.text, progress)
    match = match_threshold(image, caption, part.image, part.scene)
    if not match:
        raise SwanError(
            f"--calibrate {dataset.name}: its validation split has fewer than two scenes",
            "take a data set whose images have scenes",
        )
    checkpoint = encoder.checkpoint
    return replace(checkpoint, origin=checkpoint.origin | {"match": asdict(match)})


def match_threshold(
    image: np.ndarray, caption: np.ndarray, caption_image: np.ndarray, scene: np.ndarray
) -> MatchThreshold | None:
    """The threshold at which both errors are equally frequent.

    Each caption is a query twice: among all images, and among the images of other scenes, which do not show
    it. The best score of each query counts.

    Args:
        image: float32 (N, D), L2-normalised.
        caption: float32 (M, D), L2-normalised.
        caption_image: int64 (M,), the row of each caption's image, -1 for none.
        scene: object (N,) of str or None.

    Returns:
        None if the images have fewer than two scenes, or no caption's image has a scene.
    """
    code = scene_codes(scene)
    caption_code = caption_codes(code, caption_image)
    captions = np.flatnonzero(caption_code >= 0)
    if code.max(initial=-1) < 1 or not len(captions):  # codes start at 0
        return None
    there, not_there = [], []
    for start in range(0, len(captions), BLOCK):
        rows = captions[start : start + BLOCK]
        scores = caption[rows] @ image.T
        there.append(scores.max(axis=1))
        not_there.append(np.where(caption_code[rows, None] == code, -np.inf, scores).max(axis=1))
    threshold, false_alarm, miss = equal_errors(np.concatenate(there), np.concatenate(not_there))
    return MatchThreshold(threshold, 100 * false_alarm, 100 * miss, len(image), len(captions))


def equal_errors(there: np.ndarray, not_there: np.ndarray) -> tuple[float, float, float]:
    """The threshold at which the two shares of errors are closest; the lowest such threshold.

    Args:
        there: float (n,), best scores of queries that an image shows.
        not_there: float (n,), best scores of queries that no image shows.

    Returns:
        The threshold, which is one of the scores; the share of `not_there` at or above it; the share of
        `there` below it.
    """
    thresholds = np.unique(np.concatenate([there, not_there]))
    miss = np.searchsorted(np.sort(there), thresholds, side="left") / len(there)
    false_alarm = 1 - np.searchsorted(np.sort(not_there), thresholds, side="left") / len(not_there)
    best = int(np.argmin(np.abs(miss - false_alarm)))
    return float(thresholds[best]), float(false_alarm[best]), float(miss[best])
