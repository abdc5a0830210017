"""A run's folder and its `config.json`: starting a run, or going on with one.

swan train --dataset ucm --run first
swan train --resume --run first
"""

from __future__ import annotations

import math
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch

from swancli.errors import SwanError
from swancli.evaluate.report import Report, evaluate_checkpoint
from swancli.machine.device import choose_device, describe_device
from swancli.machine.processes import ALONE, Processes
from swancli.model.checkpoint import WORD_VECTORS, Checkpoint, load_checkpoint
from swancli.model.encoder import Encoder
from swancli.model.settings import PUBLISHED_WORDS, ModelSettings
from swancli.model.swan import Swan
from swancli.prepare.splits import Fold, redrawn
from swancli.store.atomic import only_writer
from swancli.store.dataset import Dataset
from swancli.store.hdf5 import CREATED_BY
from swancli.store.text import read_json, write_json
from swancli.train.features import Features
from swancli.train.loop import PUBLISHED_RECIPE, TrainSettings, Watch, train, training_part
from swancli.vocab.vocabulary import Vocabulary, read_vectors, read_vocabulary
from swancli.workspace import Run, Workspace

# What a run that starts from another one takes over from it, where its own options do not say otherwise.
SHAPE = ("backbone", "image_size", "embed_dim", "variant", "without")
# What stands where an option says nothing. A backbone from random weights is what takes the time, so captions
# share its passes, and it learns as fast as the heads. From trained weights an epoch is worth more with a
# pass, and another view, for each caption (tests/benchmarks/README.md).
FROM_RANDOM_WEIGHTS = {"captions_per_image": 5, "lr": 1e-3, "backbone_rate": 1.0}
FROM_TRAINED_WEIGHTS = {"captions_per_image": 1, "lr": 5e-4, "backbone_rate": 0.4}
# What those of `TrainSettings` may be that are words.
CHOICES = {
    "schedule": ("step", "cosine"),
    "loss": ("sum", "hardest"),
    "augmentation": ("paper", "overhead", "none"),
    "precision": ("fp32", "bf16"),
}
# What a run that trains on features takes over from them, where it does not start from another run.
FEATURE_OPTIONS = ("backbone", "weights", "image_size", "augmentation", "seed")


@dataclass(frozen=True)
class RunConfig:
    """All that a run is started with, as its `config.json` holds it.

    vocab: path of the vocabulary; weights: path of the backbone's starting weights, init_from: of the
    checkpoint to start from, "" for random ones; features: identity of the features to train the heads on, ""
    to run the backbone; fold: its draw of train and val, None for the data set's; group: name of the group of
    runs that it belongs to, "" for none; the rest as in `ModelSettings` and `TrainSettings`.
    """

    dataset: str
    vocab: str
    weights: str
    backbone: str
    image_size: int
    embed_dim: int
    frozen: bool
    training: TrainSettings
    init_from: str = ""
    features: str = ""
    variant: str = "repaired"
    without: tuple[str, ...] = ()
    fold: Fold | None = None
    group: str = ""


