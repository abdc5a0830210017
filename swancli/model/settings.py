"""The settings of a SWAN model, as stored in a checkpoint, and the constants of the paper."""

from __future__ import annotations

from dataclasses import dataclass

from swancli.errors import SwanError

# Section 3 of the paper (Pan, Ma, Bai, ICMR 2023) and its code's options file.
WORD_DROPOUT = 0.4
MAX_WORDS = 47  # longer captions are cut, as the published evaluation cuts them
LOCAL_TOKENS = (32, 32, 64)  # channels of SFGS's 1x1, 3x3 and 5x5 branches: 128 tokens
LOCAL_GRID = 16  # each token is a map pooled to 16 x 16
VISUAL_HEADS = 8
TEXT_HEADS = 2
ATTENTION_DROPOUT = 0.1
FUSION_DROPOUT = 0.2

# Channels of the maps at the four depths of each backbone.
CHANNELS = {
    "resnet18": (64, 128, 256, 512),
    "resnet34": (64, 128, 256, 512),
    "resnet50": (64, 512, 1024, 2048),
}

# ImageNet statistics of RGB in 0..1, which every torchvision backbone expects.
PIXEL_MEAN = (0.485, 0.456, 0.406)
PIXEL_STD = (0.229, 0.224, 0.225)

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
# Allowed in `without`: the paper's modules, and the learned weighting of SFGS's self-attention.
PARTS = ("vmsf", "sfgs", "tcge", "wsa")


@dataclass(frozen=True)
class ModelSettings:
    """The shape of a model: everything needed to build it before its weights are loaded.

    words: rows of the table of word vectors without padding; at least the size of the vocabulary.
    backbone: a key of `CHANNELS` (paper: resnet50).
    image_size: side of the square input in pixels (paper: 256).
    embed_dim: D (paper: 512).
    frozen: the backbone is not trained (paper: yes).
    variant: a key of `QUIRKS`.
    without: the `PARTS` that are left out, in their order there.
    """

    words: int
    backbone: str = "resnet18"
    image_size: int = 256
    embed_dim: int = 512
    frozen: bool = False
    variant: str = "repaired"
    without: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("words", "image_size", "embed_dim"):
            value, least = getattr(self, name), int(name != "words")
            if not isinstance(value, int) or value < least:
                raise SwanError(f"{name} {value!r}: not a whole number of at least {least}")
        if self.backbone not in CHANNELS:
            raise SwanError(f"backbone {self.backbone!r}: not known", f"one of {', '.join(CHANNELS)}")
        if self.embed_dim % VISUAL_HEADS:
            raise SwanError(f"--embed-dim {self.embed_dim}: not a multiple of {VISUAL_HEADS} attention heads")
        if self.variant not in QUIRKS:
            raise SwanError(f"variant {self.variant!r}: not known", f"one of {', '.join(QUIRKS)}")
        unknown = [part for part in self.without if part not in PARTS]
        if unknown:
            raise SwanError(f"--without {unknown[0]}: no such part", f"one of {', '.join(PARTS)}")
        if {"sfgs", "wsa"} <= set(self.without):
            raise SwanError("--without wsa is a part of --without sfgs", "leave one of them out")
        ordered = tuple(part for part in PARTS if part in self.without)
        object.__setattr__(self, "without", ordered)

    @property
    def quirks(self) -> Quirks:
        return QUIRKS[self.variant]
