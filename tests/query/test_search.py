"""Which images a query searches."""

import pytest

from swancli.errors import SwanError
from swancli.query.search import candidate_rows
from swancli.store import Catalogue

CATALOGUE = Catalogue.of(
    ["harbor_1.png", "harbor_12.png", "Harbor_3.png", "pond/harbor_4.png", "pond_[1].png"],
    ["harbor", "harbor", "harbor", "pond", "pond"],
    ["train", "test", "train", "train", "test"],
)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("harbor_*", [0, 1]),
        ("harbor_?.png", [0]),
        ("[hH]arbor_*", [0, 1, 2]),
        ("*harbor*", [0, 1, 3]),
        ("pond/*", [3]),
        ("pond_[[]1].png", [4]),
        ("*", [0, 1, 2, 3, 4]),
    ],
)
def test_files_is_a_shell_pattern_of_whole_names_in_their_case(pattern, expected):
    assert candidate_rows(CATALOGUE, files=pattern).tolist() == expected


def test_filters_are_joined():
    assert candidate_rows(CATALOGUE, ["harbor", "pond"], "train", "*harbor_*").tolist() == [0, 3]


def test_pattern_that_no_image_fits_is_named_beside_a_name_that_is_there():
    with pytest.raises(SwanError) as caught:
        candidate_rows(CATALOGUE, ["pond"], files="harbor_*")
    assert str(caught.value) == (
        "--files 'harbor_*': none of 2 images has such a name\n"
        "it is to match whole names as they are stored, such as pond/harbor_4.png"
    )
