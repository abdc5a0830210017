"""The image side: shapes at several sizes, the exact shortcuts, and a backbone that stays frozen."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torchvision.models import get_model

from swancli.errors import SwanError
from swancli.model.backbone import Backbone
from swancli.model.settings import ModelSettings
from swancli.model.swan import Swan
from swancli.model.visual import SFGS, VMSF, ImageTower, PooledMaps, WeightedSelfAttention


def test_backbone_maps_have_the_papers_shapes():
    maps = Backbone("resnet50", frozen=True)(torch.zeros(1, 3, 256, 256))
    assert {name: tuple(value.shape[1:]) for name, value in maps.items()} == {
        "shallow": (64, 64, 64),
        "deep1": (512, 16, 16),  # of 32 x 32, every second pixel
        "deep2": (1024, 16, 16),
        "deep3": (2048, 8, 8),
    }


@pytest.mark.parametrize("size", [32, 64, 100])
def test_image_embedding_has_unit_length_at_any_image_size(size):
    model = Swan(ModelSettings(words=5, image_size=size, embed_dim=32)).eval()
    with torch.no_grad():
        embedding = model.encode_images(torch.randn(2, 3, size, size))
    torch.testing.assert_close(embedding.norm(dim=1), torch.ones(2))


def test_frozen_backbone_does_not_move_in_training():
    """Defect 6: neither its weights nor its batch statistics."""
    model = Swan(ModelSettings(words=5, image_size=32, embed_dim=32, frozen=True)).train()
    before = {name: value.clone() for name, value in model.backbone.state_dict().items()}
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.1)
    model.encode_images(torch.randn(4, 3, 32, 32))[:, 0].sum().backward()
    optimizer.step()
    for name, value in model.backbone.state_dict().items():
        assert torch.equal(before[name], value), name


def test_fine_tuned_backbone_moves_in_training():
    model = Swan(ModelSettings(words=5, image_size=32, embed_dim=32)).train()
    before = model.backbone.network.conv1.weight.clone()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    model.encode_images(torch.randn(4, 3, 32, 32))[:, 0].sum().backward()
    optimizer.step()
    assert not torch.equal(before, model.backbone.network.conv1.weight)


def test_every_parameter_of_the_image_tower_has_a_gradient():
    torch.manual_seed(0)
    model = Swan(ModelSettings(words=5, image_size=64, embed_dim=32)).train()
    # The length is normalised away, so one coordinate is asked for.
    model.encode_images(torch.randn(4, 3, 64, 64))[:, 0].sum().backward()
    without = [
        name
        for name, value in model.named_parameters()
        if name.startswith("image_tower") and not value.grad.abs().sum() > 0
    ]
    assert without == []


def test_vmsf_equals_the_order_of_the_paper():
    """1x1 convolutions first and resampling after, as published, give the same global vector."""
    torch.manual_seed(0)
    vmsf = VMSF((8, 16, 32), 24).eval()
    deep1, deep2, deep3 = torch.randn(2, 8, 8, 8), torch.randn(2, 16, 4, 4), torch.randn(2, 32, 2, 2)
    stages = [
        F.interpolate(vmsf.reduce1(deep1), scale_factor=0.5),
        vmsf.reduce2(deep2),
        F.interpolate(vmsf.reduce3(deep3), scale_factor=2),
    ]
    expected = vmsf.project(vmsf.fuse(torch.cat(stages, dim=1)).mean(dim=3).mean(dim=2))
    torch.testing.assert_close(vmsf(deep1[..., ::2, ::2], deep2, deep3), expected)


def test_pooled_maps_are_the_means_of_the_deep_maps_and_the_largest_values_of_the_deepest():
    pool = PooledMaps((1, 1, 2), 8).eval()
    read = []
    pool.project.register_forward_hook(lambda module, inputs, result: read.append(inputs[0]))
    deep1 = torch.tensor([[[[1.0, 2.0], [3.0, 6.0]]]])
    deep2 = torch.tensor([[[[4.0, 6.0]]]])
    deep3 = torch.tensor([[[[0.0, 8.0]], [[-1.0, -3.0]]]])
    pool(deep1, deep2, deep3)
    assert read[0].tolist() == [[3, 5, 4, -2, 8, -1]]


def test_pooled_maps_are_added_to_what_the_other_parts_make():
    torch.manual_seed(0)
    tower = ImageTower((4, 4, 4, 8), 16).eval()
    without = ImageTower((4, 4, 4, 8), 16, ("pool",)).eval()
    without.load_state_dict(tower.state_dict(), strict=False)
    sides = {"shallow": 64, "deep1": 16, "deep2": 16, "deep3": 8}
    maps = {depth: torch.randn(2, 8 if depth == "deep3" else 4, side, side) for depth, side in sides.items()}
    added = tower.pool(maps["deep1"], maps["deep2"], maps["deep3"])
    torch.testing.assert_close(tower(maps), without(maps) + added)


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_folded_batch_norms_give_the_maps_of_the_network(name):
    torch.manual_seed(0)
    backbone = Backbone(name, frozen=False).eval()
    with torch.no_grad():
        for _ in range(2):  # the second time with weights that have moved meanwhile
            for value in backbone.state_dict().values():
                if value.is_floating_point():
                    value.mul_(torch.empty_like(value).uniform_(0.8, 1.2))
                if value.dim() == 1 and not value.any():  # biases and running means
                    value.normal_(0, 0.05)
            pixels = torch.randn(2, 3, 64, 64)
            expected = backbone.network(pixels)
            expected["deep1"] = expected["deep1"][..., ::2, ::2]
            for depth, found in backbone(pixels).items():
                scale = expected[depth].abs().max()
                torch.testing.assert_close(found / scale, expected[depth] / scale, atol=1e-5, rtol=0)


def test_fine_tuned_backbone_in_evaluation_still_passes_gradients():
    backbone = Backbone("resnet18", frozen=False).eval()
    backbone(torch.randn(1, 3, 32, 32))["deep3"].sum().backward()
    assert backbone.network.bn1.weight.grad is not None


def test_weighted_attention_equals_the_mean_of_the_papers_product():
    torch.manual_seed(0)
    attention = WeightedSelfAttention(6, 16).eval()
    tokens = torch.randn(2, 6, 16)
    shared = attention(tokens)
    with torch.no_grad():
        query, key, value = (
            f(tokens).unflatten(-1, (8, 2)).transpose(1, 2)
            for f in (attention.to_query, attention.to_key, attention.to_value)
        )
        attended = (query @ key.transpose(-1, -2) / 2**0.5).softmax(dim=-1) @ value
        states = attention.norm1(tokens + attention.merge(attended.transpose(1, 2).flatten(2)))
        states = attention.norm2(states + attention.feed_forward(states))
        expected = (attention.token_weight.transpose(1, 2) @ states).mean(dim=1)
    torch.testing.assert_close(shared, expected, rtol=1e-4, atol=1e-5)


def test_sfgs_makes_128_tokens_from_three_receptive_fields():
    sfgs = SFGS(32, 16)
    shallow = torch.randn(1, 32, 64, 64)
    assert [branch(shallow).shape[1] for branch in sfgs.branches] == [32, 32, 64]
    assert sfgs.attention.token_weight.shape == (1, 128, 16)


@pytest.mark.parametrize("key", [None, "model", "state_dict"])
def test_backbone_takes_a_torchvision_or_aid_file(tmp_path, key):
    weights = get_model("resnet18", weights=None, num_classes=30).state_dict()
    torch.save({key: weights, "epoch": 3} if key else weights, tmp_path / "weights.pth")
    backbone = Backbone("resnet18", frozen=True)
    backbone.load_weights(tmp_path / "weights.pth")
    loaded = backbone.network.state_dict()
    assert torch.equal(loaded["layer4.1.conv2.weight"], weights["layer4.1.conv2.weight"])


def test_backbone_takes_a_checkpoint_of_the_published_code(tmp_path, published_weights):
    torch.save({"epoch": 3, "model": published_weights}, tmp_path / "SWAN_best.pth.tar")
    backbone = Backbone("resnet50", frozen=True)
    backbone.load_weights(tmp_path / "SWAN_best.pth.tar")
    loaded = backbone.network.state_dict()["layer4.2.conv3.weight"]
    assert torch.equal(loaded, published_weights["image_encoder.resnet.layer4.2.conv3.weight"])


def test_network_that_cannot_be_compiled_is_reported(monkeypatch):
    from torch._dynamo.exc import TorchDynamoException

    def broken(pixels):
        raise TorchDynamoException("no working C++ compiler found\nmore of it")

    backbone = Backbone("resnet18", frozen=True)
    monkeypatch.setattr(backbone.network, "compile", lambda: None)
    monkeypatch.setattr(backbone.network, "forward", broken)
    with pytest.raises(SwanError, match=r"--compile: not possible here \(no working C\+\+ compiler found\)"):
        backbone.compile_network(2, 32)


def test_copy_of_a_compiled_backbone_computes_with_its_own_weights(monkeypatch):
    """The average of the weights is such a copy."""
    monkeypatch.setattr(torch, "compile", lambda maps: lambda *given: maps(*given))
    backbone, plain = (Backbone("resnet18", frozen=True).eval() for _ in range(2))
    backbone.compile_network(2, 32)
    copied = copy.deepcopy(backbone).eval()
    copied.load_state_dict(plain.state_dict())
    pixels = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(copied(pixels)["deep3"], plain(pixels)["deep3"], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(backbone(pixels)["deep3"], plain(pixels)["deep3"], atol=1e-2)


def test_weights_of_another_network_name_the_one_they_fit(tmp_path):
    torch.save(get_model("resnet34", weights=None).state_dict(), tmp_path / "weights.pth")
    with pytest.raises(SwanError, match="not weights of resnet18") as caught:
        Backbone("resnet18", frozen=True).load_weights(tmp_path / "weights.pth")
    assert "--backbone resnet34" in caught.value.hint


@pytest.mark.parametrize("content", [b"", b"not weights", None])
def test_file_that_holds_no_weights_is_refused(tmp_path, content):
    path = tmp_path / "weights.pth"
    if content is None:
        torch.save([1, 2], path)
    else:
        path.write_bytes(content)
    with pytest.raises(SwanError, match=r"weights\.pth"):
        Backbone("resnet18", frozen=True).load_weights(path)
