"""The published variant: every array of the reference values, and a test for each of its quirks."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from swancli.errors import SwanError
from swancli.model import settings
from swancli.model.backbone import Backbone
from swancli.model.published import from_published, to_published
from swancli.model.settings import QUIRKS, ModelSettings, Quirks
from swancli.model.swan import Swan
from swancli.model.textual import TCGE, GatedAttention, TextTower

PUBLISHED = QUIRKS["published"]
# Of a small caption side in both variants.
REPAIRED_SHAPE = ModelSettings(words=20, embed_dim=32)
PUBLISHED_SHAPE = replace(REPAIRED_SHAPE, variant="published")
ARRAYS = {
    "shallow_mean",
    "visual_global",
    "visual_local",
    "image_embedding",
    "caption_features",
    "text_embedding",
    "similarity",
}


def build(published_weights):
    shape, weights = from_published(published_weights)
    model = Swan(shape)
    model.load_state_dict({key: weights[key] for key in model.state_dict()})
    return model.eval()


def distance(found, expected):
    """How far two arrays are apart, as the reference values' README measures it."""
    return np.abs(found.numpy() - expected).max() / np.abs(expected).max()


@torch.no_grad()
def text_embedding(model, parity):
    return model.encode_captions(torch.tensor(parity["tokens"]), torch.tensor(parity["lengths"]))


@pytest.fixture(scope="module")
def model(published_weights):
    return build(published_weights)


@pytest.fixture(scope="module")
def computed(model, parity):
    """Every array of the model's part of the reference values, computed here."""
    image = torch.tensor(np.random.RandomState(100).standard_normal((3, 3, 256, 256)).astype(np.float32))
    tower = model.image_tower
    with torch.no_grad():
        maps = model.backbone(image)
        shallow = tower.shallow_filter(maps["shallow"])
        text = text_embedding(model, parity)
        return {
            "shallow_mean": shallow.mean(dim=(2, 3)),
            "visual_global": tower.vmsf(maps["deep1"], maps["deep2"], maps["deep3"]),
            "visual_local": tower.sfgs(shallow),
            "image_embedding": tower(maps),
            "caption_features": model.text_tower.read(
                torch.tensor(parity["tokens"]), torch.tensor(parity["lengths"])
            ),
            "text_embedding": text,
            "similarity": model.encode_images(image) @ text.T,
        }


@pytest.mark.parametrize("name", sorted(ARRAYS))
def test_published_variant_computes_the_published_array(computed, parity, name):
    assert distance(computed[name], parity[name]) <= 1e-4


def test_weights_keep_their_names_and_values_on_the_way_there_and_back(model, published_weights):
    back = to_published(model.settings, model.state_dict())
    assert {key: value.shape for key, value in back.items()} == {
        key: value.shape for key, value in published_weights.items()
    }
    unused = {"image_encoder.resnet.fc.weight", "image_encoder.resnet.fc.bias"}
    assert all(torch.equal(back[key], published_weights[key]) for key in back if key not in unused)


@pytest.mark.parametrize("shape", [{"backbone": "resnet18"}, {"variant": "repaired"}, {"without": ("tcge",)}])
def test_model_that_the_published_code_cannot_hold_is_not_exported(shape):
    published = {"words": 8589, "backbone": "resnet50", "variant": "published"}
    with pytest.raises(SwanError, match=f"--{next(iter(shape))}"):
        to_published(ModelSettings(**published | shape), {})


# ---------------------------------------------------------------------------------------------------------
# one quirk at a time: the arrays catch items 1, 2 and 4; what acts in training has a test of its own


@pytest.mark.parametrize("quirk", ["last_word_alone", "floored_scores", "counted_padding"])
def test_repairing_one_quirk_alone_leaves_the_published_embedding(
    published_weights, parity, monkeypatch, quirk
):
    """Items 1, 2 and 4 act in evaluation: without one of them the array is missed by far."""
    monkeypatch.setitem(settings.QUIRKS, "published", replace(PUBLISHED, **{quirk: False}))
    assert distance(text_embedding(build(published_weights), parity), parity["text_embedding"]) > 1e-2


