"""`swan embed` of any number of images: piece by piece, on one process or many -> embeddings.h5.

swan embed --images DIR
swan embed --images DIR --shard 3/8 --resume

Each finished piece is on the disk before the next one, so a process that is killed loses one piece at most.
Pieces have the same borders however many shards there are, and each is encoded by itself: on one machine, and
with the same number of threads a process, the embeddings of many shards are those of one process to the last
bit.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from os import PathLike
from pathlib import Path

import numpy as np

from swancli.embed.shards import Shard, ShardFolder
from swancli.embed.sources import ImageSource
from swancli.embed.sources import Picture as SourcePicture
from swancli.errors import ImageError, SwanError
from swancli.images import decode_image, pixel_digest
from swancli.machine.progress import Progress, quiet
from swancli.model.encoder import EncodedPiece, Encoder, Load, Picture, first_of_each
from swancli.store.catalogue import Catalogue, read_skipped
from swancli.store.dataset import Dataset
from swancli.store.embeddings import Embeddings, find_embeddings, write_embeddings
from swancli.store.hdf5 import EMBEDDINGS, refuse_other_kind
from swancli.store.parts import Part, check_part, joined_parts, read_part, write_part

PIECE_BATCHES = 16  # of images, in a piece of a list


@dataclass(frozen=True)
class Archive:
    """Images in pieces.

    name, pictures: as `dataset` and `pictures` of `Embeddings`. identity: of all that is listed, in order.
    borders: of each piece the name of its tar, or its first row and the one after its last. sizes: how many
    pictures each piece loads; None for tars, of which only reading tells. load: what loads each picture of a
    piece. dataset: whose images they are, None for a folder, an address or tars.
    """

    name: str
    pictures: str
    identity: str
    borders: list[str | list[int]]
    sizes: list[int] | None
    load: Callable[[int], Iterator[Load]]
    dataset: Dataset | None = None


@dataclass(frozen=True)
class Outcome:
    """What became of a shard.

    file: that it wrote; images, skipped: of the shard, and of all shards from the last one; missing: the
    shards that are still to come. embeddings: written by this process, or found when it had nothing else to
    do; None when others are missing, or have joined them. digest: of their images.
    """

    file: Path
    shard: Shard
    images: int
    skipped: list[tuple[str, str]]
    missing: list[int]
    embeddings: Embeddings | None = None
    digest: str = ""


# ---------------------------------------------------------------------------------------------------------
# what is embedded


def archive_of_source(source: ImageSource, batch_size: int, missing: str = "error") -> Archive:
    """The images of a folder, an address or tars.

    Args:
        batch_size: images encoded at a time. missing: "error", or "skip" to leave unreadable images out.
    """
    rows = PIECE_BATCHES * batch_size
    pieces = source.pieces(rows)
    ranges = [[start, min(start + rows, len(source.listed))] for start in range(0, rows * len(pieces), rows)]
    listed = not any(piece.name for piece in pieces)

    def load(number: int) -> Iterator[Load]:
        piece = pieces[number]
        try:
            for picture in piece.pictures():
                yield partial(_load_picture, picture, piece.name or source.pictures, missing)
        except ImageError as error:
            yield partial(_left_out, Picture(piece.name, None, ""), error, missing)

    return Archive(
        source.name,
        source.pictures,
        source.identity(),
        ranges if listed else [piece.name for piece in pieces],
        [stop - start for start, stop in ranges] if listed else None,
        load,
    )


def _load_picture(picture: SourcePicture, place: str, missing: str) -> tuple[np.ndarray | None, Picture]:
    name = picture.name if picture.name.startswith(place) else f"{place}/{picture.name}"
    try:
        pixels = decode_image(picture.read(), name)
    except ImageError as error:
        return _left_out(Picture(picture.name, picture.scene, ""), error, missing)
    return pixels, Picture(picture.name, picture.scene, pixel_digest(pixels))


def _left_out(picture: Picture, error: ImageError, missing: str) -> tuple[None, Picture]:
    """Raises the error instead, unless `missing` is "skip"."""
    if missing == "error":
        mend = f"{error.mend or 'mend it'}; or pass over it: --missing skip"
        raise ImageError(error.problem, mend) from None
    return None, replace(picture, reason=error.problem)


def archive_of_dataset(dataset: Dataset, batch_size: int) -> Archive:
    """The images of a data set; of pictures known to be equal the first alone."""
    catalogue, rows = dataset.catalogue, PIECE_BATCHES * batch_size
    count = len(catalogue.filename)
    digests = dataset.digests(np.arange(count))
    loaded = np.arange(count) if digests is None else first_of_each(digests)
    starts = range(0, count, rows)
    parts = np.split(loaded, np.searchsorted(loaded, starts[1:]))

    def load_row(row: int) -> tuple[np.ndarray, Picture]:
        pixels = dataset.image(row)
        digest = pixel_digest(pixels) if digests is None else digests[row]
        return pixels, Picture(catalogue.filename[row], catalogue.scene[row], digest)

    return Archive(
        dataset.name,
        str(dataset.path),
        _dataset_identity(dataset, digests),
        [[start, min(start + rows, count)] for start in starts],
        [len(part) for part in parts],
        lambda number: (partial(load_row, int(row)) for row in parts[number]),
        dataset,
    )


def _dataset_identity(dataset: Dataset, digests: np.ndarray | None) -> str:
    """Of images and captions in their order; where the file has no digests of pixels, also of the file."""
    catalogue = dataset.catalogue
    if digests is None:
        found = dataset.path.stat()
        digests = [f"{found.st_size} {found.st_mtime_ns}"] * len(catalogue.filename)
    images = zip(catalogue.filename, catalogue.scene, catalogue.split, digests, strict=True)
    captions = zip(catalogue.image.tolist(), catalogue.text, strict=True)
    rows = ["\0".join(map(str, row)) for columns in (images, captions) for row in columns]
    return hashlib.blake2b("\n".join(rows).encode(), digest_size=16).hexdigest()


# ---------------------------------------------------------------------------------------------------------
# a shard of it


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
        output: the embeddings file. resume: keep what was done of the shard before.

    Raises:
        SwanError: a file of another kind stands there; another process has this shard; another archive was
            begun there; no image can be read.
        ImageError: one cannot be read, unless the archive leaves it out.
    """
    output = Path(output)
    refuse_other_kind(output, EMBEDDINGS)
    folder = ShardFolder(output, shard)
    manifest = {
        "source": archive.pictures,
        "images": archive.identity,
        "checkpoint_sha256": encoder.made_by.sha256,
        "precision": encoder.precision,
        "batch_size": encoder.batch_size,
        "shards": shard.count,
        "pieces": archive.borders,
    }
    with folder.alone_in_shard():
        identity = folder.agree(manifest, not resume, lambda other: bool(find_embeddings(output, other)))
        try:
            if not resume:
                folder.remove_pieces()
            stood = resume and folder.finished()
            unbegun = resume and shard.whole and not folder.begun()
            standing = find_embeddings(output, identity) if unbegun else None
            if not (stood or standing):
                _embed_pieces(encoder, archive, folder, identity, progress)
            finish = partial(_put_together, encoder, archive, progress=progress)
            if standing:
                outcome = _found(output, shard, standing)
            elif shard.whole:
                outcome = _write_whole(folder, identity, output, finish)
                folder.remove_pieces()
                folder.remove_shards()
            else:
                pieces, width = len(shard.share(len(archive.borders))), encoder.dimensions
                outcome = _write_shard(folder, identity, pieces, width)
                # After a restart all may have stood, and one goes on with what comes after the joining.
                if not outcome.missing and not (stood and shard.follows):
                    outcome = _join(folder, identity, output, outcome, finish, stood)
        finally:
            if shard.whole and not folder.begun():
                folder.remove_all()
    folder.remove_empty()
    return outcome


