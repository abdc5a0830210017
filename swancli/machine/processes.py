"""Several processes that work together, as started by torchrun: ranks, shares and exchange.

torchrun --nproc-per-node 4 -m swancli train --dataset ucm
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import numpy as np
import torch
import torch.distributed

# Imported before a process group exists. Later, as DDP imports it, its default arguments would keep the
# group's threads alive until the interpreter exits, which these sometimes abort.
import torch.distributed.nn.functional

from swancli.errors import SwanError

Result = TypeVar("Result")

LAUNCHED_BY = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # set by torchrun
MEETING = timedelta(minutes=5)
TELLING = timedelta(seconds=2)
PATIENCE = timedelta(hours=2)  # while other processes read, validate or evaluate


@dataclass(frozen=True)
class Processes:
    """The processes started together, seen from one of them; just this one by default.

    rank: of this process, from 0.
    count: of processes.
    attempt: number of restarts by the launcher.
    store: where they exchange words across attempts; None without a launcher.
    """

    rank: int = 0
    count: int = 1
    attempt: int = 0
    store: torch.distributed.Store | None = None

    @property
    def first(self) -> bool:
        """Whether this process writes files and reports to the user."""
        return self.rank == 0

    def describe(self) -> str:
        """The number of processes as the beginning of a phrase; "" for one."""
        return f"{self.count} processes, each on " if self.count > 1 else ""

    def share(self, items: int) -> slice:
        """This process's share of n items, in order; shares are as equal as possible."""
        return slice(*(items * rank // self.count for rank in (self.rank, self.rank + 1)))

    def shares(self, items: int) -> list[int]:
        """The number of items in the share of each process."""
        return [items * (rank + 1) // self.count - items * rank // self.count for rank in range(self.count)]

    def agreed(self, key: str, proposal: str) -> str:
        """The proposal of the first process that asked, in this attempt or an earlier one."""
        if not self.store:
            return proposal
        return self.store.compare_set(f"swan/{key}", "", proposal).decode()

    def by_first(self, make: Callable[[], Result]) -> Result:
        """The result of the first process, in all of them; its `SwanError` is raised in all of them."""
        if self.count == 1:
            return make()
        made: list = [None, None]
        if self.first:
            try:
                made[0] = make()
            except SwanError as error:
                made[1] = error
        torch.distributed.broadcast_object_list(made)
        if made[1]:
            raise made[1]
        return made[0]

    def gathered(self, rows: torch.Tensor, sizes: Sequence[int]) -> torch.Tensor:
        """The rows of all processes, (sum of sizes, D); only this process's rows keep their gradient.

        Args:
            rows: float (sizes[rank], D).
            sizes: number of rows of each process.
        """
        if self.count == 1:
            return rows
        own = rows.detach()
        padded = torch.nn.functional.pad(own, (0, 0, 0, max(sizes) - len(own)))
        found = [torch.empty_like(padded) for _ in sizes]
        torch.distributed.all_gather(found, padded.contiguous())
        parts = [part[:size] for part, size in zip(found, sizes, strict=True)]
        parts[self.rank] = rows
        return torch.cat(parts)

    def together(self, encode: Callable[[slice], np.ndarray], items: int) -> np.ndarray:
        """Vectors of n items, float32 (items, D): each process encodes its share, and all get all vectors.

        If there are fewer items than processes, each process encodes all of them.
        """
        if items < self.count:
            return encode(slice(items))
        own = torch.from_numpy(encode(self.share(items)))
        return self.gathered(own, self.shares(items)).numpy()


ALONE = Processes()


def launched() -> tuple[int, int, int] | None:
    """Rank, number of processes and number of restarts, as set by torchrun; None without it."""
    if not all(name in os.environ for name in LAUNCHED_BY):
        return None
    numbers = {"RANK": "", "WORLD_SIZE": "", "TORCHELASTIC_RESTART_COUNT": "0"}
    try:
        rank, count, attempt = (int(os.environ.get(name, usual)) for name, usual in numbers.items())
        if not 0 <= rank < count:
            raise ValueError
    except ValueError:
        found = ", ".join(f"{name}={os.environ[name]}" for name in numbers if name in os.environ)
        raise SwanError(
            f"{found}: not as torchrun sets them", "unset these variables, or use torchrun"
        ) from None
    return rank, count, attempt


@contextmanager
def joined(device: torch.device) -> Iterator[Processes]:
    """The processes started together, able to exchange tensors on a device until the body ends.

    Raises:
        SwanError: another process was lost, or the launcher does not answer.
    """
    launch = launched()
    if not launch:
        yield ALONE
        return
    rank, count, attempt = launch
    store = _store_of_launch(rank, MEETING)
    processes = Processes(rank, count, attempt, store)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if count > 1:
        torch.distributed.init_process_group(
            "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
            store=torch.distributed.PrefixStore(f"attempt {attempt}", store),
            rank=rank,
            world_size=count,
            timeout=PATIENCE,
        )
    try:
        yield processes
        if count > 1:
            torch.distributed.barrier()  # wait while the first still writes
    except RuntimeError as error:
        if not _is_lost_process(error):
            raise
        problem = f"process {rank} of {count} lost another one"
        raise SwanError(problem, "see what ended it; torchrun --max-restarts 3 resumes by itself") from error
    finally:
        if count > 1:
            torch.distributed.destroy_process_group()


def _store_of_launch(rank: int, patience: timedelta) -> torch.distributed.Store:
    """The store that the processes share: torchrun's own, else one that the first process opens.

    Raises:
        SwanError: there is no answer at its address.
    """
    address, port = os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]
    served = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    try:
        opens = rank == 0 and not served
        return torch.distributed.TCPStore(address, int(port), is_master=opens, timeout=patience)
    except (RuntimeError, ValueError) as error:
        raise SwanError(
            f"{', '.join(LAUNCHED_BY)} are set, but there is no answer at {address}:{port}",
            "start several processes with torchrun; for a single one unset these variables",
        ) from error


def first_to_report() -> bool:
    """Whether this process is the first of this attempt to report an error.

    The others have the same error, or have lost the process that had it.
    """
    try:
        rank, count, attempt = launched() or (0, 1, 0)
        if count == 1:
            return True
        store = _store_of_launch(rank, TELLING)
    except SwanError:
        return True
    return Processes(rank, count, attempt, store).agreed(f"error {attempt}", str(rank)) == str(rank)


def _is_lost_process(error: RuntimeError) -> bool:
    return isinstance(error, torch.distributed.DistError) or "gloo" in str(error)
