"""The executable `swan`, also as `python -m swancli`; and that an interrupt ends it wherever it comes."""

from __future__ import annotations

import os
import signal
import sys
import threading
from contextlib import suppress
from types import FrameType
from typing import Any

INTERRUPTED = 130
HEARD_WITHIN = 0.5  # seconds


def main() -> None:
    """Runs the command line; interrupted while that is still being imported it ends with 130 too."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not ignored, as in the background
        signal.signal(signal.SIGINT, _interrupt)
        sys.unraisablehook = _pass_over_interrupts
    try:
        from swancli.cli import main as run

        run()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def _interrupt(number: int, frame: FrameType | None) -> None:
    if _within_import_of_torch(frame):
        # C++ that is on the stack there aborts on an exception. What is at hand is left as by a kill.
        with suppress(OSError, RuntimeError):
            print("interrupted", file=sys.stderr, flush=True)
            sys.stdout.flush()
        os._exit(INTERRUPTED)
    again = threading.Timer(HEARD_WITHIN, _interrupt_unless_heard)
    again.daemon = True
    again.start()
    raise KeyboardInterrupt


def _within_import_of_torch(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_name == "<module>" and frame.f_globals.get("__name__") == "torch":
            return True
        frame = frame.f_back
    return False


def _interrupt_unless_heard() -> None:
    """Interrupts again where nothing came of the first time.

    Libraries swallow an interrupt in a bare `except` while they are imported, and so does Python while it
    tidies an object up. While it is on its way up, through what is to be closed, the main thread handles it.
    """
    handled = sys._current_exceptions().get(threading.main_thread().ident)
    handled = handled[1] if isinstance(handled, tuple) else handled  # a triple before Python 3.12
    if not isinstance(handled, KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)


def _pass_over_interrupts(unraisable: Any) -> None:
    """Says nothing of an interrupt that Python swallowed, since it comes again; of all else what is usual."""
    if unraisable.exc_type is not KeyboardInterrupt:
        sys.__unraisablehook__(unraisable)


if __name__ == "__main__":
    main()