def _embed_pieces(
    encoder: Encoder, archive: Archive, folder: ShardFolder, identity: str, progress: Progress
) -> None:
    """Writes the pieces of a shard that do not stand."""
    share = folder.shard.share(len(archive.borders))
    standing = [read_part(path, identity) for number in share if (path := folder.piece(number)).exists()]
    images, skipped = sum(len(part.image) for part in standing), sum(len(part.skipped) for part in standing)
    done, left = len(standing), [number for number in share if not folder.piece(number).exists()]
    before = images + skipped

    def show(loaded: int) -> None:
        if archive.sizes:
            progress("images", before + loaded, sum(archive.sizes[number] for number in share))
        else:
            progress("tars", done, len(share))

    del standing
    folder.write_state(len(share), done, images, skipped)
    with closing(encoder.pieces((archive.load(number) for number in left), show)) as encoded:
        for number, piece in zip(left, encoded, strict=True):
            write_part(folder.piece(number), _part_of(piece), identity)
            kept = len(piece.image)
            done, images, skipped = done + 1, images + kept, skipped + len(piece.pictures) - kept
            folder.write_state(len(share), done, images, skipped)


def _part_of(piece: EncodedPiece) -> Part:
    kept = [picture for picture in piece.pictures if not picture.reason]
    catalogue = Catalogue.of(
        [picture.name for picture in kept], [picture.scene for picture in kept], [None] * len(kept)
    )
    skipped = [(picture.name, picture.reason) for picture in piece.pictures if picture.reason]
    return Part(piece.image, catalogue, np.array([picture.digest for picture in kept], object), skipped)


# ---------------------------------------------------------------------------------------------------------
# putting together


