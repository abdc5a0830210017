"""Captions to embed, one per line, from a text file or standard input: `swan embed --texts FILE`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from swancli.errors import SwanError
from swancli.store.text import is_text


def text_lines(path: Path) -> Iterator[str]:
    """The lines of a UTF-8 file, or of standard input for `-`, without blank ones.

    Raises:
        SwanError: the file cannot be read, or a line is not text; names the line.
    """
    from_input = str(path) == "-"
    if from_input and sys.stdin is None:
        raise SwanError("--texts -: standard input is closed", "give it one caption per line")
    name = "--texts -" if from_input else str(path)
    number = 0
    try:
        with sys.stdin.buffer if from_input else path.open("rb") as file:
            for number, data in enumerate(file, start=1):
                line = data.decode("utf-8-sig" if number == 1 else "utf-8").strip()
                if not is_text(line):
                    raise SwanError(
                        f"{name}: line {number} contains NUL bytes, so it is not text", "remove them"
                    )
                if line:
                    yield line
    except OSError as error:
        raise SwanError(f"{name}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SwanError(f"{name}: line {number} is not UTF-8 text", "save it as UTF-8") from error
