"""Features: what they hold, what they cost, and that training on them is training on the images."""

import h5py
import numpy as np
import pytest
import torch

from swancli.errors import StoreError, SwanError
from swancli.machine.processes import ALONE
from swancli.model.checkpoint import Checkpoint
from swancli.model.encoder import Encoder
from swancli.model.inputs import Preprocessing, stack_images
from swancli.model.settings import ModelSettings
from swancli.model.swan import Swan
from swancli.store.catalogue import Catalogue
from swancli.store.dataset import Dataset, create_dataset
from swancli.train import validation
from swancli.train.batches import augment, draw_views
from swancli.train.features import (
    Features,
    FeatureSettings,
    Towers,
    encode_features,
    features_cost,
    write_features,
)
from swancli.vocab.vocabulary import count_words

CPU = torch.device("cpu")
SETTINGS = FeatureSettings("resnet18", "", image_size=32, augmentation="overhead", views=3)
INPUT = Preprocessing(32)


@pytest.fixture
def dataset(tmp_path):
    """Eight images of noise: rows 0 to 4 train, 5 and 6 validate, 7 tests."""
    splits = ["train"] * 5 + ["val"] * 2 + ["test"]
    rng = np.random.default_rng(0)
    with create_dataset(tmp_path / "dataset.h5", "d", (40, 40)) as writer:
        for row in range(8):
            writer.add(rng.integers(0, 255, (40, 40, 3), dtype=np.uint8), f"{row:032x}", row)
        names = [f"{row}.png" for row in range(8)]
        writer.finish(Catalogue.of(names, [None] * 8, splits, ["a field"] * 8, range(8)))
    with Dataset(tmp_path / "dataset.h5") as stored:
        yield stored


@pytest.fixture(scope="module")
def towers():
    return Towers(SETTINGS)


@pytest.fixture
def features(dataset, towers, tmp_path):
    write_features(dataset, towers, tmp_path / "features.h5", CPU, lambda *_: None)
    with Features(tmp_path / "features.h5") as stored:
        yield stored


def model_of(seed=0, **changes):
    torch.manual_seed(seed)
    settings = {"words": 5, "backbone": "resnet18", "image_size": 32, "embed_dim": 16, "frozen": True}
    return Swan(ModelSettings(**settings | changes)).eval()


def encoder_of(model):
    vocabulary = count_words(["field"], min_count=1, stop_words="keep", dataset="d")
    return Encoder(Checkpoint.unsaved(model, vocabulary), "cpu")


def test_a_view_of_resnet50_at_256_px_is_counted_as_it_is_stored():
    """2 bytes of 64 x 64 x 64, 16 x 16 x 512, 16 x 16 x 1024 and 8 x 8 x 2048."""
    size = Towers(FeatureSettings("resnet50", "", 256, "paper")).view_bytes()
    assert size == 2 * (64 * 64 * 64 + 16 * 16 * (512 + 1024) + 8 * 8 * 2048) == 1_572_864


def test_announced_size_is_that_of_the_file(dataset, features, towers):
    cost = features_cost(dataset, towers, features.path, most=1)
    assert (cost.training, cost.validation, cost.size) == (5, 2, 17 * towers.view_bytes())
    assert cost.size < features.path.stat().st_size < cost.size + 100_000


def test_features_past_the_cap_are_refused_with_the_views_that_fit(dataset, towers, tmp_path):
    most = 13 * towers.view_bytes() / 1e9  # two views of five images, and two plain ones: 12
    with pytest.raises(SwanError, match="3 views of 5 images") as refused:
        features_cost(dataset, towers, tmp_path / "features.h5", most)
    assert "--views 2" in refused.value.hint
    with pytest.raises(SwanError) as refused:
        features_cost(dataset, towers, tmp_path / "features.h5", most / 3)
    assert "--max-gb" in refused.value.hint


