"""A scene made of real pictures whose places are known: ten questions, asked of the shipped checkpoint.

The pictures are from UCM's test split, which had no part in training, and the questions were chosen before
any answer was seen. What can be tuned, the sizes of tiles and how hits are cut out of the map, was tuned on
scenes made of the validation split.
"""

import json

import numpy as np
import pytest
from made_scenes import UTM, write_tiff
from PIL import Image

from swancli.model.encoder import Encoder
from swancli.query.questions import Question
from swancli.scene_image.annotations import Annotation, score_map
from swancli.scene_image.search import embed_scene, open_scene
from swancli.workspace import Workspace, shipped_checkpoint

ACROSS, SIDE = 14, 256  # pictures a row and a column; pixels of each
QUESTIONS = {
    "airplane": "an airplane parked at the airport",
    "baseballdiamond": "a baseball diamond",
    "beach": "waves on a sandy beach",
    "forest": "a dense forest of green trees",
    "freeway": "a freeway with some cars",
    "harbor": "many boats docked at a harbor",
    "parkinglot": "lots of cars parked neatly in a parking lot",
    "river": "a river with trees on both banks",
    "storagetanks": "some storage tanks on the ground",
    "tenniscourt": "two tennis courts beside a road",
}


def make_mosaic(source, split, seed=0):
    """uint8 (3, H, W) of different pictures of a split in random order, and the scene of each, (14, 14)."""
    entries = json.loads((source / "dataset.json").read_text())["images"]
    chosen = np.random.default_rng(seed).permutation([row for row in entries if row["split"] == split])
    rows = []
    for start in range(0, ACROSS**2, ACROSS):
        pictures = []
        for entry in chosen[start : start + ACROSS]:
            with Image.open(source / "images" / entry["filename"]) as picture:
                resized = picture.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR)
            pictures.append(np.asarray(resized))
        rows.append(np.concatenate(pictures, axis=1))
    scenes = np.array([entry["scene"] for entry in chosen[: ACROSS**2]]).reshape(ACROSS, ACROSS)
    return np.moveaxis(np.concatenate(rows), 2, 0), scenes


def places_of(scene, scenes):
    """The squares of a scene's pictures in the mosaic, as polygons in pixels."""
    square = SIDE * np.array([[0, 0], [1, 0], [1, 1], [0, 1]], float)
    return tuple(square + SIDE * place[::-1] for place in np.argwhere(scenes == scene))


def ask_mosaic(folder, source, split, seed=0):
    """For each question whether its best hit lies in a picture of its scene, and its map's indicators."""
    pixels, scenes = make_mosaic(source, split, seed)
    path = write_tiff(folder / "mosaic.tif", pixels, crs=UTM, transform=(0.3, 0, 500000, 0, -0.3, 4e6))
    embed_scene(Encoder("shipped", "cpu"), path, folder / "tiles.h5")
    hits, figures = [], []
    with open_scene(
        path, Workspace(folder), device="cpu", kept=folder / "tiles.h5", texts_only=True
    ) as searcher:
        for scene, question in QUESTIONS.items():
            answer = searcher.ask_words(Question((question,)), 1)
            left, top, right, bottom = answer.hits[0].box
            place = (top + bottom) // 2 // SIDE, (left + right) // 2 // SIDE
            hits.append(bool(scenes[place] == scene))
            figures.append(score_map(answer.heat, Annotation(path, question, places_of(scene, scenes))))
    return hits, figures


@pytest.mark.skipif(not shipped_checkpoint().exists(), reason="the shipped checkpoint is not at hand")
def test_best_hit_lies_in_a_picture_of_the_asked_scene_for_most_questions(real_data, tmp_path):
    """About one in 21 would, by chance."""
    pytest.importorskip("rasterio")
    source = real_data / "ucm"
    if not source.is_dir():
        pytest.skip("UCM is not at hand (shared/datasets/ucm)")
    hits, figures = ask_mosaic(tmp_path, source, "test")
    means = {name: np.mean([getattr(row, name) for row in figures]) for name in ("rsu", "ras", "rda", "rmi")}
    print(dict(zip(QUESTIONS, hits, strict=True)), means)
    assert sum(hits) >= 6
    # A map that is the same everywhere has an Rsu of 1 - exp(-0.707), 0.507.
    assert means["rsu"] > 0.6
