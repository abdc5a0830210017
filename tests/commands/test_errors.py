"""The user's mistakes: exit code 2, a line that names the file and a hint, and nothing half-written."""

import json
import shutil

import pytest
import torch
from conftest import RANDOM, execute, invoke

from swancli.vocab.vocabulary import count_words, write_vocabulary


def refused(result, *named):
    """Asserts a clean refusal: code 2, at most three lines without a traceback, naming what is wrong."""
    assert result.returncode == 2, (result.stdout, result.stderr)
    assert result.stderr.startswith("error: "), result.stderr
    assert len(result.stderr.splitlines()) <= 3
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
    for name in named:
        assert str(name) in result.stderr


@pytest.fixture
def copied(source, tmp_path):
    return shutil.copytree(source, tmp_path / "copied")


def change_list(folder, change):
    path = folder / "dataset.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def prepare(folder, tmp_path, *options):
    root = tmp_path / "root"
    result = invoke("prepare", "--dataset", "small", "--source", folder, *options, root=root)
    if result.returncode:
        assert not list(root.rglob("*.h5")) + list(root.rglob("*.tmp"))
    return result


def test_source_that_does_not_exist(tmp_path):
    refused(prepare(tmp_path / "nothing", tmp_path), tmp_path / "nothing")


def test_json_without_images(copied, tmp_path):
    change_list(copied, lambda content: content.pop("images"))
    refused(prepare(copied, tmp_path), "dataset.json", "images")


def test_caption_list_that_is_no_multiple_of_the_images(tmp_path):
    folder = tmp_path / "precomp"
    folder.mkdir()
    (folder / "train_caps.txt").write_text("one\ntwo\nthree\n")
    (folder / "train_filename.txt").write_text("a_1.png\na_2.png\n")
    refused(prepare(folder, tmp_path), "train_caps.txt", "3", "2")


