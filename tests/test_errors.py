"""What an error is due to: the system, a package, a variable, or the content of a file."""

import errno
import os
from pathlib import Path

import pytest

from swancli.errors import (
    ABOUT_THE_MACHINE,
    ABOUT_THE_PATH,
    ImageError,
    SwanError,
    foreign_hint,
    import_error,
    outside_cause,
    unnamed_error,
    unread_image_error,
)


def behind(error, cause):
    error.__context__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.EMFILE, "Too many open files"), "Too many open files"),
        (OSError("Unable to open file (name = 'a', errno = 24, error message = ...)"), "Too many open files"),
        (RuntimeError("Error while opening: Too many open files (os error 24)"), "Too many open files"),
        (
            RuntimeError("unable to mmap 100 bytes from file <a>: Cannot allocate memory (12)"),
            "Cannot allocate",
        ),
        (
            behind(RuntimeError("unexpected pos 8 vs 9"), OSError(errno.ENOSPC, "")),
            "no room left on the disk",
        ),
        (ImportError("mmap.so: cannot open shared object file: Too many open files"), "Too many open files"),
        (PermissionError(errno.EACCES, "Permission denied"), "Permission denied"),
    ],
)
def test_error_of_the_system_is_found_in_numbers_and_words_and_behind_others(error, reason):
    found = outside_cause(error, "a.h5")
    assert found.problem.startswith("a.h5: cannot be read (")
    assert reason in found.problem
    assert found.hint


@pytest.mark.parametrize(
    "error",
    [
        OSError("Unable to open file (truncated file: eof = 3000, stored_eof = 5271)"),
        OSError(errno.EINVAL, "Invalid argument"),
        behind(KeyError("no /images"), FileNotFoundError(errno.ENOENT, "No such file or directory")),
        ValueError("bad magic number"),
    ],
)
def test_error_of_the_content_is_none_of_the_system(error):
    assert outside_cause(error, "a.h5") is None


def test_number_that_is_not_of_the_system_is_ignored():
    """Errors of GDAL have an `errno` too: 5 is its own number for a failure of any kind."""
    error = ValueError("The WKT could not be parsed")
    error.errno = errno.EIO
    assert outside_cause(error, "a.tif") is None


def test_every_known_number_has_a_hint_of_one_line():
    for number, hint in (ABOUT_THE_PATH | ABOUT_THE_MACHINE).items():
        found = outside_cause(OSError(number, os.strerror(number)), "a")
        assert found.hint.startswith(hint)
        assert "\n" not in str(found.problem) + found.hint
    assert not ABOUT_THE_PATH.keys() & ABOUT_THE_MACHINE.keys()


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENOMEM, errno.EREMOTEIO])
def test_failing_disk_is_no_reason_to_leave_one_image_out(number):
    found = unread_image_error(OSError(number, os.strerror(number)), "a.png")
    assert type(found) is SwanError
    assert "damaged" not in found.problem


@pytest.mark.parametrize("number", [errno.ENOENT, errno.EACCES, errno.EISDIR, errno.ENAMETOOLONG])
def test_image_that_is_absent_or_not_permitted_can_be_left_out(number):
    assert type(unread_image_error(OSError(number, os.strerror(number)), "a.png")) is ImageError


@pytest.mark.parametrize(
    ("call", "tried"),
    [
        (lambda path: (path / "x").mkdir(), "x: cannot be made (No such file or directory)"),
        (lambda path: path.read_text(), "gone: cannot be opened (No such file or directory)"),
        (lambda path: path.unlink(), "gone: cannot be removed (No such file or directory)"),
        (lambda path: list(path.iterdir()), "gone: cannot be listed (No such file or directory)"),
    ],
)
def test_unexpected_error_names_the_path_what_was_tried_and_what_to_do(tmp_path, call, tried):
    with pytest.raises(OSError) as caught:  # noqa: PT011
        call(tmp_path / "gone")
    found = unnamed_error(caught.value, "swan embed")
    assert found.problem.startswith(str(tmp_path))
    assert found.problem.endswith(tried)
    assert found.hint == "check the path"


def test_unexpected_error_without_a_path_names_the_command():
    found = unnamed_error(BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"), "swan embed")
    assert found.problem == "swan embed: cannot be continued (Resource temporarily unavailable)"
    assert "ulimit -u" in found.hint


def test_absent_package_and_one_that_does_not_work_differ(monkeypatch):
    for name in ("PYTHONPATH", "LD_LIBRARY_PATH", "LD_PRELOAD"):
        monkeypatch.delenv(name, raising=False)
    absent = ModuleNotFoundError("No module named 'faiss'", name="faiss")
    assert str(import_error(absent, "an index", "search")) == (
        "an index needs faiss, which is not installed\ninstall the extra: pip install 'swancli[search]'"
    )
    library = ImportError("libgomp.so.1: cannot open shared object file: No such file or directory")
    broken = import_error(library, "an index", "search")
    assert "installed but does not work (libgomp.so.1" in broken.problem
    assert broken.hint == "install it again: pip install --force-reinstall 'swancli[search]'"
    part = ModuleNotFoundError("No module named 'numpy.core'", name="numpy.core")
    assert "does not work" in import_error(part, "an index").problem
    monkeypatch.setenv("PYTHONPATH", "/opt/other")
    assert "PYTHONPATH=/opt/other" in import_error(library, "an index", "search").hint


def test_package_without_descriptors_left_is_not_called_absent():
    found = import_error(ImportError("_faiss.so: cannot open shared object file: Too many open files"), "a b")
    assert found.problem == "a b needs a package that cannot be imported (Too many open files)"
    assert "ulimit -n" in found.hint


def test_only_variables_that_are_set_are_named(monkeypatch):
    monkeypatch.delenv("PROJ_DATA", raising=False)
    monkeypatch.setenv("PROJ_LIB", "/nowhere")
    assert foreign_hint("PROJ_LIB", "PROJ_DATA").endswith("PROJ_LIB=/nowhere; try without: unset PROJ_LIB")
    monkeypatch.delenv("PROJ_LIB")
    assert foreign_hint("PROJ_LIB", "PROJ_DATA") == ""


def test_unknown_backend_of_matplotlib_names_its_variable(tmp_path):
    import subprocess
    import sys

    code = "from swancli.evaluate import require_plots; require_plots('--figures')"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "MPLBACKEND": "nonsense", "PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "SwanError: --figures needs matplotlib, which refuses its settings" in done.stderr
    assert "MPLBACKEND=nonsense" in done.stderr
