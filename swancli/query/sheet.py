"""Search results as a contact sheet, a PNG file for a paper.

swan query "many boats in a harbor" --sheet hits.png
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from os import PathLike

import numpy as np

from swancli.errors import SwanError
from swancli.evaluate.plots import Result, contact_sheet, style
from swancli.query.questions import Answer, Hit
from swancli.store.atomic import atomic_path
from swancli.store.pictures import Pictures, warn_of_absent, why_not_shown

ABSENT = np.full((8, 8, 3), 230, np.uint8)  # in place of an image
WORDS = 24  # letters in a line of a note
MOST = 100  # images, and queries, that are laid out fast enough


def write_sheet(path: str | PathLike[str], answers: Sequence[Answer], pictures: Pictures) -> None:
    """Writes the images of answers as one PNG file, each with its rank, score and scene.

    In place of an image that cannot be shown there is a note; a warning says why.

    Args:
        path: the file to write.
        answers: one or more.
        pictures: the images of the results.

    Raises:
        SwanError: there are no answers or too many images.
    """
    images = sum(len(answer.hits) for answer in answers)
    if not answers:
        raise SwanError(f"{path}: no query, so there is nothing to show")
    if images > MOST or len(answers) > MOST:
        raise SwanError(
            f"{path}: {images} images for {len(answers)} queries; a sheet shows at most {MOST} of each",
            "show fewer results: --top-k N; or write a page: --html FILE",
        )

    absent: list[str] = []

    def result(hit: Hit) -> tuple[Result, str]:
        figures = f"{hit.rank}   {hit.score:.3f}"
        try:
            return Result(pictures.pixels(hit.row), hit.scene), figures
        except SwanError as error:
            absent.append(error.problem)
            return Result(ABSENT, hit.scene), f"{figures}\n{textwrap.fill(why_not_shown(error), WORDS)}"

    with style():
        figure = contact_sheet([(answer.question, list(map(result, answer.hits))) for answer in answers])
        with atomic_path(path) as temporary:
            figure.savefig(temporary, format="png")
    warn_of_absent(path, absent)
