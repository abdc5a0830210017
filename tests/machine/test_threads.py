"""Items made in other threads: their order, their errors, and an end when nobody wants more."""

import threading
import time

import pytest

from swancli.machine.threads import in_order, read_ahead


def test_threads_keep_the_order_and_run_only_a_little_ahead():
    started = []

    def work(item):
        started.append(item)
        time.sleep(0.002 if item % 3 else 0.006)
        return item

    results = in_order(work, range(200), workers=2)
    assert [next(results) for _ in range(5)] == [0, 1, 2, 3, 4]
    assert len(started) <= 5 + 4 * 2 + 1
    assert list(results) == list(range(5, 200))


def test_abandoned_reading_leaves_no_threads_behind():
    before = threading.active_count()
    results = in_order(str, range(100), workers=3)
    next(results)
    results.close()
    assert threading.active_count() == before


def test_one_worker_makes_an_item_when_it_is_asked_for():
    made = []
    results = in_order(made.append, range(5), workers=1)
    next(results)
    assert made == [0]


def test_reading_ahead_keeps_order_and_passes_errors_on():
    assert list(read_ahead(iter(range(20)))) == list(range(20))

    def broken():
        yield 1
        raise ValueError("image 7")

    items = read_ahead(broken())
    assert next(items) == 1
    with pytest.raises(ValueError, match="image 7"):
        next(items)


def test_reading_ahead_stops_with_its_reader():
    made = []

    def endless():
        while True:
            made.append(1)
            yield 1

    items = read_ahead(endless())
    next(items)
    items.close()
    assert len(made) <= 5
