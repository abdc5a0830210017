"""A pretrained BERT as text encoder: from word pieces to one state per piece.

It takes the place of the Bi-GRU (`textual`). In evaluation mode it equals the published encoder, that is
`BertModel` of the transformers library, which takes seconds to import. `read_bert_folder` reads one as
Hugging Face stores it: `config.json`, `tokenizer.json` and `model.safetensors`.

While layers are trained, their dropout is BERT's own, 0.1, in states and attention. What `config.json` says
about dropout (`hidden_dropout_prob`, `attention_probs_dropout_prob`) is not read: it describes how the file
was trained, and does not change what the encoder computes afterwards.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from os import PathLike
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from swancli.errors import StoreError, SwanError
from swancli.machine.device import move
from swancli.model.settings import BertShape
from swancli.model.weights import misfit, not_finite, read_weights, shapes_of, weights_digest
from swancli.store.text import read_json, read_text
from swancli.vocab.word_pieces import MOST_PIECES, WordPieces

DROPOUT = 0.1  # of BERT, in states and attention, while it is trained
GIVE = "give the folder of a BERT as Hugging Face stores it"

# BertShape's fields under their names in config.json.
CONFIG = {
    "pieces": "vocab_size",
    "positions": "max_position_embeddings",
    "width": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "inner": "intermediate_size",
    "eps": "layer_norm_eps",
}
# What config.json may say, and what it means if it does not; other values make other networks.
KIND = {"hidden_act": "gelu", "position_embedding_type": "absolute", "is_decoder": False}

# Names of Hugging Face and ours: of the tables, and of each layer under `encoder.layer.N.`.
TABLES = {
    "embeddings.word_embeddings": "words",
    "embeddings.position_embeddings": "positions",
    "embeddings.LayerNorm": "norm",
}
TYPES = "embeddings.token_type_embeddings.weight"
LAYER = {
    "attention.output.dense": "self_attn.out_proj",
    "attention.output.LayerNorm": "norm1",
    "intermediate.dense": "linear1",
    "output.dense": "linear2",
    "output.LayerNorm": "norm2",
}
ATTENTION = ("query", "key", "value")  # in the order in which torch stacks them
OLD_NAMES = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}
IGNORED = re.compile(r"embeddings\.position_ids|(pooler|cls)\..*")  # a buffer, and heads of other tasks


class Bert(nn.Module):
    """The encoder without its pooler; all texts are of token type 0, whose row is part of the positions."""

    def __init__(self, shape: BertShape) -> None:
        super().__init__()
        self.shape = shape
        self.frozen = 0
        self.words = nn.Embedding(shape.pieces, shape.width)
        self.positions = nn.Embedding(shape.positions, shape.width)
        self.norm = nn.LayerNorm(shape.width, shape.eps)
        self.dropout = nn.Dropout(DROPOUT)
        layer = nn.TransformerEncoderLayer(
            shape.width, shape.heads, shape.inner, DROPOUT, _gelu, shape.eps, batch_first=True
        )
        layer.dropout.p = 0.0  # inside the feed-forward network, where BERT has none
        self.encoder = nn.TransformerEncoder(layer, shape.layers, enable_nested_tensor=False)

    def forward(self, tokens: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """States float (B, L, width), zero past a text's end.

        Args:
            tokens: int64 (B, L), numbers of word pieces; any past a text's end.
            lengths: int64 (B,), pieces in each text, at least 1; on the CPU or the device.
        """
        count = tokens.shape[1]
        padding = torch.arange(count, device=lengths.device) >= lengths.unsqueeze(1)
        padding = move(padding, tokens.device)
        states = self.dropout(self.norm(self.words(tokens) + self.positions.weight[:count]))
        states = self.encoder(states, src_key_padding_mask=padding)
        return states.masked_fill(padding.unsqueeze(-1), 0)

    def freeze(self, layers: int) -> None:
        """Freezes both tables with their norm and the first layers: not trained, and without dropout.

        Args:
            layers: how many; 0 freezes nothing, not even the tables.

        Raises:
            SwanError: there are fewer layers.
        """
        if not 0 <= layers <= self.shape.layers:
            raise SwanError(
                f"--freeze-text {layers}: the text transformer has {self.shape.layers} layers",
                f"give 0 to {self.shape.layers}",
            )
        self.frozen = layers
        self.requires_grad_(True)
        for part in self._frozen_parts():
            part.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> Bert:
        super().train(mode)
        for part in self._frozen_parts():
            part.eval()
        return self

    def digest(self) -> str:
        """Hexadecimal SHA-256 of its weights; encoders of equal digests give equal states."""
        return weights_digest("bert", self.state_dict())

    def _frozen_parts(self) -> list[nn.Module]:
        if not self.frozen:
            return []
        return [self.words, self.positions, self.norm, self.dropout, *self.encoder.layers[: self.frozen]]


def _gelu(values: torch.Tensor) -> torch.Tensor:
    """The exact GELU. torch's fused layer, which it uses if given its own, computes another one on a GPU."""
    return F.gelu(values)


