"""`python tests/benchmarks --gpu speed`: rates of `embed` and `train` on a GPU, each beside its ceiling.

The ceiling of a rate is the same towers in a bare loop on tensors that are on the GPU already; theirs is the
rate of a large matrix product, for the products that they need. Pictures are made on the spot: how they look
does not change what they cost.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from gpu import Bench, Row
from gpu_material import checkpoint_of, pictures, trained_epochs
from measure import operations
from PIL import Image

from swancli.images import decode_image
from swancli.machine.device import autocast, image_batch, pinned, reading_threads
from swancli.machine.threads import in_order, read_ahead
from swancli.model.checkpoint import Checkpoint
from swancli.model.encoder import Encoder
from swancli.model.inputs import pad_tokens, stack_images
from swancli.model.settings import ModelSettings
from swancli.model.start import new_model
from swancli.model.swan import Swan
from swancli.store.catalogue import Catalogue
from swancli.store.dataset import Dataset, create_dataset
from swancli.train.batches import Batch, read_images
from swancli.train.config import FROM_TRAINED_WEIGHTS, TrainSettings
from swancli.train.distributed import PairEncoder
from swancli.train.features import Features, FeatureSettings, Towers, write_features
from swancli.train.loop import make_optimizer
from swancli.train.losses import contrastive_loss
from swancli.workspace import WITH_SWAN, Workspace

TRAINING, VALIDATION = 3435, 856  # images of RSITMD's fixed split, five captions each
EPOCHS = 3  # the first one, which warms up, is left out
ROUNDS = 10  # batches in a bare loop
TARGETS = {"shipped": 20_000, "ResNet and GRU": 5_000}  # images/s of `embed` from ready tensors, on an H100
EPOCH_TARGET = 6.0  # seconds, on an H100
NAMES = {"shipped": "shipped checkpoint", "ResNet and GRU": "ResNet-50, 256 px"}


def ceilings(bench: Bench) -> Iterator[Row]:
    """What the GPU itself does: products, memory, and copies from pinned memory of the host."""
    for name in ("bf16", "fp32, TF32", "fp32"):
        yield {
            "what": f"matrix product, {name}",
            "unit": "TFLOP/s",
            "value": product_rate(bench, name) / 1e12,
        }
    values = torch.ones(bench.size(2**30, 2**22), dtype=torch.uint8, device=bench.device)
    copy = torch.empty_like(values)
    seconds = fastest(bench, lambda: copy.copy_(values))
    yield {"what": "memory, read and written", "unit": "GB/s", "value": 2 * len(values) / seconds / 1e9}
    host = pinned(torch.ones(bench.size(2**28, 2**22), dtype=torch.uint8), torch.device(bench.device))
    seconds = fastest(bench, lambda: values[: len(host)].copy_(host, non_blocking=True))
    yield {"what": "copy from pinned memory", "unit": "GB/s", "value": len(host) / seconds / 1e9}


def product_rate(bench: Bench, name: str) -> float:
    """Operations per second of a large matrix product."""
    side, kind = bench.size(8192, 512), torch.bfloat16 if name == "bf16" else torch.float32
    left, right, product = (torch.randn(side, side, device=bench.device, dtype=kind) for _ in range(3))
    usual = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = "TF32" in name
    try:
        return 2 * side**3 / fastest(bench, lambda: torch.mm(left, right, out=product))
    finally:
        torch.backends.cuda.matmul.allow_tf32 = usual


def seconds_of(bench: Bench, action: Callable[[], object]) -> float:
    """Seconds that an action takes, until the device is done."""
    bench.wait()
    begun = perf_counter()
    action()
    bench.wait()
    return perf_counter() - begun


def fastest(bench: Bench, action: Callable[[], object]) -> float:
    """The median of five runs, after two that warm up."""
    for _ in range(2):
        seconds_of(bench, action)
    return statistics.median(seconds_of(bench, action) for _ in range(5))


# ---------------------------------------------------------------------------------------------------------
# embed


def embed_shipped(bench: Bench) -> Iterator[Row]:
    """The checkpoint that comes with swan."""
    yield from _embed("shipped", bench)


def embed_resnet(bench: Bench) -> Iterator[Row]:
    """ResNet-50 at 256 px with the heads of the paper."""
    yield from _embed("ResNet and GRU", bench)


def _embed(kind: str, bench: Bench) -> Iterator[Row]:
    """From tensors on the GPU, from tensors of the host, from arrays, and from JPEG files."""
    checkpoint, name = checkpoint_of(kind, bench), NAMES[kind]
    peak = product_rate(bench, "bf16")
    size = checkpoint.model.settings.image_size
    with torch.inference_mode():
        each = operations(lambda: checkpoint.model.encode_images(torch.zeros(1, 3, size, size)))
    of_product = {"ceiling": peak / each, "of": "the matrix product"}
    for precision in ("fp32", "bf16"):
        bare = bare_rate(bench, checkpoint, precision)
        product = of_product if precision == "bf16" else {}
        yield _rate(f"{name}: bare towers, {precision}", bare, **product)
        ready = tensor_rate(bench, Encoder(checkpoint, bench.device, precision))
        target = {"target": TARGETS[kind]} if precision == "bf16" else {}
        yield _rate(f"{name}: ready tensors, {precision}", ready, ceiling=bare, of="bare towers", **target)
    encoder = Encoder(checkpoint, bench.device, "bf16")
    arrays = pictures(bench.size(8192, 24), size, seed=1)
    encoder.images(arrays[: encoder.batch_size])
    seconds = seconds_of(bench, lambda: encoder.images(arrays))
    yield _rate(f"{name}: arrays in memory", len(arrays) / seconds, ceiling=bare, of="bare towers")
    files = jpeg_files(bench, bench.size(4096, 24))
    threads = reading_threads(torch.device(bench.device))

    def decode() -> None:
        for _ in in_order(lambda file: decode_image(file.read_bytes(), str(file)), files, threads):
            pass

    decoding = len(files) / seconds_of(bench, decode)
    if kind == "shipped":
        yield _rate(f"decoding JPEG of 256 px, {threads} threads", decoding)
    seconds = seconds_of(bench, lambda: encoder.images(files))
    yield _rate(
        f"{name}: JPEG files", len(files) / seconds, ceiling=min(decoding, bare), of="decoding or towers"
    )


def _rate(what: str, value: float, **more: object) -> Row:
    return {"what": what, "unit": "images/s", "value": value, **more}


def bare_rate(bench: Bench, checkpoint: Checkpoint, precision: str) -> float:
    """Images per second of the image tower, for normalised images on the device."""
    device, settings = torch.device(bench.device), checkpoint.model.settings
    model = checkpoint.model.to(device, memory_format=torch.channels_last).eval()
    batch = bench.size(image_batch(device), 4)
    pixels = torch.randn(batch, 3, settings.image_size, settings.image_size, device=device)
    pixels = pixels.contiguous(memory_format=torch.channels_last)

    def encode() -> None:
        with torch.inference_mode(), autocast(device, precision):
            for _ in range(bench.size(ROUNDS, 1)):
                model.encode_images(pixels)

    return bench.size(ROUNDS, 1) * batch / fastest(bench, encode)


def tensor_rate(bench: Bench, encoder: Encoder) -> float:
    """Images per second of the encoder, from pinned batches to embeddings on the host."""
    size, batch = encoder.checkpoint.model.settings.image_size, bench.size(encoder.batch_size, 4)
    each = [
        pinned(stack_images(pictures(batch, size, seed)), encoder.device) for seed in range(bench.size(8, 1))
    ]
    rounds = bench.size(80, 1)

    def encode() -> None:
        encoder._gathered([encoder._encode(each[number % len(each)]) for number in range(rounds)])

    return rounds * batch / fastest(bench, encode)


def jpeg_files(bench: Bench, count: int) -> list[Path]:
    """Files of 256 x 256 pixels, quality 90."""
    folder = bench.root / "jpeg"
    folder.mkdir(exist_ok=True)
    files = [folder / f"{number}.jpg" for number in range(count)]
    if not files[-1].exists():
        for file, pixels in zip(files, pictures(count, 256, seed=2), strict=True):
            Image.fromarray(pixels).save(file, quality=90)
    return files


# ---------------------------------------------------------------------------------------------------------
# train


def train_default(bench: Bench) -> Iterator[Row]:
    """Epochs of RSITMD's size with the default recipe: the last stages of the backbone are trained too."""
    model, tokenizer, _ = new_model(_default_shape(bench), 0, WITH_SWAN, "minilm", None, None, None)
    with Dataset(rsitmd_like(bench)) as dataset:
        yield from _epochs(bench, dataset, model, tokenizer, "default recipe", {"target": EPOCH_TARGET})


