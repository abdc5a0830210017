"""How the demo's images are drawn: a ground, a landmark, and objects of one kind and colour.

Coordinates are in units of the image's side, x to the right and y down, from (0, 0) at the upper left.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from PIL import Image, ImageDraw

Colour = tuple[int, int, int]

SUPERSAMPLING = 3
OBJECT_RADIUS = 0.088


@dataclass(frozen=True)
class Layout:
    """Where things are drawn.

    objects: float (number, 2), centers of the objects.
    heading: of the objects, in radians.
    far: (2,), signs of the corner opposite them.
    landmark: float (2,), center of the landmark.
    """

    objects: np.ndarray
    heading: float
    far: np.ndarray
    landmark: np.ndarray


class Canvas:
    """A drawing surface of one colour, finer than the image by `SUPERSAMPLING`."""

    def __init__(self, size: int, ground: Colour) -> None:
        self.ground = ground
        self._side = size * SUPERSAMPLING
        self._image = Image.new("RGB", (self._side, self._side), ground)
        self._draw = ImageDraw.Draw(self._image)

    def polygon(self, points: np.ndarray, colour: Colour) -> None:
        self._draw.polygon((points * self._side).ravel().tolist(), colour)

    def line(self, points: np.ndarray, width: float, colour: Colour) -> None:
        self._draw.line((points * self._side).ravel().tolist(), colour, max(1, round(width * self._side)))

    def pixels(self) -> np.ndarray:
        """float32 (size, size, 3)."""
        return np.asarray(self._image.reduce(SUPERSAMPLING), np.float32)


Draw = Callable[[Canvas, np.random.Generator, Layout], None]


def rotation(angle: float) -> np.ndarray:
    cos, sin = np.cos(angle), np.sin(angle)
    return np.array([[cos, sin], [-sin, cos]])


def shade(colour: Colour, factor: float) -> Colour:
    """Darker for a factor below 1, towards white for one above."""
    if factor > 1:
        return tuple(round(255 - (255 - value) * (2 - factor)) for value in colour)
    return tuple(round(value * factor) for value in colour)


def _box(across: float, along: float) -> np.ndarray:
    return np.array([(-across, -along), (across, -along), (across, along), (-across, along)])


def _disc(radius: float, corners: int = 20) -> np.ndarray:
    angles = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    return np.column_stack((np.cos(angles), np.sin(angles))) * radius


def _mirrored(*right: tuple[float, float]) -> np.ndarray:
    """A symmetric outline from the points of its right side, downwards."""
    return np.array([*right, *((-x, y) for x, y in reversed(right))])


# ---------------------------------------------------------------------------------------------------------
# objects: polygons within about -1..1 that point up, each with the factor its colour is shaded by

Shape = Sequence[tuple[np.ndarray, float]]
DARK, LIGHT, LINE = 0.55, 1.3, 1.8
WING_AND_TAIL = ((1, 0.2), (1, 0.45), (0.22, 0.26), (0.18, 0.6), (0.5, 0.85), (0.5, 1))
SHAPES: dict[str, Shape] = {
    "plane": [(_mirrored((0, -1.1), (0.2, -0.8), (0.24, -0.32), *WING_AND_TAIL), 1)],
    "boat": [(_mirrored((0, -1.15), (0.42, -0.5), (0.45, 0.95)), 1), (_box(0.26, 0.4), DARK)],
    "car": [(_box(0.52, 1), 1), (_box(0.38, 0.45), DARK), (_box(0.38, 0.2), 1)],
    "barn": [(_box(0.72, 1), 1), (_box(0.1, 1), DARK)],
    "tent": [(_mirrored((0, -1), (0.75, -0.7), (0.75, 0.8)), 1), (_mirrored((0, 0.1), (0.3, 0.8)), DARK)],
    "house": [(_box(0.74, 0.74), 1), (_mirrored((0, 0), (0.74, 0.74)), 0.7)],
    "tennis court": [(_box(0.66, 1.05), 1), (_box(0.5, 0.87), LINE), (_box(0.41, 0.78), 1)],
    "tank": [(_disc(0.92), 1), (_disc(0.62), LIGHT), (_disc(0.52), 1)],
    "parasol": [(_disc(0.95, corners=8), 1), (_disc(0.95, corners=8)[[0, 1, 4, 5]], 0.75)],
    "wagon": [(_box(0.5, 1.1), 1), (_box(0.5, 0.6), DARK), (_box(0.5, 0.5), 1), (_box(0.5, 0.05), DARK)],
    "truck": [(_box(0.38, 0.95), 0.8), (_box(0.46, 0.4), 1)],
    "balloon": [(_disc(1), 1), (_disc(0.35) - 0.3, LIGHT)],
}


def _draw_object(canvas: Canvas, shape: Shape, center: np.ndarray, heading: float, colour: Colour) -> None:
    turn = rotation(heading) * OBJECT_RADIUS
    canvas.polygon(shape[0][0] @ turn + center + 0.018, shade(canvas.ground, 0.6))
    for points, factor in shape:
        if (sum(colour) < 150 and factor < 1) or (min(colour) > 200 and factor > 1):  # black and white
            factor = 2 - factor
        canvas.polygon(points @ turn + center, shade(colour, factor))


# ---------------------------------------------------------------------------------------------------------
# grounds


def stripes(
    canvas: Canvas, rng: np.random.Generator, layout: Layout, *, gap: float, width: float, factor: float
) -> None:
    """Parallel lines in the direction of the objects: furrows, bays, rails, dunes."""
    for offset in np.arange(-0.8, 0.8, gap):
        ends = np.array([(offset, -0.9), (offset, 0.9)]) @ rotation(layout.heading) + 0.5
        canvas.line(ends, width, shade(canvas.ground, factor))


def specks(
    canvas: Canvas, rng: np.random.Generator, layout: Layout, *, count: int, radius: float, factor: float
) -> None:
    """Round spots: treetops, flowers, waves, pebbles."""
    for center in rng.random((count, 2)):
        if np.linalg.norm(layout.objects - center, axis=1).min() > OBJECT_RADIUS + radius:
            canvas.polygon(_disc(radius) + center + radius / 4, shade(canvas.ground, 0.7))
            canvas.polygon(_disc(radius) + center, shade(canvas.ground, factor))


def shore(canvas: Canvas, rng: np.random.Generator, layout: Layout) -> None:
    """The sea, along one of the edges that are far from the objects."""
    away = layout.far * np.eye(2)[rng.integers(2)]
    canvas.polygon(_box(0.6, 0.6) + 0.5 + away, (48, 150, 176))


GROUNDS: dict[str, tuple[Colour, Draw]] = {
    "airport": ((160, 162, 160), partial(stripes, gap=0.16, width=0.01, factor=0.9)),
    "harbor": ((52, 116, 132), partial(specks, count=26, radius=0.012, factor=1.2)),
    "parking": ((118, 120, 124), partial(stripes, gap=0.13, width=0.012, factor=1.6)),
    "farmland": ((150, 164, 74), partial(stripes, gap=0.05, width=0.016, factor=0.86)),
    "forest": ((62, 92, 52), partial(specks, count=90, radius=0.05, factor=1.1)),
    "residential": ((138, 158, 104), partial(specks, count=14, radius=0.03, factor=0.7)),
    "sports": ((104, 150, 82), partial(stripes, gap=0.16, width=0.08, factor=0.93)),
    "refinery": ((172, 160, 146), partial(specks, count=60, radius=0.01, factor=0.8)),
    "beach": ((226, 204, 152), shore),
    "railway": ((126, 112, 98), partial(stripes, gap=0.076, width=0.015, factor=1.4)),
    "desert": ((206, 150, 94), partial(stripes, gap=0.11, width=0.03, factor=1.15)),
    "meadow": ((140, 186, 88), partial(specks, count=70, radius=0.009, factor=1.7)),
}


# ---------------------------------------------------------------------------------------------------------
# landmarks


def _across(rng: np.random.Generator, layout: Layout) -> np.ndarray:
    """(2, 2): ends of a line across the image, through the landmark's center."""
    ends = np.array([layout.landmark, layout.landmark])
    ends[:, rng.integers(2)] = -0.1, 1.1
    return ends


