"""`swan embed --shard`, `--resume` and under torchrun: whole commands, one of them killed."""

import json
import os
import signal
import subprocess
import sys

import h5py
import numpy as np
import pytest
from conftest import invoke

from swancli.embed import archive

BATCH = ["--batch-size", "4"]  # 60 images in 8 pieces, see `small_pieces`
KILLED = """
import os, signal
from swancli.embed import archive
archive.PIECE_BATCHES = 2
write = archive.write_part
def write_and_die(path, *arguments):
    write(path, *arguments)
    if path.stem == "piece-000002":
        os.kill(os.getpid(), signal.SIGKILL)
archive.write_part = write_and_die
from swancli.cli import main
main()
"""


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    monkeypatch.setattr(archive, "PIECE_BATCHES", 2)


def embed(finished, output, *options):
    printed = invoke("embed", *BATCH, "--output", output, *options, root=finished.root)
    assert printed.returncode == 0, printed.stderr
    return printed


def content(path):
    found = {}
    with h5py.File(path) as file:
        file.visititems(lambda name, item: found.update({name: item[()]} if hasattr(item, "shape") else {}))
        return found, file.attrs["digest"]


def assert_same(one, other):
    (columns, digest), (others, other_digest) = content(one), content(other)
    assert columns.keys() == others.keys()
    for name, values in columns.items():
        np.testing.assert_array_equal(values, others[name], err_msg=name)
    assert digest == other_digest


@pytest.fixture(scope="module")
def sharded(finished, tmp_path_factory):
    """The data set in four shards, the second killed and resumed; what each printed, and a state between."""
    folder = tmp_path_factory.mktemp("sharded")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(archive, "PIECE_BATCHES", 2)
        embed(finished, folder / "one.h5")
        output = folder / "four.h5"
        printed = {number: embed(finished, output, "--shard", f"{number}/4") for number in (1, 4)}
        command = [sys.executable, "-c", KILLED, "embed", *BATCH, "--output", output, "--shard", "2/4"]
        environment = {**os.environ, "SWAN_ROOT": str(finished.root)}
        killed = subprocess.run(list(map(str, command)), env=environment, check=False, timeout=120)
        assert killed.returncode == -signal.SIGKILL
        left = sorted(path.name for path in (folder / "four.shards" / "2-of-4").glob("piece-*"))
        assert left == ["piece-000002.h5"]
        printed[3] = embed(finished, output, "--shard", "3/4")
        assert not output.exists()
        state = json.loads((folder / "four.shards" / "3-of-4.json").read_text())
        other = [
            "--output",
            output,
            "--shard",
            "2/4",
            "--resume",
            "--dataset",
            "small",
            "--checkpoint",
            "shipped",
        ]
        refused = invoke("embed", *BATCH, *other, root=finished.root)
        printed[2] = embed(finished, output, "--shard", "2/4", "--resume")
    return folder, printed, state, refused


def test_four_shards_of_which_one_was_killed_give_what_one_process_gives(sharded):
    folder, _, state, _ = sharded
    assert_same(folder / "one.h5", folder / "four.h5")
    with h5py.File(folder / "four.h5") as file:
        assert not file["images/embedding"].is_virtual
        assert file["images/embedding"].shape == (60, 32)
    assert {path.name for path in folder.glob("*")} >= {"four.h5", "one.h5"}
    assert not list(folder.glob("*.shards"))
    assert state == {"pieces": 2, "done": 2, "images": 16, "skipped": 0}


def test_shard_that_is_resumed_when_all_is_done_shows_the_embeddings_and_leaves_them(finished, sharded):
    output = sharded[0] / "four.h5"
    before = output.stat().st_mtime_ns
    printed = embed(finished, output, "--shard", "3/4", "--resume")
    assert "embeddings of small" in printed.stdout
    assert output.stat().st_mtime_ns == before
    assert not list(output.parent.glob("*.shards"))


def test_each_shard_says_which_others_are_missing_and_the_last_one_shows_the_embeddings(sharded):
    printed = sharded[1]
    assert "shard 1 of 4 of small" in printed[1].stdout
    assert "missing shards: 2 to 4\n" in printed[1].stdout
    assert "missing shards: 2 to 3\n" in printed[4].stdout
    assert "missing shards: 2\n" in printed[3].stdout
    assert "embeddings of small" in printed[2].stdout
    assert "shard" not in printed[2].stdout.replace("sharded", "")
    assert all(result.stderr == "" for result in printed.values())


