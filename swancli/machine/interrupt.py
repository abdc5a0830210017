"""An interrupt (Ctrl-C) ends the process with 130 within two seconds, whatever it is doing.

A kill at any moment leaves no damaged file, and so an interrupt need not unwind the stack. It only tidies up.
A thread does that, because Python runs signal handlers in the main thread between two bytecodes: one backward
pass of torch, a single call, takes ten seconds on a CPU.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import FrameType

INTERRUPTED = 130  # exit code
TO_HOLD = 0.05  # seconds until the main thread has finished its call, a rename for instance
AT_MOST = 1.0  # seconds to tidy up; a pipe that nobody reads would take forever
SHOW_CURSOR = "\x1b[?25h"  # progress bars hide it

TEMPORARY: set[Path] = set()  # files to remove when the process is interrupted


def end_when_interrupted() -> None:
    """Makes SIGINT end this process. Where it is ignored, as in a shell's background, it stays ignored."""
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        return
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.signal(signal.SIGINT, _hold)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    threading.Thread(target=_end_on_signal, args=(reading,), daemon=True).start()


def _hold(number: int, frame: FrameType | None) -> None:
    """Stops the main thread where it is, and ends the process if the other thread cannot."""
    time.sleep(AT_MOST)
    os._exit(INTERRUPTED)


def _end_on_signal(reading: int) -> None:
    """Waits for SIGINT among the numbers of signals that Python writes to a pipe, then ends the process."""
    while os.read(reading, 1) != bytes([signal.SIGINT]):
        pass
    time.sleep(TO_HOLD)
    for path in list(TEMPORARY):
        with suppress(OSError):
            path.unlink()
    restored = f"{SHOW_CURSOR}\n" if os.isatty(2) else ""
    with suppress(OSError):
        os.write(2, f"{restored}interrupted\n".encode())
    with suppress(Exception):  # it may be closed, or be None
        sys.__stdout__.flush()
    os._exit(INTERRUPTED)
