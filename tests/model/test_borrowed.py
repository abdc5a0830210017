"""Small checkpoints, which have from the towers that come with swan what is equal to theirs."""

import pytest
import torch
from safetensors.torch import save_file

from swancli.errors import StoreError
from swancli.model.backbone import Backbone
from swancli.model.checkpoint import load_checkpoint, save_checkpoint
from swancli.model.settings import ModelSettings
from swancli.model.start import new_model
from swancli.store.torch_file import read_torch_file, write_torch_file

ORIGIN = {"dataset": "", "run": "small"}


@pytest.fixture(scope="module")
def trained():
    """A model on the towers that come with swan, with one changed weight in each tower, and its tokenizer."""
    settings = ModelSettings(0, "timm/tf_efficientnet_lite0", 64, 16)
    model, tokenizer, _ = new_model(settings, 0, "imagenet", "minilm", None, None, None)
    with torch.no_grad():
        model.backbone.network.conv_head.weight.add_(0.5)
        model.text_tower.bert.positions.weight.add_(0.25)
    return model.eval(), tokenizer


@pytest.fixture(scope="module")
def small(trained, tmp_path_factory):
    path = tmp_path_factory.mktemp("small") / "small.pt"
    save_checkpoint(path, *trained, ORIGIN, small=True)
    return path


def test_small_checkpoint_contains_what_differs_from_the_towers_in_half_precision(trained, small):
    content = read_torch_file(small, "")
    towers = {name for name in content["model"] if name.startswith(("backbone.", "text_tower.bert."))}
    counters = {name for name in content["model"] if name.endswith("num_batches_tracked")}
    assert towers - counters == {"backbone.network.conv_head.weight", "text_tower.bert.positions.weight"}
    assert {value.dtype for name, value in content["model"].items() if name not in counters} == {torch.half}
    assert not set(content["model"]) & set(content["borrowed"])
    assert set(content["model"]) | set(content["borrowed"]) == set(trained[0].state_dict())
    assert small.stat().st_size < 12e6


def test_small_checkpoint_gives_the_model_back(trained, small):
    model = trained[0].state_dict()
    found = load_checkpoint(small).model.state_dict()
    for name, value in found.items():
        assert value.dtype == model[name].dtype
        torch.testing.assert_close(value, model[name], rtol=1e-3, atol=1e-7)
    kept = "text_tower.bert.words.weight"
    assert torch.equal(found[kept], model[kept])


def test_caption_side_of_a_small_checkpoint_equals_that_of_the_whole(small):
    whole, captions = load_checkpoint(small).model, load_checkpoint(small, captions_only=True).model
    tokens, lengths = torch.tensor([[101, 4231, 102]]), torch.tensor([3])
    with torch.no_grad():
        assert torch.equal(captions.encode_captions(tokens, lengths), whole.encode_captions(tokens, lengths))


def test_backbone_of_a_small_checkpoint_is_whole(trained, small):
    backbone = Backbone("timm/tf_efficientnet_lite0", frozen=True)
    backbone.load_weights(small)
    model = trained[0].backbone.state_dict()
    for name, value in backbone.state_dict().items():
        torch.testing.assert_close(value, model[name], rtol=1e-3, atol=1e-7)


def test_backbone_of_a_whole_model_in_safetensors_is_read(tmp_path):
    source, backbone = (Backbone("timm/test_efficientnet", frozen=True) for _ in range(2))
    weights = source.network.state_dict()
    save_file(
        {f"backbone.network.{name}": value for name, value in weights.items()}, tmp_path / "w.safetensors"
    )
    backbone.load_weights(tmp_path / "w.safetensors")
    assert torch.equal(backbone.network.conv_head.weight, source.network.conv_head.weight)


@pytest.mark.parametrize("borrowed", [["image_tower.none"], [1], "all", None])
def test_damaged_list_of_borrowed_weights_is_refused(small, tmp_path, borrowed):
    content = read_torch_file(small, "") | {"borrowed": borrowed}
    write_torch_file(tmp_path / "damaged.pt", content)
    with pytest.raises(StoreError, match=r"damaged\.pt: damaged checkpoint"):
        load_checkpoint(tmp_path / "damaged.pt")


@pytest.mark.parametrize("borrowed", [5, [1], "all"])
def test_backbone_of_a_checkpoint_with_a_damaged_list_is_refused(small, tmp_path, borrowed):
    write_torch_file(tmp_path / "damaged.pt", read_torch_file(small, "") | {"borrowed": borrowed})
    with pytest.raises(StoreError, match=r"damaged\.pt: damaged, `borrowed` is not a list of names"):
        Backbone("timm/tf_efficientnet_lite0", frozen=True).load_weights(tmp_path / "damaged.pt")
