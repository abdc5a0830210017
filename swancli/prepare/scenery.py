"""How the demo's scenes are drawn: a canvas, the things that stand on it, grounds and landmarks.

    generate_demo (demo.py) -> Layout -> a ground, a landmark, the objects -> pixels

Drawing takes place in units of the image's side, x to the right and y down, from (0, 0) at the upper left
to (1, 1) at the lower right.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

Colour = tuple[int, int, int]
Point = tuple[float, float] | np.ndarray
Points = Sequence[Point] | np.ndarray

SUPERSAMPLING = 3
OBJECT_RADIUS = 0.088


@dataclass(frozen=True)
class Layout:
    """What stands where.

    objects: float (number, 2), their middles. heading: radians, theirs. far: (2,), signs of the corner
    opposite them. landmark: (2,), its middle.
    """

    objects: np.ndarray
    heading: float
    far: np.ndarray
    landmark: np.ndarray


# ---------------------------------------------------------------------------------------------------------
# drawing


class Canvas:
    """A drawing surface in units of the image's side, slightly turned as a whole."""

    def __init__(self, size: int, ground: Colour, turn: float) -> None:
        self.ground = ground
        self._side = size * SUPERSAMPLING
        self._image = Image.new("RGB", (self._side, self._side), ground)
        self._draw = ImageDraw.Draw(self._image)
        self._rotation = rotation(turn)

    def _to_pixels(self, points: Points) -> np.ndarray:
        return ((np.asarray(points, float) - 0.5) @ self._rotation + 0.5) * self._side

    def polygon(self, points: Points, colour: Colour, edge: Colour | None = None) -> None:
        corners = self._to_pixels(points).ravel().tolist()
        self._draw.polygon(corners, colour, edge, SUPERSAMPLING if edge else 0)

    def line(self, points: Points, width: float, colour: Colour) -> None:
        corners = self._to_pixels(points).ravel().tolist()
        self._draw.line(corners, colour, max(1, round(width * self._side)), joint="curve")

    def disc(self, middle: Point, radius: float, colour: Colour) -> None:
        (x, y), r = self._to_pixels(middle), radius * self._side
        self._draw.ellipse((x - r, y - r, x + r, y + r), colour)

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


def _box(left: float, top: float, right: float, bottom: float) -> Points:
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def _oval(across: float, along: float, middle: Point = (0, 0), corners: int = 24) -> Points:
    angles = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    return np.column_stack((np.cos(angles) * across, np.sin(angles) * along)) + middle


def _mirrored(*right: tuple[float, float]) -> Points:
    """A symmetric outline from the points of its right side, downwards."""
    return [*right, *((-x, y) for x, y in reversed(right))]


def _wedges(corners: int) -> list[tuple[Points, str]]:
    """A round roof of alternately shaded wedges."""
    rim = [tuple(point) for point in _oval(1, 1, corners=corners)]
    return [([(0, 0), rim[i - 1], rim[i]], ("body", "light")[i % 2]) for i in range(corners)]


