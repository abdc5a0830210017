"""Which checkpoint made some vectors: recorded beside them, checked before they are compared with others."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import h5py

from swancli.errors import StoreError
from swancli.store.hdf5 import from_relative, text_attribute, to_relative


@dataclass(frozen=True)
class MadeBy:
    """The checkpoint that made some vectors.

    checkpoint: its path. sha256: of that file. dimensions: of the vectors. variant: the model's. vocab: path
    of the vocabulary where the checkpoint carries none, else "".
    """

    checkpoint: str
    sha256: str
    dimensions: int
    variant: str
    vocab: str = ""

    def write(self, file: h5py.File, folder: Path) -> None:
        """Stores it as attributes; paths relative to the file's folder, so that both can move together."""
        file.attrs["checkpoint"] = to_relative(self.checkpoint, folder)
        file.attrs["checkpoint_sha256"] = self.sha256
        file.attrs["variant"] = self.variant
        file.attrs["vocab"] = to_relative(self.vocab, folder)

    @classmethod
    def read(cls, file: h5py.File, folder: Path, dimensions: int) -> MadeBy:
        """What `write` stored in a file of that folder.

        Args:
            dimensions: of the vectors in the file.

        Raises:
            KeyError, TypeError: an attribute is absent, or is not text.
        """
        return cls(
            checkpoint=from_relative(text_attribute(file, "checkpoint"), folder),
            sha256=text_attribute(file, "checkpoint_sha256"),
            dimensions=dimensions,
            variant=text_attribute(file, "variant"),
            vocab=from_relative(text_attribute(file, "vocab"), folder),
        )

    def difference(self, other: MadeBy) -> str:
        """Why these vectors cannot be compared with those of another record; "" where they can."""
        if self.sha256 != other.sha256:
            own, others = (f"{one.checkpoint} ({one.sha256[:12]})" for one in (self, other))
            return f"made by another checkpoint, {own}, than {others}"
        if self.dimensions != other.dimensions:
            own, others = self.dimensions, other.dimensions
            return f"its vectors have {own} dimensions, those of {other.checkpoint} have {others}"
        return ""

    def check(self, other: MadeBy, name: object, fix: str) -> None:
        """Refuses to compare vectors of two checkpoints.

        Args:
            other: the checkpoint that makes what they are to be compared with.
            name: of the file or collection that holds these vectors.
            fix: what to do about it.

        Raises:
            StoreError: another checkpoint made them.
        """
        if difference := self.difference(other):
            raise StoreError(f"{name}: {difference}", fix)
