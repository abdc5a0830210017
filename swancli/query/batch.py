"""Questions from standard input, one per line: `swan query --batch`."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from swancli.errors import SwanError
from swancli.query.questions import Question
from swancli.store.text import decode_text

QUESTIONS = 256  # answered at a time, at most


def question_blocks(without: tuple[str, ...]) -> Iterator[list[Question]]:
    """The lines of standard input as questions, in blocks of those that have arrived, up to `QUESTIONS`.

    So each line is answered at once where its sender waits for the answer, and a whole file is answered in
    blocks.

    Args:
        without: texts that each question keeps away from.

    Raises:
        SwanError: standard input is closed, or a line is not UTF-8; the lines before it are yielded first.
    """
    if sys.stdin is None:
        raise SwanError("standard input is closed", "give --batch its queries, one per line")
    number, rest = 0, b""
    while chunk := sys.stdin.buffer.read1(1 << 16):
        *lines, rest = (rest + chunk).split(b"\n")
        yield from _decoded(lines, number, without)
        number += len(lines)
    if rest:
        yield from _decoded([rest], number, without)


def _decoded(lines: list[bytes], before: int, without: tuple[str, ...]) -> Iterator[list[Question]]:
    """Blocks of lines as questions; `before`: number of lines that came earlier."""
    for start in range(0, len(lines), QUESTIONS):
        questions = []
        for number, line in enumerate(lines[start : start + QUESTIONS], start=before + start + 1):
            try:
                text = decode_text(line, "standard input", number).strip()
            except SwanError:
                yield questions
                raise
            questions.append(Question((text,), without))
        yield questions
