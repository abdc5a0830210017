"""Where boxes lie on the Earth, against rasterio's own transforms, and the files that show them."""

import re
import resource

import numpy as np
import pytest
from made_scenes import placed_at
from PIL import Image, ImageDraw

from swancli.errors import SwanError
from swancli.scene_image.heat import HeatMap
from swancli.scene_image.places import place_boxes, write_heat_map, write_overlay
from swancli.scene_image.raster import Frame

rasterio = pytest.importorskip("rasterio")
warp = pytest.importorskip("rasterio.warp")

BOX = np.array([[10, 20, 110, 80]])


def frame(code, transform, height=100, width=200):
    return Frame(height, width, rasterio.crs.CRS.from_epsg(code).to_wkt(), transform)


def area(ring):
    """Twice the area that a closed ring goes around, positive when counter-clockwise."""
    x, y = (np.array(ring) - ring[0]).T
    return (x[:-1] * y[1:] - x[1:] * y[:-1]).sum()


@pytest.mark.parametrize(
    ("code", "transform"),
    [
        (32632, (0.5, 0, 600000, 0, -0.5, 5000000)),
        (32632, (0.5, 0, 600000, 0, 0.5, 5000000)),  # rows run to the north
        (32632, (-0.5, 0, 600000, 0, 0.5, 5000000)),  # and columns to the west
        (32632, (-0.5, 0, 600000, 0, -0.5, 5000000)),  # seen in a mirror
        (32632, (0.3, 0.4, 600000, 0.4, -0.3, 5000000)),  # turned
        (32632, (0, 0.5, 600000, 0.5, 0, 5000000)),  # rows and columns swapped
        (32632, (0, -0.5, 600000, 0.5, 0, 5000000)),
        (4326, (0.001, 0, 9, 0, -0.002, 45)),
        (3857, (10, 0, 1e6, 0, -10, 6e6)),
    ],
)
def test_polygons_lie_where_rasterio_puts_their_corners(code, transform):
    placed = frame(code, transform)
    (polygon,), (centre,) = place_boxes(placed, BOX)
    corners = [placed_at(transform, *corner) for corner in [(10, 20), (110, 20), (110, 80), (10, 80)]]
    expected = np.transpose(warp.transform(f"EPSG:{code}", "EPSG:4326", *zip(*corners, strict=True)))
    (ring,) = polygon["coordinates"]
    assert ring[0] == ring[-1]
    assert area(ring) > 0
    found = sorted(map(tuple, np.round(ring[:-1], 10)))
    np.testing.assert_allclose(found, sorted(map(tuple, np.round(expected, 10))), atol=1e-9)
    x, y = placed_at(transform, 60, 50)
    middle = np.ravel(warp.transform(f"EPSG:{code}", "EPSG:4326", [x], [y]))
    np.testing.assert_allclose(centre, middle, atol=1e-9)


def test_position_by_hand():
    """On the central meridian of UTM zone 32, at 9 degrees east; a degree there is about 111 km long."""
    (polygon,), (centre,) = place_boxes(frame(32632, (1, 0, 499900, 0, -1, 0)), np.array([[0, 0, 200, 100]]))
    assert centre[0] == pytest.approx(9, abs=1e-9)
    assert centre[1] == pytest.approx(-50 / 110574 / 0.9996, rel=1e-4)  # 50 m south of the equator
    west = min(x for x, _ in polygon["coordinates"][0])
    assert west == pytest.approx(9 - 100 / 111320 / 0.9996, abs=1e-7)


def test_scene_without_a_system_is_answered_in_pixels():
    (polygon,), (centre,) = place_boxes(Frame(100, 200), BOX)
    assert sorted(map(tuple, polygon["coordinates"][0][:-1])) == [(10, 20), (10, 80), (110, 20), (110, 80)]
    assert centre == (60, 50)


@pytest.mark.parametrize(
    ("code", "transform"),
    [
        (32601, (10, 0, 165521, 0, -10, 500)),  # UTM zone 1, whose west lies beyond the antimeridian
        (3857, (10, 0, 20037508 - 600, 0, -10, 500)),
        (4326, (0.001, 0, 179.94, 0, -0.001, 0.05)),
    ],
)
def test_box_across_the_antimeridian_is_cut_there(code, transform):
    (polygon,), (centre,) = place_boxes(frame(code, transform), BOX)
    assert polygon["type"] == "MultiPolygon"
    west, east = sorted(polygon["coordinates"], key=lambda part: part[0][0][0])
    assert {max(x for x, _ in east[0]), -min(x for x, _ in west[0])} == {180}
    assert max(x for x, _ in west[0]) == pytest.approx(-180, abs=0.1)
    assert min(x for x, _ in east[0]) == pytest.approx(180, abs=0.1)
    assert area(east[0]) > 0
    assert area(west[0]) > 0
    assert -180 <= centre[0] <= 180


