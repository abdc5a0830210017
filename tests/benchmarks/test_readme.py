"""The tables in this folder's README are those of the committed figures."""

import json
from pathlib import Path

import indices
import milvus
import processes
import scale

README = Path(__file__).with_name("README.md").read_text(encoding="utf-8")


def test_readme_shows_the_indices_that_were_measured():
    assert indices.table(json.loads(indices.RESULTS.read_text())) in README


def test_readme_shows_what_an_archive_costs():
    assert scale.table() in README


def test_readme_shows_the_collection_that_was_killed():
    assert milvus.table(json.loads(milvus.RESULTS.read_text())) in README


def test_readme_shows_the_processes_that_were_measured():
    assert processes.table(json.loads(processes.RESULTS.read_text())) in README
