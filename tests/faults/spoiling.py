"""Ways to spoil a sound input from within: pieces taken out, or put in of another type, shape or size."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

Choose = Callable[[int], int]  # from a number n to a number from 0 to n - 1, drawn by whoever fuzzes

ODD_VALUES = (
    None,
    True,
    -1,
    0,
    10**30,
    0.5,
    float("nan"),
    float("inf"),
    "",
    " ",
    "..",
    "/etc/passwd",
    "a\0b",
    "\ud800",
    "\u202e\u05d0\u05d1",
    "\U0001f30d",
    [],
    [[]],
    {},
    {"": None},
    ["a", 1],
)
ODD_ARRAYS = (
    np.zeros(0, np.float32),
    np.zeros((2, 3), np.float32),
    np.full((6, 16), np.nan, np.float32),
    np.full(6, 7, np.int64),
    np.full(12, 10**12, np.int64),
    np.full(12, -5, np.int8),
    np.array(3.5),
    np.array([b"\xff\xfe"] * 6),
    np.array(["a"] * 6, dtype=object),
    np.zeros(6, [("a", np.int32), ("b", np.float64)]),
    np.zeros(6, np.complex64),
    np.ones((6, 16), np.float32),
    np.array(0, np.uint64),
)
ODD_TENSORS = (
    torch.zeros(0),
    torch.full((4, 300), float("nan")),
    torch.tensor(1),
    torch.zeros(5, 300, dtype=torch.int64),
    torch.zeros(2, 2).to_sparse(),
    torch.zeros(3, dtype=torch.complex64),
)


def spoil_plain(content: Any, choose: Choose, values: tuple[Any, ...] = ODD_VALUES) -> Any:
    """Takes out, or replaces, one place of nested dictionaries and lists; what is left is returned."""
    places: list[tuple[Any, Any]] = []
    _collect(content, places)
    if not places:
        return copy.deepcopy(values[choose(len(values))])
    parent, key = places[choose(len(places))]
    change = choose(8)
    if change == 0:
        del parent[key]
    elif change == 1 and isinstance(parent, dict):
        parent[str(key) + "x"] = parent.pop(key)
    elif change == 2 and isinstance(parent, list):
        parent.append(copy.deepcopy(parent[key]))
    elif change == 3 and len(places) < 500:
        other, its = places[choose(len(places))]
        parent[key] = copy.deepcopy(other[its])
    else:
        parent[key] = copy.deepcopy(values[choose(len(values))])
    return content


def _collect(content: Any, places: list[tuple[Any, Any]]) -> None:
    keys = content if isinstance(content, dict) else range(len(content)) if isinstance(content, list) else ()
    for key in list(keys):
        places.append((content, key))
        _collect(content[key], places)


def spoil_json(path: Path, choose: Choose) -> None:
    """Spoils a JSON file, once or several times."""
    content = json.loads(path.read_text(encoding="utf-8"))
    for _ in range(1 + choose(3)):
        content = spoil_plain(content, choose)
    path.write_text(json.dumps(content), encoding="utf-8")


def spoil_safetensors(path: Path, choose: Choose) -> None:
    """Spoils the header of a safetensors file, which says where its tensors lie, once or several times."""
    data = path.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    for _ in range(1 + choose(3)):
        header = spoil_plain(header, choose)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[end:])


def spoil_torch(path: Path, choose: Choose) -> None:
    """Spoils a file of `torch.save`, once or several times."""
    content = torch.load(path, weights_only=True)
    for _ in range(1 + choose(3)):
        content = spoil_plain(content, choose, ODD_VALUES + ODD_TENSORS)
    torch.save(content, path)


def spoil_hdf5(path: Path, choose: Choose) -> None:
    """Takes out, or replaces, one attribute, data set or group of an HDF5 file; or cuts it."""
    if choose(4) == 0:
        cut_bytes(path, choose)
        return
    with h5py.File(path, "r+") as file:
        names: list[str] = []
        file.visit(names.append)
        attributes = list(file.attrs)
        place = choose(len(names) + len(attributes))
        if place < len(attributes):
            name = attributes[place]
            del file.attrs[name]
            if change := choose(len(ODD_ARRAYS) + 3):
                odd = (*ODD_ARRAYS[:8], *ODD_ARRAYS[9:], "", "x", 2**40)
                file.attrs[name] = odd[(change - 1) % len(odd)]
            return
        name = names[place - len(attributes)]
        values = file[name][()] if isinstance(file[name], h5py.Dataset) else None
        text = values is not None and values.dtype == object
        del file[name]
        change = choose(len(ODD_ARRAYS) + 6)
        if change < len(ODD_ARRAYS):
            odd = ODD_ARRAYS[change]
            file.create_dataset(name, data=odd, dtype=h5py.string_dtype() if odd.dtype == object else None)
        elif change == len(ODD_ARRAYS):
            file.create_group(name)
        elif values is not None and not text and change == len(ODD_ARRAYS) + 1:
            file[name] = values[..., :-1] if values.ndim else values + 1
        elif values is not None and not text and change == len(ODD_ARRAYS) + 2:
            file[name] = np.concatenate([values, values]) if values.ndim else values
        elif values is not None and not text and change == len(ODD_ARRAYS) + 3:
            file[name] = values.astype(np.float64) * 1.5 if values.dtype.kind in "fiu" else values
        elif values is not None and not text and change == len(ODD_ARRAYS) + 4:
            file[name] = values.astype(str).astype("S") if values.dtype.kind in "fiu" else values


def cut_bytes(path: Path, choose: Choose) -> None:
    """Cuts a file."""
    data = path.read_bytes()
    path.write_bytes(data[: choose(len(data) + 1)])


def spoil_bytes(path: Path, choose: Choose) -> None:
    """Cuts a file, or changes some of its bytes."""
    if choose(3) == 0:
        cut_bytes(path, choose)
        return
    data = bytearray(path.read_bytes())
    for _ in range(1 + choose(8)):
        if data:
            data[choose(len(data))] = choose(256)
    path.write_bytes(data)
