"""`swan train` under torchrun: one run of several processes, taken up again where one of them was lost."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
from conftest import invoke
from made_workspace import make_workspace

from swancli.train import loop

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="finds the processes in /proc")

OPTIONS = ["--dataset", "tiny", "--backbone", "resnet18", "--text", "gru", "--image-size", "32"]
OPTIONS += ["--embed-dim", "16", "--batch-size", "4", "--captions-per-image", "1", "--lr", "1e-4"]
OPTIONS += ["--epochs", "2", "--freeze", "--average", "0.9"]
CLOCK = ["pairs_per_second", "seconds"]


@pytest.fixture
def workspace(tmp_path):
    return make_workspace(tmp_path)


def start(root, *arguments):
    """`swan train` on two processes."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--max-restarts=1"]
    launcher += ["--monitor-interval=0.1", "-m", "--", "swancli", "train", *OPTIONS, *arguments]
    environment = {**os.environ, "SWAN_ROOT": str(root), "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(launcher, env=environment, **pipes)


def children(process):
    """The processes that one has started, by number, in order."""
    tasks = Path(f"/proc/{process}/task").glob("*/children")
    return sorted(int(number) for task in tasks for number in task.read_text().split())


def lose_one_after(process, file):
    """Kills the second process as soon as a file is there."""
    while not file.exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.002)
    os.kill(children(process.pid)[-1], signal.SIGKILL)


def test_lost_process_is_started_again_and_the_run_ends_as_it_would_have(workspace):
    whole = start(workspace.root, "--run", "whole", "--json")
    printed, said = whole.communicate(timeout=240)
    assert whole.returncode == 0, said
    assert json.loads(printed)["images"] == 4  # one document, of one process
    killed = start(workspace.root, "--run", "killed")
    lose_one_after(killed, workspace.run("tiny", "killed").last)
    _, said = killed.communicate(timeout=240)
    assert killed.returncode == 0, said
    assert "exitcode: -9" in said
    assert "Traceback" not in said
    runs = [workspace.run("tiny", name) for name in ("whole", "killed")]
    tables = [pd.read_csv(run.metrics).drop(columns=CLOCK) for run in runs]
    assert list(tables[1]["epoch"]) == [1, 2]
    pd.testing.assert_frame_equal(*tables)
    one, other = (torch.load(run.last, weights_only=True)["model"] for run in runs)
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture
def attempt(monkeypatch, workspace):
    """Runs `swan train` as the only process that torchrun started, at one of its attempts."""
    launcher = torch.distributed.TCPStore("localhost", 0, is_master=True)
    environment = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": launcher.port}
    environment |= {"TORCHELASTIC_USE_AGENT_STORE": "True"}

    def train(number, *arguments):
        for name, value in (environment | {"TORCHELASTIC_RESTART_COUNT": number}).items():
            monkeypatch.setenv(name, str(value))
        return invoke("train", *OPTIONS, *arguments, root=workspace.root)

    yield train
    del launcher  # which serves as long as it is held


def test_later_attempt_takes_up_the_run_of_an_earlier_one_under_the_name_it_had(
    attempt, workspace, monkeypatch
):
    def lost(*arguments):
        raise SystemExit(1)

    with monkeypatch.context() as losing:
        losing.setattr(loop, "write_metrics", lost)  # after epoch 1 and its `last.pt`
        assert attempt(0).returncode == 1
    assert attempt(1).returncode == 0
    (run,) = (workspace.root / "tiny" / "runs").iterdir()
    assert list(pd.read_csv(run / "metrics.csv")["epoch"]) == [1, 2]


def test_run_that_existed_before_the_launch_is_not_taken_for_its_own(attempt, workspace):
    stands = workspace.run("tiny", "mine")
    stands.folder.mkdir(parents=True)
    stands.config.write_text("{}")
    for number in (0, 1):
        said = attempt(number, "--run", "mine")
        assert said.returncode == 2
        assert "this run exists" in said.stderr