# Shapes look up (towards -y), within about -1..1; the first part is the outline, which casts the shadow.
Shape = Sequence[tuple[Points, str]]
FUSELAGE = ((0, -1.1), (0.2, -0.8), (0.24, -0.32))
WING_AND_TAIL = ((1, 0.2), (1, 0.45), (0.22, 0.26), (0.18, 0.6), (0.5, 0.85), (0.5, 1))
PLANE: Shape = (
    (_mirrored(*FUSELAGE, *WING_AND_TAIL), "body"),
    (_oval(0.1, 0.55, (0, 0.1)), "light"),
    (_oval(0.1, 0.12, (0, -0.75)), "glass"),
)
BOAT: Shape = (
    (_mirrored((0, -1.15), (0.32, -0.75), (0.48, -0.2), (0.45, 0.95)), "body"),
    (_mirrored((0, -0.8), (0.25, -0.3), (0.25, 0)), "light"),
    (_box(-0.26, 0.2, 0.26, 0.6), "dark"),
)
CAR: Shape = (
    (_mirrored((0.4, -1), (0.52, -0.8), (0.52, 0.85), (0.42, 1)), "body"),
    (_mirrored((0.4, -0.45), (0.32, -0.15)), "glass"),
    (_box(-0.34, 0.62, 0.34, 0.78), "glass"),
)
TRUCK: Shape = (
    (_box(-0.46, -0.4, 0.46, 0.95), "body"),
    (_box(-0.38, -0.95, 0.38, -0.5), "body"),
    (_box(-0.3, -0.88, 0.3, -0.73), "glass"),
    (_box(-0.46, 0.26, 0.46, 0.34), "dark"),
)
BARN: Shape = (
    (_box(-0.72, -1, 0.72, 1), "body"),
    (_box(0, -0.95, 0.67, 0.95), "dim"),
    (_box(-0.06, -1, 0.06, 1), "light"),
)
HOUSE: Shape = (
    (_box(-0.74, -0.74, 0.74, 0.74), "body"),
    ([(-0.7, 0.7), (0, 0), (0.7, 0.7)], "dim"),
    ([(0.7, -0.7), (0, 0), (0.7, 0.7)], "dim"),
    ([(-0.7, -0.7), (0, 0), (-0.7, 0.7)], "light"),
    (_box(0.25, -0.45, 0.45, -0.25), "dark"),
)
TENT: Shape = (
    (_mirrored((0, -1), (0.75, -0.8), (0.75, 0.8), (0, 1)), "body"),
    ([(0, -1), (0.7, -0.76), (0.7, 0.76), (0, 1)], "dim"),
    (_mirrored((0, 0.3), (0.25, 0.85), (0, 1)), "glass"),
)
COURT: Shape = (
    (_box(-0.66, -1.05, 0.66, 1.05), "body"),
    *((_box(x - 0.04, -0.85, x + 0.04, 0.85), "line") for x in (-0.46, 0.46)),
    *((_box(-0.46, y - 0.04, 0.46, y + 0.04), "line") for y in (-0.85, 0, 0.85)),
)
TANK: Shape = ((_oval(0.92, 0.92), "body"), (_oval(0.62, 0.62), "light"), (_oval(0.52, 0.52), "body"))
PARASOL: Shape = ((_oval(0.95, 0.95, corners=8), "body"), *_wedges(8), (_oval(0.12, 0.12), "dark"))
WAGON: Shape = (
    (_box(-0.5, -1.1, 0.5, 1.1), "body"),
    *((_box(-0.5, y - 0.05, 0.5, y + 0.05), "dark") for y in (-0.55, 0, 0.55)),
)
BALLOON: Shape = ((_oval(1, 1), "body"), (_oval(0.62, 1), "light"), (_oval(0.26, 1), "body"))


def draw_object(canvas: Canvas, shape: Shape, middle: np.ndarray, heading: float, colour: Colour) -> None:
    dark_object = sum(colour) < 150
    edge = shade(colour, 1.35 if dark_object else 0.55)
    paints = {
        "body": colour,
        "light": shade(colour, 1.12 if dark_object else 1.3),
        "dim": shade(colour, 1.08 if dark_object else 0.85),
        "dark": edge,
        "glass": (70, 90, 105),
        "line": (150, 150, 150) if min(colour) > 200 else (240, 240, 240),
    }
    turned = [np.asarray(points) @ rotation(heading) * OBJECT_RADIUS + middle for points, _ in shape]
    canvas.polygon(turned[0] + 0.018, shade(canvas.ground, 0.6))
    for points, (_, paint) in zip(turned, shape, strict=True):
        canvas.polygon(points, paints[paint], edge if paint == "body" else None)


def _tree(canvas: Canvas, rng: np.random.Generator, middle: np.ndarray, radius: float) -> None:
    green = (int(rng.integers(36, 62)), int(rng.integers(96, 122)), int(rng.integers(44, 60)))
    canvas.disc(middle + 0.25 * radius, radius, shade(canvas.ground, 0.62))
    canvas.disc(middle, radius, green)
    canvas.disc(middle - 0.3 * radius, radius * 0.5, shade(green, 1.18))


