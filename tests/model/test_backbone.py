"""Backbones from timm and torchvision: their maps, their weights from files, and what is frozen of them."""

import pickle

import pytest
import torch
from made_bert import write_bert
from safetensors.torch import save_file
from torchvision.models import get_model

from swancli.errors import SwanError
from swancli.model.backbone import DEPTHS, Backbone, preprocessing_of
from swancli.model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from swancli.model.encoder import Encoder
from swancli.model.settings import ModelSettings
from swancli.model.start import new_model
from swancli.model.weights import without_random_start

LITE0 = "timm/tf_efficientnet_lite0"
# A small network of each kind: with batch norms and a head's convolution, with weights of whole blocks,
# with channels last inside, of one size.
EFFICIENT, CONVNEXT, MAMBA = "timm/test_efficientnet", "timm/test_convnext", "timm/test_mambaout"
COATNET = "timm/test_coatnet"


def backbone_of(name, **options):
    torch.manual_seed(0)
    return Backbone(name, **{"frozen": False} | options)


def images(size, count=2):
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))


# ---------------------------------------------------------------------------------------------------------
# maps


@pytest.mark.parametrize(
    ("name", "channels"),
    [
        (LITE0, (24, 40, 112, 1280)),
        ("timm/resnet18", (64, 128, 256, 512)),
        ("timm/convnext_atto", (40, 80, 160, 320)),
        (MAMBA, (16, 32, 48, 64)),
        (EFFICIENT, (24, 32, 48, 256)),
        ("resnet18", (64, 128, 256, 512)),
    ],
)
def test_maps_have_channels_first_and_strides_4_16_16_and_32(name, channels):
    with without_random_start():
        backbone = Backbone(name, frozen=False)
    assert backbone.channels == channels
    grids = (16, 4, 4, 2)  # of 64 pixels; the map at stride 8 is read at every second pixel
    expected = {
        depth: (count, grid, grid) for depth, count, grid in zip(DEPTHS, channels, grids, strict=True)
    }
    assert backbone.map_shapes(64) == expected


def test_channels_last_inside_are_turned_and_not_mixed_up():
    backbone = backbone_of(MAMBA).eval()
    pixels = images(64)
    with torch.no_grad():
        maps = backbone(pixels)
        stem = backbone.network.stem(pixels)
        deepest = stem
        for stage in backbone.network.stages:
            deepest = stage(deepest)
    assert deepest.shape == (2, 2, 2, 64)
    torch.testing.assert_close(maps["deep3"], deepest.permute(0, 3, 1, 2))


def random_resnet18():
    """torchvision's whole network, with batch statistics that are not 0 and 1."""
    torch.manual_seed(3)
    network = get_model("resnet18", weights=None).eval()
    for name, value in network.state_dict().items():
        if "running" in name:
            value.uniform_(0.5, 1.5)
    return network


@pytest.fixture(scope="module")
def resnet18():
    return random_resnet18()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_resnet_of_timm_gives_torchvision_s_maps_from_a_file_of_its_weights(resnet18, tmp_path, suffix):
    path = tmp_path / f"weights{suffix}"
    weights = resnet18.state_dict()
    (torch.save if suffix == ".pth" else save_file)(weights, path)
    ours, theirs = backbone_of("timm/resnet18").eval(), backbone_of("resnet18").eval()
    for backbone in (ours, theirs):
        backbone.load_weights(path)
        own = backbone.network.state_dict()
        assert {key for key in weights if key not in own} == {"fc.weight", "fc.bias"}  # the classifier
        assert all(torch.equal(value, weights[key]) for key, value in own.items())
    pixels = images(64)
    with torch.no_grad():
        found, expected = ours(pixels), theirs(pixels)
        stem = resnet18.maxpool(resnet18.relu(resnet18.bn1(resnet18.conv1(pixels))))
        first = resnet18.layer1(stem)
    for depth in ("deep1", "deep2", "deep3"):
        torch.testing.assert_close(found[depth], expected[depth], rtol=0, atol=1e-5)
    # Stride 4 occurs twice: the paper reads it before the first stage, a network of timm is read after it.
    torch.testing.assert_close(expected["shallow"], stem, rtol=0, atol=1e-5)
    torch.testing.assert_close(found["shallow"], first, rtol=0, atol=1e-5)


def test_weights_that_come_with_swan_are_those_of_lite0():
    backbone = Backbone(LITE0, frozen=True).eval()
    before = backbone.digest()
    backbone.load_weights("imagenet")
    assert backbone.digest() != before
    # Of trained batch norms, unlike those of a random start, the statistics are not 0 and 1.
    assert backbone.network.bn2.running_mean.abs().min() > 0
    with pytest.raises(
        SwanError, match="imagenet: these are weights of timm/tf_efficientnet_lite0, not of resnet18"
    ):
        Backbone("resnet18", frozen=True).load_weights("imagenet")


