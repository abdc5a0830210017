"""How files come into being: whole or not there, synced before their name, and nothing left behind."""

import subprocess
import sys

import pytest

from swancli.files import atomic_path


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
    assert path.read_text() == "new"
    assert list(path.parent.iterdir()) == [path]


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_writes_stays(tmp_path):
    killed = (
        "import os, pathlib, signal, sys; from swancli.files import atomic_path\n"
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
