"""What a model is before its first step: with a text transformer, and from a whole checkpoint."""

import dataclasses
import json
import shutil

import pytest
import torch
from made_bert import LETTERS, bert_tensors, table_of, write_bert

from swancli.errors import StoreError, SwanError
from swancli.model.bert import bert_weights
from swancli.model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from swancli.model.encoder import Encoder
from swancli.model.settings import ModelSettings
from swancli.model.start import continued_model, frozen_bert, named_towers, new_model
from swancli.vocab.vocabulary import count_words
from swancli.vocab.word_pieces import WordPieces
from swancli.vocab.word_vectors import WordVectors

WORDS = ("a", "field", "with", "green", "trees", "many")
TEXTS = ("a green field", "many many trees with a field", "field")
ORIGIN = {"dataset": "d", "run": "r", "epoch": 1}
SETTINGS = ModelSettings(words=0, backbone="timm/test_efficientnet", image_size=64, embed_dim=16)


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """A folder with a BERT of three layers."""
    return write_bert(tmp_path_factory.mktemp("texts") / "bert", WORDS, layers=3)


def started(text, freeze_text=None, seed=0, **changes):
    """The model and its tokenizer."""
    settings = dataclasses.replace(SETTINGS, **changes)
    model, tokenizer, _ = new_model(settings, seed, "", str(text), None, None, freeze_text)
    return model, tokenizer


@pytest.fixture(scope="module")
def checkpoint(bert, tmp_path_factory):
    """A checkpoint with that text tower, partly trained."""
    path = tmp_path_factory.mktemp("checkpoint") / "best.pt"
    model, tokenizer = started(bert, freeze_text=2)
    save_checkpoint(path, model, tokenizer, ORIGIN)
    return path


# ---------------------------------------------------------------------------------------------------------
# the towers that options ask for

LITE0 = "timm/tf_efficientnet_lite0"


@pytest.mark.parametrize(
    ("given", "towers"),
    [
        ((None, None, None), (LITE0, "imagenet", "minilm")),
        ((LITE0, None, "gru"), (LITE0, "imagenet", "gru")),
        ((None, "none", None), (LITE0, "", "minilm")),
        ((None, "w.pt", None), (LITE0, "w.pt", "minilm")),
        (("resnet18", None, None), ("resnet18", "", "minilm")),
        (("resnet18", "none", "bert"), ("resnet18", "", "bert")),
        (("resnet18", "w.pt", None), ("resnet18", "w.pt", "minilm")),
        (("resnet18", "", None), ("resnet18", "", "minilm")),  # as features name random ones
    ],
)
def test_towers_that_are_not_given_are_those_that_come_with_swan(given, towers):
    assert named_towers(*given) == towers


# ---------------------------------------------------------------------------------------------------------
# new_model


def test_text_tower_has_the_weights_of_the_folder(bert):
    model, tokenizer = started(bert)
    table = table_of(WORDS)
    assert len(table) == 4 + len(LETTERS) + 5  # "a" is one of the letters
    shape = model.settings.bert
    assert (shape.pieces, shape.width, shape.layers, model.settings.words) == (61, 16, 3, 61)
    expected = bert_weights(bert_tensors(61, 3), shape, "")
    own = model.text_tower.bert.state_dict()
    assert own.keys() == expected.keys()
    assert all(torch.equal(own[key], expected[key]) for key in own)
    numbers = [table.index(piece) for piece in ("[CLS]", "a", "green", "field", "[SEP]")]
    assert tokenizer.encode("A green field") == numbers
    alone, pieces = frozen_bert(str(bert))
    assert alone.digest() == model.text_tower.bert.digest()
    assert pieces.layout == tokenizer.layout


def test_seed_draws_what_the_towers_do_not_bring(bert):
    first, again, other = (started(bert, seed=seed)[0].state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[key], again[key]) for key in first)
    key = "text_tower.project.weight"
    assert not torch.equal(first[key], other[key])
    assert first[key].shape == (16, 16)  # from BERT's width to D


@pytest.mark.parametrize(("given", "frozen"), [(None, 3), (3, 3), (2, 2), (1, 1), (0, 0)])
def test_first_layers_are_frozen_and_by_default_all(bert, given, frozen):
    model, _ = started(bert, freeze_text=given)
    assert model.settings.freeze_text == frozen
    names = {name for name, weight in model.text_tower.bert.named_parameters() if weight.requires_grad}
    trained = {name.split(".")[2] for name in names if name.startswith("encoder.layers.")}
    assert trained == {str(layer) for layer in range(frozen, 3)}
    tables = {"words.weight", "positions.weight", "norm.weight", "norm.bias"}
    assert tables & names == (set() if frozen else tables)
    assert (
        len(model.parts()["text"])
        == len(names)
        == (0 if frozen == 3 else 12 * (3 - frozen) + 4 * (not frozen))
    )