# ---------------------------------------------------------------------------------------------------------
# from Hugging Face


def bert_weights(named: Mapping[str, torch.Tensor], shape: BertShape, name: str) -> dict[str, torch.Tensor]:
    """Weights under the names of `Bert.state_dict()`, float32.

    Args:
        named: under the names of Hugging Face, with or without a leading `bert.`; heads are ignored.
        shape: that they must fit.
        name: of their file, for errors.

    Raises:
        StoreError: one is missing, foreign, of another shape, or contains NaN or infinity; names the first.
    """
    weights = {_plain_name(key): value for key, value in named.items()}
    weights = {key: value for key, value in weights.items() if not IGNORED.fullmatch(key)}
    if shape.layers > len(weights):  # before a list of their names is made
        raise StoreError(f"{name}: too few weights for {shape.layers} layers", GIVE)
    if TYPES in weights and weights[TYPES].dim():
        weights[TYPES] = weights[TYPES][:1]  # of a second sentence, which a caption does not have
    whole = [key for key, value in weights.items() if not value.is_floating_point()]
    problem = misfit(_sizes(shape), shapes_of(weights))
    if whole and not problem:
        problem = f"{len(whole)} weights are whole numbers, first {whole[0]}"
    if problem:
        raise StoreError(f"{name}: not weights of a BERT of this shape: {problem}", GIVE)
    if problem := not_finite(weights):
        raise StoreError(f"{name}: {problem}", "fetch it again")
    return _renamed({key: value.float() for key, value in weights.items()}, shape.layers)


def _plain_name(key: str) -> str:
    """A name of Hugging Face without the model's, and as newer versions of its library write it."""
    key = key.removeprefix("bert.")
    for old, new in OLD_NAMES.items():
        key = re.sub(rf"{re.escape(old)}$", new, key)
    return key


def _sizes(shape: BertShape) -> dict[str, tuple[int, ...]]:
    """The shape of each weight, under the names of Hugging Face."""
    width, inner = shape.width, shape.inner
    sizes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (shape.pieces, width),
        "embeddings.position_embeddings.weight": (shape.positions, width),
        TYPES: (1, width),
    }
    norms, linears = ["embeddings.LayerNorm"], {}
    for index in range(shape.layers):
        layer = f"encoder.layer.{index}."
        norms += [f"{layer}attention.output.LayerNorm", f"{layer}output.LayerNorm"]
        linears |= {f"{layer}attention.self.{part}": (width, width) for part in ATTENTION}
        linears[f"{layer}attention.output.dense"] = (width, width)
        linears[f"{layer}intermediate.dense"] = (inner, width)
        linears[f"{layer}output.dense"] = (width, inner)
    for key in norms:
        sizes |= {f"{key}.weight": (width,), f"{key}.bias": (width,)}
    for key, size in linears.items():
        sizes |= {f"{key}.weight": size, f"{key}.bias": size[:1]}
    return sizes


