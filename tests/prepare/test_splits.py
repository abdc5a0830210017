"""How images are divided into train, val and test."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swancli.errors import SwanError
from swancli.prepare.entries import Entry
from swancli.prepare.splits import Fold, assign_splits, divide_rows, overlap, redrawn
from swancli.store.catalogue import Catalogue


def entries(scenes, split=None):
    return [Entry(f"{row}.jpg", ("a road",), split, scene) for row, scene in enumerate(scenes)]


def assign(listed, rule, fraction=0.2, seed=0):
    return [entry.split for entry in assign_splits(listed, rule, fraction, np.random.default_rng(seed))]


def test_given_keeps_the_source_and_leaves_images_without_captions_alone():
    listed = [Entry("1.jpg", ("a",), "val"), Entry("2.jpg"), Entry("3.jpg", (), "test")]
    assert assign(listed, "given") == ["val", None, "test"]


def test_given_without_splits_says_how_to_draw_them():
    with pytest.raises(SwanError, match="2 of 2 captioned images have no split, first 0") as caught:
        assign(entries("ab"), "given")
    assert "--split random" in caught.value.hint


def test_given_refuses_a_list_that_is_only_partly_divided():
    with pytest.raises(SwanError, match="1 of 2 captioned images have no split, first 1"):
        assign([Entry("0.jpg", ("a",), "train"), Entry("1.jpg", ("a",))], "given")


def test_random_draws_a_test_part_first_when_none_is_given():
    # 100 images: 20 for test, then 16 of the 80 left for val.
    assert Counter(assign(entries("a" * 100), "random")) == {"train": 64, "val": 16, "test": 20}


def test_random_keeps_the_given_test_images():
    listed = entries("a" * 50, "test")[:10] + entries("a" * 50, "train")[10:]
    splits = assign(listed, "random")
    assert splits[:10] == ["test"] * 10
    assert Counter(splits[10:]) == {"train": 32, "val": 8}


def test_stratified_keeps_eight_tenths_of_each_scene_for_training():
    scenes = ["port"] * 10 + ["lake"] * 7 + [None] * 3
    listed = [*entries(scenes, "val"), Entry("t.jpg", ("a",), "test")]
    train = Counter(
        scene for scene, split in zip(scenes, assign(listed, "stratified"), strict=False) if split == "train"
    )
    assert train == {"port": 8, "lake": 6, None: 2}  # round(5.6) and round(2.4)


def test_random_draws_regardless_of_scene():
    # Each image has a scene of its own, of which --split stratified could draw nothing.
    assert Counter(assign(entries("abcdefghij"), "random")) == {"train": 6, "val": 2, "test": 2}
    with pytest.raises(SwanError, match="10 captioned images leave none for val"):
        assign([*entries("abcdefghi", "train"), Entry("t.jpg", ("a",), "test")], "stratified")


def test_unknown_rule_is_refused_with_those_that_there_are():
    with pytest.raises(SwanError, match=r"^--split half: no such rule") as caught:
        assign(entries("aaaa"), "half")
    assert caught.value.hint == "one of given, random, stratified"


def test_same_seed_gives_the_same_splits_and_another_seed_others():
    listed = entries("a" * 60)
    assert assign(listed, "random", seed=3) == assign(listed, "random", seed=3)
    assert assign(listed, "random", seed=3) != assign(listed, "random", seed=4)


def test_images_without_captions_are_not_drawn():
    listed = [*entries("a" * 20), Entry("x.jpg", (), "train")]
    assert assign(listed, "random")[-1] is None
    assert assign([Entry("x.jpg")], "random") == [None]


def test_too_few_images_to_divide_are_refused():
    with pytest.raises(SwanError, match=r"^--split random: 1 captioned images leave none for val") as caught:
        assign(entries("a"), "random")
    assert "--val-fraction" in caught.value.hint


@pytest.mark.parametrize("fraction", [0, 1, -0.5])
def test_fraction_outside_its_range_is_refused(fraction):
    with pytest.raises(SwanError, match="not between 0 and 1"):
        assign(entries("aaaa"), "random", fraction)


@given(
    scenes=st.lists(st.sampled_from(["a", "b", None]), min_size=1, max_size=40),
    fraction=st.floats(0.05, 0.95),
    seed=st.integers(0, 99),
)
def test_divided_rows_are_every_row_once(scenes, fraction, seed):
    rows = np.arange(len(scenes))
    kept, drawn = divide_rows(rows, scenes, fraction, np.random.default_rng(seed))
    assert sorted([*kept, *drawn]) == list(rows)
    counts = Counter(scenes[row] for row in kept)
    assert all(counts[scene] == round((1 - fraction) * n) for scene, n in Counter(scenes).items())


# ---------------------------------------------------------------------------------------------------------
# folds


def catalogue(scenes, splits):
    names = [f"{row}.jpg" for row in range(len(scenes))]
    return Catalogue.of(names, scenes, splits, ["a road"] * len(scenes), range(len(scenes)))


def val_rows(drawn):
    return set(np.flatnonzero(drawn.split == "val"))


def test_fold_draws_a_fifth_of_what_is_not_for_testing():
    whole = catalogue(["pond"] * 60, ["train"] * 40 + ["val"] * 10 + ["test"] * 10)
    drawn = redrawn(whole, Fold(1, 3, "random", 0))
    assert Counter(drawn.split) == {"train": 40, "val": 10, "test": 10}
    assert (drawn.split[50:] == "test").all()
    assert val_rows(drawn) != set(range(40, 50))
    assert (whole.split[40:50] == "val").all()  # the catalogue itself is left alone


def test_folds_are_independent_draws_that_their_seed_repeats():
    whole = catalogue(["pond"] * 50, ["train"] * 50)
    drawn = {
        (number, seed): frozenset(val_rows(redrawn(whole, Fold(number, 3, "random", seed))))
        for number in (1, 2, 3)
        for seed in (0, 1)
    }
    assert len(set(drawn.values())) == 6
    assert drawn[1, 0] & drawn[2, 0]  # no partition: what validates in one fold may in another
    assert drawn[2, 1] == val_rows(redrawn(whole, Fold(2, 3, "random", 1)))


@given(counts=st.lists(st.integers(1, 12), min_size=1, max_size=5), number=st.integers(1, 5))
def test_stratified_fold_keeps_four_fifths_of_each_scene(counts, number):
    scenes = [f"s{scene}" for scene, count in enumerate(counts) for _ in range(count)]
    drawn = redrawn(catalogue(scenes, ["train"] * len(scenes)), Fold(number, 5, "stratified", 0))
    kept = Counter(scene for scene, split in zip(scenes, drawn.split, strict=True) if split == "train")
    assert [kept[f"s{scene}"] for scene in range(len(counts))] == [round(0.8 * count) for count in counts]


def test_random_fold_draws_regardless_of_scene():
    whole = catalogue("abcdefghij", ["train"] * 10)
    assert Counter(redrawn(whole, Fold(1, 3, "random", 0)).split) == {"train": 8, "val": 2}


def test_images_without_captions_or_split_are_in_no_fold():
    whole = Catalogue.of(
        "abcdef", [None] * 6, ["train", "train", "train", "train", None, "train"], "xyzwv", range(5)
    )
    assert redrawn(whole, Fold(1, 2, "random", 0)).split[4:].tolist() == [None, "train"]


def test_images_that_train_are_found_in_another_split_by_name_and_by_pixels():
    names = ["a", "b", "c", "d", "e", "c"]
    splits = ["train", "train", "train", "test", "test", "test"]
    catalogue = Catalogue.of(names, [None] * 6, splits, ["a road"] * 6, range(6))
    assert overlap(catalogue, list("123456"), "val") == ""
    assert overlap(catalogue, list("123452"), "test") == (
        "1 of 3 images of test have the name or the pixels of a training image (first c, as c); "
        "recall on them says little about new images"
    )
    told = overlap(catalogue, list("123255"), "test", of="embedding")
    assert told.startswith(
        "2 of 3 images of test have the name or the embedding of a training image (first d, as b)"
    )
    assert overlap(catalogue, list("111111"), "train") == ""
