"""Reading text and JSON files, with errors that name the file and the line; writing JSON."""

from __future__ import annotations

import json
import re
from os import PathLike
from pathlib import Path
from typing import Any

from swancli.errors import SwanError, os_error
from swancli.store.atomic import atomic_path


def is_text(value: str) -> bool:
    """Whether a string can be stored; NUL and lone surrogates, which JSON allows, cannot."""
    return "\0" not in value and not any("\ud800" <= letter <= "\udfff" for letter in value)


def printable(text: str) -> str:
    """Text that every encoding of Unicode takes: bytes of a file name that are not UTF-8 become `\\xe9`."""

    def written(found: re.Match[str]) -> str:
        number = ord(found[0])
        return f"\\x{number - 0xDC00:02x}" if 0xDC80 <= number <= 0xDCFF else f"\\u{number:04x}"

    return re.sub("[\ud800-\udfff]", written, text)


def read_text(path: str | PathLike[str]) -> str:
    """The text of a UTF-8 file, without its byte-order mark.

    Raises:
        SwanError: the file is absent or not UTF-8 text; names the line.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise os_error(error, path) from error
    return decode_text(data, str(path))


def decode_text(data: bytes, name: str, first_line: int = 1) -> str:
    """UTF-8 text without its byte-order mark.

    Args:
        data: the bytes.
        name: where they come from, for errors.
        first_line: number of their first line there.

    Raises:
        SwanError: it is not UTF-8 text; names the line.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + first_line
        raise SwanError(f"{name}: line {line} is not UTF-8 text", "save it as UTF-8") from error
    if b"\0" in data:
        line = data.count(b"\n", 0, data.index(b"\0")) + first_line
        raise SwanError(f"{name}: line {line} contains NUL bytes, so it is not text", "save it as UTF-8")
    return text


def read_json(path: str | PathLike[str], hint: str) -> Any:
    """The content of a JSON file.

    Args:
        path: the file.
        hint: of the error, if it is not JSON.

    Raises:
        SwanError: as `read_text`; or it is not JSON, then it names line and column.
    """
    text = read_text(path)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # also a number of more digits than Python reads
        reason = "nested too deeply" if isinstance(error, RecursionError) else error
        raise SwanError(f"{path}: not valid JSON ({reason})", hint) from error


def write_json(path: str | PathLike[str], content: Any) -> None:
    """Writes a JSON file, whole or not at all; file names that are not UTF-8 are escaped."""
    text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def has_word(text: str) -> bool:
    """Whether a text contains a letter or a digit of any script."""
    return any(map(str.isalnum, text))
