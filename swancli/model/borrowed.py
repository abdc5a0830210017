"""Small checkpoints: weights that are equal to those of the towers that come with swan are left out."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from swancli.model import towers
from swancli.model.bert import bert_shape, bert_weights

IMAGE, TEXT = "backbone.network.", "text_tower.bert."  # where a model has the towers


def divided(weights: dict[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], list[str]]:
    """A model's own weights in half precision, and the names of those that are equal to the towers'.

    Args:
        weights: of a whole model, float32.

    Raises:
        StoreError: the file of the towers is absent or damaged.
    """
    theirs = tower_weights((IMAGE, TEXT))
    equal = [name for name in weights if name in theirs and torch.equal(weights[name], theirs[name])]
    own = {name: _halved(value) for name, value in weights.items() if name not in equal}
    return own, equal


def tower_weights(places: Iterable[str]) -> dict[str, torch.Tensor]:
    """The weights of the towers that come with swan, float32, under their names in a model.

    Args:
        places: `IMAGE` and `TEXT`, or one of them.

    Raises:
        StoreError: the file of the towers is absent or damaged.
    """
    found = {}
    if IMAGE in places:
        found |= {IMAGE + name: value for name, value in towers.image_tower().items()}
    if TEXT in places:
        config, named, _ = towers.text_tower()
        source = str(towers.towers_file())
        weights = bert_weights(named, bert_shape(config, source), source)
        found |= {TEXT + name: value for name, value in weights.items()}
    return found


def _halved(value: torch.Tensor) -> torch.Tensor:
    return value.half() if value.is_floating_point() else value
