"""Several processes that work as one, as torchrun starts them: which this one is, and what they exchange.

torchrun --nproc-per-node 4 -m swancli train --dataset ucm
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import numpy as np
import torch
import torch.distributed

# The group is a default of its functions. Imported once there is one, as DDP does, they keep the group's
# threads until the interpreter tears itself down, and these abort it now and then.
import torch.distributed.nn.functional

from swancli.errors import SwanError

Result = TypeVar("Result")

LAUNCHED_BY = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # what torchrun tells each process
MEETING = timedelta(minutes=5)
TELLING = timedelta(seconds=2)
PATIENCE = timedelta(hours=2)  # with the others, who may read, validate or evaluate meanwhile


class Processes:
    """The processes of one launch, seen from one of them; alone when nothing launched it.

    Args:
        rank: which of them this is, from 0. count: how many they are. attempt: how often the launcher has
            started them again.
        store: where they leave words to each other, over all attempts; None without a launcher.
    """

    def __init__(
        self,
        rank: int = 0,
        count: int = 1,
        attempt: int = 0,
        store: torch.distributed.Store | None = None,
    ) -> None:
        self.rank, self.count, self.attempt = rank, count, attempt
        self._store = store

    @property
    def first(self) -> bool:
        """Whether this is the one that writes files and talks to the user."""
        return self.rank == 0

    def describe(self) -> str:
        """How many they are, as the beginning of a phrase; "" for one."""
        return f"{self.count} processes, each on " if self.count > 1 else ""

    def share(self, items: int) -> slice:
        """This process's share of so many items, in order; the shares of all are as even as can be."""
        return slice(*(items * rank // self.count for rank in (self.rank, self.rank + 1)))

    def shares(self, items: int) -> list[int]:
        """How many of so many items each process has."""
        return [items * (rank + 1) // self.count - items * rank // self.count for rank in range(self.count)]

    def agreed(self, key: str, proposal: str) -> str:
        """What the first process to ask proposed, in this attempt or an earlier one."""
        if not self._store:
            return proposal
        return self._store.compare_set(f"swan/{key}", "", proposal).decode()

    def by_first(self, make: Callable[[], Result]) -> Result:
        """What the first process makes, for all of them; raises in each the `SwanError` that it raises."""
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
        """The rows of all processes, (sum of sizes, D); this one's keep their gradient, the others have none.

        Args:
            rows: float (sizes[rank], D). sizes: rows of each process.
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
        """Vectors of so many items, float32 (items, D): each process encodes its share, and all get all.

        Fewer items than processes are encoded by each.
        """
        if items < self.count:
            return encode(slice(items))
        own = torch.from_numpy(encode(self.share(items)))
        return self.gathered(own, self.shares(items)).numpy()


ALONE = Processes()


def launched() -> tuple[int, int, int] | None:
    """Rank and number of this launch's processes, and how often they were started again; None without one."""
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
            f"{found}: no processes of a launch", "unset these variables, or use torchrun"
        ) from None
    return rank, count, attempt


@contextmanager
def joined(device: torch.device) -> Iterator[Processes]:
    """The processes of this launch, able to exchange tensors of a device until the body ends.

    Raises:
        SwanError: another process was lost, or no launcher answers.
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
            torch.distributed.barrier()  # none leaves while the first still writes
    except RuntimeError as error:
        if not _tells_of_lost_process(error):
            raise
        problem = f"process {rank} of {count} lost another one"
        raise SwanError(problem, "see what ended it; torchrun --max-restarts 3 goes on by itself") from error
    finally:
        if count > 1:
            torch.distributed.destroy_process_group()


def _store_of_launch(rank: int, patience: timedelta) -> torch.distributed.Store:
    """Where the processes of a launch meet: torchrun's own place, else one that the first of them opens.

    Raises:
        SwanError: nobody answers there.
    """
    address, port = os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]
    served = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    try:
        opens = rank == 0 and not served
        return torch.distributed.TCPStore(address, int(port), is_master=opens, timeout=patience)
    except (RuntimeError, ValueError) as error:
        raise SwanError(
            f"{', '.join(LAUNCHED_BY)} are set, and nobody answers at {address}:{port}",
            "start several processes by torchrun; for one alone unset these variables",
        ) from error


def first_to_tell() -> bool:
    """Whether no other process of this launch has an error to tell, in this attempt.

    The others have met the same one, or have lost the process that met it.
    """
    try:
        rank, count, attempt = launched() or (0, 1, 0)
        if count == 1:
            return True
        store = _store_of_launch(rank, TELLING)
    except SwanError:
        return True
    return Processes(rank, count, attempt, store).agreed(f"told {attempt}", str(rank)) == str(rank)


def _tells_of_lost_process(error: RuntimeError) -> bool:
    return isinstance(error, torch.distributed.DistError) or "gloo" in str(error)
