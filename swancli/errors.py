"""Errors in the user's input, shown in one or two lines without a traceback; exit code 2.

The last part finds the true cause of an error that a library raises: the system refused a call, a package or
a codec is not there, or a variable of the environment belongs to another program. None of these means that a
file is damaged.
"""

from __future__ import annotations

import errno
import os
import re
import warnings
from collections.abc import Iterator
from os import PathLike


class SwanError(Exception):
    """Something in the user's input is wrong.

    Args:
        problem: what is wrong and where: the file, and the row or key if there is one.
        hint: what to do about it, as an instruction; shown on the next line.
    """

    def __init__(self, problem: str, hint: str = "") -> None:
        super().__init__(problem)
        self.problem = problem
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.problem}\n{self.hint}" if self.hint else self.problem


class ImageError(SwanError):
    """One image cannot be read; `prepare --missing skip` leaves it out."""


class StoreError(SwanError):
    """An HDF5 file or a checkpoint is of another kind or version, or incomplete."""


class SwanWarning(UserWarning):
    """Something in the user's input is doubtful; the command line shows it as a line."""


_WARNED: set[str] = set()  # kinds of warnings that this process has given


def warn_once(kind: str, text: str) -> None:
    """A warning that a process gives once, at the first file that it is true of.

    Args:
        kind: tells it from other warnings.
        text: the warning.
    """
    if kind not in _WARNED:
        _WARNED.add(kind)
        warnings.warn(text, SwanWarning, stacklevel=3)


def extra_hint(name: str) -> str:
    """The hint for a missing package that one of swan's extras installs."""
    return f"install the extra: pip install 'swancli[{name}]'"


# ---------------------------------------------------------------------------------------------------------
# errors of the system


def _numbers(hints: dict[str, str]) -> dict[int, str]:
    """The hints by number; a name that this system does not have is left out."""
    named = [(name, hint) for names, hint in hints.items() for name in names.split()]
    return {getattr(errno, name): hint for name, hint in named if hasattr(errno, name)}


# What to do about an error that is due to the path that was given.
ABOUT_THE_PATH = _numbers(
    {
        "ENOENT": "check the path",
        "ENOTDIR": "part of the path is a file; check the path",
        "EISDIR": "it is a folder; give a file",
        "EEXIST": "a file or a broken link has the name of a folder; rename it",
        "ELOOP": "a link leads back to itself; remove it",
        "ENAMETOOLONG": "give a shorter name",
        "EACCES EPERM": "check who may use it: ls -ld",
        "EILSEQ": "its file system does not take such a name; rename it",
    }
)
# What to do about an error that is due to the machine: its disks, its limits, its network.
ABOUT_THE_MACHINE = _numbers(
    {
        "EMFILE": "this process may open no more files; raise the limit: ulimit -n 65536",
        "ENFILE": "all programs together have too many files open; end some of them",
        "EAGAIN": "the limit of processes or threads is reached; end some, or raise it: ulimit -u",
        "ENOMEM": "there is not enough memory; end other programs",
        "ENOSPC EDQUOT": "make room, then run it again",
        "EFBIG": "files there may not be so large (a limit of `ulimit -f`, or FAT); use another disk",
        "EROFS": "the disk can only be read; write to another place",
        "EIO EUCLEAN": "the disk or its connection fails; check it (dmesg), then run it again",
        "ESTALE": "a network file system has lost the file; mount it again, then run it again",
        "ENOLCK EOPNOTSUPP ENOTSUP ENOSYS": "its file system cannot do this; use another disk",
        "EBUSY ETXTBSY": "another program is using it; close it there, then run it again",
        "ENODEV ENXIO": "its device is not there; connect or mount it, then run it again",
        "ENOTCONN EREMOTEIO ENOLINK EHOSTDOWN EHOSTUNREACH ENETDOWN ENETUNREACH ETIMEDOUT ECONNRESET "
        "ECONNREFUSED ECONNABORTED": "a network file system or service does not answer; try again later",
        "ENOKEY EKEYEXPIRED EKEYREVOKED EKEYREJECTED": "unlock the folder or renew the ticket (kinit)",
    }
)
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
# Names of functions of Python that use a file, and what was tried when one of them fails.
TRIED = {
    "mkdir": "made",
    "unlink": "removed",
    "rmdir": "removed",
    "replace": "replaced",
    "rename": "renamed",
    "iterdir": "listed",
    "_iterate_directories": "listed",
    "stat": "looked up",
    "open": "opened",
}


def outside_cause(error: BaseException, path: str | PathLike[str], tried: str = "read") -> SwanError | None:
    """The error to raise if the system refused a call; None if the content of the file is to blame.

    Args:
        error: what a library raised while it used the file.
        path: of the file, or whatever tells a person what was used.
        tried: what the file was to be, such as "read" or "written".
    """
    number = system_number(error)
    return None if number is None else _refused(path, tried, number)


