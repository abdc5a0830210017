"""Word vectors for the words of a vocabulary, out of a file in GloVe's text format.

    swan vocab --dataset ucm --vectors glove.6B.300d.txt

Such a file has one word a line and its numbers after it, 400,000 to 2,200,000 lines in all. It is read once,
from front to back, and only the lines of words that are needed are taken apart.
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
    """What word vectors a vocabulary starts from.

    vectors: float32 (V, 300), zero where there is none. has_vector: bool (V). retried: how many of them were
    found by the second try alone.
    """

    vectors: np.ndarray
    has_vector: np.ndarray
    retried: int = 0


def second_try(word: str) -> str:
    """How the published code writes a word that it does not find: without `-`, `.` and `'`, up to a `/`."""
    return word.replace("-", "").replace(".", "").replace("'", "").split("/")[0]


def read_word_vectors(path: str | PathLike[str], words: Sequence[str], progress: Progress) -> WordVectors:
    """The vectors of words; a word that has none is looked up once more as `second_try` writes it.

    Where a word stands in several lines the first counts. A token may hold spaces, as some do.

    Raises:
        SwanError: the file cannot be read, or a line that is needed holds no word and 300 numbers; names it.
    """
    path = Path(path)
    needed = {form.encode() for word in words for form in (word, second_try(word)) if form}
    found: dict[bytes, np.ndarray] = {}
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            for number, line in _lines(file, size, progress):
                # The first field tells whether the line can be needed; the token itself may be longer.
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
            "give a text file of one lower-case word and 300 numbers a line",
        )
    vectors = np.zeros((len(words), WORD_DIM), np.float32)
    direct = np.zeros(len(words), bool)
    retried = np.zeros(len(words), bool)
    for row, word in enumerate(words):
        direct[row] = word.encode() in found
        retried[row] = not direct[row] and second_try(word).encode() in found
        if direct[row] or retried[row]:
            vectors[row] = found[(word if direct[row] else second_try(word)).encode()]
    return WordVectors(vectors, direct | retried, int(retried.sum()))


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
    """Refuses a file of another width or kind by its first line, before the rest of it is read."""
    fields = line.rstrip().split(b" ")
    if len(fields) == 2 and all(field.isdigit() for field in fields):
        return  # word2vec's text format opens with the numbers of words and of dimensions
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
            "the file is damaged: fetch it again",
        )
    return vector
