"""Features of two frozen towers: what they contain, and that training on them is training on the data."""

import csv
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import torch
from made_bert import write_bert

from swancli.errors import StoreError, SwanError
from swancli.model.checkpoint import Checkpoint, load_checkpoint
from swancli.model.encoder import Encoder
from swancli.model.settings import ModelSettings
from swancli.model.start import new_model
from swancli.store.catalogue import Catalogue
from swancli.store.dataset import Dataset, create_dataset
from swancli.train.config import RunConfig, TrainSettings
from swancli.train.features import (
    Features,
    FeatureSettings,
    Towers,
    encode_feature_captions,
    encode_features,
    features_cost,
    write_features,
)
from swancli.train.loop import Watch
from swancli.train.run import train_run
from swancli.workspace import Workspace

CPU = torch.device("cpu")
BACKBONE, SIZE = "timm/test_efficientnet", 64
COLOURS = {"red": (200, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 200), "white": (240, 240, 240)}
WORDS = ("a", "field", "one", "roof", "here", "only", *COLOURS)
# Of a caption of three words with [CLS] and [SEP], and of one of four.
PIECES = 5 + 6


def write_data(path):
    """Four images in each split, two captions each; those of the test split have a text of their own."""
    rng = np.random.default_rng(0)
    names, splits = list(COLOURS) * 3, ["train"] * 4 + ["val"] * 4 + ["test"] * 4
    texts = []
    with create_dataset(path, "tiny", (40, 40)) as writer:
        for row, (colour, split) in enumerate(zip(names, splits, strict=True)):
            noise = rng.integers(0, 15, (40, 40, 3))
            writer.add((np.array(COLOURS[colour]) + noise).clip(0, 255).astype(np.uint8), f"{row:032x}", row)
            texts += [f"a {colour} field", f"{'only' if split == 'test' else 'one'} {colour} roof here"]
        files = [f"{colour}_{row}.png" for row, colour in enumerate(names)]
        writer.finish(Catalogue.of(files, names, splits, texts, np.repeat(range(12), 2)))


def settings_of(bert, **changes):
    given = {"image_size": SIZE, "augmentation": "none", "text": str(bert), "views": 1}
    return FeatureSettings(BACKBONE, "", **given | changes)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A root with the data set and its features, and the text tower's folder; not to be changed."""
    base = tmp_path_factory.mktemp("tower features")
    workspace, bert = Workspace(base / "root"), write_bert(base / "bert", WORDS)
    write_data(workspace.dataset("tiny"))
    path, towers = workspace.features("tiny"), Towers(settings_of(bert))
    with Dataset(workspace.dataset("tiny")) as dataset:
        cost = features_cost(dataset, towers, path, most=1)
        captions = towers.caption_bytes(dataset)
        write_features(dataset, towers, path, CPU, lambda *_: None)
        with Features(path) as features:
            yield SimpleNamespace(
                workspace=workspace,
                bert=bert,
                dataset=dataset,
                features=features,
                cost=cost,
                view_bytes=towers.view_bytes(),
                caption_bytes=captions,
            )


def model_of(bert, freeze_text=None, seed=0, **changes):
    given = {"words": 0, "backbone": BACKBONE, "image_size": SIZE, "embed_dim": 16, "frozen": True}
    return new_model(ModelSettings(**given | changes), seed, "", str(bert), None, None, freeze_text)


# ---------------------------------------------------------------------------------------------------------
# what they contain


def test_announced_size_is_exactly_that_of_the_arrays(made):
    """64 px: 2 bytes of 16 x 16 x 24, 4 x 4 x 32, 4 x 4 x 48 and 2 x 2 x 256; of 16 for each word piece."""
    assert made.view_bytes == 2 * (16 * 16 * 24 + 4 * 4 * (32 + 48) + 2 * 2 * 256) == 16_896
    # Images of a colour have the same two texts in both splits: 4 colours, each once.
    assert made.caption_bytes == 2 * 16 * 4 * PIECES == 1408
    assert (made.cost.training, made.cost.validation, made.cost.views) == (4, 4, 1)
    assert made.cost.size == 8 * made.view_bytes + made.caption_bytes
    with h5py.File(made.features.path) as file:
        maps = sum(file[f"views/{depth}"].nbytes for depth in ("shallow", "deep1", "deep2", "deep3"))
        assert maps + file["captions/states"].nbytes == made.cost.size


def test_captions_of_the_test_split_are_not_in_the_file(made):
    with h5py.File(made.features.path) as file:
        text, start = file["captions/text"][:], file["captions/start"][:]
    catalogue = made.dataset.catalogue
    only_test = np.array(["only" in caption for caption in catalogue.text])
    assert only_test.sum() == 4
    assert (text[only_test] == -1).all()
    assert text[:8].tolist() == text[8:16].tolist() == list(range(8))
    assert start.tolist() == np.cumsum([0, *[5, 6] * 4]).tolist()


def test_states_are_those_of_the_text_tower_in_half_precision(made):
    model, pieces, _ = model_of(made.bert)
    states, lengths = made.features.read_states(np.array([1, 2, 9]))
    assert (states.dtype, tuple(states.shape), lengths.tolist()) == (torch.float16, (3, 6, 16), [6, 5, 6])
    for row, caption in enumerate((1, 2, 9)):
        numbers = torch.tensor([pieces.encode(made.dataset.catalogue.text[caption])])
        with torch.no_grad():
            expected = model.eval().text_tower.read(numbers, torch.tensor([numbers.shape[1]]))[0]
        torch.testing.assert_close(states[row, : lengths[row]].float(), expected, rtol=2e-3, atol=1e-3)
        assert (states[row, lengths[row] :] == 0).all()


