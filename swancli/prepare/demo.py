"""A generated data set: stylised overhead scenes whose captions tell them apart.

    swan prepare --dataset demo
    swan demo

Every image shows one to five things of one colour in one place of a scene, and a landmark opposite them.
No two images of a scene share number, colour and place until every combination has been used.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np

from swancli.prepare.entries import Entry
from swancli.prepare.scenery import Colour, Layout, draw_scene, rotation

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

SPREAD = 0.152  # from the center of a group to its outer objects, along each axis
FORMATIONS = {
    1: ((0, 0),),
    2: ((-0.75, 0), (0.75, 0)),
    3: ((-0.8, 0.7), (0.8, 0.7), (0, -0.8)),
    4: ((-0.8, -0.8), (0.8, -0.8), (-0.8, 0.8), (0.8, 0.8)),
    5: ((-1, -1), (1, -1), (0, 0), (-1, 1), (1, 1)),
}


@dataclass(frozen=True)
class Scene:
    """A kind of image.

    words: its name in captions.
    thing: what is counted.
    landmarks: one of them is drawn opposite the things.
    """

    words: str
    thing: str
    landmarks: tuple[str, ...]


ON_LAND = ("a road", "a pond", "a row of trees", "a building")
SCENES = {
    "airport": Scene("airport", "plane", ON_LAND),
    "harbor": Scene("harbor", "boat", ("a bridge", "an island", "a row of rocks", "a platform")),
    "parking": Scene("parking lot", "car", ON_LAND),
    "farmland": Scene("farm", "barn", ON_LAND),
    "forest": Scene("forest", "tent", ("a road", "a pond", "a river", "a building")),
    "residential": Scene("residential area", "house", ON_LAND),
    "sports": Scene("sports ground", "tennis court", ON_LAND),
    "refinery": Scene("refinery", "tank", ON_LAND),
    "beach": Scene("beach", "parasol", ON_LAND),
    "railway": Scene("railway station", "wagon", ON_LAND),
    "desert": Scene("desert", "truck", ON_LAND),
    "meadow": Scene("meadow", "balloon", ON_LAND),
}

SENTENCES = (
    "{things} {are} in the {place} of the {scene} next to {landmark}",
    "{a_scene} with {things} in the {place} and {landmark}",
    "there {are} {things} in the {place} of this {scene}",
    "{landmark} and {things} in the {place} of the {scene}",
    "{things} near {landmark} in {a_scene}",
)


def generate_demo(images: int, seed: int, size: int) -> Iterator[tuple[Entry, np.ndarray]]:
    """The demo's images, scene by scene in turn, each with its pixels: uint8 (size, size, 3), RGB.

    An image depends on `seed`, on its index and on `size` alone, not on how many follow. About 70 % of each
    scene are for training, 15 % each for validation and test; from 48 images on every split has every scene.

    Args:
        images: number of them.
        seed: gives other images.
        size: side of an image in pixels.
    """
    for index in range(images):
        ordinal, kind = divmod(index, len(SCENES))
        name, scene = list(SCENES.items())[kind]
        looks = np.random.default_rng((seed, kind, len(LOOKS))).permutation(len(LOOKS))
        number, colour, place = LOOKS[looks[ordinal % len(LOOKS)]]
        rng = np.random.default_rng((seed, index))
        landmark = scene.landmarks[rng.integers(len(scene.landmarks))]
        layout = _lay_out(number, place, rng)
        pixels = draw_scene(name, landmark, scene.thing, COLOURS[colour], layout, size, rng)
        captions = _write_captions(scene, number, colour, place, landmark)
        split = SPLIT_PATTERN[ordinal % len(SPLIT_PATTERN)]
        yield Entry(f"{name}_{ordinal}.png", captions, split, name), pixels


def _lay_out(number: int, place: str, rng: np.random.Generator) -> Layout:
    towards = np.array(PLACES[place])
    in_center = not towards.any()
    far = rng.choice((-1, 1), 2) if in_center else -towards
    heading = rng.integers(4) * np.pi / 2 + rng.uniform(-0.1, 0.1)
    formation = np.array(FORMATIONS[number], float) @ rotation(heading) * SPREAD
    center = 0.5 + towards * 0.225 + rng.uniform(-0.015, 0.015, 2)
    landmark = 0.5 + far * (0.37 if in_center else 0.27) + rng.uniform(-0.015, 0.015, 2)
    return Layout(center + formation, heading, far, landmark)


def _write_captions(scene: Scene, number: int, colour: str, place: str, landmark: str) -> tuple[str, ...]:
    """Five sentences; the last one does not name the place."""
    words = {
        "things": f"{NUMBERS[number]} {colour} {scene.thing}{'s' if number > 1 else ''}",
        "are": "are" if number > 1 else "is",
        "place": place,
        "scene": scene.words,
        "a_scene": f"{'an' if scene.words[0] in 'aeiou' else 'a'} {scene.words}",
        "landmark": landmark,
    }
    return tuple(sentence.format(**words) for sentence in SENTENCES)