def train_features(bench: Bench) -> Iterator[Row]:
    """The same on features of frozen towers."""
    size = _default_shape(bench).image_size
    path = bench.root / "features.h5"
    with Dataset(rsitmd_like(bench)) as dataset:
        towers = Towers(
            FeatureSettings("timm/tf_efficientnet_lite0", WITH_SWAN, size, "overhead", "minilm", views=1)
        )
        device = torch.device(bench.device)
        seconds = seconds_of(bench, lambda: write_features(dataset, towers, path, device, lambda *_: None))
        yield {"what": "writing features, one view", "unit": "s", "value": seconds}
        shape = replace(_default_shape(bench), frozen=True, freeze_stages=0)
        model, tokenizer, _ = new_model(shape, 0, WITH_SWAN, "minilm", None, None, None)
        with Features(path) as features:
            yield from _epochs(bench, dataset, model, tokenizer, "features", {}, features)


def _default_shape(bench: Bench) -> ModelSettings:
    return ModelSettings(
        0, "timm/tf_efficientnet_lite0", bench.size(192, 64), bench.size(512, 64), freeze_stages=2
    )


def _epochs(
    bench: Bench,
    dataset: Dataset,
    model: Swan,
    tokenizer: object,
    name: str,
    target: dict[str, float],
    features: Features | None = None,
) -> Iterator[Row]:
    """Seconds of an epoch with its validation; beside them the bare loop, validation, and reading."""
    usual = {key: value for key, value in FROM_TRAINED_WEIGHTS.items() if key != "freeze_stages"}
    usual |= {"batch_size": bench.size(2000, 20), "precision": "bf16" if not bench.tiny else "fp32"}
    settings = TrainSettings(**{**usual, "epochs": bench.size(EPOCHS, 2)})
    pairs = 5 * len(dataset.rows_of("train"))
    reports = trained_epochs(bench, dataset, model, tokenizer, settings, bench.device, features=features)[1:]
    epoch = statistics.median(report.seconds for report in reports)
    steps = statistics.median(pairs / report.pairs_per_second for report in reports)
    bare = pairs * bare_step(bench, model, settings, bool(features)) / settings.batch_size
    yield {
        "what": f"{name}: an epoch with validation, {pairs:,} pairs",
        "unit": "s",
        "value": epoch,
        "ceiling": bare,
        "of": "the bare loop",
        **target,
    }
    yield {"what": f"{name}: its steps", "unit": "s", "value": steps, "ceiling": bare, "of": "the bare loop"}
    yield {"what": f"{name}: validation and checkpoints", "unit": "s", "value": epoch - steps}
    if not features:
        seconds = seconds_of(bench, lambda: _read_all(bench, dataset, model, settings))
        yield {"what": f"{name}: reading its images, nothing else", "unit": "s", "value": seconds}


