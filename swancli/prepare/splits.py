"""Which images train, which validate and which test: as the source says, or drawn.

    swan prepare --dataset NAME --source SOURCE --split random --val-fraction 0.2 --seed 0

The paper draws whole images, 80 % for training, and its stratified rule does so within each scene.
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
) -> list[str | None]:
    """The split of each entry.

    `given` keeps the source's. `random` and `stratified` keep the source's test images and divide the other
    captioned ones; where no test images are given, they draw that part first, of the same fraction. Images
    without captions are in no split unless the source gives one.

    Args:
        entries: all images of the source, in its order.
        rule: one of `RULES`.
        val_fraction: share of the images to divide that validate, between 0 and 1.

    Raises:
        SwanError: captioned images without a split under `given`, or too few images to divide.
    """
    if rule == "given":
        return _keep_given(entries)
    if rule not in RULES:
        raise SwanError(f"--split {rule}: no such rule", "one of " + ", ".join(RULES))
    if not 0 < val_fraction < 1:
        raise SwanError(f"--val-fraction {val_fraction}: not between 0 and 1")
    captioned = np.array([row for row, entry in enumerate(entries) if entry.captions], dtype=np.int64)
    if not len(captioned):
        return [None] * len(entries)
    scenes = [entry.scene if rule == "stratified" else None for entry in entries]
    test = np.array([row for row in captioned if entries[row].split == "test"], dtype=np.int64)
    rest = np.setdiff1d(captioned, test)
    if not len(test):
        rest, test = divide_rows(rest, scenes, val_fraction, generator)
    train, val = divide_rows(rest, scenes, val_fraction, generator)
    splits: list[str | None] = [None] * len(entries)
    for name, rows in (("train", train), ("val", val), ("test", test)):
        if not len(rows):
            problem = f"--split {rule}: {len(captioned)} captioned images leave none for {name}"
            raise SwanError(problem, "give more images, or another --val-fraction")
        for row in rows:
            splits[row] = name
    return splits


@dataclass(frozen=True)
class Fold:
    """One of several training runs that differ in which images validate.

    Folds are independent draws, as in the published code, not parts of one partition: each takes 80 % of the
    images that are not for testing to train on, and the rest to validate. number: from 1. of: how many folds.
    rule: "random", or "stratified" to draw within each scene. seed: of all the folds.
    """

    number: int
    of: int
    rule: str
    seed: int


def redrawn(catalogue: Catalogue, fold: Fold) -> Catalogue:
    """The catalogue with train and val as a fold draws them; test images and those without a split stay."""
    captioned = np.isin(np.arange(len(catalogue.filename)), catalogue.image)
    rows = np.flatnonzero(captioned & np.isin(catalogue.split.astype(str), ["train", "val"]))
    scenes = catalogue.scene if fold.rule == "stratified" else [None] * len(catalogue.scene)
    train, val = divide_rows(rows, scenes, VAL_FRACTION, np.random.default_rng([fold.seed, fold.number]))
    split = catalogue.split.copy()
    split[train], split[val] = "train", "val"
    return replace(catalogue, split=split)


def overlap(catalogue: Catalogue, marks: Sequence[object], split: str, of: str = "pixels") -> str:
    """In words, how many images of a split are training images too, by name or by mark; "" when none is.

    Args:
        marks: of each image, equal for equal pixels. of: what is equal when marks are.
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
        f"(first {first}, as {twin}); recall on them says little of new images"
    )


def divide_rows(
    rows: np.ndarray, scenes: Sequence[str | None], fraction: float, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draws a part of each scene's rows; round((1 - fraction) n) of a scene's n rows are kept.

    Args:
        rows: int64 (n,), rows of images. scenes: by row; the same for all to draw regardless of scene.
        fraction: share to draw.

    Returns:
        int64 rows kept and int64 rows drawn, both ascending.
    """
    kept = []
    for scene in sorted({scenes[row] for row in rows}, key=str):
        own = np.array([row for row in rows if scenes[row] == scene], dtype=np.int64)
        kept.append(generator.permutation(own)[: round((1 - fraction) * len(own))])
    chosen = np.sort(np.concatenate(kept)) if kept else rows
    return chosen, np.setdiff1d(rows, chosen)


def _keep_given(entries: Sequence[Entry]) -> list[str | None]:
    captioned = [entry for entry in entries if entry.captions]
    without = [entry.filename for entry in captioned if entry.split is None]
    if without:
        problem = f"{len(without)} of {len(captioned)} captioned images have no split, first {without[0]}"
        raise SwanError(problem, "draw the splits: --split random, or --split stratified by scene")
    return [entry.split for entry in entries]
