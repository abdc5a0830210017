"""Checkpoints of the published code, and of strangers: what is read, and that nothing in them runs."""

import argparse
import os
import subprocess
from zipfile import ZIP_DEFLATED, ZipFile

import pytest
import torch

from swancli.errors import SwanError
from swancli.model.checkpoint import export_published, load_checkpoint, save_checkpoint
from swancli.model.settings import ModelSettings
from swancli.model.swan import Swan
from swancli.model.weights import stored_bytes
from swancli.store.torch_file import Unread, read_torch_file
from swancli.vocab.vocabulary import UNKNOWN, Vocabulary, export_json

WORDS = Vocabulary(("road", "pond", UNKNOWN), (0, 0, 0), 0, "keep", "")


class Call:
    """Pickles as a call of a function with arguments, which a plain unpickler would make."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.fixture
def vocab(tmp_path):
    export_json(tmp_path / "vocab.json", WORDS)
    return tmp_path / "vocab.json"


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A checkpoint in the published layout, of a model of random weights."""
    torch.manual_seed(0)
    model = Swan(ModelSettings(words=8589, backbone="resnet50", frozen=True, variant="published"))
    folder = tmp_path_factory.mktemp("published")
    save_checkpoint(
        folder / "best.pt", model, WORDS, {"dataset": "a", "run": "b", "epoch": 4, "val_mR": 20.0, "steps": 7}
    )
    export_published(load_checkpoint(folder / "best.pt"), folder / "SWAN_best.pth.tar")
    return folder


def test_bytes_do_not_depend_on_the_name(published, tmp_path):
    again = load_checkpoint(published / "best.pt")
    for name in ("one.pt", "another.pt"):
        save_checkpoint(tmp_path / name, again.model, again.tokenizer, again.origin)
    assert (tmp_path / "one.pt").read_bytes() == (tmp_path / "another.pt").read_bytes()


def test_exported_file_has_the_published_layout(published):
    content = torch.load(published / "SWAN_best.pth.tar", weights_only=False)
    assert sorted(content) == ["Eiters", "args", "best_rsum", "epoch", "model"]
    assert (content["epoch"], content["Eiters"]) == (4, 7)
    assert content["best_rsum"] == pytest.approx(120)  # the sum of six recalls, of which mR is the mean
    assert type(content["args"]) is argparse.Namespace
    assert content["model"]["text_encoder.embed.weight"].shape == (8590, 300)
    assert content["model"]["image_encoder.resnet.fc.weight"].shape == (30, 2048)


def test_published_checkpoint_gives_back_the_model(published, vocab):
    ours = load_checkpoint(published / "best.pt").model.state_dict()
    loaded = load_checkpoint(published / "SWAN_best.pth.tar", vocab)
    assert loaded.model.settings.variant == "published"
    assert loaded.tokenizer.words == WORDS.words
    assert loaded.origin["epoch"] == 4
    again = loaded.model.state_dict()
    assert ours.keys() == again.keys()
    assert all(torch.equal(ours[key], again[key]) for key in ours)


def test_weights_saved_from_several_gpus_are_read(published, vocab, tmp_path):
    content = torch.load(published / "SWAN_best.pth.tar", weights_only=False)
    content["model"] = {f"module.{key}": value for key, value in content["model"].items()}
    torch.save(content, tmp_path / "many.pth.tar")
    assert load_checkpoint(tmp_path / "many.pth.tar", vocab).origin["run"] == "many.pth.tar"


def test_published_checkpoint_needs_its_vocabulary_and_ours_takes_none(published, vocab):
    with pytest.raises(SwanError, match="contains no vocabulary") as error:
        load_checkpoint(published / "SWAN_best.pth.tar")
    assert "--vocab" in error.value.hint
    with pytest.raises(SwanError, match="contains its own vocabulary"):
        load_checkpoint(published / "best.pt", vocab)
    assert load_checkpoint(published / "best.pt", vocab, spare=True).tokenizer == WORDS


def test_vocabulary_larger_than_the_table_is_refused(published, tmp_path):
    words = tuple(f"w{i}" for i in range(9000))
    export_json(tmp_path / "big.json", Vocabulary((*words, UNKNOWN), (0,) * 9001, 0, "keep", ""))
    with pytest.raises(SwanError, match=r"big\.json: 9001 words, but .* for 8589"):
        load_checkpoint(published / "SWAN_best.pth.tar", tmp_path / "big.json")


@pytest.mark.parametrize("change", ["missing", "extra", "shape", "no tensor"])
def test_weights_that_do_not_fit_are_named(published, vocab, tmp_path, change):
    content = torch.load(published / "SWAN_best.pth.tar", weights_only=False)
    weights, key = content["model"], "agg.fc_1.bias"
    if change == "missing":
        del weights[key]
    elif change == "extra":
        weights["agg.fc_3.bias"] = weights[key]
    elif change == "shape":
        weights[key] = weights[key][:7]
    else:
        weights[key] = argparse.Namespace()
    torch.save(content, tmp_path / "odd.pth.tar")
    with pytest.raises(SwanError, match=r"odd\.pth\.tar: .*(aggregate\.0\.bias|agg\.fc_[13]\.bias)"):
        load_checkpoint(tmp_path / "odd.pth.tar", vocab)


