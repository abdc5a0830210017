"""Train, validation and test splits: as given by the source, or drawn.

    swan prepare --dataset NAME --source SOURCE --split random --val-fraction 0.2 --seed 0

The paper draws whole images, 80 % of them for training; its stratified rule does so within each scene.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from swancli.errors import SwanError
from swancli.prepare.entries import Entry
from swancli.store.catalogue import Catalogue

RULES = ("given", "random", "stratified")
VAL_FRACTION = 0.2  # the paper's


def assign_splits(
    entries: Sequence[Entry], rule: str, val_fraction: float, generator: np.random.Generator
) -> list[Entry]:
    """The entries with their splits.

    `given` keeps the source's. `random` and `stratified` keep the source's test images and divide the other
    captioned ones; without test images they draw these first, in the same fraction. Images without captions
    are in no split unless the source gives one.

    Args:
        entries: all images of the source, in its order.
        rule: one of `RULES`.
        val_fraction: share of the divided images that validate, between 0 and 1.
        generator: draws the splits.

    Raises:
        SwanError: captioned images without a split under `given`, or too few images to divide.
    """
    captioned = [row for row, entry in enumerate(entries) if entry.captions]
    if rule == "given":
        without = [entries[row].filename for row in captioned if entries[row].split is None]
        if without:
            problem = f"{len(without)} of {len(captioned)} captioned images have no split, first {without[0]}"
            raise SwanError(problem, "draw the splits: --split random, or --split stratified by scene")
        return list(entries)
    if rule not in RULES:
        raise SwanError(f"--split {rule}: no such rule", "one of " + ", ".join(RULES))
    if not 0 < val_fraction < 1:
        raise SwanError(f"--val-fraction {val_fraction}: not between 0 and 1")
    scenes = [entry.scene if rule == "stratified" else None for entry in entries]
    test = np.array([row for row in captioned if entries[row].split == "test"], dtype=np.int64)
    rest = np.setdiff1d(np.array(captioned, dtype=np.int64), test)
    if not len(test):
        rest, test = divide_rows(rest, scenes, val_fraction, generator)
    train, val = divide_rows(rest, scenes, val_fraction, generator)
    splits: dict[int, str] = {}
    for name, rows in (("train", train), ("val", val), ("test", test)):
        if captioned and not len(rows):
            problem = f"--split {rule}: {len(captioned)} captioned images leave none for {name}"
            raise SwanError(problem, "give more images, or another --val-fraction")
        splits |= dict.fromkeys(rows.tolist(), name)
    return [replace(entry, split=splits.get(row)) for row, entry in enumerate(entries)]


@dataclass(frozen=True)
class Fold:
    """How one of several runs draws its training and validation images.

    Folds are independent draws, as in the published code, not parts of one partition: each takes 80 % of the
    images that are not test images for training and the rest for validation.

    number: from 1.
    of: the number of folds.
    rule: "random", or "stratified" to draw within each scene.
    seed: shared by all folds.
    """

    number: int
    of: int
    rule: str
    seed: int


def redrawn(catalogue: Catalogue, fold: Fold) -> Catalogue:
    """The catalogue with a fold's train and val; test images and images in no split stay as they are."""
    captioned = np.isin(np.arange(len(catalogue.filename)), catalogue.image)
    rows = np.flatnonzero(captioned & np.isin(catalogue.split.astype(str), ["train", "val"]))
    scenes = catalogue.scene if fold.rule == "stratified" else [None] * len(catalogue.scene)
    train, val = divide_rows(rows, scenes, VAL_FRACTION, np.random.default_rng([fold.seed, fold.number]))
    split = catalogue.split.copy()
    split[train], split[val] = "train", "val"
    return replace(catalogue, split=split)


def overlap(catalogue: Catalogue, marks: Sequence[object], split: str, of: str = "pixels") -> str:
    """A warning that images of a split are also training images, by name or mark; "" when none is.

    Args:
        catalogue: of the data set.
        marks: one per image, equal for equal pixels.
        split: that is compared with train.
        of: what equal marks have in common, for the warning.
    """
    training, own = (catalogue.image_rows(name) for name in ("train", split))
    if split == "train":
        return ""
    by_name = {catalogue.filename[row]: row for row in training}
    by_mark = {marks[row]: row for row in training}
    seen = [(row, by_name.get(catalogue.filename[row], by_mark.get(marks[row]))) for row in own]
    seen = [(row, twin) for row, twin in seen if twin is not None]
    if not seen:
        return ""
    first, twin = (catalogue.filename[row] for row in seen[0])
    return (
        f"{len(seen)} of {len(own)} images of {split} have the name or the {of} of a training image "
        f"(first {first}, as {twin}); recall on them says little about new images"
    )


def divide_rows(
    rows: np.ndarray, scenes: Sequence[str | None], fraction: float, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draws a part of each scene's rows; round((1 - fraction) n) of a scene's n rows are kept.

    Args:
        rows: int64 (n,), rows of images.
        scenes: by row; the same for all to draw regardless of scene.
        fraction: share to draw.
        generator: draws them.

    Returns:
        int64 rows kept and int64 rows drawn, both ascending.
    """
    kept = []
    for scene in sorted({scenes[row] for row in rows}, key=str):
        own = np.array([row for row in rows if scenes[row] == scene], dtype=np.int64)
        kept.append(generator.permutation(own)[: round((1 - fraction) * len(own))])
    chosen = np.sort(np.concatenate(kept)) if kept else rows
    return chosen, np.setdiff1d(rows, chosen)
