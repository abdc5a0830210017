"""One writer per folder, with the locks of the file system or without."""

import errno
import fcntl
import os
import subprocess
import sys
import threading

import pytest
from filelock import FileLock

from swancli import errors
from swancli.errors import SwanError, SwanWarning
from swancli.machine.interrupt import TEMPORARY
from swancli.machine.place import this_place
from swancli.store import lock
from swancli.store.lock import only_writer


@pytest.fixture
def warned_of(monkeypatch):
    """The kinds of warnings given so far: none."""
    monkeypatch.setattr(errors, "_WARNED", set())


@pytest.fixture(params=[errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def no_locks(request, monkeypatch, warned_of):
    def flock(descriptor, operation):
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr(fcntl, "flock", flock)


@pytest.fixture
def own_lock_file(monkeypatch, warned_of):
    def flock(descriptor, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)


def ended_process():
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return process.pid


def write_in_two(folder):
    with only_writer(folder / "a"):
        with pytest.raises(SwanError, match="another swan is writing there"), only_writer(folder / "a"):
            pass
        with only_writer(folder / "b"):
            pass


def test_folder_without_locks_has_one_writer_and_the_user_is_warned_once(tmp_path, no_locks):
    with pytest.warns(SwanWarning, match="no locks") as warned:
        write_in_two(tmp_path)
    assert sum(issubclass(found.category, SwanWarning) for found in warned) == 1
    assert list(tmp_path.iterdir()) == []
    assert set() == TEMPORARY


@pytest.mark.filterwarnings("ignore:.*no locks")
def test_lock_file_of_an_ended_process_is_removed(tmp_path, own_lock_file):
    (tmp_path / ".writer").write_text(f"{this_place()} {ended_process()} on here\n")
    with only_writer(tmp_path):
        assert (tmp_path / ".writer").read_text().split()[1] == str(os.getpid())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings("ignore:.*no locks")
@pytest.mark.parametrize("place", ["0123abcd", ""])
def test_lock_file_of_another_machine_stays_and_is_named(tmp_path, own_lock_file, place):
    """Nobody here can know whether the process still runs, nor who makes a file that is still empty."""
    content = f"{place} {ended_process()} on node7\n" if place else ""
    (tmp_path / ".writer").write_text(content)
    with pytest.raises(SwanError) as caught, only_writer(tmp_path):
        pass
    assert f"remove {tmp_path / '.writer'}" in caught.value.hint
    assert ("node7" if place else "an unknown process") in caught.value.hint
    assert (tmp_path / ".writer").read_text() == content


@pytest.mark.filterwarnings("ignore:.*no locks")
def test_process_waits_for_a_lock_file(tmp_path, own_lock_file, monkeypatch):
    paused, ended = threading.Event(), threading.Event()
    monkeypatch.setattr(lock.time, "sleep", lambda seconds: (paused.set(), ended.wait(10)))
    entered = []

    def second():
        with only_writer(tmp_path, wait=True):
            entered.append((tmp_path / ".writer").exists())

    with only_writer(tmp_path):
        other = threading.Thread(target=second)
        other.start()
        assert paused.wait(10)
        assert entered == []
    ended.set()
    other.join(10)
    assert entered == [True]


def test_new_lock_of_a_quicker_process_is_put_back(tmp_path):
    path = tmp_path / ".writer"
    path.write_text("the new one")
    lock._remove_left_lock(path, "the old one")
    assert path.read_text() == "the new one"
    lock._remove_left_lock(path, "the new one")
    assert list(tmp_path.iterdir()) == []


def test_lock_is_removed_before_it_is_released(tmp_path, monkeypatch):
    """Else a process that gets it then would lose its file, and a third one would get in beside it."""
    there = []
    release = FileLock.release
    monkeypatch.setattr(
        FileLock, "release", lambda *given: (there.append((tmp_path / ".lock").exists()), release(*given))
    )
    with only_writer(tmp_path):
        assert (tmp_path / ".lock").exists()
    assert there[0] is False


def test_lock_that_is_removed_while_others_wait_lets_one_in_at_a_time(tmp_path):
    """As filelock before 3.24 did not: of processes that wait for a removed file, two got in."""
    code = (
        "import pathlib, sys; from swancli.store.lock import only_writer\n"
        "folder = pathlib.Path(sys.argv[1])\n"
        "for _ in range(40):\n"
        "    with only_writer(folder, wait=True):\n"
        "        (folder / 'inside').touch(exist_ok=False)\n"
        "        (folder / 'inside').unlink()"
    )
    both = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path)]) for _ in range(3)]
    assert [process.wait(60) for process in both] == [0, 0, 0]


def test_folder_that_cannot_be_locked_for_another_reason_is_named(tmp_path, monkeypatch):
    def flock(descriptor, operation):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(fcntl, "flock", flock)
    reason = r"cannot be locked \(Input/output error\)"
    with pytest.raises(SwanError, match=reason) as caught, only_writer(tmp_path):
        pass
    assert str(tmp_path) in caught.value.problem


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


def test_folder_that_another_process_removes_before_it_is_locked_is_made_again(tmp_path, monkeypatch):
    acquire, removed = FileLock.acquire, []

    def removing(lock, *given, **named):
        if not removed:
            removed.append(folder.rmdir())
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", lock.lock_file)
        return acquire(lock, *given, **named)

    folder = tmp_path / "shard"
    monkeypatch.setattr(FileLock, "acquire", removing)
    with only_writer(folder):
        assert folder.is_dir()
    assert removed
