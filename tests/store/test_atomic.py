"""How files come into being: whole or not there, synced before their name, and nothing left behind."""

import errno
import os
import subprocess
import sys

import pytest

from swancli.errors import SwanError
from swancli.machine.interrupt import TEMPORARY
from swancli.store.atomic import atomic_path
from swancli.store.lock import only_writer


def write_half(path, error):
    with atomic_path(path) as temporary:
        temporary.write_text("half")
        raise error


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_exception_leaves_the_old_file_and_no_temporary_one(tmp_path, error):
    path = tmp_path / "a.h5"
    path.write_text("old")
    with pytest.raises(error):
        write_half(path, error)
    assert path.read_text() == "old"
    assert [found.name for found in tmp_path.iterdir()] == ["a.h5"]


def test_file_appears_under_its_name_only_when_the_body_ends(tmp_path):
    path = tmp_path / "deep" / "a.txt"
    with atomic_path(path) as temporary:
        temporary.write_text("new")
        assert not path.exists()
        assert temporary.parent == path.parent
        assert {temporary} == TEMPORARY  # what an interrupt would remove
    assert path.read_text() == "new"
    assert list(path.parent.iterdir()) == [path]
    assert set() == TEMPORARY


def test_folder_of_that_name_is_reported(tmp_path):
    (tmp_path / "a.h5").mkdir()
    with pytest.raises(SwanError, match=r"a\.h5: is a folder"), atomic_path(tmp_path / "a.h5"):
        pass
    assert [found.name for found in tmp_path.iterdir()] == ["a.h5"]


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_writes_stays(tmp_path):
    killed = (
        "import os, pathlib, signal, sys; from swancli.store.atomic import atomic_path\n"
        "with atomic_path(pathlib.Path(sys.argv[1])) as temporary:\n"
        "    temporary.write_text('half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)"
    )
    for name in ("a.h5", "b.h5"):
        subprocess.run([sys.executable, "-c", killed, str(tmp_path / name)], check=False)
    assert len(list(tmp_path.iterdir())) == 2
    with atomic_path(tmp_path / "a.h5") as outer:
        outer.write_text("beside it")
        with atomic_path(tmp_path / "a.h5.part") as inner:
            inner.write_text("another file")
        assert outer.exists()
    left = sorted(found.name for found in tmp_path.iterdir())
    assert left[1:] == ["a.h5", "a.h5.part"]
    assert left[0].startswith(".b.h5.")


def test_file_is_on_the_disk_before_its_name_and_its_name_before_the_end(tmp_path, monkeypatch):
    calls = []
    sync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda file: (calls.append(("sync", os.fstat(file).st_ino)), sync(file)))
    monkeypatch.setattr(os, "replace", lambda old, new: (calls.append(("name", new.name)), replace(old, new)))
    with atomic_path(tmp_path / "a.h5") as temporary:
        temporary.write_text("whole")
        number = temporary.stat().st_ino
    assert calls == [("sync", number), ("name", "a.h5"), ("sync", tmp_path.stat().st_ino)]


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        RuntimeError(f"Can't close dataset (file write failed: errno = {errno.ENOSPC}, error ..."),
    ],
)
def test_full_disk_is_reported_in_a_line(tmp_path, error):
    with pytest.raises(SwanError, match=r"a\.h5: .*no room left on the disk"):
        write_half(tmp_path / "a.h5", error)
    assert list(tmp_path.iterdir()) == []


def test_full_disk_behind_the_error_of_a_library_is_reported_too(tmp_path):
    behind = RuntimeError("unexpected pos 8832960 vs 8832856")
    behind.__context__ = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(SwanError, match="no room left"):
        write_half(tmp_path / "a.pt", behind)


def test_other_errors_stay_what_they_are(tmp_path):
    with pytest.raises(RuntimeError, match="a bug"):
        write_half(tmp_path / "a.pt", RuntimeError("a bug"))


def test_folder_has_one_writer_and_is_free_when_it_was_killed(tmp_path):
    holding = (
        "import pathlib, sys; from swancli.store.lock import only_writer\n"
        "with only_writer(pathlib.Path(sys.argv[1])):\n"
        "    print('held', flush=True)\n"
        "    sys.stdin.read()"
    )
    folder = tmp_path / "run"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", holding, str(folder)], **pipes) as other:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(SwanError, match="another swan is writing there"), only_writer(folder):
            pass
        other.kill()
    with only_writer(folder):
        (folder / "config.json").write_text("{}")
        assert {folder / ".lock"} == TEMPORARY
    assert set() == TEMPORARY
    assert [found.name for found in folder.iterdir()] == ["config.json"]


def test_folder_that_nothing_came_into_is_gone(tmp_path):
    with only_writer(tmp_path / "runs" / "first"):
        pass
    assert list(tmp_path.iterdir()) == []
