"""The places of hits on the Earth, and the heat map and overlay of a scene as GeoTIFF and PNG files.

Places of a scene without a coordinate system are in its pixels: x to the right, y down from its upper left
corner.
"""

from __future__ import annotations

import itertools
import math
import textwrap
from collections.abc import Sequence
from os import PathLike
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from swancli.errors import SwanError, foreign_hint
from swancli.scene_image.heat import HeatMap
from swancli.scene_image.raster import Frame, require_rasterio
from swancli.store.atomic import atomic_path

WGS84 = "EPSG:4326"
ON_EARTH = "WGS84, longitude and latitude in degrees"
IN_PIXELS = "pixels of the scene: x to the right, y down from its upper left corner"
HEAT_COLOURS = np.array([(255, 235, 120), (255, 150, 30), (225, 30, 20)])  # of heat 0, 0.5 and 1
OPACITY = 0.65  # of the overlay where heat is 1; it falls with the square, so that the scene stays visible
OUTLINE, SHADOW = (255, 255, 255), (20, 20, 20)


def coordinates(frame: Frame) -> str:
    """The coordinates of an answer, in words."""
    return ON_EARTH if frame.crs else IN_PIXELS


def place_boxes(frame: Frame, boxes: np.ndarray) -> tuple[list[dict[str, Any]], list[tuple[float, float]]]:
    """The GeoJSON geometry and the centre (longitude and latitude, or x and y) of each box.

    Rings run counter-clockwise, x to the right and y up; a box across the antimeridian is cut in two there.

    Args:
        frame: where the scene lies.
        boxes: int (n, 4): left, top, right, bottom in pixels.

    Raises:
        SwanError: a box cannot be converted to WGS84.
    """
    corners = boxes[:, [0, 3, 2, 3, 2, 1, 0, 1, 0, 3]].reshape(-1, 5, 2).astype(np.float64)
    centres = boxes.reshape(-1, 2, 2).mean(axis=1)
    if not frame.crs:
        return [_geometry([ring]) for ring in corners], [tuple(centre) for centre in centres.tolist()]
    corners, centres = _to_wgs84(frame, corners), _to_wgs84(frame, centres)
    # Longitudes near that of the centre keep a ring in one piece across the antimeridian.
    corners[..., 0] -= 360 * np.round((corners[..., 0] - centres[:, None, 0]) / 360)
    polygons = [_geometry(_cut_at_antimeridian(ring)) for ring in corners]
    return polygons, [(_wrapped(longitude), latitude) for longitude, latitude in centres.tolist()]


def _to_wgs84(frame: Frame, xy: np.ndarray) -> np.ndarray:
    """Longitudes and latitudes float64 (..., 2) of pixel coordinates (..., 2)."""
    a, b, c, d, e, f = frame.transform
    x, y = a * xy[..., 0] + b * xy[..., 1] + c, d * xy[..., 0] + e * xy[..., 1] + f
    try:
        found = require_rasterio().warp.transform(frame.crs, WGS84, x.ravel(), y.ravel())
    except Exception as error:  # rasterio's own, and GDAL's, which have no public name
        raise _faulty_proj_error() or _no_place_error(str(error)) from error
    degrees = np.stack(found[:2], axis=-1).reshape(xy.shape)
    if not np.isfinite(degrees).all() or (np.abs(degrees) > (540, 90.000001)).any():
        raise _no_place_error("some of the scene's pixels are outside of it")
    return degrees


def _faulty_proj_error() -> SwanError | None:
    """The error to raise if PROJ, which knows the coordinate systems, cannot convert any; None if it can."""
    try:
        require_rasterio().warp.transform(WGS84, "EPSG:3857", [0.0], [0.0])
    except Exception as error:
        return SwanError(
            f"PROJ cannot convert coordinates ({textwrap.shorten(str(error), 100)})",
            foreign_hint("PROJ_LIB", "PROJ_DATA", "GDAL_DATA")
            or "install rasterio again: pip install --force-reinstall rasterio",
        )
    return None


def _no_place_error(reason: str) -> SwanError:
    return SwanError(
        f"the scene's coordinates cannot be converted to WGS84 ({textwrap.shorten(reason, 100)})",
        "correct its coordinate system, for example with gdal_edit -a_srs or gdalwarp -t_srs",
    )


def _wrapped(longitude: float) -> float:
    """The same longitude, from -180 to 180."""
    return longitude - 360 * math.floor((longitude + 180) / 360)


def _cut_at_antimeridian(ring: np.ndarray) -> list[np.ndarray]:
    """A closed convex ring (n, 2) of longitudes and latitudes as one ring, or as one on each side."""
    pieces = []
    for turn in (-360, 0, 360):
        moved = ring - (turn, 0)
        inside = _clipped(_clipped(moved, 1, 180), -1, 180)
        if len(inside):
            pieces.append(inside)
    return pieces


