"""What a run starts with: the recipe behind its options, and the weights it takes over."""

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from made_bert import write_bert

import swancli
from swancli.cli import app
from swancli.errors import SwanError
from swancli.model.checkpoint import load_checkpoint, save_checkpoint
from swancli.model.settings import ModelSettings
from swancli.model.start import new_model
from swancli.store.dataset import Dataset
from swancli.train import config as train_config
from swancli.train.config import (
    FEWEST_EPOCHS,
    FROM_CHECKPOINT,
    FROM_OPEN_CLIP,
    FROM_RANDOM_WEIGHTS,
    FROM_TRAINED_WEIGHTS,
    MOST_EPOCHS,
    STEPS,
    TrainSettings,
    new_config,
    resumed_config,
)
from swancli.vocab.vocabulary import UNKNOWN, Vocabulary, export_json, read_vocabulary, write_vocabulary
from swancli.vocab.word_vectors import WordVectors

README = Path(swancli.__file__).parent / "train" / "README.md"
WORDS = "text_tower.word_vectors.weight"


# Of a large data set, from the towers that come with swan.
FROM_TOWERS = FROM_TRAINED_WEIGHTS | {"epochs": FEWEST_EPOCHS, "heads_first": (FEWEST_EPOCHS + 1) // 2}
PARAMETERS = {found.name: found for found in typer.main.get_command(app).commands["train"].params}


@pytest.fixture
def options(workspace):
    """All options of `swan train` at their defaults, but for the towers: ResNet-18 and the GRU."""
    defaults = {name: found.default for name, found in PARAMETERS.items()}
    towers = {"backbone": "resnet18", "text": "gru"}
    read = {"dataset": "tiny", "vocab": str(workspace.vocab("tiny")), "without": (), "features": ""}
    return defaults | towers | read


def configured(options, given, images=1_000_000):
    """The configuration of a run on a large data set."""
    return new_config(options, given, images)


def recipe_of(config):
    """The settings that depend on what a run starts from."""
    known = dataclasses.asdict(config.training) | dataclasses.asdict(config)
    return {name: known[name] for name in FROM_RANDOM_WEIGHTS}


def test_published_variant_brings_its_recipe(options):
    config = configured(options | {"variant": "published"}, {"variant"})
    assert (config.backbone, config.image_size, config.embed_dim, config.frozen) == (
        "resnet50",
        256,
        512,
        True,
    )
    training = config.training
    assert (training.epochs, training.batch_size, training.captions_per_image) == (50, 100, 1)
    assert (training.lr, training.schedule, training.augmentation) == (2e-4, "step", "paper")
    assert (training.loss, training.margin, training.clip_norm) == ("sum", 0.2, 0.0)
    assert training.own_captions_only
    assert not training.hide_rare_words


def test_published_recipe_does_not_depend_on_the_start(options):
    given = {"variant": "published", "weights": "resnet50.pth", "freeze": False}
    plain = configured(options | {"text": None, "variant": "published"}, {"variant"})
    tuned = configured(options | {"text": None} | given, set(given))
    assert recipe_of(tuned) == recipe_of(plain)
    assert (tuned.freeze_stages, tuned.training.heads_first, tuned.training.average) == (0, 0, 0)


@pytest.mark.parametrize(
    ("given", "start"),
    [
        ({"backbone": None, "text": None}, FROM_TOWERS),
        ({"backbone": None, "text": None, "weights": "none"}, FROM_RANDOM_WEIGHTS),
        ({}, FROM_RANDOM_WEIGHTS),
        ({"text": None}, FROM_RANDOM_WEIGHTS),
        ({"weights": "resnet18.pth"}, FROM_TOWERS),
    ],
)
def test_recipe_depends_on_whether_the_backbone_has_learnt_something(options, given, start):
    config = configured(options | given, {name for name, value in given.items() if value})
    assert recipe_of(config) == start
    assert not config.frozen


def test_plain_training_starts_from_the_towers_that_come_with_swan(options):
    config = configured(options | {"backbone": None, "text": None}, set())
    assert (config.backbone, config.weights) == ("timm/tf_efficientnet_lite0", "imagenet")
    assert (config.image_size, config.embed_dim) == (224, 256)
    assert (config.text, config.vocab, config.freeze_text) == ("minilm", "", None)
    assert not config.training.hide_rare_words


@pytest.mark.parametrize("backbone", [None, "resnet18"])
def test_weights_none_are_random_ones(options, backbone):
    config = configured(options | {"backbone": backbone, "weights": "none"}, {"weights"})
    assert config.weights == ""


def test_recipe_of_a_run_that_starts_from_a_checkpoint(options, saved):
    config = configured(options | {"init_from": str(saved())}, {"init_from"})
    assert recipe_of(config) == FROM_CHECKPOINT | {"freeze_stages": 0}  # as many as in the checkpoint


def test_recipe_of_a_run_that_starts_from_a_model_of_open_clip(options, tmp_path):
    from made_clip import make_model, model_cfg, save_folder

    cfg = model_cfg()
    given = {"init_from": f"open_clip:{save_folder(tmp_path / 'clip', make_model(cfg), cfg)}"}
    assert recipe_of(configured(options | given, set(given))) == FROM_OPEN_CLIP
    with pytest.raises(SwanError, match="--heads-first: models of open_clip have no heads"):
        configured(options | given | {"heads_first": 1}, {*given, "heads_first"})


@pytest.mark.parametrize(
    ("given", "images", "epochs"),
    [
        ({}, 8000, 15),  # 400 images a step: 20 steps in an epoch
        ({}, 80_000, 15),
        ({}, 4000, 30),
        ({}, 4100, 30),  # 29.3
        ({}, 400, 45),
        ({"batch_size": 1000}, 2000, 30),
        ({"captions_per_image": 1}, 40_000, 15),  # 2000 images a step
        ({"captions_per_image": 1}, 20_000, 30),
        ({"epochs": 3}, 400, 3),
    ],
)
def test_small_data_sets_are_seen_more_often(options, monkeypatch, given, images, epochs):
    for name, value in {"STEPS": 300, "FEWEST_EPOCHS": 15, "MOST_EPOCHS": 45}.items():
        monkeypatch.setattr(train_config, name, value)
    given = {"weights": "resnet18.pth"} | given
    assert configured(options | given, set(given), images).training.epochs == epochs


@pytest.mark.parametrize(("epochs", "heads_first"), [(1, 0), (2, 1), (3, 2), (5, 3), (15, 8)])
def test_heads_are_trained_alone_in_half_of_the_epochs(options, epochs, heads_first):
    given = {"weights": "resnet18.pth", "epochs": epochs}
    assert configured(options | given, set(given)).training.heads_first == heads_first


def test_number_of_epochs_for_the_heads_can_be_given(options):
    given = {"weights": "resnet18.pth", "epochs": 5, "heads_first": 4}
    assert configured(options | given, set(given)).training.heads_first == 4


def test_given_options_take_precedence_over_the_recipe_of_the_start(options):
    given = {"weights": "w.pth", "lr": 1e-2, "backbone_rate": 0.7, "average": 0.0, "freeze_stages": 0}
    given |= {"loss": "hardest", "batch_size": 40, "captions_per_image": 2}
    found = recipe_of(configured(options | given, set(given)))
    del given["weights"]
    assert found == FROM_TOWERS | given


def in_readme(cell):
    """The value at the start of a cell of README's table."""
    first = cell.split()[0].strip(";").replace(",", "")
    words = {"none": 0, "hinge": "sum"}
    return words[first] if first in words else float(first) if first[0].isdigit() else first


def test_readme_and_help_name_the_defaults_of_each_start():
    table = README.read_text(encoding="utf-8").partition("| | from trained towers")[2].partition("\n\n")[0]
    rows = [[cell.strip() for cell in line.split("|")[2:-1]] for line in table.splitlines()[2:]]
    named = {cells[3].strip("`-").replace("-", "_"): cells[:3] for cells in rows}
    assert named.keys() == FROM_RANDOM_WEIGHTS.keys()
    trained = FROM_TOWERS | {"heads_first": "half"}
    for name, (first, *others) in named.items():
        first, _, continued = first.partition(" (`--init-from`: ")
        starts = (trained, FROM_CHECKPOINT, FROM_RANDOM_WEIGHTS, FROM_OPEN_CLIP)
        cells = (first, continued.strip(")") or first, *others)
        assert [in_readme(cell) for cell in cells] == [start[name] for start in starts], name
        default = PARAMETERS[name].help.partition("Default")[2]
        numbers = set(map(float, re.findall(r"\d+(?:\.\d+)?(?:e-\d+)?", default)))
        if name not in ("loss", "epochs", "heads_first"):
            assert numbers == {start[name] for start in starts}, name
    assert f"up to {MOST_EPOCHS}, to make {STEPS} steps" in named["epochs"][0]
    assert f"Default: {FEWEST_EPOCHS} to {MOST_EPOCHS}" in PARAMETERS["epochs"].help


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"margin": 0.4}, "--margin has no effect: it belongs to the hinge loss"),
        (
            {"temperature": 0.1, "loss": "sum"},
            "--temperature has no effect: it belongs to the contrastive loss",
        ),
        ({"heads_first": 1, "freeze": True}, "--heads-first has no effect: only the heads are trained"),
        ({"heads_first": 4, "epochs": 3}, "--heads-first 4: more than the 3 epochs"),
    ],
)
def test_options_that_would_do_nothing_are_refused(options, given, problem):
    given = {"weights": "resnet18.pth"} | given
    with pytest.raises(SwanError, match=re.escape(problem)):
        configured(options | given, set(given))


