"""Errors in the user's input, shown in one or two lines without a traceback; exit code 2."""


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


def extra_hint(name: str) -> str:
    """The hint for a missing package that one of swan's extras installs."""
    return f"install the extra: pip install 'swancli[{name}]'"
