"""What `--not` does to the scenes among the ten best images, for several weights of the excluded text.

python tests/benchmarks/exclusions.py --checkpoint shipped --on rsicd/dataset.h5 --on ucm/dataset.h5

Each validation caption is searched for, and away from it a caption of the scene that is most often among the
ten best of its own scene's captions, drawn at random. Images and captions without a scene are left out.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from swancli.evaluate.scene_recall import scene_codes
from swancli.model.encoder import Encoder
from swancli.store.dataset import Dataset

WEIGHTS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7)
BEST = 10
HEADS = ("validation split", "weight", "of the excluded scene", "of the wanted scene")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--checkpoint", required=True, help="a path, a name, or `shipped`")
    parser.add_argument("--on", type=Path, action="append", required=True, help="a dataset.h5")
    options = parser.parse_args()
    encoder = Encoder(options.checkpoint)
    print(f"| {' | '.join(HEADS)} |\n|{'---|' * len(HEADS)}")
    for path in options.on:
        with Dataset(path) as dataset:
            rows = [row for row in dataset.catalogue.image_rows("val") if dataset.catalogue.scene[row]]
            part, _ = dataset.catalogue.select(np.array(rows))
            image, text = encoder.rows(dataset, rows), encoder.captions(part.text)
        of_image = scene_codes(part.scene)
        show(path.parent.name, image, text, of_image, of_image[part.image])


def show(name: str, image: np.ndarray, text: np.ndarray, of_image: np.ndarray, of_text: np.ndarray) -> None:
    """Prints one row per weight: shares of the ten best, in percent. Letters: N images, Q captions.

    Args:
        name: of the data set.
        image: float32 (N, D).
        text: float32 (Q, D).
        of_image: int64 (N,), scenes.
        of_text: int64 (Q,), scenes.
    """
    alone = scenes_of_best(image, text, of_image)
    count = of_image.max() + 1
    confused = np.array([np.bincount(alone[of_text == own].ravel(), minlength=count) for own in range(count)])
    np.fill_diagonal(confused, -1)
    excluded = confused.argmax(axis=1)[of_text]
    generator = np.random.default_rng(0)
    captions = [np.flatnonzero(of_text == scene) for scene in range(count)]
    away = text[[generator.choice(captions[scene]) for scene in excluded]]
    for weight in WEIGHTS:
        found = scenes_of_best(image, text - weight * away, of_image)
        shares = [100 * np.mean(found == scene[:, None]) for scene in (excluded, of_text)]
        print(f"| {name} | {weight} | {shares[0]:.1f} | {shares[1]:.1f} |", flush=True)


def scenes_of_best(image: np.ndarray, asked: np.ndarray, of_image: np.ndarray) -> np.ndarray:
    """int64 (Q, 10): the scenes of the images that fit best."""
    return of_image[np.argsort(-(asked @ image.T), axis=1, kind="stable")[:, :BEST]]


if __name__ == "__main__":
    main()
