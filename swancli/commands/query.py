"""`swan query`: embeddings.h5 and a question -> ranked images; a scene and a question -> places in it."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from swancli.commands.options import (
    DEFAULT_ROOT,
    LARGE_SCENE,
    CheckpointFile,
    CheckpointVocab,
    Device,
    Quiet,
    Root,
    SceneImage,
    TileSizes,
    alone,
    exclusive,
    scene_only,
)
from swancli.console import Display, print_json, show_answer, show_scene_answer, warn
from swancli.errors import SwanError
from swancli.workspace import Workspace

if TYPE_CHECKING:
    from swancli.milvus.search import CollectionSearcher
    from swancli.query.questions import Answer, Question, Scope
    from swancli.query.search import Searcher
    from swancli.store.pictures import Pictures

# Panels of `swan query --help`.
WHICH, SEEING = "What is searched", "Seeing results"

QUESTIONS = 256  # of `query --batch` at a time


def query(
    text: Annotated[
        list[str] | None, typer.Argument(help="What to look for, in words; several texts are averaged.")
    ] = None,
    without: Annotated[
        list[str] | None,
        typer.Option("--not", metavar="TEXT", help="Keep away from this; may be given several times."),
    ] = None,
    image: Annotated[Path | None, typer.Option(help="Look for what is like this image.")] = None,
    batch: Annotated[
        bool, typer.Option("--batch", help="One query a line on standard input; answers as they come.")
    ] = False,
    captions: Annotated[
        bool, typer.Option("--captions", help="Rank captions in place of images, each text once.")
    ] = False,
    embeddings: Annotated[
        Path | None, typer.Option(help="Embeddings, or a scene's tiles, to search. Default: the newest.")
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="milvus://…",
            help="Search a vector database, filled by `embed --to`, in place of a file (extra `milvus`).",
        ),
    ] = None,
    checkpoint: CheckpointFile = None,
    vocab: CheckpointVocab = None,
    top_k: Annotated[int, typer.Option("--top-k", "-k", min=1, help="Results of a query.")] = 10,
    threshold: Annotated[
        str,
        typer.Option(
            metavar="NUMBER|auto",
            help="Least score, the cosine similarity from -1 to 1. auto: as set in training, so that a query "
            "about what is not there finds no match.",
        ),
    ] = "-1",
    scene: Annotated[
        list[str] | None,
        typer.Option(help="Only images of this scene; may be given several times.", rich_help_panel=WHICH),
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="Only images of this split.", rich_help_panel=WHICH)
    ] = None,
    files: Annotated[
        str | None,
        typer.Option(
            metavar="PATTERN", help="Only images of such a name, as in 'harbor_*'.", rich_help_panel=WHICH
        ),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(
            dir_okay=False,
            help="Also write a page with the images, one file that needs no other.",
            rich_help_panel=SEEING,
        ),
    ] = None,
    sheet: Annotated[
        Path | None,
        typer.Option(dir_okay=False, help="Also write a contact sheet, a PNG file.", rich_help_panel=SEEING),
    ] = None,
    pictures: Annotated[
        Path | None,
        typer.Option(
            help="Where the images for --html and --sheet are now: a folder or a dataset.h5. "
            "Default: where they were embedded from.",
            rich_help_panel=SEEING,
        ),
    ] = None,
    exact: Annotated[
        bool,
        typer.Option(
            "--exact", help="Compare all images, also where there is an index.", rich_help_panel=WHICH
        ),
    ] = False,
    scene_image: SceneImage = None,
    geojson: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write the hits in the scene: polygons in WGS84.",
            rich_help_panel=LARGE_SCENE,
        ),
    ] = None,
    heatmap: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Write the scene's map, 0 to 1: a GeoTIFF.", rich_help_panel=LARGE_SCENE
        ),
    ] = None,
    overlay: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write a PNG: the scene, smaller, with map and hits.",
            rich_help_panel=LARGE_SCENE,
        ),
    ] = None,
    tile_size: TileSizes = None,
    json_: Annotated[bool, typer.Option("--json", help="One JSON document a query, on one line.")] = False,
    device: Device = "auto",
    root: Root = DEFAULT_ROOT,
    quiet: Quiet = False,
) -> None:
    """Rank images by how well a sentence, or an image, describes them; or captions, with --captions.

    With --scene-image it finds places of one large scene.
    """
    from swancli.query.questions import Question, Scope
    from swancli.query.search import open_search
    from swancli.store.embeddings import changed_since
    from swancli.store.pictures import Pictures, pictures_of

    if sum((bool(text), image is not None, batch)) != 1:
        raise SwanError(
            "nothing to look for" if not (text or image or batch) else "more than one way to ask",
            "give texts, --image FILE, or --batch, one of them",
        )
    exclusive(**{"not": without, "image": image})
    exclusive(sheet=sheet, captions=captions)  # it shows no text
    for words in (*(text or ()), *(without or ())):
        if not words.isprintable() and any("\ud800" <= letter <= "\udfff" for letter in words):
            raise SwanError(f"query {words!r}: not UTF-8 text", "set the terminal, or the script, to UTF-8")
    if pictures and not (html or sheet):
        raise SwanError("--pictures has nothing to act on", "add --html FILE or --sheet FILE")
    workspace, display, least = Workspace(root), Display(quiet), _least_score(threshold)
    away = tuple(without or ())
    maps = {"geojson": geojson, "heatmap": heatmap, "overlay": overlay}
    if scene_image:
        of_images = {"batch": batch, "captions": captions, "scene": scene, "split": split, "files": files}
        of_images |= {"exact": exact, "html": html, "sheet": sheet, "pictures": pictures, "from": source}
        alone("scene_image", scene_image, **of_images)
        if least is None:
            raise SwanError("--threshold auto was set for images, not for places", "give a number")
        _query_scene(
            scene_image,
            image or Question(tuple(text), away),
            top_k,
            least,
            maps,
            json_,
            display,
            workspace=workspace,
            device=device,
            checkpoint=checkpoint,
            vocab=vocab,
            kept=embeddings,
            sizes=tile_size or (),
        )
        return
    scene_only("give the scene: --scene-image FILE", **maps, tile_size=tile_size)
    if sheet:
        from swancli.evaluate.figures import require_plots

        require_plots("--sheet")
    scope = Scope("captions" if captions else "images", top_k, -1.0, tuple(scene or ()), split, files)
    asked = image or (None if batch else Question(tuple(text), away))
    options = {"checkpoint": checkpoint, "vocab": vocab, "texts_only": image is None}
    answering = (asked, away, scope, least, json_, (html, sheet), display)
    if source:
        from swancli.milvus.collection import parse_address
        from swancli.milvus.search import open_collection

        alone("from", source, embeddings=embeddings, captions=captions, exact=exact)
        address = parse_address(source, root)
        if (html or sheet) and not pictures:
            raise SwanError(
                "a vector database does not say where its images are", "say it: --pictures FOLDER"
            )
        with open_collection(address, device, workspace=workspace, **options) as searcher:
            shown = Pictures(pictures, searcher.filename) if pictures else None
            _answer(searcher, str(address), shown, *answering)
            if shown and len(searcher.datasets()) > 1:
                of = ", ".join(searcher.datasets())
                warn(
                    f"{pictures}: the results are of several data sets ({of}), so some pictures may be others"
                )
        return
    path = embeddings or workspace.find_embeddings()
    searcher = open_search(path, device, exact=exact, **options)
    if changed := changed_since(searcher.embeddings):
        warn(changed)
    shown = pictures_of(searcher.embeddings, pictures) if html or sheet else None
    _answer(searcher, str(path), shown, *answering)


def _answer(
    searcher: Searcher | CollectionSearcher,
    place: str,
    pictures: Pictures | None,
    asked: Question | Path | None,
    away: tuple[str, ...],
    scope: Scope,
    least: float | None,
    as_json: bool,
    pages: tuple[Path | None, Path | None],
    display: Display,
) -> None:
    """Prints the answers to a question, an image's file, or the lines of standard input for None.

    Args:
        place: what is searched, for a note. away: texts that each line keeps away from. least: score, None
            for auto. pages: the page and the sheet to write, with `pictures`.
    """
    if least is None:
        match = searcher.match_threshold()
        least = match.threshold
        display.note(
            f"a match from {least:.3f} on; on {match.images} validation images {match.false_alarm:.0f} % of "
            f"the queries about what is not there found one, and {match.miss:.0f} % of the others found none"
        )
    scope = replace(scope, threshold=least)
    ranking = searcher.ranking(scope)
    display.note(f"searching {ranking.size} {scope.find} of {place}")
    if note := ranking.note(scope.top_k):
        display.note(note)
    if isinstance(asked, Path):
        answers = iter([searcher.ask_image(asked, str(asked), scope)])
    else:
        blocks = [[asked]] if asked else _question_blocks(away)
        answers = chain.from_iterable(searcher.ask_texts(block, scope) for block in blocks)
    kept, closed = [], None
    try:
        for answer in answers:
            if pictures:
                kept.append(answer)
            _print_answer(answer, as_json, ranking.searched(scope.top_k), lenient=asked is None)
    except BrokenPipeError as error:
        closed = error  # the reader of the answers has gone, and may want the files all the same
    if pictures:
        _write_pages(*pages, kept, pictures, display)
    if closed:
        raise closed


def _write_pages(
    html: Path | None, sheet: Path | None, answers: list[Answer], pictures: Pictures, display: Display
) -> None:
    if html:
        from swancli.query.page import write_page

        write_page(html, answers, pictures)
        display.note(f"wrote {html}")
    if sheet:
        from swancli.query.sheet import write_sheet

        write_sheet(sheet, answers, pictures)
        display.note(f"wrote {sheet}")


def _least_score(threshold: str) -> float | None:
    """The number that --threshold gives; None for auto."""
    if threshold == "auto":
        return None
    try:
        least = float(threshold)
    except ValueError:
        least = math.nan
    if not -1 <= least <= 1:
        raise SwanError(f"--threshold {threshold}: a number from -1 to 1, or auto")
    return least


def _query_scene(
    scene: Path,
    asked: Question | Path,
    top_k: int,
    threshold: float,
    files: dict[str, Path | None],
    as_json: bool,
    display: Display,
    **options: Any,
) -> None:
    """Answers a question or an image with places of one large scene; `options`: those of `open_scene`."""
    from swancli.scene_image.search import open_scene

    def on_stale(reason: str) -> None:
        warn(f"{reason}; the scene is embedded anew")

    by_image = isinstance(asked, Path)
    options |= {"texts_only": not by_image, "on_stale": on_stale}
    with display.progress() as progress, open_scene(scene, progress=progress, **options) as searcher:
        display.note(f"searching {scene} with {searcher.encoder.checkpoint.path}")
        ask = searcher.ask_image if by_image else searcher.ask_words
        answer = ask(asked, top_k, threshold)
        written = answer.write(**files)
    if answer.unknown:
        warn(f"words that the model does not know: {', '.join(answer.unknown)}")
    if as_json:
        print_json(answer.record())
    else:
        show_scene_answer(answer)
    for path in written:
        display.note(f"wrote {path}")
    if not searcher.kept:
        display.note(f"to ask this scene again at once: swan embed --scene-image {scene}")


def _question_blocks(without: tuple[str, ...]) -> Iterator[list[Question]]:
    """The lines of standard input as questions, in blocks that are answered together."""
    from swancli.query.questions import Question

    for lines in _line_blocks():
        yield [Question((line,), without) for line in lines]


def _line_blocks() -> Iterator[list[str]]:
    """The lines of standard input, as many at a time as have come, up to `QUESTIONS`.

    So whoever waits for each answer gets it at once, and a whole file of questions is answered in blocks.
    """
    if sys.stdin is None:
        raise SwanError("standard input is closed", "give --batch its queries, a line each")
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
                encoding = "utf-8-sig" if number == 1 else "utf-8"
                questions.append(line.decode(encoding).strip())
            except UnicodeDecodeError as error:
                yield questions
                raise SwanError(
                    f"standard input: line {number} is not UTF-8 text ({error})", "convert it to UTF-8"
                ) from error
        yield questions


def _print_answer(answer: Answer, as_json: bool, searched: str, lenient: bool = False) -> None:
    """Prints an answer; one that could not be asked ends the command, unless it is one of many."""
    if answer.error:
        problem = f"query {answer.question!r}: {answer.error.problem}"
        if not lenient:
            raise SwanError(problem, answer.error.mend)
        warn(problem)  # and an answer a line, so that answers and lines stay side by side
    if answer.unknown:
        warn(f"words that the model does not know: {', '.join(answer.unknown)}")
    if as_json:
        print_json({**answer.record(), "search": searched})
    else:
        show_answer(answer)
