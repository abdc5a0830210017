"""Reading torch files: what the system refuses is no damage; a file that cannot be mapped is read whole."""

import errno

import pytest
import torch

from swancli.errors import StoreError, SwanError
from swancli.store import torch_file
from swancli.store.torch_file import read_torch_file, write_torch_file


@pytest.fixture
def path(tmp_path):
    write_torch_file(tmp_path / "a.pt", {"weight": torch.arange(3)})
    return tmp_path / "a.pt"


def test_file_on_a_file_system_that_maps_no_files_is_read_whole(path, monkeypatch):
    """As on folders that a virtual machine shares with its host."""
    load, mapped = torch.load, []

    def refuse(file, *, mmap, **options):
        mapped.append(mmap)
        if mmap:
            raise RuntimeError(f"unable to mmap 24 bytes from file <{file}>: No such device (19)")
        return load(file, mmap=mmap, **options)

    monkeypatch.setattr(torch_file.torch, "load", refuse)
    assert read_torch_file(path, "hint", in_part=True)["weight"].tolist() == [0, 1, 2]
    assert mapped == [True, False]


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EMFILE, "Too many open files"),
        OSError(errno.ESTALE, "Stale file handle"),
        RuntimeError("unable to open file <a.pt> in read-only mode: Too many open files (24)"),
        RuntimeError("unable to mmap 24 bytes from file <a.pt>: Cannot allocate memory (12)"),
    ],
)
def test_refused_read_is_not_called_unsafe(path, monkeypatch, error):
    def refuse(*_, **__):
        raise error

    monkeypatch.setattr(torch_file.torch, "load", refuse)
    with pytest.raises(SwanError, match=r"a\.pt: cannot be read \(") as caught:
        read_torch_file(path, "train again", in_part=True)
    assert not isinstance(caught.value, StoreError)
    assert caught.value.hint != "train again"