def test_rate_for_a_frozen_backbone_is_refused(options):
    given = {"freeze": True, "backbone_rate": 0.5}
    with pytest.raises(SwanError, match="the whole backbone is frozen"):
        configured(options | given, set(given))


def test_given_options_take_precedence_over_the_published_recipe(options):
    given = {"variant": "published", "backbone": "resnet34", "epochs": 3, "freeze": False, "loss": "hardest"}
    config = configured(options | given, set(given))
    assert (config.backbone, config.frozen, config.training.epochs) == ("resnet34", False, 3)
    assert config.training.loss == "hardest"
    assert config.embed_dim == 512


def test_repaired_variant_is_trained_as_its_options_say(options):
    config = configured(options, set())
    assert config.training == TrainSettings()
    assert not config.frozen


@pytest.fixture
def saved(workspace, tmp_path):
    """Saves a checkpoint of a model of random weights; changes as in `ModelSettings`."""

    def save(text="gru", freeze_text=None, **changes):
        vocabulary = read_vocabulary(workspace.vocab("tiny")) if text == "gru" else None
        words = len(vocabulary) if vocabulary else 0
        settings = ModelSettings(words, "resnet18", 32, 16, **changes)
        model, tokenizer, _ = new_model(settings, 0, "", text, vocabulary, None, freeze_text)
        save_checkpoint(tmp_path / "start.pt", model, tokenizer, {"dataset": "tiny", "run": "r", "epoch": 1})
        return tmp_path / "start.pt"

    return save


