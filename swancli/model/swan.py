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
    """Two towers into one space of D dimensions; the cosine there is the similarity.

    With `captions_only` the image side is left out, which a text query does not need.
    """

    def __init__(self, settings: ModelSettings, captions_only: bool = False) -> None:
        super().__init__()
        self.settings = settings
        quirks, without, width = settings.quirks, settings.without, settings.embed_dim
        if not captions_only:
            self.backbone = Backbone(settings.backbone, settings.frozen, quirks.drifting_statistics)
            self.image_tower = ImageTower(self.backbone.channels, width, without)
        self.text_tower = TextTower(settings.words, width, quirks, without)

    def encode_images(
        self, pixels: torch.Tensor, deep: dict[str, torch.Tensor] | None = None
    ) -> torch.Tensor:
        """L2-normalised image embeddings, float (B, D).

        Args:
            pixels: float (B, 3, S, S), ImageNet-normalised.
            deep: the maps deep1, deep2 and deep3 of these pixels, of any float type, if a frozen backbone
                computed them earlier.
        """
        if deep is None:
            maps = self.backbone(pixels)
        else:
            maps = {depth: values.float() for depth, values in deep.items()}
            maps["shallow"] = self.backbone.shallow(pixels)
        return F.normalize(self.image_tower(maps).float(), dim=-1)

    def encode_captions(self, tokens: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """L2-normalised caption embeddings, float (B, D).

        Args:
            tokens: int64 (B, L), word numbers.
            lengths: int64 (B,), words in each caption.
        """
        return F.normalize(self.text_tower(tokens, lengths).float(), dim=-1)
