"""The score from which an image matches a caption, to tell "not in these images" from "found".

swan query "a stadium" --threshold auto

The more images are searched, the higher the best score is by chance. So the threshold depends on their
number, such that the rate of false alarms does not. Letters in shapes: N images, M captions, D embedding,
m captions of one scene, A images of other scenes, S sizes of a search, L levels.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields, replace

import numpy as np

from swancli.errors import SwanError
from swancli.evaluate.scene_recall import caption_codes, scene_codes
from swancli.machine.progress import Progress, quiet
from swancli.model.checkpoint import Checkpoint
from swancli.model.encoder import Encoder
from swancli.store.dataset import Dataset

BLOCK = 256  # captions at a time
FALSE_ALARM = 20.0  # percent of the searches for something absent; evaluate/README.md says why
FEWEST = 8  # images in the smallest search that counts; smaller ones depart from the law of `among`
SIZES = 8  # numbers of images for which a threshold is found, to fit that law
LEVELS = np.arange(-199, 200) / 200  # the cosine similarities that are tried
# What each number of a threshold may be. With others, the law of `among` may let everything pass, or nothing.
RANGES = {"offset": (-10, 10), "growth": (0, 10), "false_alarm": (0, 100), "miss": (0, 100)}
RANGES |= {"images": (1, 2**53), "captions": (1, 2**53)}


@dataclass(frozen=True)
class MatchThreshold:
    """The score from which the best image counts as a match, and how often that is wrong.

    offset: see `among`.
    growth: see `among`.
    false_alarm: of queries that no image shows, the percentage that find a match.
    miss: of queries that an image shows, the percentage that find none among all images of the split.
    images: number in the split that the threshold was set on.
    captions: the same.
    """

    offset: float
    growth: float
    false_alarm: float
    miss: float
    images: int
    captions: int

    @classmethod
    def from_plain(cls, stored: object) -> MatchThreshold:
        """The threshold from the plain values in a checkpoint.

        Raises:
            TypeError, ValueError: they are not a threshold.
        """
        if not isinstance(stored, dict) or set(stored) != {field.name for field in fields(cls)}:
            raise TypeError(f"{str(stored)[:80]} is not a record of {', '.join(RANGES)}")
        for name, (least, most) in RANGES.items():
            value = stored[name]
            if type(value) not in (int, float) or not least <= value <= most:  # NaN is in no range
                raise ValueError(f"{name} {str(value)[:20]} is not a number from {least} to {most}")
        return cls(**stored)

    def among(self, images: int) -> float:
        """The threshold, a cosine similarity, for a search of some images, at least one.

        It is tanh(offset + growth * sqrt(log2 images)). The best of n normally distributed scores grows
        about as sqrt(log n), and the inverse of tanh, Fisher's transformation, makes cosines nearly normal.
        """
        return math.tanh(self.offset + self.growth * math.sqrt(math.log2(images)))


def calibrated(encoder: Encoder, dataset: Dataset, progress: Progress = quiet) -> Checkpoint:
    """The checkpoint of an encoder with the match threshold of a data set's validation split.

    Raises:
        SwanError: there is no validation split, or it has too few scenes or images.
    """
    rows = dataset.rows_of("val")
    part, _ = dataset.catalogue.select(rows)
    image, caption = encoder.rows(dataset, rows, progress), encoder.captions(part.text, progress)
    match = match_threshold(image, caption, part.image, part.scene)
    if not match:
        raise SwanError(
            f"--calibrate {dataset.name}: its validation split has too few images of different scenes",
            "take a data set with more images that have scenes",
        )
    checkpoint = encoder.checkpoint
    return replace(checkpoint, origin=checkpoint.origin | {"match_threshold": asdict(match)})


def match_threshold(
    image: np.ndarray, caption: np.ndarray, caption_image: np.ndarray, scene: np.ndarray
) -> MatchThreshold | None:
    """The threshold at which `FALSE_ALARM` percent of the searches for something absent find a match.

    Each caption is searched for among images of other scenes, which do not show it. Images without a scene
    might, and are left out. For several numbers of images, drawn at random, the lowest level is found that
    the best score reaches in at most this share of the searches; the law of `among` is fitted to them.

    Args:
        image: float32 (N, D), L2-normalised.
        caption: float32 (M, D), L2-normalised.
        caption_image: int64 (M,), the row of each caption's image, -1 for none.
        scene: object (N,) of str or None.

    Returns:
        None if the images have fewer than two scenes, or if there is a scene with captions and fewer than two
        images of others, or no scene with captions.
    """
    code = scene_codes(scene)
    caption_code = caption_codes(code, caption_image)
    asked = np.unique(caption_code[caption_code >= 0])
    absent = [np.flatnonzero((code >= 0) & (code != number)) for number in asked]
    fewest = min(map(len, absent), default=0)
    if fewest < 2:
        return None
    sizes = np.unique(np.geomspace(min(FEWEST, fewest // 2), fewest, SIZES).astype(np.int64))
    alarms, best = np.zeros((len(sizes), len(LEVELS))), []
    for number, others in zip(asked, absent, strict=True):
        captions = np.flatnonzero(caption_code == number)
        for start in range(0, len(captions), BLOCK):
            scores = caption[captions[start : start + BLOCK]] @ image.T
            best.append(scores.max(axis=1))
            alarms += expected_alarms(scores[:, others], sizes)
    there = np.concatenate(best)
    low = (alarms > FALSE_ALARM / 100 * len(there)).sum(axis=1)  # number of levels that are too low
    levels = LEVELS[np.minimum(low, len(LEVELS) - 1)]
    growth, offset = np.polyfit(np.sqrt(np.log2(sizes)), np.arctanh(levels), 1)
    growth = max(growth, 0.0)  # rounding can make it negative
    found = MatchThreshold(float(offset), float(growth), FALSE_ALARM, 0.0, len(image), len(there))
    return replace(found, miss=100 * float(np.mean(there < found.among(len(image)))))


def expected_alarms(scores: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """float64 (S, L): of the searches for m captions, how many are expected to reach each level.

    Args:
        scores: float32 (m, A), the similarities of the captions and the images that do not show them.
        sizes: int64 (S,), from 1 to A: numbers of images that a search draws from these at random.
    """
    captions, images = scores.shape
    level = np.searchsorted(LEVELS, scores, side="right")  # how many levels a score reaches
    place = level + (len(LEVELS) + 1) * np.arange(captions)[:, None]
    count = np.bincount(place.ravel(), minlength=captions * (len(LEVELS) + 1)).reshape(captions, -1)
    reach = count[:, :0:-1].cumsum(axis=1)[:, ::-1]
    return np.stack([chances(size, images)[reach].sum(axis=0) for size in sizes])


def chances(drawn: int, images: int) -> np.ndarray:
    """float64 (images + 1,): for c from 0 to `images`, the chance that the drawn ones include one of c.

    Of `images`, `drawn` are drawn at random: 1 - C(images - c, drawn) / C(images, drawn).
    """
    left = np.arange(images, 0, -1)
    return 1 - np.append(1.0, np.cumprod(np.maximum(1 - drawn / left, 0.0)))
