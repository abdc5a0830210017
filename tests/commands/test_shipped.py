"""What works without any training: the checkpoint that comes with swan."""

import json
import shutil

import h5py
import pytest
import torch
from conftest import invoke

from swancli.evaluate.match_threshold import MatchThreshold
from swancli.model.checkpoint import load_checkpoint
from swancli.workspace import shipped_checkpoint


@pytest.fixture(scope="module")
def embedded(source, tmp_path_factory):
    """An empty root in which a folder of images was embedded, and what was said."""
    root = tmp_path_factory.mktemp("empty")
    printed = invoke("embed", "--images", source / "images", root=root)
    assert printed.returncode == 0, printed.stderr
    return root, printed


def test_shipped_checkpoint_is_small_half_precision_and_whole():
    assert shipped_checkpoint().stat().st_size < 40e6
    content = torch.load(shipped_checkpoint(), weights_only=True)
    assert {value.dtype for value in content["model"].values()} <= {torch.float16, torch.int64}
    assert "text_tower.bert.words.weight" in content["borrowed"]  # from the towers that come with swan
    assert not content["training"]


def test_shipped_checkpoint_knows_its_training_images_and_the_score_of_a_match():
    checkpoint = load_checkpoint("shipped")
    assert len(checkpoint.seen.digest) > 9000  # RSICD's and UCM's, some of which are equal
    match = MatchThreshold.from_plain(checkpoint.origin["match_threshold"])
    assert match.images == 1966  # set on RSICD's validation split


def test_embed_without_a_run_takes_the_shipped_checkpoint_and_says_so(embedded):
    root, printed = embedded
    assert "using the shipped checkpoint" in printed.stderr
    with h5py.File(root / "shipped" / "embeddings-images.h5") as file:
        assert file["images/embedding"].shape[0] == 60
    answered = invoke("query", "many boats in a harbor", "--json", root=root)
    assert answered.returncode == 0, answered.stderr
    answer = json.loads(answered.stdout)
    assert len(answer["results"]) == 10
    assert answer["unknown_words"] == []


def test_embeddings_of_images_alone_have_no_recall(embedded):
    root, _ = embedded
    printed = invoke("eval", "--embeddings", root / "shipped" / "embeddings-images.h5", root=root)
    assert printed.returncode == 2
    assert printed.stderr.startswith("error: these embeddings have no captions\n")
    printed = invoke("query", "a harbor", "--split", "test", root=root)
    assert printed.returncode == 2
    assert "no image has this split\n  these embeddings have no splits\n" in printed.stderr


def test_embeddings_follow_the_shipped_checkpoint_to_another_installation(embedded, tmp_path):
    root, _ = embedded
    moved = shutil.copytree(root, tmp_path / "root")
    with h5py.File(moved / "shipped" / "embeddings-images.h5", "r+") as file:
        file.attrs["checkpoint"] = "/elsewhere/site-packages/swancli/assets/shipped.pt"
    assert invoke("query", "a harbor", root=moved).returncode == 0


def test_shipped_checkpoint_can_be_named_beside_runs(finished, source, tmp_path):
    root = shutil.copytree(finished.root, tmp_path / "root")
    quiet = invoke("embed", "--images", source / "images", root=root)
    assert "shipped" not in quiet.stderr
    named = invoke("embed", "--images", source / "images", "--checkpoint", "shipped", root=root)
    assert named.returncode == 0, named.stderr
    assert (root / "shipped" / "embeddings-images.h5").exists()
    evaluated = invoke("eval", "--checkpoint", "shipped", "--dataset", "small", "--json", root=root)
    assert 0 <= json.loads(evaluated.stdout)["mR"] <= 100


def test_run_that_is_named_is_not_replaced_by_the_shipped_checkpoint(source, tmp_path):
    printed = invoke("embed", "--images", source / "images", "--run", "mine", root=tmp_path)
    assert printed.returncode == 2
    assert "mine" in printed.stderr