def test_joined_embeddings_are_evaluated_searched_and_indexed_like_others(finished, sharded, tmp_path):
    folder = sharded[0]
    for name in ("one.h5", "four.h5"):
        printed = invoke("embed", "--index", "flat", "--embeddings", folder / name, root=finished.root)
        assert printed.returncode == 0, printed.stderr
    for command in (
        ["eval", "--json", "--scene-recall", "--embeddings"],
        ["query", "two boats", "--json", "--exact", "--threshold", "auto", "--embeddings"],
        ["query", "two boats", "--json", "--embeddings"],
    ):
        one, four = (invoke(*command, folder / name, root=finished.root) for name in ("one.h5", "four.h5"))
        assert four.returncode == 0, four.stderr
        assert one.stdout.replace("one.h5", "four.h5") == four.stdout


@pytest.fixture
def folder(source, tmp_path):
    """Nine images, of which the second and the last one are damaged."""
    (tmp_path / "images").mkdir()
    for number, path in enumerate(sorted((source / "images").iterdir())[:9]):
        data = b"nothing" if number in (1, 8) else path.read_bytes()
        (tmp_path / "images" / f"{number}.png").write_bytes(data)
    return tmp_path / "images"


def test_last_shard_of_a_folder_builds_the_index_and_lists_what_was_left_out(finished, folder, tmp_path):
    options = ["--images", folder, "--missing", "skip", "--index", "flat"]
    whole = embed(finished, tmp_path / "one.h5", *options)
    first = embed(finished, tmp_path / "two.h5", *options, "--shard", "1/2")
    last = embed(finished, tmp_path / "two.h5", *options, "--shard", "2/2")
    assert_same(tmp_path / "one.h5", tmp_path / "two.h5")
    for printed, names in ((whole, {"1.png", "8.png"}), (first, {"1.png"}), (last, {"1.png", "8.png"})):
        assert {line.split()[3].rstrip(":") for line in printed.stderr.splitlines()} == names
        assert ("flat index" in printed.stdout) == (printed is not first)
    assert not (tmp_path / "one.shards").exists()


def test_processes_of_torchrun_take_a_shard_each_and_the_last_one_prints(
    finished, folder, tmp_path, monkeypatch
):
    printed = []
    for name, value in {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    for rank in ("1", "0"):
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setenv("LOCAL_RANK", rank)
        printed.append(embed(finished, tmp_path / "two.h5", "--images", folder, "--missing", "skip"))
    assert (printed[0].stdout, printed[0].stderr) == ("", "")
    assert "embeddings of images" in printed[1].stdout
    assert not (tmp_path / "two.shards").exists()
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")  # all is done: the first process continues alone
    again = ["--images", folder, "--missing", "skip", "--index", "flat"]
    for rank, said in (("1", False), ("0", True)):
        monkeypatch.setenv("RANK", rank)
        assert ("flat index" in embed(finished, tmp_path / "two.h5", *again).stdout) == said
    for options, said in (
        (["--texts", "-"], "torchrun: only a data set or --images"),
        (["--calibrate", "small"], "torchrun: --calibrate runs in one process"),
    ):
        refused = invoke("embed", *options, root=finished.root, stdin="a line\n")
        assert refused.returncode == 2
        assert said in refused.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--shard", "5/4"], "--shard 5/4: not a shard"),
        (["--shard", "1/4", "--texts", "-"], "--texts and --shard cannot be combined"),
        (["--resume", "--texts", "-"], "--texts and --resume cannot be combined"),
        (["--shard", "1/4", "--scene-image", "a.tif"], "--scene-image and --shard cannot be combined"),
        (["--shard", "1/4", "--embeddings", "a.h5"], "--embeddings and --shard cannot be combined"),
    ],
)
def test_shards_of_what_has_none_are_refused(finished, options, said):
    printed = invoke("embed", *options, root=finished.root, stdin="a line\n")
    assert printed.returncode == 2
    assert said in printed.stderr


def test_shard_that_another_checkpoint_began_is_not_resumed(sharded):
    refused = sharded[3]
    assert refused.returncode == 2
    assert "four.shards: begun with another checkpoint" in refused.stderr
    assert "another --output" in refused.stderr
