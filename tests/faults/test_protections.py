"""The tests that README names for the protections exist."""

import re
from pathlib import Path

import pytest

HERE = Path(__file__).parent
NAMED = re.findall(r"`(tests/\S+\.py)::(test_\w+)`", (HERE / "README.md").read_text())


def test_readme_names_a_test_for_each_protection():
    table = (HERE / "README.md").read_text().split("| protection | test |")[1].split("\n\n")[0]
    assert len(NAMED) == table.count("\n|") - 1 >= 10  # without the rule below the head


@pytest.mark.parametrize(("file", "test"), NAMED)
def test_named_test_exists(file, test):
    assert f"def {test}(" in (HERE.parents[1] / file).read_text()
