"""How items meet in batches: captions alone repaired, in shards as published; equal pictures once."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from swancli.embed.archive import archive_of_source, embed_archive
from swancli.embed.embed import embed_dataset, open_dataset
from swancli.embed.shards import WHOLE
from swancli.embed.sources import open_source
from swancli.errors import ImageError
from swancli.model.checkpoint import Checkpoint, save_checkpoint
from swancli.model.encoder import Encoder
from swancli.model.settings import ModelSettings
from swancli.model.swan import Swan
from swancli.store.catalogue import Catalogue
from swancli.store.dataset import create_dataset
from swancli.vocab.vocabulary import count_words

NOUNS = ["road", "pond", "port", "farm", "park"]


def texts(count):
    """Captions of 3 to 12 words, in no order of length."""
    rng = np.random.default_rng(0)
    return [" ".join(rng.choice(NOUNS, 3 + int(size))) for size in rng.integers(0, 10, count)]


@pytest.fixture(scope="module")
def vocabulary():
    return count_words(NOUNS, min_count=1, stop_words="keep", dataset="d")


def model_of(variant, words):
    torch.manual_seed(0)
    settings = ModelSettings(words=words, image_size=32, embed_dim=16, frozen=True, variant=variant)
    return Swan(settings).eval()


def encoder_of(model, vocabulary):
    return Encoder(Checkpoint.unsaved(model, vocabulary), "cpu")


@torch.no_grad()
def encode_shard(model, vocabulary, captions):
    """One shard as the published code makes it: in order, padded to the longest among them."""
    numbers = [vocabulary.encode(caption) for caption in captions]
    longest = max(map(len, numbers))
    tokens = torch.tensor([row + [0] * (longest - len(row)) for row in numbers])
    return model.encode_captions(tokens, torch.tensor([len(row) for row in numbers])).numpy()


@pytest.mark.parametrize("shard", [128, 256])
def test_published_captions_are_encoded_in_the_order_given_in_shards(vocabulary, shard):
    model, captions = model_of("published", len(vocabulary)), texts(300)
    found = encoder_of(model, vocabulary).captions(captions, shard=shard)
    for start in range(0, 300, shard):
        expected = encode_shard(model, vocabulary, captions[start : start + shard])
        np.testing.assert_allclose(found[start : start + shard], expected, atol=1e-6)


def test_published_shard_is_128_and_an_embedding_depends_on_it(vocabulary):
    model, captions = model_of("published", len(vocabulary)), texts(140)
    captions[100] += " park" * 20
    encoder = encoder_of(model, vocabulary)
    whole = encoder.captions(captions)
    assert np.abs(whole[:128] - encode_shard(model, vocabulary, captions[:128])).max() < 1e-6
    first = encoder.captions(captions[:100])
    assert np.abs(first - whole[:100]).max() > 1e-3


def test_repaired_captions_do_not_depend_on_their_order(vocabulary):
    model, captions = model_of("repaired", len(vocabulary)), texts(140)
    encoder = encoder_of(model, vocabulary)
    np.testing.assert_array_equal(encoder.captions(captions), encoder.captions(captions[::-1])[::-1])


@pytest.mark.parametrize(("split", "shard"), [("val", 256), ("test", 128)])
def test_published_shards_of_a_split_are_those_of_validation_and_test(vocabulary, tmp_path, split, shard):
    """The longest caption comes after the 128th, so that both sizes differ in all that come before it."""
    captions = texts(300)
    captions[200] += " park" * 20
    with create_dataset(tmp_path / "dataset.h5", "d", (32, 32)) as writer:
        for row in range(60):
            writer.add(np.full((32, 32, 3), row, np.uint8), f"{row:032x}", row)
        names = [f"{row}.png" for row in range(60)]
        writer.finish(Catalogue.of(names, [None] * 60, [split] * 60, captions, np.repeat(range(60), 5)))
    model = model_of("published", len(vocabulary))
    save_checkpoint(tmp_path / "best.pt", model, vocabulary, {"dataset": "d", "run": "r", "epoch": 1})
    encoder = Encoder(tmp_path / "best.pt", "cpu")
    with open_dataset(tmp_path / "dataset.h5", encoder.checkpoint) as stored:
        found = embed_dataset(encoder, stored, split=split).caption
    for start in range(0, 300, shard):
        expected = encode_shard(model, vocabulary, captions[start : start + shard])
        np.testing.assert_allclose(found[start : start + shard], expected, atol=1e-6)


def test_pictures_whose_digests_are_known_to_be_equal_are_read_once(vocabulary):
    """The result is that of comparing pixels, in the order of the rows."""
    model, rng = model_of("repaired", 5), np.random.default_rng(0)
    pictures = rng.integers(0, 255, (3, 32, 32, 3), dtype=np.uint8)[[0, 1, 0, 2, 1]]
    read = []

    def read_image(row):
        read.append(row)
        return pictures[row]

    dataset = SimpleNamespace(image=read_image, digests=lambda rows: np.array(list("abacb"), object)[rows])
    encoder = Encoder(Checkpoint.unsaved(model, vocabulary), "cpu", batch_size=2)
    known = encoder.rows(dataset, np.arange(5))
    assert read == [0, 1, 3]
    np.testing.assert_array_equal(known, encoder.images(pictures))


@pytest.fixture
def dataset(tmp_path):
    """Sixty images; a train and a test image take turns, and a training caption is the longest of all."""
    with create_dataset(tmp_path / "dataset.h5", "d", (32, 32)) as writer:
        rng = np.random.default_rng(0)
        for row in range(60):
            writer.add(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8), f"{row:032x}", row)
        names = [f"{row}.png" for row in range(60)]
        splits, captions = ["train", "test"] * 30, texts(300)
        captions[0] += " park" * 20
        writer.finish(Catalogue.of(names, [None] * 60, splits, captions, np.repeat(range(60), 5)))
    return tmp_path / "dataset.h5"


@pytest.mark.parametrize("variant", ["published", "repaired"])
def test_whole_data_set_gives_each_split_the_embeddings_it_has_alone(dataset, vocabulary, variant, tmp_path):
    """So that `swan eval` and `swan eval --embeddings` agree, though published embeddings know neighbours."""
    model = model_of(variant, len(vocabulary))
    save_checkpoint(tmp_path / "best.pt", model, vocabulary, {"dataset": "d", "run": "r", "epoch": 1})
    encoder = Encoder(tmp_path / "best.pt", "cpu")
    with open_dataset(dataset, encoder.checkpoint) as stored:
        whole = embed_dataset(encoder, stored)
        test = embed_dataset(encoder, stored, split="test")
    assert whole.made_by.variant == variant
    rows = np.isin(whole.catalogue.image, np.flatnonzero(whole.catalogue.split == "test"))
    assert rows.sum() == 150
    np.testing.assert_allclose(whole.caption[rows], test.caption, atol=1e-6)
    np.testing.assert_allclose(whole.image[whole.catalogue.split == "test"], test.image, atol=1e-6)


def test_link_that_leads_out_of_the_folder_is_refused_or_left_out(vocabulary, tmp_path):
    model = model_of("repaired", len(vocabulary))
    save_checkpoint(tmp_path / "best.pt", model, vocabulary, {"dataset": "d", "run": "r", "epoch": 1})
    encoder, folder = Encoder(tmp_path / "best.pt", "cpu", batch_size=32), tmp_path / "images"
    folder.mkdir()
    Image.new("RGB", (8, 8)).save(folder / "own.png")
    Image.new("RGB", (8, 8)).save(tmp_path / "secret.png")
    (folder / "secret.png").symlink_to(tmp_path / "secret.png")
    (folder / "same.png").symlink_to("own.png")
    output = tmp_path / "embeddings.h5"

    def embed(missing):
        archive = archive_of_source(open_source(str(folder)), 32, missing)
        return embed_archive(encoder, archive, output, WHOLE)

    with pytest.raises(ImageError, match=r"secret\.png: leads out of the folder") as told:
        embed("error")
    assert "cp -rL" in told.value.hint
    assert "--missing skip" in told.value.hint
    assert {path.name for path in tmp_path.iterdir()} == {"best.pt", "images", "secret.png"}
    outcome = embed("skip")
    assert outcome.embeddings.catalogue.filename.tolist() == ["own.png", "same.png"]
    assert [name for name, _ in outcome.skipped] == ["secret.png"]
