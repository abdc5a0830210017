"""Word vectors for a vocabulary, from a file in GloVe's text format.

    swan vocab --dataset ucm --vectors glove.6B.300d.txt

Such a file has one line per word, the word and then its numbers, 400,000 to 2,200,000 lines in all. Its first
line shows how many numbers a word has. The file is read once, and only the lines of needed words are parsed.
Letters in shapes: V words, E numbers per word.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from os import PathLike
from pathlib import Path
from typing import BinaryIO

import numpy as np

from swancli.errors import SwanError, os_error
from swancli.machine.progress import Progress

WORD_DIM = 300  # numbers per word if no file gives vectors; GloVe's most usual width
REPORT_EVERY = 10_000  # lines


@dataclass(frozen=True)
class WordVectors:
    """Initial word vectors of a vocabulary.

    vectors: float32 (V, E), zero for words without one.
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

    If several lines have the same word, the first counts. A word in the file may contain spaces. The file may
    start with the head of word2vec's text format.

    Args:
        path: of the text file.
        words: of the vocabulary, in its order.
        progress: called with megabytes read.

    Raises:
        SwanError: the file cannot be read, its first line shows no width, or a needed line has another width
            or a field that is not a finite number; names the line.
    """
    path = Path(path)
    needed = {form.encode() for word in words for form in (word, second_try(word)) if form}
    found: dict[bytes, np.ndarray] = {}
    width = 0
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            for number, line in _lines(file, size, progress):
                if number == 1:
                    width, is_head = _width(path, line)
                    if is_head:
                        continue
                # The first field shows whether the line can be needed.
                word = line.split(b" ", 1)[0].rstrip(b"\r\n")
                if word in needed and word not in found:
                    fields = line.rstrip().split(b" ")[1:]
                    # Text between the first field and the numbers belongs to a longer word.
                    if all(map(_is_number, fields[:-width])):
                        found[word] = _vector(path, number, fields, width)
    except OSError as error:
        raise os_error(error, f"--vectors {path}") from error
    if not found:
        raise SwanError(
            f"--vectors {path}: none of the {len(words)} words is in it",
            "give a text file of lines with one lower-case word and its numbers",
        )
    direct = [found.get(word.encode()) for word in words]
    retried = [found.get(second_try(word).encode()) for word in words]
    best = [again if first is None else first for first, again in zip(direct, retried, strict=True)]
    has_vector = np.array([vector is not None for vector in best])
    vectors = np.stack([np.zeros(width, np.float32) if vector is None else vector for vector in best])
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


def _width(path: Path, line: bytes) -> tuple[int, bool]:
    """The width that the first line shows, and whether the line is the head of word2vec's text format.

    A head is two whole numbers: of words and of dimensions. In any other line, the numbers at its end are
    counted. Its first field belongs to the word, even if it is a number. If the line starts with `route 66`,
    its width comes out one too large; then the next needed line is refused.
    """
    head = re.fullmatch(rb"\d+ (\d{1,9})", line.rstrip())
    after = line.rstrip().split(b" ")[1:]
    width = int(head[1]) if head else sum(1 for _ in takewhile(_is_number, reversed(after)))
    if not width:
        raise SwanError(
            f"--vectors {path}, line 1: not a word and its numbers",
            "give a text file of word vectors, such as glove.6B.300d.txt",
        )
    return width, head is not None


def _is_number(field: bytes) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True


def _vector(path: Path, line: int, fields: list[bytes], width: int) -> np.ndarray:
    """float32 (E,) of the fields after a word; the error names the line."""
    if len(fields) != width:
        raise SwanError(
            f"--vectors {path}, line {line}: {len(fields)} dimensions, but {width} in line 1",
            "the file is damaged: download it again, or remove the line",
        )
    try:
        vector = np.array([float(field) for field in fields], np.float32)
    except ValueError:
        vector = np.full(width, np.nan, np.float32)
    if not np.isfinite(vector).all():
        raise SwanError(
            f"--vectors {path}, line {line}: not a word and {width} numbers",
            "the file is damaged: download it again",
        )
    return vector