def test_published_variant_has_every_quirk_and_the_repaired_none():
    assert all(getattr(QUIRKS["published"], field.name) for field in fields(Quirks))
    assert not any(getattr(QUIRKS["repaired"], field.name) for field in fields(Quirks))


@pytest.fixture
def tower():
    """The published caption side, small, after one backward pass in training."""
    torch.manual_seed(0)
    tower = TextTower(PUBLISHED_SHAPE).train()
    tokens = torch.randint(1, 21, (4, 9), generator=torch.Generator().manual_seed(1))
    # Weighted, because the sum over a batch says nothing after a batch norm.
    weight = torch.randn(4, 32, generator=torch.Generator().manual_seed(2))
    (tower(tokens, torch.tensor([9, 7, 4, 3])) * weight).sum().backward()
    return tower


def test_item_1_joint_words_never_reach_the_output_and_get_no_gradient(tower):
    for unit in (tower.tcge.pairs, tower.tcge.triples):
        assert unit.convolution.weight.grad.abs().sum() == 0
    assert tower.tcge.project[0].weight.grad.abs().sum() > 0


def test_item_1_embedding_is_the_state_of_the_last_word():
    torch.manual_seed(0)
    tcge = TCGE(8, replace(QUIRKS["repaired"], last_word_alone=True)).eval()
    for layer in (tcge.project[0], tcge.project[3]):
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    torch.nn.init.zeros_(tcge.norm.weight)  # what is left is the state that came in
    words, lengths = torch.randn(2, 5, 8), torch.tensor([5, 3])
    torch.testing.assert_close(tcge(words, lengths), words[[0, 1], [4, 2]])


def test_item_2_floored_scores_pass_no_gradient_to_queries_keys_and_gates(tower):
    attention = tower.tcge.attention
    stopped = (attention.to_query, attention.to_key, attention.gate, attention.gate_query, attention.gate_key)
    for layer in stopped:
        assert layer.weight.grad is None or layer.weight.grad.abs().sum() == 0
    assert attention.to_value.weight.grad.abs().sum() > 0


def test_item_2_scores_are_whole_numbers():
    """Queries and keys scaled down until every score rounds to 0 or -1: the weights are then two numbers."""
    torch.manual_seed(0)
    attention = GatedAttention(8, floored=True)
    with torch.no_grad():
        attention.to_query.weight.mul_(0.01)
        attention.to_key.weight.mul_(0.01)
        attention.to_value.weight.copy_(torch.eye(8))
        attention.to_value.bias.zero_()
        words = torch.eye(8)[None, :4]
        attended = attention(words, torch.ones(1, 4, dtype=torch.bool))
    weights = attended[0, :, :4]  # the first head's attention, read off one-hot words
    ratio = weights / weights.amax(dim=1, keepdim=True)
    assert ((ratio - 1).abs() < 1e-5).logical_or((ratio - np.exp(-1)).abs() < 1e-5).all()


def test_item_3_projection_is_carried_and_never_used(tower):
    assert tower.unused_projection.weight.shape == (32, 32)
    assert tower.unused_projection.weight.grad is None
    assert not hasattr(TextTower(REPAIRED_SHAPE), "unused_projection")


def test_item_4_embedding_depends_on_the_longest_caption_beside_it():
    torch.manual_seed(0)
    tower = TextTower(PUBLISHED_SHAPE).eval()
    alone = tower(torch.tensor([[3, 5, 7]]), torch.tensor([3]))
    padded = tower(torch.tensor([[3, 5, 7, 0, 0, 0]]), torch.tensor([3]))
    assert (alone - padded).abs().max() > 1e-3


def test_item_4_batch_norms_count_padding():
    """Ones for words, zeros for padding, and a pair's unit is the sum over its two positions."""
    tcge = TCGE(8, PUBLISHED).train()
    for layer in (tcge.attention.to_value, tcge.pairs.convolution):
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    tcge.pairs.convolution.weight.data[0, 0] = 1
    words = torch.ones(2, 6, 8)
    words[1, 3:] = 0
    tcge(words, torch.tensor([6, 3]))
    # The units are 2, 2, 2 and 2, 1, 0; without the padding the last one would not count.
    assert tcge.pairs.norm.running_mean[0].item() == pytest.approx(0.1 * 9 / 6)


