"""`swan query`: embeddings.h5 and a question -> ranked images; a scene and a question -> places in it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.padding import Padding
from rich.text import Text

from swancli.commands import options
from swancli.commands.options import (
    alone,
    exclusive,
    general,
    large_scene,
    option,
    option_in,
    rendering_of,
    scene_only,
)
from swancli.console import (
    Display,
    deliver,
    one_line,
    output,
    print_json,
    show_table,
    table_that_fits,
    warn,
)
from swancli.errors import SwanError
from swancli.store.text import is_text
from swancli.workspace import Workspace

if TYPE_CHECKING:
    from swancli.milvus.search import CollectionSearcher
    from swancli.query.questions import Answer, Least, Question, Scope
    from swancli.query.search import Searcher
    from swancli.scene_image.search import SceneAnswer
    from swancli.store.pictures import Pictures

    # What is searched, its name for a note, and its pictures when they are to be shown.
    Opened = tuple[Searcher | CollectionSearcher, str, Pictures | None]

which = option_in("What is searched")
seeing = option_in("Showing results")


def query(
    context: typer.Context,
    text: list[str] | None = typer.Argument(
        None, metavar="TEXT", help="Text to search for; several texts are averaged."
    ),
    without: list[str] | None = option(None, "--not TEXT", "Text to steer away from; repeatable."),
    image: Path | None = option(None, "FILE", "Search for images like this one."),
    batch: bool = option(False, "--batch", "Read one query per line from standard input."),
    captions: bool = option(False, "--captions", "Rank captions instead of images; equal texts count once."),
    top_k: int = option(10, "-k, --top-k N", "Number of results per query.", min=1),
    threshold: str = option(
        "-1",
        "NUMBER|auto",
        "Minimum score, -1 to 1. auto: set in training so that about 20 % of the queries for absent things "
        "find a match.",
    ),
    embeddings: Path | None = which(None, "FILE", "Embeddings, or tiles of a scene. Default: the newest."),
    source: str | None = which(
        None, "--from milvus://…", "Search a vector database filled by `embed --to` (extra `milvus`)."
    ),
    checkpoint: Path | None = options.CHECKPOINT,
    scene: list[str] | None = which(None, "NAME", "Only images of this scene; repeatable."),
    split: str | None = which(None, "NAME", "Only images of this split."),
    files: str | None = which(None, "PATTERN", "Only images whose file name matches, as in 'harbor_*'."),
    exact: bool = which(False, "--exact", "Compare all images, even if there is an index."),
    html: Path | None = seeing(None, "FILE", "Also write a web page, images included.", dir_okay=False),
    sheet: Path | None = seeing(None, "FILE", "Also write a contact sheet (extra `plots`).", dir_okay=False),
    pictures: Path | None = seeing(
        None, "PATH", "Where the images are now: a folder or a dataset.h5. Default: where they were embedded."
    ),
    scene_image: Path | None = options.SCENE_IMAGE,
    tile_size: list[int] | None = options.TILE_SIZES,
    geojson: Path | None = large_scene(None, "FILE", "Write the hits as polygons in WGS84."),
    heatmap: Path | None = large_scene(None, "FILE", "Write the heat map, 0 to 1, as a GeoTIFF."),
    overlay: Path | None = large_scene(None, "FILE", "Write a PNG of the scene with heat map and hits."),
    bands: str | None = option_in("Rarely needed")(
        None, "N,N,N", "Bands of --image and --scene-image to show as red, green and blue, from 1, or one."
    ),
    vocab: Path | None = options.CHECKPOINT_VOCAB,
    device: str = options.DEVICE,
    json_: bool = general(False, "--json", "Print one JSON document per query, each on one line."),
    root: Path = options.ROOT,
    quiet: bool = options.QUIET,
) -> None:
    """Rank images by how well they match a text or an image; with --captions, rank captions.

    With --scene-image, find places in one large scene.

    Examples:
        swan query "two tennis courts beside a road"
        swan query "boats" --not "a bridge" --top-k 20 --html hits.html
        swan query "a baseball field" --scene-image city.tif --overlay hits.png
    """
    from swancli.query.batch import question_blocks
    from swancli.query.questions import Question, Scope

    _check_question(text, without, image, batch)
    exclusive(sheet=sheet, captions=captions)  # it shows no text
    rendering, _ = rendering_of(bands)
    if bands and not (image or scene_image):
        raise SwanError("--bands has nothing to act on", "add --image FILE or --scene-image FILE")
    if pictures and not (html or sheet):
        raise SwanError("--pictures has nothing to act on", "add --html FILE or --sheet FILE")
    params, display = context.params, Display(quiet)
    least, away = _least_score(threshold), tuple(without or ())
    asked = image or (None if batch else Question(tuple(text), away))
    if scene_image:
        _query_scene(asked, least, params, display)
        return
    maps = {"geojson": geojson, "heatmap": heatmap, "overlay": overlay}
    scene_only("give the scene: --scene-image FILE", **maps, tile_size=tile_size)
    if sheet:
        from swancli.evaluate import require_plots

        require_plots("--sheet")
    if source:
        alone("from", source, embeddings=embeddings, captions=captions, exact=exact)
    with _database(params) if source else _file(params) as (searcher, place, images):
        scope = Scope("captions" if captions else "images", top_k, least, tuple(scene or ()), split, files)
        ranking = searcher.ranking(scope)
        display.note(f"searching {ranking.size} {scope.find} of {place}")
        if note := ranking.note(top_k):
            display.note(note)
        if least == "auto":
            display.note(_threshold_note(searcher, scope, image))
        if image:
            if bands:
                searcher.rendering = replace(searcher.rendering, bands=rendering.bands, lenient=False)
            answers = iter([searcher.ask_image(image, str(image), scope)])
        else:
            blocks = question_blocks(away) if batch else [[asked]]
            answers = chain.from_iterable(searcher.ask_texts(block, scope) for block in blocks)
        _print_answers(answers, ranking.searched(top_k), images, params)


def _check_question(
    text: list[str] | None, without: list[str] | None, image: Path | None, batch: bool
) -> None:
    """Refuses a command line without a question, with several, or with one that is not text."""
    if sum((bool(text), image is not None, batch)) != 1:
        raise SwanError(
            "nothing to search for" if not (text or image or batch) else "more than one way to ask",
            "give one of: texts, --image FILE, --batch",
        )
    exclusive(**{"not": without, "image": image})
    for words in (*(text or ()), *(without or ())):
        if not is_text(words):
            raise SwanError(f"query {words!r}: not UTF-8 text", "set the terminal, or the script, to UTF-8")


def _least_score(threshold: str) -> Least:
    """What --threshold gives."""
    if threshold == "auto":
        return "auto"
    try:
        least = float(threshold)
    except ValueError:
        least = math.nan
    if not -1 <= least <= 1:
        raise SwanError(f"--threshold {threshold}: a number from -1 to 1, or auto")
    return least


def _threshold_note(searcher: Searcher | CollectionSearcher, scope: Scope, image: Path | None) -> str:
    """The minimum score of a match in a search, and how reliable it is."""
    match, count = searcher.match_threshold, searcher.count(scope)
    least = f"minimum score of a match among {count} {scope.find}: {match.among(count):.3f}; set "
    if image or scope.find == "captions":
        return f"{least}for texts that search images, so it may not fit"
    return (
        f"{least}so that "
        f"{match.false_alarm:.0f} % of the queries about something absent find a match; on {match.images} "
        f"validation images {match.miss:.0f} % of the others found none"
    )


@contextmanager
def _file(params: dict[str, Any]) -> Iterator[Opened]:
    """Opens the embeddings file to search."""
    from swancli.query.search import open_search
    from swancli.store.embeddings import changed_since
    from swancli.store.pictures import pictures_of

    path = params["embeddings"] or Workspace(params["root"]).find_embeddings()
    searcher = open_search(path, exact=params["exact"], **_encoding(params))
    if changed := changed_since(searcher.embeddings):
        warn(changed)
    shows = params["html"] or params["sheet"]
    yield searcher, str(path), pictures_of(searcher.embeddings, params["pictures"]) if shows else None


@contextmanager
def _database(params: dict[str, Any]) -> Iterator[Opened]:
    """Opens the vector database to search; warns at the end if its pictures may be mixed up."""
    from swancli.milvus.collection import parse_address
    from swancli.milvus.search import open_collection
    from swancli.store.pictures import Pictures

    address, folder = parse_address(params["source"], params["root"]), params["pictures"]
    if (params["html"] or params["sheet"]) and not folder:
        raise SwanError("a vector database does not say where its images are", "say where: --pictures FOLDER")
    with open_collection(address, workspace=Workspace(params["root"]), **_encoding(params)) as searcher:
        yield searcher, str(address), Pictures(folder, searcher.filename) if folder else None
        if folder and len(searcher.datasets()) > 1:
            names = ", ".join(searcher.datasets())
            warn(f"{folder}: the results are of several data sets ({names}), so some pictures may be wrong")


def _encoding(params: dict[str, Any]) -> dict[str, Any]:
    """What a question is encoded with."""
    named = {name: params[name] for name in ("device", "checkpoint", "vocab")}
    return {**named, "texts_only": params["image"] is None}


def _print_answers(
    answers: Iterator[Answer], searched: str, pictures: Pictures | None, params: dict[str, Any]
) -> None:
    """Prints the answers, those of a batch as they come, and writes a page and a contact sheet of them.

    Args:
        answers: of one question, or of a batch, in which one that could not be asked is passed over.
        searched: what answered, for JSON.
        pictures: of the images, for the page and the sheet.
        params: of the command.
    """
    given = []
    for answer in answers:
        if answer.error:
            problem = f"query {answer.question!r}: {answer.error.problem}"
            if not params["batch"]:
                raise SwanError(problem, answer.error.hint)
            warn(problem)  # and print one answer per line, so that answers and lines stay side by side
        if pictures:  # a page may be given to others, who need not see where an image is
            image = params["image"]
            given.append(replace(answer, question=image.name) if image else answer)
        record = {**answer.record(), "search": searched} if params["json_"] else None
        print_answer(answer, record)
        if params["batch"] and not deliver() and not pictures:
            break  # nobody reads the other answers
    if params["html"]:
        from swancli.query.page import write_page

        write_page(params["html"], given, pictures)
    if params["sheet"]:
        from swancli.query.sheet import write_sheet

        write_sheet(params["sheet"], given, pictures)
    for path in filter(None, (params["html"], params["sheet"])):
        Display(params["quiet"]).note(f"wrote {path}")


def _query_scene(
    asked: Question | Path | None, least: Least, params: dict[str, Any], display: Display
) -> None:
    """Answers a question, or an image's file, with places of one large scene."""
    from swancli.scene_image.search import open_scene

    for_images = ("batch", "captions", "scene", "split", "files", "exact", "html", "sheet", "pictures")
    others = {name: params[name] for name in for_images}
    alone("scene_image", params["scene_image"], **others, **{"from": params["source"]})
    if least == "auto":
        raise SwanError("--threshold auto is for images, not for places", "give a number")

    def on_stale(reason: str) -> None:
        warn(f"{reason}; the scene is embedded again")

    scene, root = params["scene_image"], Workspace(params["root"])
    tiles = {"kept": params["embeddings"], "sizes": params["tile_size"] or (), "on_stale": on_stale}
    tiles["rendering"], _ = rendering_of(params["bands"])
    with (
        display.progress() as progress,
        open_scene(scene, root, **tiles, **_encoding(params), progress=progress) as searcher,
    ):
        display.note(f"searching {scene} with {searcher.encoder.checkpoint.path}")
        ask = searcher.ask_image if isinstance(asked, Path) else searcher.ask_words
        answer = ask(asked, params["top_k"], least)
        written = answer.write(**{name: params[name] for name in ("geojson", "heatmap", "overlay")})
    print_answer(answer, answer.record() if params["json_"] else None)
    for path in written:
        display.note(f"wrote {path}")
    if not searcher.kept:
        display.note(f"to search this scene again without waiting: swan embed --scene-image {scene}")


