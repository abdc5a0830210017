"""Asking well, and seeing: the options of `swan query` that put questions together and show pictures."""

import json
import math
import shutil
from dataclasses import asdict
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import torch
from conftest import execute, invoke
from PIL import Image

from swancli.evaluate.match_threshold import MatchThreshold
from swancli.query.questions import AWAY
from swancli.store.embeddings import store_match


def asked(finished, *options):
    printed = invoke("query", *options, "--json", root=finished.root)
    assert printed.returncode == 0, printed.stderr
    return json.loads(printed.stdout)


def names(answer):
    return [hit["filename"] for hit in answer["results"]]


def test_several_texts_less_others_rank_by_the_vector_worked_out_from_the_stored_embeddings(finished):
    with h5py.File(finished.run / "embeddings.h5") as file:
        texts = file["captions/text"].asstr()[[0, 20, 70]].tolist()
        first, second, away = file["captions/embedding"][[0, 20, 70]]
        images, files = file["images/embedding"][:], file["images/filename"].asstr()[:]
    vector = (first + second) / 2 - AWAY * away
    scores = images @ (vector / np.linalg.norm(vector))
    answer = asked(finished, *texts[:2], "--not", texts[2], "--top-k", "60")
    assert answer["query"] == f"{texts[0]} + {texts[1]} - {texts[2]}"
    found = dict(zip(names(answer), (hit["score"] for hit in answer["results"]), strict=True))
    np.testing.assert_allclose([found[name] for name in files], scores, atol=1e-5)
    assert [hit["score"] for hit in answer["results"]] == sorted(found.values(), reverse=True)


def test_captions_are_ranked_for_a_text_or_an_image_each_text_once(finished, source):
    with h5py.File(finished.run / "embeddings.h5") as file:
        texts = file["captions/text"].asstr()[:]
        (row,) = np.flatnonzero(file["images/filename"].asstr()[:] == "harbor_2.png")
        scores = file["captions/embedding"][:] @ file["images/embedding"][row]
    answer = asked(finished, "--image", source / "images" / "harbor_2.png", "--captions", "--top-k", "999")
    captions = [caption for hit in answer["results"] for caption in hit["captions"]]
    assert len(captions) == len(set(captions)) == len(set(texts))
    best = {text: max(scores[texts == text]) for text in set(texts)}
    np.testing.assert_allclose(
        [hit["score"] for hit in answer["results"]], [best[caption] for caption in captions], atol=1e-5
    )
    same = asked(finished, texts[3], "--captions", "--top-k", "1")
    assert same["results"][0]["captions"] == [texts[3]]
    assert same["results"][0]["score"] == pytest.approx(1, abs=1e-5)


def test_lines_of_text_are_searched_with_a_text(finished, tmp_path):
    output = tmp_path / "lines.h5"
    lines = "a red plane\nboats in the harbor\n"
    invoke("embed", "--texts", "-", "--output", output, root=finished.root, stdin=lines)
    answer = asked(finished, "boats in the harbor", "--captions", "--embeddings", output)
    assert answer["results"][0]["captions"] == ["boats in the harbor"]
    assert answer["results"][0]["filename"] == ""


def test_file_names_filter(finished):
    answer = asked(finished, "boats", "--files", "harbor_[12].png")
    assert sorted(names(answer)) == ["harbor_1.png", "harbor_2.png"]
    refused = invoke("query", "boats", "--files", "nothing*", root=finished.root)
    assert refused.returncode == 2
    assert "nothing*" in refused.stderr


def test_threshold_auto_is_what_training_set(finished):
    """So that a query of no known word, which is like nothing, finds no match."""
    stored = torch.load(finished.run / "best.pt", weights_only=True)["origin"]["match_threshold"]
    assert 0 <= stored["miss"] <= 100
    number = asked(finished, "boats", "--threshold", MatchThreshold(**stored).among(60), "--top-k", "60")
    assert asked(finished, "boats", "--threshold", "auto", "--top-k", "60") == number


@pytest.mark.parametrize("scope", [[], ["--scene", "harbor"], ["--files", "harbor_[12].png"]])
def test_threshold_auto_is_for_the_number_of_images_that_are_searched(finished, tmp_path, scope):
    """Half of all images have the score of a match among all of them; the score among fewer is lower."""
    root = shutil.copytree(finished.root, tmp_path / "root")
    options = ["boats", "--top-k", "60", *scope]
    scores = [hit["score"] for hit in asked(finished, "boats", "--top-k", "60")["results"]]
    growth = (scores[29] - scores[-1]) / 4
    offset = math.atanh(scores[29] - 1e-6) - growth * math.sqrt(math.log2(60))
    match = MatchThreshold(offset, growth, false_alarm=20, miss=10, images=9, captions=9)
    store_match(root / "small/runs/first/embeddings.h5", json.dumps(asdict(match)))
    count = len(asked(finished, *options)["results"])
    found = asked(SimpleNamespace(root=root), *options, "--threshold", "auto")
    assert found == asked(finished, *options, "--threshold", match.among(count))
    assert scope or len(found["results"]) == 30


