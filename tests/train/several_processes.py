"""The same training step, and the same run, on 1 and 3 processes; `test_distributed.py` compares them.

python tests/train/several_processes.py ROOT    # a root with data set tiny; writes CASE-COUNT.pt and runs

Processes are forked from one that has imported torch and made the models. They compute in double precision:
in single, rounding alone moves the gradients of a deep network with batch norms by a five-hundredth. One of a
frozen backbone is computed in single precision too, as users do.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch._dynamo  # which each process would import otherwise, as it would torchvision
import torchvision  # noqa: F401

from swancli.machine.device import choose_device
from swancli.machine.processes import Processes
from swancli.model.dropout import Dropout
from swancli.model.inputs import pad_tokens
from swancli.model.settings import ModelSettings
from swancli.model.swan import Swan
from swancli.store.dataset import Dataset
from swancli.train import loop
from swancli.train.batches import Batch, draw_views, load_batches, number_wordings, pair_batches
from swancli.train.config import TrainSettings
from swancli.train.distributed import pair_encoder
from swancli.train.nan_guard import StepWatch
from swancli.vocab.vocabulary import read_vocabulary
from swancli.workspace import Workspace

COUNTS = (1, 3)
SHAPE = ModelSettings(words=30, backbone="resnet18", image_size=32, embed_dim=32, frozen=False)
CASES = {
    "fine-tuned": (SHAPE, TrainSettings()),
    "timm": (replace(SHAPE, backbone="timm/test_efficientnet"), TrainSettings()),
    "frozen": (replace(SHAPE, frozen=True), TrainSettings(clip_norm=0.5, loss="hardest")),
    "published": (
        replace(SHAPE, frozen=True, variant="published"),
        TrainSettings(own_captions_only=True, augmentation="paper"),
    ),
}
SINGLE = "-single"  # after the name of a case in single precision
# The heads alone, then also what is not frozen of the backbone.
RUN = TrainSettings(epochs=2, batch_size=4, captions_per_image=1, lr=1e-4, heads_first=1, average=0.05)
RUN_SHAPE = replace(SHAPE, freeze_stages=2)
KEPT = 101  # of the values of a tensor each so manieth
IMAGES, BATCH = 10, 20  # so that the shares of three processes are uneven: 3, 3, 4 images
CAPTIONS = 2


def batch_of(processes: Processes, size: int, settings: TrainSettings) -> Batch:
    """The only batch of 10 images with two captions each; one caption is of two images."""
    chance = np.random.default_rng(0)
    image = np.repeat(np.arange(IMAGES), CAPTIONS)
    tokens = [chance.integers(1, 21, chance.integers(3, 9)).tolist() for _ in image]
    tokens[5] = tokens[0]
    source = round(size * 1.2)
    pixels = chance.integers(0, 256, (IMAGES, 3, source, source), np.uint8)
    drawn = torch.Generator().manual_seed(1)

    def read(rows: np.ndarray, share: slice) -> tuple:
        views = draw_views(len(rows), source, size, settings.augmentation, drawn)
        return torch.from_numpy(pixels[rows[share]]), views.part(share), None

    def read_words(captions: np.ndarray, share: slice) -> tuple:
        padded, lengths = pad_tokens([tokens[caption] for caption in captions])
        return padded[share], lengths[share]

    groups = pair_batches(image, BATCH, CAPTIONS, chance, least=4)
    own = {"own_captions_only": settings.own_captions_only, "processes": processes}
    return next(load_batches(groups, read, read_words, image, number_wordings(tokens), **own))


def take_steps(rank: int, count: int, folder: Path, models: dict[str, Swan]) -> None:
    """The step of each model, and a run, as one of several processes; the first writes what came of them.

    Args:
        models: by case, and one for the run, if there is to be one.
    """
    cpu = choose_device("cpu")
    if count > 1:
        place = f"{count}-{len(models)}.store"
        store = torch.distributed.FileStore(str(folder / place), count)
        torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=count)
    processes, workspace = Processes(rank, count), Workspace(folder)
    trained = models.pop("run", None)
    for case, model in models.items():
        shape, settings = CASES[case.removesuffix(SINGLE)]
        found = take_step(processes, model, shape.image_size, settings, cpu)
        if rank == 0:
            torch.save(found, folder / f"{case}-{count}.pt")
    if trained:
        with Dataset(workspace.dataset("tiny")) as dataset:
            vocabulary = read_vocabulary(workspace.vocab("tiny"))
            run = workspace.run("tiny", f"on-{count}")
            run.folder.mkdir(parents=True, exist_ok=True)
            data = loop.training_data(dataset, vocabulary)
            loop.train(data, trained, RUN, run, cpu, loop.Watch(), processes=processes)
    if count > 1:
        torch.distributed.destroy_process_group()


def take_step(
    processes: Processes, model: Swan, size: int, settings: TrainSettings, cpu: torch.device
) -> dict[str, Any]:
    """Loss, gradients and the state after a step, of which a part is kept."""
    encoders = pair_encoder(model, processes).train()
    batch = batch_of(processes, size, settings)
    optimizer = torch.optim.SGD([part for part in model.parameters() if part.requires_grad], lr=1e-3)
    shared = (model, None, encoders, optimizer, cpu, loop.Watch(), processes)
    training = loop.Training(None, settings, None, *shared)
    loss = loop.train_step(training, 1, batch, StepWatch(cpu, 1, RuntimeError))
    gradients = {name: part.grad for name, part in model.named_parameters() if part.grad is not None}
    return {"loss": loss, "gradients": part_of(gradients), "state": part_of(model.state_dict())}


def part_of(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Some values of each tensor."""
    return {name: values.detach().flatten()[::KEPT].clone() for name, values in tensors.items()}


def save_part(
    path: Path, model: Swan, tokenizer: Any, origin: Any, training: Any = None, seen: Any = None
) -> None:
    """In place of `save_checkpoint`, which takes the most time: some values of `last.pt`."""
    if training:
        kept = {"average": part_of(model.state_dict()), "weights": part_of(training["weights"])}
        torch.save(kept, path)


def main() -> None:
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    Dropout.forward = lambda part, values: values
    loop.save_checkpoint, loop.tensorboard_writer = save_part, lambda *ignored: None
    torch.manual_seed(0)
    on_each_count(folder, {f"frozen{SINGLE}": Swan(CASES["frozen"][0])})
    torch.set_default_dtype(torch.float64)
    torch.Tensor.float = torch.Tensor.double
    torch.manual_seed(0)
    models = {case: Swan(shape) for case, (shape, _) in CASES.items()} | {"run": Swan(RUN_SHAPE)}
    on_each_count(folder, models)


def on_each_count(folder: Path, models: dict[str, Swan]) -> None:
    """The steps on 1 and 3 processes, one after the other."""
    fork = torch.multiprocessing.get_context("fork")
    for count in COUNTS:
        processes = [
            fork.Process(target=take_steps, args=(rank, count, folder, models)) for rank in range(count)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
            if process.exitcode:
                raise SystemExit(f"one of {count} processes ended with {process.exitcode}")


if __name__ == "__main__":
    main()
