"""The convolutional backbone: a torchvision ResNet, read at four depths."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from swancli.errors import SwanError
from swancli.model.published import from_published, is_published
from swancli.model.settings import CHANNELS
from swancli.store.torch_file import read_torch_file

DEPTHS = {"maxpool": "shallow", "layer2": "deep1", "layer3": "deep2", "layer4": "deep3"}
PART = 32  # images that a CPU computes at a time
OWN = "backbone.network."  # prefix of the backbone's weights in our checkpoints


class Backbone(nn.Module):
    """ResNet features at four depths, trained or frozen.

    If frozen, neither weights nor batch statistics change. If also `drifting` (item 6), only the weights are
    fixed: in training, batch norms use the statistics of the batch and update the running ones.
    """

    def __init__(self, name: str, frozen: bool, drifting: bool = False) -> None:
        # Importing torchvision takes seconds, and a text query does not need it.
        from torchvision.models import get_model
        from torchvision.models.feature_extraction import create_feature_extractor

        super().__init__()
        self.name = name
        self.frozen = frozen
        self.drifting = drifting
        self.channels = CHANNELS[name]
        self.network = create_feature_extractor(get_model(name, weights=None), dict(DEPTHS))
        self.network.requires_grad_(not frozen)
        self.compiled = False

    def train(self, mode: bool = True) -> Backbone:
        return super().train(mode and (self.drifting or not self.frozen))  # item 6

    def forward(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        """Maps at four depths.

        Args:
            pixels: float (B, 3, S, S), ImageNet-normalised.

        Returns:
            shallow (B, C0, S/4, S/4) after the first max-pool, deep1 (B, C1, S/16, S/16), every second
            pixel, as VMSF reads it, deep2 (B, C2, S/16, S/16), deep3 (B, C3, S/32, S/32); C = `channels`.
        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            if self.training or torch.is_grad_enabled():
                return self._maps(self.network, pixels)
            network = self.network if self.compiled else FoldedNorms(self.network).run
            parts = [self._maps(network, part) for part in _parts(pixels)]
            if len(parts) == 1:
                return parts[0]
            return {depth: torch.cat([part[depth] for part in parts]) for depth in parts[0]}

    @staticmethod
    def _maps(
        network: Callable[..., dict[str, torch.Tensor]], pixels: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        maps = network(pixels)
        grid = maps["deep2"].shape[-2:]
        return maps | {"deep1": F.interpolate(maps["deep1"], size=grid, mode="nearest")}

    def compile_network(self, images: int, size: int) -> None:
        """Compiles the network with torch.compile, which fuses batch norms by itself, and tries one batch.

        Args:
            images: the most images in a batch.
            size: side of the images in pixels.

        Raises:
            SwanError: torch.compile does not work here.
        """
        self.network.compile()
        self.compiled = True
        from torch._dynamo.exc import TorchDynamoException  # which takes a second to import

        pixels = torch.zeros(images, 3, size, size, device=next(self.parameters()).device)
        training = self.training
        try:
            with torch.no_grad():
                self.eval()(pixels.contiguous(memory_format=torch.channels_last))
        except TorchDynamoException as error:
            reason = str(error).strip().split("\n")[0]
            raise SwanError(f"--compile: not possible here ({reason})", "leave --compile out") from error
        self.train(training)

    @torch.no_grad()
    def shallow(self, pixels: torch.Tensor) -> torch.Tensor:
        """Only the shallow map (B, C0, S/4, S/4) of a frozen backbone; pixels as in `forward`."""
        network = self.network
        convolved = (_convolve_folded(network.conv1, network.bn1, part) for part in _parts(pixels))
        return torch.cat([network.relu(network.maxpool(part)) for part in convolved])

    def digest(self) -> str:
        """Hexadecimal SHA-256 of its weights and statistics; backbones of equal digests give equal maps."""
        digest = hashlib.sha256(self.name.encode())
        for key, value in self.network.state_dict().items():
            if not key.endswith("num_batches_tracked"):
                digest.update(value.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def load_weights(self, path: Path) -> None:
        """Loads a local file: a torchvision state dict, or one under a `model` or `state_dict` key (AID).

        From a checkpoint, ours or the published code's, its backbone is loaded. The classifier's weights are
        ignored; all others must fit.

        Raises:
            SwanError: the file is absent, contains something else, or belongs to another network.
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
            hint = f"it fits --backbone {fitting}" if fitting else "give a ResNet's weights"
            raise SwanError(
                f"{path}: not weights of {self.name} ({len(wrong)} differ, first {wrong[0]})", hint
            )
        odd = next((key for key, value in weights.items() if not torch.isfinite(value).all()), None)
        if odd:
            raise SwanError(f"{path}: its weight {odd} contains NaN or infinity", "fetch or train it again")
        self.network.load_state_dict(weights, strict=False)


def _parts(pixels: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """A batch that is not trained on, in equal parts: larger ones cost a CPU memory and save no time."""
    return pixels.chunk(-(-len(pixels) // PART)) if pixels.device.type == "cpu" else (pixels,)


class FoldedNorms(fx.Interpreter):
    """Runs a ResNet in evaluation mode with each batch norm folded into the convolution before it.

    The same sums take half the passes over memory. The weights are folded again for each batch, which takes
    about 1 % of its time, so they are never out of date.
    """

    def __init__(self, network: fx.GraphModule) -> None:
        super().__init__(network)
        users = ((node.target, next(iter(node.users))) for node in network.graph.nodes if node.users)
        self.norms = {name: user.target for name, user in users if user.op == "call_module"}

    def call_module(self, target: str, args: tuple, kwargs: dict) -> torch.Tensor:
        module = self.submodules[target]
        if isinstance(module, nn.BatchNorm2d):
            return args[0]
        if not isinstance(module, nn.Conv2d):
            return module(*args)
        return _convolve_folded(module, self.submodules[self.norms[target]], *args)


def _convolve_folded(convolution: nn.Conv2d, norm: nn.BatchNorm2d, maps: torch.Tensor) -> torch.Tensor:
    statistics = norm.running_mean, norm.running_var, norm.eps
    weight, bias = fuse_conv_bn_weights(
        convolution.weight, convolution.bias, *statistics, norm.weight, norm.bias
    )
    return F.conv2d(maps, weight, bias, convolution.stride, convolution.padding)


def _read_weights(path: Path) -> dict[str, torch.Tensor]:
    hint = "give a torchvision state dict, or one under a `model` key"
    content = read_torch_file(path, hint)
    for key in ("model", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if is_published(content):
        _, content = from_published(content)
    if not isinstance(content, dict) or not all(
        isinstance(value, torch.Tensor) for value in content.values()
    ):
        raise SwanError(f"{path}: contains no state dict", hint)
    own = {key: value for key, value in content.items() if key.startswith(OWN)}
    return {key.removeprefix(OWN).removeprefix("module."): value for key, value in (own or content).items()}


def _network_of(weights: dict[str, torch.Tensor]) -> str | None:
    """The backbone that a state dict belongs to, by its blocks; None if it is not known."""
    if "layer1.0.conv3.weight" in weights:
        return "resnet50" if "layer3.5.conv1.weight" in weights else None
    if "layer1.2.conv1.weight" in weights:
        return "resnet34"
    return "resnet18" if "layer4.1.conv2.weight" in weights else None
