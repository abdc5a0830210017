"""Choice of the device, copies to it, and what suits it."""

from __future__ import annotations

import ctypes
import ctypes.util
import os
import re
import sys
from collections.abc import Callable
from functools import cache

import torch

from swancli.errors import SwanError

# glibc's mallopt parameters (malloc.h).
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4


def choose_device(name: str = "auto") -> torch.device:
    """The device of that name; for `auto` a CUDA GPU if there is one, else Apple's GPU, else the CPU.

    Raises:
        SwanError: there is no such device.
    """
    if name == "auto":
        found = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
        name = next(kind for kind, there in found.items() if there)
    if name == "cuda" and "LOCAL_RANK" in os.environ:  # set by torchrun: one GPU per process
        name = f"cuda:{os.environ['LOCAL_RANK']}"
    if not re.fullmatch(r"cpu|mps|cuda(:\d+)?", name):
        raise SwanError(f"--device {name}: no such device", "give auto, cpu, cuda, cuda:1 or mps")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise SwanError(f"--device {name}: not available here ({reason})", "use --device cpu") from error
    _keep_freed_memory()  # also for a GPU, whose input is in this memory
    return device


def image_batch(device: torch.device) -> int:
    """The number of images to encode at a time: enough to keep the device busy, for little memory."""
    return 256 if device.type == "cuda" else 32


def reading_threads(device: torch.device) -> int:
    """The number of threads that read images: all cores for a GPU, one if the cores compute themselves."""
    return os.cpu_count() or 1 if device.type == "cuda" else 1


def move(tensor: torch.Tensor, device: torch.device | str) -> torch.Tensor:
    """The tensor on a device, copied asynchronously between a CUDA GPU and the CPU.

    A copy to the GPU goes through pinned memory; without it, the CPU would wait for the GPU. A tensor from
    the GPU may be read only after `torch.cuda.synchronize`.
    """
    device = torch.device(device)
    if tensor.device.type == "cpu":
        tensor = pinned(tensor, device)
    return tensor.to(device, non_blocking="cuda" in (tensor.device.type, device.type))


def pinned(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The tensor in pinned memory, for asynchronous copies to a GPU; unchanged for other devices."""
    return tensor.pin_memory() if device.type == "cuda" else tensor


def describe_device(device: torch.device) -> str:
    """The device in a few words, for the user."""
    if device.type == "cuda":
        return f"GPU ({torch.cuda.get_device_name(device)})"
    threads = torch.get_num_threads()
    return f"CPU ({threads} thread{'s' * (threads > 1)})" if device.type == "cpu" else device.type


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """The context for forward passes: bfloat16 for `bf16`, else float32."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")


def _keep_freed_memory() -> None:
    """Makes glibc keep freed memory instead of returning it to the system; other C libraries are unaffected.

    By default each large buffer of a convolution is mapped again, and half of the time goes into page faults.
    """
    if mallopt := _glibc("mallopt"):
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(M_TOP_PAD, 64 * 2**20)


def release_freed_memory() -> None:
    """Returns to the system what `_keep_freed_memory` has kept so far.

    Buffers of ever new sizes, as training has them, leave gaps that others do not fit into.
    """
    if malloc_trim := _glibc("malloc_trim"):
        malloc_trim(0)


@cache
def _glibc(name: str) -> Callable[..., int] | None:
    """A function of glibc; None with other C libraries, and where the user has chosen what malloc does."""
    if sys.platform != "linux" or "MALLOC_TRIM_THRESHOLD_" in os.environ:
        return None
    library = ctypes.util.find_library("c")
    return getattr(ctypes.CDLL(library), name, None) if library else None
