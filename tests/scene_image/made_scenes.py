"""Makes a tiny model of random weights and small scenes, for the tests of searching one."""

import numpy as np
import pytest
import torch

from swancli.model.checkpoint import save_checkpoint
from swancli.model.settings import ModelSettings
from swancli.model.swan import Swan
from swancli.vocab.vocabulary import UNKNOWN, Vocabulary

WORDS = Vocabulary(("river", "road", "stadium", UNKNOWN), (3, 2, 1, 0), 1, "keep", "")
UTM = "EPSG:32632"


def write_model(path, seed=0):
    torch.manual_seed(seed)
    model = Swan(ModelSettings(words=len(WORDS), image_size=32, embed_dim=32))
    save_checkpoint(path, model, WORDS, {"dataset": "", "run": "", "epoch": 0})
    return path


def placed_at(transform, x, y):
    """Where pixel coordinates lie in the scene's own system."""
    a, b, c, d, e, f = transform
    return a * x + b * y + c, d * x + e * y + f


def scene_pixels(height=150, width=200, bands=3, seed=0):
    """uint8 (bands, height, width): blotches of 10 pixels."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (bands, -(-height // 10), -(-width // 10)), np.uint8)
    return coarse.repeat(10, axis=1).repeat(10, axis=2)[:, :height, :width]


def write_tiff(path, pixels, crs=UTM, transform=(0.5, 0, 600000, 0, -0.5, 5000000), **options):
    """A GeoTIFF, tiled so that windows are not whole rows; without a system for crs None."""
    rasterio = pytest.importorskip("rasterio")
    bands, height, width = pixels.shape
    placed = {"crs": crs, "transform": rasterio.Affine(*transform)} if crs else {}
    tiling = {"tiled": True, "blockxsize": 64, "blockysize": 64}
    shape = {"count": bands, "height": height, "width": width, "dtype": pixels.dtype}
    with rasterio.open(path, "w", driver="GTiff", **shape, **placed, **tiling, **options) as file:
        file.write(pixels)
    return path
