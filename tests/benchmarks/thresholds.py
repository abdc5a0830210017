"""How often `--threshold auto` is wrong, in searches of few and of many images.

python tests/benchmarks/thresholds.py --checkpoint FILE --on rsicd/dataset.h5 --among ucm/dataset.h5

The threshold is set on the validation split of `--on`, or on a part of its images, and tested with other
captions: those of the other images, and those of each data set of `--among`, its test split first. Where
questions.csv is about all scenes of that data set, its questions are asked too.

Each caption is searched for twice, among n images drawn at random: among images of other scenes, which do not
show it, and among any images with its own. For a question, its own is an image of one of its scenes. If there
are fewer than n images of other scenes, all of them are searched.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from swancli.evaluate.match_threshold import MatchThreshold, match_threshold
from swancli.model.encoder import Encoder
from swancli.store.dataset import Dataset

QUESTIONS = Path(__file__).with_name("questions.csv")
AMONG = (50, 100, 200, 500, 1000)  # images, and all of them
PARTS = {2: "half", 8: "an eighth"}  # of the validation images
SEEDS = range(4)  # of the parts
DRAWS = 8  # of images, for each number of them
HEADS = ("set on", "searched for", "among", "threshold", "found, though absent", "not found, though there")


@dataclass(frozen=True)
class Searches:
    """Images, and texts to search for among them. Letters in shapes: N images, Q texts, D embedding.

    image: float32 (N, D).
    scene: object (N,) of str or None.
    text: float32 (Q, D).
    own: int64 (Q,), the image of each text; -1 for any of a right scene.
    scenes: the scenes that are right for each text; none for a text to leave out.
    """

    image: np.ndarray
    scene: np.ndarray
    text: np.ndarray
    own: np.ndarray
    scenes: list[frozenset[str]]

    def of_images(self, kept: np.ndarray) -> Searches:
        """Only some images, bool (N,), and the captions of these."""
        place = np.full(len(kept), -1)
        place[kept] = np.arange(kept.sum())
        texts = np.flatnonzero(kept[self.own])
        scenes = [self.scenes[text] for text in texts]
        return Searches(self.image[kept], self.scene[kept], self.text[texts], place[self.own[texts]], scenes)

    def threshold(self) -> MatchThreshold:
        """The threshold that is set on its captions."""
        found = match_threshold(self.image, self.text, self.own, self.scene)
        if not found:
            raise SystemExit("too few images of different scenes")
        return found

    def numbers(self) -> list[int]:
        """The numbers of images to search."""
        return [number for number in AMONG if number < len(self.image)] + [len(self.image)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--checkpoint", required=True, help="a path, a name, or `shipped`")
    parser.add_argument("--on", type=Path, required=True, help="a dataset.h5 with a validation split")
    parser.add_argument("--among", type=Path, action="append", default=[], help="another dataset.h5")
    options = parser.parse_args()
    encoder = Encoder(options.checkpoint)
    print(f"| {' | '.join(HEADS)} |\n|{'---|' * len(HEADS)}")
    validation = searches(encoder, options.on, "val")
    for parts, share in PARTS.items():
        show(f"{share} of its images", "captions of the others", list(parted(validation, parts)))
    least = validation.threshold()
    for path in options.among:
        for split in ("test", None) if has_test_images(path) else (None,):
            asked = searches(encoder, path, split)
            name = f"{path.parent.name} {split or 'all'}"
            show("all of its images", f"captions of {name}", [(least, asked)])
            if questions := free_words(encoder, asked):
                show("all of its images", f"questions about {name}", [(least, questions)])


def has_test_images(path: Path) -> bool:
    """Whether a data set has a test split."""
    with Dataset(path) as dataset:
        return "test" in dataset.catalogue.split


def searches(encoder: Encoder, path: Path, split: str | None) -> Searches:
    """The images and captions of a split, or of a whole data set."""
    with Dataset(path) as dataset:
        rows = dataset.catalogue.image_rows(split)
        part, _ = dataset.catalogue.select(rows)
        image, text = encoder.rows(dataset, rows), encoder.captions(part.text)
    scenes = [frozenset(filter(None, [part.scene[own]])) for own in part.image]
    return Searches(image, part.scene, text, part.image, scenes)


def free_words(encoder: Encoder, about: Searches) -> Searches | None:
    """The questions in free words, if they are about all scenes of some images."""
    rows = list(csv.DictReader(QUESTIONS.open()))
    scenes = [frozenset(row["scenes"].split()) for row in rows]
    if frozenset().union(*scenes) != set(about.scene):
        return None
    text = encoder.captions([row["question"] for row in rows])
    return replace(about, text=text, own=np.full(len(rows), -1), scenes=scenes)


def parted(whole: Searches, parts: int) -> Iterator[tuple[MatchThreshold, Searches]]:
    """For each seed the threshold of a part of the images, and the others with their captions."""
    for seed in SEEDS:
        order = np.random.default_rng(seed).permutation(len(whole.image))
        chosen = np.isin(np.arange(len(order)), order[: len(order) // parts])
        yield whole.of_images(chosen).threshold(), whole.of_images(~chosen)


def show(set_on: str, searched_for: str, tested: list[tuple[MatchThreshold, Searches]]) -> None:
    """Prints one row per number of images: the means of some thresholds and what they are tested on.

    Behind each error, in parentheses: if the threshold for the images it was set on were used for any number.
    """
    for number in tested[0][1].numbers():
        scores = [best_scores(asked, number) for _, asked in tested]
        own = [match.among(number) for match, _ in tested]
        fixed = [match.among(match.images) for match, _ in tested]
        cells = [set_on, searched_for, f"{number:,}", f"{np.mean(own):.3f}"]
        for error in (false_alarm, miss):
            percent = [
                100 * np.mean([error(*found, least) for found, least in zip(scores, thresholds, strict=True)])
                for thresholds in (own, fixed)
            ]
            cells.append("{:.1f} ({:.1f})".format(*percent))
        print(f"| {' | '.join(cells)} |", flush=True)


def false_alarm(absent: np.ndarray, there: np.ndarray, least: float) -> float:
    """The share of searches that find what is absent."""
    return float(np.mean(absent >= least))


def miss(absent: np.ndarray, there: np.ndarray, least: float) -> float:
    """The share of searches that do not find what is there."""
    return float(np.mean(there < least))


def best_scores(asked: Searches, number: int) -> tuple[np.ndarray, np.ndarray]:
    """float32, for each draw and text: the best score where the text is absent, and where it is there."""
    generator, absent, there = np.random.default_rng(0), [], []
    known = np.array([scene is not None for scene in asked.scene])
    for _ in range(DRAWS if number < len(asked.image) else 1):
        order = generator.permutation(len(asked.image))
        for scenes in sorted(set(filter(None, asked.scenes)), key=sorted):
            texts = [text for text, right in enumerate(asked.scenes) if right == scenes]
            right = np.isin(asked.scene.astype(str), list(scenes))
            scores = asked.text[texts] @ asked.image[order].T
            absent.append(scores[:, (known & ~right)[order]][:, :number].max(axis=1))
            own = generator.choice(np.flatnonzero(right), len(texts))
            own = np.where(asked.own[texts] < 0, own, asked.own[texts])
            beside = scores[:, : number - 1].max(axis=1)
            there.append(np.maximum(beside, (asked.text[texts] * asked.image[own]).sum(axis=1)))
    return np.concatenate(absent), np.concatenate(there)


if __name__ == "__main__":
    main()
