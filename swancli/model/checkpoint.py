"""Checkpoints: one file with weights, settings and vocabulary, all that `eval`, `embed` and `query` need.

A checkpoint of the published code, `{'epoch', 'model', 'best_rsum', 'args', 'Eiters'}`, is read and written
too.
"""

from __future__ import annotations

import dataclasses
import hashlib
from argparse import Namespace
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import torch

from swancli.errors import StoreError, SwanError
from swancli.model.published import from_published, is_published, to_published
from swancli.model.settings import ModelSettings
from swancli.model.swan import Swan
from swancli.store.hdf5 import CREATED_BY
from swancli.store.made_by import MadeBy
from swancli.store.torch_file import foreign_names, read_torch_file, write_torch_file
from swancli.vocab.vocabulary import Vocabulary, read_vocabulary
from swancli.workspace import Run, named_checkpoint, relocated_checkpoint

FORMAT, VERSION = "swan-checkpoint", 1
WORD_VECTORS = "text_tower.word_vectors.weight"
TRAIN_AGAIN = "train again, or take another checkpoint"


@dataclass(frozen=True)
class Checkpoint:
    """A loaded checkpoint.

    model: in evaluation mode, on the CPU. origin: plain values, at least `dataset` ("" when unknown), `run`
    and `epoch`. training: what `train --resume` goes on from; empty in `best.pt`. sha256: of the file.
    vocab: the file that the vocabulary came from, None when the checkpoint carries it.
    """

    path: Path
    model: Swan
    vocabulary: Vocabulary
    origin: dict[str, Any]
    training: dict[str, Any]
    sha256: str
    vocab: Path | None = None

    @classmethod
    def unsaved(cls, model: Swan, vocabulary: Vocabulary) -> Checkpoint:
        """A model in memory that no file holds, such as one in training."""
        return cls(Path(), model, vocabulary, {}, {}, "")

    @property
    def made_by(self) -> MadeBy:
        """What is recorded beside the vectors that it makes."""
        settings = self.model.settings
        vocab = str(self.vocab or "")
        return MadeBy(str(self.path), self.sha256, settings.embed_dim, settings.variant, vocab)


def checkpoint_file(name: str | PathLike[str] | Run) -> Path:
    """The file that a name of a checkpoint stands for: a path, `shipped`, or a run, whose best is meant."""
    return name.best if isinstance(name, Run) else named_checkpoint(Path(name))


def save_checkpoint(
    path: str | PathLike[str],
    model: Swan,
    vocabulary: Vocabulary,
    origin: dict[str, Any],
    training: dict[str, Any] | None = None,
) -> None:
    """Writes tensors and plain values only, whole or not at all."""
    content = {
        "format": FORMAT,
        "version": VERSION,
        "created_by": CREATED_BY,
        "settings": dataclasses.asdict(model.settings),
        "vocabulary": vocabulary.to_plain(),
        "origin": origin,
        "model": model.state_dict(),
        "training": training or {},
    }
    write_torch_file(Path(path), content)


def load_checkpoint(
    checkpoint: str | PathLike[str] | Run,
    vocab: str | PathLike[str] | None = None,
    *,
    spare: bool = False,
    captions_only: bool = False,
) -> Checkpoint:
    """Reads a checkpoint, ours or the published code's; nothing in the file can execute.

    Args:
        checkpoint: see `checkpoint_file`.
        vocab: the vocabulary of a published checkpoint, which carries none: a `vocab.h5` or its JSON.
        spare: pass over `vocab` where the checkpoint carries its own, which is else an error.
        captions_only: leave the model's image side out, as `Swan` does.

    Raises:
        StoreError: no such file, not a checkpoint, another version, or weights that do not fit.
        SwanError: the vocabulary is missing, too large, or not asked for.
    """
    path = checkpoint_file(checkpoint)
    content = read_torch_file(path, TRAIN_AGAIN, in_part=captions_only)
    if isinstance(content, dict) and content.get("format") == FORMAT:
        if vocab and not spare:
            raise SwanError(f"{path}: carries its own vocabulary", "leave --vocab out")
        return _load_own(path, content, captions_only)
    if isinstance(content, dict) and is_published(content.get("model")):
        return _load_published(path, content, Path(vocab) if vocab else None, captions_only)
    raise StoreError(
        f"{path}: not a swan checkpoint",
        "give a best.pt or last.pt of `swan train`, or a checkpoint of the published code",
    )


def load_maker(
    made_by: MadeBy,
    name: object,
    fix: str,
    *,
    checkpoint: str | PathLike[str] | Run | None = None,
    vocab: str | PathLike[str] | None = None,
    captions_only: bool = False,
) -> Checkpoint:
    """Reads the checkpoint that made some vectors.

    Args:
        name: of the file or collection that holds the vectors.
        fix: what to do where another checkpoint made them.
        checkpoint: where it is now; None for where it was when the vectors were made.
        vocab: of a published checkpoint, as `checkpoint`.
        captions_only: as in `load_checkpoint`.

    Raises:
        SwanError: it does not exist, cannot be read, or is not the one that made them.
    """
    path = checkpoint_file(checkpoint or relocated_checkpoint(Path(made_by.checkpoint)))
    if not path.is_file():
        problem = f"{path}: no such file, the checkpoint that made {name}"
        raise StoreError(problem, "say where it is: --checkpoint FILE")
    loaded = load_checkpoint(path, vocab or made_by.vocab or None, captions_only=captions_only)
    made_by.check(loaded.made_by, name, fix)
    return loaded


