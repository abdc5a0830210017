"""The caption side of SWAN: a bidirectional GRU over word vectors, or a text transformer; then TCGE.

In the repaired variant every operation masks padding, so an embedding does not depend on the other captions
of its batch. In the published variant it does: items 1 to 5 (README.md here, "Differences") are marked below.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from swancli.errors import SwanError
from swancli.machine.device import move
from swancli.model.bert import Bert
from swancli.model.dropout import Dropout
from swancli.model.settings import (
    ATTENTION_DROPOUT,
    FUSION_DROPOUT,
    QUIRKS,
    TEXT_HEADS,
    WORD_DROPOUT,
    ModelSettings,
    Quirks,
)
from swancli.model.visual import feed_forward

REPAIRED = QUIRKS["repaired"]


class TextTower(nn.Module):
    """From token numbers to the caption embedding: a reader of words, then TCGE.

    The reader is the paper's Bi-GRU over word vectors, or a text transformer whose features are projected to
    D. Without TCGE the embedding is gathered from the word states.
    """

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        self.quirks = quirks = settings.quirks
        width = settings.embed_dim
        self.bert = Bert(settings.bert) if settings.bert else None
        if self.bert:
            self.bert.freeze(settings.freeze_text)
            self.project = nn.Linear(settings.bert.width, width)
        else:
            self.word_vectors = nn.Embedding(settings.words + 1, settings.word_dim, padding_idx=0)
            self.dropout = Dropout(WORD_DROPOUT)
            self.gru = nn.GRU(settings.word_dim, width, batch_first=True, bidirectional=True)
        if quirks.unused_projection:  # item 3
            self.unused_projection = nn.Linear(width, width)
        self.tcge = None if "tcge" in settings.without else TCGE(width, quirks)

    def forward(self, tokens: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Caption embedding (B, D), not normalised; arguments as in `read`."""
        return self.enhance(self.read(tokens, lengths), lengths)

    def read(self, tokens: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Word states, zero past a caption's end: (B, L, H) of the transformer, else (B, L, D) of the GRU.

        Those of the GRU are the mean of both directions.

        Args:
            tokens: int64 (B, L), token numbers, 0 past a caption's end.
            lengths: int64 (B,), tokens in each caption, at least 1; on the CPU, as packing requires.
        """
        if self.bert:
            return self.bert(tokens, lengths)
        vectors = self.dropout(self.word_vectors(tokens))
        packed = pack_padded_sequence(vectors, lengths.cpu(), batch_first=True, enforce_sorted=False)
        states, _ = pad_packed_sequence(self.gru(packed)[0], batch_first=True, total_length=tokens.shape[1])
        forward_states, backward_states = states.chunk(2, dim=-1)
        return (forward_states + backward_states) / 2

    def enhance(self, words: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Caption embedding (B, D), not normalised, from the word states of `read`; lengths (B,)."""
        mask = position_mask(words.shape[1], lengths)
        if self.bert:
            words = self.project(words) * move(mask, words.device).unsqueeze(-1)
        if self.tcge:
            return self.tcge(words, lengths)
        return _gather(words, mask, lengths, self.quirks)


class TCGE(nn.Module):
    """Textual coarse-grained enhancement: gated self-attention over words, and joint-word units.

    In the repaired variant the embedding is the mean over a caption's words and joint words.
    """

    def __init__(self, width: int, quirks: Quirks = REPAIRED) -> None:
        super().__init__()
        self.quirks = quirks
        self.attention = GatedAttention(width, quirks.floored_scores)
        self.norm = MaskedBatchNorm(width)
        self.dropout = Dropout(FUSION_DROPOUT)
        self.pairs = JointWords(width, 2, quirks.whole_windows)
        self.triples = JointWords(width, 3, quirks.whole_windows)
        self.project = feed_forward(width, ATTENTION_DROPOUT)

    def forward(self, words: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Caption embedding (B, D) from word states (B, L, D), zero past each caption's length (B,).

        Raises:
            SwanError: in the published variant, if every caption of the batch has one or two words (item 5).
        """
        # Item 4, published: every caption counts as long as the longest of the batch.
        counted = torch.full_like(lengths, words.shape[1]) if self.quirks.counted_padding else lengths
        mask = position_mask(words.shape[1], counted)
        words = words + self.dropout(self.norm(self.attention(words, mask), mask))
        words = words * move(mask, words.device).unsqueeze(-1)
        pairs, pair_mask = self.pairs(words, counted)
        triples, triple_mask = self.triples(words, counted)
        units = torch.cat([words, pairs, triples], dim=1)
        units = units + self.project(units)
        return _gather(units, torch.cat([mask, pair_mask, triple_mask], dim=1), lengths, self.quirks)


def _gather(units: torch.Tensor, mask: torch.Tensor, lengths: torch.Tensor, quirks: Quirks) -> torch.Tensor:
    """One vector per caption (B, D) from its units (B, U, D), words first; mask (B, U) is true there."""
    if quirks.last_word_alone:  # item 1
        return units[torch.arange(len(units), device=units.device), move(lengths - 1, units.device)]
    mask = move(mask, units.device).unsqueeze(-1)
    return (units * mask).sum(dim=1) / mask.sum(dim=1)


class GatedAttention(nn.Module):
    """Self-attention whose queries and keys are gated by their product.

    Scores are divided by the square root of the head's width; `floored` rounds the quotient down (item 2).
    """

    def __init__(self, width: int, floored: bool = False) -> None:
        super().__init__()
        self.floored = floored
        head = width // TEXT_HEADS
        self.to_query = nn.Linear(width, width)
        self.to_key = nn.Linear(width, width)
        self.to_value = nn.Linear(width, width)
        self.gate_query = nn.Linear(head, head)
        self.gate_key = nn.Linear(head, head)
        self.gate = nn.Linear(head, 2 * head)

    def forward(self, words: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Attended words (B, L, D) from words (B, L, D); mask (B, L) is true at real words."""
        query, key, value = (
            projection(words).unflatten(-1, (TEXT_HEADS, -1)).transpose(1, 2)
            for projection in (self.to_query, self.to_key, self.to_value)
        )
        gates = torch.sigmoid(self.gate(self.gate_query(query) * self.gate_key(key)))
        query_gate, key_gate = gates.chunk(2, dim=-1)
        scores = (query * query_gate) @ (key * key_gate).transpose(-1, -2)
        rounding = "floor" if self.floored else None  # item 2
        scores = torch.div(scores, math.sqrt(query.shape[-1]), rounding_mode=rounding)
        scores = scores.masked_fill(~move(mask, words.device)[:, None, None, :], -torch.inf)
        return (scores.softmax(dim=-1) @ value).transpose(1, 2).flatten(start_dim=2)


class JointWords(nn.Module):
    """Units of neighbouring words: a convolution as long as its stride, then batch norm and ReLU.

    A last window that reaches past the caption's end is padded with zeros, so captions shorter than the
    window also have a unit; with `whole` (item 5) that window is left out.
    """

    def __init__(self, width: int, size: int, whole: bool = False) -> None:
        super().__init__()
        self.size = size
        self.whole = whole
        self.convolution = nn.Conv1d(width, width, size, stride=size)
        self.norm = MaskedBatchNorm(width)

    def forward(self, words: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Units (B, U, D) and the mask (B, U) of those that count; U = ceil(L / size), or floor if `whole`.

        Raises:
            SwanError: `whole`, and there are fewer than `size` words.
        """
        if self.whole:  # item 5
            if words.shape[1] < self.size:
                raise SwanError(
                    "the published variant cannot encode one or two words alone (its item 5)",
                    "give at least three words, or train with --variant repaired",
                )
        else:
            words = F.pad(words, (0, 0, 0, -words.shape[1] % self.size))
        # Windows do not overlap, so the convolution is one matrix product.
        windows = words[:, : words.shape[1] // self.size * self.size].unflatten(1, (-1, self.size))
        weight = self.convolution.weight.transpose(1, 2).flatten(start_dim=1)
        units = F.linear(windows.flatten(start_dim=2), weight, self.convolution.bias)
        units_of = lengths // self.size if self.whole else (lengths + self.size - 1) // self.size
        mask = position_mask(units.shape[1], units_of)
        return F.relu(self.norm(units, mask)), mask


class MaskedBatchNorm(nn.BatchNorm1d):
    """Batch norm over the positions that count; the others become zero."""

    def forward(self, units: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Normalised units (B, L, D); mask (B, L) is true at positions that count."""
        flat = units.flatten(end_dim=1)
        # Masks are on the CPU: counting their positions on a GPU would synchronize it.
        positions = move(mask.flatten().nonzero().squeeze(1), units.device)
        normed = super().forward(flat.index_select(0, positions)).to(units.dtype)
        return torch.zeros_like(flat).index_copy(0, positions, normed).view_as(units)


def position_mask(length: int, lengths: torch.Tensor) -> torch.Tensor:
    """bool (B, length): true before each row's length (B,)."""
    return torch.arange(length, device=lengths.device) < lengths.unsqueeze(1)
