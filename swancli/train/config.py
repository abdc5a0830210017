"""Run settings: from the options of `swan train` to a `RunConfig`, and back from its JSON form.

swan train --dataset ucm --run first        # writes runs/first/config.json
swan train --resume --run first             # reads it
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from swancli.errors import SwanError
from swancli.model.backbone import preprocessing_of
from swancli.model.checkpoint import load_checkpoint
from swancli.model.settings import GRU, PUBLISHED_WORDS, ModelSettings
from swancli.model.start import named_towers, text_transformer
from swancli.prepare.splits import Fold
from swancli.store.text import read_json
from swancli.train.features import Features
from swancli.workspace import Run

# Section 4.1 and the published options file.
PAPER_RATE = 2e-4
MARGIN = 0.2


@dataclass(frozen=True)
class TrainSettings:
    """How a run is trained; written to its `config.json` beside the model's settings.

    epochs: passes over the training captions.
    batch_size: captions per step.
    captions_per_image: captions that share one pass of their image.
    lr: the highest learning rate of the heads.
    backbone_rate: factor on the learning rate for a backbone that is not frozen.
    text_rate: factor on the learning rate for a text transformer that is not frozen.
    schedule: "step", the paper's, or "cosine", whose first epoch is a warm-up (see `schedule`).
    loss: of the hinge, "sum" over all negatives, or "hardest" for the hardest negatives only; or
        "contrastive".
    margin: of the hinge, on cosine similarity.
    temperature: of the contrastive loss.
    average: share of the moving average of the weights that each step keeps; 0 keeps no average.
    heads_first: epochs before the first in which the towers are trained too, as far as they are not frozen.
    clip_norm: largest norm of all gradients together; larger ones are scaled down to it. 0 turns this off.
    own_captions_only: other captions of the same image count as negatives, as in the published code.
    hide_rare_words: rare words are replaced by the unknown word at random; the published code never does so.
    augmentation: "paper", "overhead" or "none" (see `batches`).
    precision: "fp32" or "bf16".
    compiled: the backbone runs through torch.compile.
    seed: of all random numbers.
    """

    epochs: int = 30
    batch_size: int = 100
    captions_per_image: int = 5
    lr: float = 1e-3
    backbone_rate: float = 1.0
    text_rate: float = 0.1
    schedule: str = "cosine"
    loss: str = "sum"
    margin: float = MARGIN
    temperature: float = 0.05
    average: float = 0.0
    heads_first: int = 0
    clip_norm: float = 0.0
    own_captions_only: bool = False
    hide_rare_words: bool = True
    augmentation: str = "overhead"
    precision: str = "fp32"
    compiled: bool = False
    seed: int = 0


# The allowed values of the settings that are words.
CHOICES = {
    "schedule": ("step", "cosine"),
    "loss": ("sum", "hardest", "contrastive"),
    "augmentation": ("paper", "overhead", "none"),
    "precision": ("fp32", "bf16"),
}
# How the published code pairs images and captions. Belongs to the variant, whatever the recipe.
PUBLISHED_PAIRS = {"own_captions_only": True, "hide_rare_words": False}
# Defaults of `--variant published`: section 4.1 and the published README.
PUBLISHED_RECIPE = {
    "backbone": "resnet50",
    "image_size": 256,
    "embed_dim": 512,
    "freeze": True,
    "freeze_stages": 0,
    "epochs": 50,
    "batch_size": 100,
    "captions_per_image": 1,
    "lr": PAPER_RATE,
    "backbone_rate": 1.0,
    "text": GRU,
    "schedule": "step",
    "loss": "sum",
    "margin": MARGIN,
    "average": 0.0,
    "heads_first": 0,
    "clip_norm": 0.0,
    "augmentation": "paper",
    **PUBLISHED_PAIRS,
}
# Options that default to those of the checkpoint a run starts from.
SHAPE = ("backbone", "image_size", "embed_dim", "variant", "without", "text")
# Defaults that depend on what a run starts from; tests/benchmarks/README.md says how they were found.
FROM_RANDOM_WEIGHTS = {
    "epochs": 30,
    "batch_size": 100,
    "captions_per_image": 5,
    "lr": 1e-3,
    "backbone_rate": 1.0,
    "text_rate": 0.1,
    "loss": "sum",
    "average": 0.0,
    "freeze_stages": 0,
    "heads_first": 0,
}
FROM_TRAINED_WEIGHTS = FROM_RANDOM_WEIGHTS | {
    "batch_size": 2000,
    "lr": 2e-3,
    "backbone_rate": 0.5,
    "loss": "contrastive",
    "average": 0.99,
    "freeze_stages": 2,
}
# Their epochs: enough for this many steps, within these bounds. The first half is for the heads alone.
STEPS, FEWEST_EPOCHS, MOST_EPOCHS = 60, 15, 45
FROM_CHECKPOINT = FROM_TRAINED_WEIGHTS | {"epochs": 10, "lr": 1e-3, "backbone_rate": 1.0, "heads_first": 0}
# Both towers of open_clip were trained together, on so much that a high rate would spoil them.
FROM_OPEN_CLIP = FROM_RANDOM_WEIGHTS | {"captions_per_image": 1, "lr": 1e-5, "text_rate": 1.0}
# Options that default to those the features were made with.
FEATURE_OPTIONS = ("backbone", "weights", "image_size", "augmentation", "text", "seed")


@dataclass(frozen=True)
class RunConfig:
    """The whole configuration of a run, as stored in its `config.json`.

    dataset: name of the data set.
    vocab: path of the vocabulary; "" if the text tower has its own tokenizer.
    weights: path of the backbone's starting weights, or imagenet; "" for random ones.
    backbone: as in `ModelSettings`.
    image_size: as in `ModelSettings`.
    embed_dim: as in `ModelSettings`.
    frozen: as in `ModelSettings`.
    training: how the model is trained.
    freeze_stages: as in `ModelSettings`.
    text: gru, minilm or a folder (see `model.start.text_transformer`); "" for that of `init_from`.
    freeze_text: as in `ModelSettings`; None for all layers, or as in `init_from`.
    init_from: path of the checkpoint to start from; "" for none.
    features: identity of the features that the heads are trained on; "" to run the backbone.
    variant: as in `ModelSettings`.
    without: as in `ModelSettings`.
    fold: how train and val are drawn; None for the data set's own splits.
    group: name of the group that the run belongs to; "" for none.
    """

    dataset: str
    vocab: str
    weights: str
    backbone: str
    image_size: int
    embed_dim: int
    frozen: bool
    training: TrainSettings
    freeze_stages: int = 0
    text: str = GRU
    freeze_text: int | None = None
    init_from: str = ""
    features: str = ""
    variant: str = "repaired"
    without: tuple[str, ...] = ()
    fold: Fold | None = None
    group: str = ""


def new_config(options: dict[str, Any], given: set[str], images: int) -> RunConfig:
    """The configuration that the options of `swan train` ask for.

    An option that the user did not set comes from the features, else from the checkpoint to start from, else
    from the published recipe when the variant is published.

    Args:
        options: by name, as in `RunConfig` and `TrainSettings`, and `freeze`. Paths, also that of `features`,
            are text. None for towers that come with swan, and for what depends on what the run starts from:
            see `FROM_RANDOM_WEIGHTS` and those after it.
        given: names of the options that the user set.
        images: number of training images; few images are seen more often.

    Raises:
        SwanError: options contradict each other, the checkpoint to start from does not exist, or it needs a
            vocabulary.
    """
    options = dict(options)
    shape = None
    if options["init_from"]:
        options, given, shape = _as_checkpoint(options, given)
        if shape.open_clip and options["features"]:
            hint = "leave --features out; --freeze keeps its image tower as it is"
            raise SwanError("--features: not for models of open_clip", hint)
        if shape.open_clip and options["heads_first"]:
            raise SwanError("--heads-first: models of open_clip have no heads", "leave --heads-first out")
    if options["variant"] == "published":
        options |= {name: value for name, value in PUBLISHED_RECIPE.items() if name not in given}
    if options["features"]:
        with Features(Path(options["features"])) as features:
            made_with = asdict(features.settings)
            options["features"] = features.identity
        if options["init_from"]:
            made_with |= {"weights": "", "text": options["text"]}
        options |= {name: made_with[name] for name in FEATURE_OPTIONS if name not in given}
        if "freeze" not in given:
            options["freeze"] = True
    if options["init_from"]:
        options["weights"] = ""
    else:
        names = ("backbone", "weights", "text")
        options |= zip(names, named_towers(*(options[name] for name in names)), strict=True)
    if options["image_size"] is None:
        options["image_size"] = preprocessing_of(options["backbone"]).size
    start = _usual_recipe(options, shape, images)
    options |= {name: value for name, value in start.items() if options[name] is None}
    options |= _of_text_tower(options, given, shape)
    frozen = bool(options["freeze"])
    if options["freeze_stages"] and "freeze_stages" in given and "freeze" not in given:
        frozen = False
    if frozen and (useless := {"backbone_rate", "freeze_stages"} & given):
        option = "--" + min(useless).replace("_", "-")
        raise SwanError(f"{option} has no effect: the whole backbone is frozen", "add --fine-tune")
    if frozen:
        options["freeze_stages"] = 0  # of the checkpoint to start from
    _refuse_idle(options, given, frozen and (options["text"] == GRU or _has_frozen_text(options, shape)))
    training = {field.name: options[field.name] for field in fields(TrainSettings) if field.name in options}
    config = RunConfig(
        **{field.name: options[field.name] for field in fields(RunConfig) if field.name in options},
        frozen=frozen,
        training=TrainSettings(**training),
    )
    # Raises for an impossible model; orders what is left out.
    return replace(config, without=model_settings(config, words=1).without)


def _usual_recipe(options: dict[str, Any], shape: ModelSettings | None, images: int) -> dict[str, Any]:
    """The defaults of a run; `shape` is that of the checkpoint to start from, if any."""
    if shape:
        return FROM_OPEN_CLIP if shape.open_clip else FROM_CHECKPOINT
    if not options["weights"]:
        return FROM_RANDOM_WEIGHTS
    recipe = FROM_TRAINED_WEIGHTS
    batch = (options["batch_size"] or recipe["batch_size"]) // (
        options["captions_per_image"] or recipe["captions_per_image"]
    )
    wanted = math.ceil(STEPS * batch / max(1, images))
    epochs = options["epochs"] or min(MOST_EPOCHS, max(FEWEST_EPOCHS, wanted))
    return recipe | {"epochs": epochs, "heads_first": epochs - max(1, epochs // 2)}


def _refuse_idle(options: dict[str, Any], given: set[str], heads_only: bool) -> None:
    """Raises a SwanError if an option of the loss or of the order of training does nothing, or too much."""
    loss = options["loss"]
    if loss == "contrastive" and "margin" in given:
        hint = "leave it out, or take a hinge: --loss sum"
        raise SwanError("--margin has no effect: it belongs to the hinge loss", hint)
    if loss != "contrastive" and "temperature" in given:
        hint = "leave it out, or add --loss contrastive"
        raise SwanError("--temperature has no effect: it belongs to the contrastive loss", hint)
    if "heads_first" not in given or not options["heads_first"]:
        return
    if heads_only:
        raise SwanError("--heads-first has no effect: only the heads are trained", "leave it out")
    if options["heads_first"] > options["epochs"]:
        raise SwanError(f"--heads-first {options['heads_first']}: more than the {options['epochs']} epochs")


def _as_checkpoint(
    options: dict[str, Any], given: set[str]
) -> tuple[dict[str, Any], set[str], ModelSettings]:
    """The options with the shape of the checkpoint to start from, and its settings."""
    if "text" in given:
        raise SwanError("--text: the checkpoint of --init-from has its own text tower", "leave --text out")
    vocab = Path(options["vocab"]) if "vocab" in given else None
    start = load_checkpoint(options["init_from"], vocab, spare=True, captions_only=True)
    shape = start.model.settings
    options |= {name: getattr(shape, name) for name in SHAPE if name not in given}
    if options["freeze"] is None:
        options["freeze"] = shape.frozen
    if not {"freeze", "freeze_stages"} & given:
        options["freeze_stages"] = shape.freeze_stages
    return options, given | set(SHAPE), shape


def _of_text_tower(options: dict[str, Any], given: set[str], shape: ModelSettings | None) -> dict[str, Any]:
    """The options that depend on the text tower; `shape` is that of the checkpoint to start from, if any.

    Raises:
        SwanError: one is given that has no effect with it.
    """
    if options["text"] == GRU:
        if useless := {"freeze_text", "text_rate"} & given:
            option = "--" + min(useless).replace("_", "-")
            raise SwanError(f"{option} has no effect: the GRU is always trained", "add --text minilm")
        return {}
    if "vocab" in given:
        raise SwanError("--vocab: this text tower has its own words", "leave --vocab out")
    if "text_rate" in given and _has_frozen_text(options, shape):
        raise SwanError(
            "--text-rate has no effect: the text transformer is frozen",
            "freeze fewer layers: --freeze-text N",
        )
    return {"vocab": "", "hide_rare_words": False}


def _has_frozen_text(options: dict[str, Any], shape: ModelSettings | None) -> bool:
    """Whether nothing of the text transformer is trained."""
    frozen = options["freeze_text"]
    if shape and not shape.bert:
        return False  # after the layers of open_clip's text towers comes a projection
    if shape:
        return shape.bert.layers == (shape.freeze_text if frozen is None else frozen)
    return frozen is None or frozen == text_transformer(options["text"])[0].layers


def config_from(content: dict[str, Any], source: Path, epochs: int | None = None) -> RunConfig:
    """A configuration from its JSON form.

    Args:
        content: as in `config.json`, without `created_by`.
        source: the file it was read from.
        epochs: replaces the configured number of epochs when given.

    Raises:
        SwanError: it is not a configuration, or its schedule depends on the number of epochs.
    """
    try:
        config = RunConfig(
            **content
            | {
                "training": TrainSettings(**content["training"]),
                "without": tuple(content["without"]),
                "fold": Fold(**content["fold"]) if content["fold"] else None,
            }
        )
        _check_values(config)
    except (ValueError, KeyError, TypeError, AttributeError, SwanError) as error:
        reason = error.problem if isinstance(error, SwanError) else error
        raise SwanError(f"{source}: not a run's configuration ({reason})", "start a new run") from error
    if epochs in (None, config.training.epochs):
        return config
    if config.training.schedule == "cosine":
        raise SwanError(
            f"{source}: its cosine schedule ends after {config.training.epochs} epochs, not {epochs}",
            "leave --epochs out, or start a new run from it: --init-from RUN",
        )
    return replace(config, training=replace(config.training, epochs=epochs))


def _check_values(config: RunConfig) -> None:
    for settings in (config, config.training, *([config.fold] if config.fold else [])):
        _check_types(settings)
    for name, least in {"epochs": 1, "batch_size": 2, "captions_per_image": 1}.items():
        if getattr(config.training, name) < least:
            raise ValueError(f"{name} is {getattr(config.training, name)}, less than {least}")
    for name, known in CHOICES.items():
        if getattr(config.training, name) not in known:
            raise ValueError(f"{name} is {getattr(config.training, name)!r}, not one of {', '.join(known)}")
    model_settings(config, words=1)  # raises for an impossible model


def _check_types(settings: Any) -> None:
    """Raises, naming the key, when a dataclass holds a value of another type than declared."""
    kinds = {"int": int, "float": (int, float), "str": str, "bool": bool}
    for field in fields(settings):
        value = getattr(settings, field.name)
        if value is None and field.type.endswith(" | None"):
            continue
        kind = kinds.get(field.type.removesuffix(" | None"))
        if kind and (not isinstance(value, kind) or (isinstance(value, bool) and field.type != "bool")):
            raise TypeError(f"{field.name} is {value!r}, not {field.type}")
        if field.type == "float" and not math.isfinite(value):
            raise ValueError(f"{field.name} is {value}")


def resumed_config(run: Run, epochs: int | None = None) -> RunConfig:
    """The configuration of an existing run.

    Args:
        run: whose `config.json` is read.
        epochs: replaces the configured number of epochs when given.

    Raises:
        SwanError: `config.json` cannot be read, or its schedule depends on the number of epochs.
    """
    content = read_json(run.config, "start a new run")
    if not isinstance(content, dict) or "created_by" not in content:
        raise SwanError(f"{run.config}: not a run's configuration (no key 'created_by')", "start a new run")
    del content["created_by"]
    return config_from(content, run.config, epochs)


def model_settings(config: RunConfig, words: int) -> ModelSettings:
    """The shape of a run's model, for a vocabulary of `words` words.

    Raises:
        SwanError: there is no such model.
    """
    if config.variant == "published" and config.text != GRU:
        raise SwanError("--variant published: its text tower is the GRU", "leave --text out")
    return ModelSettings(
        words=PUBLISHED_WORDS if config.variant == "published" else words,  # item 10
        backbone=config.backbone,
        image_size=config.image_size,
        embed_dim=config.embed_dim,
        frozen=config.frozen,
        freeze_stages=config.freeze_stages,
        variant=config.variant,
        without=config.without,
    )
