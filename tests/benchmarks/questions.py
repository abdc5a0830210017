"""How well people's own words find UC Merced's images, and how far a checkpoint carries to another source.

python tests/benchmarks/questions.py --data FOLDER --checkpoint shipped

FOLDER holds `ucm/` and `nwpu12/`. `questions.csv` has four questions for each of UC Merced's 21 scenes, in
this order: the name of the scene, its plural, other words for it, a sentence. They were written with the
scenes that are right for each before any checkpoint was asked. Most of the names, plurals and other words
are also among the phrases that the shipped checkpoint was trained with (scene_phrases.json).
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import swancli

SHARED = Path(__file__).resolve().parents[3] / "shared" / "datasets"
QUESTIONS = Path(__file__).with_name("questions.csv")
KINDS = ("name", "plural", "other words", "sentence")
BEST = 10
PHRASES = json.loads(Path(__file__).with_name("scene_phrases.json").read_text())  # of each scene
KNOWN = {phrase for phrases in PHRASES.values() for phrase in phrases}
# Asked of all images of UC Merced, of which each scene has a hundred.
AMONG_ALL = {
    "a freeway": {"freeway"},
    "tennis courts": {"tenniscourt"},
    "a car park": {"parkinglot"},
    "seashore": {"beach"},
    "woodland": {"forest"},
}


def read_entries(folder: Path) -> list[dict]:
    """The images of a data set, as its JSON lists them."""
    [path] = folder.glob("dataset*.json")
    return json.loads(path.read_text())["images"]


def right_among_best(
    images: np.ndarray, scenes: Sequence[str], captions: np.ndarray, right: Sequence[set[str]]
) -> np.ndarray:
    """int64 (Q,): how many of the ten best images of each question have a scene that is right for it."""
    best = np.argsort(-(captions @ images.T), axis=1, kind="stable")[:, :BEST]
    return np.array([sum(scenes[row] in own for row in rows) for rows, own in zip(best, right, strict=True)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=SHARED)
    parser.add_argument("--checkpoint", default="shipped")
    parser.add_argument("--each", action="store_true", help="also print each question's count")
    arguments = parser.parse_args()
    encoder = swancli.Encoder(arguments.checkpoint)

    entries = read_entries(arguments.data / "ucm")
    images = encoder.images([arguments.data / "ucm" / "images" / entry["filename"] for entry in entries])
    scenes = np.array([entry["scene"] for entry in entries])
    test = np.array([entry["split"] == "test" for entry in entries])
    with QUESTIONS.open(newline="") as file:
        rows = list(csv.DictReader(file))
    right = [set(row["scenes"].split()) for row in rows]
    captions = encoder.captions([row["question"] for row in rows])
    found = right_among_best(images[test], scenes[test], captions, right)
    if arguments.each:
        for row, count in zip(rows, found, strict=True):
            print(f"{count:3}  {row['question']}")
    print(f"UC Merced, {len(rows)} questions to {test.sum()} test images, of the ten best are right:")
    print(f"  all: {found.mean() * 10:.1f} %")
    new = np.array([row["question"] not in KNOWN for row in rows])
    print(f"  the {new.sum()} that are not in scene_phrases.json: {found[new].mean() * 10:.1f} %")
    for place, kind in enumerate(KINDS):
        print(f"  {kind}: {found[place :: len(KINDS)].mean() * 10:.1f} %")
    counts = right_among_best(images, scenes, encoder.captions(list(AMONG_ALL)), list(AMONG_ALL.values()))
    print(f"of the ten best among all {len(images)} images:")
    for question, count in zip(AMONG_ALL, counts, strict=True):
        print(f"  {question}: {count}")

    entries = read_entries(arguments.data / "nwpu12")
    images = encoder.images([arguments.data / "nwpu12" / "images" / entry["filename"] for entry in entries])
    texts = [sentence["raw"] for entry in entries for sentence in entry["sentences"]]
    image_of = np.repeat(np.arange(len(entries)), [len(entry["sentences"]) for entry in entries])
    recalls = swancli.recall(images @ encoder.captions(texts).T, image_of)
    print(f"NWPU-Captions, {len(entries)} images of ten scenes:")
    print(recalls)


if __name__ == "__main__":
    main()