def new_config(options: dict[str, Any], given: set[str]) -> RunConfig:
    """The configuration that the options of `swan train` ask for.

    An option that is not among `given` takes the value of the checkpoint to start from, where that has one,
    else of the published recipe when the variant is published. Features stand above the recipe.

    Args:
        options: by name, as in `RunConfig` and `TrainSettings`, and `freeze` (None: frozen when there are
            weights); paths as text, also of `features`. None for what depends on where the backbone starts:
            see `FROM_RANDOM_WEIGHTS` and `FROM_TRAINED_WEIGHTS`.
        given: the names that the user set.

    Raises:
        SwanError: options contradict each other, there is no such checkpoint to start from, or it needs a
            vocabulary.
    """
    options = dict(options)
    if options["init_from"]:
        vocab = Path(options["vocab"]) if "vocab" in given else None
        shape = load_checkpoint(Path(options["init_from"]), vocab, spare=True).model.settings
        options |= {name: getattr(shape, name) for name in SHAPE if name not in given}
        given = given | set(SHAPE)
        if options["freeze"] is None:
            options["freeze"] = shape.frozen
    if options["variant"] == "published":
        options |= {name: value for name, value in PUBLISHED_RECIPE.items() if name not in given}
    if options["features"]:
        with Features(Path(options["features"])) as features:
            made_with = asdict(features.settings)
            options["features"] = features.identity
        if options["init_from"]:
            made_with["weights"] = ""
        options |= {name: made_with[name] for name in FEATURE_OPTIONS if name not in given}
        if "freeze" not in given:
            options["freeze"] = True
    trained = options["weights"] or options["init_from"]
    start = FROM_TRAINED_WEIGHTS if trained else FROM_RANDOM_WEIGHTS
    options |= {name: value for name, value in start.items() if options[name] is None}
    options["without"] = ModelSettings(words=1, **{name: options[name] for name in SHAPE}).without
    frozen = options["freeze"]
    if "backbone_rate" in given and (bool(options["weights"]) if frozen is None else frozen):
        raise SwanError("--backbone-rate has nothing to act on: the backbone is frozen", "add --fine-tune")
    training = {field.name: options[field.name] for field in fields(TrainSettings) if field.name in options}
    return RunConfig(
        **{field.name: options[field.name] for field in fields(RunConfig) if field.name in options},
        frozen=bool(options["weights"]) if frozen is None else frozen,
        training=TrainSettings(**training),
    )


def config_from(content: dict[str, Any]) -> RunConfig:
    """A configuration from the plain values of its JSON form.

    Raises:
        KeyError, TypeError, ValueError, AttributeError, SwanError: they are not a configuration.
    """
    fold = content.get("fold")
    config = RunConfig(
        **content
        | {
            "training": TrainSettings(**content["training"]),
            "without": tuple(content.get("without", ())),
            "fold": Fold(**fold) if fold else None,
        }
    )
    for settings in (config, config.training, *([config.fold] if config.fold else [])):
        _check_types(settings)
    least = {"epochs": 1, "batch_size": 2, "captions_per_image": 1}
    for name, value in least.items():
        if getattr(config.training, name) < value:
            raise ValueError(f"{name} is {getattr(config.training, name)}, less than {value}")
    for name, known in CHOICES.items():
        if getattr(config.training, name) not in known:
            raise ValueError(f"{name} is {getattr(config.training, name)!r}, not one of {', '.join(known)}")
    model_settings(config, words=1)  # which refuses what no model can be made of
    return config


def _check_types(settings: Any) -> None:
    """Refuses a value of a dataclass that is of another type than declared; names its key."""
    kinds = {"int": int, "float": (int, float), "str": str, "bool": bool}
    for field in fields(settings):
        value = getattr(settings, field.name)
        kind = kinds.get(field.type)
        if kind and (not isinstance(value, kind) or (isinstance(value, bool) and field.type != "bool")):
            raise TypeError(f"{field.name} is {value!r}, no {field.type}")
        if field.type == "float" and not math.isfinite(value):
            raise ValueError(f"{field.name} is {value}")


def resumed_config(run: Run, epochs: int | None = None) -> RunConfig:
    """The configuration of a run that stands already, with another number of epochs when one is given.

    Raises:
        SwanError: the run's `config.json` cannot be read.
    """
    content = read_json(run.config, "start a new run")
    try:
        content.pop("created_by")
        config = config_from(content)
    except (ValueError, KeyError, TypeError, AttributeError, SwanError) as error:
        reason = error.problem if isinstance(error, SwanError) else error
        raise SwanError(f"{run.config}: not a run's configuration ({reason})", "start a new run") from error
    return lengthened(config, epochs, run.config)


