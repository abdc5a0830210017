"""How files come into being: whole or not there, synced before their name, and nothing left behind."""

import errno
import os
import socket
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from swancli import errors
from swancli.errors import SwanError, SwanWarning
from swancli.machine.interrupt import TEMPORARY
from swancli.machine.place import this_place
from swancli.store import atomic
from swancli.store.atomic import atomic_path


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


# ---------------------------------------------------------------------------------------------------------
# strangers and odd targets


def test_temporary_file_has_a_name_that_nobody_knows_before_and_follows_no_link(tmp_path, monkeypatch):
    names = set()
    for _ in range(2):
        with atomic_path(tmp_path / "a.h5") as temporary:
            names.add(temporary.name)
            assert temporary.stat().st_mode & 0o777 == 0o600 or not (tmp_path / "a.h5").exists()
    assert len(names) == 2
    precious = tmp_path / "precious"
    precious.write_text("mine")
    monkeypatch.setattr(atomic.secrets, "token_hex", lambda size: "known")
    planted = tmp_path / temporary.name.replace(temporary.name.split(".")[-2], "known")
    planted.symlink_to(precious)
    with pytest.raises(SwanError, match="cannot be written"), atomic_path(tmp_path / "a.h5") as found:
        found.write_text("overwritten")
    assert precious.read_text() == "mine"


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o444])
def test_permissions_of_the_replaced_file_are_kept(tmp_path, mode):
    path = tmp_path / "a.h5"
    path.write_text("old")
    path.chmod(mode)
    with atomic_path(path) as temporary:
        assert temporary.stat().st_mode & 0o077 == 0
        temporary.write_text("new")
    assert path.stat().st_mode & 0o777 == mode
    assert path.read_text() == "new"


def test_new_file_has_the_permissions_of_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        with atomic_path(tmp_path / "a.h5") as temporary:
            temporary.write_text("new")
    finally:
        os.umask(before)
    assert (tmp_path / "a.h5").stat().st_mode & 0o777 == 0o640


def test_link_stays_and_the_file_that_it_leads_to_is_replaced(tmp_path):
    (tmp_path / "big").mkdir()
    (tmp_path / "a.h5").symlink_to("b.h5")
    (tmp_path / "b.h5").symlink_to(tmp_path / "big" / "c.h5")
    for content in ("new", "newer"):  # it dangles at first
        with atomic_path(tmp_path / "a.h5") as temporary:
            assert temporary.parent == tmp_path / "big"
            temporary.write_text(content)
        assert (tmp_path / "big" / "c.h5").read_text() == content
    assert (tmp_path / "a.h5").is_symlink()
    assert (tmp_path / "b.h5").is_symlink()


def test_link_of_another_user_and_one_in_a_circle_are_refused(tmp_path, monkeypatch):
    (tmp_path / "theirs").mkdir()
    (tmp_path / "a.h5").symlink_to(tmp_path / "theirs" / "a.h5")
    (tmp_path / "b.h5").symlink_to(tmp_path / "c.h5")
    (tmp_path / "c.h5").symlink_to(tmp_path / "b.h5")
    with pytest.raises(SwanError, match="leads back to itself"), atomic_path(tmp_path / "b.h5"):
        pass
    monkeypatch.setattr(
        atomic.Path, "lstat", lambda path: os.stat_result((0o120777, 0, 0, 1, 4242, 0, 0, 0, 0, 0))
    )
    with pytest.raises(SwanError, match="another user"), atomic_path(tmp_path / "a.h5"):
        pass
    assert list((tmp_path / "theirs").iterdir()) == []