def print_answer(answer: Answer | SceneAnswer, record: dict[str, Any] | None = None) -> None:
    """Prints an answer: its record as JSON if that is given, else a table of its hits."""
    from swancli.query.questions import Answer

    if answer.unknown:
        warn(f"words that the model does not know: {', '.join(answer.unknown)}")
    if record:
        print_json(record)
    elif not answer.hits:
        output().print(Text(f"no match for {answer.question!r}"))
    elif isinstance(answer, Answer):
        _show_images(answer)
    else:
        _show_places(answer)


def _show_images(answer: Answer) -> None:
    """A table of the ranked images of one question; lines where the terminal is too narrow for it."""
    console = output()
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
    console.print(Text(one_line(answer.question), style="bold"), soft_wrap=True)
    heads = ["rank", "score", "file", "scene", "caption"]
    table = table_that_fits(console, heads, rows, left=["file", "scene"], texts=["caption"])
    if table:
        console.print(table)
        return
    for rank, score, file, *about in rows:
        figures = f"{rank:>4}  {score}"
        if len(figures) > console.width:
            figures = f"{rank}\n{score}"
        console.print(Text(f"{figures}  {one_line(file)}"), soft_wrap=True)
        if any(about):
            console.print(
                Padding(Text(" · ".join(filter(None, about)), style="dim"), (0, 0, 0, 6), expand=False)
            )


def _show_places(answer: SceneAnswer) -> None:
    """A table of the best places of one large scene."""
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
