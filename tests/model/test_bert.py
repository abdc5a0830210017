"""The BERT text encoder: BERT's equations, padding, freezing, and the files that it is read from."""

import json
import math
import warnings

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from swancli.errors import StoreError, SwanError
from swancli.model.bert import Bert, bert_weights, read_bert_folder
from swancli.model.settings import BertShape

SHAPE = BertShape(pieces=20, positions=128, width=16, layers=2, heads=4, inner=24, eps=1e-12)
CONFIG = {
    "model_type": "bert",
    "vocab_size": 20,
    "max_position_embeddings": 128,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 24,
    "layer_norm_eps": 1e-12,
    "hidden_act": "gelu",
}
LENGTHS = torch.tensor([1, 2, 5, 9])


def named_weights():
    """Random weights of a small BERT under the names of Hugging Face."""
    generator = torch.Generator().manual_seed(0)

    def draw(*size, mean=0.0):
        return mean + 0.3 * torch.randn(*size, generator=generator)

    named = {
        "embeddings.word_embeddings.weight": draw(20, 16),
        "embeddings.position_embeddings.weight": draw(128, 16),
        "embeddings.token_type_embeddings.weight": draw(2, 16),
    }
    norms, linears = ["embeddings"], {}
    for layer in ("encoder.layer.0", "encoder.layer.1"):
        norms += [f"{layer}.attention.output", f"{layer}.output"]
        linears |= {f"{layer}.attention.self.{part}": (16, 16) for part in ("query", "key", "value")}
        linears |= {f"{layer}.attention.output.dense": (16, 16)}
        linears |= {f"{layer}.intermediate.dense": (24, 16), f"{layer}.output.dense": (16, 24)}
    for norm in norms:
        named[f"{norm}.LayerNorm.weight"], named[f"{norm}.LayerNorm.bias"] = draw(16, mean=1), draw(16)
    for linear, size in linears.items():
        named[f"{linear}.weight"], named[f"{linear}.bias"] = draw(*size), draw(size[0])
    return named


def by_hand(named, tokens):
    """BERT's equations for one text without padding: float (L, width) from int64 (L)."""

    def linear(values, name):
        return values @ named[f"{name}.weight"].T + named[f"{name}.bias"]

    def norm(values, name):
        centred = values - values.mean(dim=-1, keepdim=True)
        scale = (centred.square().mean(dim=-1, keepdim=True) + 1e-12).sqrt()
        return centred / scale * named[f"{name}.LayerNorm.weight"] + named[f"{name}.LayerNorm.bias"]

    states = named["embeddings.word_embeddings.weight"][tokens]
    states = states + named["embeddings.position_embeddings.weight"][: len(tokens)]
    states = norm(states + named["embeddings.token_type_embeddings.weight"][0], "embeddings")
    for layer in ("encoder.layer.0", "encoder.layer.1"):
        query, key, value = (
            linear(states, f"{layer}.attention.self.{part}") for part in ("query", "key", "value")
        )
        heads = []
        for head in range(4):
            part = slice(4 * head, 4 * head + 4)
            weights = (query[:, part] @ key[:, part].T / math.sqrt(4)).exp()
            heads.append(weights / weights.sum(dim=1, keepdim=True) @ value[:, part])
        attended = linear(torch.cat(heads, dim=1), f"{layer}.attention.output.dense")
        states = norm(states + attended, f"{layer}.attention.output")
        inner = linear(states, f"{layer}.intermediate.dense")
        inner = inner * (1 + torch.erf(inner / math.sqrt(2))) / 2
        states = norm(states + linear(inner, f"{layer}.output.dense"), f"{layer}.output")
    return states


@pytest.fixture
def named():
    return named_weights()


@pytest.fixture
def bert(named):
    bert = Bert(SHAPE)
    bert.load_state_dict(bert_weights(named, SHAPE, "model.safetensors"))
    return bert.eval()


@pytest.fixture
def tokens():
    """Four texts of the lengths above, padded with any numbers."""
    return torch.randint(0, 20, (4, 9), generator=torch.Generator().manual_seed(1))


# ---------------------------------------------------------------------------------------------------------
# what it computes


