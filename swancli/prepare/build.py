"""The first step: a source of images and captions, checked, becomes `dataset.h5`.

swan prepare --dataset ucm --source ../shared/datasets/ucm
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from swancli.errors import ImageError, SwanError
from swancli.images import (
    LEADS_OUT,
    LEADS_OUT_MEND,
    decode_image,
    image_size,
    leads_out,
    pixel_digest,
    read_inside,
    resize_image,
)
from swancli.machine.progress import Progress, quiet
from swancli.machine.threads import in_order
from swancli.prepare.demo import generate_demo
from swancli.prepare.entries import Entry
from swancli.prepare.misplaced import misplaced_captions
from swancli.prepare.sources import Source, read_source
from swancli.prepare.splits import assign_splits, overlap
from swancli.store.catalogue import SPLITS, Catalogue
from swancli.store.dataset import create_dataset

DEMO = "demo"
DEMO_IMAGES, DEMO_SIZE = 1200, 128
COMMON_SHARE = 0.9  # of the images that are of one size, from which on the others are resized to it
ABSENT = "absent"
OR_SKIP = "; or leave them out, --missing skip"


@dataclass(frozen=True)
class PrepareSettings:
    """Settings of `swan prepare`.

    source: file or folder; None only for the data set `demo`, which is generated. images: folder of the
    images; None looks beside the source. format: one of `sources.FORMATS`; None recognises it. size: side in
    pixels to resize all images to; None keeps them as most are. missing: "error" or "skip", for absent and
    unreadable images. split: one of `splits.RULES`. workers: decoding threads.
    """

    name: str
    source: Path | None = None
    images: Path | None = None
    format: str | None = None
    size: int | None = None
    missing: str = "error"
    split: str = "given"
    val_fraction: float = 0.2
    seed: int = 0
    workers: int = 1


@dataclass(frozen=True)
class SplitCount:
    """What one split holds; split None is of the images in no split. scenes: number of different ones."""

    split: str | None
    images: int
    captions: int
    scenes: int


@dataclass(frozen=True)
class Skipped:
    """Images left out for one reason. pattern: their names, with `<number>`; first: the first of them."""

    reason: str
    pattern: str
    count: int
    first: str


@dataclass(frozen=True)
class Summary:
    """What `prepare` wrote.

    shape: (height, width) of all images; None when they are stored as they were. warnings: what makes figures
    of it doubtful.
    """

    splits: list[SplitCount]
    skipped: list[Skipped]
    shape: tuple[int, int] | None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Listed:
    """One image to read. path: its file."""

    entry: Entry
    split: str | None
    path: Path


@dataclass(frozen=True)
class Row:
    """One image to write. image: uint8 (H, W, 3) pixels, or its original bytes; digest: of its pixels."""

    entry: Entry
    split: str | None
    image: np.ndarray | bytes
    digest: str


def prepare_dataset(settings: PrepareSettings, output: Path, progress: Progress = quiet) -> Summary:
    """Reads a source, or generates the demo, and writes `dataset.h5`.

    Args:
        output: path of the file; it appears there only when it is whole.
        progress: called with a phase, how much of it is done, and how much there is.

    Raises:
        SwanError: something in the source or the settings is wrong, or images are missing.
    """
    if settings.source is None:
        return _prepare_without_source(settings, output, progress)
    if settings.size is not None and settings.size < 1:
        raise SwanError(
            f"--size {settings.size}: not a number of pixels", "leave it out to keep sizes as they are"
        )
    source = read_source(settings.source, settings.format, settings.images)
    # Drawn before images are left out, so that the same seed gives the same split on a partial download.
    splits = assign_splits(
        source.entries, settings.split, settings.val_fraction, np.random.default_rng(settings.seed)
    )
    listed, skipped = _find_files(source, splits, settings.missing, progress)
    shape = _choose_shape(listed, settings, progress)
    rows = _read_rows(listed, source.images, shape, settings, skipped, progress)
    summary = write_dataset(output, settings.name, shape, rows, skipped)
    misplaced = misplaced_captions(source.entries)
    if not misplaced:
        return summary
    warning = f"{settings.source}: {misplaced}: is a list off by some rows?"
    return replace(summary, warnings=(warning, *summary.warnings))


def _prepare_without_source(settings: PrepareSettings, output: Path, progress: Progress) -> Summary:
    if settings.name != DEMO:
        raise SwanError(
            f"--dataset {settings.name}: no source given", f"add --source PATH, or use --dataset {DEMO}"
        )
    if settings.split != "given":
        raise SwanError(
            f"--split {settings.split}: the {DEMO} data set brings its own splits", "leave it out"
        )
    return prepare_demo(output, DEMO_IMAGES, settings.seed, progress, settings.size or DEMO_SIZE)


def prepare_demo(
    output: Path, images: int, seed: int = 0, progress: Progress = quiet, size: int = DEMO_SIZE
) -> Summary:
    """Generates the demo data set and writes its `dataset.h5`.

    Args:
        images: how many. size: side of each in pixels. output, progress: see `prepare_dataset`.
    """
    rows = _generate_rows(images, seed, size, progress)
    return write_dataset(output, DEMO, (size, size), rows)


def _generate_rows(images: int, seed: int, size: int, progress: Progress) -> Iterator[Row]:
    for done, (entry, pixels) in enumerate(generate_demo(images, seed, size), start=1):
        yield Row(entry, entry.split, pixels, pixel_digest(pixels))
        progress("drawing images", done, images)


# ---------------------------------------------------------------------------------------------------------
# what is left out


def _find_files(
    source: Source, splits: Sequence[str | None], missing: str, progress: Progress
) -> tuple[list[Listed], list[tuple[str, str]]]:
    """The entries whose image file is there, and (file name, reason) of the others."""
    listed, absent, outside = [], [], []
    for done, (entry, split) in enumerate(zip(source.entries, splits, strict=True), start=1):
        path = source.image_path(entry)
        if not path.is_file():
            absent.append((entry.filename, ABSENT))
        elif leads_out(path, source.images):
            outside.append((entry.filename, LEADS_OUT))
        else:
            listed.append(Listed(entry, split, path))
        progress("looking for images", done, len(source.entries))
    if absent and (missing == "error" or not listed):
        folder = "" if source.images.is_dir() else " (no such folder)"
        problem = f"{source.images}{folder}: {len(absent)} of {len(source.entries)} images are missing"
        mend = "say where they are, --images DIR" + (", or leave them out, --missing skip" if listed else "")
        raise SwanError(f"{problem}: {_describe(absent)}", mend)
    if outside and (missing == "error" or not listed):
        problem = f"{source.images}: {len(outside)} of {len(source.entries)} images lie outside of it"
        mend = LEADS_OUT_MEND + (OR_SKIP if listed else "")
        raise SwanError(
            f"{problem}, by links or by name: {_describe(outside)}",
            LEADS_OUT_MEND + (OR_SKIP if listed else ""),
        )
    return listed, absent + outside


def _describe(skipped: Sequence[tuple[str, str]]) -> str:
    groups = group_skipped(skipped)
    named = [f"{group.count} {group.pattern} (first {group.first})" for group in groups[:3]]
    return ", ".join(named) + (f" and {len(groups) - 3} more kinds of name" if len(groups) > 3 else "")


def group_skipped(skipped: Sequence[tuple[str, str]]) -> list[Skipped]:
    """Groups (file name, reason) pairs by reason and pattern of the file name, the largest group first."""
    counts: Counter[tuple[str, str]] = Counter()
    first: dict[tuple[str, str], str] = {}
    for filename, reason in skipped:
        key = (reason, re.sub(r"\d+", "<number>", filename))
        counts[key] += 1
        first.setdefault(key, filename)
    return [Skipped(*key, count, first[key]) for key, count in counts.most_common()]


# ---------------------------------------------------------------------------------------------------------
# reading images


def _choose_shape(
    listed: list[Listed], settings: PrepareSettings, progress: Progress
) -> tuple[int, int] | None:
    """(height, width) to store all images at, or None to store them as they are."""
    if settings.size is not None:
        return settings.size, settings.size
    sizes: Counter[tuple[int, int]] = Counter()
    paths = (image.path for image in listed)
    for done, size in enumerate(in_order(_size_or_none, paths, settings.workers), start=1):
        if size:
            sizes[size] += 1
        progress("reading image sizes", done, len(listed))
    if not sizes:
        return None
    shape, count = sizes.most_common(1)[0]
    return shape if count >= COMMON_SHARE * sizes.total() else None


def _size_or_none(path: Path) -> tuple[int, int] | None:
    try:
        return image_size(path)
    except ImageError:
        return None  # told when it is decoded


def _read_rows(
    listed: list[Listed],
    folder: Path,
    shape: tuple[int, int] | None,
    settings: PrepareSettings,
    skipped: list[tuple[str, str]],
    progress: Progress,
) -> Iterator[Row]:
    """The images that can be read; the others are added to `skipped`, or raise."""
    loaded = in_order(partial(_load, folder=folder, shape=shape), listed, settings.workers)
    for done, (image, row) in enumerate(zip(listed, loaded, strict=True), start=1):
        if isinstance(row, Row):
            yield row
        elif settings.missing == "skip":
            reason = row.problem.removeprefix(f"{image.path}: ").partition(" (")[0]
            skipped.append((image.entry.filename, reason))
        else:
            mend = "leave unreadable images out: --missing skip"
            raise SwanError(row.problem, f"{row.mend}; or {mend}" if row.mend else mend)
        progress("reading images", done, len(listed))


def _load(image: Listed, folder: Path, shape: tuple[int, int] | None) -> Row | ImageError:
    """An image as it is stored, with the hash of its pixels; or why it cannot be read."""
    try:
        data = read_inside(image.path, folder)
        pixels = decode_image(data, str(image.path))
    except ImageError as error:
        return error
    if shape:
        pixels = resize_image(pixels, *shape)
    return Row(image.entry, image.split, pixels if shape else data, pixel_digest(pixels))


# ---------------------------------------------------------------------------------------------------------
# writing


def write_dataset(
    output: Path,
    name: str,
    shape: tuple[int, int] | None,
    rows: Iterable[Row],
    skipped: Sequence[tuple[str, str]] = (),
) -> Summary:
    """Writes a `dataset.h5` from images that come one by one.

    Args:
        shape: (height, width) of all images; None when the rows hold original bytes.
        skipped: file name and reason of images left out; may grow while `rows` runs.

    Raises:
        SwanError: there is no row.
    """
    entries: list[Entry] = []
    splits: list[str | None] = []
    digests: list[str] = []
    with create_dataset(output, name, shape) as writer:
        for row in rows:
            writer.add(row.image, row.digest)
            entries.append(row.entry)
            splits.append(row.split)
            digests.append(row.digest)
        if not entries:
            raise SwanError(f"{name}: no image could be read: {_describe(skipped)}", "are the files images?")
        catalogue = Catalogue.of(
            filename=(entry.filename for entry in entries),
            scene=(entry.scene for entry in entries),
            split=splits,
            text=(caption for entry in entries for caption in entry.captions),
            image=(index for index, entry in enumerate(entries) for _ in entry.captions),
        )
        writer.finish(catalogue, skipped)
    warnings = (overlap(catalogue, digests, split) for split in ("val", "test"))
    return Summary(count_splits(catalogue), group_skipped(skipped), shape, tuple(filter(None, warnings)))


def count_splits(catalogue: Catalogue) -> list[SplitCount]:
    """Images, captions and scenes of each split that has images."""
    described = np.append(catalogue.split, None)[catalogue.image]  # image -1 is the appended None
    counts = []
    for split in (*SPLITS, None):
        rows = [row for row, own in enumerate(catalogue.split) if own == split]
        captions = sum(own == split for own in described)
        scenes = {catalogue.scene[row] for row in rows} - {None}
        if rows:
            counts.append(SplitCount(split, len(rows), captions, len(scenes)))
    return counts
