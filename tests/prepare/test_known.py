"""Where the published data sets are: said for each of their names, and for no other."""

import pytest

from swancli.prepare.known import KNOWN, where_to_get


@pytest.mark.parametrize("name", ["ucm", "UCM", "ucm-captions", "UCM_captions"])
def test_name_is_known_in_any_case_and_with_captions_after_it(name):
    page, files, command = where_to_get(name).splitlines()
    assert "https://github.com/201528014227051/RSICD_optimal" in page
    assert "dataset.json and imgs/" in files
    assert command == f"swan prepare --dataset {name} --source FOLDER"


def test_data_set_whose_list_has_no_validation_images_draws_them():
    assert where_to_get("rsitmd").endswith("--dataset rsitmd --source FOLDER --split random")


def test_any_other_name_is_not_known():
    assert set(KNOWN) == {"rsicd", "rsitmd", "ucm", "sydney", "nwpu"}
    assert where_to_get("photos") == where_to_get("-captions") == ""
