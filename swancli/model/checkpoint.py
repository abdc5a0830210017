"""Checkpoints: one file with weights, settings and tokenizer, all that `eval`, `embed` and `query` need.

Checkpoints of the published code, `{'epoch', 'model', 'best_rsum', 'args', 'Eiters'}`, can also be read and
written, and weights of open_clip can be read.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import torch

from swancli.errors import StoreError, SwanError, SwanWarning
from swancli.model.borrowed import IMAGE, TEXT, divided, tower_weights
from swancli.model.clip_tokenizer import ClipTokenizer
from swancli.model.open_clip import (
    PREFIX,
    WEIGHT_SUFFIXES,
    OpenClip,
    is_open_clip,
    read_open_clip,
    weights_in,
)
from swancli.model.published import from_published, is_published, to_published
from swancli.model.settings import ModelSettings
from swancli.model.swan import Swan
from swancli.model.weights import (
    SAFETENSORS,
    Shapes,
    is_plain_tensor,
    misfit,
    not_finite,
    shapes_of,
    stored_bytes,
    without_random_start,
)
from swancli.store.digest import content_digest
from swancli.store.hdf5 import CREATED_BY
from swancli.store.made_by import MadeBy
from swancli.store.seen import SeenImages
from swancli.store.torch_file import foreign_names, read_torch_file, write_torch_file
from swancli.vocab.vocabulary import Vocabulary, read_vocabulary
from swancli.vocab.word_pieces import WordPieces
from swancli.workspace import Run, named_checkpoint, relocated_checkpoint

FORMAT, VERSION = "swan-checkpoint", 2
WORD_VECTORS = "text_tower.word_vectors.weight"
# A model may take this many times the bytes of its weights, which may have 16 bits each, and this many more
# for masks and tables of positions.
MOST_GROWTH, SMALL = 4, 2**28
IMAGE_SIDE = ("backbone.", "image_tower.", "clip.visual.")  # prefixes of its weights

Model = Swan | OpenClip
Tokenizer = Vocabulary | WordPieces | ClipTokenizer
TRAIN_AGAIN = "train again, or take another checkpoint"


@dataclass(frozen=True)
class Checkpoint:
    """A loaded checkpoint.

    path: of the file; of a model of open_clip in a folder, the folder.
    model: in evaluation mode, on the CPU.
    tokenizer: from captions to the numbers that the model reads; of the GRU, its vocabulary.
    origin: plain values, at least `dataset` ("" if unknown), `run` and `epoch`.
    training: the state from which `train --resume` resumes; empty in `best.pt`.
    sha256: of the file; of a folder, of the file with the weights in it.
    vocab: the file that the vocabulary came from; None if the checkpoint contains it.
    configuration: as in `MadeBy`.
    seen: the images that it was trained on, and those that the checkpoint it started from was; None if that
        is not known.
    """

    path: Path
    model: Model
    tokenizer: Tokenizer
    origin: dict[str, Any]
    training: dict[str, Any]
    sha256: str
    vocab: Path | None = None
    configuration: str = ""
    seen: SeenImages | None = None

    @classmethod
    def unsaved(cls, model: Model, tokenizer: Tokenizer) -> Checkpoint:
        """A model that is only in memory, such as one in training."""
        return cls(Path(), model, tokenizer, {}, {}, "")

    @property
    def made_by(self) -> MadeBy:
        """The record stored with the vectors that it makes."""
        settings = self.model.settings
        vocab = str(self.vocab or "")
        match = self.origin.get("match_threshold")
        return MadeBy(
            str(self.path),
            self.sha256,
            settings.embed_dim,
            settings.name,
            vocab,
            self.configuration,
            settings.activation,
            json.dumps(match) if match else "",
        )


def checkpoint_file(name: str | PathLike[str] | Run) -> Path:
    """The file of a checkpoint that is named by its path, as `shipped`, or by its run (the best one).

    A name of open_clip, or a folder with its files, is kept as it is.
    """
    return name.best if isinstance(name, Run) else named_checkpoint(Path(name))


def save_checkpoint(
    path: str | PathLike[str],
    model: Model,
    tokenizer: Tokenizer,
    origin: dict[str, Any],
    training: dict[str, Any] | None = None,
    seen: SeenImages | None = None,
    small: bool = False,
) -> None:
    """Writes a checkpoint, whole or not at all: tensors and plain values only.

    Args:
        path: of the file.
        model: its settings and weights are written.
        tokenizer: of the model.
        origin: as in `Checkpoint`.
        training: as in `Checkpoint`; None for an empty one.
        seen: as in `Checkpoint`.
        small: in half precision, and without what is equal to the towers that come with swan.
    """
    weights, borrowed = divided(model.state_dict()) if small else (model.state_dict(), [])
    content = {
        "format": FORMAT,
        "version": VERSION,
        "created_by": CREATED_BY,
        "settings": asdict(model.settings),
        "vocabulary": tokenizer.to_plain(),
        "origin": origin,
        "model": weights,
        "borrowed": borrowed,
        "training": training or {},
        "seen": seen.to_plain() if seen else None,
    }
    write_torch_file(Path(path), content)


def load_checkpoint(
    checkpoint: str | PathLike[str] | Run,
    vocab: str | PathLike[str] | None = None,
    *,
    spare: bool = False,
    captions_only: bool = False,
) -> Checkpoint:
    """Reads a checkpoint, ours, the published code's or open_clip's; nothing in the file can execute.

    Args:
        checkpoint: see `checkpoint_file`; open_clip:NAME:FILE for weights of open_clip, or a folder with
            `open_clip_config.json`.
        vocab: the vocabulary of a published checkpoint, which contains none: a `vocab.h5` or its JSON.
        spare: ignore `vocab` if the checkpoint contains its own; otherwise that is an error.
        captions_only: leave out the image side of the model.

    Raises:
        StoreError: the file is absent, not a checkpoint, of another version, or its weights do not fit.
        SwanError: the vocabulary is missing, too large, or not wanted.
    """
    path = checkpoint_file(checkpoint)
    if is_open_clip(path):
        if vocab and not spare:
            raise SwanError(f"{path}: open_clip's models have their own tokenizer", "leave --vocab out")
        return _load_open_clip(str(path), captions_only)
    if path.is_dir():
        problem = f"{path}: a folder, not a checkpoint (it has no open_clip_config.json)"
        raise StoreError(problem, "give the file in it, such as best.pt, or the run: --run NAME")
    if not path.is_file():
        raise StoreError(f"{path}: no such file", "check the path")
    content = read_torch_file(path, TRAIN_AGAIN, in_part=captions_only)
    if isinstance(content, dict) and content.get("format") == FORMAT:
        if vocab and not spare:
            raise SwanError(f"{path}: contains its own vocabulary", "leave --vocab out")
        return _load_own(path, content, captions_only)
    if isinstance(content, dict) and is_published(content.get("model")):
        return _load_published(path, content, Path(vocab) if vocab else None, captions_only)
    raise StoreError(
        f"{path}: not a swan checkpoint",
        "give a best.pt or last.pt of `swan train`, a checkpoint of the published code, or "
        f"{PREFIX}NAME:FILE for weights of open_clip",
    )


def load_maker(
    made_by: MadeBy,
    name: object,
    hint: str,
    *,
    checkpoint: str | PathLike[str] | Run | None = None,
    vocab: str | PathLike[str] | None = None,
    captions_only: bool = False,
) -> Checkpoint:
    """Reads the checkpoint that made some vectors.

    Args:
        made_by: the record stored with the vectors.
        name: of the file or collection with the vectors.
        hint: what to do if another checkpoint made them.
        checkpoint: its path, if it has been moved; None for the path recorded with the vectors.
        vocab: of a published checkpoint; None for the one used when the vectors were made.
        captions_only: as in `load_checkpoint`.

    Raises:
        SwanError: it does not exist, cannot be read, or did not make the vectors.
    """
    path = checkpoint_file(checkpoint or relocated_checkpoint(Path(made_by.checkpoint)))
    if not (path.exists() or is_open_clip(path)):
        problem = f"{path}: no such file, the checkpoint that made {name}"
        raise StoreError(problem, "say where it is: --checkpoint FILE")
    if made_by.variant.startswith(PREFIX) and path.is_file() and not _is_own(path):
        # The recorded path is that of a folder, or of a file given with the name of its model.
        of_folder = Path(made_by.checkpoint).suffix not in WEIGHT_SUFFIXES
        path = path.parent if of_folder else Path(f"{made_by.variant}:{path}")
    loaded = load_checkpoint(path, vocab or made_by.vocab or None, captions_only=captions_only)
    made_by.check(loaded.made_by, name, hint)
    return loaded


def _is_own(path: Path) -> bool:
    """Whether a file is a checkpoint that swan wrote."""
    if path.suffix == SAFETENSORS:
        return False
    content = read_torch_file(path, TRAIN_AGAIN, in_part=True)
    return isinstance(content, dict) and content.get("format") == FORMAT


def _load_own(path: Path, content: dict[str, Any], captions_only: bool) -> Checkpoint:
    foreign = foreign_names(path)
    if foreign:
        raise StoreError(f"{path}: cannot be loaded safely (it asks for {foreign[0]})", TRAIN_AGAIN)
    if not isinstance(content.get("version"), int) or content["version"] != VERSION:
        raise StoreError(f"{path}: version {content.get('version')!s:.9}; this swan reads version {VERSION}")
    with _damage_named(path):
        settings = ModelSettings.from_plain(content["settings"])
        weights = content["model"] | _borrowed(content["borrowed"], captions_only)
        tokenizer = _tokenizer_of(settings).from_plain(content["vocabulary"])
        origin, training = content["origin"], content["training"]
        seen = SeenImages.from_plain(content["seen"]) if content["seen"] else None
        if not (isinstance(origin["dataset"], str) and isinstance(origin["run"], str)):
            raise TypeError("its origin names no data set and no run")
        if not isinstance(training, dict):
            raise TypeError(f"its training is {type(training).__name__}")
        if not _is_record(origin.get("match_threshold")):
            raise TypeError("its match threshold is not a record of numbers")
        if len(tokenizer) > settings.words:
            raise ValueError(f"{len(tokenizer)} words, and word vectors for {settings.words}")
        model = _filled(settings, weights, captions_only)
    return Checkpoint(path, model, tokenizer, origin, training, file_sha256(path), seen=seen)


def _is_record(match: object) -> bool:
    """Whether something is a record of numbers, or None; what they say is checked where they are used."""
    if not isinstance(match, dict):
        return match is None
    return all(type(key) is str and type(value) in (int, float) for key, value in match.items())


def _borrowed(names: list[str], captions_only: bool) -> dict[str, torch.Tensor]:
    """The weights of a small checkpoint that it has from the towers that come with swan."""
    places = {place for place in (IMAGE, TEXT) if any(name.startswith(place) for name in names)}
    if captions_only:
        places -= {IMAGE}
        names = [name for name in names if not name.startswith(IMAGE_SIDE)]
    weights = tower_weights(places) if places else {}
    return {name: weights[name] for name in names}


def _tokenizer_of(settings: ModelSettings) -> type[Vocabulary] | type[WordPieces] | type[ClipTokenizer]:
    """The kind of tokenizer that a model has."""
    if settings.open_clip:
        return ClipTokenizer
    return WordPieces if settings.bert else Vocabulary


def _load_open_clip(name: str, captions_only: bool) -> Checkpoint:
    """Weights of open_clip, which nothing of ours has trained."""
    found = read_open_clip(name)
    model = _loaded(found.settings, found.weights, captions_only)
    path = found.path.parent if Path(name.removeprefix(PREFIX)).is_dir() else found.path
    origin = {"dataset": "", "run": path.name, "epoch": 0}
    for text in found.warnings:
        warnings.warn(text, SwanWarning, stacklevel=3)
    decisive = [found.settings.open_clip, asdict(found.settings.preprocessing), found.tokenizer.to_plain()]
    digest = content_digest(decisive)
    return Checkpoint(path, model, found.tokenizer, origin, {}, file_sha256(found.path), configuration=digest)


def _load_published(
    path: Path, content: dict[str, Any], vocab: Path | None, captions_only: bool
) -> Checkpoint:
    """A checkpoint of the published code; its options (`args`) are not read."""
    if not vocab:
        raise SwanError(
            f"{path}: a checkpoint of the published code, which contains no vocabulary",
            "give its vocabulary: --vocab FILE.json",
        )
    vocabulary = read_vocabulary(vocab)
    with _damage_named(path):
        settings, weights = from_published(content["model"])
        model = _filled(settings, weights, captions_only)
    if len(vocabulary) > settings.words:
        raise SwanError(
            f"{vocab}: {len(vocabulary)} words, but {path} has word vectors for {settings.words}",
            "give the vocabulary that it was trained with",
        )
    origin = {"dataset": vocabulary.dataset, "run": path.name, "epoch": content.get("epoch")}
    digest = content_digest([vocabulary.to_plain()])
    return Checkpoint(path, model, vocabulary, origin, {}, file_sha256(path), vocab, digest)


@contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    """Around reading a checkpoint's content: errors name the file."""
    try:
        yield
    except SwanError as error:
        raise StoreError(f"{path}: {error.problem}", error.hint) from error
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError, ArithmeticError) as error:
        reason = repr(error).partition("\\n")[0]
        raise StoreError(f"{path}: damaged checkpoint ({reason})", TRAIN_AGAIN) from error