@pytest.mark.parametrize("graph", [True, False])
def test_states_are_those_of_the_equations_whatever_the_padding(bert, named, tokens, graph):
    with torch.set_grad_enabled(graph), warnings.catch_warnings():
        warnings.simplefilter("error")
        states = bert(tokens, LENGTHS)
    assert states.shape == (4, 9, 16)
    for row, length in enumerate(LENGTHS):
        expected = by_hand(named, tokens[row, :length])
        torch.testing.assert_close(states[row, :length], expected, rtol=0, atol=1e-5)
        assert (states[row, length:] == 0).all()


@pytest.mark.parametrize("row", range(4))
def test_states_do_not_depend_on_the_batch(bert, tokens, row):
    length = LENGTHS[row]
    alone = bert(tokens[row : row + 1, :length], length[None])[0]
    torch.testing.assert_close(alone, bert(tokens, LENGTHS)[row, :length], rtol=0, atol=1e-5)


def test_half_precision_keeps_padding_zero(bert, tokens):
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        states = bert(tokens, LENGTHS)
    torch.testing.assert_close(states.float(), bert(tokens, LENGTHS), rtol=0, atol=0.1)
    assert (states[0, 1:] == 0).all()


def test_dropout_acts_in_training_and_only_where_bert_has_it(bert, tokens):
    torch.manual_seed(0)
    expected = bert(tokens, LENGTHS)
    bert.train()
    assert not torch.allclose(bert(tokens, LENGTHS), expected, atol=1e-2)
    assert bert.dropout.p == 0.1
    bert.dropout.p = 0.0
    for layer in bert.encoder.layers:
        assert layer.self_attn.dropout == layer.dropout1.p == layer.dropout2.p == 0.1
        layer.self_attn.dropout = layer.dropout1.p = layer.dropout2.p = 0.0
    torch.testing.assert_close(bert(tokens, LENGTHS), expected, rtol=0, atol=1e-5)


def test_every_weight_has_a_gradient(bert, tokens):
    bert.train()
    weight = torch.randn(4, 9, 16, generator=torch.Generator().manual_seed(2))
    (bert(tokens, LENGTHS) * weight).sum().backward()
    assert [name for name, value in bert.named_parameters() if not value.grad.abs().sum() > 0] == []


# ---------------------------------------------------------------------------------------------------------
# freezing


@pytest.mark.parametrize("layers", [0, 1, 2])
def test_tables_and_first_layers_are_frozen(bert, layers):
    bert.freeze(layers)
    trained = {name for name, value in bert.named_parameters() if value.requires_grad}
    frozen = ("words.", "positions.", "norm.", "encoder.layers.0.", "encoder.layers.1.")
    frozen = frozen[: layers + 3] if layers else ()
    assert trained == {name for name, _ in bert.named_parameters() if not name.startswith(frozen)}


def test_frozen_encoder_has_neither_dropout_nor_graph(bert, tokens):
    expected = bert(tokens, LENGTHS)
    bert.train().freeze(2)
    for _ in range(2):
        states = bert(tokens, LENGTHS)
        assert not states.requires_grad
        torch.testing.assert_close(states, expected, rtol=0, atol=1e-5)
        bert.eval().train()


def test_layers_above_the_frozen_ones_are_trained(bert, tokens):
    seen = []
    bert.encoder.layers[1].register_forward_pre_hook(lambda layer, given: seen.append(given[0].detach()))
    bert.freeze(1)
    bert.train()
    first, second = bert(tokens, LENGTHS), bert(tokens, LENGTHS)
    assert torch.equal(*seen)  # no dropout before
    assert not torch.equal(first, second)
    first.square().sum().backward()
    with_gradient = [name for name, value in bert.named_parameters() if value.grad is not None]
    assert with_gradient == [
        f"encoder.layers.1.{name}" for name, _ in bert.encoder.layers[1].named_parameters()
    ]


def test_freezing_is_taken_back(bert, tokens):
    bert.freeze(2)
    bert.freeze(0)
    bert.train()
    assert all(value.requires_grad for value in bert.parameters())
    assert not torch.equal(bert(tokens, LENGTHS), bert(tokens, LENGTHS))


