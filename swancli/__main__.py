"""The executable `swan`, also as `python -m swancli`."""

from __future__ import annotations

from swancli.machine.interrupt import end_when_interrupted


def main() -> None:
    """Runs the command line, and listens for interrupts before it imports anything large."""
    end_when_interrupted()
    from swancli.cli import main as run

    run()


if __name__ == "__main__":
    main()
