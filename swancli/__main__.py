"""The executable `swan`, also as `python -m swancli`."""

from __future__ import annotations

import os

from swancli.machine.interrupt import end_when_interrupted


def main() -> None:
    """Runs the command line, and listens for interrupts before it imports anything large."""
    _fill_closed_streams()
    end_when_interrupted()
    from swancli.cli import main as run

    run()


def _fill_closed_streams() -> None:
    """Opens the null device for each closed standard stream, else the next file opened takes its number.

    A library that prints would then write into that file. Python's own streams remain None.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)


if __name__ == "__main__":
    main()
