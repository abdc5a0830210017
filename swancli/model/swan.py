"""SWAN, the scene-aware aggregation network (Pan, Ma, Bai, ICMR 2023, figure 2).

image   -> backbone -> VMSF (global) + SFGS (local) -> aggregation -> embedding
caption -> word vectors -> Bi-GRU, or a text transformer -> TCGE -> embedding
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
        if not captions_only:
            drifting = settings.quirks.drifting_statistics
            self.backbone = Backbone(settings.backbone, settings.frozen, drifting, settings.freeze_stages)
            without = settings.without if settings.variant != "published" else (*settings.without, "pool")
            self.image_tower = ImageTower(self.backbone.channels, settings.embed_dim, without)
        self.text_tower = TextTower(settings)

    def encode_images(self, pixels: torch.Tensor) -> torch.Tensor:
        """L2-normalised image embeddings, float (B, D), from normalised pixels, float (B, 3, S, S)."""
        return self.encode_maps(self.backbone(pixels))

    def encode_maps(self, maps: dict[str, torch.Tensor]) -> torch.Tensor:
        """L2-normalised image embeddings, float (B, D), from the maps of `Backbone.forward`."""
        return F.normalize(self.image_tower(maps).float(), dim=-1)

    def encode_captions(self, tokens: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """L2-normalised caption embeddings, float (B, D).

        Args:
            tokens: int64 (B, L), token numbers.
            lengths: int64 (B,), tokens in each caption.
        """
        return F.normalize(self.text_tower(tokens, lengths).float(), dim=-1)

    def encode_states(self, states: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """L2-normalised caption embeddings, float (B, D), from the word states of `TextTower.read`."""
        return F.normalize(self.text_tower.enhance(states, lengths).float(), dim=-1)

    def compile_images(self, images: int) -> None:
        """Compiles the backbone, for batches of up to this many images; see `Backbone.compile_network`."""
        self.to(memory_format=torch.channels_last)
        self.backbone.compile_network(images, self.settings.image_size)

    def parts(self) -> dict[str, list[nn.Parameter]]:
        """The parameters that are trained: of the heads, of the backbone, and of the text transformer."""
        towers = {"backbone": "backbone.", "text": "text_tower.bert."}
        parts = {"heads": [], "backbone": [], "text": []}
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                owner = next((part for part, prefix in towers.items() if name.startswith(prefix)), "heads")
                parts[owner].append(parameter)
        return parts
