"""The whole space of the property test of the decoder, and whole commands on odd images."""

import json
import random
import subprocess
import sys

import numpy as np
import pytest

rasterio = pytest.importorskip("rasterio")
pytest.importorskip("tifffile")

import test_rule_against_gdal as rule  # noqa: E402
from made_tiffs import plain_tiff  # noqa: E402

FILES = 1500


@pytest.mark.parametrize("seed", range(3))
def test_image_and_scene_are_alike_over_the_whole_space(seed, tmp_path):
    draw = random.Random(seed)
    for _ in range(FILES // 3):
        format = draw.choice(("GTiff", "GTiff", "PNG", "JP2OpenJPEG"))
        how = {
            "format": format,
            "dtype": draw.choice(rule.TYPES if format == "GTiff" else ("uint8", "uint16")),
            "bands": draw.choice((1, 2, 3, 4) if format == "PNG" else (1, 2, 3, 4, 5, 13)),
            "kind": draw.choice(rule.KINDS),
            "layout": draw.choice(rule.LAYOUTS),
            "nodata": draw.choice((None, 0, 255, 65535, -9999, 3.4028234663852886e38, "nan")),
            "alpha": draw.choice(("default", "none", "mask", "soft", "band")),
            "mask": draw.random() < 0.3,
            "named": draw.choice(("", "colours", "descriptions")),
            "shape": draw.choice(((20, 30), (33, 1), (1, 40), (17, 1100), (1030, 5))),
            "seed": draw.randrange(10),
        }
        rule.check_alike(how, tmp_path)


def swan(root, *words):
    command = [sys.executable, "-m", "swancli", *map(str, words), "--root", root]
    return subprocess.run(command, capture_output=True, text=True, check=False)


LEVELS = np.linspace(0, 1, 64 * 64 * 3).reshape(64, 64, 3)


@pytest.fixture
def folder(tmp_path):
    """Two tiles of one scene of 12 bits, blue, green, red and near infrared, of which nothing is named."""
    images = tmp_path / "tiles"
    images.mkdir()
    scene = np.concatenate([LEVELS[..., ::-1], LEVELS[..., :1]], axis=2) * 3000
    for number, part in enumerate((scene[:32], scene[32:])):
        (images / f"{number}.tif").write_bytes(plain_tiff(part.astype(np.uint16), {338: ("H", [0, 0, 0])}))
    return images


def test_bands_and_scale_are_recorded_and_applied_to_a_question(folder, tmp_path):
    root = tmp_path / "root"
    done = swan(root, "embed", "--images", folder, "--bands", "3,2,1", "--stretch", "folder")
    assert done.returncode == 0, done.stderr
    assert "more than three bands" not in done.stderr
    import h5py

    (path,) = root.rglob("embeddings-*.h5")
    with h5py.File(path) as file:
        assert file.attrs["bands"] == "3,2,1"
        assert len(file.attrs["stretch"].split(",")) == 2
    asked = swan(root, "query", "--image", folder / "0.tif", "--json")
    first = json.loads(asked.stdout)["results"][0]
    assert first["filename"] == "0.tif"
    assert first["score"] == pytest.approx(1, abs=1e-3)
    again = swan(root, "embed", "--images", folder)
    assert again.stderr.count("more than three bands") == 1
    assert "2 images" in again.stderr


def test_prepare_records_and_reports(folder, tmp_path):
    root = tmp_path / "root"
    (folder / "dark.tif").write_bytes(plain_tiff(np.zeros((32, 64, 3), np.uint16)))
    done = swan(root, "prepare", "--dataset", "d", "--source", folder, "--stretch", "0,4095")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("one colour") == 1
    assert "dark.tif" in done.stderr
    import h5py

    with h5py.File(root / "d" / "dataset.h5") as file:
        assert (file.attrs["bands"], file.attrs["stretch"]) == ("", "0,4095")


def test_scene_and_image_are_embedded_alike(folder, tmp_path):
    """A scene that is one tile, and the same file as an image: the same vector."""
    import h5py

    root, scene = tmp_path / "root", folder / "0.tif"
    (folder / "1.tif").unlink()
    for words in (("--images", folder), ("--scene-image", scene, "--tile-size", "64")):
        done = swan(root, "embed", *words, "--bands", "3,2,1")
        assert done.returncode == 0, done.stderr
    (image,), (tiles,) = root.rglob("embeddings-*.h5"), root.rglob("tiles-*.h5")
    with h5py.File(image) as one, h5py.File(tiles) as other:
        assert other.attrs["bands"] == "3,2,1"
        score = float(one["images/embedding"][0] @ other["tiles/embedding"][0])
    assert score == pytest.approx(1, abs=1e-3)