def test_more_layers_than_there_are_is_an_error(bert):
    with pytest.raises(SwanError, match=r"--freeze-text 4: .*3 layers"):
        started(bert, freeze_text=4)


def test_folder_that_is_no_bert_is_refused_by_file_and_key(tmp_path):
    folder = write_bert(tmp_path / "bert", WORDS, model_type="roberta")
    with pytest.raises(StoreError, match=r"config\.json: model_type 'roberta'; swan reads bert only"):
        started(folder)
    (folder / "config.json").unlink()
    with pytest.raises(StoreError, match=r"config\.json: no such file"):
        started(folder)
    other = write_bert(tmp_path / "other", WORDS)
    (other / "tokenizer.json").unlink()
    with pytest.raises(StoreError, match=r"tokenizer\.json: no such file"):
        started(other)
    for name in ("minilm2", str(tmp_path / "gone")):
        with pytest.raises(SwanError, match="no such folder"):
            started(name)


def test_width_of_word_vectors_is_that_of_the_gru_s_input():
    vocabulary = count_words(["a green field"], min_count=1, stop_words="keep", dataset="d")
    rows = {word: row for row, word in enumerate(vocabulary.words)}
    vectors = torch.zeros(len(vocabulary), 50).numpy()
    vectors[rows["green"]] = 0.25
    has_vector = vectors[:, 0] == 0.25
    settings = dataclasses.replace(SETTINGS, words=len(vocabulary))
    model, tokenizer, notes = new_model(
        settings, 0, "", "gru", vocabulary, WordVectors(vectors, has_vector), None
    )
    assert tokenizer is vocabulary
    assert model.settings.word_dim == 50
    assert model.text_tower.gru.input_size == 50
    table = model.text_tower.word_vectors.weight
    assert (table[rows["green"] + 1] == 0.25).all()
    assert not (table[rows["field"] + 1] == 0).any()
    assert notes == ["1 of 4 words start from word vectors of width 50"]  # with the unknown word


# ---------------------------------------------------------------------------------------------------------
# captions, and the checkpoint


def test_caption_embedding_does_not_depend_on_its_batch(bert):
    model, tokenizer = started(bert)
    encoder = Encoder(Checkpoint.unsaved(model, tokenizer), "cpu")
    together = torch.from_numpy(encoder.captions(TEXTS))
    alone = torch.cat([torch.from_numpy(encoder.captions([text])) for text in TEXTS])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)
    assert (together[0] - together[1]).abs().max() > 1e-3


def test_states_of_word_pieces_give_the_embeddings_of_the_captions(bert):
    model, tokenizer = started(bert)
    encoder = Encoder(Checkpoint.unsaved(model, tokenizer), "cpu")
    numbers = tokenizer.encode_all(TEXTS)
    lengths = torch.tensor([len(row) for row in numbers])
    tokens = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in numbers], batch_first=True)
    with torch.no_grad():
        states = model.text_tower.read(tokens, lengths)
    assert states.shape == (3, 8, 16)
    found = encoder.states([(states, lengths)])
    torch.testing.assert_close(
        torch.from_numpy(found), torch.from_numpy(encoder.captions(TEXTS)), rtol=0, atol=1e-6
    )


def test_checkpoint_carries_tokenizer_and_weights_and_needs_no_folder(tmp_path):
    folder = write_bert(tmp_path / "bert", WORDS)
    model, tokenizer = started(folder, freeze_text=1)
    expected = Encoder(Checkpoint.unsaved(model, tokenizer), "cpu").captions(TEXTS)
    save_checkpoint(tmp_path / "best.pt", model, tokenizer, ORIGIN)
    shutil.rmtree(folder)
    for captions_only in (False, True):
        loaded = load_checkpoint(tmp_path / "best.pt", captions_only=captions_only)
        assert isinstance(loaded.tokenizer, WordPieces)
        assert loaded.model.settings == model.settings
        assert loaded.model.text_tower.bert.frozen == 1
        assert (Encoder(loaded, "cpu").captions(TEXTS) == expected).all()
    assert not hasattr(loaded.model, "backbone")
    with pytest.raises(SwanError, match="contains its own vocabulary"):
        load_checkpoint(tmp_path / "best.pt", "vocab.h5")


