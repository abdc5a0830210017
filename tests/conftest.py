"""What several tests share: the reference values, and the folder of real data, where they are at hand."""

import json
import os
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

# Two workers on two cores: thread teams of their own would wait for each other. Set before torch is imported.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# The time of one example says nothing on a machine that is busy.
settings.register_profile("swan", deadline=None)
settings.load_profile("swan")

# Files that take long, which come first: both workers then end at about the same time.
LONG = (
    "tests/commands/test_demo.py",
    "tests/commands/test_published.py",
    "tests/scene_image/test_mosaic.py",
    "tests/train/test_distributed.py",
)

SHARED = Path(__file__).resolve().parents[2] / "shared"


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.nodeid.partition("::")[0] not in LONG)


@pytest.fixture(scope="session")
def parity_folder():
    """The folder of reference values of the published code."""
    folder = SHARED / "parity"
    if not folder.is_dir():
        pytest.skip("the reference values of the published code are not at hand (shared/parity)")
    return folder


@pytest.fixture(scope="session")
def parity(parity_folder):
    """Reference values of the published code."""
    with np.load(parity_folder / "swan_reference.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="session")
def real_data():
    """The folder of real data sets."""
    folder = SHARED / "datasets"
    if not folder.is_dir():
        pytest.skip("the real data sets are not at hand (shared/datasets)")
    return folder


def fill(name, shape):
    """The rule that the reference values' weights follow, for one tensor."""
    import torch  # here, so that tests without a model start at once

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
    """A state dict of the published code, by its names and shapes, filled by the reference values' rule."""
    shapes = json.loads((parity_folder / "swan_reference_keys.json").read_text())
    return {name: fill(name, tuple(shape)) for name, shape in shapes.items()}


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    """A checkpoint of a tiny model of random weights."""
    from made_scenes import write_model

    return write_model(tmp_path_factory.mktemp("model") / "best.pt")


@pytest.fixture(scope="session")
def geo_scene(tmp_path_factory):
    """A scene of 150 x 200 pixels of half a metre in UTM zone 32."""
    from made_scenes import scene_pixels, write_tiff

    return write_tiff(tmp_path_factory.mktemp("scene") / "geo.tif", scene_pixels())


@pytest.fixture(scope="session")
def plain_scene(tmp_path_factory):
    """The same pixels as a PNG."""
    from made_scenes import scene_pixels
    from PIL import Image

    path = tmp_path_factory.mktemp("scene") / "plain.png"
    Image.fromarray(np.moveaxis(scene_pixels(), 0, 2)).save(path)
    return path
