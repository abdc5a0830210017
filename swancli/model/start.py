"""A model before its first step: random by seed, with towers from outside, or from a whole checkpoint."""

from __future__ import annotations

import difflib
from dataclasses import replace
from pathlib import Path

import torch

from swancli.errors import SwanError
from swancli.model import towers
from swancli.model.backbone import preprocessing_of
from swancli.model.bert import Bert, bert_shape, bert_weights, read_bert_folder
from swancli.model.checkpoint import WORD_VECTORS, Checkpoint, Model, Tokenizer, built
from swancli.model.settings import GRU, MINILM, BertShape, ModelSettings
from swancli.vocab.vocabulary import Vocabulary
from swancli.vocab.word_pieces import WordPieces
from swancli.vocab.word_vectors import WordVectors
from swancli.workspace import NO_WEIGHTS, WITH_SWAN

DIFFERENT = "leave out what makes the models differ: --backbone, --embed-dim, --variant, --without"


def named_towers(backbone: str | None, weights: str | None, text: str | None) -> tuple[str, str, str]:
    """The towers that options ask for, where None is what comes with swan.

    Args:
        backbone: as in `ModelSettings`.
        weights: of the backbone, see `Backbone.load_weights`; `NO_WEIGHTS` for random ones. None: those that
            come with swan if they fit, else random ones.
        text: `GRU`, or see `text_transformer`.

    Returns:
        The same, with weights "" for random ones.
    """
    backbone = backbone or towers.IMAGE_TOWER
    if weights is None:
        weights = WITH_SWAN if backbone == towers.IMAGE_TOWER else NO_WEIGHTS
    return backbone, "" if weights == NO_WEIGHTS else weights, text or MINILM


def text_transformer(name: str) -> tuple[BertShape, dict[str, torch.Tensor], WordPieces]:
    """The shape, the weights and the tokenizer of a text transformer.

    Args:
        name: `MINILM` for the one that comes with swan, or a local Hugging Face folder of a BERT.

    Raises:
        SwanError: there is no such folder, or it contains something else; names the file.
    """
    if Path(name).is_dir():
        return read_bert_folder(name)
    if name != MINILM:
        near = difflib.get_close_matches(name.lower(), (GRU, MINILM), 1)
        meant = f"do you mean {near[0]}? " if near else ""
        choices = f"give {GRU}, {MINILM}, or a folder with a BERT"
        raise SwanError(f"--text {name}: no such folder", meant + choices)
    config, weights, layout = towers.text_tower()
    source = str(towers.towers_file())
    shape = bert_shape(config, source)
    return shape, bert_weights(weights, shape, source), WordPieces(layout, source)


def frozen_bert(name: str) -> tuple[Bert, WordPieces]:
    """A text transformer in evaluation mode, and its tokenizer; see `text_transformer`."""
    shape, weights, pieces = text_transformer(name)
    bert = Bert(shape)
    bert.load_state_dict(weights)
    bert.freeze(shape.layers)
    return bert.eval(), pieces


def new_model(
    settings: ModelSettings,
    seed: int,
    weights: str,
    text: str,
    vocabulary: Vocabulary | None,
    vectors: WordVectors | None,
    freeze_text: int | None,
) -> tuple[Model, Tokenizer, list[str]]:
    """A model that starts from random weights and from what is given.

    Args:
        settings: of the model; what depends on the towers from outside is filled in.
        seed: of the random weights.
        weights: of the backbone, see `Backbone.load_weights`; "" for random ones.
        text: the text tower, `GRU` or see `text_transformer`.
        vocabulary: of the GRU.
        vectors: of its words, or None.
        freeze_text: as in `ModelSettings`; None for all layers.

    Returns:
        The model, its tokenizer, and notes for the user.

    Raises:
        SwanError: weights or text tower cannot be read, or the backbone does not take the image size.
    """
    usual = preprocessing_of(settings.backbone)
    settings = replace(settings, mean=usual.mean, std=usual.std, interpolation=usual.interpolation)
    if text == GRU:
        width = vectors.vectors.shape[1] if vectors else settings.word_dim
        settings, tokenizer = replace(settings, word_dim=width), vocabulary
    else:
        shape, named, tokenizer = text_transformer(text)
        frozen = shape.layers if freeze_text is None else freeze_text
        settings = replace(settings, words=shape.pieces, bert=shape, freeze_text=frozen)
    model, notes = _random_model(settings, seed), []
    if weights:
        model.backbone.load_weights(weights)
    if text != GRU:
        model.text_tower.bert.load_state_dict(named)
    elif vectors:
        rows = torch.from_numpy(vectors.has_vector).nonzero().squeeze(1)
        with torch.no_grad():
            model.text_tower.word_vectors.weight[rows + 1] = torch.from_numpy(vectors.vectors)[rows]
        notes.append(f"{len(rows)} of {len(vocabulary)} words start from word vectors of width {width}")
    return model, tokenizer, notes


