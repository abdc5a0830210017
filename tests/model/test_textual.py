"""The caption side: what masking promises, and where gradients reach."""

import pytest
import torch

from swancli.model.settings import ModelSettings
from swancli.model.textual import TCGE, GatedAttention, JointWords, MaskedBatchNorm, TextTower, position_mask

LENGTHS = torch.tensor([1, 2, 5, 9])


@pytest.fixture
def tower():
    torch.manual_seed(0)
    tower = TextTower(ModelSettings(words=20, embed_dim=32))
    for module in tower.modules():  # batch norms as after some training, not the identity
        if isinstance(module, torch.nn.BatchNorm1d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
    return tower


@pytest.fixture
def tokens():
    tokens = torch.randint(1, 21, (4, 9), generator=torch.Generator().manual_seed(1))
    return tokens * position_mask(9, LENGTHS)


@pytest.mark.parametrize("row", range(4))
def test_caption_embedding_does_not_depend_on_its_batch(tower, tokens, row):
    tower.eval()
    together = tower(tokens, LENGTHS)[row]
    length = LENGTHS[row]
    alone = tower(tokens[row : row + 1, :length], length[None])[0]
    torch.testing.assert_close(alone, together, rtol=0, atol=1e-6)


def test_caption_gradient_does_not_depend_on_what_fills_the_padding(tower, tokens):
    tower.train()
    for module in tower.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    filled = tokens + 7 * ~position_mask(9, LENGTHS)
    outputs = [tower(padded, LENGTHS) for padded in (tokens, filled)]
    torch.testing.assert_close(*outputs)


def test_one_word_caption_alone_has_an_embedding(tower):
    tower.eval()
    embedding = tower(torch.tensor([[3]]), torch.tensor([1]))
    assert embedding.shape == (1, 32)
    assert embedding.isfinite().all()


def test_every_parameter_of_the_text_tower_has_a_gradient(tower, tokens):
    """Defects 1, 2 and 3: joint words, queries, keys and gates all learn."""
    tower.train()
    tower(tokens, LENGTHS).square().sum().backward()
    without = [name for name, value in tower.named_parameters() if not value.grad.abs().sum() > 0]
    # A bias added to every key shifts all scores of a query alike where the gates are equal; a bias before a
    # batch norm is taken out by it: both are small but the rest must move.
    assert [name for name in without if not name.endswith("convolution.bias")] == []


def test_joint_words_reach_the_embedding(tower, tokens):
    tower.eval()
    before = tower(tokens, LENGTHS)
    with torch.no_grad():
        tower.tcge.triples.convolution.weight.mul_(2)
    assert not torch.allclose(before, tower(tokens, LENGTHS))


def test_word_order_changes_the_embedding(tower):
    tower.eval()
    lengths = torch.tensor([3, 3])
    first, second = tower(torch.tensor([[1, 2, 3], [3, 2, 1]]), lengths)
    assert not torch.allclose(first, second, atol=1e-4)


def test_gated_attention_gives_padding_no_weight():
    torch.manual_seed(0)
    attention = GatedAttention(16)
    words = torch.randn(1, 6, 16)
    mask = position_mask(6, torch.tensor([4]))
    changed = words.clone()
    changed[:, 4:] = 100.0
    torch.testing.assert_close(attention(words, mask)[:, :4], attention(changed, mask)[:, :4])


def test_gated_attention_computes_its_formula():
    """One head by hand: gates from fc_q(q) * fc_k(k), scores over the root of the head's width."""
    torch.manual_seed(0)
    attention = GatedAttention(8)
    words = torch.randn(1, 3, 8)
    q, k, v = (f(words)[0, :, :4] for f in (attention.to_query, attention.to_key, attention.to_value))
    gates = torch.sigmoid(attention.gate(attention.gate_query(q) * attention.gate_key(k)))
    scores = (q * gates[:, :4]) @ (k * gates[:, 4:]).T / 2.0
    expected = scores.softmax(dim=1) @ v
    found = attention(words, torch.ones(1, 3, dtype=torch.bool))[0, :, :4]
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(("size", "units"), [(2, [1, 1, 3, 5]), (3, [1, 1, 2, 3])])
def test_joint_word_windows_cover_each_caption(size, units):
    words = torch.randn(4, 9, 8) * position_mask(9, LENGTHS).unsqueeze(-1)
    joint = JointWords(8, size).eval()
    found, mask = joint(words, LENGTHS)
    assert mask.sum(dim=1).tolist() == units
    assert found[~mask].abs().sum() == 0


def test_masked_batch_norm_counts_real_positions_only():
    norm = MaskedBatchNorm(1)
    units = torch.tensor([[[1.0], [3.0], [100.0]]])
    mask = torch.tensor([[True, True, False]])
    normed = norm(units, mask)
    torch.testing.assert_close(normed[0, :, 0], torch.tensor([-1.0, 1.0, 0.0]), atol=1e-4, rtol=0)
    torch.testing.assert_close(
        norm.running_mean, torch.tensor([0.2])
    )  # momentum 0.1 times the mean of 1 and 3


def test_caption_embedding_is_the_mean_over_words_and_joint_words():
    torch.manual_seed(0)
    tcge = TCGE(8).eval()
    for last in (tcge.project[0], tcge.project[3]):
        torch.nn.init.zeros_(last.weight)
        torch.nn.init.zeros_(last.bias)
    words = torch.randn(1, 2, 8)
    lengths = torch.tensor([2])
    mask = position_mask(2, lengths)
    enhanced = words + tcge.norm(tcge.attention(words, mask), mask)
    pair, triple = tcge.pairs(enhanced, lengths)[0], tcge.triples(enhanced, lengths)[0]
    expected = torch.cat([enhanced, pair, triple], dim=1).mean(dim=1)
    torch.testing.assert_close(tcge(words, lengths), expected)