def built(settings: ModelSettings, captions_only: bool = False) -> Model:
    """The model of some settings, with random weights."""
    kind = OpenClip if settings.open_clip else Swan
    return kind(settings, captions_only)


def _filled(settings: ModelSettings, weights: dict[str, torch.Tensor], captions_only: bool) -> Model:
    """The model with these weights, which must be sound and fit it exactly, in evaluation mode."""
    if not all(map(is_plain_tensor, weights.values())):
        raise SwanError("not all of its weights are plain tensors", TRAIN_AGAIN)
    if settings.bert and settings.bert.layers > len(weights):  # each would be built, if only to be compared
        raise SwanError(f"its weights do not fit its settings: {settings.bert.layers} layers", TRAIN_AGAIN)
    return _loaded(settings, weights, captions_only, checked=False)


def _loaded(
    settings: ModelSettings, weights: dict[str, torch.Tensor], captions_only: bool, *, checked: bool = True
) -> Model:
    """The model with these weights, in evaluation mode; it gets the tensors themselves.

    It is first made without memory and compared with the weights: settings may ask for any amount.

    Args:
        settings: of the model.
        weights: plain tensors.
        captions_only: leave out the image side, also of the weights.
        checked: the weights are known to be finite.
    """
    if captions_only:
        weights = {key: value for key, value in weights.items() if not key.startswith(IMAGE_SIDE)}
    with torch.device("meta"):
        planned = built(settings, captions_only)
    _check_fit(shapes_of(planned.state_dict()), shapes_of(weights))
    needed = sum(value.nbytes for value in (*planned.parameters(), *planned.buffers()))
    if needed > MOST_GROWTH * stored_bytes(weights.values()) + SMALL:
        problem = f"its settings ask for {needed / 1e9:.1f} GB, of which its weights fill only a part"
        raise SwanError(problem, TRAIN_AGAIN)
    if not checked and (problem := not_finite(weights)):
        raise SwanError(problem, TRAIN_AGAIN)
    with without_random_start():
        model = built(settings, captions_only)
    types = {key: value.dtype for key, value in model.state_dict().items()}
    model.load_state_dict({key: weights[key].to(kind) for key, kind in types.items()}, assign=True)
    return model.eval()


def _check_fit(own: Shapes, given: Shapes) -> None:
    """Raises an error if weights are not those of a model with these settings; see `misfit`."""
    if problem := misfit(own, given):
        raise SwanError(f"its weights do not fit its settings: {problem}", TRAIN_AGAIN)


def export_published(checkpoint: Checkpoint, path: str | PathLike[str]) -> None:
    """Writes a checkpoint that the published code can load.

    Raises:
        SwanError: the published code cannot hold such a model.
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


def checkpoint_sha256(path: Path) -> str:
    """`Checkpoint.sha256` of a checkpoint that exists, without loading it.

    Raises:
        StoreError: a folder has no weights, or several.
    """
    return file_sha256(weights_in(path) if path.is_dir() else path)


def file_sha256(path: str | PathLike[str]) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