@pytest.fixture
def bert(tmp_path):
    """A folder with a BERT of two layers."""
    return write_bert(tmp_path / "bert", ("a", "red", "field"))


@pytest.mark.parametrize(("layers", "effect"), [(None, False), (2, False), (1, True), (0, True)])
def test_rate_of_a_text_transformer_is_refused_if_all_its_layers_are_frozen(options, bert, layers, effect):
    chosen = options | {"text": str(bert), "freeze_text": layers, "text_rate": 0.5}
    if effect:
        assert configured(chosen, {"text", "text_rate"}).training.text_rate == 0.5
        return
    with pytest.raises(SwanError, match="--text-rate has no effect: the text transformer is frozen"):
        configured(chosen, {"text", "text_rate"})
    assert configured(chosen, {"text"}).freeze_text == layers


@pytest.mark.parametrize(
    ("before", "layers", "effect"), [(2, None, False), (0, 2, False), (1, None, True), (2, 1, True)]
)
def test_rate_of_a_checkpoint_s_text_transformer_is_refused_if_all_its_layers_are_frozen(
    saved, options, bert, before, layers, effect
):
    best = saved(str(bert), before)
    chosen = options | {"init_from": str(best), "freeze_text": layers, "text_rate": 0.5}
    if effect:
        assert configured(chosen, {"init_from", "text_rate"}).training.text_rate == 0.5
        return
    with pytest.raises(SwanError, match="--text-rate has no effect: the text transformer is frozen"):
        configured(chosen, {"init_from", "text_rate"})


