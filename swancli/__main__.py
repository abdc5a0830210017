"""The executable `swan`, also as `python -m swancli`."""

import _thread
import sys
import threading
from typing import Any


def main() -> None:
    """Runs the command line; an interrupt while it is still being imported ends with 130 too."""
    sys.unraisablehook = _heard
    try:
        from swancli.cli import main as run

        run()
    except KeyboardInterrupt:
        sys.exit(130)


def _heard(unraisable: Any) -> None:
    """Interrupts again, soon, when the first time was while Python tidied up an object, which swallows it."""
    if unraisable.exc_type is KeyboardInterrupt:
        threading.Timer(0.05, _thread.interrupt_main).start()
    else:
        sys.__unraisablehook__(unraisable)


if __name__ == "__main__":
    main()
