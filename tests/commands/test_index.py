"""Indices through the commands: `swan embed --index` writes one, `swan query` asks it or says why not."""

import json
import shutil
import sys

import h5py
import pytest
from conftest import execute, invoke


@pytest.fixture
def root(finished, tmp_path):
    """A copy of the finished root, to be changed."""
    shutil.copytree(finished.root, tmp_path / "root")
    return tmp_path / "root"


@pytest.fixture
def run(root):
    return root / "small" / "runs" / "first"


def ask(root, *options):
    """The answer of a query for boats."""
    printed = invoke("query", "two boats in the harbor", "--json", *options, root=root)
    assert printed.returncode == 0, printed.stderr
    return json.loads(printed.stdout)


def index(run, kind="hnsw"):
    printed = invoke("embed", "--index", kind, "--embeddings", run / "embeddings.h5", root=run.parents[2])
    assert printed.returncode == 0, printed.stderr
    return printed


@pytest.mark.parametrize("kind", ["flat", "hnsw"])
def test_embed_writes_an_index_that_query_asks(root, run, kind):
    printed = execute("embed", "--index", kind, root=root)
    assert printed.returncode == 0, printed.stderr
    assert "embeddings of small" in printed.stdout
    assert f"{kind} index" in printed.stdout
    assert "recall@10" in printed.stdout
    assert printed.stderr == ""
    with h5py.File(run / "embeddings.index") as file:
        assert file.attrs["format"] == "swan-index"
        assert file.attrs["recall"] == 1
        assert (file.attrs["asked"], file.attrs["questions"]) == ("captions", 200)
    found, exact = ask(root), ask(root, "--exact")
    assert (found["search"], exact["search"]) == (kind, "exact")
    assert found["results"] == exact["results"]


def test_existing_embeddings_are_indexed_without_the_model(root, run):
    before = (run / "embeddings.h5").read_bytes()
    (run / "best.pt").unlink()
    assert "hnsw index" in index(run).stdout
    assert (run / "embeddings.h5").read_bytes() == before


def test_kind_that_is_made_again_takes_the_place_of_the_other(root, run):
    index(run, "flat")
    index(run, "hnsw")
    assert ask(root)["search"] == "hnsw"


def test_too_few_images_for_codes_are_one_line_of_error(run):
    path = run / "embeddings.h5"
    printed = invoke("embed", "--index", "ivf-pq", "--embeddings", path, root=run.parents[2])
    assert printed.returncode == 2
    assert "60 distinct images; ivf-pq needs at least 1000" in printed.stderr


@pytest.mark.parametrize(
    ("options", "names"),
    [
        (
            ["--scene", "harbor"],
            {"harbor_0.png", "harbor_1.png", "harbor_2.png", "harbor_3.png", "harbor_4.png"},
        ),
        (["--files", "harbor_[12]*"], {"harbor_1.png", "harbor_2.png"}),
        (["--files", "harbor_*", "--split", "train"], {"harbor_0.png", "harbor_2.png", "harbor_4.png"}),
    ],
)
def test_filters_search_exactly_what_passes(root, run, options, names):
    without = ask(root, *options)
    index(run)
    answer = ask(root, *options)
    assert answer == without
    assert answer["search"] == "exact"
    assert {hit["filename"] for hit in answer["results"]} == names


def test_pattern_that_no_image_fits_is_named(root):
    printed = invoke("query", "boats", "--files", "ship_*", root=root)
    assert printed.returncode == 2
    assert "--files 'ship_*': none of 60 images has such a name" in printed.stderr


def test_more_results_than_an_index_is_made_for_are_searched_exactly(root, run):
    index(run)
    answer = ask(root, "--top-k", "101")
    assert answer["search"] == "exact"
    assert len(answer["results"]) == 60


