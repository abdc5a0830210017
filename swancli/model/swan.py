"""SWAN, the scene-aware aggregation network (Pan, Ma, Bai, ICMR 2023, figure 2).

image   -> backbone -> VMSF (global) + SFGS (local) -> aggregation -> embedding
caption -> word vectors -> Bi-GRU -> TCGE ------------------------> embedding
similarity = cosine of the two
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from swancli.model.backbone import Backbone
from swancli.model.settings import ModelSettings
from swancli.model.textual import TextTower
from swancli.model.visual import ImageTower


class Swan(nn.Module):
    """Two towers into one space of D dimensions; the cosine there is the similarity."""

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        self.settings = settings
        quirks, without, width = settings.quirks, settings.without, settings.embed_dim
        self.backbone = Backbone(settings.backbone, settings.frozen, quirks.drifting_statistics)
        self.image_tower = ImageTower(self.backbone.channels, width, without)
        self.text_tower = TextTower(settings.words, width, quirks, without)

    def encode_images(self, pixels: torch.Tensor) -> torch.Tensor:
        """L2-normalised float (B, D) from ImageNet-normalised float (B, 3, S, S)."""
        return F.normalize(self.image_tower(self.backbone(pixels)).float(), dim=-1)

    def encode_captions(self, tokens: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """L2-normalised float (B, D) from word numbers int64 (B, L) and lengths int64 (B,)."""
        return F.normalize(self.text_tower(tokens, lengths).float(), dim=-1)
