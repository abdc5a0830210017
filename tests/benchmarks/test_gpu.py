"""The GPU script: its tables, what counts as a failure, packages from wheels; and the committed results."""

import importlib.util
import json
import sys
from pathlib import Path
from zipfile import ZipFile

import gpu
import pytest

README = Path(__file__).with_name("README.md")


@pytest.mark.parametrize("command", gpu.RESULTS)
def test_readme_shows_what_was_measured_on_a_gpu(command):
    path = gpu.RESULTS[command]
    if not path.exists():
        pytest.skip("not yet run on a GPU")
    results = json.loads(path.read_text())
    assert not results["tiny"]
    assert results["machine"]["device"] in README.read_text(encoding="utf-8")
    assert gpu.table(results) in README.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("row", "cells"),
    [
        (
            {
                "what": "embed",
                "unit": "images/s",
                "value": 6000.0,
                "target": 5000,
                "ceiling": 8000.0,
                "of": "towers",
            },
            "| embed | 6,000 images/s | at least 5,000 images/s | 8,000 images/s | 75% | towers |",
        ),
        (
            {"what": "an epoch", "unit": "s", "value": 5.0, "target": 6.0, "ceiling": 4.0, "of": "the loop"},
            "| an epoch | 5 s | at most 6 s | 4 s | 80% | the loop |",
        ),
        ({"what": "copy", "unit": "GB/s", "value": 50.25}, "| copy | 50.2 GB/s |  |  |  |  |"),
        ({"what": "embed", "error": "no memory"}, "| embed | no memory |  |  |  |  |"),
    ],
)
def test_table_of_speed(row, cells):
    assert gpu.table({"command": "speed", "rows": [row]}).splitlines()[-1] == cells


@pytest.mark.parametrize(
    ("row", "cells", "failed"),
    [
        ({"what": "images", "value": 0.00012, "limit": 0.0002}, "| images | 0.00012 | 0.0002 |", False),
        ({"what": "images", "value": 0.3, "limit": 0.0002}, "| images | 0.3 | 0.0002 |", True),
        ({"what": "images", "value": float("nan"), "limit": 0.0002}, "| images | nan | 0.0002 |", True),
        ({"what": "values", "skipped": "not here"}, "| values | skipped: not here |  |", False),
        ({"what": "images", "error": "no memory"}, "| images | no memory |  |", True),
    ],
)
def test_checks_fail_beyond_their_limit_and_with_errors(row, cells, failed):
    assert gpu.table({"command": "check", "rows": [row]}).splitlines()[-1] == cells
    assert gpu.failed(row) is failed


def test_a_section_that_fails_is_a_row_and_those_after_the_limit_are_not_begun(monkeypatch, capsys):
    def section(bench):
        yield {"what": "first", "value": 0.0, "limit": 1.0}
        raise MemoryError("too large")

    first, error = gpu._rows_of("embed", section, None, gpu.perf_counter())
    assert (first["what"], error) == ("first", {"what": "embed", "error": "MemoryError: too large"})
    (late,) = gpu._rows_of("train", section, None, gpu.perf_counter() - gpu.LIMIT - 1)
    assert late == {"what": "train", "error": "not begun: 270 s were over"}


def test_missing_packages_come_from_wheels_or_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(gpu.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(gpu, "PACKAGES", {"made_here": "made-here its-need"})
    with pytest.raises(SystemExit, match=r"missing here.*made-here its-need"):
        gpu.unpack(tmp_path)
    with ZipFile(tmp_path / "made_here-1-py3-none-any.whl", "w") as wheel:
        wheel.writestr("made_here.py", "VALUE = 1")
    gpu.unpack(tmp_path)
    assert importlib.util.find_spec("made_here")
