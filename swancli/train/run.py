"""One training run: its folder, its model before the first step, and its training to the last epoch.

swan train --dataset ucm --run first
swan train --resume --run first
"""

from __future__ import annotations

from contextlib import ExitStack, nullcontext
from dataclasses import asdict
from pathlib import Path

import torch

from swancli.errors import SwanError
from swancli.evaluate.report import Report, evaluate_checkpoint
from swancli.machine.device import choose_device, describe_device
from swancli.machine.processes import ALONE, Processes
from swancli.model.checkpoint import WORD_VECTORS, Checkpoint, load_checkpoint
from swancli.model.encoder import Encoder
from swancli.model.swan import Swan
from swancli.prepare.splits import redrawn
from swancli.store.atomic import only_writer
from swancli.store.dataset import Dataset
from swancli.store.hdf5 import CREATED_BY
from swancli.store.text import write_json
from swancli.train.config import RunConfig, model_settings
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
            model, vocabulary, notes = last.model, last.vocabulary, []
        else:
            vocabulary = _vocabulary(config)
            model, notes = _new_model(config, vocabulary)
        features = None
        if config.features:
            features = closing_later.enter_context(Features(workspace.features(config.dataset)))
            features.check(dataset, model, config.training.augmentation)
            if features.identity != config.features:
                raise SwanError(f"{features.path}: made again since the run began", "start a new run")
        if config.training.compiled:
            model.to(processor, memory_format=torch.channels_last)
            images = max(2, config.training.batch_size // config.training.captions_per_image)
            model.backbone.compile_network(images, config.image_size)
        if processes.first:
            write_json(run.config, {"created_by": CREATED_BY, **asdict(config)})
        hardware = processes.describe() + describe_device(processor)
        for note in (_describe(run, config, hardware), *notes):
            watch.note(note)
        train(
            training_data(dataset, vocabulary, features),
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
    return (
        f"training {run.name} on {hardware}: {config.backbone}, "
        f"{'frozen' if config.frozen else 'fine-tuned'}, from {start}, {config.image_size} px, "
        f"{' without '.join([config.variant, *config.without])}"
    )


def existing_run_error(run: Run) -> SwanError:
    """The error for a run, or a group of runs, whose name is taken."""
    return SwanError(f"{run.folder}: this run exists", "choose another --run, or resume it: --resume")


def _vocabulary(config: RunConfig) -> Vocabulary:
    path = Path(config.vocab)
    vocabulary = read_vocabulary(path)
    # A checkpoint to start from may come with the vocabulary of another data set.
    if vocabulary.dataset not in ("", config.dataset) and not config.init_from:
        raise SwanError(
            f"{path}: counted from data set {vocabulary.dataset}, not from {config.dataset}",
            f"count its own: swan vocab --dataset {config.dataset}",
        )
    return vocabulary


def _new_model(config: RunConfig, vocabulary: Vocabulary) -> tuple[Swan, list[str]]:
    """The model before the first step, and notes for the user.

    Weights are random by seed, then loaded from files: the backbone, the word vectors, a whole checkpoint.
    """
    settings = model_settings(config, len(vocabulary))
    if len(vocabulary) > settings.words:
        raise SwanError(
            f"{config.vocab}: {len(vocabulary)} words; the published model has room for {settings.words}",
            "leave rare words out: swan vocab --min-count 5",
        )
    torch.manual_seed(config.training.seed)
    model = Swan(settings)
    notes = []
    if config.weights:
        model.backbone.load_weights(Path(config.weights))
    vectors = read_vectors(Path(config.vocab))
    if vectors:
        rows = torch.from_numpy(vectors.has_vector).nonzero().squeeze(1)
        with torch.no_grad():
            model.text_tower.word_vectors.weight[rows + 1] = torch.from_numpy(vectors.vectors)[rows]
        notes.append(f"{len(rows)} of {len(vocabulary)} words start from the vectors of {config.vocab}")
    if config.init_from:
        source = load_checkpoint(Path(config.init_from), Path(config.vocab), spare=True)
        known = _start_from(model, source, vocabulary)
        notes.append(f"{known} of {len(vocabulary)} words start from the vectors of {source.path}")
    return model, notes


def _start_from(model: Swan, source: Checkpoint, vocabulary: Vocabulary) -> int:
    """Loads a checkpoint's weights, word vectors by word; returns the number of words in both vocabularies.

    Raises:
        SwanError: the checkpoint has no weights for some part of the model.
    """
    weights = source.model.state_dict()
    own = model.state_dict()
    table = own[WORD_VECTORS].clone()
    place = {word: row for row, word in enumerate(source.vocabulary.words, start=1)}
    shared = [(row, place[word]) for row, word in enumerate(vocabulary.words, start=1) if word in place]
    for row, other in shared:
        table[row] = weights[WORD_VECTORS][other]
    weights[WORD_VECTORS] = table
    weights = {key: value for key, value in own.items() if "unused_projection" in key} | weights  # item 3
    lacking = [key for key in own if key not in weights or weights[key].shape != own[key].shape]
    if lacking:
        raise SwanError(
            f"--init-from {source.path}: it lacks {len(lacking)} weights of this model, first {lacking[0]}",
            "leave out what makes the models differ: --backbone, --embed-dim, --variant, --without",
        )
    model.load_state_dict({key: weights[key] for key in own})
    return len(shared)