def diamond(west):
    """A square box turned by 45 degrees: its corners are 2 degrees from its centre, the first at `west`."""
    turned = frame(4326, (0.2, 0.2, west, 0.2, -0.2, 0), height=10, width=10)
    (polygon,), (centre,) = place_boxes(turned, np.array([[0, 0, 10, 10]]))
    parts = sorted((part[0] for part in polygon["coordinates"]), key=lambda ring: ring[0][0])
    assert all(ring[0] == ring[-1] and area(ring) > 0 for ring in parts)
    return [sorted(map(tuple, np.round(ring[:-1], 9).tolist())) for ring in parts], centre


def test_slanted_edges_are_cut_at_the_antimeridian_by_hand():
    (east, west), centre = diamond(177.5)
    assert east == [(-180, -1.5), (-180, 1.5), (-178.5, 0)]
    assert west == [(177.5, 0), (179.5, -2), (179.5, 2), (180, -1.5), (180, 1.5)]
    assert centre == pytest.approx((179.5, 0))
    (east, west), centre = diamond(178.5)
    assert east == [(-180, -1.5), (-180, 1.5), (-179.5, -2), (-179.5, 2), (-177.5, 0)]
    assert west == [(178.5, 0), (180, -1.5), (180, 1.5)]
    assert centre == pytest.approx((-179.5, 0))


def test_box_cut_at_its_corners_has_each_of_them_once():
    (east, west), _ = diamond(178)
    assert east == [(-180, -2), (-180, 2), (-178, 0)]
    assert west == [(178, 0), (180, -2), (180, 2)]


@pytest.mark.parametrize("longitude", [-90, 0, 90, 179])
def test_box_across_any_other_meridian_stays_whole(longitude):
    placed = frame(4326, (0.01, 0, longitude - 0.5, 0, -0.01, 1), height=100, width=100)
    (polygon,), (centre,) = place_boxes(placed, np.array([[0, 0, 100, 100]]))
    assert polygon["type"] == "Polygon"
    assert {x for x, _ in polygon["coordinates"][0]} == {longitude - 0.5, longitude + 0.5}
    assert centre == pytest.approx((longitude, 0.5))


def test_each_box_has_its_polygon_and_its_centre():
    boxes = np.array([[10, 20, 110, 80], [0, 0, 10, 10], [100, 50, 104, 90]])
    for placed in (Frame(100, 200), frame(4326, (0.001, 0, 9, 0, -0.002, 45))):
        polygons, centres = place_boxes(placed, boxes)
        alone = [place_boxes(placed, box[None]) for box in boxes]
        assert polygons == [polygon for (polygon,), _ in alone]
        assert centres == [centre for _, (centre,) in alone]


def test_very_small_box_runs_counter_clockwise_too():
    """Its area, 10^-13 square degrees, is less than the rounding of its coordinates' products."""
    for column in range(20):
        placed = frame(4326, (3e-7, 0, 170 + column / 7, 0, -3e-7, 80))
        (polygon,), _ = place_boxes(placed, np.array([[0, 0, 1, 1]]))
        assert area(polygon["coordinates"][0]) > 0


def test_box_that_ends_at_the_antimeridian_stays_whole():
    (polygon,), _ = place_boxes(
        frame(4326, (0.01, 0, 178, 0, -0.01, 1), width=200), np.array([[100, 0, 200, 9]])
    )
    assert polygon["type"] == "Polygon"
    assert {x for x, _ in polygon["coordinates"][0]} == {179, 180}


@pytest.mark.parametrize(
    ("crs", "transform"),
    [
        ('LOCAL_CS["a field",UNIT["metre",1]]', (1, 0, 0, 0, -1, 1)),
        (rasterio.crs.CRS.from_epsg(32632).to_wkt(), (1, 0, 5e9, 0, -1, 5e9)),
        (rasterio.crs.CRS.from_epsg(4326).to_wkt(), (0.1, 0, 5, 0, -0.1, 300)),
        (rasterio.crs.CRS.from_epsg(4326).to_wkt(), (0.001, 0, 5, 0, -0.001, 90.6)),
        (rasterio.crs.CRS.from_epsg(4326).to_wkt(), (0.001, 0, 540.5, 0, -0.001, 45)),
        (rasterio.crs.CRS.from_epsg(32632).to_wkt(), (1, 0, float("nan"), 0, -1, 5e6)),
    ],
)
def test_system_that_cannot_be_brought_to_wgs84_is_refused(crs, transform):
    with pytest.raises(SwanError, match="WGS84") as refused:
        place_boxes(Frame(100, 200, crs, transform), BOX)
    assert re.search("gdal", refused.value.hint)
    assert len(refused.value.problem) < 250


