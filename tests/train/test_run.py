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
from swancli.train.config import (
    FROM_OPEN_CLIP,
    FROM_RANDOM_WEIGHTS,
    FROM_TRAINED_WEIGHTS,
    TEXT_RATE,
    TrainSettings,
    new_config,
    resumed_config,
)
from swancli.vocab.vocabulary import UNKNOWN, Vocabulary, export_json, read_vocabulary, write_vocabulary
from swancli.vocab.word_vectors import WordVectors

README = Path(swancli.__file__).parent / "train" / "README.md"
WORDS = "text_tower.word_vectors.weight"


@pytest.fixture
def options(workspace):
    """All options of `swan train` at their defaults."""
    return {
        "dataset": "tiny",
        "vocab": str(workspace.vocab("tiny")),
        "weights": "",
        "init_from": "",
        "features": "",
        "freeze": None,
        "backbone": "resnet18",
        "image_size": None,
        "embed_dim": 512,
        "variant": "repaired",
        "without": (),
        "freeze_stages": 0,
        "text": "gru",
        "freeze_text": None,
        **dataclasses.asdict(TrainSettings()),
    }


def test_published_variant_brings_its_recipe(options):
    config = new_config(options | {"variant": "published"}, {"variant"})
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


@pytest.mark.parametrize(
    ("given", "recipe"),
    [
        ({}, (5, 1e-3, 1.0)),
        ({"weights": "resnet18.pth"}, (1, 5e-4, 0.4)),
        ({"weights": "resnet18.pth", "freeze": False}, (1, 5e-4, 0.4)),
        ({"weights": "resnet18.pth", "freeze": False, "backbone_rate": 0.5, "lr": 1e-2}, (1, 1e-2, 0.5)),
        ({"variant": "published", "weights": "resnet50.pth", "freeze": False}, (1, 2e-4, 1.0)),
    ],
)
def test_recipe_depends_on_whether_the_backbone_has_learnt_something(options, given, recipe):
    unsaid = {"backbone_rate": None, "lr": None, "captions_per_image": None}
    training = new_config(options | unsaid | given, set(given)).training
    assert (training.captions_per_image, training.lr, training.backbone_rate) == recipe


def test_readme_and_help_name_the_defaults_of_each_start():
    table = README.read_text(encoding="utf-8").partition("| | from random weights")[2].partition("\n\n")[0]
    rows = [[cell.strip() for cell in line.split("|")[2:-1]] for line in table.splitlines()[2:]]
    named = {cells[3].strip("`-").replace("-", "_"): list(map(float, cells[:3])) for cells in rows}
    starts = ({"text_rate": TEXT_RATE} | FROM_RANDOM_WEIGHTS, {"text_rate": TEXT_RATE} | FROM_TRAINED_WEIGHTS)
    assert named == {name: [*(start[name] for start in starts), FROM_OPEN_CLIP[name]] for name in named}
    assert named.keys() == FROM_OPEN_CLIP.keys()
    helps = {found.name: found.help for found in typer.main.get_command(app).commands["train"].params}
    for name, values in named.items():
        default = helps[name].partition("Default")[2]
        assert set(map(float, re.findall(r"\d+(?:\.\d+)?(?:e-\d+)?", default))) == set(values), name


def test_rate_for_a_frozen_backbone_is_refused(options):
    given = {"weights": "resnet18.pth", "backbone_rate": 0.5}
    with pytest.raises(SwanError, match="the whole backbone is frozen"):
        new_config(options | given, set(given))


def test_given_options_take_precedence_over_the_published_recipe(options):
    given = {"variant": "published", "backbone": "resnet34", "epochs": 3, "freeze": False, "loss": "hardest"}
    config = new_config(options | given, set(given))
    assert (config.backbone, config.frozen, config.training.epochs) == ("resnet34", False, 3)
    assert config.training.loss == "hardest"
    assert config.embed_dim == 512


def test_repaired_variant_is_trained_as_its_options_say(options):
    config = new_config(options, set())
    assert config.training == TrainSettings()
    assert not config.frozen
    assert new_config(options | {"weights": "w.pth"}, {"weights"}).frozen


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
        assert new_config(chosen, {"text", "text_rate"}).training.text_rate == 0.5
        return
    with pytest.raises(SwanError, match="--text-rate has no effect: the text transformer is frozen"):
        new_config(chosen, {"text", "text_rate"})
    assert new_config(chosen, {"text"}).freeze_text == layers


