"""Options that contradict each other or are out of range, and data sets that leave nothing to train on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from cases import Case, Make
from readers import WORDS

from swancli.store.catalogue import Catalogue
from swancli.store.dataset import create_dataset
from swancli.vocab.vocabulary import write_vocabulary


def options(command: str, defect: str, given: str, *named: str) -> Case:
    """Options alone: nothing is read before they are refused, or nothing is there."""
    return Case(
        f"options of {command}", defect, lambda folder: folder, lambda path: [command, *given.split()], named
    )


OPTIONS = [
    options("prepare", "no name", "--source x", "--dataset"),
    options("prepare", "a name that is a path", "--dataset a/b --source x", "a/b"),
    options("prepare", "a name that leads out", "--dataset .. --source x", ".."),
    options("prepare", "the name of the shipped checkpoint", "--dataset shipped --source x", "shipped"),
    options("prepare", "no source", "--dataset small", "no source"),
    options("prepare", "drawn splits of the demo", "--dataset demo --split random", "--split random"),
    options("prepare", "a size out of range", "--dataset small --source x --size 0", "--size"),
    options("prepare", "a size in words", "--dataset small --source x --size big", "--size"),
    options("prepare", "an unknown split rule", "--dataset small --source x --split some", "--split"),
    options("prepare", "an unknown format", "--dataset small --source x --format xml", "--format"),
    options(
        "prepare",
        "an unknown way with missing images",
        "--dataset small --source x --missing maybe",
        "--missing",
    ),
    options(
        "prepare",
        "all images for validation",
        "--dataset small --source x --val-fraction 1",
        "--val-fraction",
    ),
    options(
        "prepare", "no image for validation", "--dataset small --source x --val-fraction 0", "--val-fraction"
    ),
    options("prepare", "no worker", "--dataset small --source x --workers 0", "--workers"),
    options("prepare", "views without features", "--dataset small --source x --views 2", "--views"),
    options(
        "prepare",
        "weights that are not there",
        "--dataset small --source x --features --weights none.pth",
        "none.pth",
    ),
    options("prepare", "an option that there is not", "--dataset small --sorce x", "--sorce"),
    options("vocab", "a source and an import", "--source x --import y", "--source and --import"),
    options("vocab", "a source and no place", "--source x", "--dataset"),
    options("vocab", "a least count of zero", "--dataset small --min-count 0", "--min-count"),
    options("vocab", "an unknown stop-word rule", "--dataset small --stop-words some", "--stop-words"),
    options("vocab", "an import that is not there", "--import none.json --output x.h5", "none.json"),
    options("vocab", "no data set", "", "no data set"),
    options("pretrain", "a batch of one", "--batch-size 1", "--batch-size"),
    options("pretrain", "no epoch", "--epochs 0", "--epochs"),
    options("pretrain", "a negative rate", "--lr -1", "--lr"),
    options("train", "no epoch", "--epochs 0", "--epochs"),
    options("train", "a batch of one", "--batch-size 1", "--batch-size"),
    options("train", "a negative rate", "--lr -0.1", "--lr"),
    options("train", "a rate in words", "--lr fast", "--lr"),
    options("train", "a negative margin", "--margin -1", "--margin"),
    options("train", "a negative average", "--average -1", "--average"),
    options("train", "fewer epochs than none for the heads", "--heads-first -1", "--heads-first"),
    options("train", "no caption an image", "--captions-per-image 0", "--captions-per-image"),
    options("train", "images that are too small", "--image-size 16", "--image-size"),
    options("train", "too few dimensions", "--embed-dim 8", "--embed-dim"),
    options("train", "an unknown variant", "--variant best", "--variant"),
    options("train", "weights and a start", "--weights a --init-from b", "--weights and --init-from"),
    options(
        "train",
        "a comparison and a part left out",
        "--compare full --without vmsf",
        "--compare and --without",
    ),
    options("train", "features and folds", "--features --folds 2", "--features and --folds"),
    options("train", "features and compiling", "--features --compile", "--features and --compile"),
    options(
        "train", "folds and an export", "--folds 2 --export-published x", "--export-published and --folds"
    ),
    options("train", "a negative number of folds", "--folds -1", "--folds"),
    options("train", "a start that is not there", "--dataset small --init-from none.pt", "none.pt"),
    options("train", "a run to resume that is not there", "--resume --run none", "none"),
    options("train", "a resumed run with another rate", "--resume --lr 1", "--lr"),
    options("train", "a run whose name is a path", "--dataset small --run a/b", "a/b"),
    options("eval", "a run and a checkpoint", "--run a --checkpoint b", "--run and --checkpoint"),
    options(
        "eval",
        "a checkpoint and embeddings",
        "--checkpoint a --embeddings b",
        "--checkpoint and --embeddings",
    ),
    options("eval", "folds of embeddings", "--folds --embeddings b", "--folds and --embeddings"),
    options("eval", "a vocabulary of embeddings", "--vocab a --embeddings b", "--vocab and --embeddings"),
    options("eval", "JSON and CSV", "--json --csv", "--json and --csv"),
    options("eval", "figures of folds", "--figures x --folds", "--figures and --folds"),
    options(
        "eval", "recall of annotated scenes", "--localization x --ceiling", "--localization and --ceiling"
    ),
    options("eval", "tiles without a scene", "--tile-size 64", "--localization"),
    options("eval", "an unknown rule of ties", "--ties some", "--ties"),
    options("eval", "a least recall in words", "--min-mr good", "--min-mr"),
    options("eval", "folds that are not there", "--folds", "folds"),
    options("embed", "a run and a checkpoint", "--run a --checkpoint b", "--run and --checkpoint"),
    options("embed", "a data set and images", "--dataset a --images b", "--dataset and --images"),
    options("embed", "images and texts", "--images a --texts b", "--images and --texts"),
    options("embed", "texts and an index", "--texts a --index flat", "--texts and --index"),
    options("embed", "a scene and an index", "--scene-image a --index flat", "--scene-image and --index"),
    options("embed", "tiles without a scene", "--tile-size 64", "--scene-image"),
    options("embed", "tiles that are too small", "--scene-image a --tile-size 2", "--tile-size"),
    options("embed", "an unknown index", "--index tree", "--index"),
    options("embed", "embeddings and no index", "--embeddings a", "--index"),
    options("embed", "embeddings and a run", "--embeddings a --run b --index flat", "--embeddings and --run"),
    options("embed", "no image in a batch", "--batch-size 0", "--batch-size"),
    options("embed", "a device that there is not", "--images . --device abacus", "abacus"),
    options("query", "nothing to search for", "", "nothing to search for"),
    options("query", "two ways to ask", "a --image b", "more than one way"),
    options("query", "away from a text, of an image", "--image a --not b", "--not and --image"),
    options("query", "a sheet of captions", "a --captions --sheet b", "--sheet and --captions"),
    options("query", "pictures for nothing", "a --pictures b", "--pictures"),
    options("query", "a threshold in words", "a --threshold high", "--threshold high"),
    options("query", "a threshold of NaN", "a --threshold nan", "--threshold nan"),
    options("query", "a threshold beyond 1", "a --threshold 2", "--threshold 2"),
    options("query", "no result", "a --top-k 0", "--top-k"),
    options("query", "a map without a scene", "a --heatmap b", "--heatmap"),
    options(
        "query", "a split of a scene's places", "a --scene-image b --split test", "--scene-image and --split"
    ),
    options("query", "a match among places", "a --scene-image b --threshold auto", "--threshold auto"),
    options("query", "embeddings that are not there", "a --embeddings none.h5", "none.h5"),
    options("serve", "a port out of range", "--port 99999", "--port"),
    options("serve", "a port in words", "--port http", "--port"),
    options("serve", "embeddings that are not there", "--embeddings none.h5", "none.h5"),
    options("demo", "too few images", "--images 3", "--images"),
    options("demo", "no epoch", "--epochs 0", "--epochs"),
]


# ---------------------------------------------------------------------------------------------------------
# data sets that leave nothing to train, to validate or to divide


def small_root(splits: Sequence[str | None], captions: Sequence[int], scene: str | None = "a") -> Make:
    """A root with a data set of plain images in these splits; captions: the image that each describes."""

    def make(folder: Path) -> Path:
        count = len(splits)
        with create_dataset(folder / "root" / "small" / "dataset.h5", "small", (40, 40)) as writer:
            for row in range(count):
                writer.add(np.full((40, 40, 3), row, np.uint8), f"{row:032x}", 0)
            names, texts = [f"{row}.png" for row in range(count)], ["a river"] * len(captions)
            writer.finish(Catalogue.of(names, [scene] * count, splits, texts, captions))
        write_vocabulary(folder / "root" / "small" / "vocab.h5", WORDS)
        return folder / "root"

    return make


RANDOM = ("--backbone", "resnet18", "--text", "gru")


def train(*more: str) -> Callable[[Path], list[object]]:
    size = ("--image-size", "32", "--embed-dim", "16")
    return lambda path: ["train", "--root", path, "--dataset", "small", *RANDOM, *size, *more]


def pretrain(path: Path) -> list[object]:
    return ["pretrain", "--root", path, "--dataset", "small"]


def features(path: Path) -> list[object]:
    return ["prepare", "--root", path, "--dataset", "small", "--features", *RANDOM, "--image-size", "32"]


def count_words(path: Path) -> list[object]:
    return ["vocab", "--root", path, "--dataset", "small", "--output", path / "words.h5"]


ALL = ["train", "train", "val"]
TRAINING = [
    Case("training", defect, make, arguments, ("dataset.h5", *named))
    for defect, make, arguments, named in (
        ("no training captions", small_root(["val", "val"], [0, 1]), train(), ("train",)),
        ("no validation captions", small_root(["train", "train"], [0, 1]), train(), ("val",)),
        ("no captions at all", small_root(ALL, []), train(), ("train",)),
        ("no splits", small_root([None] * 3, [0, 1, 2]), train(), ("no splits",)),
        ("one training image", small_root(["train", "val"], [0, 0, 1]), train(), ("one training image",)),
    )
]
TRAINING += [
    Case(
        "words to count",
        "no training captions",
        small_root(["val"], [0]),
        count_words,
        ("dataset.h5", "train"),
    ),
    Case("words to count", "no caption", small_root(ALL, []), count_words, ("dataset.h5",)),
    Case("pretraining", "no training image", small_root(["val"], [0]), pretrain, ("dataset.h5", "0 scenes")),
    Case("pretraining", "one scene alone", small_root(ALL, [0, 1, 2]), pretrain, ("dataset.h5", "1 scenes")),
    Case(
        "pretraining",
        "images without a scene",
        small_root(ALL, [0, 1, 2], None),
        pretrain,
        ("dataset.h5", "scenes"),
    ),
    Case(
        "features to make",
        "no validation images",
        small_root(["train"], [0]),
        features,
        ("dataset.h5", "val"),
    ),
    Case(
        "features to make",
        "more than may be",
        small_root(ALL, [0, 1, 2]),
        lambda path: [*features(path), "--max-gb", "0"],
        ("features.h5", "--max-gb"),
    ),
    Case("training", "an odd width", small_root(ALL, [0, 1, 2]), train("--embed-dim", "30"), ("30",)),
    Case(
        "training",
        "a rate for a frozen backbone",
        small_root(ALL, [0, 1, 2]),
        train("--freeze", "--backbone-rate", "1"),
        ("--backbone-rate",),
    ),
    Case("training", "an unknown part left out", small_root(ALL, [0, 1, 2]), train("--without", "x"), ("x",)),
    Case(
        "training",
        "a part within another left out",
        small_root(ALL, [0, 1, 2]),
        train("--without", "sfgs,wsa"),
        ("wsa",),
    ),
    Case(
        "training",
        "an unknown entry to compare",
        small_root(ALL, [0, 1, 2]),
        train("--compare", "full,x"),
        ("x",),
    ),
    Case(
        "training",
        "an entry to compare twice",
        small_root(ALL, [0, 1, 2]),
        train("--compare", "full,full"),
        ("full", "twice"),
    ),
    Case(
        "training",
        "a model that the published code cannot hold",
        small_root(ALL, [0, 1, 2]),
        train("--export-published", "x"),
        ("published",),
    ),
    Case(
        "training",
        "features that are not there",
        small_root(ALL, [0, 1, 2]),
        train("--features"),
        ("features.h5", "no such file"),
    ),
]


TOWERS = [
    Case("towers to train", defect, small_root(ALL, [0, 1, 2]), train(*given.split()), named)
    for defect, given, named in (
        ("an unknown backbone", "--backbone vgg", ("vgg", "resnet18")),
        ("a network that timm does not have", "--backbone timm/resnet19", ("timm/resnet19", "timm/resnet18")),
        ("weights that timm does not know", "--backbone timm/resnet18.none", ("none", "a1_in1k")),
        ("a network without maps", "--backbone timm/vit_tiny_patch16_224", ("stride 4", "16")),
        ("weights that come for another", "--weights imagenet", ("imagenet", "timm/tf_efficientnet_lite0")),
        ("a fifth stage to freeze", "--freeze-stages 5", ("--freeze-stages 5",)),
        ("stages of a frozen backbone", "--freeze --freeze-stages 1", ("--freeze-stages",)),
        ("no folder of that name", "--text none", ("none", "no such folder")),
        ("a text tower of the published code", "--text minilm --variant published", ("--variant published",)),
        ("a vocabulary for word pieces", "--text minilm --vocab vocab.h5", ("--vocab",)),
        ("a seventh layer to freeze", "--text minilm --freeze-text 7", ("--freeze-text 7", "6 layers")),
        ("layers of the GRU to freeze", "--freeze-text 1", ("--freeze-text",)),
        ("a rate for the GRU", "--text-rate 0.1", ("--text-rate",)),
    )
]
TOWERS += [
    Case("towers of features", defect, small_root(ALL, [0, 1, 2]), make, named)
    for defect, make, named in (
        ("an unknown backbone", lambda path: [*features(path), "--backbone", "vgg"], ("vgg",)),
        (
            "no folder of that name",
            lambda path: [*features(path), "--text", "none"],
            ("none", "no such folder"),
        ),
    )
]


def drawn(count: int, rule: str, split: str = "") -> tuple[Make, Callable[[Path], list[object]]]:
    """A table of n images, and the command that draws their splits."""

    def make(folder: Path) -> Path:
        rows = "".join(f"{row}.png,a,{split}\n" for row in range(count))
        (folder / "table.csv").write_text("filename,caption,split\n" + rows)
        return folder / "table.csv"

    return make, lambda path: ["prepare", "--dataset", "small", "--source", path, "--split", rule]


DRAWING = [
    Case("splits to draw", defect, *drawn(count, rule, split), named)
    for defect, count, rule, split, named in (
        ("one image", 1, "random", "", ("1 captioned images",)),
        ("two images", 2, "random", "", ("2 captioned images",)),
        ("one image a scene", 3, "stratified", "", ("--split stratified",)),
        ("test images alone", 5, "random", "test", ("train",)),
        ("images without a split, which is to be given", 5, "given", "", ("0.png", "--split random")),
    )
]

CASES = [*OPTIONS, *TRAINING, *TOWERS, *DRAWING]
