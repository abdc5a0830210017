"""`swan query`: embeddings.h5 and a question -> ranked images; a scene and a question -> places in it."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.padding import Padding
from rich.text import Text

from swancli.commands.options import (
    CHECKPOINT,
    CHECKPOINT_VOCAB,
    DEVICE,
    QUIET,
    ROOT,
    SCENE_IMAGE,
    TILE_SIZES,
    alone,
    exclusive,
    general,
    large_scene,
    option,
    option_in,
    scene_only,
)
from swancli.console import Display, output, print_json, show_table, table_that_fits, warn
from swancli.errors import SwanError
from swancli.workspace import Workspace

if TYPE_CHECKING:
    from swancli.milvus.search import CollectionSearcher
    from swancli.query.questions import Answer, Question, Scope
    from swancli.query.search import Searcher
    from swancli.scene_image.search import SceneAnswer
    from swancli.store.pictures import Pictures

which = option_in("What is searched")
seeing = option_in("Seeing results")


def query(
    context: typer.Context,
    text: list[str] | None = typer.Argument(
        None, metavar="TEXT", help="What to look for, in words; several texts are averaged."
    ),
    without: list[str] | None = option(None, "--not TEXT", "Keep away from this; repeatable."),
    image: Path | None = option(None, "--image FILE", "Look for images like this one."),
    batch: bool = option(
        False, "--batch", "Read queries from standard input, one per line; answer each at once."
    ),
    captions: bool = option(False, "--captions", "Rank captions in place of images, each text once."),
    top_k: int = option(10, "-k, --top-k N", "Number of results per query.", min=1),
    threshold: str = option(
        "-1",
        "--threshold NUMBER|auto",
        "Least score, a cosine from -1 to 1. auto: as found in training, so that a query about something "
        "absent finds no match.",
    ),
    embeddings: Path | None = which(
        None, "--embeddings FILE", "Embeddings, or tiles of a scene. Default: the newest."
    ),
    source: str | None = which(
        None,
        "--from milvus://…",
        "Search a vector database in place of a file, filled by `embed --to` (extra `milvus`).",
    ),
    checkpoint: Path | None = CHECKPOINT,
    scene: list[str] | None = which(None, "--scene NAME", "Only images of this scene; repeatable."),
    split: str | None = which(None, "--split NAME", "Only images of this split."),
    files: str | None = which(
        None, "--files PATTERN", "Only images with such a file name, as in 'harbor_*'."
    ),
    exact: bool = which(False, "--exact", "Compare all images, even where there is an index."),
    html: Path | None = seeing(
        None, "--html FILE", "Also write a web page with the images, in one file.", dir_okay=False
    ),
    sheet: Path | None = seeing(
        None, "--sheet FILE", "Also write a contact sheet, a PNG (extra `plots`).", dir_okay=False
    ),
    pictures: Path | None = seeing(
        None,
        "--pictures PATH",
        "Where the images are now, a folder or a dataset.h5. Default: where they were then.",
    ),
    scene_image: Path | None = SCENE_IMAGE,
    tile_size: list[int] | None = TILE_SIZES,
    geojson: Path | None = large_scene(None, "--geojson FILE", "Write the hits as polygons in WGS84."),
    heatmap: Path | None = large_scene(None, "--heatmap FILE", "Write the heat map, 0 to 1, as a GeoTIFF."),
    overlay: Path | None = large_scene(
        None, "--overlay FILE", "Write a PNG of the scene with heat map and hits."
    ),
    vocab: Path | None = CHECKPOINT_VOCAB,
    device: str = DEVICE,
    json_: bool = general(False, "--json", "Print one JSON document per query, each on one line."),
    root: Path = ROOT,
    quiet: bool = QUIET,
) -> None:
    """Rank images by how well a sentence, or an image, describes them; or captions, with --captions.

    With --scene-image it finds places in one large scene.

    Examples:
        swan query "two tennis courts beside a road"
        swan query "boats" --not "a bridge" --top-k 20 --html hits.html
        swan query "a baseball field" --scene-image city.tif --overlay hits.png
    """
    from swancli.query.questions import Question, Scope

    _check_question(text, without, image, batch)
    exclusive(sheet=sheet, captions=captions)  # it shows no text
    if pictures and not (html or sheet):
        raise SwanError("--pictures has nothing to act on", "add --html FILE or --sheet FILE")
    display, least, away = Display(quiet), _least_score(threshold), tuple(without or ())
    asked = image or (None if batch else Question(tuple(text), away))
    if scene_image:
        _query_scene(asked, least, context.params, display)
        return
    maps = {"geojson": geojson, "heatmap": heatmap, "overlay": overlay}
    scene_only("give the scene: --scene-image FILE", **maps, tile_size=tile_size)
    if sheet:
        from swancli.evaluate import require_plots

        require_plots("--sheet")
    scope = Scope("captions" if captions else "images", top_k, -1.0, tuple(scene or ()), split, files)
    answering = (asked, away, scope, least, json_, (html, sheet), display)
    if source:
        alone("from", source, embeddings=embeddings, captions=captions, exact=exact)
        _query_database(answering, context.params)
    else:
        _query_file(answering, context.params)


def _check_question(
    text: list[str] | None, without: list[str] | None, image: Path | None, batch: bool
) -> None:
    """Refuses a command line without a question, with several, or with one that is not text."""
    if sum((bool(text), image is not None, batch)) != 1:
        raise SwanError(
            "nothing to look for" if not (text or image or batch) else "more than one way to ask",
            "give texts, --image FILE or --batch, one of them",
        )
    exclusive(**{"not": without, "image": image})
    for words in (*(text or ()), *(without or ())):
        if not words.isprintable() and any("\ud800" <= letter <= "\udfff" for letter in words):
            raise SwanError(f"query {words!r}: not UTF-8 text", "set the terminal, or the script, to UTF-8")


def _query_file(answering: tuple[Any, ...], params: dict[str, Any]) -> None:
    """Answers from an embeddings file; `answering`: what `_answer` takes after the pictures."""
    from swancli.query.search import open_search
    from swancli.store.embeddings import changed_since
    from swancli.store.pictures import pictures_of

    path = params["embeddings"] or Workspace(params["root"]).find_embeddings()
    searcher = open_search(path, params["device"], exact=params["exact"], **_encoding(params))
    if changed := changed_since(searcher.embeddings):
        warn(changed)
    shows = params["html"] or params["sheet"]
    pictures = pictures_of(searcher.embeddings, params["pictures"]) if shows else None
    _answer(searcher, str(path), pictures, *answering)


def _query_database(answering: tuple[Any, ...], params: dict[str, Any]) -> None:
    """Answers from a vector database; `answering`: what `_answer` takes after the pictures."""
    from swancli.milvus.collection import parse_address
    from swancli.milvus.search import open_collection
    from swancli.store.pictures import Pictures

    address, folder = parse_address(params["source"], params["root"]), params["pictures"]
    if (params["html"] or params["sheet"]) and not folder:
        raise SwanError("a vector database does not say where its images are", "say it: --pictures FOLDER")
    workspace = Workspace(params["root"])
    with open_collection(address, params["device"], workspace=workspace, **_encoding(params)) as searcher:
        pictures = Pictures(folder, searcher.filename) if folder else None
        _answer(searcher, str(address), pictures, *answering)
        if pictures and len(searcher.datasets()) > 1:
            names = ", ".join(searcher.datasets())
            warn(f"{folder}: the results are of several data sets ({names}), so some pictures may be others")


def _encoding(params: dict[str, Any]) -> dict[str, Any]:
    """What a question is encoded with."""
    return {name: params[name] for name in ("checkpoint", "vocab")} | {"texts_only": params["image"] is None}


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
        place: what is searched, for a note.
        away: texts that each line of standard input keeps away from.
        least: the least score; None for auto.
        pages: the page and the sheet to write, with `pictures`.
    """
    from swancli.query.batch import question_blocks

    if least is None:
        match = searcher.match_threshold()
        least = match.threshold
        display.note(
            f"a match scores {least:.3f} or more; on {match.images} validation images "
            f"{match.false_alarm:.0f} % of the queries about something absent had one, and "
            f"{match.miss:.0f} % of the others had none"
        )
    scope = replace(scope, threshold=least)
    ranking = searcher.ranking(scope)
    display.note(f"searching {ranking.size} {scope.find} of {place}")
    if note := ranking.note(scope.top_k):
        display.note(note)
    if isinstance(asked, Path):
        answers = iter([searcher.ask_image(asked, str(asked), scope)])
    else:
        blocks = [[asked]] if asked else question_blocks(away)
        answers = chain.from_iterable(searcher.ask_texts(block, scope) for block in blocks)
    kept, closed = [], None
    try:
        for answer in answers:
            if pictures:
                kept.append(answer)
            _print_answer(answer, as_json, ranking.searched(scope.top_k), lenient=asked is None)
    except BrokenPipeError as error:
        closed = error  # the reader of the answers has gone, but may still want the files
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
    asked: Question | Path | None, least: float | None, params: dict[str, Any], display: Display
) -> None:
    """Answers a question, or an image's file, with places of one large scene."""
    from swancli.scene_image.search import open_scene

    for_images = ("batch", "captions", "scene", "split", "files", "exact", "html", "sheet", "pictures")
    others = {name: params[name] for name in for_images}
    alone("scene_image", params["scene_image"], **others, **{"from": params["source"]})
    if least is None:
        raise SwanError("--threshold auto was found for images, not for places", "give a number")

    def on_stale(reason: str) -> None:
        warn(f"{reason}; the scene is embedded again")

    scene, by_image = params["scene_image"], isinstance(asked, Path)
    options = {name: params[name] for name in ("device", "checkpoint", "vocab")}
    options |= {"workspace": Workspace(params["root"]), "kept": params["embeddings"]}
    options |= {"sizes": params["tile_size"] or (), "texts_only": not by_image, "on_stale": on_stale}
    with display.progress() as progress, open_scene(scene, progress=progress, **options) as searcher:
        display.note(f"searching {scene} with {searcher.encoder.checkpoint.path}")
        ask = searcher.ask_image if by_image else searcher.ask_words
        answer = ask(asked, params["top_k"], least)
        written = answer.write(**{name: params[name] for name in ("geojson", "heatmap", "overlay")})
    if answer.unknown:
        warn(f"words that the model does not know: {', '.join(answer.unknown)}")
    if params["json_"]:
        print_json(answer.record())
    else:
        show_scene_answer(answer)
    for path in written:
        display.note(f"wrote {path}")
    if not searcher.kept:
        display.note(f"to ask about this scene again without waiting: swan embed --scene-image {scene}")


