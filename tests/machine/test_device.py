import os
import platform
import subprocess
import sys

import pytest

KEPT_AND_RELEASED = """
import torch
from swancli.machine.device import choose_device, release_freed_memory

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

choose_device("cpu")
large = [torch.ones(10_000_000) for _ in range(5)]  # 200 MB
held = torch.ones(1000)  # after them, so that the end of the memory is not free
filled = resident()
large.clear()
kept = resident()
release_freed_memory()
print((filled - kept) / 1e6, (filled - resident()) / 1e6)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries keep no freed memory")
def test_freed_memory_is_kept_until_it_is_released():
    environment = {name: value for name, value in os.environ.items() if name != "MALLOC_TRIM_THRESHOLD_"}
    command = [sys.executable, "-c", KEPT_AND_RELEASED]
    printed = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    soon, later = map(float, printed.split())
    assert soon < 50
    assert later > 150