def _clear_points(rng: np.random.Generator, count: int, layout: Layout) -> np.ndarray:
    """Up to `count` points that keep away from the objects and the landmark."""
    points = rng.random((count, 2))
    taken = np.vstack((layout.objects, layout.landmark))
    distances = np.linalg.norm(points[:, None] - taken, axis=2)
    return points[(distances[:, :-1].min(axis=1) > 0.15) & (distances[:, -1] > 0.24)]


# ---------------------------------------------------------------------------------------------------------
# grounds: what lies under everything else


def _stripes(canvas: Canvas, colour: Colour, gap: float, width: float, angle: float) -> None:
    for offset in np.arange(-0.8, 0.8, gap):
        ends = np.array([(-0.9, offset), (0.9, offset)]) @ rotation(angle) + 0.5
        canvas.line(ends, width, colour)


def _far_edge(canvas: Canvas, layout: Layout, axis: int, width: float, colour: Colour) -> None:
    """A band along the edge that lies away from the objects."""
    inner, outer = 0.5 + layout.far[axis] * (0.5 - width), 0.5 + layout.far[axis] * 0.7
    band = np.array([(inner, -0.2), (outer, -0.2), (outer, 1.2), (inner, 1.2)])
    canvas.polygon(band[:, ::-1] if axis else band, colour)


def apron(canvas: Canvas, rng: np.random.Generator, layout: Layout) -> None:
    _far_edge(canvas, layout, int(rng.integers(2)), 0.07, (112, 142, 84))
    for angle in (0, np.pi / 2):
        _stripes(canvas, shade(canvas.ground, 0.92), 0.16, 0.008, angle)
    for x, y in layout.objects:
        canvas.line([(x, y), (x, y + (0.2 if y < 0.5 else -0.2))], 0.012, (222, 196, 96))


def water(canvas: Canvas, rng: np.random.Generator, layout: Layout) -> None:
    for x, y in rng.random((26, 2)):
        length = rng.uniform(0.03, 0.08)
        wave = [(x, y), (x + length / 2, y - 0.01), (x + length, y)]
        canvas.line(wave, 0.008, shade(canvas.ground, 1.15))
    axis = int(rng.integers(2))
    _far_edge(canvas, layout, axis, 0.08, shade((196, 184, 160), 0.75))
    _far_edge(canvas, layout, axis, 0.065, (196, 184, 160))


def asphalt(canvas: Canvas, rng: np.random.Generator, layout: Layout) -> None:
    across = rotation(layout.heading)
    for row in (-0.52, -0.2, 0.12, 0.44):
        for bay in np.arange(-0.7, 0.7, 0.12):
            line = np.array([(bay, row), (bay, row + 0.2)]) @ across + 0.5
            canvas.line(line, 0.011, (206, 208, 206))
    for point in _clear_points(rng, 6, layout):
        canvas.disc(point, 0.025, shade(canvas.ground, 0.85))


def fields(canvas: Canvas, rng: np.random.Generator, layout: Layout) -> None:
    crops = [(150, 164, 74), (122, 150, 70), (176, 158, 92), (104, 136, 66)]
    x, y = rng.uniform(0.35, 0.65, 2)
    corners = ((-0.2, -0.2, x, y), (x, -0.2, 1.2, y), (-0.2, y, x, 1.2), (x, y, 1.2, 1.2))
    for crop, (left, top, right, bottom) in zip(rng.permutation(4), corners, strict=True):
        colour = crops[crop]
        canvas.polygon(_box(left, top, right, bottom), colour)
        for row in np.arange(0.02, 1.4, 0.045):
            furrow = [(left, top + row), (right, top + row)]
            if crop % 2:
                furrow = [(left + row, top), (left + row, bottom)]
            if furrow[0][0] < right and furrow[0][1] < bottom:
                canvas.line(furrow, 0.014, shade(colour, 0.86))


