"""What several tests share: the reference values, and the folder of real data, where they are at hand."""

import os
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


@pytest.fixture(scope="session")
def published_weights(parity_folder):
    """A state dict of the published code, by its names and shapes, filled by the reference values' rule."""
    from reference_weights import published_state

    return published_state(parity_folder)


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
