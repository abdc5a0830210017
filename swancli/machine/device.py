"""Which processor computes, how it is told to, and what the user is told about it."""

from __future__ import annotations

import ctypes
import ctypes.util
import os
import re
import sys

import torch

from swancli.errors import SwanError

# glibc's mallopt parameters (malloc.h).
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4


def choose_device(name: str = "auto") -> torch.device:
    """The device of that name; for `auto` a CUDA GPU when there is one, then Apple's, then the CPU.

    Raises:
        SwanError: no such device here.
    """
    if name == "auto":
        found = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
        name = next(kind for kind, there in found.items() if there)
    if name == "cuda" and "LOCAL_RANK" in os.environ:  # torchrun's: each process of a machine has its own
        name = f"cuda:{os.environ['LOCAL_RANK']}"
    if not re.fullmatch(r"cpu|mps|cuda(:\d+)?", name):
        raise SwanError(f"--device {name}: no such device", "give auto, cpu, cuda, cuda:1 or mps")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise SwanError(f"--device {name}: not available here ({reason})", "use --device cpu") from error
    _keep_freed_memory()  # also where a GPU computes: what feeds it lives in this memory
    return device


def image_batch(device: torch.device) -> int:
    """How many images to encode at a time: enough to keep the device busy, no more memory than that needs."""
    return 256 if device.type == "cuda" else 32


def reading_threads(device: torch.device) -> int:
    """How many threads read images: all cores feed a GPU; where they compute themselves, one is enough."""
    return os.cpu_count() or 1 if device.type == "cuda" else 1


def move(tensor: torch.Tensor, device: torch.device | str) -> torch.Tensor:
    """The tensor on a device. Nothing waits for the copy between a CUDA GPU and the CPU.

    What comes from the GPU may be read only after `torch.cuda.synchronize`.
    """
    device = torch.device(device)
    return tensor.to(device, non_blocking="cuda" in (tensor.device.type, device.type))


def pinned(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Where a GPU can fetch it while it computes; the same tensor for every other device."""
    return tensor.pin_memory() if device.type == "cuda" else tensor


def describe_device(device: torch.device) -> str:
    """A few words for the user: what computes."""
    if device.type == "cuda":
        return f"GPU ({torch.cuda.get_device_name(device)})"
    return f"CPU ({torch.get_num_threads()} threads)" if device.type == "cpu" else device.type


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """The context that forward passes run in: bfloat16 for `bf16`, else float32 throughout."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")


def _keep_freed_memory() -> None:
    """Makes the C library keep freed memory instead of returning it to the system.

    By default each large buffer of a convolution is mapped anew and half of the time goes into page
    faults. Where glibc is not the C library nothing happens.
    """
    if sys.platform != "linux" or "MALLOC_TRIM_THRESHOLD_" in os.environ:
        return
    library = ctypes.util.find_library("c")
    mallopt = getattr(ctypes.CDLL(library), "mallopt", None) if library else None
    if mallopt:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(M_TOP_PAD, 64 * 2**20)
