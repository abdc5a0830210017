"""Moving from the published code: its checkpoint through every command, on real images."""

import argparse
import json
import shutil
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import torch
from conftest import execute, invoke

from swancli.vocab.vocabulary import count_words, export_json

IMAGES = 40  # for testing, so that their captions fill more than one shard of 128


@pytest.fixture(scope="module")
def moved(real_data, published_weights, tmp_path_factory):
    """A data set of real images whose captions differ, a published checkpoint and its vocabulary."""
    folder, root = tmp_path_factory.mktemp("published"), tmp_path_factory.mktemp("root")
    entries = json.loads((real_data / "ucm" / "dataset.json").read_text())["images"]
    captions = [sentence["raw"] for entry in entries for sentence in entry["sentences"]]
    vocabulary = count_words(captions, min_count=5, stop_words="drop", dataset="ucm")
    export_json(folder / "vocab.json", vocabulary)
    seen, chosen = set(), []
    for entry in sorted(entries, key=lambda entry: entry["split"] != "test"):
        different = {tuple(vocabulary.encode(s["raw"])): s for s in entry["sentences"]}
        sentences = [different[words] for words in sorted(different.keys() - seen) if len(words) > 3]
        seen |= different.keys()
        if len(sentences) > 2 and len(chosen) < IMAGES:
            chosen.append({"filename": entry["filename"], "split": "test", "sentences": sentences})
    for number, entry in enumerate(entries[:6]):
        chosen.append({**entry, "split": ("train", "val")[number % 2]})
    (folder / "dataset.json").write_text(json.dumps({"images": chosen}))
    checkpoint = folder / "SWAN_best.pth.tar"
    torch.save(
        {
            "epoch": 40,
            "model": published_weights,
            "best_rsum": np.float64(180.0),
            "args": argparse.Namespace(lr=2e-4),
            "Eiters": 1234,
        },
        checkpoint,
    )
    prepared = invoke(
        "prepare",
        "--dataset",
        "real",
        "--source",
        folder / "dataset.json",
        "--images",
        real_data / "ucm" / "images",
        root=root,
    )
    assert prepared.returncode == 0, prepared.stderr
    arguments = ["--checkpoint", checkpoint, "--vocab", folder / "vocab.json"]
    embedded = execute("embed", *arguments, "--output", folder / "out" / "real.h5", root=root)
    assert embedded.returncode == 0, embedded.stderr
    return SimpleNamespace(folder=folder, root=root, arguments=arguments, output=folder / "out" / "real.h5")


def recalls_by_hand(similarity, owner):
    """Recalls in percent from a matrix without ties, query by query."""
    ways = {"i2t": [], "t2i": []}
    for image, row in enumerate(similarity):
        ranking = sorted(range(len(row)), key=lambda caption: -row[caption])
        ways["i2t"].append(
            min(ranking.index(caption) for caption in range(len(row)) if owner[caption] == image)
        )
    for caption, column in enumerate(similarity.T):
        ranking = sorted(range(len(column)), key=lambda image: -column[image])
        ways["t2i"].append(ranking.index(owner[caption]))
    return {
        way: {f"R@{k}": 100 * sum(rank < k for rank in ranks) / len(ranks) for k in (1, 5, 10)}
        for way, ranks in ways.items()
    }


def test_eval_equals_the_metrics_of_the_embeddings_by_hand(moved):
    result = invoke("eval", *moved.arguments, "--json", root=moved.root)
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    with h5py.File(moved.output) as file:
        assert file.attrs["variant"] == "published"
        names = file["images/split_names"].asstr()[:]
        test = np.flatnonzero(names[file["images/split"][:]] == "test")
        image, owner = file["images/embedding"][:][test], file["captions/image"][:]
        captions = np.flatnonzero(np.isin(owner, test))
        assert len(captions) > 128
        similarity = image @ file["captions/embedding"][:][captions].T
        owner = [int(np.flatnonzero(test == row)[0]) for row in owner[captions]]
    assert len(np.unique(similarity)) > 0.99 * similarity.size
    expected = recalls_by_hand(similarity, owner)
    for way in ("i2t", "t2i"):
        assert {k: report[way][k] for k in expected[way]} == pytest.approx(expected[way])
    assert report["mR"] == pytest.approx(np.mean([list(way.values()) for way in expected.values()]))
    again = invoke("eval", "--embeddings", moved.output, "--json", root=moved.root)
    assert json.loads(again.stdout)["t2i"] == report["t2i"]


def test_query_finds_the_vocabulary_where_embed_was_given_it(moved, tmp_path):
    found = invoke("query", "many green trees", "--embeddings", moved.output, "--json", root=moved.root)
    assert found.returncode == 0, found.stderr
    assert len(json.loads(found.stdout)["results"]) == 10
    elsewhere = shutil.copytree(moved.folder, tmp_path / "moved")
    found = invoke(
        "query", "many green trees", "--embeddings", elsewhere / "out" / "real.h5", root=moved.root
    )
    assert found.returncode == 0, found.stderr


def test_query_of_two_words_is_refused_in_a_line_and_a_stream_continues(moved):
    result = invoke("query", "tennis court", "--embeddings", moved.output, root=moved.root)
    assert result.returncode == 2
    assert "item 5" in result.stderr
    result = invoke(
        "query",
        "--batch",
        "--json",
        "--embeddings",
        moved.output,
        root=moved.root,
        stdin="tennis court\nmany green trees\n",
    )
    assert result.returncode == 0
    assert [len(json.loads(line)["results"]) for line in result.stdout.splitlines()] == [0, 10]


def test_published_checkpoint_without_its_vocabulary_is_refused(moved):
    for command in ("eval", "embed"):
        result = invoke(command, *moved.arguments[:2], root=moved.root)
        assert result.returncode == 2
        assert "SWAN_best.pth.tar" in result.stderr
        assert "--vocab" in result.stderr


def test_training_starts_from_a_published_checkpoint_and_writes_one_back(moved, published_weights, tmp_path):
    """One step at a rate of zero: weights go through the run unchanged, only batch statistics move."""
    back = tmp_path / "back.pth.tar"
    options = ["--epochs", 1, "--lr", 0, "--image-size", 32, "--quiet", "--export-published", back]
    refused = invoke(
        "train", "--dataset", "real", "--init-from", moved.arguments[1], *options, root=moved.root
    )
    assert refused.returncode == 2
    assert "--vocab" in refused.stderr
    start = ["--init-from", moved.arguments[1], *moved.arguments[2:]]
    result = invoke("train", "--dataset", "real", *start, *options, root=moved.root)
    assert result.returncode == 0, result.stderr
    content = torch.load(back, weights_only=False)
    assert {key: value.shape for key, value in content["model"].items()} == {
        key: value.shape for key, value in published_weights.items()
    }
    vocabulary = json.loads((moved.folder / "vocab.json").read_text())
    rows = sorted(vocabulary["word2idx"].values())
    for key, value in published_weights.items():
        if key == "text_encoder.embed.weight":
            assert torch.equal(content["model"][key][rows], value[rows])
        elif not ("running" in key or "num_batches" in key or ".fc.weight" in key or ".fc.bias" in key):
            assert torch.equal(content["model"][key], value), key
    again = invoke("eval", "--checkpoint", back, *moved.arguments[2:], "--json", root=moved.root)
    assert again.returncode == 0, again.stderr
