"""Bad checkpoints, weights, configurations of runs, and groups of them."""

from __future__ import annotations

import json
import pickle
from argparse import Namespace
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from cases import Case, Make, content, refuses
from readers import CONFIG, GROUP, READERS, word_pieces, write_checkpoint
from safetensors.torch import save_file

from swancli.model.backbone import Backbone
from swancli.model.checkpoint import load_checkpoint


def spoiled(change: Callable[[dict[str, Any]], Any], reader: str = "checkpoint") -> Make:
    """A sound torch file of a reader, changed; by default a checkpoint of the text side."""

    def make(folder: Path) -> Path:
        path = folder / READERS[reader].file
        READERS[reader].write(path)
        whole = torch.load(path, weights_only=True)
        torch.save(change(whole) or whole, path)
        return path

    return make


def put(*keys: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """Puts a value at a place of nested dictionaries; Ellipsis takes it out."""

    def change(inner: dict[str, Any]) -> None:
        for key in keys[:-1]:
            inner = inner[key]
        if value is ...:
            del inner[keys[-1]]
        else:
            inner[keys[-1]] = value

    return change


def cut(share: float) -> Make:
    def make(folder: Path) -> Path:
        path = folder / "best.pt"
        write_checkpoint(path)
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
        return path

    return make


def saved(whole: Any) -> Make:
    def make(folder: Path) -> Path:
        torch.save(whole, folder / "best.pt")
        return folder / "best.pt"

    return make


def ask_with(path: Path) -> list[object]:
    READERS["embeddings.h5"].write(path.parent / "embeddings.h5")
    return ["query", "a", "--checkpoint", path, "--embeddings", path.parent / "embeddings.h5"]


TABLE, GATE = "text_tower.word_vectors.weight", "text_tower.gru.weight_hh_l0"
BY_COMMAND = {
    "no bytes": (content("best.pt", b""), ()),
    "text": (content("best.pt", b"hello"), ()),
    "cut in the middle": (cut(0.5), ()),
    "without its end": (cut(0.99), ()),
    "a zip archive of something else": (content("best.pt", b"PK\x05\x06" + bytes(18)), ()),
    "a list": (saved([1, 2]), ("not a swan checkpoint",)),
    "a tensor": (saved(torch.zeros(2)), ("not a swan checkpoint",)),
    "a function in it": (saved({"format": "swan-checkpoint", "model": print}), ("safely",)),
    "options of a script in it": (saved({"format": "swan-checkpoint", "args": Namespace(a=1)}), ("safely",)),
    "no format": (spoiled(put("format", value=...)), ("not a swan checkpoint",)),
    "of a later version": (spoiled(put("version", value=3)), ("version 3",)),
    "no settings": (spoiled(put("settings", value=...)), ("settings",)),
    "settings in a list": (spoiled(put("settings", value=[1])), ("damaged",)),
    "a setting that nobody knows": (spoiled(put("settings", "depth", value=3)), ("depth",)),
    "an unknown backbone": (spoiled(put("settings", "backbone", value="vgg")), ("vgg",)),
    "an unknown variant": (spoiled(put("settings", "variant", value="other")), ("other",)),
    "an unknown part left out": (spoiled(put("settings", "without", value=("x",))), ("x",)),
    "parts left out that are no list": (spoiled(put("settings", "without", value=3)), ("damaged",)),
    "a width that is no multiple of its heads": (spoiled(put("settings", "embed_dim", value=30)), ("30",)),
    "a negative width": (spoiled(put("settings", "embed_dim", value=-16)), ("embed_dim",)),
    "a width in words": (spoiled(put("settings", "embed_dim", value="wide")), ("embed_dim",)),
    "a size of zero": (spoiled(put("settings", "image_size", value=0)), ("image_size",)),
    "words that would take terabytes": (
        spoiled(put("settings", "words", value=10**12)),
        ("word_vectors", "1000000000001"),
    ),
    "a negative number of words": (spoiled(put("settings", "words", value=-1)), ("words",)),
}
TEXT_ONLY = {
    "no vocabulary": (put("vocabulary", value=...), ("vocabulary",)),
    "a vocabulary that is text": (put("vocabulary", value="river"), ("damaged",)),
    "no words in its vocabulary": (put("vocabulary", "words", value=...), ("words",)),
    "words that are text": (put("vocabulary", "words", value="abcd"), ("lists",)),
    "words that are numbers": (put("vocabulary", "words", value=[1, 2, 3, "<unk>"]), ("1 is not a word",)),
    "a word twice": (put("vocabulary", "words", value=["a", "a", "b", "<unk>"]), ("twice",)),
    "fewer counts than words": (put("vocabulary", "counts", value=[1]), ("counts",)),
    "more words than word vectors": (
        put(
            "vocabulary",
            value={
                "words": [*"abcdef", "<unk>"],
                "counts": [1] * 7,
                "min_count": 1,
                "stop_words": "keep",
                "dataset": "",
            },
        ),
        ("7 words",),
    ),
    "no weights": (put("model", value=...), ("model",)),
    "weights in a list": (put("model", value=[torch.zeros(1)]), ("damaged",)),
    "a weight that is missing": (put("model", GATE, value=...), (GATE,)),
    "a weight that nobody knows": (
        put("model", "text_tower.more", value=torch.zeros(1)),
        ("text_tower.more",),
    ),
    "a weight of another shape": (put("model", GATE, value=torch.zeros(2, 2)), (GATE,)),
    "a weight that is a number": (put("model", GATE, value=3), ("tensors",)),
    "a weight that is NaN": (
        put("model", TABLE, value=torch.full((5, 300), torch.nan)),
        (TABLE, "NaN or infinity"),
    ),
    "a weight that is infinite": (
        put("model", TABLE, value=torch.full((5, 300), torch.inf)),
        (TABLE, "NaN or infinity"),
    ),
    "no origin": (put("origin", value=...), ("origin",)),
    "an origin that is text": (put("origin", value="small"), ("damaged",)),
    "an origin without a data set": (put("origin", value={"run": "first"}), ("dataset",)),
    "a data set that is a number": (put("origin", "dataset", value=3), ("origin",)),
    "training that is a list": (put("training", value=[1]), ("training",)),
}
CHECKPOINT_CASES = [
    Case("checkpoint", defect, make, ask_with, ("best.pt", *named))
    for defect, (make, named) in BY_COMMAND.items()
]
CHECKPOINT_CASES += [
    Case(
        "checkpoint",
        defect,
        spoiled(change),
        check=refuses(lambda path: load_checkpoint(path, captions_only=True), "best.pt", *named),
    )
    for defect, (change, named) in TEXT_ONLY.items()
]


def pieces_with(*more: str) -> str:
    """A `tokenizer.json` with more pieces."""
    layout = json.loads(word_pieces())
    layout["model"]["vocab"] |= {piece: 9 + place for place, piece in enumerate(more)}
    return json.dumps(layout)


NORM, PLACES = "text_tower.bert.norm.weight", "text_tower.bert.positions.weight"
CHECKPOINT_CASES += [
    Case(
        "checkpoint, text transformer",
        defect,
        spoiled(change, "checkpoint, text transformer"),
        check=refuses(lambda path: load_checkpoint(path, captions_only=True), "best.pt", *named),
    )
    for defect, change, *named in (
        ("a shape that is text", put("settings", "bert", value="base"), "damaged"),
        ("a shape without a width", put("settings", "bert", "width", value=...), "width"),
        ("a size that nobody knows", put("settings", "bert", "depth", value=3), "depth"),
        ("layers in words", put("settings", "bert", "layers", value="two"), "layers"),
        ("layers without end", put("settings", "bert", "layers", value=10**30), "layers"),
        ("positions that would take terabytes", put("settings", "bert", "positions", value=10**12), PLACES),
        ("inner sizes that would take terabytes", put("settings", "bert", "inner", value=10**12), "linear1"),
        ("a width that is no multiple of its heads", put("settings", "bert", "heads", value=3), "3 heads"),
        ("more frozen layers than layers", put("settings", "freeze_text", value=3), "2 layers"),
        ("no shape, and weights of a transformer", put("settings", "bert", value=None), "words"),
        ("a weight that is missing", put("model", NORM, value=...), NORM),
        ("a weight that nobody knows", put("model", NORM + "s", value=torch.ones(1)), NORM + "s"),
        ("a weight of another shape", put("model", NORM, value=torch.ones(15)), NORM, "15"),
        ("a sparse weight", put("model", NORM, value=torch.ones(16).to_sparse()), "tensors"),
        ("a weight that is NaN", put("model", NORM, value=torch.full((16,), torch.nan)), NORM, "NaN"),
        ("no word pieces", put("vocabulary", value={}), "pieces"),
        ("word pieces that are a number", put("vocabulary", "pieces", value=3), "not text"),
        ("word pieces that are no tokenizer", put("vocabulary", "pieces", value="{}"), "not a tokenizer"),
        (
            "more pieces than rows for them",
            put("vocabulary", "pieces", value=pieces_with("sea", "sand")),
            "11 words",
        ),
        (
            "words of a GRU",
            put(
                "vocabulary", value={"words": ["<unk>"], "counts": [1], "min_count": 1, "stop_words": "keep"}
            ),
            "pieces",
        ),
    )
]


def published(**changes: Any) -> Make:
    model = {
        "image_encoder.resnet.conv1.weight": torch.zeros(1),
        "text_encoder.embed.weight": torch.zeros(3, 300),
        "agg.fc_2.weight": torch.zeros(16, 16),
    }
    return saved({"epoch": 1, "model": {k: v for k, v in (model | changes).items() if v is not ...}})


def with_words(path: Path) -> list[object]:
    READERS["vocab.json"].write(path.parent / "vocab.json")
    return ["query", "a", "--checkpoint", path, "--vocab", path.parent / "vocab.json", *no_embeddings(path)]


def no_embeddings(path: Path) -> list[object]:
    READERS["embeddings.h5"].write(path.parent / "embeddings.h5")
    return ["--embeddings", path.parent / "embeddings.h5"]


PUBLISHED_CASES = [
    Case(
        "published checkpoint",
        "no vocabulary beside it",
        published(),
        lambda path: ["query", "a", "--checkpoint", path, *no_embeddings(path)],
        ("best.pt", "--vocab"),
    ),
    *(
        Case("published checkpoint", defect, make, with_words, named)
        for defect, make, named in (
            (
                "no word vectors",
                published(**{"text_encoder.embed.weight": ...}),
                ("best.pt", "text_encoder.embed.weight"),
            ),
            ("no last layer", published(**{"agg.fc_2.weight": ...}), ("best.pt", "agg.fc_2.weight")),
            ("a weight that is text", published(**{"agg.fc_1.weight": "a"}), ("best.pt", "agg.fc_1.weight")),
            ("weights that lack most of it", published(), ("best.pt",)),
            (
                "word vectors that are one number",
                published(**{"text_encoder.embed.weight": torch.tensor(1)}),
                ("best.pt",),
            ),
        )
    ),
]


# ---------------------------------------------------------------------------------------------------------
# weights of a backbone


def weights_file(whole: Any) -> Make:
    def make(folder: Path) -> Path:
        torch.save(whole, folder / "weights.pth")
        return folder / "weights.pth"

    return make


SPARSE = torch.zeros(2, 2).to_sparse()


@cache
def resnet() -> Backbone:
    """One for all, since none of the files may change it."""
    return Backbone("resnet18", frozen=True)


def nan_weights(folder: Path) -> Path:
    weights = resnet().network.state_dict()
    return weights_file(weights | {"bn1.weight": torch.full((64,), torch.nan)})(folder)


def load_weights(path: Path) -> None:
    resnet().load_weights(path)


WEIGHTS_CASES = [
    Case("weights", defect, make, check=refuses(load_weights, "weights.pth", *named))
    for defect, make, named in (
        ("not there", lambda folder: folder / "weights.pth", ("no such file",)),
        ("text", content("weights.pth", b"hello"), ("safely",)),
        ("a list", weights_file([1]), ("state dict",)),
        ("numbers in place of tensors", weights_file({"conv1.weight": 3}), ("state dict",)),
        ("a sparse tensor", weights_file({"conv1.weight": SPARSE}), ("state dict",)),
        ("an empty state dict", weights_file({}), ("state dict",)),
        (
            "of another network",
            weights_file({"features.0.weight": torch.zeros(1)}),
            ("resnet18", "conv1.weight"),
        ),
        ("a model, pickled whole", weights_file(torch.nn.Linear(1, 1)), ("weights.pth",)),
        ("a weight that is NaN", nan_weights, ("bn1.weight", "NaN or infinity")),
    )
]


def tensors_file(change: Callable[[dict[str, torch.Tensor]], Any]) -> Make:
    """The weights of a ResNet-18 as safetensors, changed."""

    def make(folder: Path) -> Path:
        weights = {key: value.contiguous() for key, value in resnet().network.state_dict().items()}
        save_file(change(weights) or weights, folder / "weights.safetensors")
        return folder / "weights.safetensors"

    return make


class Call:
    """Prints when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("called",)


HEAD = (10**12).to_bytes(8, "little")
WEIGHTS_CASES += [
    Case("weights, safetensors", defect, make, check=refuses(load_weights, "weights.safetensors", *named))
    for defect, make, *named in (
        ("not there", lambda folder: folder / "weights.safetensors", "no such file"),
        ("no bytes", content("weights.safetensors", b""), "damaged"),
        ("text", content("weights.safetensors", b"hello, world"), "damaged"),
        ("a head that claims a terabyte", content("weights.safetensors", HEAD + b"{}"), "damaged"),
        ("a pickle that calls", content("weights.safetensors", pickle.dumps(Call())), "damaged"),
        ("no weights", tensors_file(lambda weights: {"x": torch.ones(1)}), "resnet18", "conv1.weight"),
        (
            "a weight that is missing",
            tensors_file(put("layer1.0.bn1.weight", value=...)),
            "layer1.0.bn1.weight",
        ),
        (
            "a weight that nobody knows",
            tensors_file(put("layer9.weight", value=torch.ones(1))),
            "layer9.weight",
        ),
        (
            "a weight of another shape",
            tensors_file(put("bn1.weight", value=torch.ones(32))),
            "bn1.weight",
            "(32,) instead of (64,)",
        ),
        (
            "a weight that is infinite",
            tensors_file(put("bn1.weight", value=torch.full((64,), torch.inf))),
            "bn1.weight",
            "NaN or infinity",
        ),
    )
]

# ---------------------------------------------------------------------------------------------------------
# config.json of a run, and group.json


def run_with(config: Any) -> Make:
    """A run's folder with a configuration; the root is to be given."""

    def make(folder: Path) -> Path:
        run = folder / "place" / "small" / "runs" / "first"
        content("config.json", config)(run)
        return folder / "place"

    return make


def resume(path: Path) -> list[object]:
    return ["train", "--resume", "--root", path, "--run", "first"]


def config(*keys: str, value: Any) -> dict[str, Any]:
    copy = json.loads(json.dumps(CONFIG))
    put(*keys, value=value)(copy)
    return copy


CONFIGS = {
    "no bytes": (b"", "line 1"),
    "cut in the middle": (json.dumps(CONFIG)[:90], "line 1"),
    "UTF-16": (json.dumps(CONFIG).encode("utf-16"), "UTF-8"),
    "nested too deeply": ("[" * 200_000, "nested"),
    "a list": ([CONFIG], "config.json"),
    "null": (None, "config.json"),
    "no maker": (config("created_by", value=...), "created_by"),
    "no data set": (config("dataset", value=...), "dataset"),
    "a data set that is a number": (config("dataset", value=3), "dataset"),
    "no training": (config("training", value=...), "training"),
    "training in a list": (config("training", value=[]), "config.json"),
    "a setting that nobody knows": (config("depth", value=3), "depth"),
    "a setting of training that nobody knows": (config("training", "speed", value=3), "speed"),
    "epochs in words": (config("training", "epochs", value="many"), "epochs"),
    "no epoch": (config("training", "epochs", value=0), "epochs"),
    "half an epoch": (config("training", "epochs", value=0.5), "epochs"),
    "a batch of one": (config("training", "batch_size", value=1), "batch_size"),
    "a rate of NaN": (config("training", "lr", value=float("nan")), "lr"),
    "a rate in words": (config("training", "lr", value="fast"), "lr"),
    "an unknown schedule": (config("training", "schedule", value="linear"), "linear"),
    "an unknown loss": (config("training", "loss", value="mean"), "mean"),
    "an unknown augmentation": (config("training", "augmentation", value="all"), "all"),
    "an unknown precision": (config("training", "precision", value="fp8"), "fp8"),
    "an unknown backbone": (config("backbone", value="vgg"), "vgg"),
    "a text tower that is a number": (config("text", value=3), "text"),
    "five frozen stages": (config("freeze_stages", value=5), "freeze-stages 5"),
    "frozen layers in words": (config("freeze_text", value="all"), "freeze_text"),
    "a rate of the text tower in words": (config("training", "text_rate", value="slow"), "text_rate"),
    "an unknown variant": (config("variant", value="other"), "other"),
    "an unknown part left out": (config("without", value=["x"]), "x"),
    "a width that is no multiple of its heads": (config("embed_dim", value=30), "30"),
    "frozen in words": (config("frozen", value="yes"), "frozen"),
    "a fold without a number": (config("fold", value={"of": 2, "rule": "random", "seed": 0}), "number"),
    "a fold that is a number": (config("fold", value=3), "config.json"),
}
CONFIG_CASES = [
    Case("config.json", defect, run_with(value), resume, ("config.json", named))
    for defect, (value, named) in CONFIGS.items()
]


def group_with(group: Any) -> Make:
    def make(folder: Path) -> Path:
        content("group.json", group)(folder / "place" / "small" / "runs" / "first")
        return folder / "place"

    return make


def member(*keys: str, value: Any) -> dict[str, Any]:
    copy = json.loads(json.dumps(GROUP))
    put(*keys, value=value)(copy["members"][1])
    return copy


GROUP_CASES = [
    Case("group.json", defect, group_with(value), resume, ("group.json", *named))
    for defect, value, named in (
        ("no bytes", b"", ("line 1",)),
        ("cut in the middle", json.dumps(GROUP)[:90], ("line 1",)),
        ("nested too deeply", "[" * 200_000, ("nested",)),
        ("a list", [GROUP], ()),
        ("no members", {}, ("members",)),
        ("members that are text", {"members": "first"}, ("members",)),
        ("no member", {"members": []}, ("members",)),
        ("a member that is text", {"members": ["first"]}, ()),
        ("a member without a run", member("run", value=...), ("run",)),
        ("a run whose name leads out", member("run", value="../up"), ("../up",)),
        ("a run that is a number", member("run", value=3), ()),
        ("a member without a label", member("label", value=...), ("label",)),
        ("a fold in words", member("fold", value="one"), ("members[1].fold",)),
        ("a configuration that is text", member("config", value="x"), ("members[1].config",)),
        ("a configuration without training", member("config", "training", value=...), ("training",)),
        ("a configuration of an unknown backbone", member("config", "backbone", value="vgg"), ("vgg",)),
    )
]

CASES = [
    *CHECKPOINT_CASES,
    *PUBLISHED_CASES,
    *WEIGHTS_CASES,
    *CONFIG_CASES,
    *GROUP_CASES,
]