def test_every_training_image_has_its_views_and_every_validation_image_one(features):
    images = np.arange(5)
    picked = [features.varied(images, np.random.default_rng(seed)).tolist() for seed in range(30)]
    assert {tuple(row // 3 for row in rows) for rows in picked} == {(0, 1, 2, 3, 4)}
    assert set(np.ravel(picked)) == set(range(15))
    assert features.plain(np.array([6, 5])).tolist() == [16, 15]


def test_views_differ_and_plain_ones_are_the_image(dataset, features):
    maps = features.read(np.arange(3))
    assert all(not torch.equal(values[0], values[1]) for values in maps.values())
    model = model_of()
    plain = encode_features(encoder_of(model), features, np.array([5]))
    with torch.no_grad():
        resized = stack_images([INPUT.resized(dataset.image(5))])
        expected = model.encode_images(INPUT.normalise(resized)).numpy()
    np.testing.assert_allclose(plain, expected, atol=2e-3)  # the maps are in half precision


def test_stored_maps_are_those_of_the_backbone(dataset, features):
    """Of views that the seed draws from images of 35 px, 278/256 of the input's side."""
    images = stack_images(INPUT.resized(dataset.image(row), 35) for row in np.repeat(range(5), 3))
    drawn = draw_views(15, 35, 32, "overhead", torch.Generator().manual_seed(0))
    pixels = augment(images, drawn).round().to(torch.uint8)[[4, 11]]
    with torch.no_grad():
        maps = model_of().backbone(INPUT.normalise(pixels))
    stored = features.read(np.array([4, 11]))
    assert stored.keys() == maps.keys() == {"shallow", "deep1", "deep2", "deep3"}
    for depth, values in stored.items():
        assert values.dtype == torch.float16
        torch.testing.assert_close(values.float(), maps[depth], rtol=2e-3, atol=1e-4)


def test_same_seed_gives_the_same_features(dataset, features, tmp_path):
    write_features(dataset, Towers(SETTINGS), tmp_path / "again.h5", CPU, lambda *_: None)
    with h5py.File(features.path) as one, h5py.File(tmp_path / "again.h5") as other:
        for name, values in one["views"].items():
            np.testing.assert_array_equal(values[:], other["views"][name][:])


@pytest.mark.parametrize(
    ("model", "augmentation", "problem"),
    [
        ({"frozen": False}, "overhead", "heads alone"),
        ({"variant": "published"}, "overhead", "item 6"),
        ({"image_size": 64}, "overhead", "--image-size 32, not 64"),
        ({"backbone": "resnet34"}, "overhead", "--backbone resnet18, not resnet34"),
        ({"seed": 1}, "overhead", "other weights"),
        ({}, "paper", "--augmentation overhead, not paper"),
    ],
)
def test_features_of_something_else_are_refused(dataset, features, model, augmentation, problem):
    with pytest.raises(SwanError, match=problem):
        features.check(dataset, model_of(**model), augmentation)
    features.check(dataset, model_of(), "overhead")


def test_features_are_refused_after_the_data_set_was_prepared_again(dataset, features):
    dataset.digest = "of other rows"
    with pytest.raises(SwanError, match="prepared again"):
        features.check(dataset, model_of(), "overhead")


@pytest.mark.parametrize("from_features", [True, False])
def test_equal_validation_pictures_are_encoded_once(dataset, features, monkeypatch, from_features):
    """In half precision two encodings of one picture may differ, and a tie would be broken by chance."""
    encoder, seen = encoder_of(model_of()), []
    apart = encode_features(encoder, features, np.array([5, 6]))
    assert not np.array_equal(apart[0], apart[1])
    monkeypatch.setattr(dataset, "digests", lambda rows: np.full(len(rows), "same", object))
    monkeypatch.setattr(validation, "embedding_grids", lambda images, _: seen.append(images))
    monkeypatch.setattr(validation, "retrieval_scores", lambda *_: None)
    validation.validate(encoder, dataset, features if from_features else None, lambda *_: None, ALONE)
    (images,) = seen
    np.testing.assert_array_equal(images[0], images[1])
    np.testing.assert_allclose(images[0], apart[0], atol=2e-3)


def test_maps_beyond_half_precision_are_refused_and_nothing_is_written(dataset, tmp_path):
    weights = model_of().backbone.network.state_dict()
    weights["layer4.1.bn2.bias"] += 70_000  # the largest float16 is 65,504
    torch.save(weights, tmp_path / "large.pt")
    settings = FeatureSettings("resnet18", str(tmp_path / "large.pt"), 32, "none", views=1)
    with pytest.raises(SwanError, match="half precision"):
        write_features(dataset, Towers(settings), tmp_path / "features.h5", CPU, lambda *_: None)
    assert not list(tmp_path.glob("*features*"))


def delete_a_map(file):
    del file["views/deep2"]


def cut_a_map(file):
    cut = file["views/deep2"][:-1]
    del file["views/deep2"]
    file["views/deep2"] = cut


def lose_validation(file):
    file["views/varied"][:] = True


def spoil_an_attribute(file):
    file.attrs["views"] = [1, 2]


@pytest.mark.parametrize("harm", [delete_a_map, cut_a_map, lose_validation, spoil_an_attribute])
def test_damaged_features_are_reported(features, harm):
    features.__exit__()
    with h5py.File(features.path, "a") as file:
        harm(file)
    with pytest.raises(StoreError, match="damaged"):
        Features(features.path)