@pytest.mark.parametrize("layers", [-1, 3])
def test_more_layers_than_there_are_cannot_be_frozen(bert, layers):
    with pytest.raises(SwanError, match=f"--freeze-text {layers}: .* 2 layers"):
        bert.freeze(layers)


# ---------------------------------------------------------------------------------------------------------
# shape and weights


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *((field, 0) for field in ("pieces", "positions", "width", "layers", "heads", "inner", "eps")),
        ("layers", 1.5),
        ("layers", True),
        ("heads", 3),
        ("inner", "24"),
        ("eps", math.nan),
        ("eps", None),
    ],
)
def test_shape_that_no_encoder_has_is_refused(field, value):
    with pytest.raises(SwanError, match=field):
        BertShape(**{**vars(SHAPE), field: value})


def test_names_may_have_a_prefix_and_heads_are_ignored(named):
    expected = bert_weights(named, SHAPE, "")
    old = {
        f"bert.{key}".replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): value
        for key, value in named.items()
    }
    old["bert.pooler.dense.weight"] = old["cls.predictions.bias"] = torch.zeros(3)
    old["bert.embeddings.position_ids"] = torch.arange(128)[None]
    found = bert_weights(old, SHAPE, "")
    assert found.keys() == expected.keys() == Bert(SHAPE).state_dict().keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_half_precision_becomes_single(named):
    expected = bert_weights(named, SHAPE, "")
    found = bert_weights({key: value.half() for key, value in named.items()}, SHAPE, "")
    assert {value.dtype for value in found.values()} == {torch.float32}
    for key in expected:
        torch.testing.assert_close(found[key], expected[key], rtol=1e-3, atol=1e-3)


QUERY = "encoder.layer.1.attention.self.query.weight"
ABSENT = {f"encoder.layer.1.{part}.dense.bias": None for part in ("output", "intermediate")}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({QUERY: None}, rf"1 weights are missing, first {QUERY}"),
        (ABSENT, r"2 weights are missing, first encoder\.layer\.1\.intermediate\.dense\.bias"),
        ({"classifier.weight": torch.zeros(2)}, r"1 weights are unknown, first classifier\.weight"),
        ({"encoder.layer.2.output.dense.bias": torch.zeros(16)}, r"1 .* unknown, first encoder\.layer\.2"),
        ({QUERY: torch.zeros(16, 8)}, r"query\.weight: \(16, 8\) instead of \(16, 16\)"),
        ({QUERY: torch.zeros(16, 16, dtype=torch.int8)}, rf"1 weights are whole numbers, first {QUERY}"),
        ({"embeddings.token_type_embeddings.weight": torch.tensor(0.0)}, r"token_type\S+: \(\) instead"),
        ({QUERY: torch.full((16, 16), math.nan)}, rf"1 of its weights .* NaN or infinity, first {QUERY}"),
        ({"embeddings.LayerNorm.bias": torch.full((16,), math.inf)}, r"infinity, first \S+LayerNorm\.bias"),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_name(named, change, said):
    changed = {key: value for key, value in (named | change).items() if value is not None}
    with pytest.raises(StoreError, match=said) as error:
        bert_weights(changed, SHAPE, "model.safetensors")
    assert error.value.problem.startswith("model.safetensors: ")
    assert error.value.hint


# ---------------------------------------------------------------------------------------------------------
# a folder


def write_folder(folder, config=CONFIG, pieces=20):
    """A Hugging Face folder of the small BERT."""
    folder.mkdir()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "road", *(f"word{i}" for i in range(pieces - 6))]
    tokenizer = Tokenizer(
        models.WordPiece({word: number for number, word in enumerate(words)}, unk_token="[UNK]")
    )
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text(json.dumps(config))
    save_file(named_weights(), folder / "model.safetensors")
    return folder


def test_folder_becomes_an_encoder(tmp_path, named):
    shape, weights, pieces = read_bert_folder(write_folder(tmp_path / "bert"))
    assert shape == SHAPE
    bert = Bert(shape)
    bert.load_state_dict(weights)
    numbers = pieces.encode("a road")
    assert numbers == [2, 4, 5, 3]
    states = bert.eval()(torch.tensor([numbers]), torch.tensor([4]))[0]
    torch.testing.assert_close(states, by_hand(named, torch.tensor(numbers)), rtol=0, atol=1e-5)


