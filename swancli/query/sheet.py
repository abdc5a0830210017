"""Answers as a contact sheet, a PNG file for a paper.

swan query "many boats in a harbor" --sheet hits.png
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from swancli.evaluate.plots import Result, contact_sheet, style
from swancli.pictures import Pictures
from swancli.query.search import Answer, Hit
from swancli.store import atomic_path


def write_sheet(path: Path, answers: Sequence[Answer], pictures: Pictures) -> None:
    """Writes the images of some answers as one PNG file, each with its rank, score and scene.

    Raises:
        SwanError: a picture is gone or unreadable.
    """

    def result(hit: Hit) -> tuple[Result, str]:
        return Result(pictures.pixels(hit.row), hit.scene), f"{hit.rank}   {hit.score:.3f}"

    with style():
        figure = contact_sheet([(answer.question, list(map(result, answer.hits))) for answer in answers])
        with atomic_path(path) as temporary:
            figure.savefig(temporary, format="png")
