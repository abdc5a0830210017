"""A list of captions that is off by one is noticed, and lists that are right are not."""

from dataclasses import replace
from itertools import islice

import numpy as np
import pytest

from swancli.prepare.demo import generate_demo
from swancli.prepare.misplaced import LEAST, described_images, misplaced_captions
from swancli.prepare.sources import read_source
from swancli.store.catalogue import Catalogue


def by_lines(entries, lines):
    """Each image gets the captions that are n lines before its own in the list."""
    flat = [caption for entry in entries for caption in entry.captions]
    flat = iter(flat[-lines:] + flat[:-lines])
    return [replace(entry, captions=tuple(islice(flat, len(entry.captions)))) for entry in entries]


def by_images(entries, images):
    """Each image gets the captions of the image n places before it."""
    moved = entries[-images:] + entries[:-images]
    return [replace(entry, captions=other.captions) for entry, other in zip(entries, moved, strict=True)]


@pytest.fixture(scope="module")
def demo():
    return [entry for entry, _ in generate_demo(120, seed=3, size=16)]


def check_all(entries):
    assert misplaced_captions(entries) == ""
    assert "1 line later in the list" in misplaced_captions(by_lines(entries, 1))
    assert "1 line earlier in the list" in misplaced_captions(by_lines(entries, -1))
    assert "2 lines later in the list" in misplaced_captions(by_lines(entries, 2))
    assert "1 image later in the list" in misplaced_captions(by_images(entries, 1))
    assert "1 image earlier in the list" in misplaced_captions(by_images(entries, -1))


def test_captions_of_the_demo_fit_and_moved_ones_do_not(demo):
    check_all(demo)


@pytest.mark.parametrize(("source", "images"), [("ucm", 1500), ("rsicd", 400)])
def test_captions_of_real_data_sets_fit_and_moved_ones_do_not(real_data, source, images):
    entries = read_source(real_data / source).entries[-images:]
    assert misplaced_captions(entries) == ""
    assert "1 line later in the list" in misplaced_captions(by_lines(entries, 1))
    assert "1 image later in the list" in misplaced_captions(by_images(entries, 1))


def test_list_of_one_split_that_is_off_is_named(demo):
    test = [entry for entry in demo if entry.split == "test"]
    others = [entry for entry in demo if entry.split != "test"]
    assert len(test) >= LEAST
    assert misplaced_captions([*others, *test]) == ""
    assert misplaced_captions([*others, *by_lines(test, 1)]).startswith("the captions of test of an image")


def test_few_alike_and_undescribed_images_are_no_sign(demo):
    assert misplaced_captions([]) == ""
    assert misplaced_captions(by_lines(demo[: LEAST - 2], 1)) == ""
    assert misplaced_captions([replace(entry, captions=()) for entry in demo]) == ""
    assert misplaced_captions([replace(entry, captions=("a road",) * 5) for entry in demo]) == ""
    assert (
        misplaced_captions([replace(entry, captions=entry.captions[:1], scene=None) for entry in demo]) == ""
    )


def test_rows_of_a_data_set_are_looked_at_as_a_source_is(demo):
    columns = ([getattr(entry, name) for entry in demo] for name in ("filename", "scene", "split"))
    texts = [text for entry in demo for text in entry.captions]
    image = np.repeat(np.arange(len(demo)), [len(entry.captions) for entry in demo])
    catalogue = Catalogue.of(*columns, texts, image)
    assert described_images(catalogue) == demo
    off = replace(catalogue, image=np.minimum(image + 1, len(demo) - 1))
    assert "1 image later in the list" in misplaced_captions(described_images(off))