def test_contradicting_parts_are_refused_at_once(options):
    with pytest.raises(SwanError, match="gru"):
        configured(options | {"without": ("gru",)}, {"without"})


def test_configuration_reads_back_as_it_was_written(run_training, tiny_config):
    run = run_training("one", epochs=1, variant="published", without=("vmsf", "wsa"))
    expected = tiny_config(epochs=1, variant="published", without=("vmsf", "wsa"))
    assert resumed_config(run) == expected


def test_published_run_carries_the_published_table_of_word_vectors(run_training):
    checkpoint = load_checkpoint(run_training("one", epochs=1, variant="published").best)
    assert checkpoint.model.settings.words == 8589
    assert checkpoint.model.state_dict()[WORDS].shape == (8590, 300)
    assert len(checkpoint.tokenizer) < 20


def test_statistics_of_a_frozen_published_backbone_move_in_training(run_training):
    def statistics(run):
        state = load_checkpoint(run.last).model.backbone.state_dict()
        return torch.cat([value.flatten() for key, value in state.items() if key.endswith("running_mean")])

    still = run_training("repaired", epochs=1, frozen=True)
    moved = run_training("published", epochs=1, frozen=True, variant="published")
    assert not statistics(still).any()
    assert statistics(moved).any()


def test_word_vectors_of_the_vocabulary_are_where_training_starts(workspace, run_training, tiny_config):
    with Dataset(workspace.dataset("tiny")):
        path = workspace.vocab("tiny")
    words = Vocabulary(("red", "field", UNKNOWN), (1, 1, 0), 1, "keep", "tiny")
    vectors = np.zeros((3, 300), np.float32)
    vectors[1] = 0.25
    write_vocabulary(path, words, WordVectors(vectors, np.array([False, True, False])))
    still = TrainSettings(epochs=1, batch_size=4, lr=0.0)
    table = load_checkpoint(run_training("one", training=still).last).model.state_dict()[WORDS]
    assert (table[2] == 0.25).all()
    assert table[1].std() > 0.5  # drawn from N(0, 1), as published
    assert (table[0] == 0).all()


# ---------------------------------------------------------------------------------------------------------
# --init-from


def test_run_starts_from_another_ones_weights_word_by_word(workspace, run_training):
    source = load_checkpoint(run_training("source", epochs=1).best)
    others = Vocabulary(("zebra", "roof", "a", UNKNOWN), (1, 1, 1, 0), 1, "keep", "tiny")
    write_vocabulary(workspace.vocab("tiny"), others)
    still = TrainSettings(epochs=1, batch_size=4, lr=0.0)
    run = run_training("next", training=still, init_from=str(source.path))
    weights, before = load_checkpoint(run.last).model.state_dict(), source.model.state_dict()
    place = {word: row for row, word in enumerate(source.tokenizer.words, start=1)}
    assert torch.equal(weights[WORDS][2], before[WORDS][place["roof"]])
    assert torch.equal(weights[WORDS][3], before[WORDS][place["a"]])
    assert not (weights[WORDS][1] == before[WORDS]).all(dim=1).any()
    key = "image_tower.aggregate.0.weight"
    assert torch.equal(weights[key], before[key])


def test_shape_of_the_checkpoint_is_taken_over_unless_given(workspace, run_training, options):
    best = run_training("source", epochs=1, frozen=True, without=("wsa",)).best
    config = configured(options | {"init_from": str(best)}, {"init_from"})
    assert (config.backbone, config.image_size, config.embed_dim) == ("resnet18", 32, 16)
    assert (config.without, config.frozen) == (("wsa",), True)
    config = configured(options | {"init_from": str(best), "image_size": 64, "freeze": False}, {"image_size"})
    assert (config.image_size, config.frozen) == (64, False)


