"""Which pieces a shard has, and that shards of different archives do not come together."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swancli.embed.shards import WHOLE, Shard, ShardFolder, chosen_shard
from swancli.errors import SwanError

MANIFEST = {
    "source": "images",
    "images": "abc",
    "checkpoint_sha256": "0" * 64,
    "precision": "fp32",
    "batch_size": 32,
    "shards": 4,
    "pieces": [[0, 512], [512, 600]],
}


@given(pieces=st.integers(0, 100), count=st.integers(1, 20))
def test_every_piece_is_in_one_shard_in_order(pieces, count):
    shares = [Shard(number, count).share(pieces) for number in range(1, count + 1)]
    assert [piece for share in shares for piece in share] == list(range(pieces))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize("given", ["0/4", "5/4", "1", "1/0", "-1/4", "a/b", "1/4/4", "", "1.5/4"])
def test_what_is_no_shard_is_told(given):
    with pytest.raises(SwanError, match="no shard"):
        chosen_shard(given, False)


def launch(monkeypatch, rank, count, attempt=0):
    """The variables that torchrun sets."""
    values = {"RANK": rank, "WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": 29500}
    for name, value in {**values, "LOCAL_RANK": rank, "TORCHELASTIC_RESTART_COUNT": attempt}.items():
        monkeypatch.setenv(name, str(value))


def test_shard_is_the_one_given_else_that_of_the_launch_else_all(monkeypatch):
    assert chosen_shard("3/8", False) == (Shard(3, 8), False)
    assert chosen_shard(None, True) == (WHOLE, True)
    launch(monkeypatch, 0, 1)
    assert chosen_shard("3/8", False) == (Shard(3, 8), False)
    assert chosen_shard(None, False) == (WHOLE, False)
    launch(monkeypatch, 2, 8)
    assert chosen_shard(None, False) == (Shard(3, 8), False)
    with pytest.raises(SwanError, match="torchrun gives each process its shard"):
        chosen_shard("3/8", False)


def test_launch_that_was_started_again_goes_on(monkeypatch):
    launch(monkeypatch, 2, 8, attempt=1)
    assert chosen_shard(None, False) == (Shard(3, 8), True)
    launch(monkeypatch, 0, 1, attempt=1)
    assert chosen_shard(None, False) == (WHOLE, True)
    assert chosen_shard("3/8", False) == (Shard(3, 8), True)


@pytest.mark.parametrize("rank", [0, 1])
def test_of_a_launch_all_but_the_first_process_follow(monkeypatch, rank):
    launch(monkeypatch, rank, 2)
    assert chosen_shard(None, False)[0].follows == (rank > 0)


def test_shards_agree_on_one_manifest_and_a_different_one_is_told(tmp_path):
    one, other = (ShardFolder(tmp_path / "a.b.h5", Shard(number, 4)) for number in (1, 2))
    identity = one.agree(MANIFEST, anew=True)
    assert one.folder == tmp_path / "a.b.shards"
    assert other.agree({**MANIFEST, "source": "/mounted/elsewhere"}, anew=True) == identity
    assert json.loads(one.manifest.read_text())["pieces"] == [[0, 512], [512, 600]]
    with pytest.raises(SwanError, match="begun with another checkpoint, --batch-size 32\n") as caught:
        other.agree({**MANIFEST, "checkpoint_sha256": "1" * 64, "batch_size": 64}, anew=True)
    assert "--output" in caught.value.mend
    assert one.missing() == [1, 2, 3, 4]


def test_one_process_begins_anew_where_another_one_left_something_else(tmp_path):
    folder = ShardFolder(tmp_path / "a.h5", WHOLE)
    manifest = {**MANIFEST, "shards": 1}
    folder.agree(manifest, anew=True)
    changed = {**manifest, "images": "def"}
    with pytest.raises(SwanError, match="begun with other images"):
        folder.agree(changed, anew=False)
    folder.agree(changed, anew=True)
    assert folder.agree(changed, anew=False) != folder.agree(manifest, anew=True)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": "swan-manifest", "version": 2}', "null"])
def test_what_is_no_manifest_is_told(tmp_path, content):
    folder = ShardFolder(tmp_path / "a.h5", WHOLE)
    folder.folder.mkdir()
    folder.manifest.write_text(content)
    with pytest.raises(SwanError, match=r"manifest\.json"):
        folder.agree({**MANIFEST, "shards": 1}, anew=True)
    assert folder.manifest.read_text() == content
