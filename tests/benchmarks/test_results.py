"""The table of speed in this folder's README is that of the committed figures."""

import json
from pathlib import Path

import pytest
from results import RESULTS, headlines, table

README = Path(__file__).with_name("README.md")


def test_readme_shows_the_committed_figures():
    assert table(headlines(json.loads(RESULTS.read_text())["rows"])) in README.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("unit", "tool", "published", "floor", "cells"),
    [
        ("s", 10.0, 200.0, 8.0, ["20.0", "8 s", "80%"]),
        ("pairs/s", 30.0, 4.0, 40.0, ["7.5", "40 pairs/s", "75%"]),
    ],
)
def test_less_time_and_more_pairs_a_second_are_both_faster(unit, tool, published, floor, cells):
    row = {
        "section": "train",
        "what": "exact",
        "size": 100,
        "unit": unit,
        "tool": {"median": tool, "low": tool, "high": tool, "runs": 1},
        "published": {"median": published},
        "floor": floor,
        "memory": 1_234_567_890,
    }
    last = table([row]).splitlines()[-1].split(" | ")
    assert last[5:8] == cells
    assert last[8] == "1,235 MB |"