def continued_model(
    settings: ModelSettings,
    seed: int,
    source: Checkpoint,
    vocabulary: Vocabulary | None,
    freeze_text: int | None,
) -> tuple[Model, Tokenizer, list[str]]:
    """A model that starts from a whole checkpoint; word vectors of a GRU by word.

    Args:
        settings: of the model; what describes the towers is taken over from the checkpoint.
        seed: of the weights that the checkpoint lacks: vectors of new words.
        source: the checkpoint.
        vocabulary: of the GRU.
        freeze_text: as in `ModelSettings`; None as in the checkpoint.

    Returns:
        As `new_model`.

    Raises:
        SwanError: the checkpoint has no weights for some part of the model, or the backbone does not take the
            image size.
    """
    theirs, notes = source.model.settings, []
    if theirs.variant == "published" and settings.variant == "repaired" and "pool" not in settings.without:
        settings = replace(settings, without=(*settings.without, "pool"))
        notes.append(f"without the pooled maps, since {source.path} has none")
    kept = ("mean", "std", "interpolation", "fit", "word_dim", "bert", "open_clip")
    settings = replace(settings, **{name: getattr(theirs, name) for name in kept})
    if freeze_text is None:
        freeze_text = theirs.freeze_text
    if vocabulary is None:
        settings = replace(settings, words=theirs.words, freeze_text=freeze_text)
    fixed = ("backbone", "image_size", "embed_dim", "variant", "without")
    changed = [name for name in fixed if getattr(settings, name) != getattr(theirs, name)]
    if theirs.open_clip and changed:
        option = "--" + changed[0].replace("_", "-")
        problem = f"{option}: {source.path} is a model of open_clip, whose shape is fixed"
        raise SwanError(problem, f"leave {option} out")
    model = _random_model(settings, seed)
    own, weights = model.state_dict(), source.model.state_dict()
    if vocabulary is not None:
        known = _words_from(own[WORD_VECTORS], source, vocabulary)
        weights[WORD_VECTORS] = own[WORD_VECTORS]
        notes.append(f"{known} of {len(vocabulary)} words start from the vectors of {source.path}")
    weights = {key: value for key, value in own.items() if "unused_projection" in key} | weights  # item 3
    lacking = [key for key in own if key not in weights or weights[key].shape != own[key].shape]
    if lacking:
        raise SwanError(
            f"--init-from {source.path}: it lacks {len(lacking)} weights of this model, first {lacking[0]}",
            DIFFERENT,
        )
    model.load_state_dict({key: weights[key] for key in own})
    return model, source.tokenizer if vocabulary is None else vocabulary, notes


def _random_model(settings: ModelSettings, seed: int) -> Model:
    """A model with random weights; raises a SwanError if its backbone does not take the image size."""
    torch.manual_seed(seed)
    model = built(settings)
    if not settings.open_clip:
        model.backbone.map_shapes(settings.image_size)
    return model


def _words_from(table: torch.Tensor, source: Checkpoint, vocabulary: Vocabulary) -> int:
    """Copies the vectors of words in both vocabularies into a table; returns their number."""
    vectors = source.model.state_dict()[WORD_VECTORS]
    place = {word: row for row, word in enumerate(source.tokenizer.words, start=1)}
    shared = [(row, place[word]) for row, word in enumerate(vocabulary.words, start=1) if word in place]
    for row, other in shared:
        table[row] = vectors[other]
    return len(shared)
