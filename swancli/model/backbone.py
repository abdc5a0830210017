"""The convolutional backbone: a torchvision ResNet, read at four depths."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from torchvision.models import get_model
from torchvision.models.feature_extraction import create_feature_extractor

from swancli.errors import SwanError
from swancli.model.torch_file import read_torch_file

DEPTHS = {"maxpool": "shallow", "layer2": "deep1", "layer3": "deep2", "layer4": "deep3"}
CHANNELS = {
    "resnet18": (64, 128, 256, 512),
    "resnet34": (64, 128, 256, 512),
    "resnet50": (64, 512, 1024, 2048),
}


class Backbone(nn.Module):
    """ResNet features at four depths, trained or frozen.

    Frozen means that neither weights nor batch statistics move. With `drifting` (item 6) the weights alone
    stay: in training, batch norms use the statistics of the batch, and the running ones follow them.
    """

    def __init__(self, name: str, frozen: bool, drifting: bool = False) -> None:
        super().__init__()
        self.name = name
        self.frozen = frozen
        self.drifting = drifting
        self.channels = CHANNELS[name]
        self.network = create_feature_extractor(get_model(name, weights=None), dict(DEPTHS))
        self.network.requires_grad_(not frozen)

    def train(self, mode: bool = True) -> Backbone:
        return super().train(mode and (self.drifting or not self.frozen))  # item 6

    def forward(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        """Maps at four depths.

        Args:
            pixels: float (B, 3, S, S), ImageNet-normalised.

        Returns:
            shallow (B, C0, S/4, S/4) after the first max-pool, deep1 (B, C1, S/8, S/8),
            deep2 (B, C2, S/16, S/16), deep3 (B, C3, S/32, S/32), with C = `channels`.
        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            return self.network(pixels)

    def load_weights(self, path: Path) -> None:
        """Loads a local file: a torchvision state dict, or one under a `model` or `state_dict` key (AID).

        The classifier's weights are passed over; everything else must fit.

        Raises:
            SwanError: the file is absent, holds something else, or belongs to another network.
        """
        weights = _read_weights(path)
        own = self.network.state_dict()
        weights = {key: value for key, value in weights.items() if not key.startswith("fc.")}
        wrong = [
            key
            for key, value in own.items()
            if not key.endswith("num_batches_tracked")
            and (key not in weights or weights[key].shape != value.shape)
        ]
        wrong += [key for key in weights if key not in own]
        if wrong:
            fitting = _network_of(weights)
            mend = f"it fits --backbone {fitting}" if fitting else "give a ResNet's weights"
            raise SwanError(
                f"{path}: not weights of {self.name} ({len(wrong)} differ, first {wrong[0]})", mend
            )
        self.network.load_state_dict(weights, strict=False)


def _read_weights(path: Path) -> dict[str, torch.Tensor]:
    mend = "give a torchvision state dict, or one under a `model` key"
    content = read_torch_file(path, mend)
    for key in ("model", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(
        isinstance(value, torch.Tensor) for value in content.values()
    ):
        raise SwanError(f"{path}: holds no state dict", mend)
    return {key.removeprefix("module."): value for key, value in content.items()}


def _network_of(weights: dict[str, torch.Tensor]) -> str | None:
    """Which backbone a state dict belongs to, from the blocks in it."""
    if "layer1.0.conv3.weight" in weights:
        return "resnet50" if "layer3.5.conv1.weight" in weights else None
    if "layer1.2.conv1.weight" in weights:
        return "resnet34"
    return "resnet18" if "layer4.1.conv2.weight" in weights else None
