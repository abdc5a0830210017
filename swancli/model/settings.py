"""What a SWAN model is made of: the settings a checkpoint carries, and the constants of the paper."""

from __future__ import annotations

from dataclasses import dataclass

from swancli.errors import SwanError

# Section 3 of the paper (Pan, Ma, Bai, ICMR 2023) and its code's options file.
WORD_DIM = 300  # GloVe's width
WORD_DROPOUT = 0.4
MAX_WORDS = 47  # longer captions are cut, as the published evaluation cuts them
LOCAL_TOKENS = (32, 32, 64)  # channels of SFGS's 1x1, 3x3 and 5x5 branches: 128 tokens
LOCAL_GRID = 16  # each token is a map pooled to 16 x 16
VISUAL_HEADS = 8
TEXT_HEADS = 2
ATTENTION_DROPOUT = 0.1
FUSION_DROPOUT = 0.2

# ImageNet statistics of RGB in 0..1, which every torchvision backbone expects.
PIXEL_MEAN = (0.485, 0.456, 0.406)
PIXEL_STD = (0.229, 0.224, 0.225)

# The published computation with its defects 1 to 6 (see README) repaired.
VARIANT = "repaired"


@dataclass(frozen=True)
class ModelSettings:
    """The shape of a model: everything needed to build it before its weights are loaded.

    backbone: a key of `backbone.CHANNELS` (paper: resnet50). image_size: side in pixels of the square
    input (paper: 256). embed_dim: D (paper: 512). words: V, number of words without padding. frozen: the
    backbone's weights and batch statistics stay as they are (paper: yes).
    """

    words: int
    backbone: str = "resnet18"
    image_size: int = 256
    embed_dim: int = 512
    frozen: bool = False

    def __post_init__(self) -> None:
        if self.embed_dim % VISUAL_HEADS:
            raise SwanError(
                f"--embed-dim {self.embed_dim}: no multiple of its {VISUAL_HEADS} attention heads"
            )
