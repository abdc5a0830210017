"""Semantic localization: how well the map of a sentence marks the places that it describes.

Pure functions of arrays, after Yuan et al., Learning to Evaluate Performance of Multimodal Semantic
Localization (2022). p is a map from 0 to 1, m the true places, which are polygons. The centre of a polygon is
the mean of its vertices, and its radius r is 1.5 times their mean distance from the centre, as in the
published code; the maxima of the map within r of the centre belong to it. Points are x to the right and
y down, in pixels.

Letters in shapes: H x W pixels, K maxima of the map, V vertices of a region.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

BETA = 0.707  # of Rsu
STEEPNESS = 3.0  # of Ras
PEAK = 0.5  # least value of the map at a maximum that counts
REACH = 1.5  # radius of a region over the mean distance of its vertices from its centre
WEIGHTS = {"rsu": 0.4, "ras": 0.35, "rda": 0.25}  # of Rmi


@dataclass(frozen=True)
class Indicators:
    """The figures of one map, 0 to 1 each; higher is better except for `ras`.

    rsu: how much of the map is at the true places.
    ras: how far the map's maxima are from the middle of the true places.
    rda: whether each true place has few maxima, close together.
    """

    rsu: float
    ras: float
    rda: float

    @property
    def rmi(self) -> float:
        """0.4 Rsu + 0.35 (1 - Ras) + 0.25 Rda."""
        return WEIGHTS["rsu"] * self.rsu + WEIGHTS["ras"] * (1 - self.ras) + WEIGHTS["rda"] * self.rda

    def record(self) -> dict[str, float]:
        """All four by name."""
        return {**asdict(self), "rmi": self.rmi}


def significant_share(p: np.ndarray, m: np.ndarray) -> float:
    """Rsu, how much of the map is at the true places: 1 - exp(-0.707 in / out (H W - |m|) / |m|).

    `in` is the sum of p over the true places, `out` over the rest, |m| the area of the true places in pixels.
    It is 1 if `out` is 0, and 0 if `in` is 0 or the true places cover the whole scene.

    Args:
        p: float (H, W), NaN counts as 0.
        m: bool (H, W), true somewhere.
    """
    p = np.nan_to_num(p)
    area = int(np.count_nonzero(m))
    inside = float(p.sum(where=m, dtype=np.float64))
    outside = float(p.sum(where=~m, dtype=np.float64))
    if inside == 0 or area == m.size:
        return 0.0
    if outside == 0:
        return 1.0
    return -math.expm1(-BETA * (inside / outside) * ((m.size - area) / area))


def attention_shift(maxima: np.ndarray, regions: Sequence[np.ndarray]) -> float:
    """Ras, how far the map's maxima are from the middle of the true regions; lower is better.

    It is (exp(3 x) - 1) / (exp(3) - 1). x is the mean over the regions of the mean distance of a region's
    maxima from its centre, divided by r; for a region without maxima that is 1.

    Args:
        maxima: float (K, 2).
        regions: float (V, 2) each, their vertices.
    """
    offsets = []
    for region in regions:
        centre, radius = _circle(region)
        distances = _distances(maxima, centre)
        near = distances[distances <= radius]
        offsets.append(float(near.mean()) / radius if len(near) else 1.0)
    return math.expm1(STEEPNESS * math.fsum(offsets) / len(offsets)) / math.expm1(STEEPNESS)


def attention_concentration(maxima: np.ndarray, regions: Sequence[np.ndarray]) -> float:
    """Rda, whether each true region has few maxima, close together: the mean over the regions.

    For a region without maxima it is 0, with one it is 1; with n maxima at a mean distance d from their mean
    it is 0.5 (1 - d / r) + exp(-0.5 (n + 2)).

    Args:
        maxima: float (K, 2).
        regions: float (V, 2) each, their vertices.
    """
    shares = []
    for region in regions:
        centre, radius = _circle(region)
        near = maxima[_distances(maxima, centre) <= radius]
        if len(near) < 2:
            shares.append(float(len(near)))
        else:
            spread = _distances(near, near.mean(axis=0)).mean() / radius
            shares.append(0.5 * (1 - spread) + math.exp(-0.5 * (len(near) + 2)))
    return math.fsum(shares) / len(shares)


def indicators(p: np.ndarray, m: np.ndarray, maxima: np.ndarray, regions: Sequence[np.ndarray]) -> Indicators:
    """All indicators of a map; for the arguments see the functions above."""
    return Indicators(
        significant_share(p, m), attention_shift(maxima, regions), attention_concentration(maxima, regions)
    )


def _circle(region: np.ndarray) -> tuple[np.ndarray, float]:
    """A region's centre, float64 (2,), and its radius."""
    centre = region.mean(axis=0)
    return centre, REACH * float(_distances(region, centre).mean())


def _distances(points: np.ndarray, centre: np.ndarray) -> np.ndarray:
    return np.hypot(*(points - centre).T)
