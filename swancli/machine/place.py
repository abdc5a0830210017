"""Which machine and container this process runs on, so that others can tell whether it still does."""

from __future__ import annotations

import hashlib
import os
import socket
from contextlib import suppress
from functools import cache
from pathlib import Path


@cache
def this_place() -> str:
    """Eight characters that tell this machine, since its start, and this container from all others.

    A process number means something only there: containers may have the same host name and the same numbers.
    """
    parts = [socket.gethostname()]
    with suppress(OSError):  # only Linux has them
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text())
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return hashlib.blake2b("\n".join(parts).encode(), digest_size=4).hexdigest()


def is_running(process: int) -> bool:
    """Whether a process with this number runs in this place."""
    try:
        with suppress(PermissionError):  # another user's
            os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    return True
