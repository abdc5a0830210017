"""The caption side of SWAN: a bidirectional GRU over word vectors, then TCGE.

Every operation masks padding, so a caption's embedding does not depend on the captions beside it
(field defects 4 and 5).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from swancli.model.settings import (
    ATTENTION_DROPOUT,
    FUSION_DROPOUT,
    TEXT_HEADS,
    WORD_DIM,
    WORD_DROPOUT,
)
from swancli.model.visual import feed_forward


class TextTower(nn.Module):
    """From word numbers to the caption embedding."""

    def __init__(self, words: int, width: int) -> None:
        super().__init__()
        self.word_vectors = nn.Embedding(words + 1, WORD_DIM, padding_idx=0)
        self.dropout = nn.Dropout(WORD_DROPOUT)
        self.gru = nn.GRU(WORD_DIM, width, batch_first=True, bidirectional=True)
        self.tcge = TCGE(width)

    def forward(self, tokens: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Caption embedding (B, D), not normalised.

        Args:
            tokens: int64 (B, L), word numbers 1..V, 0 past a caption's end.
            lengths: int64 (B,), words in each caption, at least 1.
        """
        vectors = self.dropout(self.word_vectors(tokens))
        packed = pack_padded_sequence(vectors, lengths.cpu(), batch_first=True, enforce_sorted=False)
        states, _ = pad_packed_sequence(self.gru(packed)[0], batch_first=True, total_length=tokens.shape[1])
        forward_states, backward_states = states.chunk(2, dim=-1)
        return self.tcge((forward_states + backward_states) / 2, lengths)


class TCGE(nn.Module):
    """Textual coarse-grained enhancement: gated self-attention over words, and joint-word units.

    The published code returns a position among the words, so its joint-word units never reach the output
    (field defect 1). Here the embedding is the mean over a caption's words and joint words.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attention = GatedAttention(width)
        self.norm = MaskedBatchNorm(width)
        self.dropout = nn.Dropout(FUSION_DROPOUT)
        self.pairs = JointWords(width, 2)
        self.triples = JointWords(width, 3)
        self.project = feed_forward(width, ATTENTION_DROPOUT)

    def forward(self, words: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Caption embedding (B, D) from word states (B, L, D), zero past each caption's length (B,)."""
        mask = position_mask(words.shape[1], lengths)
        words = words + self.dropout(self.norm(self.attention(words, mask), mask))
        words = words * mask.unsqueeze(-1)
        pairs, pair_mask = self.pairs(words, lengths)
        triples, triple_mask = self.triples(words, lengths)
        units = torch.cat([words, pairs, triples], dim=1)
        units = units + self.project(units)
        mask = torch.cat([mask, pair_mask, triple_mask], dim=1).unsqueeze(-1)
        return (units * mask).sum(dim=1) / mask.sum(dim=1)


class GatedAttention(nn.Module):
    """Self-attention whose queries and keys pass a gate made of both.

    Scores are divided by the root of the head's width. The published code rounds that quotient down, which
    stops the gradient of queries, keys and gates (field defect 2).
    """

    def __init__(self, width: int) -> None:
        super().__init__()
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
        scores = (query * query_gate) @ (key * key_gate).transpose(-1, -2) / math.sqrt(query.shape[-1])
        scores = scores.masked_fill(~mask[:, None, None, :], -torch.inf)
        return (scores.softmax(dim=-1) @ value).transpose(1, 2).flatten(start_dim=2)


class JointWords(nn.Module):
    """Units of neighbouring words: a convolution as long as its stride, then batch norm and ReLU.

    A last window that reaches past the caption's end is filled with zeros, so that captions shorter than
    the window have a unit too (field defect 5).
    """

    def __init__(self, width: int, size: int) -> None:
        super().__init__()
        self.size = size
        self.convolution = nn.Conv1d(width, width, size, stride=size)
        self.norm = MaskedBatchNorm(width)

    def forward(self, words: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Units (B, ceil(L / size), D) and the mask (B, ceil(L / size)) of those that hold a word."""
        filled = F.pad(words, (0, 0, 0, -words.shape[1] % self.size))
        units = self.convolution(filled.transpose(1, 2)).transpose(1, 2)
        mask = position_mask(units.shape[1], (lengths + self.size - 1) // self.size)
        return F.relu(self.norm(units, mask)), mask


class MaskedBatchNorm(nn.BatchNorm1d):
    """Batch norm over the positions that hold something; the others become zero."""

    def forward(self, units: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Normalised units (B, L, D); mask (B, L) is true at positions that count."""
        normed = torch.zeros_like(units)
        normed[mask] = super().forward(units[mask]).to(normed.dtype)
        return normed


def position_mask(length: int, lengths: torch.Tensor) -> torch.Tensor:
    """bool (B, length): true before each row's length (B,)."""
    return torch.arange(length, device=lengths.device) < lengths.unsqueeze(1)