@pytest.mark.parametrize("words", [1, 2])
def test_item_5_one_or_two_words_alone_are_refused_in_a_line(words):
    tower = TextTower(PUBLISHED_SHAPE).eval()
    tokens = torch.arange(1, words + 1)[None]
    with pytest.raises(SwanError, match=r"item 5") as error:
        tower(tokens, torch.tensor([words]))
    assert "at least three words" in error.value.hint
    beside_longer = torch.tensor([[4, 5, 0], [1, 2, 3]])
    assert tower(beside_longer, torch.tensor([2, 3])).isfinite().all()
    repaired = TextTower(REPAIRED_SHAPE).eval()
    assert repaired(tokens, torch.tensor([words])).isfinite().all()


def test_item_6_batch_statistics_of_the_frozen_backbone_drift():
    torch.manual_seed(0)
    published, repaired = (Backbone("resnet18", frozen=True, drifting=drifting) for drifting in (True, False))
    repaired.load_state_dict(published.state_dict())
    before = {key: value.clone() for key, value in published.state_dict().items()}
    pixels = torch.randn(4, 3, 64, 64)
    training = published.train()(pixels)["deep3"]
    repaired.train()(pixels)
    moved = {key for key, value in published.state_dict().items() if not torch.equal(value, before[key])}
    assert moved == {key for key in before if "running" in key or key.endswith("num_batches_tracked")}
    assert all(torch.equal(value, before[key]) for key, value in repaired.state_dict().items())
    assert not training.requires_grad
    # In evaluation both use the running statistics.
    assert not torch.allclose(training, published.eval()(pixels)["deep3"], atol=1e-3)


def test_published_swan_hands_its_quirks_to_every_part():
    model = Swan(ModelSettings(words=5, embed_dim=32, frozen=True, variant="published"))
    assert model.train().backbone.training  # item 6
    assert model.text_tower.tcge.attention.floored
    assert model.text_tower.tcge.triples.whole
    assert model.text_tower.unused_projection is not None


# ---------------------------------------------------------------------------------------------------------
# ablations


@pytest.mark.parametrize("variant", ["repaired", "published"])
@pytest.mark.parametrize(
    "without", [("vmsf",), ("sfgs",), ("tcge",), ("wsa",), ("vmsf", "sfgs"), ("tcge", "vmsf", "sfgs")]
)
def test_model_without_parts_has_none_of_their_weights_and_still_embeds(variant, without):
    torch.manual_seed(0)
    model = Swan(ModelSettings(words=5, image_size=64, embed_dim=32, variant=variant, without=without)).eval()
    names = [name for name, _ in model.named_parameters()]
    weight = {"wsa": "token_weight"}
    for part in without:
        assert not [name for name in names if weight.get(part, f".{part}.") in name]
    with torch.no_grad():
        image = model.encode_images(torch.randn(2, 3, 64, 64))
        text = model.encode_captions(torch.tensor([[1, 2, 3], [4, 5, 0]]), torch.tensor([3, 2]))
    for embedding in (image, text):
        torch.testing.assert_close(embedding.norm(dim=1), torch.ones(2))


def test_every_weight_of_an_ablated_model_has_a_gradient():
    torch.manual_seed(0)
    model = Swan(
        ModelSettings(words=5, image_size=64, embed_dim=32, without=("vmsf", "sfgs", "tcge"))
    ).train()
    model.encode_images(torch.randn(4, 3, 64, 64))[:, 0].sum().backward()
    model.encode_captions(torch.tensor([[1, 2, 3], [4, 5, 0]]), torch.tensor([3, 2]))[:, 0].sum().backward()
    assert [name for name, value in model.named_parameters() if not value.grad.abs().sum() > 0] == []


def test_parts_are_named_in_one_order_and_contradictions_refused():
    assert ModelSettings(words=5, without=("tcge", "vmsf")).without == ("vmsf", "tcge")
    with pytest.raises(SwanError, match="no such part"):
        ModelSettings(words=5, without=("gru",))
    with pytest.raises(SwanError, match="wsa"):
        ModelSettings(words=5, without=("wsa", "sfgs"))