def bare_step(bench: Bench, model: Swan, settings: TrainSettings, from_features: bool) -> float:
    """Seconds of a step of the same towers, on one batch that is on the device."""
    device, size = torch.device(bench.device), model.settings.image_size
    model.to(device, memory_format=torch.channels_last)
    captions, images = settings.batch_size, settings.batch_size // settings.captions_per_image
    encoder, optimizer = PairEncoder(model).train(), make_optimizer(model, settings)
    pixels = stack_images(pictures(images, size)).to(device)
    texts = [list(range(5, 5 + 8 + number % 9)) for number in range(captions)]  # about 14 word pieces
    tokens, lengths = pad_tokens(texts)
    with torch.no_grad(), autocast(device, settings.precision):  # frozen: computed once, as `train` does
        words = model.text_tower.read(tokens.to(device), lengths).half()
        maps = model.backbone(model.settings.preprocessing.normalise(pixels)) if from_features else None
    maps = maps and {depth: values.half() for depth, values in maps.items()}
    positive = (
        torch.arange(images).repeat_interleave(settings.captions_per_image) == torch.arange(images)[:, None]
    )
    shares = [images], [captions]
    batch = Batch(pixels, None, maps, words, lengths, positive, ~positive, np.arange(images), *shares)

    def step() -> None:
        with autocast(device, settings.precision):
            one, other = encoder(batch)
        loss = contrastive_loss(one @ other.T, positive, ~positive)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    seconds = fastest(bench, step)
    model.to("cpu")
    return seconds


def _read_all(bench: Bench, dataset: Dataset, model: Swan, settings: TrainSettings) -> None:
    """Reads and pins all training images in batches, as training does."""
    device, preprocessing = torch.device(bench.device), model.settings.preprocessing
    rows, size = dataset.rows_of("train"), settings.batch_size // settings.captions_per_image
    side = round(preprocessing.size * 278 / 256)
    batches = (
        pinned(read_images(dataset, rows[start : start + size], preprocessing, side, device), device)
        for start in range(0, len(rows), size)
    )
    for _ in read_ahead(batches):
        pass


def rsitmd_like(bench: Bench) -> Path:
    """The path of a data set of RSITMD's size, made once."""
    path = Workspace(bench.root).dataset("rsitmd")
    if path.exists():
        return path
    training, validation = bench.size(TRAINING, 8), bench.size(VALIDATION, 4)
    count, rng = training + validation, np.random.default_rng(0)
    words = "many some two planes boats trees houses near beside a the road river field green large".split()
    texts = [" ".join(rng.choice(words, 12)) for _ in range(5 * count)]
    with create_dataset(path, "rsitmd", (256, 256)) as writer:
        for number, pixels in enumerate(pictures(count, 256)):
            writer.add(pixels, f"{number:032x}", number)
        splits = ["train"] * training + ["val"] * validation
        names = [f"{number}.png" for number in range(count)]
        writer.finish(Catalogue.of(names, [None] * count, splits, texts, np.repeat(range(count), 5)))
    return path


SECTIONS = {
    "ceilings": ceilings,
    "embed, shipped checkpoint": embed_shipped,
    "train, default recipe": train_default,
    "embed, ResNet-50": embed_resnet,
    "train, features": train_features,
}
