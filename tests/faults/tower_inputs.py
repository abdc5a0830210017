"""Bad towers from outside: a BERT in its folder, the towers that come with swan, a model of open_clip."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from cases import Case, Make, content, refuses
from model_inputs import SPARSE, Call, no_embeddings, pieces_with, put, spoiled
from readers import BERT_CONFIG, bert_named, read_towers, word_pieces, write_bert, write_open_clip
from safetensors.torch import load_file, save_file
from settings_inputs import ALL, small_root, train

from swancli.model.checkpoint import load_checkpoint

# ---------------------------------------------------------------------------------------------------------
# a BERT in a Hugging Face folder


def bert_folder(name: str, value: Any) -> Make:
    """A root, and beside it a sound folder with one file replaced; by nothing if the value is Ellipsis."""

    def make(folder: Path) -> Path:
        small_root(ALL, [0, 1, 2])(folder)
        (folder / "bert").mkdir()
        path = folder / "bert" / name
        write_bert(path)
        path.unlink()
        if value is not ...:
            content(name, value)(path.parent)
        return path.parent

    return make


def bert_tensors(change: Callable[[dict[str, torch.Tensor]], Any]) -> Make:
    """A sound folder with other weights."""

    def make(folder: Path) -> Path:
        path = bert_folder("model.safetensors", ...)(folder)
        weights = bert_named()
        change(weights)
        save_file(weights, path / "model.safetensors")
        return path

    return make


def train_with(path: Path) -> list[object]:
    return train("--text", str(path))(path.parent / "root")


def bert(**changes: Any) -> dict[str, Any]:
    return {key: value for key, value in (BERT_CONFIG | changes).items() if value is not ...}


def tokenizer(*keys: str, value: Any) -> str:
    layout = json.loads(word_pieces())
    put(*keys, value=value)(layout)
    return json.dumps(layout)


def bert_file(folder: Path) -> Path:
    small_root(ALL, [0, 1, 2])(folder)
    return content("bert", "hello")(folder)


def pickle_alone(folder: Path) -> Path:
    path = bert_folder("model.safetensors", ...)(folder)
    (path / "pytorch_model.bin").write_bytes(pickle.dumps(Call()))
    return path


DEFINED = ("post_processor", "special_tokens", "[CLS]")
BPE = {"type": "BPE", "vocab": {}, "merges": []}
LAYER = "encoder.layer.1.output.dense.weight"
WHOLE, NOT_A_NUMBER = torch.ones(16, 24).int(), torch.full((16, 24), torch.nan)
BERT_CASES = [
    Case("BERT", defect, make, train_with, named)
    for defect, make, *named in (
        ("a file in place of the folder", bert_file, "bert", "no such folder"),
        ("no configuration", bert_folder("config.json", ...), "config.json", "no such file"),
        ("no tokenizer", bert_folder("tokenizer.json", ...), "tokenizer.json", "no such file"),
        ("no weights", bert_folder("model.safetensors", ...), "model.safetensors", "no such file"),
        ("a pickle of weights alone", pickle_alone, "model.safetensors", "pytorch_model.bin"),
        ("a configuration that is cut", bert_folder("config.json", '{"model_type"'), "config.json", "line 1"),
        ("a configuration in a list", bert_folder("config.json", [1]), "config.json"),
        ("another model", bert_folder("config.json", bert(model_type="roberta")), "config.json", "roberta"),
        ("another activation", bert_folder("config.json", bert(hidden_act="relu")), "config.json", "relu"),
        ("no width", bert_folder("config.json", bert(hidden_size=...)), "config.json", "hidden_size"),
        ("a width in words", bert_folder("config.json", bert(hidden_size="wide")), "config.json", "wide"),
        ("a width of NaN", bert_folder("config.json", bert(hidden_size=float("nan"))), "config.json", "nan"),
        (
            "heads that do not share it",
            bert_folder("config.json", bert(num_attention_heads=3)),
            "config.json",
        ),
        (
            "too few positions",
            bert_folder("config.json", bert(max_position_embeddings=64)),
            "config.json",
            "max_position_embeddings 64",
        ),
        ("layers without end", bert_folder("config.json", bert(num_hidden_layers=10**30)), "too few weights"),
        (
            "a table of another size",
            bert_folder("config.json", bert(vocab_size=10)),
            "model.safetensors",
            "word_embeddings",
        ),
        ("a tokenizer that is text", bert_folder("tokenizer.json", "hello"), "tokenizer.json"),
        ("a tokenizer of nothing", bert_folder("tokenizer.json", {}), "tokenizer.json"),
        (
            "a tokenizer of another kind",
            bert_folder(
                "tokenizer.json", tokenizer("model", value={"type": "BPE", "vocab": {}, "merges": []})
            ),
            "tokenizer.json",
            "WordPiece",
        ),
        (
            "a tokenizer without [CLS]",
            bert_folder("tokenizer.json", tokenizer("model", "vocab", "[CLS]", value=...)),
            "tokenizer.json",
            "[CLS]",
        ),
        (
            "a tokenizer that does not define [CLS]",
            bert_folder("tokenizer.json", tokenizer(*DEFINED, value=...)),
            "tokenizer.json",
            "[CLS]",
        ),
        (
            "a tokenizer that does not frame a text",
            bert_folder("tokenizer.json", tokenizer("post_processor", value=None)),
            "tokenizer.json",
            "[SEP]",
        ),
        (
            "a tokenizer of more pieces than rows",
            bert_folder("tokenizer.json", pieces_with("sea")),
            "tokenizer.json",
            "10 pieces",
        ),
        ("weights that are text", bert_folder("model.safetensors", "hello"), "model.safetensors", "damaged"),
        ("a pickle that calls", bert_folder("model.safetensors", pickle.dumps(Call())), "model.safetensors"),
        ("a weight that is missing", bert_tensors(put(LAYER, value=...)), "model.safetensors", LAYER),
        (
            "a weight that nobody knows",
            bert_tensors(put("lm_head.bias", value=torch.ones(1))),
            "lm_head.bias",
        ),
        ("a weight of another shape", bert_tensors(put(LAYER, value=torch.ones(2, 2))), LAYER, "(2, 2)"),
        (
            "a weight in whole numbers",
            bert_tensors(put(LAYER, value=torch.ones(16, 24).int())),
            LAYER,
            "whole numbers",
        ),
        (
            "a weight that is NaN",
            bert_tensors(put(LAYER, value=torch.full((16, 24), torch.nan))),
            LAYER,
            "NaN",
        ),
    )
]

# ---------------------------------------------------------------------------------------------------------
# the towers that come with swan


TOWERS_CASES = [
    Case("towers.pt", defect, make, check=refuses(read_towers, "towers.pt", *named))
    for defect, make, *named in (
        ("not there", lambda folder: folder / "towers.pt", "no such file", "reinstall"),
        ("text", content("towers.pt", b"hello"), "safely"),
        ("a list", spoiled(lambda whole: [1], "towers.pt"), "not the towers"),
        ("of another format", spoiled(put("format", value="swan-checkpoint"), "towers.pt"), "not the towers"),
        ("of a later version", spoiled(put("version", value=2), "towers.pt"), "version 2"),
        ("a version that is a tensor", spoiled(put("version", value=torch.ones(2)), "towers.pt"), "version"),
        ("a function in it", spoiled(put("minilm", value=print), "towers.pt"), "minilm"),
        ("no image tower", spoiled(put("efficientnet_lite0", value=...), "towers.pt"), "efficientnet_lite0"),
        ("numbers for weights", spoiled(put("efficientnet_lite0", "x", value=3), "towers.pt"), "x"),
        ("a sparse weight", spoiled(put("minilm", "weights", LAYER, value=SPARSE), "towers.pt"), LAYER),
        ("no text tower", spoiled(put("minilm", value=...), "towers.pt"), "minilm"),
        ("no word pieces", spoiled(put("minilm", "word_pieces", value=...), "towers.pt"), "word_pieces"),
        (
            "scales of other rows",
            spoiled(put("minilm", "word_pieces", "scales", value=torch.ones(2, 2)), "towers.pt"),
            "minilm",
        ),
        ("no tokenizer", spoiled(put("minilm", "tokenizer", value="{}"), "towers.pt"), "tokenizer"),
        ("another model", spoiled(put("minilm", "config", "model_type", value="t5"), "towers.pt"), "t5"),
        ("a weight that is missing", spoiled(put("minilm", "weights", LAYER, value=...), "towers.pt"), LAYER),
        (
            "a weight that is NaN",
            spoiled(put("minilm", "weights", LAYER, value=NOT_A_NUMBER), "towers.pt"),
            LAYER,
        ),
    )
]

# ---------------------------------------------------------------------------------------------------------
# a model of open_clip in a folder


def clip_folder(*keys: str, value: Any) -> Make:
    """A sound folder with another value in its configuration."""

    def make(folder: Path) -> Path:
        path = folder / "clip" / "open_clip_config.json"
        write_open_clip(path)
        config = json.loads(path.read_text())
        put(*keys, value=value)(config)
        path.write_text(json.dumps(config))
        return path.parent

    return make


def clip_file(name: str, value: Any) -> Make:
    """A sound folder with one file replaced; by nothing if the value is Ellipsis."""

    def make(folder: Path) -> Path:
        path = folder / "clip" / name
        write_open_clip(path)
        path.unlink()
        if value is not ...:
            content(name, value)(path.parent)
        return path.parent

    return make


def clip_tensors(change: Callable[[dict[str, torch.Tensor]], Any]) -> Make:
    """A sound folder with other weights."""

    def make(folder: Path) -> Path:
        path = folder / "clip" / "open_clip_model.safetensors"
        write_open_clip(path)
        weights = load_file(path)
        change(weights)
        save_file(weights, path)
        return path.parent

    return make


def clip_pickle(folder: Path) -> Path:
    path = clip_file("open_clip_model.safetensors", ...)(folder)
    (path / "open_clip_pytorch_model.bin").write_bytes(pickle.dumps(Call()))
    return path


def clip_script(folder: Path) -> Path:
    path = clip_file("open_clip_model.safetensors", ...)(folder)
    torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), path / "open_clip_pytorch_model.pt")
    return path


def two_weights(folder: Path) -> Path:
    path = clip_file("open_clip_model.safetensors", ...)(folder)
    for name in ("one.pt", "two.pt"):
        (path / name).write_bytes(b"")
    return path


def ask_clip(path: Path) -> list[object]:
    return ["query", "a", "--checkpoint", path, *no_embeddings(path)]


CLIP, CLIP_LAYER = "open_clip_config.json", "transformer.resblocks.0.ln_1.weight"
CLIP_CASES = [
    Case("open_clip", defect, make, ask_clip, named)
    for defect, make, *named in (
        ("a configuration that is cut", clip_file(CLIP, '{"model_cfg"'), CLIP, "line 1"),
        ("a configuration in a list", clip_file(CLIP, [1]), CLIP, "model_cfg"),
        ("no model", clip_folder("model_cfg", value=...), CLIP, "model_cfg"),
        ("no text tower", clip_folder("model_cfg", "text_cfg", value=...), CLIP, "text_cfg"),
        ("a tower that is text", clip_folder("model_cfg", "vision_cfg", value="x"), CLIP, "vision_cfg"),
        ("a width in words", clip_folder("model_cfg", "embed_dim", value="wide"), CLIP, "embed_dim"),
        ("a width of 0", clip_folder("model_cfg", "vision_cfg", "width", value=0), CLIP),
        ("layers without end", clip_folder("model_cfg", "text_cfg", "layers", value=10**30), CLIP, "layers"),
        ("half a head", clip_folder("model_cfg", "text_cfg", "heads", value=0.5), CLIP, "heads"),
        (
            "texts without end",
            clip_folder("model_cfg", "text_cfg", "context_length", value=10**12),
            CLIP,
            "context_length",
        ),
        ("a size that nobody knows", clip_folder("model_cfg", "vision_cfg", "depth", value=3), CLIP, "depth"),
        (
            "images that are no squares",
            clip_folder("model_cfg", "vision_cfg", "image_size", value=[32, 64]),
            CLIP,
            "square",
        ),
        (
            "a text tower from a hub",
            clip_folder("model_cfg", "text_cfg", "hf_model_name", value="a/b"),
            CLIP,
            "a/b",
        ),
        ("a model that writes", clip_folder("model_cfg", "multimodal_cfg", value={}), CLIP, "CoCa"),
        ("preprocessing in a list", clip_folder("preprocess_cfg", value=[1]), CLIP, "preprocess_cfg"),
        ("a deviation of 0", clip_folder("preprocess_cfg", "std", value=[0, 1, 1]), CLIP, "std"),
        ("a mean of words", clip_folder("preprocess_cfg", "mean", value="grey"), CLIP, "mean"),
        ("no tokenizer", clip_file("tokenizer.json", ...), "clip: no tokenizer.json"),
        ("a tokenizer that is text", clip_file("tokenizer.json", "hello"), "tokenizer.json"),
        ("a tokenizer of nothing", clip_file("tokenizer.json", {}), "tokenizer.json"),
        (
            "a tokenizer that does not define [CLS]",
            clip_file("tokenizer.json", tokenizer(*DEFINED, value=...)),
            "tokenizer.json",
            "[CLS]",
        ),
        (
            "a tokenizer of more tokens than rows",
            clip_folder("model_cfg", "text_cfg", "vocab_size", value=3),
            "tokenizer.json",
            "3 tokens",
        ),
        ("no weights", clip_file("open_clip_model.safetensors", ...), "clip", "no weights"),
        ("two files of weights", two_weights, "clip", "one.pt, two.pt"),
        ("weights that are text", clip_file("open_clip_model.safetensors", "hello"), "damaged"),
        ("a pickle that calls", clip_pickle, "open_clip_pytorch_model.bin", "safely"),
        ("a TorchScript archive", clip_script, "open_clip_pytorch_model.pt", "TorchScript"),
        ("a weight that is missing", clip_tensors(put(CLIP_LAYER, value=...)), CLIP_LAYER),
        ("a weight that nobody knows", clip_tensors(put("head.bias", value=torch.ones(1))), "head.bias"),
        ("a weight of another shape", clip_tensors(put(CLIP_LAYER, value=torch.ones(8))), CLIP_LAYER, "(8,)"),
        (
            "a weight that is NaN",
            clip_tensors(put(CLIP_LAYER, value=torch.full((16,), torch.nan))),
            CLIP_LAYER,
            "NaN",
        ),
    )
]


def ask_named(name: str) -> Callable[[Path], list[object]]:
    return lambda path: ["query", "a", "--checkpoint", name, *no_embeddings(path / "best.pt")]


CLIP_CASES += [
    Case("open_clip by name", defect, lambda folder: folder, ask_named(name), named)
    for defect, name, named in (
        ("a name that it does not know", "open_clip:ViT-B-99:none.pt", ("ViT-B-99", "ViT-B-32")),
        ("no such file", "open_clip:ViT-B-32:none.pt", ("none.pt", "no such file")),
        ("no file named", "open_clip:ViT-B-32:", ("open_clip:NAME:FILE",)),
        ("no such folder", "open_clip:none", ("none", "no such folder")),
    )
]
CLIP_CASES += [
    Case(
        "open_clip",
        "a padding that is half a surrogate, and its number beside",
        clip_file("tokenizer_config.json", {"pad_token": "\ud800"}),
        check=lambda path: load_checkpoint(path, captions_only=True),
    )
]
if not find_spec("open_clip"):  # the extra `clip`
    CLIP_CASES = []

CASES = [*BERT_CASES, *TOWERS_CASES, *CLIP_CASES]
