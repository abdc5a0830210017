"""Threads: an ordered parallel map, and an iterator that reads ahead."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_order(function: Callable[[Item], Result], items: Iterable[Item], workers: int) -> Iterator[Result]:
    """Maps in threads, in order, with a few results per thread in memory at most.

    With one worker it maps in the calling thread.
    """
    if workers == 1:
        yield from map(function, items)
        return
    pool = ThreadPoolExecutor(workers)
    waiting: deque[Future[Result]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > 4 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def read_ahead(items: Iterator[Item]) -> Iterator[Item]:
    """The same items, produced in a thread up to two ahead of their use; its exceptions are raised here."""
    waiting: queue.Queue = queue.Queue(2)
    stopped = threading.Event()
    end = object()

    def put(entry: object) -> None:
        while not stopped.is_set():
            try:
                return waiting.put(entry, timeout=0.1)
            except queue.Full:
                continue

    def produce() -> None:
        import torch  # not at the top: `prepare` does not need it

        # OpenMP threads of its own would spin on the cores that the model needs: half the speed on two cores.
        # The setting affects this thread only.
        torch.set_num_threads(1)
        try:
            for item in items:
                put((item, None))
                if stopped.is_set():
                    return
            put((end, None))
        except BaseException as error:
            put((end, error))

    thread = threading.Thread(target=produce, daemon=True)
    thread.start()
    try:
        while True:
            item, error = waiting.get()
            if error:
                raise error
            if item is end:
                return
            yield item
    finally:
        stopped.set()
        thread.join()
