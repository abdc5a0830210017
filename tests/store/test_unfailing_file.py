"""Writing HDF5 survives a disk that takes no more."""

import resource

import numpy as np
import pytest

from swancli.errors import SwanError
from swancli.store.catalogue import Catalogue
from swancli.store.embeddings import Embeddings, write_embeddings
from swancli.store.unfailing_file import UnfailingFile, writing


@pytest.mark.parametrize("room", range(0, 24_000, 1000))
def test_file_that_takes_no_more_ends_the_writing_of_a_store_and_not_the_process(tmp_path, room):
    """Whatever is to be written then: HDF5 reads again what it wrote, and closes its file."""
    catalogue = Catalogue.of(["a.png"] * 40, ["river"] * 40, ["train"] * 40, ["a caption"] * 200, [0] * 200)
    vectors = np.eye(40, 16, dtype=np.float32), np.eye(200, 16, dtype=np.float32)
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, most))
    try:
        with pytest.raises(SwanError, match=r"a\.h5: cannot be written \(File too large\)"):
            write_embeddings(
                tmp_path / "a.h5", Embeddings(*vectors, catalogue, "a", "b", "c", "d"), ["e"] * 40
            )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    assert list(tmp_path.iterdir()) == []


def test_last_bytes_of_a_store_that_find_no_room_end_the_writing_too(tmp_path):
    """HDF5 writes them when it closes the file."""

    def write(path):
        with writing(path) as file:
            file["values"] = np.arange(100)

    write(tmp_path / "whole.h5")
    size = (tmp_path / "whole.h5").stat().st_size
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size - 1, most))
    try:
        with pytest.raises(OSError, match="too large"):
            write(tmp_path / "cut.h5")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))


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