def _load_own(path: Path, content: dict[str, Any], captions_only: bool) -> Checkpoint:
    foreign = foreign_names(path)
    if foreign:
        raise StoreError(f"{path}: cannot be loaded safely (it asks for {foreign[0]})", TRAIN_AGAIN)
    if content.get("version") != VERSION:
        raise StoreError(f"{path}: version {content.get('version')}; this swan reads version {VERSION}")
    try:
        settings = ModelSettings(**content["settings"])
        rows = content["model"][WORD_VECTORS].shape[0]
        if rows != settings.words + 1:  # before a model of that size is made
            raise ValueError(f"its settings say {settings.words} words, and it has vectors of {rows - 1}")
        model = _unfilled(settings, captions_only)
        vocabulary = Vocabulary.from_plain(content["vocabulary"])
        weights, origin, training = content["model"], content["origin"], content["training"]
        if not (isinstance(origin["dataset"], str) and isinstance(origin["run"], str)):
            raise TypeError("its origin names no data set and no run")
        if not isinstance(training, dict):
            raise TypeError(f"its training is {type(training).__name__}")
        if len(vocabulary) > model.settings.words:
            raise ValueError(f"{len(vocabulary)} words, and word vectors for {model.settings.words}")
        _fill(model, weights)
    except SwanError as error:
        raise StoreError(f"{path}: {error.problem}", error.hint) from error
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, ArithmeticError) as error:
        reason = repr(error).partition("\\n")[0]
        raise StoreError(f"{path}: damaged checkpoint ({reason})", TRAIN_AGAIN) from error
    return Checkpoint(path, model.eval(), vocabulary, origin, training, file_sha256(path))


def _load_published(
    path: Path, content: dict[str, Any], vocab: Path | None, captions_only: bool
) -> Checkpoint:
    """A checkpoint of the published code; its options (`args`) are not read."""
    if not vocab:
        raise SwanError(
            f"{path}: a checkpoint of the published code, which carries no vocabulary",
            "give its vocabulary: --vocab FILE.json",
        )
    vocabulary = read_vocabulary(vocab)
    try:
        settings, weights = from_published(content["model"])
        model = _unfilled(settings, captions_only)
        _fill(model, weights)
    except SwanError as error:
        raise StoreError(f"{path}: {error.problem}", error.hint) from error
    except (TypeError, ValueError, RuntimeError) as error:
        reason = repr(error).partition("\\n")[0]
        raise StoreError(f"{path}: damaged checkpoint ({reason})", TRAIN_AGAIN) from error
    if len(vocabulary) > settings.words:
        raise SwanError(
            f"{vocab}: {len(vocabulary)} words, but {path} has word vectors for {settings.words}",
            "give the vocabulary that it was trained with",
        )
    origin = {"dataset": vocabulary.dataset, "run": path.name, "epoch": content.get("epoch")}
    return Checkpoint(path, model.eval(), vocabulary, origin, {}, file_sha256(path), vocab)


def _unfilled(settings: ModelSettings, captions_only: bool) -> Swan:
    """A model whose weights are to come, without random ones, which take longer to draw than those to read.

    What making it so imports, the image side needs too, and a text query would wait for.
    """
    if captions_only:
        return Swan(settings, captions_only)
    with torch.device("meta"):
        model = Swan(settings)
    return model.to_empty(device="cpu")


def _fill(model: Swan, weights: dict[str, torch.Tensor]) -> None:
    """Puts weights into a model that has a place for each of them and for no other.

    Those of the image side are passed over where the model has none.
    """
    if not all(isinstance(value, torch.Tensor) for value in weights.values()):
        raise SwanError("not all of its weights are tensors", TRAIN_AGAIN)
    sides = {key.partition(".")[0] for key in model.state_dict()}
    if "backbone" not in sides:
        weights = {key: value for key, value in weights.items() if key.partition(".")[0] in sides}
    own = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    shapes = {key: tuple(value.shape) for key, value in weights.items()}
    if shapes != own:
        wrong = sorted(key for key in {*own, *shapes} if own.get(key) != shapes.get(key))
        raise SwanError(
            f"its weights do not fit its settings ({len(wrong)} of them, first {wrong[0]})", TRAIN_AGAIN
        )
    unsound = [key for key, value in weights.items() if not value.isfinite().all()]
    if unsound:
        raise SwanError(f"{len(unsound)} of its weights are not numbers, first {unsound[0]}", TRAIN_AGAIN)
    model.load_state_dict(weights)


def export_published(checkpoint: Checkpoint, path: str | PathLike[str]) -> None:
    """Writes a checkpoint in the layout of the published code, which loads it on its side.

    Raises:
        SwanError: the published code has no place for such a model.
    """
    model, origin = checkpoint.model, checkpoint.origin
    content = {
        "epoch": origin["epoch"],
        "model": to_published(model.settings, model.state_dict()),
        "best_rsum": 6 * origin.get("val_mR", 0.0),
        "args": Namespace(created_by=CREATED_BY, **origin),
        "Eiters": origin.get("steps", 0),
    }
    write_torch_file(Path(path), content)


def file_sha256(path: str | PathLike[str]) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