def _write_whole(
    folder: ShardFolder, identity: str, output: Path, finish: Callable[..., tuple[Embeddings, np.ndarray]]
) -> Outcome:
    """The embeddings of one process, from its pieces."""
    paths, parts = _begun_parts(folder, identity)
    embeddings, digests = finish(paths, parts)
    skipped = _skipped(parts)
    digest = write_embeddings(output, embeddings, digests, identity=identity, skipped=skipped)
    return Outcome(output, folder.shard, len(embeddings.image), skipped, [], embeddings, digest)


def _begun_parts(folder: ShardFolder, identity: str) -> tuple[list[Path], list[Part]]:
    """The pieces that stand, whose vectors are those that were written."""
    paths = folder.begun()
    parts = [read_part(path, identity) for path in paths]
    _check_parts(paths, parts)
    return paths, parts


def _check_parts(paths: Sequence[Path], parts: Sequence[Part]) -> None:
    for path, part in zip(paths, parts, strict=True):
        check_part(path, part)


def _write_shard(folder: ShardFolder, identity: str, pieces: int, width: int) -> Outcome:
    """The file of a shard, from its pieces, of width D."""
    if not folder.finished():
        paths, parts = _begun_parts(folder, identity)
        vectors = joined_parts(paths, parts, width)
        part = Part(vectors, _catalogue(parts), _pixel_digests(parts), _skipped(parts))
        write_part(folder.file, part, identity)
        folder.remove_pieces()
    own = read_part(folder.file, identity)
    folder.write_state(pieces, pieces, len(own.image), len(own.skipped), finished=True)
    return Outcome(folder.file, folder.shard, len(own.image), own.skipped, folder.missing())


def _join(
    folder: ShardFolder,
    identity: str,
    output: Path,
    outcome: Outcome,
    finish: Callable[..., tuple[Embeddings, np.ndarray]],
    stood: bool,
) -> Outcome:
    """The embeddings of all shards, by the last one of them.

    Args:
        outcome: of the shard. stood: it was finished before, and what comes after the joining may not be.
    """
    with folder.alone_in_archive():
        paths = folder.others()
        parts = [read_part(path, identity) for path in paths]
        joined = find_embeddings(output, identity)
        if joined:
            # Not to be told of where another shard ended at the same time.
            return _found(output, folder.shard, joined) if stood else outcome
        _check_parts(paths, parts)
        embeddings, digests = finish(paths, parts)
        shards, skipped = list(zip(paths, parts, strict=True)), _skipped(parts)
        digest = write_embeddings(output, embeddings, digests, shards, identity, skipped)
    images = len(embeddings.image)
    return replace(outcome, images=images, skipped=skipped, embeddings=embeddings, digest=digest)


def _found(output: Path, shard: Shard, embeddings: Embeddings) -> Outcome:
    """Of embeddings that stood already."""
    skipped = read_skipped(embeddings.image.file)
    return Outcome(output, shard, len(embeddings.image), skipped, [], embeddings, embeddings.digest)


def _put_together(
    encoder: Encoder, archive: Archive, paths: Sequence[Path], parts: Sequence[Part], *, progress: Progress
) -> tuple[Embeddings, np.ndarray]:
    """The embeddings of all parts, whose vectors stay where they are, and the digest of each row's pixels.

    A picture that a data set has several times has everywhere the vector of its first row.
    """
    digests, dataset = _pixel_digests(parts), archive.dataset
    if not len(digests):
        count = sum(len(part.skipped) for part in parts)
        raise SwanError(f"{archive.pictures}: none of its {count} images can be read")
    width, of = encoder.dimensions, (archive.name, encoder.made_by, archive.pictures)
    if dataset is None:
        image = joined_parts(paths, parts, width)
        caption = np.empty((0, width), np.float32)
        return Embeddings(image, caption, _catalogue(parts), *of), digests
    number = {digest: row for row, digest in reversed(list(enumerate(digests)))}
    catalogue, _ = dataset.catalogue.select(dataset.catalogue.image_rows(None))
    known = dataset.digests(np.arange(len(catalogue.filename)))
    digests = digests if known is None else known
    place = np.array([number[digest] for digest in digests], np.int64)
    image = joined_parts(paths, parts, width, place)
    caption = encoder.captions_of(catalogue, progress)
    return Embeddings(image, caption, catalogue, *of, dataset_digest=dataset.digest), digests


def _catalogue(parts: Sequence[Part]) -> Catalogue:
    names = [name for part in parts for name in part.catalogue.filename]
    scenes = [scene for part in parts for scene in part.catalogue.scene]
    return Catalogue.of(names, scenes, [None] * len(names))


def _pixel_digests(parts: Sequence[Part]) -> np.ndarray:
    return np.concatenate([np.empty(0, object), *(part.pixel_digest for part in parts)])


def _skipped(parts: Sequence[Part]) -> list[tuple[str, str]]:
    return [row for part in parts for row in part.skipped]
