"""Localization indicators of annotated scenes: how well the map of each caption marks its true places.

swan eval --localization annotations.json
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from swancli.errors import SwanError
from swancli.images import LEADS_OUT, LEADS_OUT_HINT, leads_out
from swancli.machine.progress import Progress, quiet
from swancli.model.encoder import Encoder
from swancli.scene_image.heat import HeatMap, heat_map, local_maxima
from swancli.scene_image.localization import PEAK, Indicators, indicators
from swancli.scene_image.raster import Raster, require_rasterio
from swancli.scene_image.tiles import TILE_SIZES, embedded_tiles, scene_boxes, tile_scores
from swancli.store.text import has_word, read_json


@dataclass(frozen=True)
class Annotation:
    """A caption and its true places in a scene.

    scene: path of its image file.
    caption: the sentence.
    regions: polygons, float64 (V, 2) each, x and y in pixels.
    """

    scene: Path
    caption: str
    regions: tuple[np.ndarray, ...]


@dataclass(frozen=True)
class Localization:
    """The indicators of annotated scenes.

    source: checkpoint and file of the annotations.
    annotations: the annotations.
    found: the indicators of each.
    """

    source: dict[str, str]
    annotations: tuple[Annotation, ...]
    found: tuple[Indicators, ...]

    def mean(self) -> dict[str, float]:
        """The mean of each indicator over the annotations."""
        records = [figures.record() for figures in self.found]
        return {name: math.fsum(record[name] for record in records) / len(records) for name in records[0]}

    def record(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        rows = [
            {"jpg_name": annotation.scene.name, "caption": annotation.caption, **figures.record()}
            for annotation, figures in zip(self.annotations, self.found, strict=True)
        ]
        scenes = len({annotation.scene for annotation in self.annotations})
        return {**self.source, "annotations": len(rows), "scenes": scenes, **self.mean(), "each": rows}


def read_annotations(
    path: str | PathLike[str], images: str | PathLike[str] | None = None
) -> list[Annotation]:
    """Reads a JSON list of `{"jpg_name", "caption", "points": [[[x, y], ...], ...]}`, polygons in pixels.

    Args:
        path: the file.
        images: the folder of the scenes; None for the folder of the file.

    Raises:
        SwanError: the file is absent or not such a list, or a scene is absent.
    """
    path, images = Path(path), Path(images) if images else None
    hint = 'give a JSON list of {"jpg_name", "caption", "points": [[[x, y], ...], ...]}'
    entries = read_json(path, hint)
    if not isinstance(entries, list) or not entries:
        raise SwanError(f"{path}: not a list of annotations, or an empty one", hint)
    annotations = []
    for number, entry in enumerate(entries, start=1):
        try:
            name, caption = entry["jpg_name"], entry["caption"]
            regions = tuple(map(_polygon, entry["points"]))
            if not (isinstance(name, str) and isinstance(caption, str) and regions):
                raise ValueError("a name, a caption and polygons of points are needed")
        except (KeyError, TypeError, ValueError) as error:
            raise SwanError(f"{path}: annotation {number} is not valid ({error!r})", hint) from error
        if not has_word(caption):
            raise SwanError(f"{path}: annotation {number} has no words in its caption {caption!r}")
        folder = images or path.parent
        scene = folder / name
        if "\0" in name or leads_out(scene, folder):
            raise SwanError(f"{path}: annotation {number}: {name!r} {LEADS_OUT}", LEADS_OUT_HINT)
        if not scene.is_file():
            problem = f"{path}: annotation {number}: no such scene {scene}"
            raise SwanError(problem, "give the folder of the scenes: --images DIR")
        annotations.append(Annotation(scene, caption, regions))
    return annotations


def _polygon(points: Any) -> np.ndarray:
    """float64 (V, 2); raises TypeError or ValueError if it is not a polygon."""
    region = np.array(points, np.float64)
    if region.ndim != 2 or region.shape[1] != 2 or not np.isfinite(region).all():
        raise ValueError("a point is not a pair of finite numbers")
    if len(np.unique(region, axis=0)) < 3:
        raise ValueError("a polygon has fewer than three points")
    return region


def evaluate_localization(
    encoder: Encoder,
    annotations: Sequence[Annotation],
    source: dict[str, str],
    *,
    sizes: Sequence[int] = (),
    progress: Progress = quiet,
) -> Localization:
    """The indicators of each annotation; the tiles of a scene are embedded once for all its captions.

    Args:
        encoder: what encodes tiles and captions.
        annotations: the captions and their true places.
        source: checkpoint and file of the annotations, as recorded in the result.
        sizes: of the tiles, in pixels; () for `TILE_SIZES`.
        progress: called with "scenes", the number done, and the number in all.

    Raises:
        SwanError: a scene is damaged, or no true region of a caption is inside it.
    """
    found: dict[int, Indicators] = {}
    scenes = list(dict.fromkeys(annotation.scene for annotation in annotations))
    progress("scenes", 0, len(scenes))
    for done, scene in enumerate(scenes, start=1):
        rows = [row for row, annotation in enumerate(annotations) if annotation.scene == scene]
        captions = [annotations[row].caption for row in rows]
        # One by one: in the published variant, captions of a batch influence each other (item 4).
        vectors = [encoder.captions([text]) for text in captions]
        with Raster(scene) as raster:
            frame = raster.frame
            boxes = scene_boxes(frame, sizes or TILE_SIZES)
            blocks = embedded_tiles(encoder, raster, boxes)
            kept, scores = tile_scores(blocks, np.concatenate(vectors), scene)
        for row, caption_scores in zip(rows, scores.T, strict=True):
            heat = heat_map(boxes[kept], caption_scores, frame.height, frame.width)
            found[row] = score_map(heat, annotations[row])
        progress("scenes", done, len(scenes))
    return Localization(source, tuple(annotations), tuple(found[row] for row in range(len(annotations))))


def score_map(heat: HeatMap, annotation: Annotation) -> Indicators:
    """The indicators of one map.

    Raises:
        SwanError: no true region contains a pixel of the scene.
    """
    closed = [[*region.tolist(), region[0].tolist()] for region in annotation.regions]
    polygons = [{"type": "Polygon", "coordinates": [ring]} for ring in closed]
    mask = require_rasterio().features.rasterize(polygons, out_shape=(heat.height, heat.width), dtype="uint8")
    if not mask.any():
        raise SwanError(
            f"{annotation.scene}: the places of {annotation.caption!r} are outside of it",
            "give points as x, y in pixels, from the upper left corner",
        )
    places, heights = local_maxima(heat.values)
    maxima = places[heights >= PEAK] * heat.cell
    return indicators(heat.at_pixels(), mask > 0, maxima, annotation.regions)