def woods(canvas: Canvas, rng: np.random.Generator, layout: Layout) -> None:
    for point in rng.random((110, 2)) * 1.1 - 0.05:
        _tree(canvas, rng, point, rng.uniform(0.035, 0.06))
    for middle in layout.objects:
        canvas.disc(middle, OBJECT_RADIUS * 1.35, (126, 140, 84))


def gardens(canvas: Canvas, rng: np.random.Generator, layout: Layout) -> None:
    for x, y in layout.objects:
        canvas.polygon(_box(x - 0.12, y - 0.12, x + 0.12, y + 0.12), shade(canvas.ground, 1.12))
        canvas.line([(x, y), (x, y + 0.12)], 0.03, (206, 200, 188))
    for point in _clear_points(rng, 16, layout):
        _tree(canvas, rng, point, rng.uniform(0.022, 0.034))


def lawn(canvas: Canvas, rng: np.random.Generator, layout: Layout) -> None:
    _stripes(canvas, shade(canvas.ground, 0.93), 0.16, 0.08, layout.heading)
    for point in _clear_points(rng, 7, layout):
        _tree(canvas, rng, point, rng.uniform(0.022, 0.034))


def gravel(canvas: Canvas, rng: np.random.Generator, layout: Layout) -> None:
    for middle in layout.objects:
        pipe = [middle, (middle[0], layout.landmark[1]), layout.landmark]
        canvas.line(pipe, 0.03, (118, 116, 116))
        canvas.line(pipe, 0.014, (176, 178, 180))
        canvas.disc(middle, OBJECT_RADIUS * 1.25, shade(canvas.ground, 0.86))


def sand(canvas: Canvas, rng: np.random.Generator, layout: Layout) -> None:
    axis = int(rng.integers(2))
    for width, colour in ((0.15, (240, 240, 230)), (0.125, (92, 190, 196)), (0.09, (48, 150, 176))):
        _far_edge(canvas, layout, axis, width, colour)


def tracks(canvas: Canvas, rng: np.random.Generator, layout: Layout) -> None:
    along = np.array([(0, -1.2), (0, 1.2)]) @ rotation(layout.heading)
    for middle in layout.objects:
        canvas.line(along + middle, 0.075, (150, 138, 124))
    sleepers = np.arange(-1.2, 1.2, 0.05)[:, None] * (along[1] / 1.2)
    across = np.array([(-0.03, 0), (0.03, 0)]) @ rotation(layout.heading)
    for middle in layout.objects:
        for sleeper in sleepers:
            canvas.line(across + middle + sleeper, 0.014, (104, 84, 68))
        for rail in across * 0.7:
            canvas.line(along + middle + rail, 0.009, (206, 206, 208))


def dunes(canvas: Canvas, rng: np.random.Generator, layout: Layout) -> None:
    x = np.linspace(-0.2, 1.2, 15)
    for y in np.arange(-0.1, 1.2, 0.13) + rng.uniform(-0.03, 0.03):
        wave = 0.03 * np.sin(x * rng.uniform(5, 8) + rng.uniform(0, 6))
        canvas.line(np.column_stack((x, y + wave)), 0.02, shade(canvas.ground, 0.92))
        canvas.line(np.column_stack((x, y + wave - 0.018)), 0.014, shade(canvas.ground, 1.12))


def flowers(canvas: Canvas, rng: np.random.Generator, layout: Layout) -> None:
    for point in rng.random((70, 2)):
        canvas.disc(point, 0.007, (226, 232, 170))
    for point in _clear_points(rng, 5, layout):
        _tree(canvas, rng, point, rng.uniform(0.022, 0.03))


# ---------------------------------------------------------------------------------------------------------
# landmarks


def _strip(layout: Layout, rng: np.random.Generator) -> np.ndarray:
    """(2, 2): ends of a line across the image, past the landmark's middle."""
    axis = int(rng.integers(2))
    ends = np.array([(-0.2, layout.landmark[1]), (1.2, layout.landmark[1])])
    return ends if axis else np.array([(layout.landmark[0], -0.2), (layout.landmark[0], 1.2)])