def test_embeddings_from_features_are_those_from_pixels_and_words(made):
    model, pieces, _ = model_of(made.bert)
    encoder = Encoder(Checkpoint.unsaved(model, pieces), "cpu")
    rows = made.dataset.rows_of("val")
    part, captions = made.dataset.catalogue.select(rows)
    image = encode_features(encoder, made.features, rows)
    caption = encode_feature_captions(encoder, made.features, captions)
    np.testing.assert_allclose(image, encoder.rows(made.dataset, rows), atol=2e-3)
    np.testing.assert_allclose(caption, encoder.captions(part.text), atol=2e-3)


# ---------------------------------------------------------------------------------------------------------
# training


def trained(made, name, features):
    """The rows of `metrics.csv` of two epochs of two steps each, and the last checkpoint."""
    training = TrainSettings(
        epochs=2,
        batch_size=4,
        captions_per_image=1,
        lr=1e-4,  # at a high rate, Adam's first steps make much of little
        schedule="step",
        augmentation="none",
        hide_rare_words=False,
    )
    config = RunConfig(
        dataset="tiny",
        vocab="",
        weights="",
        backbone=BACKBONE,
        image_size=SIZE,
        embed_dim=16,
        frozen=True,
        training=training,
        text=str(made.bert),
        features=features,
    )
    run = made.workspace.run("tiny", name)
    train_run(made.workspace, run, config, "cpu", resume=False, watch=Watch())
    with run.metrics.open() as file:
        return list(csv.DictReader(file)), load_checkpoint(run.last)


def test_training_on_features_is_training_on_the_data(made):
    plain, whole = trained(made, "plain", "")
    fast, heads = trained(made, "fast", made.features.identity)
    assert len(plain) == len(fast) == 2
    for expected, found in zip(plain, fast, strict=True):
        assert float(found["loss"]) == pytest.approx(float(expected["loss"]), abs=1e-2)
        # One place among four images or eight captions is at most a sixth of 25 points.
        assert float(found["mR"]) == pytest.approx(float(expected["mR"]), abs=25 / 6)
    assert float(plain[0]["loss"]) > 0
    start, _, _ = model_of(made.bert)
    before, after, other = (model.state_dict() for model in (start, heads.model, whole.model))
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert changed == {key for key in before if not torch.equal(before[key], other[key])}
    assert {"text_tower.project.weight", "image_tower.aggregate.0.weight"} < changed
    assert not any(key.startswith(("backbone.", "text_tower.bert.")) for key in changed)


# ---------------------------------------------------------------------------------------------------------
# what they are not for


def test_features_of_another_text_tower_are_refused(made, tmp_path):
    check = made.features.check
    check(made.dataset, model_of(made.bert)[0], "none")
    other = write_bert(tmp_path / "other", WORDS, seed=1)
    with pytest.raises(SwanError, match="made with other weights of the text transformer") as error:
        check(made.dataset, model_of(other)[0], "none")
    assert error.value.problem.startswith(f"{made.features.path}: ")
    assert "swan prepare --dataset tiny --features" in error.value.hint
    assert Towers(settings_of(other)).bert.digest() != Towers(settings_of(made.bert)).bert.digest()


@pytest.mark.parametrize("layers", [0, 1])
def test_text_tower_that_is_partly_trained_is_refused(made, layers):
    with pytest.raises(SwanError, match="the text transformer stays frozen") as error:
        made.features.check(made.dataset, model_of(made.bert, freeze_text=layers)[0], "none")
    assert "--freeze-text 2" in error.value.hint


@pytest.mark.parametrize("stages", [0, 2])
def test_backbone_that_is_trained_is_refused_with_the_options_that_do_so(made, stages):
    model, _, _ = model_of(made.bert, frozen=False, freeze_stages=stages)
    with pytest.raises(SwanError, match="the backbone stays frozen") as error:
        made.features.check(made.dataset, model, "none")
    assert error.value.hint == "leave --fine-tune and --freeze-stages out"


def test_gru_is_refused_with_features_of_a_text_transformer(made):
    settings = ModelSettings(words=3, backbone=BACKBONE, image_size=SIZE, embed_dim=16, frozen=True)
    model, _, _ = new_model(settings, 0, "", "gru", None, None, None)
    with pytest.raises(SwanError, match="not with the GRU") as error:
        made.features.check(made.dataset, model, "none")
    assert error.value.hint == f"add --text {made.bert}"


def test_features_of_a_gru_serve_a_text_transformer_of_any_kind(made, tmp_path):
    """They have the maps only, so that captions are encoded in training."""
    write_features(made.dataset, Towers(settings_of("gru")), tmp_path / "maps.h5", CPU, lambda *_: None)
    with Features(tmp_path / "maps.h5") as features:
        assert not features.has_states
        assert features.identity != made.features.identity
        for layers in (0, 2):
            features.check(made.dataset, model_of(made.bert, freeze_text=layers)[0], "none")


def test_damaged_states_are_reported(made, tmp_path):
    def harmed(change):
        path = tmp_path / "harmed.h5"
        path.write_bytes(made.features.path.read_bytes())
        with h5py.File(path, "a") as file:
            change(file)
        return path

    def beyond(file):
        file["captions/text"][0] = 8

    def falling(file):
        file["captions/start"][1] = 0

    def without(file):
        del file["captions/states"]

    for change in (beyond, falling, without):
        with pytest.raises(StoreError, match="damaged"):
            Features(harmed(change))

    def spoil(file):
        file["captions/states"][0] = np.nan

    with (
        Features(harmed(spoil)) as features,
        pytest.raises(StoreError, match=r"states of text\[0\] contains NaN"),
    ):
        features.read_states(np.array([2, 0]))
