"""One training run: its folder, its model before the first step, and its training to the last epoch.

swan train --dataset ucm --run first
swan train --resume --run first
"""

from __future__ import annotations

from contextlib import ExitStack, nullcontext
from dataclasses import asdict
from pathlib import Path

from swancli.errors import SwanError
from swancli.evaluate.report import Report, evaluate_checkpoint
from swancli.machine.device import choose_device, describe_device
from swancli.machine.processes import ALONE, Processes
from swancli.model.checkpoint import Model, Tokenizer, load_checkpoint
from swancli.model.encoder import Encoder
from swancli.model.settings import GRU
from swancli.model.start import continued_model, new_model
from swancli.prepare.splits import redrawn
from swancli.store.atomic import only_writer
from swancli.store.dataset import Dataset
from swancli.store.hdf5 import CREATED_BY
from swancli.store.text import write_json
from swancli.train.config import RunConfig, model_settings
from swancli.train.distributed import share_norms
from swancli.train.features import Features
from swancli.train.loop import Watch, train, training_data, training_part
from swancli.vocab.vocabulary import Vocabulary, read_vectors, read_vocabulary
from swancli.workspace import Run, Workspace


def train_run(
    workspace: Workspace,
    run: Run,
    config: RunConfig,
    device: str,
    *,
    resume: bool,
    watch: Watch,
    processes: Processes = ALONE,
) -> Report | None:
    """Trains a run to its last epoch; returns the recalls of its best checkpoint on the validation split.

    With several processes the first writes the files and returns the recalls; the others return None.

    Raises:
        SwanError: data set or vocabulary is missing, they do not belong together, the run already exists, or
            another process is training it.
    """
    processor = choose_device(device)
    with (
        Dataset(workspace.dataset(config.dataset)) as dataset,
        only_writer(run.folder) if processes.first else nullcontext(),
        ExitStack() as closing_later,
    ):
        if processes.first and not resume and run.config.exists():
            raise existing_run_error(run)
        if config.fold:
            dataset.catalogue = redrawn(dataset.catalogue, config.fold)
        training_part(dataset)  # raises before a run begins that cannot be trained
        if resume and run.last.exists():
            last = load_checkpoint(run.last)
            model, tokenizer, notes = last.model, last.tokenizer, []
        else:
            model, tokenizer, notes = _new_model(config)
        features = None
        if config.features:
            features = closing_later.enter_context(Features(workspace.features(config.dataset)))
            features.check(dataset, model, config.training.augmentation)
            if features.identity != config.features:
                raise SwanError(f"{features.path}: made again since the run began", "start a new run")
        if processes.count > 1:
            share_norms(model)  # raises before a run begins that cannot be trained
        if config.training.compiled:
            images = max(2, config.training.batch_size // config.training.captions_per_image)
            model.to(processor).compile_images(images)
        if processes.first:
            write_json(run.config, {"created_by": CREATED_BY, **asdict(config)})
        data = training_data(dataset, tokenizer, features)
        hardware = processes.describe() + describe_device(processor)
        for note in (_describe(run, config, hardware), *notes):
            watch.note(note)
        train(
            data,
            model,
            config.training,
            run,
            processor,
            watch,
            fold=config.fold,
            resume=resume,
            processes=processes,
        )
    if not processes.first:
        return None
    return evaluate_checkpoint(Encoder(run, device), workspace, split="val")


def _describe(run: Run, config: RunConfig, hardware: str) -> str:
    start = config.init_from or config.weights or "random weights"
    frozen = f"fine-tuned after stage {config.freeze_stages}" if config.freeze_stages else "fine-tuned"
    text = f"text tower {config.text}, " if config.text not in ("", GRU) else ""
    return (
        f"training {run.name} on {hardware}: {config.backbone}, "
        f"{'frozen' if config.frozen else frozen}, from {start}, {config.image_size} px, {text}"
        f"{' without '.join([config.variant, *config.without])}"
    )


def existing_run_error(run: Run) -> SwanError:
    """The error for a run, or a group of runs, whose name is taken."""
    return SwanError(f"{run.folder}: this run exists", "choose another --run, or resume it: --resume")


def _new_model(config: RunConfig) -> tuple[Model, Tokenizer, list[str]]:
    """The model before the first step, its tokenizer, and notes for the user."""
    vocabulary = vectors = None
    if config.text == GRU:
        vocabulary, vectors = _vocabulary(config), read_vectors(Path(config.vocab))
    settings = model_settings(config, len(vocabulary) if vocabulary else 0)
    if vocabulary and len(vocabulary) > settings.words:
        raise SwanError(
            f"{config.vocab}: {len(vocabulary)} words; the published model has room for {settings.words}",
            "leave rare words out: swan vocab --min-count 5",
        )
    seed = config.training.seed
    if config.init_from:
        vocab = Path(config.vocab) if config.vocab else None
        source = load_checkpoint(config.init_from, vocab, spare=True)
        return continued_model(settings, seed, source, vocabulary, config.freeze_text)
    return new_model(settings, seed, config.weights, config.text, vocabulary, vectors, config.freeze_text)


def _vocabulary(config: RunConfig) -> Vocabulary:
    path = Path(config.vocab)
    if not path.is_file():
        needless = config.variant == "repaired" and not config.init_from
        instead = "; or take --text minilm, which needs none" if needless else ""
        raise SwanError(f"{path}: no such file", f"make it: swan vocab --dataset {config.dataset}{instead}")
    vocabulary = read_vocabulary(path)
    # A checkpoint to start from may come with the vocabulary of another data set.
    if vocabulary.dataset not in ("", config.dataset) and not config.init_from:
        raise SwanError(
            f"{path}: counted from data set {vocabulary.dataset}, not from {config.dataset}",
            f"count its own: swan vocab --dataset {config.dataset}",
        )
    return vocabulary
