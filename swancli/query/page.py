"""Search results as HTML: one file with its images embedded, or the page of `swan serve`.

swan query "many boats in a harbor" --html hits.html
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from os import PathLike
from typing import Any

from jinja2 import Environment, Template
from markupsafe import Markup

from swancli.errors import SwanError
from swancli.query.questions import Answer, Hit
from swancli.store.atomic import atomic_path
from swancli.store.pictures import NO_IMAGE, Pictures, warn_of_absent, why_not_shown
from swancli.store.text import printable

SIDE = 384  # pixels, of a picture on the page


@dataclass(frozen=True)
class ResultCard:
    """One result on a page.

    id: unique on the page.
    hit: the result.
    picture: address of the image, "" for none.
    absent: the reason why there is none.
    whole: address of a larger picture.
    similar: address of a search for similar images.
    """

    id: str
    hit: Hit
    picture: str = ""
    absent: str = ""
    whole: str = ""
    similar: str = ""


@dataclass(frozen=True)
class Section:
    """One answer on a page.

    answer: the answer.
    cards: its results.
    picture: address of the query image, "" for none.
    """

    answer: Answer
    cards: Sequence[ResultCard]
    picture: str = ""

    @property
    def notes(self) -> list[str]:
        """Notes above the results."""
        answer = self.answer
        notes = [answer.error.problem] if answer.error else []
        if answer.unknown:
            notes.append(f"words that the model does not know: {', '.join(answer.unknown)}")
        if not (answer.hits or answer.error):
            notes.append("no match")
        return notes


def write_page(path: str | PathLike[str], answers: Sequence[Answer], pictures: Pictures) -> None:
    """Writes answers as one self-contained HTML file. It names no path of this machine.

    A picture that cannot be shown is replaced by a note; a warning says why.

    Args:
        path: the file to write.
        answers: one or more.
        pictures: the images of the results.
    """
    absent: list[str] = []
    sections = [
        Section(answer, [_embedded(f"q{number}-{hit.rank}", hit, pictures, absent) for hit in answer.hits])
        for number, answer in enumerate(answers, start=1)
    ]
    title = answers[0].question if len(answers) == 1 else f"{len(answers)} queries"
    with atomic_path(path) as temporary:
        temporary.write_text(render_page(title, sections), encoding="utf-8")
    warn_of_absent(path, absent)


def _embedded(identity: str, hit: Hit, pictures: Pictures, absent: list[str]) -> ResultCard:
    """A result with its picture; the reason why there is none is added to `absent`."""
    if hit.row < 0:
        return ResultCard(identity, hit, absent=NO_IMAGE)
    try:
        data = base64.b64encode(pictures.jpeg(hit.row, SIDE)).decode()
    except SwanError as error:
        absent.append(error.problem)
        return ResultCard(identity, hit, absent=why_not_shown(error))
    return ResultCard(identity, hit, f"data:image/jpeg;base64,{data}")


def render_page(
    title: str, sections: Sequence[Section], *, form: Mapping[str, Any] | None = None, message: str = ""
) -> str:
    """HTML with all texts escaped and a policy that loads nothing from elsewhere.

    Args:
        title: of the page.
        sections: the answers.
        form: values of the search form; None leaves the form out.
        message: a line above the results.
    """
    page = _template().render(
        title=title,
        sections=sections,
        form=form,
        message=message,
        style=Markup(_part("page.css")),
        script=Markup(_part("page.js")),
    )
    return printable(page)


@cache
def _part(name: str) -> str:
    return files("swancli.query").joinpath(name).read_text(encoding="utf-8")


def _hash_source(text: str) -> str:
    """The hash that allows an inline text in the content security policy."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


@cache
def _template() -> Template:
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["hash_source"] = _hash_source
    return environment.from_string(_part("page.html"))
