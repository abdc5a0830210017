"""Bad input is refused in a line that names it, or passed over, counted and listed; odd input is read right.

A case is one defect for one reader; another value of the same defect is not another case.
"""

from collections import Counter
from pathlib import Path

import h5py
import image_inputs
import list_inputs
import model_inputs
import place_inputs
import pytest
import settings_inputs
import store_inputs
import tower_inputs
from conftest import invoke

MODULES = [image_inputs, list_inputs, model_inputs, place_inputs, settings_inputs, store_inputs, tower_inputs]
CASES = [case for module in MODULES for case in module.CASES]
REFUSED = [case for case in CASES if case.arguments]
READ = [case for case in CASES if case.check]


def test_there_are_at_least_300_cases_and_no_two_are_the_same():
    pairs = Counter(str(case).lower() for case in CASES)
    assert max(pairs.values()) == 1, pairs.most_common(3)
    assert len(pairs) >= 300
    assert all(bool(case.arguments) != bool(case.check) for case in CASES)


@pytest.mark.parametrize("case", REFUSED, ids=str)
def test_refused_in_a_line_that_names_the_file_and_the_place(case, tmp_path):
    arguments = case.arguments(case.make(tmp_path))
    before = files_below(tmp_path)
    result = invoke(*arguments, root=tmp_path / "root")
    assert result.returncode == 2, (result.stdout, result.stderr)
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    usage = result.stderr.startswith("Usage: ")  # Typer's own, with a frame around its line
    assert len(result.stderr.splitlines()) <= (8 if usage else 3)
    assert max(map(len, result.stderr.splitlines())) < 2000
    for name in case.named:
        assert name in result.stderr
    assert files_below(tmp_path) == before


@pytest.mark.parametrize("case", READ, ids=str)
def test_odd_but_right_is_read(case, tmp_path):
    case.check(case.make(tmp_path))


@pytest.mark.parametrize("case", image_inputs.SKIPPED, ids=str)
def test_left_out_counted_and_listed(case, tmp_path):
    result = invoke(*case.arguments(case.make(tmp_path)), "--missing", "skip", root=tmp_path / "root")
    assert result.returncode == 0, result.stderr
    assert "1" in result.stdout
    assert case.named[0] in result.stdout
    with h5py.File(tmp_path / "root" / "small" / "dataset.h5") as file:
        assert file["skipped/filename"].asstr()[:].tolist() == [case.named[0]]
        assert file["images/filename"].asstr()[:].tolist() == ["0.png"]


def files_below(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}
