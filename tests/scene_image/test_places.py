"""Where boxes lie on the Earth, against rasterio's own transforms, and the files that show them."""

import re
import resource

import numpy as np
import pytest
from made_scenes import placed_at
from PIL import Image

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
        (32632, (0.3, 0.4, 600000, 0.4, -0.3, 5000000)),  # turned
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
