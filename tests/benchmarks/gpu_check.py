"""`python tests/benchmarks --gpu check`: a GPU computes what a CPU does, within what its arithmetic allows.

Each row compares a value of the GPU with that of the CPU. "exact" is single precision without TF32, the short
type that torch lets convolutions use by default.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from gpu import Bench, Row
from gpu_material import checkpoint_of, demo_set, pictures, settings_of, trained_epochs

from swancli.model.checkpoint import Checkpoint, load_checkpoint
from swancli.model.encoder import Encoder
from swancli.model.published import from_published
from swancli.model.swan import Swan
from swancli.store.dataset import Dataset

# The largest distance between two embeddings of length 1.
ALLOWED = {"fp32, exact": 2e-4, "fp32": 2e-2, "bf16": 0.05}
PARITY = 1e-4  # of the largest value, as the reference values' README says
LOSS = {"fp32, exact": 5e-3, "bf16": 0.1}  # relative
RESUMED = 1e-2  # relative: sums on a GPU are added in changing order
TEXTS = ["many planes near a terminal", "a river", "two tennis courts beside a road with some cars on it"] * 3


@contextmanager
def arithmetic(name: str) -> Iterator[str]:
    """The precision for swan of one of `ALLOWED`, with TF32 as torch has it by default, or without it."""
    usual = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = name != "fp32, exact"
    try:
        yield name.split(",")[0]
    finally:
        torch.backends.cudnn.allow_tf32 = usual


def embeddings(bench: Bench) -> Iterator[Row]:
    """Images and captions of each kind of model, on both devices."""
    for kind in ("shipped", "published ResNet and GRU", "ResNet and GRU", "open_clip"):
        checkpoint = checkpoint_of(kind, bench)
        images = pictures(bench.size(48, 4), 224)
        wanted = _encoded(checkpoint, "cpu", "fp32", images)
        for name, allowed in ALLOWED.items():
            with arithmetic(name) as precision:
                found = _encoded(checkpoint, bench.device, precision, images)
            for what, one, other in zip(("images", "captions"), found, wanted, strict=True):
                apart = float(np.linalg.norm(one - other, axis=1).max())
                yield {"what": f"{kind}: {what}, {name}", "value": apart, "limit": allowed}


def _encoded(
    checkpoint: Checkpoint, device: str, precision: str, images: list[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    encoder = Encoder(checkpoint, device, precision)
    return encoder.images(images), encoder.captions(TEXTS)


def training(bench: Bench) -> Iterator[Row]:
    """One epoch on both devices without dropout, which draws other numbers on a GPU: the mean loss."""
    with Dataset(demo_set(bench, "demo", bench.size(500, 56))) as dataset:
        for kind in ("towers that come with swan", "ResNet and GRU"):
            model, tokenizer, settings = settings_of(kind, bench)
            wanted = _loss(bench, dataset, model, tokenizer, settings, "cpu")
            for name, allowed in LOSS.items():
                with arithmetic(name) as precision:
                    recipe = replace(settings, precision=precision)
                    found = _loss(bench, dataset, model, tokenizer, recipe, bench.device)
                apart = abs(found - wanted) / wanted
                yield {"what": f"loss of an epoch, {kind}, {name}", "value": apart, "limit": allowed}


def _loss(bench: Bench, dataset: Dataset, model: Swan, tokenizer: Any, settings: Any, device: str) -> float:
    (report,) = trained_epochs(
        bench, dataset, model, tokenizer, replace(settings, epochs=1), device, dropout=False
    )
    return report.loss


def resuming(bench: Bench) -> Iterator[Row]:
    """The second epoch of a run that was interrupted in it and resumed, beside that of one that was not."""
    with Dataset(demo_set(bench, "resumed", bench.size(500, 56))) as dataset:
        model, tokenizer, settings = settings_of("towers that come with swan", bench)
        settings = replace(settings, epochs=2)
        whole = trained_epochs(bench, dataset, model, tokenizer, settings, bench.device)
        resumed = trained_epochs(bench, dataset, model, tokenizer, settings, bench.device, interrupted=True)
        apart = abs(whole[-1].loss - resumed[-1].loss) / whole[-1].loss
        yield {"what": "resumed: loss of the second epoch", "value": apart, "limit": RESUMED}


def parity(bench: Bench) -> Iterator[Row]:
    """The reference values of the published code."""
    file = bench.parity / "swan_reference.npz"
    if not file.is_file():
        yield {"what": "reference values of the published code", "skipped": "not here"}
        return
    from reference_weights import published_state

    wanted = dict(np.load(file))
    shape, weights = from_published(published_state(bench.parity))
    model = Swan(shape)
    model.load_state_dict({key: weights[key] for key in model.state_dict()})
    model.to(bench.device, memory_format=torch.channels_last).eval()
    image = np.random.RandomState(100).standard_normal((3, 3, 256, 256)).astype(np.float32)
    lengths = torch.tensor(wanted["lengths"])
    with torch.no_grad(), arithmetic("fp32, exact"):
        pixels, tokens = (torch.tensor(each).to(bench.device) for each in (image, wanted["tokens"]))
        words = model.text_tower.read(tokens, lengths)
        captions = model.encode_captions(tokens, lengths)
        found = {
            "image_embedding": model.image_tower(model.backbone(pixels)),
            "caption_features": words,
            "text_embedding": captions,
            "similarity": model.encode_images(pixels) @ captions.T,
        }
    for name, values in found.items():
        apart = np.abs(values.cpu().numpy() - wanted[name]).max() / np.abs(wanted[name]).max()
        yield {"what": f"reference values: {name}", "value": float(apart), "limit": PARITY}


def checkpoints(bench: Bench) -> Iterator[Row]:
    """A checkpoint that training on a GPU wrote: its embeddings on a CPU, and on the GPU."""
    with Dataset(demo_set(bench, "written", bench.size(120, 56))) as dataset:
        model, tokenizer, settings = settings_of("ResNet and GRU", bench)
        settings = replace(settings, epochs=1)
        trained_epochs(bench, dataset, model, tokenizer, settings, bench.device, run="written")
    images = pictures(4, 96)
    best = bench.root / "written" / "runs" / "written" / "best.pt"
    one, other = (_encoded(load_checkpoint(best), device, "fp32", images) for device in ("cpu", bench.device))
    apart = max(float(np.linalg.norm(a - b, axis=1).max()) for a, b in zip(one, other, strict=True))
    yield {
        "what": "a checkpoint written by the GPU, read on the CPU",
        "value": apart,
        "limit": ALLOWED["fp32"],
    }


SECTIONS = {
    "embeddings": embeddings,
    "reference values": parity,
    "training": training,
    "resuming": resuming,
    "checkpoints": checkpoints,
}
