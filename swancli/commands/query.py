"""`swan query`: embeddings.h5 and a question -> ranked images; a scene and a question -> places in it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from swancli.commands.options import (
    DEFAULT_ROOT,
    CheckpointFile,
    CheckpointVocab,
    Device,
    Quiet,
    Root,
    SceneImage,
    TileSizes,
    exclusive,
)
from swancli.console import Display, show_answer, show_scene_answer, warn
from swancli.errors import SwanError
from swancli.workspace import Workspace

if TYPE_CHECKING:
    from swancli.query.search import Answer

QUESTIONS = 256  # of `query --batch` at a time


def query(
    text: Annotated[str | None, typer.Argument(help="What to look for, in words.")] = None,
    image: Annotated[Path | None, typer.Option(help="Look for images like this one.")] = None,
    batch: Annotated[
        bool, typer.Option("--batch", help="One query a line on standard input; answers as they come.")
    ] = False,
    embeddings: Annotated[
        Path | None, typer.Option(help="Embeddings, or a scene's tiles, to search. Default: the newest.")
    ] = None,
    checkpoint: CheckpointFile = None,
    vocab: CheckpointVocab = None,
    top_k: Annotated[int, typer.Option("--top-k", "-k", min=1, help="Results of a query.")] = 10,
    threshold: Annotated[
        float, typer.Option(min=-1.0, max=1.0, help="Least score, the cosine similarity from -1 to 1.")
    ] = -1.0,
    scene: Annotated[
        list[str] | None, typer.Option(help="Only images of this scene; may be given several times.")
    ] = None,
    split: Annotated[str | None, typer.Option(help="Only images of this split.")] = None,
    scene_image: SceneImage = None,
    geojson: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the hits in the scene: polygons in WGS84.")
    ] = None,
    heatmap: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the scene's map, 0 to 1: a GeoTIFF."),
    ] = None,
    overlay: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a PNG: the scene, smaller, with map and hits.")
    ] = None,
    tile_size: TileSizes = None,
    json_: Annotated[bool, typer.Option("--json", help="One JSON document a query, on one line.")] = False,
    device: Device = "auto",
    root: Root = DEFAULT_ROOT,
    quiet: Quiet = False,
) -> None:
    """Rank the images of an embeddings file by how well a sentence, or an image, describes them.

    With --scene-image it finds places of one large scene.
    """
    from swancli.query.search import open_search

    if sum((text is not None, image is not None, batch)) != 1:
        raise SwanError(
            "nothing to look for" if not (text or image or batch) else "more than one way to ask",
            "give a text, --image FILE, or --batch, one of them",
        )
    files = {"geojson": geojson, "heatmap": heatmap, "overlay": overlay}
    if scene_image:
        exclusive(scene_image=scene_image, batch=batch)
        exclusive(scene_image=scene_image, scene=scene)
        exclusive(scene_image=scene_image, split=split)
        _query_scene(
            scene_image,
            text,
            image,
            top_k,
            threshold,
            files,
            json_,
            Display(quiet),
            workspace=Workspace(root),
            device=device,
            checkpoint=checkpoint,
            vocab=vocab,
            kept=embeddings,
            sizes=tile_size or (),
        )
        return
    for option, value in {**files, "tile-size": tile_size}.items():
        if value:
            raise SwanError(f"--{option} is of a large scene", "give the scene: --scene-image FILE")
    path = embeddings or Workspace(root).find_embeddings()
    searcher = open_search(
        path,
        device,
        checkpoint=checkpoint,
        vocab=vocab,
        scenes=scene or (),
        split=split,
        texts_only=image is None,
    )
    Display(quiet).note(f"searching {len(searcher.candidates)} images of {path}")
    if image:
        _print_answer(searcher.ask_image(image, top_k, threshold), json_)
    for questions in _question_blocks() if batch else [[text]] if text is not None else []:
        for answer in searcher.ask_texts(questions, top_k, threshold):
            if answer.error:
                problem = f"query {answer.question!r}: {answer.error.problem}"
                if not batch:
                    raise SwanError(problem, answer.error.mend)
                warn(problem)  # and an answer a line, so that answers and lines stay side by side
            if answer.unknown:
                warn(f"words that the model does not know: {', '.join(answer.unknown)}")
            _print_answer(answer, json_)


def _query_scene(
    scene: Path,
    text: str | None,
    image: Path | None,
    top_k: int,
    threshold: float,
    files: dict[str, Path | None],
    as_json: bool,
    display: Display,
    **options: Any,
) -> None:
    """Answers with places of one large scene; `options` are those of `open_scene`."""
    from swancli.query.scene import open_scene

    def on_stale(reason: str) -> None:
        warn(f"{reason}; the scene is embedded anew")

    options |= {"texts_only": image is None, "on_stale": on_stale}
    with display.progress() as progress, open_scene(scene, progress=progress, **options) as searcher:
        display.note(f"searching {scene} with {searcher.checkpoint.path}")
        answer = (searcher.ask_image if image else searcher.ask_text)(image or text, top_k, threshold)
        written = answer.write(**files)
    if answer.unknown:
        warn(f"words that the model does not know: {', '.join(answer.unknown)}")
    if as_json:
        print(json.dumps(answer.record(), ensure_ascii=False), flush=True)
    else:
        show_scene_answer(answer)
    for path in written:
        display.note(f"wrote {path}")
    if not searcher.kept:
        display.note(f"to ask this scene again at once: swan embed --scene-image {scene}")


def _question_blocks() -> Iterator[list[str]]:
    """The lines of standard input, as many at a time as have come, up to `QUESTIONS`.

    So whoever waits for each answer gets it at once, and a whole file of questions is answered in blocks.
    """
    number, begun = 0, []
    while chunk := sys.stdin.buffer.read1(1 << 16):
        first, *others = chunk.split(b"\n")
        begun.append(first)
        if others:
            lines = [b"".join(begun), *others[:-1]]
            begun = others[-1:]
            yield from _decoded(lines, number)
            number += len(lines)
    if any(begun):
        yield from _decoded([b"".join(begun)], number)


def _decoded(lines: list[bytes], before: int) -> Iterator[list[str]]:
    """Blocks of lines as text; `before` tells how many lines came earlier."""
    for start in range(0, len(lines), QUESTIONS):
        questions = []
        for number, line in enumerate(lines[start : start + QUESTIONS], start=before + start + 1):
            try:
                questions.append(line.decode("utf-8").strip())
            except UnicodeDecodeError as error:
                yield questions
                raise SwanError(
                    f"standard input: line {number} is not UTF-8 text ({error})", "convert it to UTF-8"
                ) from error
        yield questions


def _print_answer(answer: Answer, as_json: bool) -> None:
    if as_json:
        print(json.dumps(answer.record(), ensure_ascii=False), flush=True)
    else:
        show_answer(answer)
