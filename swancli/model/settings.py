"""The settings of a SWAN model, as stored in a checkpoint, and the constants of the paper."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from swancli.errors import SwanError
from swancli.model.inputs import PIXEL_MEAN, PIXEL_STD, Preprocessing
from swancli.vocab.word_vectors import WORD_DIM

# Section 3 of the paper (Pan, Ma, Bai, ICMR 2023) and its code's options file.
WORD_DROPOUT = 0.4
LOCAL_TOKENS = (32, 32, 64)  # channels of SFGS's 1x1, 3x3 and 5x5 branches: 128 tokens
LOCAL_GRID = 16  # each token is a map pooled to 16 x 16
VISUAL_HEADS = 8
TEXT_HEADS = 2
ATTENTION_DROPOUT = 0.1
FUSION_DROPOUT = 0.2

RESNETS = ("resnet18", "resnet34", "resnet50")  # of torchvision
TIMM = "timm/"  # before the name of a backbone from timm
OPEN_CLIP = "open_clip/"  # before the name of a model from open_clip, which has both towers
GRU, MINILM = "gru", "minilm"  # text towers: the paper's, and the one that comes with swan
STAGES = 4  # of a backbone: strides 4, 8, 16 and 32
BACKBONE_HINT = f"give {', '.join(RESNETS)} or timm/NAME, such as timm/tf_efficientnet_lite0"

# The published text encoder's table of word vectors, whatever the vocabulary (item 10).
PUBLISHED_WORDS = 8590 - 1  # without row 0, the padding


@dataclass(frozen=True)
class Quirks:
    """Where a model follows the published code instead of the paper.

    The numbers are the items of README.md here, "Differences". The code names the item wherever it applies.
    """

    last_word_alone: bool  # 1: the embedding is the last word's state; joint words never reach it
    floored_scores: bool  # 2: scores of the gated attention are rounded down, so no gradient passes
    unused_projection: bool  # 3: the text encoder has a layer that is never used
    counted_padding: bool  # 4: padding takes part in the attention and in batch norms
    whole_windows: bool  # 5: a joint-word window must be full, so one or two words alone have none
    drifting_statistics: bool  # 6: batch norms of a frozen backbone are in training mode


QUIRKS = {"repaired": Quirks(*[False] * 6), "published": Quirks(*[True] * 6)}
# Allowed in `without`: the paper's modules, the learned weighting of SFGS's self-attention, and the pooled
# maps, which are not in the paper (see `visual.PooledMaps`).
PARTS = ("vmsf", "sfgs", "tcge", "wsa", "pool")
POOLED_WIDTH = 1024  # hidden features of the pooled maps' MLP
POOLED_DROPOUT = 0.2


@dataclass(frozen=True)
class BertShape:
    """The shape of a text transformer (`bert.Bert`).

    pieces: rows of the table of word pieces.
    positions: rows of the table of positions: the most pieces in a text.
    width: of a state.
    layers: of the transformer.
    heads: of each attention; they share the width.
    inner: width inside a feed-forward network.
    eps: of each layer norm.
    """

    pieces: int
    positions: int
    width: int
    layers: int
    heads: int
    inner: int
    eps: float

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "eps":
                if not isinstance(value, float) or not 0 < value < 1:
                    raise SwanError(f"text encoder: eps {value!r} is not a number between 0 and 1")
            elif type(value) is not int or value < 1:
                raise SwanError(f"text encoder: {field.name} {value!r} is not a whole number from 1")
        if self.width % self.heads:
            raise SwanError(f"text encoder: width {self.width} is not a multiple of {self.heads} heads")


@dataclass(frozen=True)
class ModelSettings:
    """The shape of a model: everything needed to build it before its weights are loaded.

    words: rows of the table of word vectors without padding, at least the size of the vocabulary; of a
        transformer, its number of word pieces.
    backbone: one of `RESNETS` (paper: resnet50), timm/NAME, or open_clip/NAME for both towers of open_clip.
    image_size: side of the square input in pixels (paper: 256).
    embed_dim: D (paper: 512).
    frozen: the backbone is not trained (paper: yes).
    variant: a key of `QUIRKS`.
    without: the `PARTS` that are left out, in their order there.
    freeze_stages: number of stages of the backbone, from its input, that are not trained.
    mean: of each colour channel, 0..1; what images are normalised by.
    std: likewise, the standard deviation.
    interpolation: as in `Preprocessing`.
    fit: as in `Preprocessing`.
    word_dim: E, width of the word vectors (paper: 300).
    bert: the shape of the text transformer; None for the GRU.
    freeze_text: number of layers of the text transformer, from its input, that are not trained.
    open_clip: the configuration of an open_clip model; None for SWAN.
    """

    words: int
    backbone: str = "resnet18"
    image_size: int = 256
    embed_dim: int = 512
    frozen: bool = False
    variant: str = "repaired"
    without: tuple[str, ...] = ()
    freeze_stages: int = 0
    mean: tuple[float, float, float] = PIXEL_MEAN
    std: tuple[float, float, float] = PIXEL_STD
    interpolation: str = "bilinear"
    fit: str = "squash"
    word_dim: int = WORD_DIM
    bert: BertShape | None = None
    freeze_text: int = 0
    open_clip: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        _ = self.preprocessing  # raises for values that no image can be prepared with
        least = {"words": 0, "embed_dim": 1, "word_dim": 1, "freeze_stages": 0}
        for name, smallest in {**least, "freeze_text": 0}.items():
            value = getattr(self, name)
            if not isinstance(value, int) or value < smallest:
                raise SwanError(f"{name} {value!r}: not a whole number of at least {smallest}")
        if self.backbone not in RESNETS and not self.backbone.startswith((TIMM, OPEN_CLIP)):
            raise SwanError(f"backbone {self.backbone!r}: not known", BACKBONE_HINT)
        if self.embed_dim % VISUAL_HEADS and not self.backbone.startswith(OPEN_CLIP):
            raise SwanError(f"--embed-dim {self.embed_dim}: not a multiple of {VISUAL_HEADS} attention heads")
        if self.freeze_stages > STAGES:
            raise SwanError(f"--freeze-stages {self.freeze_stages}: a backbone has {STAGES} stages")
        if self.variant not in QUIRKS:
            raise SwanError(f"variant {self.variant!r}: not known", f"one of {', '.join(QUIRKS)}")
        unknown = [part for part in self.without if part not in PARTS]
        if unknown:
            raise SwanError(f"--without {unknown[0]}: no such part", f"one of {', '.join(PARTS)}")
        if {"sfgs", "wsa"} <= set(self.without):
            raise SwanError("--without wsa is a part of --without sfgs", "leave one of them out")
        ordered = tuple(part for part in PARTS if part in self.without)
        object.__setattr__(self, "without", ordered)

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> ModelSettings:
        """The inverse of `dataclasses.asdict`."""
        bert = plain.get("bert")
        return cls(**plain | {"bert": BertShape(**bert) if bert else None})

    @property
    def quirks(self) -> Quirks:
        return QUIRKS[self.variant]

    @property
    def text(self) -> str:
        """The text tower: `GRU`, or "" for one from outside, which is part of the checkpoint."""
        return "" if self.bert or self.open_clip else GRU

    @property
    def name(self) -> str:
        """Names the kind of model in the files that it makes: a variant of SWAN, or open_clip:NAME."""
        return self.backbone.replace(OPEN_CLIP, "open_clip:") if self.open_clip else self.variant

    @property
    def activation(self) -> str:
        """Of open_clip's transformers, where it decides what the weights compute; "" of SWAN."""
        if not self.open_clip:
            return ""
        return "quick_gelu" if self.open_clip.get("quick_gelu") else "gelu"

    @property
    def preprocessing(self) -> Preprocessing:
        """From images to the input of the model."""
        return Preprocessing(self.image_size, self.mean, self.std, self.interpolation, self.fit)
