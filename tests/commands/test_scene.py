"""`--scene-image` and `--localization` as whole commands."""

import builtins
import json
import shutil

import numpy as np
import pytest
from conftest import execute, invoke
from made_scenes import scene_pixels, write_tiff
from PIL import Image
from test_errors import refused

SIZES = ["--tile-size", 40, "--tile-size", 64]


@pytest.fixture
def scene(tmp_path):
    return write_tiff(tmp_path / "big.tif", scene_pixels())


@pytest.fixture
def root(finished, tmp_path):
    return shutil.copytree(finished.root, tmp_path / "root")


def query(scene, root, *options):
    return invoke("query", "a harbor", "--scene-image", scene, *options, root=root)


def test_query_prints_a_table_of_places(scene, root):
    printed = query(scene, root, *SIZES, "--top-k", 2)
    assert printed.returncode == 0, printed.stderr
    assert printed.stderr == ""
    for head in ("rank", "score", "heat", "longitude", "latitude", "size in pixels"):
        assert head in printed.stdout
    assert "40 x 40" in printed.stdout


def test_query_writes_the_same_from_the_scene_and_from_kept_tiles(scene, root, tmp_path):
    names = {"--geojson": "hits.geojson", "--heatmap": "heat.tif", "--overlay": "heat.png"}

    def ask(folder):
        files = [part for option, name in names.items() for part in (option, tmp_path / folder / name)]
        printed = query(scene, root, *files, "--json", *(SIZES if folder == "first" else ()))
        assert printed.returncode == 0, printed.stderr
        assert printed.stderr == ""
        return printed.stdout

    first = ask("first")
    embedded = invoke("embed", "--scene-image", scene, *SIZES, root=root)
    assert embedded.returncode == 0, embedded.stderr
    assert "tiles of big.tif" in embedded.stdout
    assert (root / "small" / "runs" / "first" / "tiles-big.tif.h5").exists()
    assert ask("second") == first
    for name in names.values():
        assert (tmp_path / "second" / name).read_bytes() == (tmp_path / "first" / name).read_bytes()

    answer = json.loads(first)
    assert answer["query"] == "a harbor"
    features = json.loads((tmp_path / "first" / "hits.geojson").read_text())["features"]
    assert [feature["properties"]["score"] for feature in features] == [
        hit["score"] for hit in answer["results"]
    ]
    assert [feature["geometry"] for feature in features] == [hit["geometry"] for hit in answer["results"]]
    # 150 x 200 pixels of half a metre at 600 km east in zone 32: about 10.27 degrees east, 45.15 north.
    for longitude, latitude in (point for f in features for point in f["geometry"]["coordinates"][0]):
        assert 10.26 < longitude < 10.28
        assert 45.14 < latitude < 45.16


def test_tiles_of_a_changed_scene_are_made_again_with_a_note(scene, root):
    assert invoke("embed", "--scene-image", scene, *SIZES, root=root).returncode == 0
    write_tiff(scene, scene_pixels(seed=1))
    printed = query(scene, root, *SIZES)
    assert printed.returncode == 0
    assert "embedded again" in printed.stderr
    kept = root / "small" / "runs" / "first" / "tiles-big.tif.h5"
    refused(query(scene, root, "--embeddings", kept), "another scene", "swan embed --scene-image")


def test_plain_picture_without_any_run_takes_the_shipped_checkpoint(tmp_path):
    Image.fromarray(np.moveaxis(scene_pixels(), 0, 2)).save(tmp_path / "plain.png")
    printed = query(tmp_path / "plain.png", tmp_path / "root", "--geojson", tmp_path / "hits.geojson")
    assert printed.returncode == 0, printed.stderr
    assert "y down" in printed.stdout
    collection = json.loads((tmp_path / "hits.geojson").read_text())
    assert "y down" in collection["coordinates"]
    assert collection["features"][0]["geometry"]["coordinates"][0][0] in (
        [0, 150],
        [0, 0],
        [200, 0],
        [200, 150],
    )


