"""The progress callback that long loops take."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]  # phase, items done, items in all


def quiet(phase: str, done: int, total: int) -> None:
    """A progress callback that shows nothing."""
