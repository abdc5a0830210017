"""Which pieces a shard has, and that shards of different archives do not come together."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swancli.embed.shards import WHOLE, Shard, ShardFolder, archive_identity, chosen_shard
from swancli.errors import SwanError

MANIFEST = {
    "source": "images",
    "images": "abc",
    "checkpoint_sha256": "0" * 64,
    "configuration": "",
    "rendering": ["", ""],
    "precision": "fp32",
    "batch_size": 32,
    "shards": 4,
    "pieces": [[0, 512], [512, 600]],
    "scene_from": "auto",
    "missing": "error",
}


@given(pieces=st.integers(0, 100), count=st.integers(1, 20))
def test_every_piece_is_in_one_shard_in_order(pieces, count):
    shares = [Shard(number, count).share(pieces) for number in range(1, count + 1)]
    assert [piece for share in shares for piece in share] == list(range(pieces))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize("given", ["0/4", "5/4", "1", "1/0", "-1/4", "a/b", "1/4/4", "", "1.5/4"])
def test_what_is_no_shard_is_reported(given):
    with pytest.raises(SwanError, match="not a shard"):
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


def test_launch_that_was_started_again_continues(monkeypatch):
    launch(monkeypatch, 2, 8, attempt=1)
    assert chosen_shard(None, False) == (Shard(3, 8), True)
    launch(monkeypatch, 0, 1, attempt=1)
    assert chosen_shard(None, False) == (WHOLE, True)
    assert chosen_shard("3/8", False) == (Shard(3, 8), True)


@pytest.mark.parametrize("rank", [0, 1])
def test_all_processes_of_torchrun_but_the_first_follow(monkeypatch, rank):
    launch(monkeypatch, rank, 2)
    assert chosen_shard(None, False)[0].follows == (rank > 0)


def test_shards_agree_on_one_manifest_and_a_different_one_is_reported(tmp_path):
    one, other = (ShardFolder(tmp_path / "a.b.h5", Shard(number, 4)) for number in (1, 2))
    one.agree(MANIFEST, replace=True)
    assert one.folder == tmp_path / "a.b.shards"
    other.agree({**MANIFEST, "source": "/mounted/elsewhere"}, replace=True)
    assert json.loads(one.manifest.read_text())["pieces"] == [[0, 512], [512, 600]]
    with pytest.raises(SwanError, match="begun with another checkpoint, --batch-size 32\n") as caught:
        other.agree({**MANIFEST, "checkpoint_sha256": "1" * 64, "batch_size": 64}, replace=True)
    assert "--output" in caught.value.hint


def test_embeddings_have_one_identity_however_many_shards_they_are_made_in():
    assert archive_identity(MANIFEST) == archive_identity({**MANIFEST, "shards": 1, "source": "elsewhere"})
    others = [{"images": "abd"}, {"checkpoint_sha256": "1" * 64}, {"precision": "bf16"}, {"batch_size": 64}]
    others.append({"pieces": [[0, 600]]})
    assert len({archive_identity({**MANIFEST, **other}) for other in ({}, *others)}) == 6


def test_pieces_of_a_shard_have_their_number_in_the_archive(tmp_path):
    folder = ShardFolder(tmp_path / "a.h5", Shard(1, 2))
    names = {n: path.relative_to(tmp_path).as_posix() for n, path in folder.pieces(Shard(2, 2), 4).items()}
    assert names == {2: "a.shards/2-of-2/piece-000002.h5", 3: "a.shards/2-of-2/piece-000003.h5"}


def test_all_of_an_archive_is_removed_but_for_a_shard_whose_process_is_there(tmp_path):
    one, two, three = (ShardFolder(tmp_path / "a.h5", Shard(number, 3)) for number in (1, 2, 3))
    one.agree({**MANIFEST, "shards": 3}, replace=True)
    for folder in (one, two, three):
        folder.write_state(1, 1, 1, 0)
        folder.own.mkdir()
        for name in ("piece-000000.h5", ".piece-000001.h5.host.1.tmp", ".lock"):  # as of a killed process
            (folder.own / name).write_bytes(b"")
    (one.folder / ".3-of-3.json.host.1.tmp").write_bytes(b"")
    with two.alone_in_shard():
        one.remove_all()
        assert sorted(path.name for path in one.folder.iterdir()) == ["1-of-3", "2-of-3", "2-of-3.json"]
        two.remove_own()
    two.remove_empty()
    with one.alone_in_shard():
        pass
    one.remove_empty()
    assert list(tmp_path.iterdir()) == []


def test_one_process_starts_again_where_another_one_left_something_else(tmp_path):
    folder = ShardFolder(tmp_path / "a.h5", WHOLE)
    manifest = {**MANIFEST, "shards": 1}
    folder.agree(manifest, replace=True)
    changed = {**manifest, "images": "def"}
    with pytest.raises(SwanError, match="begun with other images"):
        folder.agree(changed, replace=False)
    folder.agree(changed, replace=True)
    folder.agree(changed, replace=False)
    assert folder.read_manifest()["images"] == "def"


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": "swan-manifest", "version": 2}', "null"])
def test_what_is_no_manifest_is_reported(tmp_path, content):
    folder = ShardFolder(tmp_path / "a.h5", WHOLE)
    folder.folder.mkdir()
    folder.manifest.write_text(content)
    with pytest.raises(SwanError, match=r"manifest\.json"):
        folder.agree({**MANIFEST, "shards": 1}, replace=True)
    assert folder.manifest.read_text() == content


def test_pieces_of_other_swan_versions_or_rules_for_damaged_images_are_not_joined(tmp_path, monkeypatch):
    one, other = (ShardFolder(tmp_path / "a.h5", Shard(number, 4)) for number in (1, 2))
    one.agree(MANIFEST, replace=True)
    other.agree({**MANIFEST, "missing": "skip"}, replace=True)  # so far nothing was left out
    assert one.read_manifest()["missing"] == "skip"
    with pytest.raises(SwanError, match="begun with --missing skip\n"):
        one.agree(MANIFEST, replace=True)
    monkeypatch.setattr("swancli.embed.shards.CREATED_BY", "swancli 99.0")
    with pytest.raises(SwanError, match=r"begun with swancli \d+\.\d+") as caught:
        other.agree({**MANIFEST, "images": "def"}, replace=True)
    assert "other images" not in caught.value.problem
    assert "that version" in caught.value.hint
