"""The heat map of a scene and its best places, from the scores of tiles: pure functions of arrays.

Letters in shapes: T tiles, h x w cells of the map, K maxima of it. Boxes are int (n, 4): left, top, right and
bottom in pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

OVERLAP = 0.25  # the largest share of the smaller of two hits that the other may cover
DIGITS = 6  # decimals of a map's scores, so that rounding in the sums makes no difference


@dataclass(frozen=True)
class HeatMap:
    """How well each place of a scene fits a question.

    scores: float32 (h, w), the mean cosine similarity of the tiles that cover each cell; NaN if none does.
        The last cells may reach beyond the scene.
    cell: width and height of a cell, in pixels.
    side: width and height of the smallest tiles, in pixels.
    height: of the scene, in pixels.
    width: of the scene, in pixels.
    """

    scores: np.ndarray
    cell: tuple[int, int]
    side: tuple[int, int]
    height: int
    width: int

    @property
    def span(self) -> tuple[float, float]:
        """The lowest and the highest score."""
        return float(np.nanmin(self.scores)), float(np.nanmax(self.scores))

    @property
    def values(self) -> np.ndarray:
        """float32 (h, w): the scores scaled to 0 to 1; all 0 if all scores are equal."""
        lowest, highest = self.span
        return (self.scores - np.float32(lowest)) / np.float32(highest - lowest if highest > lowest else 1)

    def at_pixels(self) -> np.ndarray:
        """float32 (height, width): the value of each pixel's cell."""
        across, down = self.cell
        pixels = self.values.repeat(down, axis=0)[: self.height].repeat(across, axis=1)
        return pixels[:, : self.width]