def way(canvas: Canvas, rng: np.random.Generator, layout: Layout, *, edge: Colour, middle: Colour) -> None:
    """A road, a bridge or a river."""
    ends = _across(rng, layout)
    canvas.line(ends, 0.16, edge)
    canvas.line(ends, 0.125, middle)


def pool(canvas: Canvas, rng: np.random.Generator, layout: Layout, *, edge: Colour, middle: Colour) -> None:
    """A pond or an island."""
    canvas.polygon(_disc(0.16) + layout.landmark, edge)
    canvas.polygon(_disc(0.13) + layout.landmark, middle)


def row(canvas: Canvas, rng: np.random.Generator, layout: Layout, *, colour: Colour) -> None:
    """Trees or rocks."""
    first, last = _across(rng, layout)
    for step in np.linspace(0.2, 0.8, 7):
        center = first + (last - first) * step
        canvas.polygon(_disc(0.06) + center + 0.015, shade(canvas.ground, 0.6))
        canvas.polygon(_disc(0.06) + center, colour)
        canvas.polygon(_disc(0.03) + center - 0.015, shade(colour, 1.15))


def building(canvas: Canvas, rng: np.random.Generator, layout: Layout) -> None:
    """A building or a platform."""
    roof = _box(*rng.permutation((0.16, 0.115)))
    canvas.polygon(roof + layout.landmark + 0.025, shade(canvas.ground, 0.58))
    canvas.polygon(roof + layout.landmark, (140, 92, 56))
    canvas.polygon(roof * 0.75 + layout.landmark, (160, 112, 76))


LANDMARKS: dict[str, Draw] = {
    "a road": partial(way, edge=(212, 206, 194), middle=(74, 76, 82)),
    "a bridge": partial(way, edge=(212, 206, 194), middle=(74, 76, 82)),
    "a river": partial(way, edge=(190, 178, 128), middle=(72, 168, 204)),
    "a pond": partial(pool, edge=(190, 178, 128), middle=(72, 168, 204)),
    "an island": partial(pool, edge=(226, 206, 150), middle=(116, 156, 78)),
    "a row of trees": partial(row, colour=(48, 108, 52)),
    "a row of rocks": partial(row, colour=(128, 122, 114)),
    "a building": building,
    "a platform": building,
}


def draw_scene(
    scene: str, landmark: str, thing: str, colour: Colour, layout: Layout, size: int, rng: np.random.Generator
) -> np.ndarray:
    """uint8 (size, size, 3), RGB, with grain and a change of brightness.

    scene, landmark and thing are keys of `GROUNDS`, `LANDMARKS` and `SHAPES`; colour is that of the things.
    """
    ground, draw_ground = GROUNDS[scene]
    canvas = Canvas(size, shade(ground, rng.uniform(0.94, 1.04)))
    draw_ground(canvas, rng, layout)
    LANDMARKS[landmark](canvas, rng, layout)
    for center in layout.objects:
        _draw_object(canvas, SHAPES[thing], center, layout.heading, colour)
    grain = rng.standard_normal((size, size, 1), np.float32) * 4
    return (canvas.pixels() * rng.uniform(0.94, 1.05) + grain).clip(0, 255).astype(np.uint8)
