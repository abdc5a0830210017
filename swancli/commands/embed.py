"""`swan embed`: a data set, a folder of images or lines of text -> embeddings.h5; a scene -> its tiles."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from swancli.commands.options import (
    DEFAULT_ROOT,
    BatchSize,
    CheckpointFile,
    CheckpointVocab,
    DatasetName,
    Device,
    IndexKind,
    Missing,
    Precision,
    Quiet,
    Root,
    RunName,
    SceneImage,
    TileSizes,
    alone,
    exclusive,
    scene_only,
)
from swancli.console import (
    Display,
    show_embedded,
    show_indexed,
    show_shard,
    show_tiles,
    show_uploaded,
    warn,
)
from swancli.errors import SwanError
from swancli.store.text import is_text
from swancli.workspace import SHIPPED, Workspace, is_shipped, tiles_name

if TYPE_CHECKING:
    from swancli.embed.shards import Shard
    from swancli.embed.sources import ImageSource
    from swancli.milvus.collection import Address
    from swancli.model.checkpoint import Checkpoint
    from swancli.model.encoder import Encoder
    from swancli.store.embeddings import Embeddings


def embed(
    run: RunName = None,
    dataset: DatasetName = None,
    checkpoint: CheckpointFile = None,
    vocab: CheckpointVocab = None,
    images: Annotated[
        str | None,
        typer.Option(
            metavar="DIR",
            help="Embed a folder of images, an address (s3://bucket/tiles) or tars ('tiles-{00..99}.tar') in "
            "place of a data set.",
        ),
    ] = None,
    texts: Annotated[
        Path | None, typer.Option(help="Embed lines of text, one caption a line; - reads standard input.")
    ] = None,
    scene_image: SceneImage = None,
    tile_size: TileSizes = None,
    missing: Annotated[
        Missing, typer.Option(help="What to do about unreadable images of --images.")
    ] = "error",
    output: Annotated[
        Path | None, typer.Option(dir_okay=False, help="File to write. Default: embeddings.h5 of the run.")
    ] = None,
    index: Annotated[
        IndexKind | None,
        typer.Option(help="Also write a FAISS index, which `query` then asks (extra `search`)."),
    ] = None,
    standing: Annotated[
        Path | None,
        typer.Option("--embeddings", help="With --index or --to: take this file, encode nothing."),
    ] = None,
    to: Annotated[
        str | None,
        typer.Option(
            metavar="milvus://…",
            help="Also bring the images' embeddings into a vector database, which `query --from` then asks "
            "(extra `milvus`). milvus:// alone: milvus.db under the root.",
        ),
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="I/N",
            help="Embed part I of N alone, as in a job array; the last one joins them. Under torchrun each "
            "process has its part.",
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with an interrupted `swan embed` of the same images.")
    ] = False,
    batch_size: BatchSize = None,
    device: Device = "auto",
    precision: Annotated[
        Precision,
        typer.Option(help="bf16: faster on GPUs and on CPUs that multiply it; embeddings change a little."),
    ] = "fp32",
    root: Root = DEFAULT_ROOT,
    quiet: Quiet = False,
) -> None:
    """Encode a data set, a folder of images or lines of text into embeddings.h5; a large scene into tiles."""
    from swancli.embed.shards import chosen_shard
    from swancli.embed.sources import open_source
    from swancli.machine.device import describe_device
    from swancli.model.encoder import Encoder
    from swancli.query.index import load_faiss

    exclusive(run=run, checkpoint=checkpoint)
    exclusive(dataset=dataset, images=images, texts=texts, scene_image=scene_image)
    for option, value in (("texts", texts), ("scene_image", scene_image)):
        alone(option, value, index=index, to=to, shard=shard, resume=resume)
    encoding = {"run": run, "checkpoint": checkpoint, "vocab": vocab, "output": output}
    alone("embeddings", standing, **encoding, dataset=dataset, images=images, shard=shard, resume=resume)
    if not scene_image:
        scene_only("give the scene: --scene-image FILE", tile_size=tile_size)
    own, resume = chosen_shard(shard, resume)
    launched_with_others = not (shard or own.whole)
    if launched_with_others and (texts or scene_image or standing):
        raise SwanError("torchrun: only a data set or --images has a part for each process", "run it alone")
    workspace, display = Workspace(root), Display(quiet or own.follows)
    if index:
        load_faiss()  # now, not after an hour of encoding
    address = _database(to, root) if to else None
    if standing:
        return _bring(standing, index, address, display)
    source = open_source(images) if images else None
    named = checkpoint or workspace.find_encoder(run, dataset, foreign=bool(images or texts or scene_image))
    encoder = Encoder(named, device, precision, batch_size, vocab)
    # Lite is for one program at a time: each job of an array would keep the others from it.
    if address and not own.follows and not (shard and address.is_lite):
        from swancli.milvus.collection import check_target

        check_target(address, encoder.made_by)
    name = dataset or encoder.checkpoint.origin["dataset"]
    if not (name or images or texts or scene_image):
        name = workspace.newest_dataset()
    if not own.follows and is_shipped(named) and not checkpoint:
        warn(
            f"{root}: no run on real images there, so the checkpoint that comes with swan encodes "
            "(README, Without training)"
        )
    path = output or _output_path(workspace, encoder.checkpoint, name, source, texts, scene_image)
    part = "" if own.whole else f", part {own.number} of {own.count}"
    display.note(f"embedding with {encoder.checkpoint.path} on {describe_device(encoder.device)}{part}")
    if scene_image:
        _embed_scene(encoder, scene_image, path, tile_size or (), display)
    elif texts:
        _embed_lines(encoder, texts, path, display)
    else:
        what = source or workspace.dataset(name)
        if not _embed_archive(encoder, what, missing, path, own, index, display, bool(shard), resume):
            return
    if address:
        _upload(path, address, display)
    where = f" --scene-image {scene_image}" if scene_image else ""
    where += "" if path.is_relative_to(root) else f" --embeddings {path}"
    display.note(f'next: swan query "what to look for"{where}')


def _database(to: str, root: Path) -> Address:
    """The address of a vector database, once what talks to it is known to be there."""
    from swancli.milvus.collection import load_pymilvus, parse_address

    load_pymilvus()
    return parse_address(to, root)


def _bring(path: Path, index: str | None, address: Address | None, display: Display) -> None:
    """Makes an index of embeddings that stand, or brings them into a vector database."""
    if not (index or address):
        raise SwanError(
            f"--embeddings {path}: nothing to do with it",
            "say which index: --index hnsw, or where to bring it: --to milvus://",
        )
    if index:
        _write_index(path, index, display)
    if address:
        _upload(path, address, display)


def _embed_archive(
    encoder: Encoder,
    images: ImageSource | Path,
    missing: str,
    path: Path,
    shard: Shard,
    index: str | None,
    display: Display,
    tell: bool,
    resume: bool,
) -> bool:
    """Embeds a shard of a source or a data set; returns whether the embeddings are whole now.

    Args:
        tell: what became of the shard where others are still missing.
    """
    from swancli.embed.archive import archive_of_dataset, archive_of_source, embed_archive
    from swancli.embed.embed import open_dataset
    from swancli.embed.shards import ShardFolder

    folder = ShardFolder(path, shard)
    if not resume and folder.begun():
        display.note("begins anew; --resume would go on with what an interrupted swan embed left")
    with ExitStack() as stack:
        if isinstance(images, Path):
            stored = stack.enter_context(open_dataset(images, encoder.checkpoint))
            archive = archive_of_dataset(stored, encoder.batch_size)
        else:
            archive = archive_of_source(images, encoder.batch_size, missing)
        display.note("to resume after an interrupt, run the same command with --resume")
        progress = stack.enter_context(display.progress())
        outcome = embed_archive(encoder, archive, path, shard, resume=resume, progress=progress)
    if outcome.embeddings:
        _finish(path, outcome.embeddings, outcome.digest, outcome.skipped, index, display)
        return True
    if tell:
        show_shard(archive.name, outcome)
    return False


def _finish(
    path: Path,
    embeddings: Embeddings,
    digest: str,
    skipped: list[tuple[str, str]],
    index: str | None,
    display: Display,
) -> None:
    """Shows embeddings that are written; writes their index or, for want of one, removes an earlier one."""
    from swancli.query.index import index_path, remove_stale_index

    show_embedded(path, embeddings, skipped)
    stale = remove_stale_index(path, digest)
    if index:
        _write_index(path, index, display)
    elif stale:
        again = f"make another: swan embed --index {stale.kind} --embeddings {path}"
        warn(f"{index_path(path)}: removed, it was made for other embeddings; {again}")


def _write_index(path: Path, kind: str, display: Display) -> None:
    from swancli.query.index import build_index, index_path

    with display.progress() as progress:
        card = build_index(path, kind, progress)
    show_indexed(index_path(path), card)


def _upload(path: Path, address: Address, display: Display) -> None:
    from swancli.milvus.upload import upload

    with display.progress() as progress:
        uploaded = upload(path, address, progress)
    show_uploaded(str(address), uploaded)
    if uploaded.by_vector:
        warn(f"{path}: without digests of its pictures, as of an earlier swan; embedded anew they come twice")


def _embed_scene(encoder: Encoder, scene: Path, path: Path, sizes: Sequence[int], display: Display) -> None:
    from swancli.scene_image.search import embed_scene
    from swancli.scene_image.tiles import TILE_SIZES

    sizes = sizes or TILE_SIZES
    with display.progress() as progress:
        tiles = embed_scene(encoder, scene, path, sizes=sizes, progress=progress)
    show_tiles(path, scene, tiles, sizes)


def _embed_lines(encoder: Encoder, texts: Path, path: Path, display: Display) -> None:
    from swancli.embed.embed import embed_texts
    from swancli.store.embeddings import write_embeddings

    with display.progress() as progress:
        embeddings = embed_texts(encoder, _lines(texts), str(texts), progress)
    _finish(path, embeddings, write_embeddings(path, embeddings), [], None, display)


def _output_path(
    workspace: Workspace,
    checkpoint: Checkpoint,
    dataset: str,
    images: ImageSource | None,
    texts: Path | None,
    scene: Path | None,
) -> Path:
    """embeddings.h5 beside the checkpoint; with a name in it for all but the run's own data set."""
    if scene:
        return _folder(workspace, checkpoint) / tiles_name(scene)
    if images:
        name = f"embeddings-{images.name}"
    elif texts:  # no image in it to search, so not under the name that `query` looks for
        name = "texts-stdin" if str(texts) == "-" else f"texts-{texts.name}"
    else:
        name = "embeddings" if dataset == checkpoint.origin["dataset"] else f"embeddings-of-{dataset}"
    return _folder(workspace, checkpoint) / f"{name}.h5"


def _folder(workspace: Workspace, checkpoint: Checkpoint) -> Path:
    """Where what a checkpoint makes stands: beside it.

    What the shipped checkpoint makes does not stand beside it, in the package, but under the root.
    """
    return workspace.root / SHIPPED if is_shipped(checkpoint.path) else checkpoint.path.parent


def _lines(path: Path) -> Iterator[str]:
    """The lines of a file, or of standard input for -, without blank ones."""
    if str(path) == "-" and sys.stdin is None:
        raise SwanError("--texts -: standard input is closed", "give it one caption a line")
    name = "--texts -" if str(path) == "-" else str(path)
    try:
        with sys.stdin.buffer if str(path) == "-" else path.open("rb") as file:
            for number, data in enumerate(file, start=1):
                line = data.decode("utf-8-sig" if number == 1 else "utf-8").strip()
                if not is_text(line):
                    raise SwanError(
                        f"{name}: line {number} holds NUL bytes, so it is no text", "take them out"
                    )
                if line:
                    yield line
    except OSError as error:
        raise SwanError(f"{name}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SwanError(f"{name}: line {number} is not UTF-8 text", "save it as UTF-8") from error
