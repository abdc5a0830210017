"""The measurements on a GPU: embedding a prepared store, and epochs of RSITMD's size (17,175 pairs).

Pictures are noise, made on the spot: how they look does not change what they cost. The floor is the
rate of a large bfloat16 product. An epoch is trained and validated.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from material import Material
from measure import multiplication_rate, repeated, swan, timed
from sections import image_operations, row, step_operations

from swancli.machine.device import autocast, image_batch, pinned
from swancli.machine.threads import read_ahead
from swancli.model.checkpoint import save_checkpoint
from swancli.model.inputs import stack_images
from swancli.model.settings import ModelSettings
from swancli.model.swan import Swan
from swancli.store.catalogue import Catalogue
from swancli.store.dataset import Dataset, create_dataset
from swancli.vocab.vocabulary import count_words, write_vocabulary
from swancli.workspace import Workspace

TRAINING, VALIDATION = 3435, 856  # images of RSITMD's fixed split, five captions each
EPOCHS = 6  # the first one, which warms up, is left out


def on_gpu(material: Material) -> Iterator[dict[str, Any]]:
    """Rows of the table; ends the benchmark where there is no GPU."""
    if not torch.cuda.is_available():
        raise SystemExit("no CUDA GPU here")
    device, root = torch.device("cuda"), material.root
    model, checkpoint = _noise(root)
    ceiling = multiplication_rate("cuda", torch.bfloat16)
    cost = image_operations(model)
    count = TRAINING + VALIDATION

    for precision in ("fp32", "bf16"):
        command = ["embed", "--dataset=noise", f"--checkpoint={checkpoint}", f"--precision={precision}"]
        children = [swan(*command, f"--output={root / 'out.h5'}", root=root) for _ in range(5)]
        # A batch is heard of when it is queued; all of them are done when the captions begin.
        begun = [next(at for at, phase, done in c.events if phase == "images" and done) for c in children]
        ended = [next(at for at, phase, _ in c.events if phase == "captions") for c in children]
        encoded = count - image_batch(device)
        running = [encoded / (last - first) for first, last in zip(begun, ended, strict=True)]
        yield row("gpu", f"embed, {precision}", count, "images/s", running, floor=ceiling / cost)
    yield row(
        "gpu", "encoding alone, bf16", count, "images/s", _encoding(model, device), floor=ceiling / cost
    )
    yield row("gpu", "loading alone", count, "images/s", _loading(root, device))

    towers = ["--backbone=resnet50", f"--weights={checkpoint}", "--text=gru"]
    swan("prepare", "--dataset=noise", "--features", *towers, "--views=2", "--max-gb=40", root=root)
    for name, options in {
        "epoch, exact": [*towers, "--freeze"],
        "epoch, exact, compiled": [*towers, "--freeze", "--compile"],
        "epoch, features": ["--features"],
    }.items():
        for captions in (1, 5):
            run = f"{name.replace(', ', '-').replace(' ', '-')}-{captions}"
            command = ["train", "--dataset=noise", f"--epochs={EPOCHS}", f"--run={run}", "--precision=bf16"]
            swan(*command, f"--captions-per-image={captions}", *options, root=root)
            with (root / "noise" / "runs" / run / "metrics.csv").open() as file:
                epochs = [float(line["seconds"]) for line in csv.DictReader(file)][1:]
            pair = step_operations(model, 100, captions, features=options == ["--features"]) / 100
            floor = 5 * TRAINING * pair / ceiling
            yield row("gpu", f"{name}, {captions} captions a pass", 5 * TRAINING, "s", epochs, floor=floor)


def _noise(root: Path) -> tuple[Swan, Path]:
    """A data set of noise with its vocabulary, a model for it, and its checkpoint."""
    workspace, rng = Workspace(root), np.random.default_rng(0)
    count = TRAINING + VALIDATION
    words = [f"word{number}" for number in range(1000)]
    texts = [" ".join(rng.choice(words, 12)) for _ in range(5 * count)]
    with create_dataset(workspace.dataset("noise"), "noise", (256, 256)) as writer:
        for number in range(count):
            writer.add(rng.integers(0, 256, (256, 256, 3), dtype=np.uint8), f"{number:032x}", 0)
        splits = ["train"] * TRAINING + ["val"] * VALIDATION
        names = [f"{number}.png" for number in range(count)]
        writer.finish(Catalogue.of(names, [None] * count, splits, texts, np.repeat(range(count), 5)))
    vocabulary = count_words(texts, min_count=1, stop_words="keep", dataset="noise")
    write_vocabulary(workspace.vocab("noise"), vocabulary)
    torch.manual_seed(0)
    model = Swan(ModelSettings(len(vocabulary), "resnet50", frozen=True)).eval()
    checkpoint = root / "noise.pt"
    save_checkpoint(checkpoint, model, vocabulary, {"dataset": "noise", "run": "noise", "epoch": 0})
    return model, checkpoint


def _encoding(model: Swan, device: torch.device) -> list[float]:
    """Images a second of one batch that lies on the device, encoded again and again."""
    model = model.to(device, memory_format=torch.channels_last)
    pixels = torch.randint(0, 256, (image_batch(device), 3, 256, 256), dtype=torch.uint8, device=device)
    pixels = pixels.contiguous(memory_format=torch.channels_last)

    def encode() -> None:
        with torch.inference_mode(), autocast(device, "bf16"):
            for _ in range(10):
                model.encode_images(model.settings.preprocessing.normalise(pixels))
        torch.cuda.synchronize()

    encode()
    seconds = repeated(lambda: timed(encode))
    model.to("cpu")
    return [10 * len(pixels) / each for each in seconds]


def _loading(root: Path, device: torch.device) -> list[float]:
    """Images a second of reading and pinning batches, with nothing that uses them."""
    size = image_batch(device)
    with Dataset(Workspace(root).dataset("noise")) as dataset:
        rows = dataset.catalogue.image_rows(None)

        def batches() -> Iterator[torch.Tensor]:
            for start in range(0, len(rows), size):
                read = (dataset.image(row) for row in rows[start : start + size])
                yield pinned(stack_images(read), device)

        def load() -> None:
            for _ in read_ahead(batches()):
                pass

        return [len(rows) / each for each in repeated(lambda: timed(load))]
