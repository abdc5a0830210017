"""Weights of the published SWAN code (jaychempan/SWAN) under its names and ours.

Its checkpoints contain `{'epoch', 'model', 'best_rsum', 'args', 'Eiters'}`; only the names in the state dict
under `model` are translated. `checkpoint` reads and writes the file.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from swancli.errors import SwanError
from swancli.model.settings import PUBLISHED_WORDS, ModelSettings

RECOGNISED_BY = "image_encoder.resnet.conv1.weight"
CLASSIFIER = "image_encoder.resnet.fc."  # a head for the 30 scenes of AID, never used
CLASSES = 30

# Published prefix -> ours. The published SFGS calls its attention with (v, k, q), but declares (k, q, v): its
# key projection acts as the query, its value projection as the key, its query projection as the value.
NAMES = {
    "image_encoder.resnet.": "backbone.network.",
    "image_encoder.conv_filter.": "image_tower.shallow_filter.",
    "image_encoder.vmsf.conv_512.": "image_tower.vmsf.reduce1.",
    "image_encoder.vmsf.conv_1024.": "image_tower.vmsf.reduce2.",
    "image_encoder.vmsf.conv_2048.": "image_tower.vmsf.reduce3.",
    "image_encoder.vmsf.channel_att.": "image_tower.vmsf.fuse.",
    "image_encoder.vmsf.channel_filter.fc.linear.": "image_tower.vmsf.project.0.",
    "image_encoder.vmsf.channel_filter.linear.": "image_tower.vmsf.project.3.",
    "sfgs.conv2d_block_11.": "image_tower.sfgs.branches.0.",
    "sfgs.conv2d_block_33.": "image_tower.sfgs.branches.1.",
    "sfgs.conv2d_block_55.": "image_tower.sfgs.branches.2.",
    "sfgs.fc.linear.": "image_tower.sfgs.embed.0.",
    "sfgs.wsa.mhatt.linear_k.": "image_tower.sfgs.attention.to_query.",
    "sfgs.wsa.mhatt.linear_v.": "image_tower.sfgs.attention.to_key.",
    "sfgs.wsa.mhatt.linear_q.": "image_tower.sfgs.attention.to_value.",
    "sfgs.wsa.mhatt.linear_merge.": "image_tower.sfgs.attention.merge.",
    "sfgs.wsa.norm1.": "image_tower.sfgs.attention.norm1.",
    "sfgs.wsa.norm2.": "image_tower.sfgs.attention.norm2.",
    "sfgs.wsa.ffn.net.": "image_tower.sfgs.attention.feed_forward.",
    "sfgs.wsa.fmp_weight": "image_tower.sfgs.attention.token_weight",
    "agg.fc_1.": "image_tower.aggregate.0.",
    "agg.fc_2.": "image_tower.aggregate.2.",
    "text_encoder.embed.": "text_tower.word_vectors.",
    "text_encoder.rnn.": "text_tower.gru.",
    "text_encoder.projection.": "text_tower.unused_projection.",
    "tcge.ga.linears.0.": "text_tower.tcge.attention.to_query.",
    "tcge.ga.linears.1.": "text_tower.tcge.attention.to_key.",
    "tcge.ga.linears.2.": "text_tower.tcge.attention.to_value.",
    "tcge.ga.fc_q.": "text_tower.tcge.attention.gate_query.",
    "tcge.ga.fc_k.": "text_tower.tcge.attention.gate_key.",
    "tcge.ga.fc_g.": "text_tower.tcge.attention.gate.",
    "tcge.bn_1d.": "text_tower.tcge.norm.",
    "tcge.conv1d_block_22.0.": "text_tower.tcge.pairs.convolution.",
    "tcge.conv1d_block_22.1.": "text_tower.tcge.pairs.norm.",
    "tcge.conv1d_block_33.0.": "text_tower.tcge.triples.convolution.",
    "tcge.conv1d_block_33.1.": "text_tower.tcge.triples.norm.",
    "tcge.mlp.fc.linear.": "text_tower.tcge.project.0.",
    "tcge.mlp.linear.": "text_tower.tcge.project.3.",
}


def is_published(weights: object) -> bool:
    """Whether something is a state dict of the published code."""
    return isinstance(weights, dict) and any(
        key in weights for key in (RECOGNISED_BY, f"module.{RECOGNISED_BY}")
    )


def from_published(weights: Mapping[str, torch.Tensor]) -> tuple[ModelSettings, dict[str, torch.Tensor]]:
    """The settings of a published model and its weights under our names.

    Unknown names are kept, so that the loader can report them.

    Raises:
        SwanError: a tensor that determines the settings is missing, or a weight is not a tensor.
    """
    odd = [key for key, value in weights.items() if not isinstance(value, torch.Tensor)]
    if odd:
        raise SwanError(f"weight {odd[0]} is not a tensor", "give a checkpoint of the published SWAN code")
    weights = {key.removeprefix("module."): value for key, value in weights.items()}
    for key in ("text_encoder.embed.weight", "agg.fc_2.weight"):
        if key not in weights:
            raise SwanError(f"no {key} among its weights", "give a checkpoint of the published SWAN code")
    settings = ModelSettings(
        words=len(weights["text_encoder.embed.weight"]) - 1,
        backbone="resnet50",
        embed_dim=len(weights["agg.fc_2.weight"]),
        frozen=True,
        variant="published",
    )
    ours = {}
    for key, value in weights.items():
        if not key.startswith(CLASSIFIER):
            prefix = next((prefix for prefix in NAMES if key.startswith(prefix)), "")
            ours[NAMES.get(prefix, "") + key.removeprefix(prefix)] = value
    return settings, ours


def refuse_unpublishable(settings: ModelSettings) -> None:
    """Raises a SwanError if the published code cannot hold such a model."""
    wrong = [
        f"{option} {found} (it has {expected})"
        for option, found, expected in (
            ("--variant", settings.variant, "published"),
            ("--backbone", settings.backbone, "resnet50"),
            ("--embed-dim", settings.embed_dim, 512),
            ("--without", " ".join(settings.without) or "nothing", "nothing"),
            ("words", settings.words, PUBLISHED_WORDS),
        )
        if found != expected
    ]
    if wrong:
        raise SwanError(
            f"the published code cannot hold this model: {', '.join(wrong)}",
            "train with --variant published and its own sizes",
        )


def to_published(settings: ModelSettings, weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A model's weights under the published names and in the published shapes.

    The unused classifier, which our models lack, is filled with zeros.

    Raises:
        SwanError: the published code cannot hold such a model.
    """
    refuse_unpublishable(settings)
    prefixes = {ours: published for published, ours in NAMES.items()}
    published = {}
    for key, value in weights.items():
        prefix = next(prefix for prefix in prefixes if key.startswith(prefix))
        published[prefixes[prefix] + key.removeprefix(prefix)] = value
    features = published["image_encoder.resnet.layer4.2.conv3.weight"].shape[0]
    published[f"{CLASSIFIER}weight"] = torch.zeros(CLASSES, features)
    published[f"{CLASSIFIER}bias"] = torch.zeros(CLASSES)
    return published
