"""From a source of images and captions to `dataset.h5`, with every value checked.

swan prepare --dataset ucm --source path/to/ucm
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from os import PathLike
from pathlib import Path

import numpy as np

from swancli.errors import ImageError, SwanError, unread_image_error
from swancli.images import (
    AS_SAID,
    LEADS_OUT,
    LEADS_OUT_HINT,
    Notes,
    Rendering,
    decode_image,
    image_size,
    leads_out,
    look_hash,
    pixel_digest,
    read_inside,
    resize_image,
)
from swancli.machine.progress import Progress, quiet
from swancli.machine.threads import in_order
from swancli.prepare.demo import generate_demo
from swancli.prepare.entries import Entry
from swancli.prepare.known import where_to_get
from swancli.prepare.listing import not_read_text
from swancli.prepare.lookup import Lookup
from swancli.prepare.misplaced import misplaced_captions
from swancli.prepare.one_scale import with_one_scale
from swancli.prepare.sources import Source, read_source
from swancli.prepare.splits import assign_splits, overlap
from swancli.store import DEMO
from swancli.store.catalogue import SPLITS, Catalogue
from swancli.store.dataset import create_dataset

DEMO_IMAGES, DEMO_SIZE = 1200, 128
COMMON_SHARE = 0.9  # of images with one size, from which on the others are resized to it
ABSENT = "absent"


@dataclass(frozen=True)
class PrepareSettings:
    """Settings of `swan prepare`.

    name: of the data set.
    source: file or folder; None for the generated data set `demo`.
    images: folder of the images; None looks next to the source.
    format: one of `sources.FORMATS`; None detects it.
    size: pixels per side of the stored images; None is the most common size.
    missing: "error" or "skip", for absent and unreadable images.
    split: one of `splits.RULES`.
    val_fraction: share of the images to draw for validation.
    seed: of drawn splits and of the demo.
    workers: number of decoding threads.
    rendering: how samples become colours.
    one_scale: all images get one scale, see `one_scale.with_one_scale`.
    scene_from: as the rule of `scene_names.found_scenes`; None keeps the scenes of a source that names any.
    """

    name: str
    source: str | PathLike[str] | None = None
    images: str | PathLike[str] | None = None
    format: str | None = None
    size: int | None = None
    missing: str = "error"
    split: str = "given"
    val_fraction: float = 0.2
    seed: int = 0
    workers: int = 1
    rendering: Rendering = AS_SAID
    one_scale: bool = False
    scene_from: str | None = None


@dataclass(frozen=True)
class SplitCount:
    """The size of one split.

    split: its name; None for the images in no split.
    images: number of images.
    captions: number of captions.
    scenes: number of different scenes.
    """

    split: str | None
    images: int
    captions: int
    scenes: int


@dataclass(frozen=True)
class Skipped:
    """Images left out for one reason.

    reason: why they are left out.
    pattern: their names, with `<number>` for each number.
    count: number of images.
    first: the first name.
    """

    reason: str
    pattern: str
    count: int
    first: str


@dataclass(frozen=True)
class Summary:
    """The result of `prepare`.

    splits: what each split has.
    skipped: images left out, by reason.
    shape: (height, width) of all images; None when they keep their sizes.
    warnings: reasons to doubt recall on this data set.
    scenes: where the scenes are from, for the user; "" for the generated data set.
    """

    splits: list[SplitCount]
    skipped: list[Skipped]
    shape: tuple[int, int] | None
    warnings: tuple[str, ...] = ()
    scenes: str = ""


@dataclass(frozen=True)
class Row:
    """One image to write.

    entry: its entry in the source.
    image: uint8 (H, W, 3) pixels, or its original bytes.
    digest: of its pixels.
    look: `look_hash` of them.
    """

    entry: Entry
    image: np.ndarray | bytes
    digest: str
    look: int


def prepare_dataset(
    settings: PrepareSettings, output: str | PathLike[str], progress: Progress = quiet
) -> Summary:
    """Reads a source, or generates the demo, and writes `dataset.h5`.

    Args:
        settings: what to read, and how.
        output: path of the file; it appears only when it is complete.
        progress: called with a phase, the number of items done, and their total.

    Raises:
        SwanError: something in the source or the settings is wrong, or images are missing.
    """
    if settings.source is None:
        return _prepare_without_source(settings, output, progress)
    if settings.size is not None and settings.size < 1:
        raise SwanError(
            f"--size {settings.size}: not a number of pixels", "leave it out to keep the size of the images"
        )
    source = read_source(settings.source, settings.format, settings.images, settings.scene_from)
    # Splits are drawn before images are left out, so that a seed gives the same split on a partial download.
    generator = np.random.default_rng(settings.seed)
    entries = assign_splits(source.entries, settings.split, settings.val_fraction, generator)
    found, skipped = _find_files(source, entries, settings.missing, progress)
    notes = _notes(settings.source, source, entries, found)
    shape = _choose_shape(found, settings, progress)
    rendering, doubtful = settings.rendering, Notes()
    if settings.one_scale:
        rendering = with_one_scale(
            len(found),
            lambda row: (read_inside(found[row][1], source.images), str(found[row][1])),
            rendering,
            settings.workers,
            progress,
        )
    load = partial(_load, folder=source.images, shape=shape, rendering=rendering, notes=doubtful)
    rows = _read_rows(found, load, settings, skipped, progress)
    summary = write_dataset(output, settings.name, shape, rows, skipped, rendering)
    warnings = (*notes, *doubtful.lines(), *summary.warnings)
    return replace(summary, scenes=source.scenes, warnings=warnings)


def _notes(
    name: str | PathLike[str], source: Source, entries: Sequence[Entry], found: list[tuple[Entry, Path]]
) -> list[str]:
    """What is said of a source that was read: what was passed over, renamed, or is in doubt."""
    notes = []
    if held := not_read_text(source.not_read):
        notes.append(f"{source.images}: not read: {held}")
    listed = {entry.filename for entry in entries}
    others = [entry.filename for entry, _ in found if entry.filename not in listed]
    if others:
        differ = "names differ from those" if len(others) > 1 else "name differs from that"
        forms = "Unicode form, case of the suffix, blanks, backslashes"
        notes.append(f"{name}: {len(others)} {differ} on disk ({forms}); the first: {others[0]}")
    if misplaced := misplaced_captions(source.entries):
        notes.append(f"{name}: {misplaced}: is a list off by some rows?")
    return notes


def _prepare_without_source(settings: PrepareSettings, output: Path, progress: Progress) -> Summary:
    if settings.name != DEMO:
        hint = where_to_get(settings.name) or f"add --source PATH, or use --dataset {DEMO}"
        raise SwanError(f"--dataset {settings.name}: no source given", hint)
    if settings.split != "given":
        raise SwanError(f"--split {settings.split}: the {DEMO} data set has its own splits", "leave it out")
    if settings.scene_from:
        problem = f"--scene-from {settings.scene_from}: the {DEMO} data set has its own scenes"
        raise SwanError(problem, "leave it out")
    return prepare_demo(output, DEMO_IMAGES, settings.seed, progress, settings.size or DEMO_SIZE)


def prepare_demo(
    output: str | PathLike[str], images: int, seed: int = 0, progress: Progress = quiet, size: int = DEMO_SIZE
) -> Summary:
    """Generates the demo data set and writes its `dataset.h5`.

    Args:
        output: path of the file.
        images: number of them.
        seed: gives other images.
        progress: called after each image.
        size: side of an image in pixels.
    """

    def rows() -> Iterator[Row]:
        for done, (entry, pixels) in enumerate(generate_demo(images, seed, size), start=1):
            yield Row(entry, pixels, pixel_digest(pixels), look_hash(pixels))
            progress("drawing images", done, images)

    return write_dataset(output, DEMO, (size, size), rows())


# ---------------------------------------------------------------------------------------------------------
# images that are left out


def _find_files(
    source: Source, entries: Sequence[Entry], missing: str, progress: Progress
) -> tuple[list[tuple[Entry, Path]], list[tuple[str, str]]]:
    """The entries whose image file exists, named as the disk does, with its path; and (file name, reason) of
    the others.

    Raises:
        SwanError: others are not to be left out, no image exists, or the disk fails or the like.
    """
    source.check_folder()
    lookup = Lookup(source.images, (entry.filename for entry in entries), source.listed_scenes)
    found, absent, outside, unread = [], [], [], list(source.unreadable)
    for done, entry in enumerate(entries, start=1):
        try:
            name, path = lookup.find(entry)
        except FileNotFoundError:
            absent.append((entry.filename, ABSENT))
        except OSError as error:
            refused = unread_image_error(error, source.images / entry.filename)
            if not isinstance(refused, ImageError):
                raise refused from error
            unread.append((entry.filename, os.strerror(error.errno)))
        else:
            if leads_out(path, source.images):
                outside.append((entry.filename, LEADS_OUT))
            else:
                found.append((replace(entry, filename=name), path))
        progress("looking for images", done, len(entries))
    if unread and (missing == "error" or not found):
        (name, reason), more = unread[0], len(unread) - 1
        problem = f"{source.images}/{name}: {reason}" + (f"; {more} more cannot be read" if more else "")
        hint = "check its name and who may read it"
        raise SwanError(problem, hint + ("; or leave it out: --missing skip" if found else ""))
    folder = f"{source.images}{'' if source.images.is_dir() else ' (no such folder)'}"
    wanted, similar = lookup.similar(name for name, _ in absent)
    where = f"did you mean {similar} by {wanted}? Or give" if similar else "give"
    for skipped, what, hint in (
        (absent, "are missing", f"{where} their folder: --images DIR"),
        (outside, "lie outside of it, by links or by name", LEADS_OUT_HINT),
    ):
        if skipped and (missing == "error" or not found):
            problem = f"{folder}: {len(skipped)} of {len(entries)} images {what}: {_describe(skipped)}"
            raise SwanError(problem, hint + ("; or leave them out, --missing skip" if found else ""))
    return found, absent + outside + unread


def _describe(skipped: Sequence[tuple[str, str]]) -> str:
    groups = group_skipped(skipped)
    named = [f"{group.count} {group.pattern} (first {group.first})" for group in groups[:3]]
    return ", ".join(named) + (f" and {len(groups) - 3} more kinds of name" if len(groups) > 3 else "")


def group_skipped(skipped: Sequence[tuple[str, str]]) -> list[Skipped]:
    """Groups (file name, reason) pairs by reason and pattern of the file name, the largest group first.

    Reasons that differ in numbers alone, such as those of bytes, are one; that of the first is given.
    """
    groups: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for filename, reason in skipped:
        kind, pattern = (re.sub(r"\d+", "<number>", text) for text in (reason, filename))
        groups.setdefault((kind, pattern), []).append((filename, reason))
    found = [Skipped(rows[0][1], pattern, len(rows), rows[0][0]) for (_, pattern), rows in groups.items()]
    return sorted(found, key=lambda group: -group.count)


# ---------------------------------------------------------------------------------------------------------
# reading images


def _choose_shape(
    found: list[tuple[Entry, Path]], settings: PrepareSettings, progress: Progress
) -> tuple[int, int] | None:
    """(height, width) that all images are stored at, or None to keep their sizes."""
    if settings.size is not None:
        return settings.size, settings.size
    sizes: Counter[tuple[int, int] | None] = Counter()
    paths = (path for _, path in found)
    for done, size in enumerate(in_order(_size_or_none, paths, settings.workers), start=1):
        sizes[size] += 1
        progress("reading image sizes", done, len(found))
    del sizes[None]
    if not sizes:
        return None
    shape, count = sizes.most_common(1)[0]
    return shape if count >= COMMON_SHARE * sizes.total() else None


def _size_or_none(path: Path) -> tuple[int, int] | None:
    try:
        return image_size(path)
    except ImageError:
        return None  # reported when the image is decoded


def _read_rows(
    found: list[tuple[Entry, Path]],
    load: Callable[[tuple[Entry, Path]], Row | ImageError],
    settings: PrepareSettings,
    skipped: list[tuple[str, str]],
    progress: Progress,
) -> Iterator[Row]:
    """The readable images. The others are added to `skipped`, or raise."""
    loaded = in_order(load, found, settings.workers)
    for done, ((entry, path), row) in enumerate(zip(found, loaded, strict=True), start=1):
        if isinstance(row, Row):
            yield row
        elif settings.missing == "skip":
            reason = row.problem.removeprefix(f"{path}: ")
            skipped.append((entry.filename, f"{reason}; {row.hint}" if row.hint else reason))
        else:
            hint = "leave unreadable images out: --missing skip"
            raise SwanError(row.problem, f"{row.hint}; or {hint}" if row.hint else hint)
        progress("reading images", done, len(found))


def _load(
    image: tuple[Entry, Path],
    folder: Path,
    shape: tuple[int, int] | None,
    rendering: Rendering,
    notes: Notes,
) -> Row | ImageError:
    """An image as it is stored, with the hashes of its pixels; or the reason why it cannot be read."""
    entry, path = image
    try:
        data = read_inside(path, folder)
        pixels = decode_image(data, str(path), rendering, notes)
    except ImageError as error:
        return error
    if shape:
        pixels = resize_image(pixels, *shape)
    return Row(entry, pixels if shape else data, pixel_digest(pixels), look_hash(pixels))


# ---------------------------------------------------------------------------------------------------------
# writing


def write_dataset(
    output: str | PathLike[str],
    name: str,
    shape: tuple[int, int] | None,
    rows: Iterable[Row],
    skipped: Sequence[tuple[str, str]] = (),
    rendering: Rendering = AS_SAID,
) -> Summary:
    """Writes a `dataset.h5` from a stream of images.

    Args:
        output: path of the file.
        name: of the data set.
        shape: (height, width) of all images; None when the rows hold original bytes.
        rows: in the order they are written.
        skipped: file name and reason of images left out; may grow while `rows` is read.
        rendering: how samples became colours.

    Raises:
        SwanError: there is no row.
    """
    entries: list[Entry] = []
    digests: list[str] = []
    with create_dataset(output, name, shape, rendering) as writer:
        for row in rows:
            writer.add(row.image, row.digest, row.look)
            entries.append(row.entry)
            digests.append(row.digest)
        if not entries:
            raise SwanError(f"{name}: no image could be read: {_describe(skipped)}", "are the files images?")
        catalogue = Catalogue.of(
            filename=(entry.filename for entry in entries),
            scene=(entry.scene for entry in entries),
            split=(entry.split for entry in entries),
            text=(caption for entry in entries for caption in entry.captions),
            image=(index for index, entry in enumerate(entries) for _ in entry.captions),
        )
        writer.finish(catalogue, skipped)
    warnings = (overlap(catalogue, digests, split) for split in ("val", "test"))
    return Summary(count_splits(entries), group_skipped(skipped), shape, tuple(filter(None, warnings)))


def count_splits(entries: Sequence[Entry]) -> list[SplitCount]:
    """Images, captions and scenes of each split that has images."""
    counts = []
    for split in (*SPLITS, None):
        own = [entry for entry in entries if entry.split == split]
        captions = sum(len(entry.captions) for entry in own)
        if own:
            counts.append(SplitCount(split, len(own), captions, len({entry.scene for entry in own} - {None})))
    return counts