def test_pipe_gets_the_content_and_stays_a_pipe(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    with atomic_path(pipe) as temporary:
        temporary.write_text("content")
    reader.join(10)
    assert read == [b"content"]
    assert pipe.is_fifo()
    assert set() == TEMPORARY


def test_device_gets_the_content_and_a_socket_is_refused(tmp_path):
    with atomic_path("/dev/null") as temporary:
        temporary.write_text("content")
    assert Path("/dev/null").is_char_device()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s"))
        with pytest.raises(SwanError, match="neither a file nor a pipe"), atomic_path(tmp_path / "s"):
            pass


def test_pipe_whose_reader_has_gone_is_reported(tmp_path, monkeypatch):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    leave = lambda content, stream: (os.close(reader), stream.write(b"x"))  # noqa: E731
    monkeypatch.setattr(atomic.shutil, "copyfileobj", leave)
    with pytest.raises(SwanError, match=r"pipe: cannot be written \(Broken pipe\)"), atomic_path(pipe):
        pass


def test_name_as_long_as_a_file_system_takes_can_be_written(tmp_path):
    path = tmp_path / ("a" * 252 + ".h5")
    with atomic_path(path) as temporary:
        temporary.write_text("new")
    assert [found.name for found in tmp_path.iterdir()] == [path.name]


def test_temporary_file_of_another_machine_is_left_alone_for_a_week(tmp_path):
    """Of a container, too, that has the same host name: this one cannot know whether it still writes."""
    ours = f".a.h5.{this_place()}.999999999.0f.tmp"
    for name in (ours, ".a.h5.0badcafe.1.0f.tmp", ".a.h5.0badcafe.2.0f.tmp"):
        (tmp_path / name).write_text("half")
    week_old = time.time() - 8 * 24 * 3600
    os.utime(tmp_path / ".a.h5.0badcafe.2.0f.tmp", (week_old, week_old))
    with atomic_path(tmp_path / "a.h5") as temporary:
        temporary.write_text("new")
    assert sorted(found.name for found in tmp_path.iterdir()) == [".a.h5.0badcafe.1.0f.tmp", "a.h5"]


# ---------------------------------------------------------------------------------------------------------
# file systems that cannot do everything


@pytest.fixture
def failing_sync(monkeypatch):
    """Makes the sync of folders, or of files, fail with a number."""
    monkeypatch.setattr(errors, "_WARNED", set())

    def fail(number, folders=True):
        def sync(descriptor):
            if stat.S_ISDIR(os.fstat(descriptor).st_mode) == folders:
                raise OSError(number, os.strerror(number))

        monkeypatch.setattr(os, "fsync", sync)

    return fail


def write_two(folder):
    for name in ("a.h5", "b.h5"):
        with atomic_path(folder / name) as temporary:
            temporary.write_text("whole")


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.ENOSYS])
def test_folder_that_cannot_be_synced_is_said_once(tmp_path, failing_sync, number):
    failing_sync(number)
    with pytest.warns(SwanWarning, match="does not sync folders") as warned:
        write_two(tmp_path)
    assert len(warned) == 1
    assert sorted(found.name for found in tmp_path.iterdir()) == ["a.h5", "b.h5"]


@pytest.mark.parametrize(
    ("number", "folders"), [(errno.EINVAL, False), (errno.EIO, True), (errno.ENOSPC, False)]
)
def test_other_failures_of_a_sync_are_errors_that_name_the_file(tmp_path, failing_sync, number, folders):
    failing_sync(number, folders)
    with (
        pytest.raises(SwanError, match=r"a\.h5: cannot be written \("),
        atomic_path(tmp_path / "a.h5") as temporary,
    ):
        temporary.write_text("whole")
    assert [found.name for found in tmp_path.iterdir()] == ["a.h5"] * folders


def test_folder_that_can_be_written_and_not_listed_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(errors, "_WARNED", set())

    def refuse(*_):
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path))

    opened = os.open
    with monkeypatch.context() as patched:
        patched.setattr(atomic.Path, "iterdir", refuse)
        patched.setattr(
            os, "open", lambda path, *given: refuse() if Path(path).is_dir() else opened(path, *given)
        )
        with (
            pytest.warns(SwanWarning, match="Permission denied"),
            atomic_path(tmp_path / "a.h5") as temporary,
        ):
            temporary.write_text("whole")
    assert (tmp_path / "a.h5").read_text() == "whole"


def test_names_of_new_folders_are_synced_too(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.fstat(descriptor).st_ino))
    with atomic_path(tmp_path / "x" / "y" / "a.h5") as temporary:
        temporary.write_text("whole")
        assert synced == [tmp_path.stat().st_ino, (tmp_path / "x").stat().st_ino]


def test_error_about_another_file_keeps_its_own_name(tmp_path):
    with pytest.raises(FileNotFoundError) as caught, atomic_path(tmp_path / "a.h5"):
        (tmp_path / "source.h5").read_bytes()
    assert caught.value.filename == str(tmp_path / "source.h5")


@pytest.mark.parametrize("number", [errno.EIO, errno.EMFILE, errno.EROFS, errno.ESTALE, errno.EFBIG, 133])
def test_refused_write_names_the_file_and_what_to_do(tmp_path, number):
    with pytest.raises(SwanError, match=r"a\.h5: cannot be written \(") as caught:
        write_half(tmp_path / "a.h5", OSError(number, os.strerror(number)))
    assert caught.value.hint
    assert list(tmp_path.iterdir()) == []
