"""`swan embed`: a data set, a folder of images or lines of text -> embeddings.h5; a scene -> its tiles."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.filesize import decimal

from swancli.commands import options
from swancli.commands.options import (
    alone,
    exclusive,
    option,
    option_in,
    prepared_dataset,
    rare,
    rendering_of,
    scene_only,
)
from swancli.console import Display, show_fields, show_notes, warn
from swancli.errors import SwanError
from swancli.workspace import Workspace, is_shipped, own_file

if TYPE_CHECKING:
    from swancli.embed.archive import Archive, Outcome
    from swancli.embed.shards import Shard, ShardFolder
    from swancli.embed.sources import ImageSource
    from swancli.images import Rendering
    from swancli.milvus.collection import Address
    from swancli.model.checkpoint import Checkpoint
    from swancli.model.encoder import Encoder
    from swancli.store.embeddings import Embeddings

searching = option_in("For faster searching")
parts = option_in("Long jobs")


def embed(
    images: str | None = option(
        None, "DIR", "A folder of images, a URL (s3://bucket/tiles) or tars ('tiles-{00..99}.tar')."
    ),
    texts: Path | None = option(None, "FILE", "Lines of text, one caption per line; - is standard input."),
    dataset: str | None = options.DATASET,
    run: str | None = options.RUN,
    checkpoint: Path | None = options.CHECKPOINT,
    missing: options.Missing = option("error", "error|skip", "What to do with unreadable images."),
    scene_from: options.SceneFrom | None = option(
        None,
        "name|folder|none",
        "Scenes of --images: the letters before the number in a file name, or its folder. Default: folders "
        "or names, if several images share each.",
    ),
    output: Path | None = option(None, "FILE", "Output file. Default: in the run's folder.", dir_okay=False),
    calibrate: str | None = option(
        None, "DATASET", "Set the score of a match, for `query --threshold auto`, on its val split."
    ),
    index: options.IndexKind | None = searching(
        None, "KIND", "Also write a FAISS index for `query`: flat, hnsw or ivf-pq (extra `search`)."
    ),
    to: str | None = searching(
        None,
        "milvus://…",
        "Also copy image embeddings to a vector database, for `query --from` (extra `milvus`). milvus:// "
        "alone means milvus.db under the root.",
    ),
    existing: Path | None = searching(
        None, "--embeddings FILE", "An existing embeddings file for --index or --to."
    ),
    resume: bool = parts(False, "--resume", "Resume an interrupted `swan embed` of the same images."),
    shard: str | None = parts(
        None,
        "I/N",
        "Embed part I of N, as in a job array; the last to finish joins all parts. Not with torchrun.",
    ),
    scene_image: Path | None = options.SCENE_IMAGE,
    tile_size: list[int] | None = options.TILE_SIZES,
    bands: str | None = options.BANDS,
    stretch: str | None = options.STRETCH,
    vocab: Path | None = options.CHECKPOINT_VOCAB,
    batch_size: int | None = options.BATCH_SIZE,
    precision: options.Precision = rare(
        "fp32",
        "fp32|bf16",
        "bf16: faster on GPUs and on CPUs with bfloat16 instructions; a little less exact.",
    ),
    device: str = options.DEVICE,
    root: Path = options.ROOT,
    quiet: bool = options.QUIET,
) -> None:
    """Embed a data set, a folder of images, lines of text, or the tiles of a large scene.

    Examples:
        swan embed
        swan embed --images PHOTOS
        swan embed --images PHOTOS --checkpoint shipped --index hnsw
    """
    from swancli.embed.archive import archive_of_dataset, archive_of_source, rendering_of_source
    from swancli.embed.embed import open_dataset
    from swancli.embed.shards import ShardFolder, chosen_shard
    from swancli.embed.sources import open_source
    from swancli.machine.device import describe_device
    from swancli.model.encoder import Encoder
    from swancli.prepare.listing import not_read_text
    from swancli.query.index import load_faiss

    exclusive(run=run, checkpoint=checkpoint)
    exclusive(dataset=dataset, images=images, texts=texts, scene_image=scene_image)
    for name, value in (("texts", texts), ("scene_image", scene_image)):
        alone(name, value, index=index, to=to, shard=shard, resume=resume)
    encoding = {"run": run, "checkpoint": checkpoint, "vocab": vocab, "output": output}
    encoding["calibrate"] = calibrate
    alone("embeddings", existing, **encoding, dataset=dataset, images=images, shard=shard, resume=resume)
    if missing == "skip" and not images:
        raise SwanError("--missing skip is for --images", "leave it out")
    if scene_from and not images:
        raise SwanError(
            "--scene-from is for --images", "leave it out; for a data set, give it to swan prepare"
        )
    if not scene_image:
        scene_only("give the scene: --scene-image FILE", tile_size=tile_size)
    rendering, one_scale = rendering_of(bands, stretch)
    if (bands or stretch) and not (images or scene_image):
        problem = f"--{'bands' if bands else 'stretch'} is for --images and --scene-image"
        raise SwanError(problem, "for a data set, give it to swan prepare")
    if one_scale and scene_image:
        raise SwanError("--stretch folder is for --images", "a scene has one scale; leave it out")
    own, resume = chosen_shard(shard, resume)
    launched_with_others = not (shard or own.whole)
    if launched_with_others and calibrate:
        raise SwanError("torchrun: --calibrate runs in one process", "run it without torchrun")
    if launched_with_others and (texts or scene_image or existing):
        raise SwanError(
            "torchrun: only a data set or --images has a part for each process", "run it without torchrun"
        )
    workspace, display = Workspace(root), Display(quiet or own.follows)
    if index:
        load_faiss()  # now, not after an hour of encoding
    address = _database(to, root) if to else None
    if existing:
        return _use_existing(existing, index, address, display)
    source = open_source(images) if images else None
    if source and one_scale:
        with display.progress() as progress:
            rendering = rendering_of_source(source, rendering, os.cpu_count() or 1, progress)
        display.note(
            f"one scale for all images: --stretch {rendering.stretch_text or 'none, they have 8 bits'}"
        )
    named = checkpoint or workspace.find_encoder(run, dataset, foreign=bool(images or texts or scene_image))
    encoder = Encoder(named, device, precision, batch_size, vocab)
    if calibrate:
        _calibrate(encoder, workspace.dataset(prepared_dataset(workspace, calibrate)), display)
    # Milvus Lite is for one program at a time: each job of an array would lock the others out.
    if address and not own.follows and not (shard and address.is_lite):
        from swancli.milvus.collection import check_target

        check_target(address, encoder.made_by)
    name = dataset or encoder.checkpoint.origin["dataset"]
    if not (name or images or texts or scene_image):
        name = workspace.newest_dataset("embed a folder: swan embed --images DIR, or start with swan prepare")
    if not own.follows and is_shipped(named) and not checkpoint:
        warn(f"no trained run under {root}; using the shipped checkpoint")
    path, other = output, ""
    if not path:
        path, other = _output_path(workspace, encoder.checkpoint, name, source, texts, scene_image)
    if not own.follows:
        if other:
            warn(f"another file has the usual name, made from {other}; writing {path.name}")
        if source and source.not_read:
            warn(f"{source.pictures}: not read: {not_read_text(source.not_read)}")
    part = "" if own.whole else f", part {own.number} of {own.count}"
    display.note(f"embedding with {encoder.checkpoint.path} on {describe_device(encoder.device)}{part}")
    if scene_image:
        _embed_scene(encoder, scene_image, path, tile_size or (), rendering, display)
    elif texts:
        _embed_lines(encoder, texts, path, display)
    else:
        with ExitStack() as opened:
            if source:
                archive = archive_of_source(source, encoder.batch_size, missing, rendering, scene_from)
            else:
                stored = opened.enter_context(open_dataset(workspace.dataset(name), encoder.checkpoint))
                archive = archive_of_dataset(stored, encoder.batch_size)
            outcome = _embed_archive(encoder, archive, path, own, resume, display)
        if outcome.not_read and (outcome.embeddings or shard):
            warn(f"{archive.pictures}: not read: {not_read_text(outcome.not_read)}")
        if shard and not outcome.embeddings:
            _show_shard(archive.name, ShardFolder(path, own), outcome)
        if not outcome.embeddings:
            return
        if outcome.scenes:
            display.note(f"scenes: {outcome.scenes}")
        _finish(path, outcome.embeddings, outcome.skipped, index, display)
    if address:
        _upload(path, address, display)
    if texts:  # nothing that a query could find
        return
    where = f" --scene-image {scene_image}" if scene_image else ""
    where += "" if path.is_relative_to(root) else f" --embeddings {path}"
    display.note(f'next: swan query "what to look for"{where}')


def _calibrate(encoder: Encoder, dataset: Path, display: Display) -> None:
    """Sets the match threshold that is stored with the embeddings."""
    from swancli.evaluate.match_threshold import MatchThreshold, calibrated
    from swancli.store.dataset import Dataset

    with Dataset(dataset) as stored, display.progress() as progress:
        encoder.checkpoint = calibrated(encoder, stored, progress)
    match = MatchThreshold.from_plain(encoder.checkpoint.origin["match_threshold"])
    display.note(
        f"score of a match among {match.images} images: {match.among(match.images):.3f}, set on "
        f"{dataset.parent.name} ({match.miss:.1f} % missed, {match.false_alarm:.1f} % false alarms)"
    )


def _database(to: str, root: Path) -> Address:
    """The address of a vector database; raises when the package that connects to it is not installed."""
    from swancli.milvus.collection import load_pymilvus, parse_address

    load_pymilvus()
    return parse_address(to, root)


def _use_existing(path: Path, index: str | None, address: Address | None, display: Display) -> None:
    """Makes an index of existing embeddings, or copies them into a vector database."""
    if not (index or address):
        raise SwanError(
            f"--embeddings {path}: nothing to do with it",
            "say which index to make, --index hnsw, or where to copy it, --to milvus://",
        )
    if index:
        _write_index(path, index, display)
    if address:
        _upload(path, address, display)


def _embed_archive(
    encoder: Encoder, archive: Archive, path: Path, shard: Shard, resume: bool, display: Display
) -> Outcome:
    """Embeds a shard of an archive, with its progress and what is doubtful about its pictures."""
    from swancli.embed.archive import embed_archive
    from swancli.embed.shards import ShardFolder

    if not resume and ShardFolder(path, shard).begun():
        display.note("starting again; --resume would keep what an interrupted swan embed has finished")
    display.note("to resume after an interrupt, run the same command with --resume")
    with display.progress() as progress:
        outcome = embed_archive(encoder, archive, path, shard, resume=resume, progress=progress)
    for line in archive.notes.lines():
        warn(line)
    return outcome


def _finish(
    path: Path,
    embeddings: Embeddings,
    skipped: Sequence[tuple[str, str]],
    index: str | None,
    display: Display,
) -> None:
    """Reports embeddings that were written; writes their index, or removes one that no longer fits them."""
    from swancli.query.index import index_path, remove_stale_index

    show_fields(
        f"embeddings of {embeddings.dataset}",
        images=len(embeddings.image),
        captions=len(embeddings.caption),
        dimensions=embeddings.image.shape[1],
        file=path,
    )
    _warn_of_skipped(skipped)
    stale = remove_stale_index(path, embeddings.digest)
    if index:
        _write_index(path, index, display)
    elif stale:
        again = f"make a new one: swan embed --index {stale.kind} --embeddings {path}"
        warn(f"{index_path(path)}: removed, it was made for other embeddings; {again}")


def _write_index(path: Path, kind: str, display: Display) -> None:
    from swancli.query.index import build_index, index_path

    with display.progress() as progress:
        card = build_index(path, kind, progress)
    file = index_path(path)
    show_fields(
        f"{card.kind} index",
        images=card.rows,
        dimensions=card.dimensions,
        **{"recall@10": f"{card.recall:.3f}"},
        built_in=f"{card.seconds:.1f} s",
        size=decimal(file.stat().st_size),
        file=file,
    )
    show_notes(f"recall against exact search, of {card.questions} {card.asked}")


def _upload(path: Path, address: Address, display: Display) -> None:
    from swancli.milvus.upload import upload

    with display.progress() as progress:
        uploaded = upload(path, address, progress)
    show_fields(
        "uploaded",
        new=uploaded.new,
        changed=uploaded.changed,
        unchanged=uploaded.unchanged,
        images_there_now=uploaded.total,
        vector_database=address,
    )


def _embed_scene(
    encoder: Encoder, scene: Path, path: Path, sizes: Sequence[int], rendering: Rendering, display: Display
) -> None:
    from swancli.scene_image.search import embed_scene
    from swancli.scene_image.tiles import TILE_SIZES

    sizes = sizes or TILE_SIZES
    with display.progress() as progress:
        tiles = embed_scene(encoder, scene, path, sizes=sizes, rendering=rendering, progress=progress)
    show_fields(f"tiles of {scene.name}", tiles=tiles, of_pixels=", ".join(map(str, sizes)), file=path)


def _embed_lines(encoder: Encoder, texts: Path, path: Path, display: Display) -> None:
    from swancli.embed.embed import embed_texts, text_lines
    from swancli.store.embeddings import write_embeddings

    with display.progress() as progress:
        embeddings = embed_texts(encoder, text_lines(texts), str(texts), progress)
    embeddings = replace(embeddings, source=_text_source(texts))
    digest = write_embeddings(path, embeddings, digests=[])
    _finish(path, replace(embeddings, digest=digest), [], None, display)


def _output_path(
    workspace: Workspace,
    checkpoint: Checkpoint,
    dataset: str,
    images: ImageSource | None,
    texts: Path | None,
    scene: Path | None,
) -> tuple[Path, str]:
    """embeddings.h5 in the run's folder; for other things than the run's data set, its name says which.

    Those of a checkpoint that is not in a run of the root are kept in a folder of the root with its name.
    Returns also the other source that has the usual name, as `own_file` does.
    """
    folder = workspace.folder_of(checkpoint.path, checkpoint.sha256)
    if scene:
        return own_file(folder, "tiles-", scene.name, str(scene.absolute()))
    if images:
        return own_file(folder, "embeddings-", images.name, images.pictures)
    if texts:  # no image in it to search, so not under the name that `query` looks for
        return own_file(folder, "texts-", texts.name if texts.is_file() else "stdin", _text_source(texts))
    source = str(workspace.dataset(dataset).absolute())
    if dataset == checkpoint.origin["dataset"]:
        return folder / "embeddings.h5", ""
    return own_file(folder, "embeddings-of-", dataset, source)


def _text_source(texts: Path) -> str:
    return str(texts.absolute()) if texts.is_file() else "stdin://"  # also for a pipe, <(command)


def _show_shard(dataset: str, shards: ShardFolder, outcome: Outcome) -> None:
    """Shows what a shard has done, and which others are missing."""
    shard, missing = shards.shard, outcome.missing
    show_fields(
        f"shard {shard.number} of {shard.count} of {dataset}",
        images=outcome.images,
        left_out=len(outcome.skipped),
        folder=shards.folder,
    )
    show_notes(f"missing shards: {_ranges(missing)}" if missing else "no shard is missing")
    _warn_of_skipped(outcome.skipped)


def _ranges(numbers: Sequence[int]) -> str:
    """Rising numbers as text, such as 1, 3 to 5."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1] = [runs[-1][0], number]
        else:
            runs.append([number])
    return ", ".join(" to ".join(map(str, run)) for run in runs)


def _warn_of_skipped(skipped: Sequence[tuple[str, str]]) -> None:
    for name, reason in skipped:
        warn(f"left out {name}: {reason}")
