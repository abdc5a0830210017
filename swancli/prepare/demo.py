"""A generated data set: stylised overhead scenes whose captions tell them apart.

    swan prepare --dataset demo
    swan demo

Every image shows one to five things of one colour in one place of a scene, and a landmark opposite them.
Within a scene no two images share number, colour, place and landmark until every combination has been used.
How a scene is drawn is in `scenery`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
from PIL import Image

from swancli.prepare.scenery import (
    BALLOON,
    BARN,
    BOAT,
    CAR,
    COURT,
    HOUSE,
    PARASOL,
    PLANE,
    TANK,
    TENT,
    TRUCK,
    WAGON,
    Canvas,
    Colour,
    Draw,
    Layout,
    Shape,
    apron,
    asphalt,
    building,
    draw_object,
    dunes,
    fields,
    flowers,
    gardens,
    gravel,
    island,
    lawn,
    pond,
    river,
    road,
    rocks,
    rotation,
    sand,
    shade,
    tracks,
    trees,
    water,
    woods,
)

NUMBERS = {1: "one", 2: "two", 3: "three", 4: "four", 5: "five"}
COLOURS: dict[str, Colour] = {
    "red": (212, 30, 36),
    "yellow": (252, 216, 28),
    "blue": (28, 74, 226),
    "white": (248, 248, 246),
    "black": (26, 26, 30),
    "purple": (170, 52, 204),
}
PLACES = {
    "upper left": (-1, -1),
    "upper right": (1, -1),
    "lower left": (-1, 1),
    "lower right": (1, 1),
    "center": (0, 0),
}
LOOKS = tuple(product(NUMBERS, COLOURS, PLACES))
SPLIT_PATTERN = ("train", "test", "train", "val", "train", "train", "train")

SPREAD = 0.152  # from the middle of a group to its outer objects, along each axis
FORMATIONS = {
    1: ((0, 0),),
    2: ((-0.75, 0), (0.75, 0)),
    3: ((-0.8, 0.7), (0.8, 0.7), (0, -0.8)),
    4: ((-0.8, -0.8), (0.8, -0.8), (-0.8, 0.8), (0.8, 0.8)),
    5: ((-1, -1), (1, -1), (0, 0), (-1, 1), (1, 1)),
}


@dataclass(frozen=True)
class DemoImage:
    """One generated image. pixels: uint8 (size, size, 3), RGB; captions: five different sentences."""

    pixels: np.ndarray
    filename: str
    scene: str
    split: str
    captions: tuple[str, ...]


# ---------------------------------------------------------------------------------------------------------
# scenes

ON_LAND: dict[str, Draw] = {
    "a road": road,
    "a pond": pond,
    "a row of trees": trees,
    "a building": building,
}
IN_WOODS: dict[str, Draw] = {"a road": road, "a pond": pond, "a river": river, "a building": building}
ON_WATER: dict[str, Draw] = {
    "a bridge": road,
    "an island": island,
    "a row of rocks": rocks,
    "a platform": building,
}


@dataclass(frozen=True)
class Scene:
    """A kind of image: its words in captions, its ground, and the things that stand on it.

    aligned: the things stand square to the image rather than at any angle.
    """

    words: str
    thing: str
    shape: Shape
    ground: Colour
    draw_ground: Draw
    landmarks: dict[str, Draw]
    aligned: bool


SCENES = {
    "airport": Scene("airport", "plane", PLANE, (160, 162, 160), apron, ON_LAND, False),
    "harbor": Scene("harbor", "boat", BOAT, (52, 116, 132), water, ON_WATER, False),
    "parking": Scene("parking lot", "car", CAR, (118, 120, 124), asphalt, ON_LAND, True),
    "farmland": Scene("farm", "barn", BARN, (150, 164, 74), fields, ON_LAND, True),
    "forest": Scene("forest", "tent", TENT, (62, 92, 52), woods, IN_WOODS, False),
    "residential": Scene("residential area", "house", HOUSE, (138, 158, 104), gardens, ON_LAND, True),
    "sports": Scene("sports ground", "tennis court", COURT, (104, 150, 82), lawn, ON_LAND, True),
    "refinery": Scene("refinery", "tank", TANK, (172, 160, 146), gravel, ON_LAND, False),
    "beach": Scene("beach", "parasol", PARASOL, (226, 204, 152), sand, ON_LAND, False),
    "railway": Scene("railway station", "wagon", WAGON, (126, 112, 98), tracks, ON_LAND, True),
    "desert": Scene("desert", "truck", TRUCK, (206, 150, 94), dunes, ON_LAND, False),
    "meadow": Scene("meadow", "balloon", BALLOON, (140, 186, 88), flowers, ON_LAND, False),
}

# The first four captions of an image come from FULL, in random order, the last one from SHORT.
FULL = (
    "{things} {are} in the {place} of the {scene} next to {landmark}",
    "{a_scene} with {things} in the {place} and {landmark}",
    "there {are} {things} in the {place} of this {scene}",
    "{landmark} and {things} in the {place} of the {scene}",
    "in the {place} of {a_scene} {are} {things} near {landmark}",
)
SHORT = (
    "{things} near {landmark} in {a_scene}",
    "{a_scene} with {things} and {landmark}",
    "{things} {are} next to {landmark} in the {scene}",
)


# ---------------------------------------------------------------------------------------------------------
# images


def generate_demo(images: int = 1200, seed: int = 0, size: int = 128) -> Iterator[DemoImage]:
    """The demo data set, scene by scene in turn.

    An image depends on `seed`, on its index and on `size` alone, not on how many follow. About 70 % of each
    scene are for training, 15 % each for validation and test; from 48 images on every split has every scene.

    Args:
        images: how many. seed: gives other images. size: side of an image in pixels.
    """
    for index in range(images):
        ordinal, kind = divmod(index, len(SCENES))
        name = list(SCENES)[kind]
        number, colour, place, landmark = _choose_attributes(seed, kind, ordinal)
        rng = np.random.default_rng((seed, index))
        yield DemoImage(
            _draw_image(SCENES[name], number, colour, place, landmark, size, rng),
            f"{name}_{ordinal}.png",
            name,
            SPLIT_PATTERN[ordinal % len(SPLIT_PATTERN)],
            _write_captions(SCENES[name], number, colour, place, landmark, rng),
        )


def _choose_attributes(seed: int, kind: int, ordinal: int) -> tuple[int, str, str, str]:
    """Number, colour, place and landmark.

    Drawn without replacement: a look comes back only when all have been used, and then with another landmark.
    """
    rng = np.random.default_rng((seed, kind, len(LOOKS)))
    order = rng.permutation(len(LOOKS))
    landmarks = list(list(SCENES.values())[kind].landmarks)
    first_landmark = rng.integers(len(landmarks), size=len(LOOKS))
    turn, step = divmod(ordinal, len(LOOKS))
    look = order[step]
    return *LOOKS[look], landmarks[(first_landmark[look] + turn) % len(landmarks)]


def _lay_out(number: int, place: str, aligned: bool, rng: np.random.Generator) -> Layout:
    towards = np.array(PLACES[place])
    in_center = not towards.any()
    far = rng.choice((-1, 1), 2) if in_center else -towards
    turn = rng.integers(4) * np.pi / 2
    formation = np.array(FORMATIONS[number], float) @ rotation(
        turn + (0 if aligned else rng.uniform(-0.12, 0.12))
    )
    heading = rng.integers(4) * np.pi / 2 if aligned else rng.uniform(0, 2 * np.pi)
    middle = 0.5 + towards * 0.225 + rng.uniform(-0.015, 0.015, 2)
    landmark = 0.5 + far * (0.37 if in_center else 0.27) + rng.uniform(-0.015, 0.015, 2)
    return Layout(middle + formation * SPREAD, heading, far, landmark)


def _draw_image(
    scene: Scene, number: int, colour: str, place: str, landmark: str, size: int, rng: np.random.Generator
) -> np.ndarray:
    """uint8 (size, size, 3)."""
    layout = _lay_out(number, place, scene.aligned, rng)
    ground = shade(scene.ground, rng.uniform(0.94, 1.04))
    canvas = Canvas(size, ground, turn=rng.uniform(-0.06, 0.06))
    scene.draw_ground(canvas, rng, layout)
    scene.landmarks[landmark](canvas, rng, layout)
    for middle in layout.objects:
        heading = layout.heading + rng.uniform(-0.06, 0.06)
        draw_object(canvas, scene.shape, middle, heading, COLOURS[colour])
    return _as_photograph(canvas.pixels(), rng)


def _as_photograph(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Adds uneven light, grain and a change of brightness; the colours stay recognisable."""
    size = pixels.shape[0]
    coarse = Image.fromarray(rng.normal(0, 4, (12, 12)).astype(np.float32))
    light = np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC))
    grain = rng.standard_normal((size, size), np.float32) * 4
    shaded = pixels * rng.uniform(0.94, 1.05) + (light + grain)[..., None]
    return shaded.clip(0, 255).astype(np.uint8)


def _write_captions(
    scene: Scene, number: int, colour: str, place: str, landmark: str, rng: np.random.Generator
) -> tuple[str, ...]:
    """Five sentences: four with number, colour and place, one without the place."""
    words = {
        "things": f"{NUMBERS[number]} {colour} {scene.thing}{'s' if number > 1 else ''}",
        "are": "are" if number > 1 else "is",
        "place": place,
        "scene": scene.words,
        "a_scene": f"{'an' if scene.words[0] in 'aeiou' else 'a'} {scene.words}",
        "landmark": landmark,
    }
    chosen = [FULL[i] for i in rng.permutation(len(FULL))[:4]] + [SHORT[rng.integers(len(SHORT))]]
    return tuple(sentence.format(**words) for sentence in chosen)
