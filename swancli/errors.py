"""The errors that are the user's to mend: shown as one or two lines, exit code 2, never a traceback."""


class SwanError(Exception):
    """Something in the user's input is wrong.

    Args:
        problem: what is wrong and where: names the file, and the row or key when there is one.
        mend: what to do about it, as an instruction; shown on a line of its own.
    """

    def __init__(self, problem: str, mend: str = "") -> None:
        super().__init__(problem)
        self.problem = problem
        self.mend = mend

    def __str__(self) -> str:
        return f"{self.problem}\n{self.mend}" if self.mend else self.problem


class ImageError(SwanError):
    """One image cannot be read; `prepare --missing skip` passes over it."""


class StoreError(SwanError):
    """An HDF5 file or a checkpoint is not one of ours, not whole, or of another version."""