@pytest.mark.parametrize("threshold", ["2", "nan", "much"])
def test_threshold_that_is_none_is_refused(finished, threshold):
    refused = invoke("query", "boats", "--threshold", threshold, root=finished.root)
    assert refused.returncode == 2
    assert "from -1 to 1, or auto" in refused.stderr


def test_page_and_sheet_are_written_beside_the_table(finished, tmp_path):
    page, sheet = tmp_path / "hits.html", tmp_path / "hits.png"
    options = ["--top-k", "7", "--html", page, "--sheet", sheet]
    printed = execute("query", "boats in the harbor", *options, root=finished.root)
    assert printed.returncode == 0, printed.stderr
    assert "harbor" in printed.stdout
    text = page.read_text(encoding="utf-8")
    assert text.count("<li>") == 7
    assert "data:image/jpeg;base64," in text
    with Image.open(sheet) as picture:
        assert picture.width > picture.height > 300


def test_page_of_a_batch_has_a_section_a_line(finished, tmp_path):
    page = tmp_path / "hits.html"
    options = ["--batch", "--json", "--top-k", "2", "--html", page]
    printed = invoke("query", *options, root=finished.root, stdin="a red plane\n???\nboats\n")
    assert len(printed.stdout.splitlines()) == 3
    text = page.read_text(encoding="utf-8")
    assert text.count("<section") == 3
    assert "there is no word in it" in text


def test_pictures_that_moved_are_found_where_they_are_said_to_be(finished, source, tmp_path):
    output, page = tmp_path / "folder.h5", tmp_path / "hits.html"
    moved = tmp_path / "moved"
    (source / "images").rename(moved)
    try:
        invoke("embed", "--images", moved, "--output", output, root=finished.root)
    finally:
        moved.rename(source / "images")
    options = ["boats", "--embeddings", output, "--html", page]
    refused = invoke("query", *options, root=finished.root)
    assert refused.returncode == 2
    assert "--pictures" in refused.stderr
    assert not page.exists()
    told = invoke("query", *options, "--pictures", source / "images", root=finished.root)
    assert told.returncode == 0, told.stderr
    assert page.read_text().count("data:image/jpeg;base64,") == 20


def test_ways_of_asking_that_contradict_each_other_are_refused(finished, source):
    image = source / "images" / "harbor_2.png"
    for options in (
        ["boats", "--image", image],
        ["boats", "--batch"],
        ["--image", image, "--not", "boats"],
        [],
    ):
        assert invoke("query", *options, root=finished.root, stdin="").returncode == 2


def test_thousands_of_results_are_as_many_as_there_are(finished):
    assert len(asked(finished, "boats", "--top-k", "5000")["results"]) == 60


def test_threshold_of_a_checkpoint_without_one_is_set_on_the_validation_split_at_hand(finished, tmp_path):
    """As the checkpoints of the published code are."""
    root = shutil.copytree(finished.root, tmp_path / "root")
    best = root / "small/runs/first/best.pt"
    content = torch.load(best, weights_only=True)
    match = MatchThreshold.from_plain(content["origin"].pop("match_threshold"))
    torch.save(content, best)
    assert invoke("embed", "--run", "first", root=root).returncode == 0
    options = ["--threshold", "auto", "--top-k", "60", "--json"]
    printed = invoke("query", "boats", *options, root=root)
    assert printed.returncode == 0, printed.stderr
    found = json.loads(printed.stdout)["results"]
    assert all(hit["score"] >= match.among(60) - 1e-6 for hit in found)
    lines = tmp_path / "lines.h5"
    invoke("embed", "--texts", "-", "--output", lines, root=root, stdin="boats\n")
    refused = invoke("query", "boats", "--captions", "--embeddings", lines, "--threshold", "auto", root=root)
    assert refused.returncode == 2
    assert "give a number" in refused.stderr


def test_nothing_asked_leaves_no_sheet_and_is_reported(finished, tmp_path):
    sheet = tmp_path / "hits.png"
    refused = invoke("query", "--batch", "--sheet", sheet, root=finished.root, stdin="")
    assert refused.returncode == 2
    assert "nothing to show" in refused.stderr
    assert not sheet.exists()


def test_page_of_lines_of_text_has_no_pictures(finished, tmp_path):
    lines, page = tmp_path / "lines.h5", tmp_path / "hits.html"
    invoke("embed", "--texts", "-", "--output", lines, root=finished.root, stdin="boats in the harbor\n")
    printed = invoke(
        "query", "boats", "--captions", "--embeddings", lines, "--html", page, root=finished.root
    )
    assert printed.returncode == 0, printed.stderr
    assert "a text without an image" in page.read_text()


def test_damaged_threshold_of_a_checkpoint_is_an_error_that_names_it(finished, tmp_path):
    root = shutil.copytree(finished.root, tmp_path / "root")
    best = root / "small/runs/first/best.pt"
    content = torch.load(best, weights_only=True)
    content["origin"]["match_threshold"]["recall"] = 1.0
    torch.save(content, best)
    assert invoke("embed", "--run", "first", root=root).returncode == 0
    printed = invoke("query", "boats", "--threshold", "auto", root=root)
    assert printed.returncode == 2
    assert "best.pt: damaged checkpoint (its match threshold" in printed.stderr
    assert len(printed.stderr.splitlines()) <= 3
