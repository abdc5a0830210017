"""Backbones from timm: any network whose maps include strides 4, 8, 16 and 32."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from swancli.errors import SwanError
from swancli.model.inputs import INTERPOLATIONS, Preprocessing
from swancli.model.settings import TIMM

STRIDES = (4, 8, 16, 32)


@dataclass(frozen=True)
class Plan:
    """Where the four maps of a network are read.

    places: of the maps at strides 4, 8, 16 and 32 among all maps of the network.
    head: the deepest map is what the convolution of the network's head makes of it.
    classifier: names of the modules that hold the classifier, which are left out.
    dropped: names of the other weights that are left out.
    """

    places: tuple[int, int, int, int]
    head: bool
    classifier: frozenset[str]
    dropped: frozenset[str] = frozenset()


def preprocessing_of(name: str) -> Preprocessing:
    """The input that timm's data configuration of a network names.

    Args:
        name: with `TIMM`, perhaps with the tag of its weights, as in timm/resnet18.a1_in1k.

    Raises:
        SwanError: timm has no such network.
    """
    import timm
    from timm.data import resolve_data_config

    _check_name(name)
    config = resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(_own(name)).to_dict())
    interpolation = config["interpolation"] if config["interpolation"] in INTERPOLATIONS else "bicubic"
    mean, std = (tuple(map(float, config[key])) for key in ("mean", "std"))
    return Preprocessing(config["input_size"][-1], mean, std, interpolation)


def built(name: str) -> tuple[nn.Module, Plan, tuple[int, ...], tuple[str, ...]]:
    """A network with random weights and without its classifier.

    Returns:
        The network, where its maps are read, their channels, and the last module of each stage.

    Raises:
        SwanError: timm has no such network, or it has no map at one of the `STRIDES`.
    """
    network = _created(name)
    plan, whole = _plan(name, network), network.state_dict().keys()
    parts = [network.feature_info[place] for place in plan.places]
    channels = [part["num_chs"] for part in parts]
    if plan.head:
        channels[-1] = network.num_features
    else:
        network.prune_intermediate_layers(list(plan.places), prune_norm=True, prune_head=True)
    for part in plan.classifier:
        setattr(network, part, nn.Identity())
    plan = replace(plan, dropped=frozenset(whole - network.state_dict().keys()))
    return network, plan, tuple(channels), tuple(part["module"] for part in parts)


def _plan(name: str, network: Any) -> Plan:
    reductions = [part["reduction"] for part in getattr(network, "feature_info", [])]
    missing = [stride for stride in STRIDES if stride not in reductions]
    if missing or not hasattr(network, "forward_intermediates"):
        found = ", ".join(map(str, dict.fromkeys(reductions))) or "none that can be read"
        lacking = missing[0] if missing else STRIDES[0]
        raise SwanError(
            f"--backbone {name}: it has no map at stride {lacking} (its strides: {found})",
            "take one with maps at strides 4, 8, 16 and 32, such as timm/tf_efficientnet_lite0",
        )
    places = tuple(max(at for at, one in enumerate(reductions) if one == stride) for stride in STRIDES)
    head = getattr(network, "conv_head", None)
    # In some networks the convolution of the head comes after pooling, so that it makes no map.
    makes_a_map = getattr(head, "out_channels", None) == network.num_features
    return Plan(places, makes_a_map, frozenset(_head_names(network)))


def maps(network: nn.Module, plan: Plan, pixels: torch.Tensor) -> list[torch.Tensor]:
    """The four maps (B, C, H, W) of a network from `built`."""
    options = {"indices": list(plan.places), "output_fmt": "NCHW"}
    if not plan.head:
        return network.forward_intermediates(pixels, intermediates_only=True, **options)
    deepest, found = network.forward_intermediates(pixels, **options)
    return [*found[:-1], deepest]


def without_head(plan: Plan, weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights that a network from `built` has, where they are those of the whole network of timm.

    What the whole network lacks is kept, so that the loader can report it.
    """
    return {
        key: value
        for key, value in weights.items()
        if key not in plan.dropped and key.partition(".")[0] not in plan.classifier
    }


def _own(name: str) -> str:
    return name.removeprefix(TIMM)


def _head_names(network: nn.Module) -> set[str]:
    """The modules that hold the classifier, as attributes of a network."""
    named = network.pretrained_cfg.get("classifier") or ()
    return {part.partition(".")[0] for part in ([named] if isinstance(named, str) else named)}


def _check_name(name: str) -> None:
    import timm

    wanted, _, tag = _own(name).partition(".")
    if not timm.is_model(wanted):
        near = difflib.get_close_matches(wanted, timm.list_models(), n=3)
        meant = f"do you mean {' or '.join(TIMM + one for one in near)}?"
        hint = meant if near else "the Python function timm.list_models() lists them"
        raise SwanError(f"--backbone {name}: timm has no such network", hint)
    tags = [one.partition(".")[2] for one in timm.list_pretrained(f"{wanted}.*")]
    if tag and tag not in tags:
        hint = f"its tags: {', '.join(tags)}" if tags else "leave the tag out"
        raise SwanError(f"--backbone {name}: timm knows no weights {tag!r} of {wanted}", hint)


def _created(name: str) -> Any:
    import timm

    _check_name(name)
    return timm.create_model(_own(name), pretrained=False)
