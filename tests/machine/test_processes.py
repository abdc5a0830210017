"""What several processes share and exchange; what one process alone makes of it."""

import subprocess
import sys
from datetime import timedelta

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from swancli.cli import app
from swancli.errors import SwanError
from swancli.machine import processes
from swancli.machine.processes import ALONE, Processes, first_to_report, joined, launched


def set_launch(monkeypatch, rank, count, port, attempt=0):
    """Makes this process one of those that torchrun started."""
    launch = {"RANK": rank, "WORLD_SIZE": count, "MASTER_ADDR": "localhost", "MASTER_PORT": port}
    launch |= {"TORCHELASTIC_USE_AGENT_STORE": True, "TORCHELASTIC_RESTART_COUNT": attempt}
    for name, value in launch.items():
        monkeypatch.setenv(name, str(value))
    return launch


@given(items=st.integers(0, 200), count=st.integers(1, 16))
def test_shares_hold_every_item_once_in_order_and_evenly(items, count):
    shares = [Processes(rank, count).share(items) for rank in range(count)]
    assert [item for share in shares for item in range(items)[share]] == list(range(items))
    sizes = Processes(0, count).shares(items)
    assert sizes == [len(range(items)[share]) for share in shares]
    assert max(sizes) - min(sizes) <= 1


def test_process_alone_has_all_and_agrees_with_itself():
    assert ALONE.first
    assert ALONE.share(5) == slice(0, 5)
    assert ALONE.agreed("run", "mine") == "mine"
    assert ALONE.by_first(lambda: "made") == "made"
    rows = torch.ones(2, 3)
    assert ALONE.gathered(rows, [2]) is rows
    assert ALONE.together(lambda share: np.ones((5, 2), np.float32)[share], 5).shape == (5, 2)


def test_error_of_a_process_alone_is_raised_as_it_is():
    def fail():
        raise SwanError("wrong", "fix it")

    with pytest.raises(SwanError, match="wrong"):
        ALONE.by_first(fail)


def test_what_one_process_says_first_all_agree_on():
    store = torch.distributed.HashStore()
    one, other = (Processes(rank, 2, 0, store) for rank in range(2))
    assert one.agreed("run", "") == ""  # nothing is said yet
    assert other.agreed("run", "theirs") == "theirs"
    assert one.agreed("run", "mine") == "theirs"
    assert one.agreed("run", "") == "theirs"


def test_one_of_the_errors_of_an_attempt_is_reported(monkeypatch):
    launcher = torch.distributed.TCPStore("localhost", 0, is_master=True)
    told = [
        first_to_report()
        for rank, attempt in ((1, 0), (0, 0), (1, 0), (0, 1))
        if set_launch(monkeypatch, rank, 2, launcher.port, attempt)
    ]
    assert told == [True, False, True, True]


THREADS = """
import glob, os, sys, torch
from swancli.machine.processes import joined
from torch.nn.parallel import DistributedDataParallel  # which imports much more when it is made

rank = 0 if os.fork() else 1
os.environ["RANK"] = str(rank)
with joined(torch.device("cpu")):
    model = DistributedDataParallel(torch.nn.Linear(2, 2))
    model(torch.ones(1, 2)).sum().backward()
    del model
names = {open(name).read().strip() for name in glob.glob("/proc/self/task/*/comm")}
assert not any("gloo" in name for name in names), names
if rank == 0:
    assert os.wait()[1] == 0
"""


@pytest.mark.skipif(sys.platform != "linux", reason="finds the threads in /proc")
def test_no_thread_of_the_group_outlives_it(monkeypatch):
    """One that is there when the interpreter tears itself down may abort it."""
    launcher = torch.distributed.TCPStore("localhost", 0, is_master=True)
    set_launch(monkeypatch, 0, 2, launcher.port)
    done = subprocess.run(
        [sys.executable, "-c", THREADS], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("command", ["eval", "pretrain", "query"])
def test_command_for_one_process_is_refused_in_a_launch_of_several(monkeypatch, command):
    launcher = torch.distributed.TCPStore("localhost", 0, is_master=True)
    set_launch(monkeypatch, 0, 2, launcher.port)
    done = CliRunner().invoke(app, [command])
    assert done.exit_code == 2
    assert f"torchrun: {command} runs in one process" in done.stderr


def test_launcher_that_is_gone_is_reported(monkeypatch):
    monkeypatch.setattr(processes, "MEETING", timedelta(seconds=1))
    monkeypatch.setattr(processes, "TELLING", timedelta(seconds=1))
    set_launch(monkeypatch, rank=1, count=2, port=1)
    assert first_to_report()
    with pytest.raises(SwanError, match="there is no answer at localhost:1"), joined(torch.device("cpu")):
        pass


def test_variables_that_are_no_launch_are_reported(monkeypatch):
    set_launch(monkeypatch, rank="x", count=2, port=1)
    with pytest.raises(SwanError, match="RANK=x, WORLD_SIZE=2"):
        launched()
    assert first_to_report()