# ---------------------------------------------------------------------------------------------------------
# nothing in a file executes


@pytest.mark.parametrize("old_format", [False, True])
def test_options_of_a_training_script_are_passed_over(tmp_path, old_format):
    options = argparse.Namespace(lr=1, inner=argparse.Namespace(a=2))
    content = {"epoch": 1, "args": options, "weight": torch.ones(2)}
    torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=not old_format)
    read = read_torch_file(tmp_path / "a.pth", "")
    assert isinstance(read["args"], Unread)
    assert read["epoch"] == 1
    assert torch.equal(read["weight"], torch.ones(2))


@pytest.mark.parametrize("old_format", [False, True])
@pytest.mark.parametrize("function", [os.system, subprocess.check_call, eval, exec])
def test_calls_in_a_file_are_not_made(tmp_path, function, old_format):
    marker = tmp_path / "marker"
    argument = f"open({str(marker)!r}, 'w')" if function in (eval, exec) else f"touch {marker}"
    arguments = [["touch", str(marker)]] if function is subprocess.check_call else [argument]
    content = {"epoch": 1, "args": Call(function, *arguments), "model": {}}
    torch.save(content, tmp_path / "evil.pth", _use_new_zipfile_serialization=not old_format)
    try:
        assert isinstance(read_torch_file(tmp_path / "evil.pth", "")["args"], Unread)
    except SwanError as error:
        assert "it asks for" in error.problem  # noqa: PT017 (either way is safe)
    assert not marker.exists()
    with pytest.raises(SwanError, match=r"evil\.pth"):
        load_checkpoint(tmp_path / "evil.pth")
    assert not marker.exists()


def test_refusal_does_not_tell_how_to_load_unsafely(tmp_path):
    torch.save({"args": Call(os.system, "true")}, tmp_path / "evil.pth")
    with pytest.raises(SwanError) as error:
        read_torch_file(tmp_path / "evil.pth", "train again")
    assert "system" in error.value.problem
    assert "weights_only" not in str(error.value)


# ---------------------------------------------------------------------------------------------------------
# nothing in a file takes more memory than it has


def changed(source, target, change):
    """A checkpoint with other content."""
    content = torch.load(source, weights_only=True)
    change(content)
    torch.save(content, target)
    return target


def test_model_that_its_weights_do_not_fill_is_not_made(tiny_model, tmp_path, monkeypatch):
    """Settings of a few bytes can ask for any amount: this network has 3.5 GB of weights."""

    def larger(content):
        content["settings"]["backbone"] = "timm/convnext_xxlarge"

    path = changed(tiny_model, tmp_path / "a.pt", larger)
    monkeypatch.setattr("swancli.model.checkpoint.without_random_start", lambda: pytest.fail("it was made"))
    with pytest.raises(SwanError, match="its weights do not fit its settings"):
        load_checkpoint(path)


def test_model_that_is_much_larger_than_its_weights_is_not_made(tiny_model, monkeypatch):
    """As with weights that all share one storage, or settings that ask for large masks."""
    monkeypatch.setattr("swancli.model.checkpoint.SMALL", 0)
    load_checkpoint(tiny_model)
    monkeypatch.setattr("swancli.model.checkpoint.MOST_GROWTH", 0.5)
    with pytest.raises(SwanError, match="its settings ask for"):
        load_checkpoint(tiny_model)


def test_shared_storage_counts_once():
    one = torch.zeros(100)
    assert stored_bytes([one, one[:50], one.view(10, 10), torch.zeros(3, dtype=torch.half)]) == 400 + 6


def test_weight_that_repeats_one_number_is_refused(tiny_model, tmp_path):
    """Four bytes in the file, any amount in memory."""

    def repeat(content):
        key = "text_tower.word_vectors.weight"
        content["model"][key] = torch.zeros(1).expand(content["model"][key].shape)

    with pytest.raises(SwanError, match="plain tensors"):
        load_checkpoint(changed(tiny_model, tmp_path / "a.pt", repeat))


def test_compressed_file_is_refused(tmp_path):
    """torch writes none, and would unpack one of 29 MB to 29 GB."""
    torch.save({"a": torch.zeros(100_000)}, tmp_path / "a.pt")
    with ZipFile(tmp_path / "a.pt") as whole, ZipFile(tmp_path / "b.pt", "w", ZIP_DEFLATED) as small:
        for name in whole.namelist():
            small.writestr(name, whole.read(name))
    read_torch_file(tmp_path / "a.pt", "")
    with pytest.raises(SwanError, match="more than the file has"):
        read_torch_file(tmp_path / "b.pt", "")


@pytest.mark.parametrize(
    "match", [torch.zeros(2), {"offset": torch.zeros(2)}, [0.5], {1: 2.0}, "half"], ids=str
)
def test_match_threshold_that_is_no_record_of_numbers_is_refused(tiny_model, tmp_path, match):
    def put(content):
        content["origin"]["match_threshold"] = match

    with pytest.raises(SwanError, match="match threshold is not a record of numbers"):
        load_checkpoint(changed(tiny_model, tmp_path / "a.pt", put))
