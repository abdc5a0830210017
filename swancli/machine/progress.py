"""How a long loop reports how far it is: a callback that every step takes."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]  # phase, how much of it is done, how much there is


def quiet(phase: str, done: int, total: int) -> None:
    """A progress callback that shows nothing."""
