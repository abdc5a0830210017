"""Tables as sources, format `table`: columns filename and caption, optionally split and scene."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from swancli.errors import SwanError, import_error, outside_cause
from swancli.prepare.entries import Entry, check_caption, check_filename, check_optional, check_split
from swancli.store.text import read_text

COLUMNS = ["filename", "caption", "split", "scene"]
# A Parquet file may unpack to this many bytes, and in addition to this many times its own size.
SMALL_TABLE, MOST_GROWTH = 2**28, 64
ROW_BYTES = 64  # that a row takes beside its texts
BATCH = 4096  # rows unpacked at a time
TABLES = {".csv": ",", ".tsv": "\t", ".parquet": None, ".pq": None}


def read_table(path: Path) -> list[Entry]:
    """The entries of a table; rows with the same file name are captions of one image."""
    entries: dict[str, Entry] = {}
    for row, (filename, caption, split, scene) in _read_rows(path):
        place = f"{path}: row {row}"
        filename = check_filename(filename, f"{place}: filename")
        entry = Entry(
            filename,
            (check_caption("" if caption is None else caption, f"{place}: caption", filename),),
            check_split(split, f"{place}: split"),
            check_optional(scene, f"{place}: scene"),
        )
        entries[filename] = _join(entries[filename], entry, place) if filename in entries else entry
    return list(entries.values())


def _join(entry: Entry, later: Entry, place: str) -> Entry:
    for name in ("split", "scene"):
        first, second = getattr(entry, name), getattr(later, name)
        if first and second and first != second:
            raise SwanError(f"{place}: {name} of {entry.filename} is {second}, but {first} in an earlier row")
    captions = entry.captions + later.captions
    return Entry(entry.filename, captions, entry.split or later.split, entry.scene or later.scene)


def _read_rows(path: Path) -> Iterator[tuple[int, tuple[Any, ...]]]:
    """Row number (2 is below the header) and filename, caption, split and scene of each row with a value."""
    separator = TABLES[path.suffix.lower()]
    frame = _read_parquet(path) if separator is None else _read_csv(path, separator)
    frame.columns = [str(name).strip().lower() for name in frame.columns]
    missing = [name for name in ("filename", "caption") if name not in frame.columns]
    if missing:
        found = ", ".join(frame.columns)
        raise SwanError(f"{path}: no column {' and no column '.join(missing)} (it has {found})", "add it")
    repeated = frame.columns[frame.columns.duplicated()]
    if len(repeated):
        raise SwanError(f"{path}: two columns are named {repeated[0]}", "keep one of them")
    frame = frame.reindex(columns=COLUMNS).astype(object)
    frame = frame.where(frame.notna(), None)
    for number, row in enumerate(frame.itertuples(index=False, name=None), start=2):
        if any(value not in (None, "") for value in row):
            yield number, row


def _read_csv(path: Path, separator: str) -> Any:
    import pandas

    try:
        text = io.StringIO(read_text(path))
        # Blank lines are kept here and skipped later, so that row numbers are those of the file.
        frame = pandas.read_csv(text, sep=separator, dtype=object, na_filter=False, skip_blank_lines=False)
    except (pandas.errors.ParserError, pandas.errors.EmptyDataError) as error:
        raise SwanError(
            f"{path}: not a readable table ({error})", "put captions with commas in quotes"
        ) from error
    if not isinstance(frame.index, pandas.RangeIndex):
        raise SwanError(
            f"{path}: rows have more values than the header", "put captions with commas in quotes"
        )
    return frame


def _read_parquet(path: Path) -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise import_error(error, f"{path}: Parquet", "parquet") from error
    try:
        schema = pyarrow.parquet.read_schema(path)
        wanted = [name for name in schema.names if name.strip().lower() in COLUMNS]
        texts = [
            field.name for field in schema if field.name in wanted and pyarrow.types.is_string(field.type)
        ]
        with pyarrow.parquet.ParquetFile(path, read_dictionary=texts) as file:
            return _frame(path, file, schema.names, wanted)
    except (OSError, ValueError, KeyError, TypeError, pyarrow.ArrowException) as error:
        reason = str(error).partition("\n")[0]
        damaged = SwanError(f"{path}: not a readable Parquet file ({reason})", "is the download whole?")
        raise outside_cause(error, path) or damaged from error


def _frame(path: Path, file: Any, names: list[str], wanted: list[str]) -> Any:
    """The wanted columns of a Parquet file, pandas metadata ignored; without rows if one is not there.

    Raises:
        SwanError: they are far larger than the file, which can contain a caption once and repeat it without
            end.
    """
    import pandas

    missing = {"filename", "caption"} - {name.strip().lower() for name in wanted}
    if missing or len(set(wanted)) < len(wanted):
        return pandas.DataFrame(columns=names)
    most = SMALL_TABLE + MOST_GROWTH * path.stat().st_size
    groups = [file.metadata.row_group(number) for number in range(file.metadata.num_row_groups)]
    parts = [group.column(number) for group in groups for number in range(group.num_columns)]
    left = most - sum(
        part.total_uncompressed_size for part in parts if part.path_in_schema.partition(".")[0] in wanted
    )
    columns: list[list[Any]] = [[] for _ in wanted]
    for batch in file.iter_batches(BATCH, columns=wanted) if left > 0 else ():
        batch.validate(full=True)  # finds invalid UTF-8, which otherwise fails when a cell is read
        left -= ROW_BYTES * batch.num_rows
        for column, values in zip(columns, batch.columns, strict=True):
            cells = _cells(values)
            left -= sum(len(cell) for cell in cells if isinstance(cell, str))
            column += cells
        if left <= 0:
            break
    if left <= 0:
        hint = "split it into several tables, or write it as CSV"
        raise SwanError(f"{path}: unpacks to more than {most / 1e9:.1f} GB", hint)
    return pandas.DataFrame(dict(zip(wanted, columns, strict=True)), dtype=object)


def _cells(values: Any) -> list[Any]:
    """The values of a column of a batch; equal texts of a dictionary are one object."""
    if not hasattr(values, "dictionary"):
        return values.to_pylist()
    distinct = values.dictionary.to_pylist()
    return [None if index is None else distinct[index] for index in values.indices.to_pylist()]
