"""Searching one scene: the same answer from kept tiles and from the scene, and tiles that do not belong."""

import json
import os
import shutil

import h5py
import numpy as np
import pytest
from made_scenes import UTM, placed_at, scene_pixels, write_model, write_tiff

from swancli.errors import ImageError, StoreError, SwanError
from swancli.model.checkpoint import load_checkpoint
from swancli.model.encoder import Encoder
from swancli.query.questions import Question
from swancli.scene_image import tiles
from swancli.scene_image.raster import Raster
from swancli.scene_image.search import embed_scene, open_scene
from swancli.scene_image.tiles import open_tiles, scene_boxes
from swancli.store.hdf5 import open_store
from swancli.workspace import Workspace

SIZES = (40, 64)


@pytest.fixture
def workspace(tmp_path):
    return Workspace(tmp_path / "root")


def ask(scene, workspace, question="a river", top_k=10, threshold=-1.0, sizes=SIZES, **options):
    with open_scene(scene, workspace, device="cpu", sizes=sizes, **options) as searcher:
        return searcher.ask_words(Question((question,)), top_k, threshold)


def keep(model, scene, output, sizes=SIZES):
    return embed_scene(Encoder(model, "cpu"), scene, output, sizes=sizes)


def test_map_is_what_its_tiles_encoded_one_by_one_give(tiny_model, geo_scene, workspace):
    """Each tile is a picture like any other, and the map at a pixel is the mean of those that cover it."""
    answer = ask(geo_scene, workspace, checkpoint=tiny_model)
    encoder = Encoder(tiny_model, "cpu")
    pixels = np.moveaxis(scene_pixels(), 0, 2)
    with Raster(geo_scene) as raster:
        boxes = scene_boxes(raster.frame, SIZES)
    pictures = [pixels[top:bottom, left:right] for left, top, right, bottom in boxes]
    scores = (encoder.images(pictures) @ encoder.captions(["a river"]).T)[:, 0]
    x, y = 90, 110  # the middle of a cell of 20 pixels, far from the edges
    over = (boxes[:, 0] <= x) & (x < boxes[:, 2]) & (boxes[:, 1] <= y) & (y < boxes[:, 3])
    cell = np.s_[100:120, 80:100]
    total, count = np.zeros((150, 200)), np.zeros((150, 200))
    for (left, top, right, bottom), score in zip(boxes, scores, strict=True):
        total[top:bottom, left:right] += score
        count[top:bottom, left:right] += 1
    assert count[y, x] == over.sum()
    assert answer.heat.scores[5, 4] == pytest.approx(total[cell].sum() / count[cell].sum(), abs=1e-5)


def test_hits_come_best_first_with_scores_of_the_map(tiny_model, geo_scene, workspace):
    answer = ask(geo_scene, workspace, checkpoint=tiny_model)
    scores = [hit.score for hit in answer.hits]
    assert len(scores) > 1
    assert scores == sorted(scores, reverse=True)
    assert scores[0] == pytest.approx(answer.heat.span[1])
    assert answer.hits[0].heat == 1
    assert [hit.rank for hit in answer.hits] == list(range(1, len(scores) + 1))
    fewer = ask(geo_scene, workspace, checkpoint=tiny_model, top_k=2)
    assert fewer.hits == answer.hits[:2]
    some = ask(geo_scene, workspace, checkpoint=tiny_model, threshold=scores[1])
    assert some.hits == answer.hits[:2]


def test_same_question_gives_the_same_answer_from_the_scene_and_from_kept_tiles(
    tiny_model, geo_scene, workspace, tmp_path
):
    first, second = (ask(geo_scene, workspace, checkpoint=tiny_model).record() for _ in range(2))
    assert first == second
    kept = tmp_path / "tiles.h5"
    assert keep(tiny_model, geo_scene, kept) == len(scene_boxes(Raster(geo_scene).frame, SIZES))
    again = ask(geo_scene, workspace, kept=kept, sizes=()).record()
    assert json.loads(json.dumps(again)) == json.loads(json.dumps(first))


def test_blocks_of_tiles_do_not_change_the_answer(tiny_model, geo_scene, workspace, monkeypatch):
    whole = ask(geo_scene, workspace, checkpoint=tiny_model)
    monkeypatch.setattr(tiles, "BLOCK", 7)
    parts = ask(geo_scene, workspace, checkpoint=tiny_model)
    np.testing.assert_allclose(parts.heat.scores, whole.heat.scores, atol=2e-6)