@pytest.mark.parametrize(
    ("before", "layers", "effect"), [(2, None, False), (0, 2, False), (1, None, True), (2, 1, True)]
)
def test_rate_of_a_checkpoint_s_text_transformer_is_refused_if_all_its_layers_are_frozen(
    saved, options, bert, before, layers, effect
):
    best = saved(str(bert), before)
    chosen = options | {"init_from": str(best), "freeze_text": layers, "text_rate": 0.5}
    if effect:
        assert new_config(chosen, {"init_from", "text_rate"}).training.text_rate == 0.5
        return
    with pytest.raises(SwanError, match="--text-rate has no effect: the text transformer is frozen"):
        new_config(chosen, {"init_from", "text_rate"})


def test_contradicting_parts_are_refused_at_once(options):
    with pytest.raises(SwanError, match="gru"):
        new_config(options | {"without": ("gru",)}, {"without"})


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
    config = new_config(options | {"init_from": str(best)}, {"init_from"})
    assert (config.backbone, config.image_size, config.embed_dim) == ("resnet18", 32, 16)
    assert (config.without, config.frozen) == (("wsa",), True)
    config = new_config(options | {"init_from": str(best), "image_size": 64, "freeze": False}, {"image_size"})
    assert (config.image_size, config.frozen) == (64, False)


@pytest.mark.parametrize(
    ("given", "frozen", "stages"),
    [
        ({}, False, 2),
        ({"freeze": False}, False, 0),
        ({"freeze": False, "freeze_stages": 1}, False, 1),
        ({"freeze_stages": 3}, False, 3),
        ({"freeze": True}, True, 0),
    ],
)
def test_stages_frozen_in_the_checkpoint_stay_so_unless_options_say_what_is_frozen(
    saved, options, given, frozen, stages
):
    best = saved(freeze_stages=2)
    config = new_config(options | {"init_from": str(best)} | given, {"init_from", *given})
    assert (config.frozen, config.freeze_stages) == (frozen, stages)


def test_backbone_of_a_checkpoint_that_is_frozen_whole_stays_so_whatever_its_stages(saved, options):
    given = options | {"init_from": str(saved(frozen=True, freeze_stages=2))}
    config = new_config(given, {"init_from"})
    assert (config.frozen, config.freeze_stages) == (True, 0)
    config = new_config(given | {"freeze_stages": 1}, {"init_from", "freeze_stages"})
    assert (config.frozen, config.freeze_stages) == (False, 1)


def test_model_that_the_checkpoint_does_not_fit_is_refused(run_training):
    best = run_training("source", epochs=1).best
    with pytest.raises(SwanError, match=r"--init-from .*: it lacks 78 weights") as error:
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
    assert load_checkpoint(run.best).model.settings.variant == second


def test_resumed_run_needs_neither_its_starting_weights_nor_its_vocabulary_file(
    workspace, run_training, tmp_path
):
    best = run_training("source", epochs=1).best
    run_training("next", epochs=1, init_from=str(best))
    best.unlink()
    workspace.vocab("tiny").unlink()
    run = run_training("next", epochs=2, init_from=str(best), resume=True)
    assert load_checkpoint(run.last).origin["epoch"] == 2


def test_published_vocabulary_may_start_a_run_on_any_data_set(run_training, options, tmp_path):
    """With weights come their words, whatever data set they were counted from."""
    best = run_training("source", epochs=1).best
    write_vocabulary(tmp_path / "v.h5", Vocabulary(("red", UNKNOWN), (1, 0), 1, "keep", "rsitmd"))
    run = run_training("next", epochs=1, init_from=str(best), vocab=str(tmp_path / "v.h5"))
    assert load_checkpoint(run.best).tokenizer.words == ("red", UNKNOWN)
    export_json(tmp_path / "v.json", Vocabulary(("red", UNKNOWN), (0, 0), 0, "keep", ""))
    run_training("json", epochs=1, vocab=str(tmp_path / "v.json"))
