"""Why an HDF5 file cannot be read or written: damage is distinguished from everything else."""

import errno
import os
import subprocess
import sys

import h5py
import numpy as np
import pytest

from swancli import errors
from swancli.errors import StoreError, SwanError, SwanWarning
from swancli.store import hdf5
from swancli.store.hdf5 import DATASET, EMBEDDINGS, array_in, create_store, damage_named, open_store, reading
from swancli.store.vectors import mapped


@pytest.fixture
def path(tmp_path):
    with create_store(tmp_path / "a.h5", DATASET) as file:
        file["values"] = np.arange(1000)
    return tmp_path / "a.h5"


def locked_with(number, monkeypatch):
    """Makes opening a file fail as HDF5 does where a lock is refused."""
    opened, tried = h5py.File, []

    def file(path, mode, locking=True):
        tried.append(locking)
        if locking and isinstance(path, (str, os.PathLike)):
            reason = f"unable to lock file, errno = {number}, error message = {os.strerror(number)!r}"
            raise OSError(number, f"Unable to synchronously open file ({reason})")
        return opened(path, mode)

    monkeypatch.setattr(errors, "_WARNED", set())
    monkeypatch.setattr(hdf5.h5py, "File", file)
    return tried


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_file_is_read_without_a_lock_where_there_are_none(path, monkeypatch, number):
    tried = locked_with(number, monkeypatch)
    with pytest.warns(SwanWarning, match="has no locks"), open_store(path, DATASET) as file:
        assert file["values"][3] == 3
    assert tried == [True, False]


def test_variable_that_forbids_reading_without_a_lock_is_named(path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.ENOLCK, "(unable to lock file, errno = 37, error message = 'No locks available')")

    monkeypatch.setattr(hdf5.h5py, "File", refuse)
    monkeypatch.setenv("HDF5_USE_FILE_LOCKING", "TRUE")
    with pytest.raises(SwanError, match=r"a\.h5: cannot be locked \(No locks available\)") as caught:
        open_store(path, DATASET)
    assert "unset HDF5_USE_FILE_LOCKING" in caught.value.hint


def test_file_that_another_program_writes_into_is_reported_as_that(path):
    code = (
        "import h5py, sys; file = h5py.File(sys.argv[1], 'r+'); print('held', flush=True); sys.stdin.read()"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code, str(path)], **pipes) as other:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(SwanError, match="another program has it open for writing") as caught:
            open_store(path, DATASET)
        assert not isinstance(caught.value, StoreError)
        with pytest.raises(SwanError, match="is a swan-dataset file"), create_store(path, EMBEDDINGS):
            pass  # that it is open there is no reason to replace it
        other.stdin.close()
    with open_store(path, DATASET):
        pass


def test_file_that_a_program_has_left_marked_as_open_names_the_remedy(tmp_path):
    left = tmp_path / "left.h5"
    with h5py.File(tmp_path / "a.h5", "w", libver="latest") as file:
        file["x"] = [1]
        file.swmr_mode = True
        file.flush()
        left.write_bytes((tmp_path / "a.h5").read_bytes())
    with pytest.raises(SwanError, match="open for writing, or had when it ended") as caught:
        open_store(left, DATASET)
    assert f"h5clear --status {left}" in caught.value.hint


def with_plugin_filter(path):
    """A file whose values were compressed by a plugin: Blosc, which is not installed."""
    with create_store(path, DATASET) as file:
        layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        layout.set_chunk((100,))
        layout.set_filter(32001, h5py.h5z.FLAG_OPTIONAL, (2, 2, 8, 800))
        space = h5py.h5s.create_simple((100,))
        values = h5py.h5d.create(file.id, b"values", h5py.h5t.NATIVE_INT64, space, layout)
        values.write_direct_chunk((0,), b"compressed", 0)


@pytest.mark.parametrize("folder", ["", "/opt/other/plugins"])
def test_filter_that_is_not_installed_is_no_damage(tmp_path, monkeypatch, folder):
    with_plugin_filter(tmp_path / "a.h5")
    monkeypatch.setenv("HDF5_PLUGIN_PATH", folder)
    reason = "compressed with a filter that is not installed"
    with pytest.raises(SwanError, match=reason) as caught, reading(tmp_path / "a.h5", DATASET) as file:
        file["values"][:]
    assert "h5repack -f NONE" in caught.value.hint
    assert ("unset HDF5_PLUGIN_PATH" in caught.value.hint) == bool(folder)


@pytest.mark.parametrize(
    "number",
    [errno.EMFILE, errno.ENFILE, errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.EACCES, errno.ENOMEM],
)
def test_refused_read_is_no_damage(path, number):
    reason = f"Can't read data (file read failed: errno = {number}, error message = {os.strerror(number)!r})"
    with pytest.raises(SwanError, match=r"a\.h5: cannot be read") as caught, damage_named(path, DATASET):
        raise OSError(number, reason)
    assert "make it" not in caught.value.hint
    assert not isinstance(caught.value, StoreError)


def test_file_without_a_descriptor_left_is_neither_damaged_nor_replaced(path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.EMFILE, "[Errno 24] Unable to open file (errno = 24, 'Too many open files')")

    monkeypatch.setattr(hdf5.h5py, "File", refuse)
    for use in (lambda: open_store(path, DATASET), lambda: hdf5.refuse_other_kind(path, EMBEDDINGS)):
        with pytest.raises(SwanError, match=r"cannot be read \(Too many open files\)") as caught:
            use()
        assert "ulimit -n" in caught.value.hint


def test_file_larger_than_memory_is_not_called_damaged(path):
    with pytest.raises(StoreError, match=r"a\.h5: does not fit into memory"), damage_named(path, DATASET):
        raise MemoryError("Unable to allocate 745. GiB for an array")


def test_array_on_a_file_system_that_maps_no_files_is_read(path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.ENODEV, "No such device")

    with h5py.File(path) as file:
        assert isinstance(mapped(file["values"]), np.memmap)
        monkeypatch.setattr(np, "memmap", refuse)
        assert mapped(file["values"]).tolist() == list(range(1000))


@pytest.fixture
def compressed(tmp_path):
    """A file with 8 x 100 bytes in `rows`, a chunk per row, and in `whole`, in one chunk; both compressed."""
    with create_store(tmp_path / "c.h5", DATASET) as file:
        for name, chunk in (("rows", (1, 100)), ("whole", (8, 100))):
            file.create_dataset(name, data=np.ones((8, 100), np.uint8), chunks=chunk, compression=4)
    return tmp_path / "c.h5"


@pytest.mark.parametrize(("name", "by_rows"), [("rows", False), ("whole", False), ("whole", True)])
def test_compressed_array_that_is_too_large_is_not_called_damaged(compressed, monkeypatch, name, by_rows):
    monkeypatch.setattr(hdf5, "MOST_UNPACKED", 700)
    with reading(compressed, DATASET) as file:
        assert array_in(file, "rows", "u", None, None, by_rows=True)[7].sum() == 100
        with pytest.raises(StoreError, match=rf"c\.h5: /{name} is compressed, and too large") as caught:
            array_in(file, name, "u", None, None, by_rows=by_rows)
    assert "h5repack -f NONE" in caught.value.hint