def test_plain_picture_is_answered_in_pixels(tiny_model, plain_scene, geo_scene, workspace):
    plain = ask(plain_scene, workspace, checkpoint=tiny_model)
    placed = ask(geo_scene, workspace, checkpoint=tiny_model)
    assert [hit.box for hit in plain.hits] == [hit.box for hit in placed.hits]
    left, top, right, bottom = plain.hits[0].box
    assert plain.hits[0].centre == ((left + right) / 2, (top + bottom) / 2)
    assert "y down" in plain.record()["coordinates"]
    assert "WGS84" in placed.record()["coordinates"]


def test_borders_without_data_are_no_hits(tiny_model, tmp_path, workspace):
    pixels = scene_pixels().clip(1)
    pixels[:, :, :100] = 0
    scene = write_tiff(tmp_path / "border.tif", pixels, nodata=0)
    answer = ask(scene, workspace, checkpoint=tiny_model)
    assert np.isnan(answer.heat.scores[:, 0]).all()
    assert min(hit.box[2] for hit in answer.hits) > 100
    empty = write_tiff(tmp_path / "empty.tif", np.zeros((3, 90, 90), np.uint8), nodata=0)
    with pytest.raises(SwanError, match=r"empty\.tif: holds no data"):
        ask(empty, workspace, checkpoint=tiny_model)
    with pytest.raises(SwanError, match="no data"):
        keep(tiny_model, empty, tmp_path / "tiles.h5")
    assert not (tmp_path / "tiles.h5").exists()


def test_picture_can_be_the_question(tiny_model, geo_scene, plain_scene, workspace):
    """The scene is smaller than a tile, so its one tile is the picture itself, and their similarity is 1."""
    with open_scene(geo_scene, workspace, device="cpu", checkpoint=tiny_model, sizes=(256,)) as searcher:
        answer = searcher.ask_image(plain_scene, 10)
    (hit,) = answer.hits
    assert hit.box == (0, 0, 200, 150)
    assert hit.score == pytest.approx(1, abs=1e-5)


def test_question_without_a_word_is_refused(tiny_model, geo_scene, workspace):
    with pytest.raises(SwanError, match="no word"):
        ask(geo_scene, workspace, question="  ", checkpoint=tiny_model)


# ---------------------------------------------------------------------------------------------------------
# the file of tiles


def test_file_of_tiles_says_what_it_was_made_of(tiny_model, geo_scene, tmp_path):
    path = tmp_path / "tiles.h5"
    count = keep(tiny_model, geo_scene, path)
    with open_store(path, "swan-tiles") as file:
        assert file["tiles/embedding"].shape == (count, 32)
        assert file["tiles/box"].shape == (count, 4)
        assert file["scene/preview"].shape == (150, 200, 3)
        assert file.attrs["scene_name"] == "geo.tif"
        assert file.attrs["checkpoint_sha256"] == load_checkpoint(tiny_model).sha256
        np.testing.assert_allclose(np.linalg.norm(file["tiles/embedding"][:], axis=1), 1, atol=1e-5)
    with open_tiles(path) as file:
        assert file.sizes == SIZES
        assert file.tiles.frame.transform == (0.5, 0, 600000, 0, -0.5, 5000000)


def moved_file(tiny_model, scene, workspace, tmp_path):
    """A scene, and its tiles where a search looks for them."""
    scene = shutil.copy2(scene, tmp_path / "own.tif")
    kept = workspace.root / "small" / "runs" / "first" / "tiles-own.tif.h5"
    keep(tiny_model, scene, kept)
    return scene, kept


def stale(scene, workspace, **options):
    """Why the tiles that were found did not serve."""
    reasons = []
    ask(scene, workspace, on_stale=reasons.append, **options)
    return " ".join(reasons)


def test_tiles_are_found_by_the_scenes_name(tiny_model, geo_scene, workspace, tmp_path):
    scene, _ = moved_file(tiny_model, geo_scene, workspace, tmp_path)
    with open_scene(scene, workspace, device="cpu", texts_only=True) as searcher:
        assert searcher.kept
        assert searcher.ask_words(Question(("a river",)), 3).hits
    assert stale(scene, workspace) == ""
    moved = shutil.copy2(scene, tmp_path / "elsewhere.tif")
    with open_scene(moved, workspace, device="cpu", checkpoint=tiny_model) as searcher:
        assert not searcher.kept  # another name


