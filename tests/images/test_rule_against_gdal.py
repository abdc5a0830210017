"""One rule for both readers: an image and a scene of the same file come out alike, whatever kind it is."""

import warnings

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from swancli.images import decode_image
from swancli.scene_image.raster import Raster

rasterio = pytest.importorskip("rasterio")
pytest.importorskip("tifffile")

TYPES = (
    *("uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64"),
    *("complex64", "complex_int16"),
)
LAYOUTS = ("strips", "tiles", "planes", "deflate", "lzw", "predictor")
KINDS = ("12 bits", "8 bits", "16 bits", "reflectance", "reflectance x 10,000", "decibels", "few", "constant")


@st.composite
def files(draw):
    """A file as a dictionary: how it is made."""
    format = draw(st.sampled_from(("GTiff", "GTiff", "GTiff", "PNG", "JP2OpenJPEG")))
    types = {"GTiff": TYPES, "PNG": ("uint8", "uint16"), "JP2OpenJPEG": ("uint8", "uint16")}[format]
    dtype = draw(st.sampled_from(types))
    return {
        "format": format,
        "dtype": dtype,
        "bands": draw(st.sampled_from((1, 2, 3, 4) if format == "PNG" else (1, 2, 3, 4, 5, 13))),
        "kind": draw(st.sampled_from(KINDS)),
        "layout": draw(st.sampled_from(LAYOUTS)),
        "nodata": draw(st.sampled_from((None, None, 0, 255, 65535, -9999, 3.4028234663852886e38, "nan"))),
        "alpha": draw(st.sampled_from(("default", "none", "mask", "soft", "band"))),
        "mask": draw(st.booleans()),
        "named": draw(st.sampled_from(("", "colours", "descriptions"))),
        "shape": draw(st.sampled_from(((20, 30), (33, 1), (1, 40), (17, 1100)))),
        "seed": draw(st.integers(0, 9)),
    }


def samples_of(how):
    """Samples (bands, height, width) of a file."""
    rng, dtype = np.random.default_rng(how["seed"]), how["dtype"]
    shape = (how["bands"], *how["shape"])
    level = rng.beta(2, 4, shape)
    scale = {"12 bits": 4095, "8 bits": 255, "16 bits": 65535, "reflectance x 10,000": 9000, "few": 3}
    values = level * scale.get(how["kind"], 1.2)
    if how["kind"] == "decibels":
        values = -30 * level
    if how["kind"] == "constant":
        values = np.full(shape, 77.0)
    if dtype.startswith("complex"):
        return (values + 1j * values[::-1]).astype(np.complex64)
    if np.issubdtype(np.dtype(dtype), np.integer):
        limits = np.iinfo(dtype)
        values = np.rint(values).clip(limits.min, limits.max)
    return values.astype(dtype)


def write(path, how):
    """Writes a file; raises where GDAL has no such kind."""
    samples, dtype = samples_of(how), how["dtype"]
    nodata = how["nodata"]
    options = {}
    if how["format"] == "GTiff":
        options = {
            "strips": {"tiled": False, "interleave": "pixel"},
            "tiles": {"tiled": True, "blockxsize": 16, "blockysize": 16},
            "planes": {"interleave": "band"},
            "deflate": {"compress": "deflate", "interleave": "band"},
            "lzw": {"compress": "lzw"},
            "predictor": {"compress": "deflate", "predictor": 1 if dtype.startswith("complex") else 2},
        }[how["layout"]]
        if how["alpha"] in ("none", "mask", "soft", "band") and how["bands"] > 1:
            options["alpha"] = "no" if how["alpha"] == "none" else "yes"
        if how["named"]:
            options["photometric"] = "minisblack"
    if how["format"] == "JP2OpenJPEG":
        options = {"QUALITY": "100", "REVERSIBLE": "YES", "RESOLUTIONS": "1"}
    if how["bands"] in (2, 4) and not dtype.startswith("complex"):
        full = np.iinfo(dtype).max if np.issubdtype(np.dtype(dtype), np.integer) else 1
        rng = np.random.default_rng(1)
        if how["alpha"] in ("mask", "soft"):
            samples[-1] = np.where(rng.random(how["shape"]) < 0.3, 0, full)
        if how["alpha"] == "soft":
            samples[-1, :, ::7] = full // 3 if full > 1 else full / 3
    if nodata == "nan":
        nodata = None
        if samples.dtype.kind == "f":
            samples[:, : len(samples[0]) // 3, 0] = np.nan
            nodata = np.nan
    elif nodata is not None and not dtype.startswith("complex"):
        if samples.dtype.kind in "iu" and not np.iinfo(dtype).min <= nodata <= np.iinfo(dtype).max:
            nodata = None
        else:
            samples[:, : len(samples[0]) // 3 + 1, : samples.shape[2] // 3] = nodata
    else:
        nodata = None
    if how["format"] == "JP2OpenJPEG":
        nodata = None
    size = {"height": how["shape"][0], "width": how["shape"][1], "count": how["bands"]}
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK="YES", GDAL_PAM_ENABLED="NO"),
        rasterio.open(path, "w", driver=how["format"], dtype=dtype, nodata=nodata, **size, **options) as file,
    ):
        file.write(samples)
        if how["format"] == "GTiff":
            colours = rasterio.enums.ColorInterp
            if how["named"] == "colours" and how["bands"] >= 3:
                kinds = [colours.blue, colours.green, colours.red, *[colours.undefined] * 10]
                file.colorinterp = kinds[: how["bands"]]
            if how["named"] == "descriptions" and how["bands"] >= 3:
                file.descriptions = ("B02 blue", "Green", "red", *["nir"] * 10)[: how["bands"]]
            if how["mask"]:
                file.write_mask(np.random.default_rng(2).random(how["shape"]) < 0.8)


def both(path):
    """The pixels as an image and as a scene."""
    image = decode_image(path.read_bytes(), path.name)
    with Raster(path) as scene:
        whole = np.array([0, 0, scene.frame.width, scene.frame.height])
        return image, scene.read(whole)[0]


def check_alike(how, folder):
    path = folder / {"GTiff": "a.tif", "PNG": "a.png", "JP2OpenJPEG": "a.jp2"}[how["format"]]
    path.unlink(missing_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            write(path, how)
        except (rasterio.errors.RasterioError, rasterio._err.CPLE_BaseError, OSError, ValueError, TypeError):
            return
    image, scene = both(path)
    assert image.shape == scene.shape
    assert np.abs(image.astype(int) - scene).max() <= 1


@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(how=files())
def test_image_and_scene_of_one_file_are_alike(how, tmp_path):
    check_alike(how, tmp_path)
