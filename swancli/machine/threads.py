"""Work beside the main thread: items made by several threads in order, and items made ahead of their use."""

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
    """Maps in threads, in order; holds only a few results per thread, so that memory stays bounded.

    With one worker there is no other thread.
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


def read_ahead(items: Iterator[Item], depth: int = 2) -> Iterator[Item]:
    """The same items, made in a thread up to `depth` ahead of their use; its exceptions appear here."""
    waiting: queue.Queue = queue.Queue(depth)
    stopped = threading.Event()
    end = object()

    def put(entry: object) -> None:
        while not stopped.is_set():
            try:
                return waiting.put(entry, timeout=0.1)
            except queue.Full:
                continue

    def produce() -> None:
        import torch  # here, since `prepare` has no other use for it

        # A team of threads of its own would spin on the cores that the model needs: half the speed, on two.
        # The setting holds for this thread alone.
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
