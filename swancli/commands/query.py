"""`swan query`: embeddings.h5 and a question -> ranked images."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from swancli.commands.options import DEFAULT_ROOT, CheckpointFile, CheckpointVocab, Device, Quiet, Root
from swancli.console import Display, show_answer, warn
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
        Path | None, typer.Option(help="Embeddings to search. Default: the newest.")
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
    files: Annotated[
        str | None, typer.Option(help="Only images whose whole file name fits a pattern, as 'harbor_*'.")
    ] = None,
    exact: Annotated[
        bool, typer.Option("--exact", help="Compare all images, also where there is an index.")
    ] = False,
    json_: Annotated[bool, typer.Option("--json", help="One JSON document a query, on one line.")] = False,
    device: Device = "auto",
    root: Root = DEFAULT_ROOT,
    quiet: Quiet = False,
) -> None:
    """Rank the images of an embeddings file by how well a sentence, or an image, describes them."""
    from swancli.query.search import open_search

    if sum((text is not None, image is not None, batch)) != 1:
        raise SwanError(
            "nothing to look for" if not (text or image or batch) else "more than one way to ask",
            "give a text, --image FILE, or --batch, one of them",
        )
    path = embeddings or Workspace(root).find_embeddings()
    searcher = open_search(
        path,
        device,
        checkpoint=checkpoint,
        vocab=vocab,
        scenes=scene or (),
        split=split,
        files=files,
        exact=exact,
        texts_only=image is None,
    )
    display, searched = Display(quiet), searcher.ranking.searched(top_k)
    display.note(f"searching {len(searcher.candidates)} images of {path}")
    if note := searcher.ranking.note(top_k):
        display.note(note)
    if image:
        _print_answer(searcher.ask_image(image, top_k, threshold), json_, searched)
    for questions in _question_blocks() if batch else [[text]] if text is not None else []:
        for answer in searcher.ask_texts(questions, top_k, threshold):
            if answer.error:
                problem = f"query {answer.question!r}: {answer.error.problem}"
                if not batch:
                    raise SwanError(problem, answer.error.mend)
                warn(problem)  # and an answer a line, so that answers and lines stay side by side
            if answer.unknown:
                warn(f"words that the model does not know: {', '.join(answer.unknown)}")
            _print_answer(answer, json_, searched)


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


def _print_answer(answer: Answer, as_json: bool, searched: str) -> None:
    if as_json:
        print(json.dumps({**answer.record(), "search": searched}, ensure_ascii=False), flush=True)
    else:
        show_answer(answer)
