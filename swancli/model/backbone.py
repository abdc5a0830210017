"""The backbone: a ResNet of torchvision or a network of timm, read at four depths.

`README.md` here, "Backbones", says which map of a network takes which place of the paper.
"""

from __future__ import annotations

from pathlib import Path
from types import MethodType

import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from swancli.errors import StoreError, SwanError
from swancli.model import timm_network, towers
from swancli.model.borrowed import IMAGE as OWN
from swancli.model.inputs import Preprocessing
from swancli.model.published import from_published, is_published
from swancli.model.settings import BACKBONE_HINT, RESNETS, STAGES, TIMM
from swancli.model.weights import (
    COUNTER,
    SAFETENSORS,
    misfit,
    not_finite,
    read_weights,
    shapes_of,
    weights_digest,
)
from swancli.store.torch_file import read_torch_file
from swancli.workspace import WEIGHTS_HINT, WITH_SWAN

DEPTHS = ("shallow", "deep1", "deep2", "deep3")
RESNET_NODES = dict(zip(("maxpool", "layer2", "layer3", "layer4"), DEPTHS, strict=True))
RESNET_STAGES = ("layer1", "layer2", "layer3", "layer4")
PART = 32  # images that a CPU computes at a time


def preprocessing_of(name: str) -> Preprocessing:
    """The input that a backbone expects, with its usual size.

    Raises:
        SwanError: there is no such backbone.
    """
    if name in RESNETS:
        return Preprocessing()
    if not name.startswith(TIMM):
        raise SwanError(f"--backbone {name}: not known", BACKBONE_HINT)
    return timm_network.preprocessing_of(name)