def test_dropout_of_the_configuration_is_not_read(tmp_path):
    chances = {"hidden_dropout_prob": 0.3, "attention_probs_dropout_prob": 0.4}
    shape, _, _ = read_bert_folder(write_folder(tmp_path / "bert", CONFIG | chances))
    assert shape == SHAPE
    layer = Bert(shape).encoder.layers[0]
    assert layer.self_attn.dropout == layer.dropout1.p == layer.dropout2.p == 0.1


def test_absent_folder_is_named(tmp_path):
    with pytest.raises(StoreError, match=r"none: no such folder"):
        read_bert_folder(tmp_path / "none")


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_missing_file_is_named(tmp_path, name):
    folder = write_folder(tmp_path / "bert")
    (folder / name).unlink()
    with pytest.raises(StoreError, match=rf"{name}: no such file"):
        read_bert_folder(folder)


def test_pickle_is_not_read_and_the_hint_converts_it(tmp_path):
    folder = write_folder(tmp_path / "bert")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(StoreError, match=r"model\.safetensors: no such file") as error:
        read_bert_folder(folder)
    assert "pytorch_model.bin" in error.value.hint
    assert "save_pretrained" in error.value.hint


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model_type": "roberta"}, "model_type 'roberta'"),
        ({"model_type": None}, "model_type None"),
        ({"hidden_act": "gelu_new"}, "hidden_act 'gelu_new'"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type 'relative_key'"),
        ({"is_decoder": True}, "is_decoder True"),
        ({"hidden_size": "16"}, "width '16'"),
        ({"num_attention_heads": 3}, "3 heads"),
        ({"num_hidden_layers": 10**12}, "too few weights"),
        ({"num_hidden_layers": 1}, r"16 weights are unknown, first encoder\.layer\.1"),
        ({"vocab_size": 21}, r"word_embeddings\.weight: \(20, 16\) instead of \(21, 16\)"),
        ({"max_position_embeddings": 127}, "max_position_embeddings 127"),
    ],
)
def test_other_model_is_refused_by_file_and_key(tmp_path, change, said):
    folder = write_folder(tmp_path / "bert", CONFIG | change)
    with pytest.raises(StoreError, match=said) as error:
        read_bert_folder(folder)
    assert error.value.problem.startswith(str(folder))
    assert error.value.hint


@pytest.mark.parametrize("key", [key for key in CONFIG if key not in ("model_type", "hidden_act")])
def test_missing_key_is_named(tmp_path, key):
    folder = write_folder(tmp_path / "bert", {name: CONFIG[name] for name in CONFIG if name != key})
    with pytest.raises(StoreError, match=rf"config\.json: no key '{key}'"):
        read_bert_folder(folder)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("config.json", b"{", "not valid JSON"),
        ("config.json", b"[]", "not a JSON object"),
        ("config.json", b"\xff", "not UTF-8 text"),
        ("tokenizer.json", b"{}", "not a tokenizer"),
        ("model.safetensors", b"", "damaged safetensors"),
        ("model.safetensors", b"\x80\x02}q\x00.", "damaged safetensors"),
        ("model.safetensors", b"\xff" * 100, "damaged safetensors"),
    ],
)
def test_damaged_file_is_named(tmp_path, name, content, said):
    folder = write_folder(tmp_path / "bert")
    (folder / name).write_bytes(content)
    with pytest.raises(SwanError, match=said) as error:
        read_bert_folder(folder)
    assert error.value.problem.startswith(str(folder / name))


def test_truncated_weights_are_named(tmp_path):
    path = write_folder(tmp_path / "bert") / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(StoreError, match=r"model\.safetensors: damaged"):
        read_bert_folder(path.parent)


def test_tokenizer_of_a_larger_encoder_is_refused(tmp_path):
    with pytest.raises(StoreError, match=r"tokenizer\.json: 21 pieces, but config\.json says 20"):
        read_bert_folder(write_folder(tmp_path / "bert", pieces=21))