def test_preprocessing_is_timm_s_and_is_kept_in_a_checkpoint(tmp_path):
    usual = preprocessing_of(CONVNEXT)
    assert (usual.size, usual.mean, usual.std) == (160, (0.5,) * 3, (0.5,) * 3)
    assert (usual.interpolation, usual.fit) == ("bicubic", "squash")
    lite0 = preprocessing_of(LITE0)
    assert (lite0.size, lite0.mean, lite0.interpolation) == (224, (0.5,) * 3, "bicubic")
    bert = write_bert(tmp_path / "bert", words=["a", "field"])
    settings = ModelSettings(words=0, backbone=CONVNEXT, image_size=64, embed_dim=16, frozen=True)
    model, tokenizer, _ = new_model(settings, 0, "", str(bert), None, None, None)
    white = torch.full((1, 3, 2, 2), 255, dtype=torch.uint8)
    prepare = model.settings.preprocessing
    assert (prepare.normalise(white) == 1).all()
    assert (prepare.normalise(white * 0) == -1).all()
    save_checkpoint(tmp_path / "best.pt", model, tokenizer, {"dataset": "d", "run": "r", "epoch": 1})
    loaded = load_checkpoint(tmp_path / "best.pt")
    assert loaded.model.settings == model.settings
    assert loaded.model.settings.preprocessing == prepare
    pictures = list((images(70, 3).clamp(-1, 1) * 127 + 127).to(torch.uint8).permute(0, 2, 3, 1).numpy())
    saved = Encoder(Checkpoint.unsaved(model, tokenizer), "cpu").images(pictures)
    assert (Encoder(loaded, "cpu").images(pictures) == saved).all()


# ---------------------------------------------------------------------------------------------------------
# what is frozen

EFFICIENT_STAGES = (
    "conv_stem. bn1. blocks.0. blocks.1.",
    "blocks.2.",
    "blocks.3.",
    "blocks.4. conv_head. bn2.",
)
CONVNEXT_STAGES = ("stem. stages.0.", "stages.1.", "stages.2.", "stages.3.")
RESNET_STAGES = ("conv1. bn1. layer1.", "layer2.", "layer3.", "layer4.")


def trained_keys(backbone):
    """The weights and statistics that a training step changes."""
    backbone.train()
    before = {key: value.clone() for key, value in backbone.network.state_dict().items()}
    free = [parameter for parameter in backbone.parameters() if parameter.requires_grad]
    maps = backbone(images(64, 4))
    if free:
        optimizer = torch.optim.Adam(free, lr=1e-2)
        generator = torch.Generator().manual_seed(2)
        parts = (value * torch.randn(value.shape, generator=generator) for value in maps.values())
        sum(part.sum() for part in parts).backward()
        optimizer.step()
    after = backbone.network.state_dict()
    return {key for key, value in before.items() if not torch.equal(value, after[key])}


@pytest.mark.parametrize("count", range(5))
@pytest.mark.parametrize(
    ("name", "stages"),
    [(EFFICIENT, EFFICIENT_STAGES), (CONVNEXT, CONVNEXT_STAGES), ("resnet18", RESNET_STAGES)],
)
def test_first_stages_keep_their_weights_and_all_stages_their_statistics(name, stages, count):
    backbone = backbone_of(name, freeze_stages=count)
    fixed = tuple(" ".join(stages[:count]).split())
    weights = {key for key, _ in backbone.network.named_parameters()}
    expected = (
        {key for key in weights if not key.startswith(fixed)} if fixed else {*backbone.network.state_dict()}
    )
    assert trained_keys(backbone) == expected
    assert bool(expected) == (count < 4)


def test_stages_end_where_their_map_is_made():
    """The weights frozen with N stages are those that the map of stage N depends on."""
    for name in (EFFICIENT, CONVNEXT, MAMBA, COATNET, "timm/test_nfnet"):
        size = 160 if name == COATNET else 64
        for count, depth in enumerate(DEPTHS, start=1):
            backbone = backbone_of(name, freeze_stages=count)
            named = dict(backbone.network.named_parameters())
            fixed = {key for key, parameter in named.items() if not parameter.requires_grad}
            backbone.network.requires_grad_(True)
            reached = torch.autograd.grad(
                backbone(images(size))[depth].sum(), list(named.values()), allow_unused=True
            )
            used = {key for key, gradient in zip(named, reached, strict=True) if gradient is not None}
            assert fixed == used, (name, count)


@pytest.mark.parametrize("name", [EFFICIENT, "resnet18"])
def test_frozen_backbone_changes_in_nothing(name):
    backbone = backbone_of(name, frozen=True)
    assert trained_keys(backbone) == set()
    assert not any(value.requires_grad for value in backbone(images(64)).values())


def test_stages_without_modules_of_their_own_are_refused():
    with (
        without_random_start(),
        pytest.raises(SwanError, match="--freeze-stages 1: timm/mvitv2_tiny") as error,
    ):
        Backbone("timm/mvitv2_tiny", frozen=False, freeze_stages=1)
    assert "--freeze" in error.value.hint
    with pytest.raises(SwanError, match="--freeze-stages 5: a backbone has 4 stages"):
        ModelSettings(words=1, freeze_stages=5)


# ---------------------------------------------------------------------------------------------------------
# files and names that are refused