def test_tiles_that_do_not_belong_are_passed_over_and_refused_when_named(
    tiny_model, geo_scene, workspace, tmp_path
):
    scene, kept = moved_file(tiny_model, geo_scene, workspace, tmp_path)
    other = write_model(tmp_path / "other.pt", seed=1)
    assert "another checkpoint" in stale(scene, workspace, checkpoint=other)
    with pytest.raises(SwanError, match="another checkpoint"):
        ask(scene, workspace, checkpoint=other, kept=kept)
    assert "of 40 and 64 pixels, not 48" in stale(scene, workspace, checkpoint=tiny_model, sizes=(48,))
    os.utime(scene, ns=(0, 0))
    assert "another scene" in stale(scene, workspace, checkpoint=tiny_model)
    with pytest.raises(SwanError, match="another scene"):
        ask(scene, workspace, kept=kept)


def test_damaged_file_of_tiles_is_passed_over_and_refused_when_named(
    tiny_model, geo_scene, workspace, tmp_path
):
    scene, kept = moved_file(tiny_model, geo_scene, workspace, tmp_path)
    with h5py.File(kept, "r+") as file:
        del file["tiles/box"]
    assert "damaged" in stale(scene, workspace, checkpoint=tiny_model)
    with pytest.raises(StoreError, match="damaged"):
        ask(scene, workspace, kept=kept)
    with pytest.raises(StoreError, match="no such file"):
        ask(scene, workspace, kept=tmp_path / "absent.h5")
    kept.write_bytes(b"")
    assert "HDF5" in stale(scene, workspace, checkpoint=tiny_model)


def test_too_many_tiles_are_refused_before_any_is_read(tiny_model, geo_scene, workspace, monkeypatch):
    monkeypatch.setattr(tiles, "MOST_TILES", 10)
    with pytest.raises(SwanError, match="--tile-size"):
        ask(geo_scene, workspace, checkpoint=tiny_model)


def test_damaged_scene_leaves_nothing_behind(tiny_model, geo_scene, workspace, tmp_path):
    cut = tmp_path / "cut.tif"
    cut.write_bytes(geo_scene.read_bytes()[:-20000])
    with pytest.raises(ImageError, match=r"cut\.tif"):
        keep(tiny_model, cut, tmp_path / "out" / "tiles.h5")
    assert not list(tmp_path.rglob("*.h5")) + list(tmp_path.rglob("*.tmp"))
    with pytest.raises(SwanError, match="no such file"):
        ask(tmp_path / "absent.tif", workspace, checkpoint=tiny_model)


def test_scene_without_a_place_on_the_earth_is_refused_before_it_is_embedded(
    tiny_model, tmp_path, workspace, monkeypatch
):
    nowhere = write_tiff(tmp_path / "nowhere.tif", scene_pixels(), transform=(1, 0, 5e9, 0, -1, 5e9))
    monkeypatch.setattr(Raster, "read", None)
    with pytest.raises(SwanError, match="WGS84"):
        ask(nowhere, workspace, checkpoint=tiny_model)
    with pytest.raises(SwanError, match="WGS84"):
        keep(tiny_model, nowhere, tmp_path / "tiles.h5")


def test_turned_scene_is_placed_by_its_own_transform(tiny_model, tmp_path, workspace):
    rasterio = pytest.importorskip("rasterio")
    transform = (0.3, 0.4, 600000, 0.4, -0.3, 5000000)
    scene = write_tiff(tmp_path / "turned.tif", scene_pixels(), transform=transform)
    hit = ask(scene, workspace, checkpoint=tiny_model).hits[0]
    left, top, right, bottom = hit.box
    x, y = placed_at(transform, (left + right) / 2, (top + bottom) / 2)
    longitude, latitude = rasterio.warp.transform(UTM, "EPSG:4326", [x], [y])
    assert hit.centre == pytest.approx((longitude[0], latitude[0]), abs=1e-9)


def test_result_that_would_replace_the_scene_is_refused(tiny_model, geo_scene, workspace, tmp_path):
    scene = shutil.copy2(geo_scene, tmp_path / "own.tif")
    before = scene.read_bytes()
    with pytest.raises(SwanError, match="the scene itself"):
        ask(scene, workspace, checkpoint=tiny_model).write(heatmap=tmp_path / "own.tif")
    assert scene.read_bytes() == before


def test_geojson_is_a_feature_collection(tiny_model, geo_scene, workspace, tmp_path):
    answer = ask(geo_scene, workspace, question="a río", checkpoint=tiny_model, top_k=1)
    answer.write(geojson=tmp_path / "hits.geojson")
    written = json.loads((tmp_path / "hits.geojson").read_text(encoding="utf-8"))
    assert (written["type"], written["query"]) == ("FeatureCollection", "a río")
    (feature,) = written["features"]
    assert feature["geometry"] == answer.hits[0].geometry
    assert list(feature["properties"]) == ["rank", "score", "heat", "box_in_pixels"]
