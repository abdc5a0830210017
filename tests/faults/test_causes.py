"""Whole commands where the system refuses something: they do their work, or name the true cause."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

# What each of them does to the process before the command starts.
REFUSALS = {
    "sync of folders": """
import os, stat
sync = os.fsync
def refuse(descriptor):
    if stat.S_ISDIR(os.fstat(descriptor).st_mode):
        raise OSError({number}, os.strerror({number}))
    sync(descriptor)
os.fsync = refuse
""",
    "locks": """
import fcntl, os
def refuse(descriptor, operation):
    raise OSError({number}, os.strerror({number}))
fcntl.flock = refuse
""",
    "pictures": """
import os, pathlib
read = pathlib.Path.read_bytes
def refuse(path):
    if path.suffix == ".png":
        raise OSError({number}, os.strerror({number}), str(path))
    return read(path)
pathlib.Path.read_bytes = refuse
""",
}


def swan(folder, refused, number, *arguments):
    code = REFUSALS[refused].format(number=number) + "from swancli.cli import main; main()"
    env = {**os.environ, "SWAN_ROOT": str(folder / "root"), "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


@pytest.fixture
def pictures(tmp_path):
    (tmp_path / "pictures").mkdir()
    for value in (50, 150):
        Image.fromarray(np.full((32, 32, 3), value, np.uint8)).save(tmp_path / "pictures" / f"{value}.png")
    return tmp_path / "pictures"


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.EBADF])
def test_files_are_written_where_folders_cannot_be_synced(tmp_path, pictures, number):
    done = swan(tmp_path, "sync of folders", number, "prepare", "--dataset", "d", "--source", pictures)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("does not sync folders") == 1
    assert [path.name for path in (tmp_path / "root" / "d").iterdir()] == ["dataset.h5"]


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_images_are_embedded_where_there_are_no_locks(tmp_path, pictures, number):
    done = swan(tmp_path, "locks", number, "embed", "--images", pictures)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("has no locks") == 1
    (folder,) = (tmp_path / "root").iterdir()
    assert [path.suffix for path in folder.iterdir()] == [".h5"]


@pytest.mark.parametrize("command", [["prepare", "--dataset", "d", "--source"], ["embed", "--images"]])
def test_failing_disk_is_not_taken_for_damaged_images(tmp_path, pictures, command):
    done = swan(tmp_path, "pictures", errno.EIO, *command, pictures, "--missing", "skip")
    assert done.returncode == 2
    assert "cannot be read (Input/output error)\n  the disk or its connection fails" in done.stderr
    assert not list((tmp_path / "root").rglob("*.h5"))
