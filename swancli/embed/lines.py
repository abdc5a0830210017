"""Captions to embed, one per line, from a text file or standard input: `swan embed --texts FILE`."""

from __future__ import annotations

import sys
from pathlib import Path

from swancli.errors import SwanError
from swancli.store.text import decode_text, read_text


def text_lines(path: Path) -> list[str]:
    """The lines of a UTF-8 file, or of standard input for `-`, without blank ones.

    Raises:
        SwanError: the file cannot be read, or a line is not UTF-8 text; names the line.
    """
    if str(path) != "-":
        text = read_text(path)
    elif sys.stdin is None:
        raise SwanError("--texts -: standard input is closed", "give it one caption per line")
    else:
        text = decode_text(sys.stdin.buffer.read(), "--texts -")
    return [line for line in map(str.strip, text.split("\n")) if line]
