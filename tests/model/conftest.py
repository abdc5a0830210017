"""A model of the published code, filled by the rule that its reference values were computed with."""

import json
import zlib

import numpy as np
import pytest
import torch


def fill(name, shape):
    """The rule of the reference values' README, for one tensor."""
    z = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
    if name.endswith("num_batches_tracked"):
        return torch.zeros(shape, dtype=torch.int64)
    if name.endswith("running_mean"):
        z = 0.05 * z
    elif name.endswith("running_var"):
        z = 1 + 0.1 * np.abs(z)
    elif len(shape) == 1:
        z = (0.5 if name.endswith("weight") else 0.0) + 0.05 * z
    else:
        z = z / np.sqrt(np.prod(shape[1:]))
    return torch.tensor(np.asarray(z), dtype=torch.float32)


@pytest.fixture(scope="session")
def published_weights(parity_folder):
    """A state dict of the published code, by its names and shapes."""
    shapes = json.loads((parity_folder / "swan_reference_keys.json").read_text())
    return {name: fill(name, tuple(shape)) for name, shape in shapes.items()}
