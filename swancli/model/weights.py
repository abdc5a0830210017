"""Weights in files of other projects: state dicts and safetensors, and whether they fit a network."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from swancli.errors import StoreError, SwanError, os_error
from swancli.store.torch_file import read_torch_file

STATE_DICT_HINT = "give a state dict, perhaps under a key `model` or `state_dict`, or safetensors"
SAFETENSORS = ".safetensors"
COUNTER = "num_batches_tracked"  # of batch norms; not used by a network, and often not stored

RANDOM_STARTS = ("normal_", "uniform_", "trunc_normal_", "kaiming_normal_", "kaiming_uniform_")
RANDOM_STARTS += ("xavier_normal_", "xavier_uniform_", "orthogonal_")

Shapes = Mapping[str, Sequence[int]]


def read_weights(path: Path, hint: str = STATE_DICT_HINT) -> dict[str, torch.Tensor]:
    """The tensors of a state dict by name, on the CPU; nothing in the file can run code.

    Args:
        path: a torch file with a state dict, as it is or under a key `model` or `state_dict`, or safetensors.
        hint: what to give instead of a file that has none.

    Raises:
        StoreError: the file is absent or damaged, or asks for code.
        SwanError: it contains no state dict.
    """
    if path.suffix == SAFETENSORS:
        return _read_safetensors(path, hint)
    content = read_torch_file(path, hint)
    for key in ("model", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    tensors = isinstance(content, dict) and all(
        isinstance(key, str) and is_plain_tensor(value) for key, value in content.items()
    )
    if not (tensors and content):
        raise SwanError(f"{path}: contains no state dict", hint)
    return {key.removeprefix("module."): value for key, value in content.items()}


def _read_safetensors(path: Path, hint: str) -> dict[str, torch.Tensor]:
    from safetensors.torch import load

    if not path.is_file():
        raise StoreError(f"{path}: no such file", hint)
    try:
        return load(path.read_bytes())
    except OSError as error:
        raise os_error(error, path) from error
    except Exception as error:  # damage shows as errors of several kinds
        reason = str(error).split("\n")[0]
        raise StoreError(f"{path}: damaged safetensors file ({reason})", "fetch it again") from error


def is_plain_tensor(value: object) -> bool:
    """Whether a value is a tensor with all its numbers: not sparse, quantised, nested, or without content.

    Nor is one that repeats a few numbers, which takes up memory only when it is copied.
    """
    return (
        isinstance(value, torch.Tensor)
        and (value.layout, value.device.type) == (torch.strided, "cpu")
        and not (value.is_quantized or value.is_nested)
        and value.nbytes <= value.untyped_storage().nbytes()
    )


def stored_bytes(tensors: Iterable[torch.Tensor]) -> int:
    """How much memory plain tensors take, those that share some counted once."""
    storages = (tensor.untyped_storage() for tensor in tensors)
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def shapes_of(weights: Mapping[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor by its name."""
    return {key: tuple(value.shape) for key, value in weights.items()}


def misfit(own: Shapes, given: Shapes) -> str:
    """How weights differ from those of a network; "" if names and shapes are the same.

    Args:
        own: shapes of the network's weights by name.
        given: shapes of the other weights.
    """
    missing = [key for key in own if key not in given]
    if missing:
        return f"{len(missing)} weights are missing, first {missing[0]}"
    foreign = [key for key in given if key not in own]
    if foreign:
        return f"{len(foreign)} weights are unknown, first {foreign[0]}"
    other = [key for key in own if tuple(own[key]) != tuple(given[key])]
    if other:
        first = f"{other[0]}: {tuple(given[other[0]])} instead of {tuple(own[other[0]])}"
        return f"{len(other)} weights have another shape, first {first}"
    return ""


def not_finite(weights: Mapping[str, torch.Tensor]) -> str:
    """What contains NaN or infinity, in words; "" if nothing does."""
    odd = [key for key, value in weights.items() if not torch.isfinite(value).all()]
    return f"{len(odd)} of its weights contain NaN or infinity, first {odd[0]}" if odd else ""


def weights_digest(name: str, weights: Mapping[str, torch.Tensor]) -> str:
    """Hexadecimal SHA-256 of a network's name and weights; counters of batches do not count."""
    digest = hashlib.sha256(name.encode())
    for key, value in weights.items():
        if not key.endswith(COUNTER):
            digest.update(value.cpu().contiguous().numpy())
    return digest.hexdigest()


class _Undrawn(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") in RANDOM_STARTS:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


@contextmanager
def without_random_start() -> Iterator[None]:
    """Models built inside have arbitrary weights, which saves a second or more; buffers are as ever.

    For models whose weights are all loaded afterwards. Unlike the meta device, it keeps the buffers that are
    not in the state dict, such as the mask of a text tower.
    """
    with _Undrawn():
        yield
