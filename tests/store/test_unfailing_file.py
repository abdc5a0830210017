"""Writing HDF5 survives a disk that takes no more, and an interrupt at any of its calls."""

import resource
import subprocess
import sys

import numpy as np
import pytest

from swancli.store.catalogue import Catalogue
from swancli.store.embeddings import Embeddings, write_embeddings
from swancli.store.unfailing_file import UnfailingFile


@pytest.mark.parametrize("room", range(0, 24_000, 1000))
def test_file_that_takes_no_more_ends_the_writing_of_a_store_and_not_the_process(tmp_path, room):
    """Whatever is to be written then: HDF5 reads again what it wrote, and closes its file."""
    catalogue = Catalogue.of(["a.png"] * 40, ["river"] * 40, ["train"] * 40, ["a caption"] * 200, [0] * 200)
    vectors = np.eye(40, 16, dtype=np.float32), np.eye(200, 16, dtype=np.float32)
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, most))
    try:
        with pytest.raises(OSError, match="too large"):
            write_embeddings(tmp_path / "a.h5", Embeddings(*vectors, catalogue, "a", "b", "c", "d"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    assert list(tmp_path.iterdir()) == []


def test_what_a_full_disk_did_not_take_is_read_as_it_was_written(tmp_path):
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    with UnfailingFile(tmp_path / "a.h5") as file:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10, most))
        try:
            for place, data in ((0, b"onto the disk,"), (20, b"beyond it"), (3, b"O")):
                file.seek(place)
                assert file.write(data) == len(data)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
        read = bytearray(32)
        file.seek(0)
        assert file.readinto(read) == 32
    assert bytes(read) == b"ontO the disk,\0\0\0\0\0\0beyond it\0\0\0"


INTERRUPTED = """
import signal, sys
from pathlib import Path
from swancli.store import unfailing_file as writing
from swancli.store.catalogue import Catalogue
from swancli.store.dataset import create_dataset
import numpy as np

signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background ignores
write, calls = writing.UnfailingFile.write, []

def interrupted(file, data):
    calls.append(len(data))
    if len(calls) == int(sys.argv[2]):
        signal.raise_signal(signal.SIGINT)  # in this thread, not in one of a library's
        for _ in range(1000):  # until Python hears it
            pass
    return write(file, data)

writing.UnfailingFile.write = interrupted
writing.CALLED_BY_HDF5.add(interrupted.__code__)
try:
    with create_dataset(Path(sys.argv[1]), "a", (8, 8)) as writer:
        for row in range(4):
            writer.add(np.zeros((8, 8, 3), np.uint8), str(row))
        names = [str(row) for row in range(4)]
        writer.finish(Catalogue.of(names, names, ["train"] * 4, ["a road"] * 4, range(4)))
except KeyboardInterrupt:
    sys.exit(130)
sys.exit(len(calls))
"""


def test_interrupt_at_any_call_of_hdf5_ends_the_writing_and_not_the_process(tmp_path):
    def code(at):
        arguments = [sys.executable, "-c", INTERRUPTED, str(tmp_path / "a.h5"), str(at)]
        return subprocess.run(arguments, capture_output=True, check=False).returncode

    calls = code(0)
    assert 4 < calls < 100
    (tmp_path / "a.h5").unlink()
    for at in {1, 2, 3, calls // 2, calls - 1, calls}:
        assert code(at) == 130
        assert list(tmp_path.iterdir()) == []
