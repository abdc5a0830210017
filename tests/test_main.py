"""An interrupt ends the executable wherever it comes, with 130."""

import os
import subprocess
import sys

import pytest

SWALLOWING = """
import os, signal, threading
import swancli.__main__, swancli.cli

class Tidied:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)

def swallowed():
    {how}
    threading.Event().wait(60)

signal.signal(signal.SIGINT, signal.default_int_handler)
swancli.cli.main = swallowed
swancli.__main__.main()
"""


@pytest.mark.parametrize(
    "how",
    [
        "os.kill(os.getpid(), signal.SIGINT)",
        "try: os.kill(os.getpid(), signal.SIGINT)\n    except: pass",
        "Tidied()",
    ],
)
def test_interrupt_that_a_library_swallows_comes_again(how):
    code = SWALLOWING.format(how=how)
    assert subprocess.run([sys.executable, "-c", code], timeout=30, check=False).returncode == 130


ABORTING = """
import os, signal
try:
    os.kill(os.getpid(), signal.SIGINT)
except BaseException:
    os.abort()
"""


def test_interrupt_does_not_reach_the_code_of_torch_while_it_is_imported(tmp_path):
    tmp_path.joinpath("torch.py").write_text(ABORTING)  # as torch's C++ does
    code = SWALLOWING.format(how="print('so far'); import torch")
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "so far\n", "interrupted\n")