def test_batch_and_image_are_asked_of_the_index(root, run, source):
    index(run)
    lines = "a red plane\n???\ntwo boats in the harbor\n"
    printed = invoke("query", "--batch", "--json", root=root, stdin=lines)
    answers = [json.loads(line) for line in printed.stdout.splitlines()]
    assert [answer["search"] for answer in answers] == ["hnsw"] * 3
    assert [len(answer["results"]) for answer in answers] == [10, 0, 10]
    image = source / "images" / "harbor_2.png"
    answer = json.loads(invoke("query", "--image", image, "--json", root=root).stdout)
    assert answer["search"] == "hnsw"
    assert answer["results"][0]["filename"] == "harbor_2.png"


def test_embedding_the_same_again_keeps_the_index(root, run):
    index(run)
    before = (run / "embeddings.index").read_bytes()
    printed = invoke("embed", root=root)
    assert printed.stderr == ""
    assert (run / "embeddings.index").read_bytes() == before
    assert ask(root)["search"] == "hnsw"


def test_other_embeddings_in_the_same_file_end_its_index_with_a_warning(root, run, source):
    """So that the next query works; the index would be refused."""
    index(run)
    folder = root / "few"
    folder.mkdir()
    for name in ("harbor_1.png", "harbor_2.png"):
        shutil.copy(source / "images" / name, folder)
    printed = invoke("embed", "--images", folder, "--output", run / "embeddings.h5", root=root)
    assert printed.returncode == 0
    assert "embeddings.index: removed" in printed.stderr
    assert "swan embed --index hnsw --embeddings" in printed.stderr
    assert not (run / "embeddings.index").exists()
    assert len(ask(root)["results"]) == 2


def test_foreign_index_is_refused_and_exact_search_works_beside_it(root, run, source, tmp_path):
    other = tmp_path / "other.h5"
    folder = tmp_path / "one"
    folder.mkdir()
    shutil.copy(source / "images" / "harbor_1.png", folder)
    assert (
        invoke("embed", "--images", folder, "--output", other, "--index", "flat", root=root).returncode == 0
    )
    shutil.copy(other.with_suffix(".index"), run / "embeddings.index")
    printed = invoke("query", "boats", "--embeddings", run / "embeddings.h5", root=root)
    assert printed.returncode == 2
    assert "embeddings.index: made for other embeddings than" in printed.stderr
    assert "swan embed --index flat --embeddings" in printed.stderr
    assert len(ask(root, "--exact", "--embeddings", run / "embeddings.h5")["results"]) == 10


def test_damaged_index_is_one_line_of_error(root, run):
    (run / "embeddings.index").write_bytes(b"nothing")
    printed = invoke("query", "boats", root=root)
    assert printed.returncode == 2
    assert "embeddings.index: not a readable HDF5 file" in printed.stderr
    assert "--exact" in printed.stderr


def test_without_faiss_nothing_is_encoded_and_exact_search_works(root, run, monkeypatch):
    index(run)
    before = (run / "embeddings.h5").stat().st_mtime_ns
    monkeypatch.setitem(sys.modules, "faiss", None)
    for arguments in (["embed", "--index", "hnsw"], ["query", "boats"]):
        printed = invoke(*arguments, root=root)
        assert printed.returncode == 2
        assert "swancli[search]" in printed.stderr
    assert (run / "embeddings.h5").stat().st_mtime_ns == before
    assert ask(root, "--exact")["search"] == "exact"


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--embeddings", "some.h5"], "nothing to do with it"),
        (["--embeddings", "some.h5", "--index", "flat"], "some.h5: no such file"),
        (
            ["--embeddings", "some.h5", "--index", "flat", "--run", "first"],
            "--embeddings and --run cannot be combined",
        ),
        (
            ["--embeddings", "some.h5", "--index", "flat", "--images", "."],
            "--embeddings and --images cannot be combined",
        ),
        (["--texts", "-", "--index", "flat"], "--texts and --index cannot be combined"),
    ],
)
def test_options_that_do_not_fit_are_refused(root, options, problem):
    printed = invoke("embed", *options, root=root, stdin="a line\n")
    assert printed.returncode == 2
    assert problem in printed.stderr
