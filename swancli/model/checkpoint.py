"""Checkpoints: one file with weights, settings and vocabulary, all that `eval`, `embed` and `query` need."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from swancli import __version__
from swancli.errors import StoreError, SwanError
from swancli.model.settings import ModelSettings
from swancli.model.swan import Swan
from swancli.store import atomic_path
from swancli.vocab import Vocabulary

FORMAT, VERSION = "swan-checkpoint", 1
TRAIN_AGAIN = "train again, or take another checkpoint"


@dataclass(frozen=True)
class Checkpoint:
    """A loaded checkpoint.

    model: in evaluation mode, on the CPU. origin: plain values, at least `dataset`, `run` and `epoch`.
    training: what `train --resume` goes on from; empty in `best.pt`. sha256: of the file.
    """

    path: Path
    model: Swan
    vocabulary: Vocabulary
    origin: dict[str, Any]
    training: dict[str, Any]
    sha256: str


def save_checkpoint(
    path: Path,
    model: Swan,
    vocabulary: Vocabulary,
    origin: dict[str, Any],
    training: dict[str, Any] | None = None,
) -> None:
    """Writes tensors and plain values only, whole or not at all."""
    content = {
        "format": FORMAT,
        "version": VERSION,
        "created_by": f"swancli {__version__}",
        "settings": dataclasses.asdict(model.settings),
        "vocabulary": vocabulary.to_plain(),
        "origin": origin,
        "model": model.state_dict(),
        "training": training or {},
    }
    with atomic_path(path) as temporary:
        torch.save(content, temporary)


def load_checkpoint(path: Path) -> Checkpoint:
    """Reads a checkpoint; nothing in the file can execute.

    Raises:
        StoreError: no such file, not a checkpoint of ours, another version, or weights that do not fit.
    """
    if not path.is_file():
        raise StoreError(f"{path}: no such checkpoint", "train one: swan train --dataset NAME")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        problem = f"{path}: not a checkpoint that can be loaded safely ({reason})"
        raise StoreError(problem, TRAIN_AGAIN) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise StoreError(
            f"{path}: not a swan checkpoint", "give a best.pt or last.pt that `swan train` wrote"
        )
    if content.get("version") != VERSION:
        raise StoreError(f"{path}: version {content.get('version')}; this swan reads version {VERSION}")
    try:
        model = Swan(ModelSettings(**content["settings"]))
        vocabulary = Vocabulary.from_plain(content["vocabulary"])
        weights, origin, training = content["model"], content["origin"], content["training"]
        shapes = {key: tuple(value.shape) for key, value in weights.items()}
    except SwanError as error:
        raise StoreError(f"{path}: {error.problem}", error.mend) from error
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise StoreError(f"{path}: damaged checkpoint ({error!r})", TRAIN_AGAIN) from error
    own = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    if shapes != own:
        wrong = sorted(key for key in {*own, *shapes} if own.get(key) != shapes.get(key))
        raise StoreError(
            f"{path}: its weights do not fit its settings ({len(wrong)} of them, first {wrong[0]})",
            TRAIN_AGAIN,
        )
    model.load_state_dict(weights)
    return Checkpoint(path, model.eval(), vocabulary, origin, training, file_sha256(path))


def file_sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