def system_number(error: BaseException) -> int | None:
    """The number of the system's error that an error is due to; None if there is none.

    Libraries give it as a number, in their text, in words, or raise another error on top of it.
    """
    if isinstance(error, OSError) and error.errno in ABOUT_THE_PATH:
        return error.errno
    for one in _chain(error):
        number = one.errno if isinstance(one, OSError) else None  # GDAL's errors have numbers of their own
        if number not in ABOUT_THE_MACHINE:
            text = str(one)
            found = re.search(r"\berrno = (\d+)|\(os error (\d+)\)", text)
            number = int(found[1] or found[2]) if found else None
        if number not in ABOUT_THE_MACHINE:
            number = next((known for known in ABOUT_THE_MACHINE if os.strerror(known) in text), None)
        if number is not None:
            return number
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and those behind it."""
    while error:
        yield error
        error = error.__cause__ or error.__context__


def _refused(path: str | PathLike[str], tried: str, number: int) -> SwanError:
    hint = (ABOUT_THE_PATH | ABOUT_THE_MACHINE).get(number, "check the disk and the path")
    if number in (errno.EACCES, errno.EPERM):
        hint = f"{hint} {path}"
    reason = "no room left on the disk" if number in NO_ROOM else os.strerror(number)
    return SwanError(f"{path}: cannot be {tried} ({reason})", hint)


def os_error(error: OSError, path: str | PathLike[str], tried: str = "read") -> SwanError:
    """The error to raise for any error of the system: the path, what was tried, why not, and what to do.

    Args:
        error: the error.
        path: as for `outside_cause`.
        tried: as for `outside_cause`.
    """
    reason = SwanError(
        f"{path}: cannot be {tried} ({error.strerror or error})", "check the path and its disk"
    )
    return outside_cause(error, path, tried) or reason


def unread_image_error(error: OSError, path: str | PathLike[str]) -> SwanError:
    """For an image file that the system does not give.

    It is an ImageError, so that `--missing skip` leaves the image out, only if it is due to this one file. If
    the disk fails or too many files are open, all the others would be left out too.
    """
    found = os_error(error, path)
    return ImageError(found.problem, found.hint) if error.errno in ABOUT_THE_PATH else found


# ---------------------------------------------------------------------------------------------------------
# packages and the environment

# Variables that lead Python to other packages and libraries than those that swan was installed with.
OF_PACKAGES = ("PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH", "LD_PRELOAD", "DYLD_LIBRARY_PATH")


def foreign_hint(*names: str) -> str:
    """A hint that names those of some variables that are set, perhaps for another program; "" if none is."""
    found = [name for name in names if os.environ.get(name)]
    values = ", ".join(f"{name}={os.environ[name]}" for name in found)
    return f"another program may have set {values}; try without: unset {' '.join(found)}" if found else ""


def import_error(error: ImportError, need: str, extra: str = "") -> SwanError:
    """For a package that cannot be imported: it is absent, or it is there and does not work.

    Args:
        error: the error.
        need: what needs the package, such as "an index".
        extra: the extra of swan that installs it; "" if it comes with swan.
    """
    if refused := outside_cause(error, need, "imported"):
        return SwanError(f"{need} needs a package that {refused.problem.partition(': ')[2]}", refused.hint)
    reason = str(error).partition("\n")[0]
    if isinstance(error, ModuleNotFoundError) and error.name and "." not in error.name:
        hint = extra_hint(extra) if extra else f"install it: pip install {error.name}"
        return SwanError(f"{need} needs {error.name}, which is not installed", hint)
    again = f"'swancli[{extra}]'" if extra else "swancli"
    hint = foreign_hint(*OF_PACKAGES) or f"install it again: pip install --force-reinstall {again}"
    return SwanError(f"{need} needs a package that is installed but does not work ({reason})", hint)


def unnamed_error(error: OSError | ImportError, command: str) -> SwanError:
    """For an error that nobody expected and that is no bug: of the system, or of an import.

    Args:
        error: the error.
        command: what the user has asked for, such as "swan embed".
    """
    if isinstance(error, ImportError):
        return import_error(error, command)
    path = error.filename if error.filename2 is None else error.filename2
    if path is None or isinstance(path, int):
        return os_error(error, command, "continued")
    return os_error(error, os.fsdecode(path), _tried(error))


def _tried(error: OSError) -> str:
    """What a file was to be, as the function of Python that raised the error shows."""
    names, trace = [], error.__traceback__
    while trace:
        names.append(trace.tb_frame.f_code.co_name)
        trace = trace.tb_next
    return next((TRIED[name] for name in reversed(names) if name in TRIED), "used")
