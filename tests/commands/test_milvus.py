"""A vector database through the commands: `swan embed --to` fills it, `swan query --from` asks it."""

import json
import re
import sys

import pytest
from conftest import invoke


@pytest.fixture(scope="module")
def archive(finished, tmp_path_factory):
    """The address of a database with the finished root's embeddings."""
    address = f"milvus://{tmp_path_factory.mktemp('archive')}/archive.db"
    printed = invoke(
        "embed", "--embeddings", finished.run / "embeddings.h5", "--to", address, root=finished.root
    )
    assert printed.returncode == 0, printed.stderr
    assert figures(printed) == ("60", "0", "0", "60")
    return address


def figures(printed):
    """New, changed, unchanged, there now: as the lines say."""
    _, _, lines = printed.stdout.partition("uploaded")
    names = ("new", "changed", "unchanged", "images there now")
    return tuple(re.search(rf"^ {name} +(\d+)$", lines, re.MULTILINE)[1] for name in names)


def answers(printed):
    assert printed.returncode == 0, printed.stderr
    return [json.loads(line) for line in printed.stdout.splitlines()]


def found(answer):
    return [(hit["rank"], hit["filename"], hit["scene"], hit["score"]) for hit in answer["results"]]


@pytest.mark.parametrize(
    "options",
    [
        ["two boats in the harbor", "--top-k", "60"],
        ["two boats in the harbor", "a red plane", "--not", "a river", "--split", "test"],
        ["a river", "--scene", "harbor", "--scene", "beach", "--files", "*_?.png", "--threshold", "0"],
    ],
)
def test_database_answers_as_the_file_does(finished, archive, options):
    (from_file,) = answers(invoke("query", *options, "--json", root=finished.root))
    (from_database,) = answers(invoke("query", *options, "--from", archive, "--json", root=finished.root))
    assert found(from_database) == found(from_file)
    assert from_database["search"] == "milvus-flat"
    assert from_database["results"][0]["captions"] == []


def test_image_and_lines_are_asked_as_well(finished, archive, source):
    image = source / "images" / "harbor_2.png"
    (answer,) = answers(invoke("query", "--image", image, "--from", archive, "--json", root=finished.root))
    assert answer["results"][0]["filename"] == "harbor_2.png"
    lines = "a river\n\nboats\n"
    asked = ["query", "--batch", "--json", "--top-k", "3"]
    from_database = answers(invoke(*asked, "--from", archive, root=finished.root, stdin=lines))
    assert [answer.get("error") for answer in from_database] == [None, "there is no word in it", None]
    assert list(map(found, from_database)) == list(
        map(found, answers(invoke(*asked, root=finished.root, stdin=lines)))
    )


def test_table_no_match_and_page(finished, archive, source, tmp_path):
    ask = ["query", "boats in the harbor", "--from", archive]
    pictures = ["--html", tmp_path / "hits.html", "--pictures", source / "images"]
    printed = invoke(*ask, *pictures, "--top-k", "2", root=finished.root)
    assert printed.returncode == 0, printed.stderr
    assert "boats in the harbor" in printed.stdout
    assert (tmp_path / "hits.html").read_text().count("data:image/jpeg;base64,") == 4  # each twice
    printed = invoke(*ask, "--threshold", "1", root=finished.root)
    assert (printed.returncode, printed.stdout) == (0, "no match for 'boats in the harbor'\n")


def test_embed_fills_the_database_at_once_and_not_twice(finished, tmp_path):
    command = ["embed", "--output", tmp_path / "e.h5", "--to", f"milvus://{tmp_path}/new.db?collection=small"]
    printed = invoke(*command, root=finished.root)
    assert printed.returncode == 0, printed.stderr
    assert figures(printed) == ("60", "0", "0", "60")
    printed = invoke(*command, root=finished.root)
    assert figures(printed) == ("0", "0", "60", "60")


def test_another_checkpoint_is_refused_before_it_encodes_and_when_it_asks(finished, archive, tmp_path):
    shipped = ["--checkpoint", "shipped"]
    printed = invoke("query", "a river", "--from", archive, *shipped, root=finished.root)
    assert printed.returncode == 2
    said = printed.stderr.replace("\n", "")
    assert re.search(r"made by another checkpoint, \S+best\.pt \(\w+\), than \S+shipped\.pt \(\w+\)", said)
    output = tmp_path / "e.h5"
    printed = invoke("embed", *shipped, "--output", output, "--to", archive, root=finished.root)
    assert printed.returncode == 2
    assert "made by another checkpoint" in printed.stderr
    assert not output.exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--from", "milvus://{folder}/none.db"], "none.db: no such database"),
        (["--from", "{archive}?collection=none"], "?collection=none: no such collection"),
        (["--from", "milvus://host"], "milvus://host: not an address of a vector database"),
        (["--from", "{archive}", "--scene", "lake"], "--scene 'lake': no image has this scene"),
        (["--from", "{archive}", "--captions"], "--from and --captions cannot be combined"),
        (["--from", "{archive}", "--exact"], "--from and --exact cannot be combined"),
        (["--from", "{archive}", "--embeddings", "e.h5"], "--from and --embeddings cannot be combined"),
        (["--from", "{archive}", "--scene-image", "a.tif"], "--scene-image and --from cannot be combined"),
        (["--from", "{archive}", "--html", "hits.html"], "does not say where its images are"),
    ],
)
def test_what_cannot_be_asked_is_reported(finished, archive, tmp_path, options, said):
    options = [option.format(archive=archive, folder=tmp_path) for option in options]
    printed = invoke("query", "a river", *options, root=finished.root)
    assert printed.returncode == 2
    assert said in printed.stderr
    assert len(printed.stderr.splitlines()) <= 3
    assert not (tmp_path / "none.db").exists()


def test_extra_that_is_missing_is_named(finished, monkeypatch):
    monkeypatch.setitem(sys.modules, "pymilvus", None)
    for command in (["embed", "--to", "milvus://"], ["query", "a river", "--from", "milvus:///tmp/a.db"]):
        printed = invoke(*command, root=finished.root)
        assert printed.returncode == 2
        assert "swancli[milvus]" in printed.stderr or "no such database" in printed.stderr


def test_texts_and_scenes_have_no_images_to_bring(finished):
    for option in (["--texts", "-"], ["--scene-image", "a.tif"]):
        printed = invoke("embed", *option, "--to", "milvus://", root=finished.root)
        assert printed.returncode == 2
        assert "cannot be combined" in printed.stderr