def test_checkpoint_whose_tables_disagree_is_damaged(checkpoint, tmp_path):
    content = torch.load(checkpoint, weights_only=True)
    content["settings"]["bert"]["pieces"] = 62
    torch.save(content, tmp_path / "odd.pt")
    wrong = r"first text_tower\.bert\.words\.weight: \(61, 16\) instead of \(62, 16\)"
    with pytest.raises(StoreError, match=rf"odd\.pt: its weights do not fit its settings: .*{wrong}"):
        load_checkpoint(tmp_path / "odd.pt")
    content["settings"]["bert"]["pieces"] = 61
    content["vocabulary"] = {"pieces": json.dumps({"model": 1})}
    torch.save(content, tmp_path / "odd.pt")
    with pytest.raises(StoreError, match=r"odd\.pt: word pieces: not a tokenizer"):
        load_checkpoint(tmp_path / "odd.pt")


# ---------------------------------------------------------------------------------------------------------
# continued_model


def shape_of(source):
    """The settings that a run has which takes over the shape of a checkpoint."""
    theirs = source.model.settings
    kept = ("backbone", "image_size", "embed_dim", "variant", "without")
    return ModelSettings(words=0, **{name: getattr(theirs, name) for name in kept})


def test_run_continues_from_a_checkpoint_with_its_text_tower(checkpoint):
    source = load_checkpoint(checkpoint)
    model, tokenizer, notes = continued_model(shape_of(source), 5, source, None, None)
    own, theirs = model.state_dict(), source.model.state_dict()
    assert own.keys() == theirs.keys()
    assert all(torch.equal(own[key], theirs[key]) for key in own)
    assert tokenizer is source.tokenizer
    assert notes == []
    assert model.settings.preprocessing == source.model.settings.preprocessing
    assert model.settings.freeze_text == 2
    thawed, _, _ = continued_model(shape_of(source), 5, source, None, 0)
    assert (thawed.settings.freeze_text, thawed.text_tower.bert.frozen) == (0, 0)
    with pytest.raises(SwanError, match=r"it lacks .* weights of this model"):
        continued_model(dataclasses.replace(shape_of(source), embed_dim=24), 5, source, None, None)


def test_image_size_that_the_backbone_does_not_take_is_refused(bert):
    name = "timm/test_coatnet"  # which takes 160 pixels only
    model, tokenizer = started(bert, backbone=name, image_size=160)
    source = Checkpoint.unsaved(model, tokenizer)
    assert continued_model(shape_of(source), 0, source, None, None)
    with pytest.raises(SwanError, match=f"--image-size 96: {name} does not take it") as error:
        continued_model(dataclasses.replace(shape_of(source), image_size=96), 0, source, None, None)
    assert "--image-size 160" in error.value.hint


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """The checkpoint of a small model of open_clip, read from its folder."""
    from made_clip import make_model, model_cfg, save_folder

    cfg = model_cfg()
    folder = save_folder(tmp_path_factory.mktemp("clips") / "clip", make_model(cfg), cfg)
    return load_checkpoint(f"open_clip:{folder}")


def test_model_of_open_clip_continues_with_its_own_shape(clip):
    model, tokenizer, _ = continued_model(shape_of(clip), 0, clip, None, None)
    settings = model.settings
    assert (settings.embed_dim, settings.image_size, settings.fit) == (16, 32, "crop")
    assert settings.open_clip == clip.model.settings.open_clip
    assert tokenizer is clip.tokenizer
    own, theirs = model.state_dict(), clip.model.state_dict()
    assert all(torch.equal(own[key], theirs[key]) for key in theirs)
    parts = model.parts()
    assert parts["backbone"]
    assert parts["text"]
    assert not parts["heads"]
    frozen, _, _ = continued_model(shape_of(clip), 0, clip, None, 3)  # all layers of its text tower
    names = {id(weight): name for name, weight in frozen.named_parameters()}
    left = {names[id(weight)].split(".")[1] for weight in frozen.parts()["text"]}
    assert left == {"ln_final", "text_projection"}


@pytest.mark.parametrize(
    ("change", "option"),
    [
        ({"embed_dim": 32}, "--embed-dim"),
        ({"image_size": 64}, "--image-size"),
        ({"backbone": "resnet18"}, "--backbone"),
        ({"without": ("tcge",)}, "--without"),
        ({"variant": "published"}, "--variant"),
    ],
)
def test_model_of_open_clip_takes_no_other_shape(clip, change, option):
    with pytest.raises(SwanError, match=f"{option}: .* is a model of open_clip") as error:
        continued_model(dataclasses.replace(shape_of(clip), **change), 0, clip, None, None)
    assert option in error.value.hint