# ---------------------------------------------------------------------------------------------------------
# files

HEAT = HeatMap(np.array([[0.1, 0.3, np.nan], [0.5, 0.2, 0.1]], np.float32), (40, 50), (80, 100), 75, 100)


def test_heat_map_keeps_the_system_and_has_coarser_pixels(tmp_path):
    transform = (0.5, 0.1, 600000, 0.1, -0.5, 5000000)
    write_heat_map(tmp_path / "heat.tif", HEAT, frame(32632, transform), "a río")
    with rasterio.open(tmp_path / "heat.tif") as file:
        assert file.crs.to_epsg() == 32632
        assert file.shape == (2, 3)
        # Its pixel (2, 1) is the scene's (80, 50).
        found = placed_at(file.transform[:6], 2, 1)
        np.testing.assert_allclose(found, placed_at(transform, 80, 50))
        np.testing.assert_allclose(file.read(1), [[0, 0.5, np.nan], [1, 0.25, 0]], atol=1e-6)
        assert np.isnan(file.nodata)
        assert (file.driver, file.count, file.dtypes) == ("GTiff", 1, ("float32",))
        assert file.profile["compress"] == "deflate"
        tags = file.tags()
    assert tags["query"] == "a río"
    assert float(tags["score_at_0"]) == pytest.approx(0.1)
    assert float(tags["score_at_1"]) == pytest.approx(0.5)
    assert [path.name for path in tmp_path.iterdir()] == ["heat.tif"]


@pytest.mark.parametrize("room", [0, 200, 500])
def test_heat_map_that_the_disk_does_not_take_gets_no_name(tmp_path, room):
    """GDAL writes most of a file when it closes it, and loses the error."""
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, most))
    try:
        with pytest.raises(SwanError, match=r"heat\.tif: cannot be written \(File too large\)"):
            write_heat_map(tmp_path / "heat.tif", HEAT, Frame(75, 100), "river")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    assert list(tmp_path.iterdir()) == []