def heat_map(boxes: np.ndarray, scores: np.ndarray, height: int, width: int) -> HeatMap:
    """The map of a scene: each pixel is the mean of the tiles that cover it.

    A cell is half of the smallest tile, which is the distance between tiles. If tiles cover parts of a cell,
    as at edges, its score is the mean over its pixels.

    Args:
        boxes: int (T, 4), in one or more sizes.
        scores: float (T,).
        height: of the scene, in pixels.
        width: of the scene, in pixels.
    """
    extent = boxes[:, 2:] - boxes[:, :2]
    smallest = extent[extent.prod(axis=1).argmin()]
    across, down = (int(side) for side in -(-smallest // 2))
    shape = -(-height // down), -(-width // across)
    total, weight = np.zeros(shape), np.zeros(shape)
    for size in np.unique(extent, axis=0):
        # The tiles of one size form a grid, so the sum over tiles is two small matrix products.
        own = (extent == size).all(axis=1)
        left, column = np.unique(boxes[own, 0], return_inverse=True)
        top, row = np.unique(boxes[own, 1], return_inverse=True)
        grid, there = np.zeros((len(top), len(left))), np.zeros((len(top), len(left)))
        grid[row.ravel(), column.ravel()] = scores[own]
        there[row.ravel(), column.ravel()] = 1
        rows = covered(top, top + size[1], down, shape[0])
        columns = covered(left, left + size[0], across, shape[1])
        total += rows.T @ grid @ columns
        weight += rows.T @ there @ columns
    mean = np.full(shape, np.nan)
    np.divide(total, weight, out=mean, where=weight > 0)
    side = int(smallest[0]), int(smallest[1])
    return HeatMap(mean.round(DIGITS).astype(np.float32), (across, down), side, height, width)


def covered(start: np.ndarray, stop: np.ndarray, cell: int, cells: int) -> np.ndarray:
    """float64 (n, cells): how many pixels of each cell, along one axis, lie in each span of pixels.

    Args:
        start: int (n,), the first pixel of each span.
        stop: int (n,), the pixel after the last one of each span.
        cell: width of a cell, in pixels.
        cells: number of cells.
    """
    edges = np.arange(cells + 1) * cell
    inside = np.minimum(stop[:, None], edges[1:]) - np.maximum(start[:, None], edges[:-1])
    return np.maximum(inside, 0).astype(np.float64)


def local_maxima(p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The local maxima of a map: places with no higher one among their eight neighbours.

    Neighbours of the same height are one maximum, at the mean of their places.

    Args:
        p: float (h, w); NaN is lower than every number, and never a maximum.

    Returns:
        x and y, float64 (K, 2), in cells: the middle of the upper left cell is at (0.5, 0.5); and the values
        of the map there, float (K,).
    """
    padded = np.pad(np.where(np.isnan(p), -np.inf, p), 1, constant_values=-np.inf)
    around = sliding_window_view(padded, (3, 3))
    highest = p == around.max(axis=(2, 3))
    alone = (around == p[..., None, None]).sum(axis=(2, 3)) == 1
    places = [np.argwhere(highest & alone)[:, ::-1] + 0.5]
    values = [p[highest & alone]]
    seen = np.zeros(padded.shape, bool)
    for row, column in np.argwhere(highest & ~alone):
        if not seen[row + 1, column + 1]:
            plateau = _plateau(padded, seen, (row + 1, column + 1)) - 1
            if highest[plateau[:, 0], plateau[:, 1]].all():
                places.append(plateau.mean(axis=0)[None, ::-1] + 0.5)
                values.append(p[row, column][None])
    return np.concatenate(places), np.concatenate(values)


def _plateau(padded: np.ndarray, seen: np.ndarray, start: tuple[int, int]) -> np.ndarray:
    """int64 (n, 2): rows and columns of the connected cells of the same value; marks them as seen."""
    plateau, waiting = [], [start]
    seen[start] = True
    while waiting:
        row, column = waiting.pop()
        plateau.append((row, column))
        around = slice(row - 1, row + 2), slice(column - 1, column + 2)
        for down, right in np.argwhere((padded[around] == padded[row, column]) & ~seen[around]):
            neighbour = int(row + down - 1), int(column + right - 1)
            seen[neighbour] = True
            waiting.append(neighbour)
    return np.array(plateau)


def best_places(heat: HeatMap, most: int, threshold: float = -1.0) -> tuple[np.ndarray, np.ndarray]:
    """The highest places of a map, best first: boxes as large as the smallest tile around its maxima.

    No box shares more than `OVERLAP` with a better one. Boxes of equal scores are in the order of rows.

    Args:
        heat: the map.
        most: number of places at most.
        threshold: the minimum score.

    Returns:
        Boxes int32 (n, 4), moved into the scene at its edges, and their scores float32 (n,).
    """
    places, scores = local_maxima(heat.scores)
    kept = scores >= threshold
    places, scores = places[kept], scores[kept]
    order = np.lexsort((places[:, 0], places[:, 1], -scores))
    side = np.array(heat.side)
    corner = np.floor(places[order] * heat.cell - side / 2).clip(0, (heat.width, heat.height) - side)
    boxes = np.concatenate((corner, corner + side), axis=1).astype(np.int32)
    chosen = _apart(boxes, most)
    return boxes[chosen], scores[order][chosen]


def _apart(boxes: np.ndarray, most: int) -> list[int]:
    """Rows of up to `most` boxes, none of which shares more than `OVERLAP` with an earlier one."""
    waiting = np.arange(len(boxes))
    boxes = boxes.astype(np.int64)  # for areas of large tiles
    area = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    chosen: list[int] = []
    while len(waiting) and len(chosen) < most:
        best = int(waiting[0])
        chosen.append(best)
        others = boxes[waiting]
        shared = np.minimum(others[:, 2:], boxes[best, 2:]) - np.maximum(others[:, :2], boxes[best, :2])
        shared = np.maximum(shared, 0).prod(axis=1)
        waiting = waiting[(shared <= OVERLAP * np.minimum(area[waiting], area[best])) & (waiting != best)]
    return chosen
