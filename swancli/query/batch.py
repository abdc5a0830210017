"""Questions from standard input, one per line: `swan query --batch`."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from swancli.errors import SwanError
from swancli.query.questions import Question

QUESTIONS = 256  # answered at a time, at most


def question_blocks(without: tuple[str, ...]) -> Iterator[list[Question]]:
    """The lines of standard input as questions, in blocks of those that have arrived, up to `QUESTIONS`.

    So whoever waits for each answer gets it at once, and a whole file of questions is answered in blocks.

    Args:
        without: texts that each question keeps away from.

    Raises:
        SwanError: standard input is closed, or a line is not UTF-8; the lines before it come first.
    """
    if sys.stdin is None:
        raise SwanError("standard input is closed", "give --batch its queries, one per line")
    number, begun = 0, []
    while chunk := sys.stdin.buffer.read1(1 << 16):
        first, *others = chunk.split(b"\n")
        begun.append(first)
        if others:
            lines = [b"".join(begun), *others[:-1]]
            begun = others[-1:]
            yield from _decoded(lines, number, without)
            number += len(lines)
    if any(begun):
        yield from _decoded([b"".join(begun)], number, without)


def _decoded(lines: list[bytes], before: int, without: tuple[str, ...]) -> Iterator[list[Question]]:
    """Blocks of lines as questions; `before`: how many lines came earlier."""
    for start in range(0, len(lines), QUESTIONS):
        questions = []
        for number, line in enumerate(lines[start : start + QUESTIONS], start=before + start + 1):
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
            except UnicodeDecodeError as error:
                yield questions
                raise SwanError(
                    f"standard input: line {number} is not UTF-8 text ({error})", "convert it to UTF-8"
                ) from error
            questions.append(Question((text,), without))
        yield questions
