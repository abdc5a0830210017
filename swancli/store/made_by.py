"""The record of the checkpoint that made some vectors, checked before they are compared with others."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import h5py

from swancli.errors import StoreError
from swancli.store.hdf5 import from_relative, text_attribute, to_relative, write_text_attribute


@dataclass(frozen=True)
class MadeBy:
    """The checkpoint that made some vectors.

    checkpoint: its path.
    sha256: of that file.
    dimensions: of the vectors.
    variant: of the model, or open_clip:NAME; only shown.
    vocab: path of the vocabulary if the checkpoint carries none, else "".
    configuration: digest of what decides the vectors beside that file: the configuration, preprocessing and
        tokenizer of an open_clip model, or the vocabulary of a published checkpoint; "" if there is nothing.
    activation: of an open_clip model, "gelu" or "quick_gelu", which compute different vectors; else "".
    match: the plain values of its match threshold, as JSON; "" if it has none.
    """

    checkpoint: str
    sha256: str
    dimensions: int
    variant: str
    vocab: str = ""
    configuration: str = ""
    activation: str = ""
    match: str = ""

    def write(self, file: h5py.File, folder: Path) -> None:
        """Writes it as attributes, paths relative to the folder of the file."""
        write_text_attribute(file, "checkpoint", to_relative(self.checkpoint, folder))
        file.attrs["checkpoint_sha256"] = self.sha256
        file.attrs["variant"] = self.variant
        file.attrs["configuration"] = self.configuration
        file.attrs["activation"] = self.activation
        file.attrs["match"] = self.match
        write_text_attribute(file, "vocab", to_relative(self.vocab, folder))

    @classmethod
    def read(cls, file: h5py.File, folder: Path, dimensions: int) -> MadeBy:
        """Reads what `write` wrote.

        Args:
            file: the file.
            folder: its folder.
            dimensions: of the vectors in it.

        Raises:
            KeyError, TypeError: an attribute is absent, or is not text.
        """
        checkpoint, vocab = (
            from_relative(text_attribute(file, name), folder) for name in ("checkpoint", "vocab")
        )
        names = ("variant", "configuration", "activation", "match")
        others = {name: text_attribute(file, name) for name in names}
        sha256 = text_attribute(file, "checkpoint_sha256")
        return cls(checkpoint, sha256, dimensions, vocab=vocab, **others)

    def difference(self, other: MadeBy) -> str:
        """Why these vectors cannot be compared with those of another record; "" if they can."""
        if self.sha256 != other.sha256:
            own, others = (f"{one.checkpoint} ({one.sha256[:12]})" for one in (self, other))
            return f"made by another checkpoint, {own}, than {others}"
        if self.activation != other.activation:
            return f"made as {self.variant} with {self.activation}, not with {other.activation}"
        if self.configuration != other.configuration:
            return f"made with another configuration, tokenizer or vocabulary of {other.checkpoint}"
        if self.dimensions != other.dimensions:
            own, others = self.dimensions, other.dimensions
            return f"its vectors have {own} dimensions, those of {other.checkpoint} have {others}"
        return ""

    def check(self, other: MadeBy, name: object, hint: str) -> None:
        """Raises an error if these vectors cannot be compared with others.

        Args:
            other: the checkpoint of the others.
            name: of the file or collection that holds these vectors.
            hint: what to do about it.

        Raises:
            StoreError: another checkpoint made them.
        """
        if difference := self.difference(other):
            raise StoreError(f"{name}: {difference}", hint)
