"""Which checkpoint made some vectors: kept in a file, and compared in one way."""

import pytest

from swancli.errors import StoreError
from swancli.store.hdf5 import TILES, create_store, open_store
from swancli.store.made_by import MadeBy

OWN = MadeBy("run/best.pt", "a" * 64, 8, "repaired")


def test_paths_move_with_the_file(tmp_path):
    made_by = MadeBy(str(tmp_path / "one" / "best.pt"), "a" * 64, 8, "published", str(tmp_path / "v.json"))
    with create_store(tmp_path / "one" / "tiles.h5", TILES) as file:
        made_by.write(file, tmp_path / "one")
        assert file.attrs["checkpoint"] == "best.pt"
        assert file.attrs["vocab"] == "../v.json"
    folder = (tmp_path / "one").rename(tmp_path / "two")
    with open_store(folder / "tiles.h5", TILES) as file:
        found = MadeBy.read(file, folder, 8)
    assert found == MadeBy(str(folder / "best.pt"), "a" * 64, 8, "published", str(tmp_path / "v.json"))


def test_same_checkpoint_at_another_path_or_under_another_name_is_no_difference():
    moved = MadeBy("elsewhere.pt", "a" * 64, 8, "open_clip:other", "v.json")
    assert OWN.difference(moved) == ""
    OWN.check(moved, "a.h5", "make it again")


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (MadeBy("b.pt", "b" * 64, 8, "repaired"), f"run/best.pt ({'a' * 12}), than b.pt ({'b' * 12})"),
        (MadeBy("b.pt", "a" * 64, 16, "repaired"), "have 8 dimensions, those of b.pt have 16"),
        (MadeBy("b.pt", "a" * 64, 8, "repaired", configuration="c"), "another configuration, tokenizer or"),
    ],
)
def test_another_checkpoint_or_width_is_refused_with_both_named(other, said):
    with pytest.raises(StoreError, match=r"a\.h5: ") as refused:
        OWN.check(other, "a.h5", "make it again")
    assert said in refused.value.problem
    assert refused.value.hint == "make it again"