def test_image_cut_in_half(copied, tmp_path):
    image = copied / "images" / "harbor_2.png"
    image.write_bytes(image.read_bytes()[: image.stat().st_size // 2])
    refused(prepare(copied, tmp_path), "harbor_2.png", "--missing skip")
    skipped = prepare(copied, tmp_path, "--missing", "skip")
    assert skipped.returncode == 0
    assert "harbor_<number>.png" in skipped.stdout


def test_text_file_named_jpg(copied, tmp_path):
    (copied / "images" / "harbor_2.png").unlink()
    (copied / "images" / "harbor_2.jpg").write_text("not an image")
    change_list(
        copied,
        lambda content: next(i for i in content["images"] if i["filename"] == "harbor_2.png").update(
            filename="harbor_2.jpg"
        ),
    )
    refused(prepare(copied, tmp_path), "harbor_2.jpg", "not an image")


def test_empty_caption(copied, tmp_path):
    change_list(copied, lambda content: content["images"][3]["sentences"][1].update(raw="  "))
    refused(prepare(copied, tmp_path), "dataset.json", "images[3].sentences[1]")


def test_absent_images_are_counted_in_one_error_that_names_the_option(copied, tmp_path):
    for path in (copied / "images").glob("airport_*"):
        path.unlink()
    refused(prepare(copied, tmp_path), "5 of 60", "airport_<number>.png", "--missing skip")


def test_train_before_prepare(tmp_path):
    refused(execute("train", "--dataset", "small", root=tmp_path), "dataset.h5", "swan prepare")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["prepare", "vocab", "train", "pretrain"])
def test_published_data_set_that_is_absent_is_said_to_be_where(tmp_path, command):
    result = invoke(command, "--dataset", "rsitmd", root=tmp_path)
    assert result.returncode == 2
    problem, page, files, fix = result.stderr.splitlines()
    assert "rsitmd" in problem
    assert "https://github.com/xiaoyuan1996/AMFMN" in page
    assert "dataset_RSITMD.json and images/" in files
    assert fix == "  swan prepare --dataset rsitmd --source FOLDER --split random"
    assert list(tmp_path.iterdir()) == []


def test_train_before_vocab(source, tmp_path):
    prepare(source, tmp_path)
    root, make = tmp_path / "root", "make it: swan vocab --dataset small"
    result = invoke("train", "--dataset", "small", *RANDOM, root=root)
    refused(result, "vocab.h5: no such", f"{make}; or take --text")
    result = invoke("train", "--dataset", "small", "--variant", "published", "--fine-tune", root=root)
    refused(result, "vocab.h5: no such file", f"{make}\n")


def test_vocabulary_of_another_data_set(source, tmp_path):
    prepare(source, tmp_path)
    path = tmp_path / "other.h5"
    write_vocabulary(path, count_words(["a cat"], min_count=1, stop_words="keep", dataset="other"))
    result = invoke("train", "--dataset", "small", *RANDOM, "--vocab", path, root=tmp_path / "root")
    refused(result, path, "other", "swan vocab --dataset small")
    assert not (tmp_path / "root" / "small" / "runs").exists()


@pytest.mark.parametrize("command", ["eval", "embed"])
def test_checkpoint_that_does_not_fit(finished, tmp_path, command):
    content = torch.load(finished.run / "best.pt", weights_only=True)
    content["settings"]["backbone"] = "resnet50"
    torch.save(content, tmp_path / "wrong.pt")
    output = ["--output", tmp_path / "x.h5"] if command == "embed" else []
    refused(invoke(command, "--checkpoint", tmp_path / "wrong.pt", *output, root=finished.root), "wrong.pt")
    assert not (tmp_path / "x.h5").exists()


def test_file_that_is_no_checkpoint(finished, tmp_path):
    (tmp_path / "text.pt").write_text("hello")
    refused(invoke("eval", "--checkpoint", tmp_path / "text.pt", root=finished.root), "text.pt")


def test_checkpoint_that_would_execute_is_refused(finished, tmp_path):
    torch.save({"format": "swan-checkpoint", "model": print}, tmp_path / "evil.pt")
    refused(invoke("eval", "--checkpoint", tmp_path / "evil.pt", root=finished.root), "evil.pt", "safely")


def test_empty_folder_to_embed(finished, tmp_path):
    (tmp_path / "empty").mkdir()
    output = tmp_path / "x.h5"
    result = invoke("embed", "--images", tmp_path / "empty", "--output", output, root=finished.root)
    refused(result, tmp_path / "empty")
    assert not output.exists()


def test_embeddings_of_another_checkpoint_are_not_searched(finished, tmp_path):
    other = tmp_path / "other.pt"
    content = torch.load(finished.run / "best.pt", weights_only=True)
    content["origin"]["run"] = "another"
    torch.save(content, other)
    refused(
        invoke("query", "boats", "--checkpoint", other, root=finished.root),
        "another checkpoint",
        "swan embed",
    )


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["query"], ["nothing to search for"]),
        (["query", "!!!"], ["no word"]),
        (["query", "boats", "--scene", "moon"], ["moon", "harbor"]),
        (["query", "boats", "--split", "moon"], ["moon", "train"]),
        (["query", "--image", "no.png"], ["no.png"]),
        (["eval", "--split", "moon"], ["moon", "train"]),
        (["eval", "--run", "none"], ["none", "there are: first"]),
        (["eval", "--checkpoint", "none.pt"], ["none.pt: no such file", "check the path"]),
        (
            ["eval", "--checkpoint", "first"],
            ["--checkpoint first: no such file", "run of this name: --run first"],
        ),
        (["query", "boats", "--checkpoint", "first"], ["run of this name: --checkpoint ", "first/best.pt"]),
        (["train", "--dataset", "small", "--init-from", "none.pt"], ["none.pt: no such", "check the path"]),
        (["eval", "--embeddings", "none.h5"], ["none.h5", "swan embed"]),
        (["eval", "--dataset", "../up"], ["../up"]),
        (["train", "--dataset", "small", "--device", "cuda:99"], ["cuda:99"]),
        (["train", "--dataset", "small", *RANDOM, "--weights", "none.pth"], ["none.pth"]),
        (["train", "--resume", "--run", "none"], ["none"]),
        (["vocab", "--source", "nowhere"], ["--dataset"]),
        (["train", "--dataset", "small", "--embed-dim", "30"], ["--embed-dim 30", "8"]),
        (["train", "--dataset", "small", "--device", "meta"], ["meta", "cuda"]),
        (["eval", "--run", "first", "--checkpoint", "x.pt"], ["--run and --checkpoint"]),
        (["eval", "--json", "--csv"], ["--json and --csv"]),
        (["embed", "--images", "nowhere"], ["nowhere", "no such folder"]),
        (["vocab", "--dataset", "small", "--min-count", "100000"], ["100000"]),
    ],
)
def test_mistaken_options_are_named(finished, arguments, named):
    refused(invoke(*arguments, root=finished.root), *named)


def test_unknown_option_is_exit_code_2(tmp_path):
    result = invoke("train", "--no-such-option", root=tmp_path)
    assert result.returncode == 2


@pytest.mark.parametrize(
    ("command", "problem", "hint"),
    [
        ("query boats", "no embeddings under", "swan embed"),
        ("embed", "no run and no data set under", "swan train"),
        ("embed --checkpoint shipped", "no data set under", "swan embed --images"),
        ("vocab", "no data set under", "swan prepare"),
        ("train --resume", "no run to resume under", "swan train"),
        ("eval", "no finished run under", "swan train"),
        ("eval --checkpoint shipped", "no data set under", "eval needs a data set with captions"),
    ],
)
def test_command_that_comes_too_early_says_what_to_do(tmp_path, command, problem, hint):
    refused(invoke(*command.split(), root=tmp_path), f"{problem} {tmp_path}", hint)


def test_bug_is_exit_code_1_with_a_traceback(finished, monkeypatch):
    monkeypatch.setattr("swancli.query.search.open_search", lambda *_, **__: 1 / 0)
    assert invoke("query", "boats", root=finished.root).returncode == 1


def test_interrupt_is_exit_code_130(finished, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("swancli.query.search.open_search", interrupt)
    assert invoke("query", "boats", root=finished.root).returncode == 130