def road(canvas: Canvas, rng: np.random.Generator, layout: Layout) -> None:
    ends = _strip(layout, rng)
    for width, colour in ((0.16, (212, 206, 194)), (0.135, (74, 76, 82))):
        canvas.line(ends, width, colour)
    for start in np.arange(0, 1, 0.1):
        dash = ends[0] + (ends[1] - ends[0]) * np.array([[start], [start + 0.05]])
        canvas.line(dash, 0.014, (244, 244, 240))


def river(canvas: Canvas, rng: np.random.Generator, layout: Layout) -> None:
    ends = _strip(layout, rng)
    way = np.linspace(0, 1, 24)[:, None]
    bends = ends[0] + (ends[1] - ends[0]) * way
    bends += 0.025 * np.sin(way * 14 + rng.uniform(0, 6)) * (ends[1] - ends[0])[::-1] / 1.4
    for width, colour in ((0.17, (186, 176, 128)), (0.135, (72, 168, 204))):
        canvas.line(bends, width, colour)


def _pool(canvas: Canvas, rng: np.random.Generator, layout: Layout, inside: Colour, rim: Colour) -> None:
    angles = np.linspace(0, 2 * np.pi, 28, endpoint=False)
    radius = 0.135 * (1 + 0.1 * np.sin(3 * angles + rng.uniform(0, 6)))
    shore = np.column_stack((np.cos(angles), np.sin(angles))) * radius[:, None]
    canvas.polygon(shore * 1.17 + layout.landmark, rim)
    canvas.polygon(shore + layout.landmark, inside)


def pond(canvas: Canvas, rng: np.random.Generator, layout: Layout) -> None:
    _pool(canvas, rng, layout, (72, 168, 204), (190, 178, 128))


def island(canvas: Canvas, rng: np.random.Generator, layout: Layout) -> None:
    _pool(canvas, rng, layout, (116, 156, 78), (226, 206, 150))


def _row_of(canvas: Canvas, rng: np.random.Generator, layout: Layout, draw: Callable[..., None]) -> None:
    ends = _strip(layout, rng)
    for step in np.linspace(0.2, 0.8, 7):
        draw(canvas, rng, ends[0] + (ends[1] - ends[0]) * step + rng.uniform(-0.01, 0.01, 2), 0.06)


def trees(canvas: Canvas, rng: np.random.Generator, layout: Layout) -> None:
    _row_of(canvas, rng, layout, _tree)


def _rock(canvas: Canvas, rng: np.random.Generator, middle: np.ndarray, radius: float) -> None:
    canvas.polygon(_oval(radius, radius, middle + 0.012, corners=6), shade(canvas.ground, 0.6))
    canvas.polygon(_oval(radius, radius, middle, corners=6), (128, 122, 114))
    canvas.polygon(_oval(radius / 2, radius / 2, middle - 0.012, corners=6), (164, 158, 148))


def rocks(canvas: Canvas, rng: np.random.Generator, layout: Layout) -> None:
    _row_of(canvas, rng, layout, _rock)


def building(canvas: Canvas, rng: np.random.Generator, layout: Layout) -> None:
    roof = (140, 92, 56)
    half = np.array((0.16, 0.115))[:: rng.choice((1, -1))]
    left, top, right, bottom = *(layout.landmark - half), *(layout.landmark + half)
    canvas.polygon(np.array(_box(left, top, right, bottom)) + 0.025, shade(canvas.ground, 0.58))
    canvas.polygon(_box(left, top, right, bottom), roof, shade(roof, 0.6))
    canvas.polygon(_box(left + 0.03, top + 0.03, right - 0.03, bottom - 0.03), shade(roof, 1.14))
    for x in (-0.05, 0.05):
        canvas.polygon(_oval(0.022, 0.022, layout.landmark + np.array((x, 0)), corners=4), (176, 170, 162))