@pytest.mark.parametrize(
    ("given", "frozen", "stages"),
    [
        ({}, False, 3),
        ({"freeze": False}, False, FROM_CHECKPOINT["freeze_stages"]),
        ({"freeze": False, "freeze_stages": 1}, False, 1),
        ({"freeze_stages": 4}, False, 4),
        ({"freeze": True}, True, 0),
    ],
)
def test_stages_frozen_in_the_checkpoint_stay_so_unless_options_say_what_is_frozen(
    saved, options, given, frozen, stages
):
    best = saved(freeze_stages=3)
    config = configured(options | {"init_from": str(best)} | given, {"init_from", *given})
    assert (config.frozen, config.freeze_stages) == (frozen, stages)


def test_backbone_of_a_checkpoint_that_is_frozen_whole_stays_so_whatever_its_stages(saved, options):
    given = options | {"init_from": str(saved(frozen=True, freeze_stages=2))}
    config = configured(given, {"init_from"})
    assert (config.frozen, config.freeze_stages) == (True, 0)
    config = configured(given | {"freeze_stages": 1}, {"init_from", "freeze_stages"})
    assert (config.frozen, config.freeze_stages) == (False, 1)


def test_model_that_the_checkpoint_does_not_fit_is_refused(run_training):
    best = run_training("source", epochs=1).best
    with pytest.raises(SwanError, match=r"--init-from .*: it lacks \d+ weights") as error:
        run_training("next", embed_dim=24, init_from=str(best))
    assert "--embed-dim" in error.value.hint


def test_parts_may_be_left_out_of_a_model_that_starts_from_a_whole_one(run_training):
    best = run_training("source", epochs=1).best
    run = run_training("next", epochs=1, init_from=str(best), without=("tcge",))
    assert load_checkpoint(run.best).model.text_tower.tcge is None


@pytest.mark.parametrize(("first", "second"), [("repaired", "published"), ("published", "repaired")])
def test_run_of_one_variant_may_start_from_the_other(run_training, first, second):
    best = run_training("source", epochs=1, variant=first).best
    run = run_training("next", epochs=1, variant=second, init_from=str(best))
    settings = load_checkpoint(run.best).model.settings
    assert settings.variant == second
    assert settings.without == (("pool",) if first == "published" else ())  # which that one lacks


def test_resumed_run_needs_neither_its_starting_weights_nor_its_vocabulary_file(
    workspace, run_training, tmp_path
):
    best = run_training("source", epochs=1).best
    run_training("next", epochs=1, init_from=str(best))
    best.unlink()
    workspace.vocab("tiny").unlink()
    run = run_training("next", epochs=2, init_from=str(best), resume=True)
    assert load_checkpoint(run.last).origin["epoch"] == 2


def test_start_from_a_gru_on_a_data_set_without_vocabulary_says_how_to_make_one(workspace, run_training):
    best = run_training("source", epochs=1).best
    workspace.vocab("tiny").unlink()
    with pytest.raises(SwanError, match=r"vocab\.h5: no such file") as error:
        run_training("next", epochs=1, init_from=str(best))
    assert error.value.hint == "make it: swan vocab --dataset tiny"


def test_published_vocabulary_may_start_a_run_on_any_data_set(run_training, options, tmp_path):
    """With weights come their words, whatever data set they were counted from."""
    best = run_training("source", epochs=1).best
    write_vocabulary(tmp_path / "v.h5", Vocabulary(("red", UNKNOWN), (1, 0), 1, "keep", "rsitmd"))
    run = run_training("next", epochs=1, init_from=str(best), vocab=str(tmp_path / "v.h5"))
    assert load_checkpoint(run.best).tokenizer.words == ("red", UNKNOWN)
    export_json(tmp_path / "v.json", Vocabulary(("red", UNKNOWN), (0, 0), 0, "keep", ""))
    run_training("json", epochs=1, vocab=str(tmp_path / "v.json"))
