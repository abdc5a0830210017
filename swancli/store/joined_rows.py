"""Rows that lie in several files, seen as one array: embeddings of pieces and shards, joined without copying.

Letters in shapes: N rows, D embedding, R runs of rows that follow each other in one part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import h5py
import numpy as np

OPEN_PARTS = 64  # at a time; each holds a file open


@dataclass(frozen=True)
class Runs:
    """Where each of N rows lies: run r is the rows starts[r] to starts[r + 1], in part[r] from first[r] on.

    starts: int64 (R + 1,), the last one N; part, first: int64 (R,).
    """

    starts: np.ndarray
    part: np.ndarray
    first: np.ndarray

    @classmethod
    def of(cls, lengths: Sequence[int], place: np.ndarray | None = None) -> Runs:
        """The runs of rows that lie in parts.

        Args:
            lengths: rows of each part. place: int64 (N,), where each row stands among those of all parts, one
                after the other; None where all stand there once, in order.
        """
        borders = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        if place is None:
            part = np.flatnonzero(np.diff(borders))
            return cls(np.append(borders[part], borders[-1]), part, np.zeros(len(part), np.int64))
        part = np.searchsorted(borders, place, "right") - 1
        breaks = np.flatnonzero((np.diff(place) != 1) | (np.diff(part) != 0)) + 1
        starts = np.concatenate([np.zeros(min(1, len(place)), np.int64), breaks])
        return cls(np.append(starts, len(place)), part[starts], place[starts] - borders[part[starts]])

    def find(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """int64 (n,), int64 (n,): the part that each of some rows lies in, and its row there."""
        run = np.searchsorted(self.starts, rows, "right") - 1
        return self.part[run], self.first[run] + rows - self.starts[run]

    def check(self, lengths: Sequence[int], rows: int) -> None:
        """Raises a ValueError unless each of so many rows lies in one of so many parts, of these lengths."""
        part, first, count = self.part, self.first, np.diff(self.starts)
        covered = len(self.starts) and self.starts[0] == 0 and self.starts[-1] == rows and (count > 0).all()
        if not covered or len(part) != len(count) or len(first) != len(count):
            raise ValueError(f"its runs are not those of {rows} rows")
        if len(part) and not (part.min() >= 0 and part.max() < len(lengths) and first.min() >= 0):
            raise ValueError("its runs lead to shards that are not there")
        if (first + count > np.asarray(lengths, np.int64)[part]).any():
            raise ValueError("its runs lead to rows that its shards do not have")

    def __iter__(self) -> Iterator[tuple[int, int, int, int]]:
        """First row of each run and the one after its last, its part, and its first row there."""
        stops = self.starts[1:].tolist()
        return zip(self.starts[:-1].tolist(), stops, self.part.tolist(), self.first.tolist(), strict=True)


class JoinedRows:
    """float32 (N, D), read where rows of it are asked for.

    Args:
        width: D. open_part: from the number of a part to its rows, float32 (n, D). file, name: where they are
            joined, of an array in an open file.
    """

    def __init__(
        self,
        runs: Runs,
        width: int,
        open_part: Callable[[int], np.ndarray],
        file: h5py.File | None = None,
        name: str = "",
    ) -> None:
        self.runs = runs
        self.shape = (int(runs.starts[-1]), width)
        self.file, self.name = file, name
        self._open_part = lru_cache(OPEN_PARTS)(open_part)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        """float32 (n, D): the rows of a slice, or those of int64 (n,)."""
        if isinstance(rows, slice):
            rows = np.arange(*rows.indices(len(self)))
        part, place = self.runs.find(rows)
        found = np.empty((len(rows), self.shape[1]), np.float32)
        for number in np.unique(part).tolist():
            own = part == number
            found[own] = self._open_part(number)[place[own]]
        return found


def virtual_layout(rows: JoinedRows, files: Sequence[str], lengths: Sequence[int], name: str) -> Any:
    """What h5py makes a virtual array from.

    Args:
        files: the names of the parts, as HDF5 is to look for them. lengths: their rows. name: of the array in
            each of them.
    """
    layout = h5py.VirtualLayout(rows.shape, np.float32)
    width = rows.shape[1]
    sources = [
        h5py.VirtualSource(file, name, (length, width)) for file, length in zip(files, lengths, strict=True)
    ]
    for start, stop, part, first in rows.runs:
        layout[start:stop] = sources[part][first : first + stop - start]
    return layout