def test_faulty_proj_is_not_blamed_on_the_scene(monkeypatch):
    """A variable of another program leads PROJ to a database that is not there, or is of another version."""
    scene = frame(32632, (0.5, 0, 600000, 0, -0.5, 5000000))

    def fail(*_):
        raise RuntimeError("PROJ: internal_proj_create_from_database: Cannot find proj.db")

    monkeypatch.setattr(warp, "transform", fail)
    for name in ("PROJ_LIB", "PROJ_DATA", "GDAL_DATA"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(SwanError, match=r"PROJ cannot convert coordinates .*proj\.db") as caught:
        place_boxes(scene, BOX)
    assert "install rasterio again" in caught.value.hint
    monkeypatch.setenv("PROJ_DATA", "/opt/other/proj")
    with pytest.raises(SwanError) as caught:
        place_boxes(scene, BOX)
    assert "unset PROJ_DATA" in caught.value.hint


def test_heat_map_of_a_plain_picture_is_in_its_pixels(tmp_path):
    write_heat_map(tmp_path / "heat.tif", HEAT, Frame(75, 100), "river")
    with rasterio.open(tmp_path / "heat.tif") as file:
        assert file.crs is None
        assert placed_at(file.transform[:6], 2, 1) == (80, 50)


def test_overlay_is_warm_where_the_map_is_and_shows_the_scene_elsewhere(tmp_path):
    heat = HeatMap(np.array([[0, 0, 1]], np.float32), (40, 40), (80, 80), 40, 120)
    grey = np.full((20, 60, 3), 100, np.uint8)
    write_overlay(tmp_path / "heat.png", grey, heat, np.zeros((0, 4)))
    pixels = np.array(Image.open(tmp_path / "heat.png")).astype(int)
    assert pixels.shape == (20, 60, 3)
    assert (pixels[:, :10] == 100).all()
    assert pixels[10, 55, 0] > 150 > pixels[10, 55, 2]
    write_overlay(tmp_path / "hits.png", grey, heat, np.array([[0, 0, 40, 40], [80, 0, 120, 40]]))
    framed = np.array(Image.open(tmp_path / "hits.png")).astype(int)
    assert (framed[:, 0] != pixels[:, 0]).any()
    assert (framed[:, 30] == pixels[:, 30]).all()


@pytest.mark.parametrize("axis", [0, 1])
def test_overlay_is_not_stretched_where_the_last_cells_reach_beyond_the_scene(tmp_path, axis):
    """A scene of 100 pixels has three cells of 40; the middle of the second is at 60 (30 in the preview)."""
    scores = np.array([[0, 1, 0]], np.float32)
    heat = HeatMap(scores, (40, 40), (80, 80), 40, 100)
    preview = np.full((20, 50, 3), 100, np.uint8)
    if axis == 0:
        heat, preview = HeatMap(scores.T, (40, 40), (80, 80), 100, 40), preview.swapaxes(0, 1)
    write_overlay(tmp_path / "heat.png", preview, heat, np.zeros((0, 4)))
    red = np.array(Image.open(tmp_path / "heat.png"))[..., 0].astype(float)
    along = red.mean(axis=1 - axis) - 100
    warm = np.flatnonzero(along > along.max() / 2)
    assert warm.mean() + 0.5 == pytest.approx(30, abs=1)


def test_overlay_of_oblong_cells_is_not_stretched(tmp_path):
    """Cells of 40 x 10: the middle of the second is at 60 of 100 across."""
    heat = HeatMap(np.array([[0, 1, 0]] * 3, np.float32), (40, 10), (80, 20), 25, 100)
    write_overlay(tmp_path / "heat.png", np.full((25, 100, 3), 100, np.uint8), heat, np.zeros((0, 4)))
    red = np.array(Image.open(tmp_path / "heat.png"))[..., 0]
    assert red.max(axis=0).argmax() in (59, 60)
    assert (red[:, 59] == red[0, 59]).all()


def test_colours_of_the_overlay_by_hand(tmp_path):
    """Two cells over 41 pixels; opacity is 0.65 of the square of the heat."""
    heat = HeatMap(np.array([[0, 1]], np.float32), (41, 30), (82, 60), 30, 82)
    write_overlay(tmp_path / "heat.png", np.full((15, 41, 3), 100, np.uint8), heat, np.zeros((0, 4)))
    row = np.array(Image.open(tmp_path / "heat.png")).astype(float)[7]
    assert row[0].tolist() == [100, 100, 100]
    # Heat (15.5 - 10.25) / 20.5 = 0.256: opacity 0.0426 of (255, 191.5, 73.9), between the first two colours.
    assert row[15] == pytest.approx([106.6, 103.9, 98.9], abs=0.6)
    assert row[20] == pytest.approx([125.2, 108.1, 88.6], abs=0.6)  # 0.5: 0.1625 of (255, 150, 30)
    assert row[40] == pytest.approx([181.25, 54.5, 48], abs=0.6)  # 1: 0.65 of (225, 30, 20)


def test_hits_are_framed_and_numbered_with_the_best_on_top(tmp_path, monkeypatch):
    numbers, draw = [], ImageDraw.ImageDraw.text
    monkeypatch.setattr(
        ImageDraw.ImageDraw,
        "text",
        lambda self, place, text, **rest: numbers.append((text, place)) or draw(self, place, text, **rest),
    )
    flat = HeatMap(np.zeros((3, 9), np.float32), (20, 20), (40, 40), 60, 180)
    preview = np.full((30, 90, 3), 100, np.uint8)
    write_overlay(tmp_path / "a.png", preview, flat, np.array([[20, 20, 100, 60], [60, 0, 140, 40]]))
    # Half as large: the best from (10, 10) to (50, 30), the second from (30, 0) to (70, 20).
    (first, (x, y)), (second, (next_x, next_y)) = sorted(numbers)
    assert (first, second) == ("1", "2")
    assert 10 < x < 20
    assert 10 < y < 20
    assert 30 < next_x < 40
    assert 0 < next_y < 10
    grey = np.array(Image.open(tmp_path / "a.png"))[..., 0].tolist()
    assert grey[25][8:13] == [100, 100, 255, 20, 100]  # white, and a dark line inside
    assert grey[25][47:51] == [100, 20, 255, 100]
    assert [line[35] for line in grey[26:30]] == [100, 100, 20, 255]
    assert grey[10][31] == 255  # not the dark line of the second


def test_lines_are_thicker_on_a_large_overlay(tmp_path):
    flat = HeatMap(np.zeros((1, 1), np.float32), (60, 1500), (60, 1500), 1500, 60)
    write_overlay(
        tmp_path / "a.png", np.full((1500, 60, 3), 100, np.uint8), flat, np.array([[0, 0, 60, 1500]])
    )
    grey = np.array(Image.open(tmp_path / "a.png"))[700, :, 0].tolist()
    assert grey[:7] == [255] * 3 + [20] * 3 + [100]
