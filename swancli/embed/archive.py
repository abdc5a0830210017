"""Embeddings of any number of images, piece by piece, in one process or many -> embeddings.h5.

swan embed --images DIR
swan embed --images DIR --shard 3/8 --resume

Each finished piece is on the disk before the next one starts, so a process that is killed loses one piece at
most. The borders of the pieces do not depend on the number of shards, and each piece is encoded by itself. So
on one machine, with the same number of threads per process, any number of shards gives the same embeddings to
the last bit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from swancli.embed.embed import seen_before
from swancli.embed.shards import Shard, ShardFolder, archive_identity
from swancli.embed.sources import ImageSource, SourceFile
from swancli.errors import ImageError, SwanError
from swancli.images import AS_SAID, Notes, Rendering, decode_image, pixel_digest
from swancli.machine.progress import Progress, quiet
from swancli.model.encoder import EncodedPiece, Encoder, Load, Picture, first_of_each
from swancli.prepare.one_scale import with_one_scale
from swancli.prepare.scene_names import found_scenes
from swancli.store.catalogue import Catalogue, read_skipped
from swancli.store.dataset import Dataset
from swancli.store.embeddings import (
    Embeddings,
    find_embeddings,
    open_embeddings,
    store_match,
    write_embeddings,
)
from swancli.store.hdf5 import EMBEDDINGS, refuse_other_kind
from swancli.store.parts import GatheredRows, Part, read_part, write_part

SKIP_HINT = "or leave it out: --missing skip"
PIECE_BATCHES = 16  # batches of images in a piece; a tar is one piece


@dataclass(frozen=True)
class Archive:
    """Images in pieces.

    name: as `Embeddings.dataset`.
    pictures: as `Embeddings.pictures`.
    identity: a hash of everything that is listed, in order.
    borders: of each piece, the name of its tar, or its first row and the one after its last.
    sizes: the number of pictures that each piece loads; None for tars, whose length is not known.
    load: takes the number of a piece, yields what loads each of its pictures.
    dataset: the data set of the images, None for a folder, an address or tars.
    rendering: how samples become colours.
    missing: "error", or "skip" to leave unreadable images out.
    not_read: of each tar what it holds beside images, by kind, once it is read; empty for other pieces.
    scene_from: the rule of `found_scenes` by which images without a data set get scenes.
    notes: counts pictures that are doubtful while they are loaded.
    """

    name: str
    pictures: str
    identity: str
    borders: list[str | list[int]]
    sizes: list[int] | None
    load: Callable[[int], Iterator[Load]]
    dataset: Dataset | None = None
    rendering: Rendering = AS_SAID
    missing: str = "error"
    not_read: Sequence[Counter[str]] = ()
    scene_from: str | None = None
    notes: Notes = field(default_factory=Notes)


@dataclass(frozen=True)
class Outcome:
    """The result of a shard.

    images: number of images of the shard; of all shards if the embeddings are whole.
    skipped: file name and reason of each image left out, likewise.
    missing: the shards that are not finished.
    embeddings: as this process wrote them, or found them on resume; None if shards are missing or another
        process joined them.
    not_read: what tars hold beside images, by kind; of all shards if this process joined them.
    scenes: where the scenes are from, for the user; "" unless this process chose them.
    """

    images: int
    skipped: list[tuple[str, str]]
    missing: list[int]
    embeddings: Embeddings | None = None
    not_read: Counter[str] = field(default_factory=Counter)
    scenes: str = ""


# ---------------------------------------------------------------------------------------------------------
# what to embed


def archive_of_source(
    source: ImageSource,
    batch_size: int,
    missing: str = "error",
    rendering: Rendering = AS_SAID,
    scene_from: str | None = None,
) -> Archive:
    """The images of a folder, an address or tars.

    Args:
        source: the images.
        batch_size: images encoded at a time.
        missing: "error", or "skip" to leave unreadable images and folders out.
        rendering: how samples become colours.
        scene_from: as in `Archive`.

    Raises:
        ImageError: a folder in the source cannot be listed, and nothing is to be left out.
    """
    for below, reason in source.unreadable:
        problem = f"{source.pictures}/{below}: {reason}"
        _left_out(Picture(below, ""), ImageError(problem, "allow to read it"), missing)
    pieces = source.pieces(PIECE_BATCHES * batch_size)
    borders = [piece.border for piece in pieces]
    in_tars = any(isinstance(border, str) for border in borders)

    notes = Notes()
    # A damaged member of a tar may be replaced by a later one, so it is an error only at the end of the tar.
    at_once = "skip" if in_tars else missing

    def load(number: int) -> Iterator[Load]:
        tar = borders[number] if in_tars else ""
        if number == 0:
            for below, reason in source.unreadable:
                yield partial(_left_out, Picture(below, ""), ImageError(reason), "skip")
        try:
            for picture in pieces[number].pictures():
                yield partial(_load_picture, picture, tar or source.pictures, at_once, rendering, notes)
        except ImageError as error:
            yield partial(_left_out, Picture(tar, ""), error, at_once)

    sizes = None if in_tars else [stop - start for start, stop in borders]
    if sizes:
        sizes[0] += len(source.unreadable)
    return Archive(
        source.name,
        source.pictures,
        source.identity(),
        borders,
        sizes,
        load,
        rendering=rendering,
        missing=missing,
        not_read=[piece.not_read for piece in pieces],
        scene_from=scene_from,
        notes=notes,
    )


def rendering_of_source(
    source: ImageSource, rendering: Rendering, workers: int = 1, progress: Progress = quiet
) -> Rendering:
    """The rendering with one scale for all images of a source, as from `with_one_scale`.

    Raises:
        SwanError: it consists of tars, which can be read from the start only.
    """
    if not source.file:
        raise SwanError(
            "--stretch folder: tars are read once, so no scale can be taken from them before",
            "give the values that become black and white: --stretch 0,3000",
        )

    def read(row: int) -> tuple[bytes, str]:
        picture = source.file(row)
        return picture.read(), picture.name

    return with_one_scale(source.files, read, rendering, workers, progress)


def _load_picture(
    picture: SourceFile, place: str, missing: str, rendering: Rendering, notes: Notes
) -> tuple[np.ndarray | None, Picture]:
    name = picture.name if picture.name.startswith(place) else f"{place}/{picture.name}"
    try:
        pixels = decode_image(picture.read(), name, rendering, notes)
    except ImageError as error:
        return _left_out(Picture(picture.name, ""), error, missing)
    return pixels, Picture(picture.name, pixel_digest(pixels))


def _left_out(picture: Picture, error: ImageError, missing: str) -> tuple[None, Picture]:
    """A picture without pixels; raises the error unless `missing` is "skip"."""
    if missing == "error":
        hint = f"{error.hint or 'repair it'}; {SKIP_HINT}"
        raise ImageError(error.problem, hint) from None
    return None, replace(picture, reason="; ".join(filter(None, (error.problem, error.hint))))


def archive_of_dataset(dataset: Dataset, batch_size: int) -> Archive:
    """The images of a data set; of equal pictures only the first is loaded."""
    catalogue, rows = dataset.catalogue, PIECE_BATCHES * batch_size
    count = len(catalogue.filename)
    digests = dataset.digests(np.arange(count))
    loaded = first_of_each(digests)
    starts = range(0, count, rows)
    parts = np.split(loaded, np.searchsorted(loaded, starts[1:]))

    def load_row(row: int) -> tuple[np.ndarray, Picture]:
        return dataset.image(row), Picture(catalogue.filename[row], digests[row])

    return Archive(
        dataset.name,
        str(dataset.path),
        dataset.digest,
        [[start, min(start + rows, count)] for start in starts],
        [len(part) for part in parts],
        lambda number: (partial(load_row, int(row)) for row in parts[number]),
        dataset,
        dataset.rendering,
    )


# ---------------------------------------------------------------------------------------------------------
# one shard


@dataclass
class _Done:
    """How much of a shard is done.

    left: numbers of the pieces that were not finished when this process started.
    images: of the finished pieces, as in `Outcome`.
    skipped: of the finished pieces, as in `Outcome`.
    not_read: of the finished pieces, as in `Outcome`.
    """

    left: list[int]
    images: int
    skipped: list[tuple[str, str]]
    not_read: Counter[str]


def embed_archive(
    encoder: Encoder,
    archive: Archive,
    output: str | PathLike[str],
    shard: Shard,
    *,
    resume: bool = False,
    progress: Progress = quiet,
) -> Outcome:
    """Embeds a shard of an archive, and writes the embeddings when it is the last one.

    Args:
        encoder: what encodes the images.
        archive: what to embed.
        output: the embeddings file.
        shard: the part of the archive for this process.
        resume: keep finished pieces; if the embeddings exist already, encode nothing.
        progress: called with "images" or "tars", the number done, and the number in all.

    Raises:
        SwanError: the output is a file of another kind, another process works on this shard, another archive
            was begun there, or no image can be read.
        ImageError: an image cannot be read, unless the archive leaves it out.
    """
    output = Path(output)
    refuse_other_kind(output, EMBEDDINGS)
    folder = ShardFolder(output, shard)
    manifest = {
        "source": archive.pictures,
        "images": archive.identity,
        "checkpoint_sha256": encoder.made_by.sha256,
        "configuration": encoder.made_by.configuration,
        "rendering": [archive.rendering.bands_text, archive.rendering.stretch_text],
        "precision": encoder.precision,
        "batch_size": encoder.batch_size,
        "shards": shard.count,
        "pieces": archive.borders,
        "scene_from": archive.scene_from or "auto",
        "missing": archive.missing,
    }
    identity = archive_identity(manifest)
    with folder.alone_in_shard():
        with folder.alone_in_archive():
            match = encoder.made_by.match
            found = _find_joined(folder, output, identity, match) if resume else None
            done = None if found else _begin(folder, manifest, identity, resume)
        if found:
            outcome = _whole(found)
            outcome = replace(outcome, embeddings=None) if shard.follows else outcome
        else:
            try:
                _embed_pieces(encoder, archive, folder, identity, done, progress)
                outcome = _join(encoder, archive, folder, identity, done, progress)
            except BaseException:
                folder.remove_unbegun()
                raise
    folder.remove_empty()
    return outcome


def _find_joined(folder: ShardFolder, output: Path, identity: str, match: str) -> Embeddings | None:
    """The embeddings of an archive whose shards were joined, opened; None if there are none.

    A match threshold, if there is one, is stored with them.
    """
    found = None if folder.read_manifest() else find_embeddings(output, identity)
    if found:
        folder.remove_all()  # left by a process that was killed after it had joined them
    if found and match not in ("", found.made_by.match):
        found.image.file.close()
        store_match(output, match)
        found = open_embeddings(output)
    return found


def _begin(folder: ShardFolder, manifest: dict[str, Any], identity: str, resume: bool) -> _Done:
    """Starts a shard, on `resume` with its finished pieces."""
    folder.agree(manifest, replace=not resume)
    if not resume:
        folder.remove_own()
    paths = folder.pieces(folder.shard, len(manifest["pieces"]))
    parts = [read_part(path, identity) for path in paths.values() if path.exists()]
    left = [number for number, path in paths.items() if not path.exists()]
    images = sum(len(part.pixel_digest) for part in parts)
    return _Done(left, images, _skipped(parts), _not_read(parts))


def _embed_pieces(
    encoder: Encoder, archive: Archive, folder: ShardFolder, identity: str, done: _Done, progress: Progress
) -> None:
    """Writes the missing pieces of a shard, and counts them as done."""
    paths = folder.pieces(folder.shard, len(archive.borders))
    finished, before = len(paths) - len(done.left), done.images + len(done.skipped)

    def show(loaded: int) -> None:
        if archive.sizes:
            progress("images", before + loaded, sum(archive.sizes[number] for number in paths))
        else:
            progress("tars", finished, len(paths))

    folder.write_state(len(paths), finished, done.images, len(done.skipped))
    with closing(encoder.pieces((archive.load(number) for number in done.left), show)) as encoded:
        for number, piece in zip(done.left, encoded, strict=True):
            part, image = _part_of(piece, archive.not_read[number] if archive.not_read else Counter())
            if archive.missing == "error" and part.skipped:
                raise ImageError(part.skipped[0][1], f"repair it; {SKIP_HINT}")
            write_part(paths[number], part, image, identity)
            finished += 1
            done.images += len(image)
            done.skipped += part.skipped
            done.not_read += part.not_read
            folder.write_state(len(paths), finished, done.images, len(done.skipped))


def _part_of(piece: EncodedPiece, not_read: Counter[str]) -> tuple[Part, np.ndarray]:
    """A piece without its vectors, and these; of pictures with the same name the last one counts."""
    last = {picture.name: place for place, picture in enumerate(piece.pictures)}
    current = [last[picture.name] == place for place, picture in enumerate(piece.pictures)]
    readable = [not picture.reason for picture in piece.pictures]
    pictures = [picture for picture, counts in zip(piece.pictures, current, strict=True) if counts]
    kept = [picture for picture in pictures if not picture.reason]
    no_value = [None] * len(kept)  # scenes and splits come with the other pieces
    catalogue = Catalogue.of([picture.name for picture in kept], no_value, no_value)
    skipped = [(picture.name, picture.reason) for picture in pictures if picture.reason]
    digests = np.array([picture.digest for picture in kept], object)
    image = piece.image if all(current) else piece.image[np.array(current)[readable]]
    return Part(catalogue, digests, skipped, not_read), image


# ---------------------------------------------------------------------------------------------------------
# joining


def _join(
    encoder: Encoder, archive: Archive, folder: ShardFolder, identity: str, done: _Done, progress: Progress
) -> Outcome:
    """Writes the embeddings and removes the shards, if none is missing."""
    count = len(archive.borders)
    with folder.alone_in_archive():
        if archive_identity(folder.read_manifest()) != identity:  # another shard has joined them
            folder.remove_own()
            return Outcome(done.images, done.skipped, [], not_read=done.not_read)
        pieces = {shard.number: list(folder.pieces(shard, count).values()) for shard in folder.shards()}
        missing = [number for number, paths in pieces.items() if not all(map(Path.exists, paths))]
        if missing:
            return Outcome(done.images, done.skipped, missing, not_read=done.not_read)
        paths = [path for own in pieces.values() for path in own]
        parts = [read_part(path, identity) for path in paths]
        embeddings, digests, scenes = _put_together(encoder, archive, paths, parts, progress)
        write_embeddings(folder.output, embeddings, digests, identity, _skipped(parts))
        folder.remove_all()
    whole = _whole(open_embeddings(folder.output))
    return replace(whole, not_read=_not_read(parts), scenes=scenes)


def _whole(embeddings: Embeddings) -> Outcome:
    """The outcome of whole embeddings."""
    return Outcome(len(embeddings.image), read_skipped(embeddings.image.file), [], embeddings)


def _put_together(
    encoder: Encoder, archive: Archive, paths: list[Path], parts: list[Part], progress: Progress
) -> tuple[Embeddings, np.ndarray, str]:
    """The embeddings of all pieces, their vectors still in the files; the digest of each row's pixels; and
    `Outcome.scenes`.

    Rows of a data set with equal pictures all get the vector of the first one.
    """
    digests = np.concatenate([np.empty(0, object), *(part.pixel_digest for part in parts)])
    if not len(digests):
        skipped = _skipped(parts)
        raise SwanError(
            f"{archive.pictures}: none of its {len(skipped)} images can be read",
            f"the first: {skipped[0][1]}" if skipped else "it has none",
        )
    width, dataset, place = encoder.dimensions, archive.dataset, np.arange(len(digests))
    if dataset is None:
        (catalogue, scenes), seen = _catalogue(parts, archive.scene_from), None
        caption = np.empty((0, width), np.float32)
    else:
        number = dict(zip(digests, place, strict=True))
        rows = dataset.catalogue.image_rows(None)
        (catalogue, _), scenes = dataset.catalogue.select(rows), ""
        digests, seen = dataset.digests(rows), seen_before(encoder.checkpoint, dataset, rows)
        place = np.array([number[digest] for digest in digests], np.int64)
        caption = encoder.captions_of(catalogue, progress)
    image = GatheredRows(paths, [len(part.pixel_digest) for part in parts], place, width)
    of, digest = (archive.name, encoder.made_by, archive.pictures), dataset.digest if dataset else ""
    embeddings = Embeddings(
        image, caption, catalogue, *of, dataset_digest=digest, seen=seen, rendering=archive.rendering
    )
    return embeddings, digests, scenes


def _catalogue(parts: Sequence[Part], scene_from: str | None) -> tuple[Catalogue, str]:
    """The rows of all parts, and where their scenes are from: only all names together show them."""
    names = [name for part in parts for name in part.catalogue.filename]
    scenes = found_scenes(names, scene_from)
    return Catalogue.of(names, scenes.scene, [None] * len(names)), scenes.taken


def _skipped(parts: Sequence[Part]) -> list[tuple[str, str]]:
    return [row for part in parts for row in part.skipped]


def _not_read(parts: Sequence[Part]) -> Counter[str]:
    return sum((part.not_read for part in parts), Counter())
