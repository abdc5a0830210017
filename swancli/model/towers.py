"""The towers that come with swan, as they were published: EfficientNet-Lite0 and MiniLM.

`assets/towers.pt` contains both, and `assets/towers.md` gives their origin, licences and proof. It is made by

    python tests/benchmarks/towers.py --make
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from swancli.errors import StoreError
from swancli.model.weights import is_plain_tensor
from swancli.store.torch_file import read_torch_file

FORMAT, VERSION = "swan-towers", 1
IMAGE_TOWER = "timm/tf_efficientnet_lite0"  # the backbone that the image tower's weights belong to
WORD_PIECES = "embeddings.word_embeddings.weight"
HINT = "reinstall swan; in a checkout: python tests/benchmarks/towers.py --make"


def towers_file() -> Path:
    """The towers that come with swan: in the package, or in `assets/` of a checkout."""
    package = Path(__file__).parents[1]
    inside = package / "assets" / "towers.pt"
    return inside if inside.exists() else package.parent / "assets" / "towers.pt"


def image_tower() -> dict[str, torch.Tensor]:
    """Weights of `IMAGE_TOWER` under timm's names, float32; no classifier, no `num_batches_tracked`.

    Raises:
        StoreError: the file is absent, damaged, or of another version.
    """
    return _single_precision(_read("efficientnet_lite0"))


def text_tower() -> tuple[dict[str, Any], dict[str, torch.Tensor], str]:
    """MiniLM: a BERT of 6 layers and 384 features.

    Returns:
        its `config.json`; its weights under the Hugging Face names, float32, without pooler and position ids;
        the text of its `tokenizer.json`.

    Raises:
        StoreError: the file is absent, damaged, or of another version.
    """
    minilm = _read("minilm")
    try:
        config, tokenizer, table = minilm["config"], minilm["tokenizer"], minilm["word_pieces"]
        weights = _single_precision(minilm["weights"])
        weights[WORD_PIECES] = from_8_bits(table["values"], table["scales"])
    except (AttributeError, LookupError, TypeError, ValueError, RuntimeError) as error:
        raise _damaged(f"minilm: {error}") from error
    return config, weights, tokenizer


def from_8_bits(values: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """A table that is kept in 8 bits per value.

    Args:
        values: int8 (N, D), from -127 to 127.
        scales: half precision (N, G): of each row's D / G neighbouring values.

    Returns:
        float32 (N, D).

    Raises:
        ValueError: there are scales of more or fewer rows.
    """
    if len(scales) != len(values):
        raise ValueError(f"scales of {len(scales)} rows for {len(values)}")
    groups = values.to(torch.float32, copy=True).reshape(*scales.shape, -1)
    return groups.mul_(scales.float().unsqueeze(-1)).reshape(values.shape)


def _read(part: str) -> dict[str, Any]:
    """One part of the file; its tensors are read when they are used."""
    path = towers_file()
    content = read_torch_file(path, HINT, in_part=True)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise StoreError(f"{path}: not the towers of swan", HINT)
    if not isinstance(content.get("version"), int) or content["version"] != VERSION:
        found = f"version {content.get('version')!s:.9}"
        raise StoreError(f"{path}: {found}; this swan reads version {VERSION}", HINT)
    if not isinstance(content.get(part), dict):
        raise _damaged(part)
    return content[part]


def _single_precision(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Copies in float32 and in memory: the file may be replaced afterwards."""
    odd = [name for name, value in weights.items() if not is_plain_tensor(value)]
    if odd:
        raise _damaged(odd[0])
    return {name: value.to(torch.float32, copy=True) for name, value in weights.items()}


def _damaged(part: str) -> StoreError:
    return StoreError(f"{towers_file()}: damaged ({part})", HINT)
