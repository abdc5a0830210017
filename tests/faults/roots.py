"""What lies under a root: whether each file is whole, and whether two roots hold the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import torch

from swancli.store.hdf5 import WRITTEN_BY, open_store

CLOCK = {"seconds", "pairs_per_second"}  # what differs between two runs that are the same
NOT_OURS = "events.out.tfevents"  # TensorBoard's own files, to which it appends


def files_of(root: Path) -> list[Path]:
    """The files under their final names, relative to the root."""
    found = (path.relative_to(root) for path in root.rglob("*") if path.is_file())
    return sorted(path for path in found if not path.name.startswith((".", NOT_OURS)))


def left_over(root: Path) -> list[Path]:
    """What an interrupted command left, hidden."""
    return sorted(path for path in root.rglob(".*") if path.is_file())


def content_of(path: Path) -> Any:
    """All that a file holds, in plain values and arrays, without the clock.

    Raises:
        Exception: it is not whole.
    """
    if path.suffix in (".h5", ".index"):
        with h5py.File(path) as file:
            kind = file.attrs["format"]
        assert kind in WRITTEN_BY
        with open_store(path, kind) as file:
            found: dict[str, Any] = {
                f"@{name}": value for name, value in file.attrs.items() if name not in CLOCK
            }
            file.visititems(
                lambda name, item: found.update({name: item[()]} if hasattr(item, "shape") else {})
            )
        return found
    if path.suffix == ".pt":
        return torch.load(path, weights_only=True)
    if path.suffix == ".json":
        return json.loads(path.read_text())
    if path.suffix == ".csv":
        assert path.read_text().endswith("\n")
        return pd.read_csv(path).to_dict("records")
    return path.read_bytes()


def broken_files(root: Path, sound: Path | None) -> list[str]:
    """The files under their final names that are not whole, each with its defect.

    Args:
        sound: another root; files that are one with its own, by link, are passed over.
    """
    broken = []
    for path in files_of(root):
        if sound and (sound / path).exists() and (sound / path).samefile(root / path):
            continue
        try:
            content_of(root / path)
        except Exception as error:
            broken.append(f"{path}: {error!r}")
    return broken


def differences(root: Path, other: Path) -> list[str]:
    """Where two roots differ, in files or in what is in them, the clock aside."""
    names, others = files_of(root), files_of(other)
    found = [f"{name}: in one of the two alone" for name in sorted(set(names) ^ set(others))]
    for name in names:
        linked = name not in others or (root / name).samefile(other / name)
        if not linked and not same(content_of(root / name), content_of(other / name)):
            found.append(str(name))
    return found


def same(one: Any, other: Any) -> bool:
    """Whether two contents are equal to the last bit."""
    if isinstance(one, dict):
        keys = [key for key in one if key not in CLOCK]
        return keys == [key for key in other if key not in CLOCK] and all(
            same(one[k], other[k]) for k in keys
        )
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and one.shape == other.shape and bits(one) == bits(other)
    if isinstance(one, np.ndarray):
        if one.dtype == object:  # text, or images of different lengths
            return len(one) == len(other) and all(map(same, one, other))
        return one.dtype == other.dtype and one.tobytes() == other.tobytes()
    return type(one) is type(other) and (one == other or (one != one and other != other))


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()