def lengthened(config: RunConfig, epochs: int | None, source: Path) -> RunConfig:
    """The configuration with another number of epochs; with its own for None.

    Raises:
        SwanError: its schedule depends on the number; names `source`.
    """
    if epochs in (None, config.training.epochs):
        return config
    if config.training.schedule == "cosine":
        raise SwanError(
            f"{source}: its cosine schedule ends after {config.training.epochs} epochs, not {epochs}",
            "leave --epochs out, or start a new run from it: --init-from RUN",
        )
    return replace(config, training=replace(config.training, epochs=epochs))


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

    Of several processes the first writes, and has the recalls; the others return None.

    Raises:
        SwanError: data set or vocabulary is missing, they do not belong together, the run exists already, or
            another process trains it.
    """
    processor = choose_device(device)
    with (
        Dataset(workspace.dataset(config.dataset)) as dataset,
        only_writer(run.folder) if processes.first else nullcontext(),
        ExitStack() as closing_later,
    ):
        if processes.first and not resume and run.config.exists():
            raise_existing(run)
        if config.fold:
            dataset.catalogue = redrawn(dataset.catalogue, config.fold)
        training_part(dataset)  # refuses what cannot be trained on before a run begins
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
            _write_config(run, config)
        start = config.init_from or config.weights or "random weights"
        watch.note(
            f"training {run.name} on {processes.describe()}{describe_device(processor)}: {config.backbone}, "
            f"{'frozen' if config.frozen else 'fine-tuned'}, from {start}, {config.image_size} px, "
            f"{' without '.join([config.variant, *config.without])}"
        )
        for note in notes:
            watch.note(note)
        train(
            dataset,
            vocabulary,
            model,
            config.training,
            run,
            processor,
            watch,
            fold=config.fold,
            features=features,
            resume=resume,
            processes=processes,
        )
    if not processes.first:
        return None
    return evaluate_checkpoint(Encoder(run, device), workspace, split="val")


def _write_config(run: Run, config: RunConfig) -> None:
    write_json(run.config, {"created_by": CREATED_BY, **asdict(config)})


def raise_existing(run: Run) -> None:
    """Tells that a run, or a group of runs, of that name stands already."""
    raise SwanError(f"{run.folder}: this run exists", "choose another --run, or go on with it: --resume")


def _vocabulary(config: RunConfig) -> Vocabulary:
    path = Path(config.vocab)
    vocabulary = read_vocabulary(path)
    # Whoever starts from published weights brings the vocabulary that belongs to them.
    if vocabulary.dataset not in ("", config.dataset) and not config.init_from:
        raise SwanError(
            f"{path}: counted from data set {vocabulary.dataset}, not from {config.dataset}",
            f"make its own: swan vocab --dataset {config.dataset}",
        )
    return vocabulary


def model_settings(config: RunConfig, words: int) -> ModelSettings:
    """The shape of a run's model, for a vocabulary of so many words."""
    return ModelSettings(
        words=PUBLISHED_WORDS if config.variant == "published" else words,  # item 10
        backbone=config.backbone,
        image_size=config.image_size,
        embed_dim=config.embed_dim,
        frozen=config.frozen,
        variant=config.variant,
        without=config.without,
    )


def _new_model(config: RunConfig, vocabulary: Vocabulary) -> tuple[Swan, list[str]]:
    """The model as it stands before the first step, and what to tell of it.

    Seeded weights, then those of files: the backbone's, the word vectors, a whole checkpoint.
    """
    settings = model_settings(config, len(vocabulary))
    if len(vocabulary) > settings.words:
        raise SwanError(
            f"{config.vocab}: {len(vocabulary)} words; the published model has room for {settings.words}",
            "count rarer words out: swan vocab --min-count 5",
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
    """Puts a checkpoint's weights into a model, word vectors by word; returns the number of shared words.

    Raises:
        SwanError: the checkpoint has no weights for a part of the model.
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
            f"--init-from {source.path}: no weights for {len(lacking)} of this model's, first {lacking[0]}",
            "leave out what makes the models differ: --backbone, --embed-dim, --variant, --without",
        )
    model.load_state_dict({key: weights[key] for key in own})
    return len(shared)