def _print_answer(answer: Answer, as_json: bool, searched: str, lenient: bool = False) -> None:
    """Prints an answer; a question that could not be asked ends the command, unless it is one of many."""
    if answer.error:
        problem = f"query {answer.question!r}: {answer.error.problem}"
        if not lenient:
            raise SwanError(problem, answer.error.hint)
        warn(problem)  # and print one answer per line, so that answers and lines stay side by side
    if answer.unknown:
        warn(f"words that the model does not know: {', '.join(answer.unknown)}")
    if as_json:
        print_json({**answer.record(), "search": searched})
    else:
        show_answer(answer)


def show_answer(answer: Answer) -> None:
    """A table of the ranked images of one question; lines where the terminal is too narrow for it."""
    console = output()
    if not answer.hits:
        console.print(Text(f"no match for {answer.question!r}"))
        return
    several = len({hit.dataset for hit in answer.hits}) > 1
    rows = [
        [
            str(hit.rank),
            f"{hit.score:.4f}",
            f"{hit.dataset}: {hit.filename}" if several else hit.filename,
            hit.scene or "",
            hit.captions[0] if hit.captions else "",
        ]
        for hit in answer.hits
    ]
    console.print(Text(answer.question, style="bold"))
    heads = ["rank", "score", "file", "scene", "caption"]
    table = table_that_fits(console, heads, rows, left=["file", "scene"], texts=["caption"])
    if table:
        console.print(table)
        return
    for rank, score, file, *about in rows:
        console.print(Text(f"{rank:>4}  {score}  {file}"), soft_wrap=True)
        if any(about):
            console.print(
                Padding(Text(" · ".join(filter(None, about)), style="dim"), (0, 0, 0, 6), expand=False)
            )


def show_scene_answer(answer: SceneAnswer) -> None:
    """A table of the best places of one large scene."""
    if not answer.hits:
        output().print(Text(f"no match for {answer.question!r}"))
        return
    placed = bool(answer.tiles.frame.crs)
    digits = 6 if placed else 0
    axes = ("longitude", "latitude") if placed else ("x", "y")
    rows = []
    for hit in answer.hits:
        left, top, right, bottom = hit.box
        centre = (f"{number:.{digits}f}" for number in hit.centre)
        size = f"{right - left} x {bottom - top}"
        rows.append([str(hit.rank), f"{hit.score:.4f}", f"{hit.heat:.2f}", *centre, size])
    heads = ["rank", "score", "heat", *axes, "size in pixels"]
    notes = [f"{answer.scene}; {answer.about()['coordinates']}"]
    show_table(answer.question, heads, rows, notes=notes)