def _clipped(ring: np.ndarray, sign: int, limit: float) -> np.ndarray:
    """The part of a closed ring with sign * longitude <= limit; empty if that has no area."""
    kept = []
    for (x, y), (next_x, next_y) in itertools.pairwise(ring):
        if sign * x <= limit:
            kept.append((x, y))
        if (sign * x - limit) * (sign * next_x - limit) < 0:
            share = (sign * limit - x) / (next_x - x)
            kept.append((sign * limit, y + share * (next_y - y)))
    if len(kept) < 3 or np.ptp([x for x, _ in kept]) == 0:
        return np.zeros((0, 2))
    return np.array([*kept, kept[0]])


def _geometry(rings: Sequence[np.ndarray]) -> dict[str, Any]:
    """A GeoJSON polygon for each closed ring (n, 2), counter-clockwise as in RFC 7946."""
    outlines = []
    for ring in rings:
        x, y = (ring - ring[0]).T
        turned = np.sum(x[:-1] * y[1:] - x[1:] * y[:-1]) < 0
        outlines.append([(ring[::-1] if turned else ring).tolist()])
    if len(outlines) == 1:
        return {"type": "Polygon", "coordinates": outlines[0]}
    return {"type": "MultiPolygon", "coordinates": outlines}


# ---------------------------------------------------------------------------------------------------------
# files


def write_heat_map(path: str | PathLike[str], heat: HeatMap, frame: Frame, query: str) -> None:
    """Writes the map as a GeoTIFF of one float32 band in the scene's own coordinate system; NaN is no data.

    One pixel is one cell of the map, so it is coarser than the scene.
    """
    rasterio = require_rasterio()
    (a, b, c, d, e, f), (across, down) = frame.transform, heat.cell
    affine = rasterio.Affine(a * across, b * down, c, d * across, e * down, f)
    values = heat.values
    layout = {"height": values.shape[0], "width": values.shape[1], "count": 1, "dtype": "float32"}
    layout |= {"nodata": math.nan, "crs": frame.crs or None, "transform": affine, "compress": "deflate"}
    lowest, highest = heat.span
    # GDAL loses an error of its last write, which happens when it closes a file. So it writes into memory.
    with rasterio.MemoryFile() as memory:
        with memory.open(driver="GTiff", **layout) as file:
            file.write(values, 1)
            file.update_tags(query=query, score_at_0=lowest, score_at_1=highest)
        with atomic_path(path) as temporary:
            temporary.write_bytes(memory.getbuffer())


def write_overlay(path: str | PathLike[str], preview: np.ndarray, heat: HeatMap, boxes: np.ndarray) -> None:
    """Writes a PNG of the scene with the map over it, from yellow to red, and the ranked hits.

    Args:
        path: where it is written.
        preview: uint8 (h, w, 3), the whole scene, scaled down.
        heat: the map.
        boxes: int (n, 4), the hits in pixels of the scene, best first.
    """
    height, width = preview.shape[:2]
    warmth = Image.fromarray(np.nan_to_num(heat.values))
    reach = heat.width / heat.cell[0], heat.height / heat.cell[1]  # the last cells may reach beyond the scene
    warmth = np.asarray(warmth.resize((width, height), Image.Resampling.BILINEAR, box=(0, 0, *reach)))
    steps = np.linspace(0, 1, len(HEAT_COLOURS))
    colour = [np.interp(warmth, steps, channel).astype(np.float32) for channel in HEAT_COLOURS.T]
    opacity = OPACITY * warmth[..., None] ** 2
    mixed = preview * (1 - opacity) + np.stack(colour, axis=-1) * opacity
    picture = Image.fromarray(mixed.round().astype(np.uint8))
    draw = ImageDraw.Draw(picture)
    line = max(1, round(max(height, width) / 500))
    font = ImageFont.load_default(max(10, 12 * line))
    scale = np.array([width / heat.width, height / heat.height] * 2)
    placed = list(enumerate((boxes * scale).tolist(), start=1))[::-1]  # the best on top
    for _, (left, top, right, bottom) in placed:
        inner = (left, top, max(left, right - 1), max(top, bottom - 1))
        draw.rectangle(inner, outline=SHADOW, width=2 * line)
        draw.rectangle(inner, outline=OUTLINE, width=line)
    for rank, (left, top, *_) in placed:  # no frame cuts through a number
        place = left + 4 * line, top + 2 * line
        draw.text(place, str(rank), font=font, fill=OUTLINE, stroke_width=line, stroke_fill=SHADOW)
    with atomic_path(path) as temporary:
        picture.save(temporary, format="PNG", compress_level=3)  # two seconds faster, a little larger
