"""One training run: its folder, its model before the first step, and its training to the last epoch.

swan train --dataset ucm --run first
swan train --resume --run first
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from swancli.errors import SwanError, SwanWarning
from swancli.evaluate.report import Report, evaluate_checkpoint
from swancli.machine.device import choose_device, describe_device
from swancli.machine.processes import ALONE, Processes
from swancli.model.checkpoint import Model, Tokenizer, load_checkpoint
from swancli.model.encoder import Encoder
from swancli.model.settings import GRU
from swancli.model.start import continued_model, new_model
from swancli.model.weights import SAFETENSORS
from swancli.prepare.splits import redrawn
from swancli.store.dataset import Dataset
from swancli.store.hdf5 import CREATED_BY
from swancli.store.lock import only_writer
from swancli.store.seen import SeenImages
from swancli.store.text import write_json
from swancli.store.torch_file import read_torch_file
from swancli.train.config import RunConfig, model_settings
from swancli.train.distributed import share_norms
from swancli.train.features import Features
from swancli.train.loop import Watch, train, training_data, training_part
from swancli.vocab.known_words import known_words
from swancli.vocab.vocabulary import Vocabulary, read_vectors, read_vocabulary
from swancli.workspace import Run, Workspace


@dataclass(frozen=True)
class Start:
    """What a run starts from.

    dataset: opened, with the splits of the run's fold.
    features: opened; None to run the backbone.
    model: before the next step.
    tokenizer: of the model.
    notes: for the user.
    seen: images that the model was trained on before; None for none that are known.
    """

    dataset: Dataset
    features: Features | None
    model: Model
    tokenizer: Tokenizer
    notes: list[str]
    seen: SeenImages | None


@contextmanager
def opened_start(workspace: Workspace, config: RunConfig, last: Path | None = None) -> Iterator[Start]:
    """Opens what a run starts from. Nothing is written, so this also checks whether a run can begin.

    Args:
        workspace: with the data set and its features.
        config: of the run.
        last: its `last.pt`, to resume from; None to begin.

    Raises:
        SwanError: data set or vocabulary is missing, they do not belong together, the data cannot be trained
            on, no word of its captions is known, or the model cannot be made.
    """
    with Dataset(workspace.dataset(config.dataset)) as dataset, ExitStack() as closing_later:
        if config.fold:
            dataset.catalogue = redrawn(dataset.catalogue, config.fold)
        training_part(dataset)  # raises for data that cannot be trained on
        if last:
            checkpoint = load_checkpoint(last)
            (model, tokenizer, notes), seen = (checkpoint.model, checkpoint.tokenizer, []), checkpoint.seen
        else:
            (model, tokenizer, notes), seen = _new_model(config)
        notes = [*notes, _known_words_note(dataset, tokenizer, config)]
        features = None
        if config.features:
            features = closing_later.enter_context(Features(workspace.features(config.dataset)))
            features.check(dataset, model, config.training.augmentation)
            if features.identity != config.features:
                raise SwanError(f"{features.path}: made again since the run began", "start a new run")
        yield Start(dataset, features, model, tokenizer, notes, seen)


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
        SwanError: as `opened_start`, or the run already exists, or another process is training it.
    """
    processor = choose_device(device)
    with ExitStack() as closing_later:
        if processes.first:
            closing_later.enter_context(only_writer(run.folder))
            if run.config.exists() and not resume:
                raise existing_run_error(run)
        last = run.last if resume and run.last.exists() else None
        start = closing_later.enter_context(opened_start(workspace, config, last))
        model = start.model
        if processes.count > 1:
            share_norms(model)  # raises before a run begins that cannot be trained
        if config.training.compiled:
            images = max(2, config.training.batch_size // config.training.captions_per_image)
            model.to(processor).compile_images(images)
        if processes.first:
            write_json(run.config, {"created_by": CREATED_BY, **asdict(config)})
        data = training_data(start.dataset, start.tokenizer, start.features, start.seen)
        hardware = processes.describe() + describe_device(processor)
        for note in (_describe(run, config, hardware), *start.notes):
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


def _known_words_note(dataset: Dataset, tokenizer: Tokenizer, config: RunConfig) -> str:
    """How many words of the captions are known, for the user; warns if they are few.

    Raises:
        SwanError: no word of a split is known, so its captions are of no use.
    """
    shares = []
    for split in ("train", "val"):
        captions = dataset.catalogue.select(dataset.catalogue.image_rows(split))[0].text
        found = known_words(captions, tokenizer)
        if not found.known:
            words = f" ({', '.join(found.unknown)}, ...)" if found.words else ""
            problem = f"{dataset.path}: no word in the captions of split {split} is known{words}"
            raise SwanError(problem, "; ".join(filter(None, (found.hint, _other_words(tokenizer, config)))))
        if found.warning:
            warnings.warn(f"split {split}: {found.warning}", SwanWarning, stacklevel=2)
        shares.append(f"{split} {found}")
    return f"known words: {', '.join(shares)}"


def _other_words(tokenizer: Tokenizer, config: RunConfig) -> str:
    """What to do if the words of the captions are not those of a tokenizer."""
    if not isinstance(tokenizer, Vocabulary):
        return "take a text tower of their language: --text FOLDER with its BERT, or --text gru"
    return f"count them again: swan vocab --dataset {config.dataset}"


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


def _new_model(config: RunConfig) -> tuple[tuple[Model, Tokenizer, list[str]], SeenImages | None]:
    """The model before the first step, its tokenizer and notes for the user; what it was trained on."""
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
        return continued_model(settings, seed, source, vocabulary, config.freeze_text), source.seen
    start = new_model(settings, seed, config.weights, config.text, vocabulary, vectors, config.freeze_text)
    return start, _seen_by_weights(config.weights)


def _seen_by_weights(path: str) -> SeenImages | None:
    """What the starting weights of a backbone were trained on, if their file says so."""
    if not Path(path).is_file() or Path(path).suffix == SAFETENSORS:
        return None
    content = read_torch_file(Path(path), "take other weights", in_part=True)
    plain = content.get("seen") if isinstance(content, dict) else None
    return SeenImages.from_plain(plain) if plain else None


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
