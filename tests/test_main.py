"""An interrupt ends the executable with 130 within two seconds, and leaves files and terminal in order."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

RUNNING = """
import signal, sys, threading
import swancli.__main__, swancli.cli

signal.signal(signal.SIGINT, signal.{handler})  # whatever the tests were started with

def command():
{body}

swancli.cli.main = command
swancli.__main__.main()
"""
SECONDS = 2.0  # from the interrupt to the end


def start(body, handler="default_int_handler", **options):
    """Starts the executable with a body in place of its commands, and a handler of SIGINT."""
    code = RUNNING.format(handler=handler, body=textwrap.indent(textwrap.dedent(body), "    "))
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(
        [sys.executable, "-c", code],
        text=True,
        **(pipes | options),
    )


def interrupt(process, times=1):
    """Interrupts a process after its first line; its exit code and what it printed after that line."""
    process.stdout.readline()
    began = time.monotonic()
    for _ in range(times):
        process.send_signal(signal.SIGINT)
        time.sleep(0.02)
    process.wait(timeout=30)
    assert time.monotonic() - began < SECONDS
    with process:
        return process.returncode, process.stdout.read(), process.stderr and process.stderr.read()


@pytest.mark.parametrize(
    "body",
    [
        "print('ready', flush=True); threading.Event().wait(60)",
        "print('ready', flush=True); import torch; threading.Event().wait(60)",
        "import hashlib; print('ready', flush=True); hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)",
        "print('ready', flush=True)\nwhile True:\n    try: threading.Event().wait(60)\n    except: pass",
    ],
    ids=["waiting", "importing torch", "in one long call", "where every exception is caught"],
)
def test_interrupt_ends_the_process_wherever_it_is(body):
    assert interrupt(start(body)) == (130, "", "interrupted\n")


ABORTING = """
import os, signal
try:
    os.kill(os.getpid(), signal.SIGINT)
except BaseException:
    os.abort()
"""


def test_interrupt_raises_nothing_in_the_code_of_torch_while_it_is_imported(tmp_path):
    tmp_path.joinpath("torch.py").write_text(ABORTING)  # as torch's C++ does
    path = os.pathsep.join([str(tmp_path), *sys.path])
    process = start("print('so far'); import torch", env={**os.environ, "PYTHONPATH": path})
    assert (*process.communicate(timeout=30), process.returncode) == ("so far\n", "interrupted\n", 130)


WRITING = """
from pathlib import Path
import numpy as np
from swancli.store.dataset import create_dataset
with create_dataset(Path("a.h5"), "a", (256, 256)) as writer:
    for row in range(10**9):
        writer.add(np.zeros((256, 256, 3), np.uint8), f"{row:032x}", 0)
        if row == 3:
            print("ready", flush=True)
"""


@pytest.mark.parametrize("times", [1, 2, 5])
def test_interrupted_write_of_hdf5_leaves_no_file(tmp_path, times):
    assert interrupt(start(WRITING, cwd=tmp_path), times) == (130, "", "interrupted\n")
    assert list(tmp_path.iterdir()) == []


def test_interrupted_writer_frees_its_folder(tmp_path):
    body = """
    from pathlib import Path
    from swancli.store.lock import only_writer
    with only_writer(Path("run")):
        print("ready", flush=True)
        threading.Event().wait(60)
    """
    assert interrupt(start(body, cwd=tmp_path))[0] == 130
    assert list((tmp_path / "run").iterdir()) == []


def test_interrupt_shows_the_cursor_again_and_ends_the_line():
    body = """
    from swancli.console import Display
    with Display().progress() as progress:
        progress("images", 1, 3)
        print("ready", file=sys.__stdout__, flush=True)
        threading.Event().wait(60)
    """
    own, terminal = os.openpty()
    try:
        process = start(body, stderr=terminal, env={**os.environ, "TERM": "xterm"})
        assert interrupt(process)[0] == 130
        shown = os.read(own, 2**16).decode()
    finally:
        os.close(own)
        os.close(terminal)
    assert "images" in shown
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l")
    assert shown.endswith("\r\ninterrupted\r\n")


def test_what_was_printed_is_kept():
    body = "print('ready', flush=True); print('a table'); print('waits', file=sys.stderr, flush=True)"
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    process = start(body + "; threading.Event().wait(60)", env=buffered)
    assert process.stderr.readline() == "waits\n"
    assert interrupt(process) == (130, "a table\n", "interrupted\n")


def test_interrupt_does_not_wait_for_the_reader_of_a_full_pipe():
    code, _, told = interrupt(start("print('ready', flush=True); print('x' * 2**22)"))
    assert (code, told) == (130, "interrupted\n")


def test_ignored_interrupt_stays_ignored():
    """As in the background of a shell without job control."""
    process = start("print('ready', flush=True); print(input())", handler="SIG_IGN")
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    assert process.communicate("done\n", timeout=30) == ("done\n", "")
    assert process.returncode == 0
