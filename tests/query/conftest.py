"""A tiny model of random weights, and a small scene with and without a coordinate system."""

import numpy as np
import pytest
from made_scenes import scene_pixels, write_model, write_tiff
from PIL import Image


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model") / "best.pt")


@pytest.fixture(scope="session")
def geo_scene(tmp_path_factory):
    """150 x 200 pixels of half a metre in UTM zone 32."""
    return write_tiff(tmp_path_factory.mktemp("scene") / "geo.tif", scene_pixels())


@pytest.fixture(scope="session")
def plain_scene(tmp_path_factory):
    """The same pixels as a PNG."""
    path = tmp_path_factory.mktemp("scene") / "plain.png"
    Image.fromarray(np.moveaxis(scene_pixels(), 0, 2)).save(path)
    return path