def test_query_that_finds_nothing_is_done(scene, root, tmp_path):
    printed = query(scene, root, *SIZES, "--threshold", 1, "--geojson", tmp_path / "hits.geojson")
    assert printed.returncode == 0
    assert "no match" in printed.stdout
    assert json.loads((tmp_path / "hits.geojson").read_text())["features"] == []


def test_options_that_do_not_go_together_are_refused(scene, root, tmp_path):
    refused(query(scene, root, "--split", "test"), "--scene-image", "--split")
    refused(query(scene, root, "--scene", "harbor"), "--scene-image", "--scene ")
    for option in ("--geojson", "--heatmap", "--overlay"):
        refused(invoke("query", "a harbor", option, tmp_path / "x", root=root), option, "--scene-image")
    refused(invoke("query", "a harbor", "--tile-size", 64, root=root), "--tile-size", "--scene-image")
    refused(invoke("query", "--scene-image", scene, root=root), "nothing to search for")
    refused(invoke("embed", "--scene-image", scene, "--images", tmp_path, root=root), "--images")
    refused(invoke("embed", "--tile-size", 64, root=root), "--scene-image")
    refused(query(scene, root, "--heatmap", scene), "the scene itself")


def test_scenes_that_cannot_be_read_are_refused(scene, root, tmp_path):
    refused(query(tmp_path / "absent.tif", root), "absent.tif")
    refused(invoke("embed", "--scene-image", tmp_path / "absent.tif", root=root), "absent.tif")
    (tmp_path / "text.tif").write_text("not an image")
    refused(query(tmp_path / "text.tif", root), "text.tif")
    cut = tmp_path / "cut.tif"
    cut.write_bytes(scene.read_bytes()[:-20000])
    failed = execute(
        "query", "a harbor", "--scene-image", cut, "--geojson", tmp_path / "x.geojson", root=root
    )
    refused(failed, "cut.tif")
    assert not (tmp_path / "x.geojson").exists()


def test_missing_rasterio_names_the_extra(scene, root, monkeypatch):
    real = builtins.__import__

    def without_rasterio(name, *arguments, **named):
        if name.partition(".")[0] == "rasterio":
            raise ModuleNotFoundError("No module named 'rasterio'", name="rasterio")
        return real(name, *arguments, **named)

    monkeypatch.setattr(builtins, "__import__", without_rasterio)
    refused(query(scene, root), "pip install 'swancli[geo]'")


def test_eval_localization_reports_means_and_each(scene, root, tmp_path):
    square = [[20, 20], [100, 20], [100, 100], [20, 100]]
    entries = [
        {"jpg_name": "big.tif", "caption": "a harbor", "points": [square]},
        {"jpg_name": "big.tif", "caption": "a field", "points": [square, [[150, 20], [190, 20], [170, 60]]]},
    ]
    (tmp_path / "places.json").write_text(json.dumps(entries))
    options = ["eval", "--localization", tmp_path / "places.json", *SIZES]
    printed = invoke(*options, "--json", root=root)
    assert printed.returncode == 0, printed.stderr
    record = json.loads(printed.stdout)
    assert (record["annotations"], record["scenes"]) == (2, 1)
    for name in ("rsu", "ras", "rda", "rmi"):
        assert 0 <= record[name] <= 1
        assert record[name] == pytest.approx(sum(row[name] for row in record["each"]) / 2)
    table = invoke(*options, root=root)
    for shown in ("Rsu", "Ras", "Rda", "Rmi", f"{record['rmi']:.4f}"):
        assert shown in table.stdout
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    moved = shutil.copy(tmp_path / "places.json", elsewhere)
    refused(invoke("eval", "--localization", moved, root=root), "big.tif", "--images")
    again = invoke("eval", "--localization", moved, "--images", tmp_path, *SIZES, "--json", root=root)
    assert json.loads(again.stdout)["rmi"] == record["rmi"]


def test_eval_options_of_recall_do_not_go_with_localization(root, tmp_path):
    for option in ("--ceiling", "--scene-recall", "--csv", "--rerank"):
        refused(invoke("eval", "--localization", tmp_path / "x", option, root=root), "--localization", option)
    refused(invoke("eval", "--images", tmp_path, root=root), "--localization")
