"""Word vectors for a vocabulary, from a file in GloVe's text format.

    swan vocab --dataset ucm --vectors glove.6B.300d.txt

Such a file has one line per word, the word and then its numbers, 400,000 to 2,200,000 lines in all. It is
read once from start to end, and only the lines of needed words are parsed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import BinaryIO

import numpy as np

from swancli.errors import SwanError
from swancli.machine.progress import Progress

WORD_DIM = 300  # GloVe's width
REPORT_EVERY = 10_000  # lines


@dataclass(frozen=True)
class WordVectors:
    """Initial word vectors of a vocabulary.

    vectors: float32 (V, 300), zero for words without one.
    has_vector: bool (V).
    retried: number of vectors found only under the word's second spelling.
    """

    vectors: np.ndarray
    has_vector: np.ndarray
    retried: int = 0


def second_try(word: str) -> str:
    """A word as the published code looks it up again: without `-`, `.` and `'`, and only up to a `/`."""
    return word.replace("-", "").replace(".", "").replace("'", "").split("/")[0]


def read_word_vectors(path: str | PathLike[str], words: Sequence[str], progress: Progress) -> WordVectors:
    """The vectors of words; a word without one is looked up again as `second_try` spells it.

    If several lines have the same word, the first counts. A word in the file may contain spaces.

    Args:
        path: of the text file.
        words: of the vocabulary, in its order.
        progress: called with megabytes read.

    Raises:
        SwanError: the file cannot be read, or a needed line is not a word and 300 numbers; names the line.
    """
    path = Path(path)
    needed = {form.encode() for word in words for form in (word, second_try(word)) if form}
    found: dict[bytes, np.ndarray] = {}
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            for number, line in _lines(file, size, progress):
                # The first field shows whether the line can be needed; the token itself may be longer.
                token = line.split(b" ", 1)[0].rstrip(b"\r\n")
                if number == 1:
                    _check_width(path, line)
                if token in needed and token not in found:
                    fields = line.rstrip().rsplit(b" ", WORD_DIM)
                    if fields[0] == token:
                        found[token] = _numbers(path, number, fields[1:])
    except OSError as error:
        raise SwanError(f"--vectors {path}: {error.strerror or error}") from error
    if not found:
        raise SwanError(
            f"--vectors {path}: none of the {len(words)} words is in it",
            "give a text file of lines with one lower-case word and 300 numbers",
        )
    direct = [found.get(word.encode()) for word in words]
    retried = [found.get(second_try(word).encode()) for word in words]
    best = [again if first is None else first for first, again in zip(direct, retried, strict=True)]
    has_vector = np.array([vector is not None for vector in best])
    vectors = np.stack([np.zeros(WORD_DIM, np.float32) if vector is None else vector for vector in best])
    return WordVectors(vectors, has_vector, int(has_vector.sum()) - sum(v is not None for v in direct))


def _lines(file: BinaryIO, size: int, progress: Progress) -> Iterator[tuple[int, bytes]]:
    """Each line with its number, from 1; progress in megabytes."""
    total, read = max(1, size // 1_000_000), 0
    for number, line in enumerate(file, start=1):
        read += len(line)
        if number % REPORT_EVERY == 0:
            progress("word vectors, MB", min(total, read // 1_000_000), total)
        yield number, line
    progress("word vectors, MB", total, total)


def _check_width(path: Path, line: bytes) -> None:
    """Raises for a file of another width or kind from its first line, before the rest is read."""
    fields = line.rstrip().split(b" ")
    if len(fields) == 2 and all(field.isdigit() for field in fields):
        return  # word2vec's text format starts with the numbers of words and dimensions
    width = len(fields) - 1
    if width < WORD_DIM or (width > WORD_DIM and _is_number(fields[1])):
        raise SwanError(
            f"--vectors {path}, line 1: not a word and {WORD_DIM} numbers, but {width} after the first field",
            f"give a text file of {WORD_DIM}-dimensional vectors, such as glove.6B.300d.txt",
        )


def _is_number(field: bytes) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True


def _numbers(path: Path, line: int, fields: list[bytes]) -> np.ndarray:
    """float32 (300,) of the fields after a token."""
    try:
        vector = np.array([float(field) for field in fields], np.float32)
    except ValueError:
        vector = np.empty(0, np.float32)
    if len(vector) != WORD_DIM or not np.isfinite(vector).all():
        raise SwanError(
            f"--vectors {path}, line {line}: not a word and {WORD_DIM} numbers",
            "the file is damaged: download it again",
        )
    return vector