def _renamed(weights: dict[str, torch.Tensor], layers: int) -> dict[str, torch.Tensor]:
    names = dict(TABLES)
    ours = {}
    for index in range(layers):
        theirs, own = f"encoder.layer.{index}.", f"encoder.layers.{index}."
        names |= {theirs + key: own + value for key, value in LAYER.items()}
        for kind in ("weight", "bias"):
            parts = [weights[f"{theirs}attention.self.{part}.{kind}"] for part in ATTENTION]
            ours[f"{own}self_attn.in_proj_{kind}"] = torch.cat(parts)
    for key, value in weights.items():
        module, _, kind = key.rpartition(".")
        if module in names:
            ours[f"{names[module]}.{kind}"] = value
    ours["positions.weight"] = ours["positions.weight"] + weights[TYPES]
    return ours


def read_bert_folder(folder: str | PathLike[str]) -> tuple[BertShape, dict[str, torch.Tensor], WordPieces]:
    """The shape, the weights under our names and the word pieces of a BERT in a Hugging Face folder.

    Nothing in the folder can run code: it is read from `config.json`, `tokenizer.json` and
    `model.safetensors` only.

    Raises:
        StoreError: a file is missing, damaged, or of another kind of model; names the file.
        SwanError: as `read_json` and `WordPieces`.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise StoreError(f"{folder}: no such folder", GIVE)
    paths = [folder / name for name in ("config.json", "tokenizer.json", "model.safetensors")]
    missing = next((path for path in paths if not path.is_file()), None)
    if missing:
        raise StoreError(f"{missing}: no such file", _missing_hint(missing))
    config, tokenizer, weights = paths
    shape = _read_config(config)
    pieces = WordPieces(read_text(tokenizer), str(tokenizer))
    if len(pieces) > shape.pieces:
        raise StoreError(
            f"{tokenizer}: {len(pieces)} pieces, but {config.name} says {shape.pieces}",
            "give the tokenizer of this BERT",
        )
    return shape, bert_weights(read_weights(weights, GIVE), shape, str(weights)), pieces


def _missing_hint(path: Path) -> str:
    pickle = path.with_name("pytorch_model.bin")
    if path.suffix == ".safetensors" and pickle.is_file():
        return (
            f"swan does not read {pickle.name}; convert it with the transformers library: "
            "BertModel.from_pretrained(FOLDER).save_pretrained(FOLDER)"
        )
    return GIVE


def _read_config(path: Path) -> BertShape:
    shape = bert_shape(read_json(path, GIVE), str(path))
    if shape.positions < MOST_PIECES:
        raise StoreError(
            f"{path}: max_position_embeddings {shape.positions}; captions need up to {MOST_PIECES}", GIVE
        )
    return shape


def bert_shape(config: object, name: str) -> BertShape:
    """The shape in the decoded `config.json` of a BERT.

    Args:
        config: the content.
        name: of the file, for errors.

    Raises:
        StoreError: it is not that of a BERT which swan can read; names the key.
    """
    if not isinstance(config, dict):
        raise StoreError(f"{name}: not a JSON object", GIVE)
    if config.get("model_type") != "bert":
        raise StoreError(f"{name}: model_type {config.get('model_type')!r}; swan reads bert only", GIVE)
    for key, value in KIND.items():
        if config.get(key, value) != value:
            raise StoreError(f"{name}: {key} {config[key]!r}; swan reads {value!r} only", GIVE)
    absent = next((key for key in CONFIG.values() if key not in config), None)
    if absent:
        raise StoreError(f"{name}: no key {absent!r}", GIVE)
    try:
        return BertShape(**{ours: config[key] for ours, key in CONFIG.items()})
    except SwanError as error:
        raise StoreError(f"{name}: {error.problem}", GIVE) from error