class Backbone(nn.Module):
    """Maps at four depths, from a network that is trained, frozen, or frozen in its first stages.

    Of what is frozen neither weights nor batch statistics change; with frozen stages, or while no weight
    requires a gradient, no batch statistics do. If `drifting` (item 6), only the weights are fixed: in
    training, batch norms use the statistics of the batch and update the running ones.
    """

    def __init__(self, name: str, frozen: bool, drifting: bool = False, freeze_stages: int = 0) -> None:
        super().__init__()
        self.name = name
        self.frozen = frozen
        self._drifting = drifting  # item 6
        self._whole = not (frozen or freeze_stages)
        self.compiled = False
        if name in RESNETS:
            self.network, self.channels, stages = _resnet(name)
            self._plan = None
        else:
            self.network, self._plan, self.channels, stages = timm_network.built(name)
        self.network.requires_grad_(not frozen)
        fixed: list[nn.Module] = []
        if freeze_stages == STAGES:
            fixed = [self.network]  # with the head's convolution, where that makes the deepest map
        elif freeze_stages:
            fixed = _modules_up_to(self.network, stages[freeze_stages - 1])
            if not fixed:
                raise SwanError(
                    f"--freeze-stages {freeze_stages}: {name} does not say where its stages end",
                    "train all of it: --freeze-stages 0, or nothing of it: --freeze",
                )
            for parameter in self.network.parameters(recurse=False):  # a table of positions, read first
                parameter.requires_grad_(False)
        for module in fixed:
            module.requires_grad_(False)

    def train(self, mode: bool = True) -> Backbone:
        return super().train(mode and (self._drifting or (self._whole and self._trained)))

    @property
    def _trained(self) -> bool:
        return any(weight.requires_grad for weight in self.network.parameters())

    def forward(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        """Maps at four depths.

        Args:
            pixels: float (B, 3, S, S), normalised as `preprocessing_of` says.

        Returns:
            shallow (B, C0, S/4, S/4), deep1 (B, C1, S/16, S/16), every second pixel of the map at stride 8,
            as VMSF reads it, deep2 (B, C2, S/16, S/16), deep3 (B, C3, S/32, S/32); C = `channels`.
        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and self._trained):
            if self.training:  # batch norms see the whole batch
                return self._maps(pixels)
            parts = [self._maps(part) for part in _parts(pixels)]
            if len(parts) == 1:
                return parts[0]
            return {depth: torch.cat([part[depth] for part in parts]) for depth in parts[0]}

    def _maps(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        if self._plan:
            maps = dict(zip(DEPTHS, timm_network.maps(self.network, self._plan, pixels), strict=True))
        elif self.compiled or self.training or torch.is_grad_enabled():
            maps = self.network(pixels)
        else:
            maps = FoldedNorms(self.network).run(pixels)
        grid = maps["deep2"].shape[-2:]
        return maps | {"deep1": F.interpolate(maps["deep1"], size=grid, mode="nearest")}

    @torch.no_grad()
    def map_shapes(self, size: int) -> dict[str, tuple[int, int, int]]:
        """(C, H, W) of each map of images with a side of `size` pixels.

        Raises:
            SwanError: the network does not take images of this size.
        """
        training = self.training
        pixels = torch.zeros(1, 3, size, size, device=next(self.parameters()).device)
        try:
            maps = self.eval()(pixels)
        except (AssertionError, RuntimeError, ValueError, IndexError) as error:
            reason = str(error).strip().split("\n")[0].removesuffix(".")
            usual = f"use its own size: --image-size {preprocessing_of(self.name).size}"
            raise SwanError(f"--image-size {size}: {self.name} does not take it ({reason})", usual) from error
        finally:
            self.train(training)
        return {depth: tuple(values.shape[1:]) for depth, values in maps.items()}

    def compile_network(self, images: int, size: int) -> None:
        """Compiles the network with torch.compile, which fuses batch norms by itself, and tries one batch.

        Args:
            images: the most images in a batch.
            size: side of the images in pixels.

        Raises:
            SwanError: torch.compile does not work here.
        """
        # As a method, so that a copy of the backbone computes with its own weights.
        self._maps = MethodType(torch.compile(Backbone._maps), self)
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

    def digest(self) -> str:
        """Hexadecimal SHA-256 of its weights and statistics; backbones of equal digests give equal maps."""
        return weights_digest(self.name, self.network.state_dict())

    def load_weights(self, path: Path | str) -> None:
        """Loads weights from a local file, or those that come with swan.

        A file is a state dict of torchvision or timm, also under a `model` or `state_dict` key (AID), or
        safetensors. From a checkpoint, ours or the published code's, its backbone is loaded. The classifier's
        weights are ignored; all others must fit.

        Args:
            path: of the file, or `WITH_SWAN`.

        Raises:
            SwanError: the file is absent, contains something else, or belongs to another network.
        """
        if str(path) == WITH_SWAN and not Path(path).exists():
            if self.name != towers.IMAGE_TOWER:
                raise SwanError(
                    f"--weights {WITH_SWAN}: these are weights of {towers.IMAGE_TOWER}, not of {self.name}",
                    f"add --backbone {towers.IMAGE_TOWER}, or give a file: --weights FILE",
                )
            weights = towers.image_tower()
        elif not Path(path).is_file():
            raise SwanError(f"{path}: no such file", WEIGHTS_HINT)
        else:
            weights = _read_backbone(Path(path))
        if self._plan:
            weights = timm_network.without_head(self._plan, weights)
        own = self.network.state_dict()
        counters = {key: value for key, value in own.items() if key.endswith(COUNTER)}  # often not stored
        weights = counters | {key: value for key, value in weights.items() if not key.startswith("fc.")}
        problem = misfit(shapes_of(own), shapes_of(weights))
        if problem:
            fitting = _resnet_of(weights)
            hint = f"it fits --backbone {fitting}" if fitting else f"give weights of {self.name}"
            raise SwanError(f"{path}: not weights of {self.name}: {problem}", hint)
        if problem := not_finite(weights):
            raise SwanError(f"{path}: {problem}", "fetch or train it again")
        self.network.load_state_dict(weights)


def _resnet(name: str) -> tuple[fx.GraphModule, tuple[int, int, int, int], tuple[str, ...]]:
    """A ResNet with random weights, the channels of its maps, and the last module of each stage."""
    # Importing torchvision takes seconds, and a text query does not need it.
    from torchvision.models import get_model
    from torchvision.models.feature_extraction import create_feature_extractor

    channels = (64, 512, 1024, 2048) if name == "resnet50" else (64, 128, 256, 512)
    network = create_feature_extractor(get_model(name, weights=None), dict(RESNET_NODES))
    return network, channels, RESNET_STAGES


def _modules_up_to(network: nn.Module, last: str) -> list[nn.Module]:
    """The modules of a network, in order, up to and with the module `last`, without those that enclose it.

    Not only the innermost ones: timm's norms contain their activation, and some blocks have weights of
    their own. Empty if there is no such module.
    """
    names = [name for name, _ in network.named_modules()]
    inside = [place for place, name in enumerate(names) if f"{name}.".startswith(f"{last}.")]
    until = names[: max(inside, default=-1) + 1]
    before = (name for name in until if name and not last.startswith(f"{name}."))
    return [network.get_submodule(name) for name in before]


def _parts(pixels: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """A batch in equal parts: larger ones cost a CPU memory and save no time."""
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


def _read_backbone(path: Path) -> dict[str, torch.Tensor]:
    """The weights in a file; of a whole model, ours or the published code's, those of its backbone."""
    weights = read_weights(path)
    if is_published(weights):
        _, weights = from_published(weights)
    own = {key.removeprefix(OWN): value for key, value in weights.items() if key.startswith(OWN)}
    return own | _borrowed(path) if own else weights


def _borrowed(path: Path) -> dict[str, torch.Tensor]:
    """What the backbone of a small checkpoint has from the towers that come with swan."""
    if path.suffix == SAFETENSORS:
        return {}
    names = read_torch_file(path, "take other weights", in_part=True).get("borrowed") or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise StoreError(f"{path}: damaged, `borrowed` is not a list of names", "take other weights")
    theirs = towers.image_tower() if names else {}
    return {name: value for name, value in theirs.items() if OWN + name in names}


def _resnet_of(weights: dict[str, torch.Tensor]) -> str | None:
    """The ResNet of torchvision that a state dict belongs to, by its blocks; None if it is not known."""
    if "layer1.0.conv3.weight" in weights:
        return "resnet50" if "layer3.5.conv1.weight" in weights else None
    if "layer1.2.conv1.weight" in weights:
        return "resnet34"
    return "resnet18" if "layer4.1.conv2.weight" in weights else None