@pytest.fixture(scope="module")
def good():
    """Weights of the whole small network, its classifier included."""
    import timm

    torch.manual_seed(4)
    return timm.create_model("test_efficientnet").state_dict()


class Code:
    """A pickle that runs a command when it is read."""

    def __reduce__(self):
        return (print, ("this code has run",))


BLOCK = "blocks.1.0.conv_exp.weight"


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"surprise.weight": torch.zeros(2)}, "1 weights are unknown, first surprise.weight"),
        ({BLOCK: None}, f"1 weights are missing, first {BLOCK}"),
        ({BLOCK: torch.zeros(3, 2)}, f"1 weights have another shape, first {BLOCK}: (3, 2) instead of "),
        ({BLOCK: torch.nan}, f"1 of its weights contain NaN or infinity, first {BLOCK}"),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_file_and_key(good, tmp_path, change, said, suffix):
    path = tmp_path / f"weights{suffix}"
    changed = good | {
        key: torch.full_like(good[key], value) if isinstance(value, float) else value
        for key, value in change.items()
    }
    changed = {key: value for key, value in changed.items() if value is not None}
    (torch.save if suffix == ".pt" else save_file)(changed, path)
    backbone = backbone_of(EFFICIENT)
    before = backbone.digest()
    with pytest.raises(SwanError) as error:
        backbone.load_weights(path)
    assert error.value.problem.startswith(f"{path}: ")
    assert said in error.value.problem
    assert "\n" not in error.value.problem
    assert error.value.hint
    assert backbone.digest() == before  # nothing of the file is used


def test_classifier_of_a_file_is_ignored_and_counters_may_be_absent(good, tmp_path):
    assert {"classifier.weight", "classifier.bias"} < set(good)
    kept = {key: value for key, value in good.items() if not key.endswith("num_batches_tracked")}
    torch.save({"state_dict": {f"module.{key}": value for key, value in kept.items()}}, tmp_path / "w.pt")
    backbone = backbone_of(EFFICIENT)
    backbone.load_weights(tmp_path / "w.pt")
    own = backbone.network.state_dict()
    assert not any(key.startswith("classifier") for key in own)
    assert all(torch.equal(own[key], kept[key]) for key in own if key in kept)


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (lambda content, path: torch.save(content, path), "contains no state dict"),
        (
            lambda content, path: path.write_bytes(pickle.dumps(content, protocol=2)),
            "cannot be loaded safely",
        ),
    ],
)
def test_code_in_a_file_is_refused_and_does_not_run(tmp_path, capsys, write, said):
    path = tmp_path / "w.pt"
    write({"weight": Code()}, path)
    with pytest.raises(SwanError, match=said) as error:
        backbone_of(EFFICIENT).load_weights(path)
    assert error.value.problem.startswith(f"{path}: ")
    assert "\n" not in error.value.problem
    assert capsys.readouterr() == ("", "")


def test_file_that_is_absent_or_no_state_dict_is_refused(tmp_path):
    torch.save({"a": 1}, tmp_path / "w.pt")
    (tmp_path / "w.safetensors").write_bytes(b"\xff" * 50)
    cases = {"gone.pt": "no such file", "w.pt": "contains no state dict", "w.safetensors": "damaged"}
    for name, said in cases.items():
        with pytest.raises(SwanError, match=said) as error:
            backbone_of(EFFICIENT).load_weights(tmp_path / name)
        assert f"{tmp_path / name}: " in error.value.problem
        assert error.value.hint


@pytest.mark.parametrize(
    ("name", "said", "hint"),
    [
        ("timm/resnet8", "timm has no such network", "do you mean timm/resnet"),
        ("timm/tf_efficientnet_light0", "timm has no such network", "timm/tf_efficientnet_lite0"),
        ("timm/", "timm has no such network", ""),
        ("timm/resnet18.nobody", "timm knows no weights 'nobody' of resnet18", "a1_in1k"),
        ("resnet19", "not known", "timm/NAME"),
        ("timm/vit_tiny_patch16_224", "no map at stride 4 (its strides: 16)", "tf_efficientnet_lite0"),
    ],
)
def test_name_of_a_backbone_that_cannot_be_is_refused(name, said, hint):
    with without_random_start(), pytest.raises(SwanError) as error:
        preprocessing_of(name), Backbone(name, frozen=False)
    assert error.value.problem.startswith(f"--backbone {name}: ")
    assert said in error.value.problem
    assert hint in error.value.hint


def test_name_with_the_tag_of_weights_has_the_data_configuration_of_the_tag():
    assert preprocessing_of("timm/resnet18.tv_in1k").interpolation == "bilinear"
    assert preprocessing_of("timm/resnet18.a1_in1k").interpolation == "bicubic"


def test_size_that_a_network_does_not_take_is_refused_with_its_own():
    backbone = backbone_of(COATNET)
    assert backbone.map_shapes(160)["deep3"] == (128, 5, 5)
    with pytest.raises(SwanError, match=f"--image-size 96: {COATNET} does not take it") as error:
        backbone.map_shapes(96)
    assert "\n" not in error.value.problem
    assert "--image-size 160" in error.value.hint
    assert backbone.training
