"""Windows of a scene: the same as the whole, whatever kind of file it is; and files that are no scenes."""

import errno
import logging
import os
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from made_scenes import scene_pixels, write_tiff
from PIL import Image

from swancli.errors import ImageError, SwanError, SwanWarning
from swancli.images import decode_image, parse_rendering
from swancli.scene_image import raster
from swancli.scene_image.raster import Frame, Raster

WHOLE = np.array([0, 0, 200, 150])
WINDOWS = np.array([[0, 0, 40, 30], [37, 51, 130, 120], [199, 149, 200, 150], [0, 64, 200, 128]])


def check_windows(path):
    """Every window holds what the whole scene holds there; returns the whole."""
    with Raster(path) as scene:
        whole, _ = scene.read(WHOLE)
        for box in WINDOWS:
            left, top, right, bottom = box
            np.testing.assert_array_equal(scene.read(box)[0], whole[top:bottom, left:right])
        return whole


def test_windows_equal_the_whole_read(geo_scene, plain_scene):
    expected = np.moveaxis(scene_pixels(), 0, 2)
    np.testing.assert_array_equal(check_windows(geo_scene), expected)
    np.testing.assert_array_equal(check_windows(plain_scene), expected)


def test_wide_samples_have_one_scale_for_the_whole_scene(tmp_path):
    """The whole is what `decode_image` makes of the file: 12 bits here, though most windows hold less."""
    samples = scene_pixels().astype(np.uint16)
    samples[:, 100:, 150:] *= 15
    path = write_tiff(tmp_path / "wide.tif", samples)
    np.testing.assert_array_equal(check_windows(path), decode_image(path.read_bytes(), "wide.tif"))


@pytest.mark.parametrize("scale", [1 / 255, 20.0])
def test_floating_point_samples_are_fractions_up_to_one_or_counts(tmp_path, scale):
    samples = (scene_pixels() * scale).astype(np.float32)
    samples[0, 0, 0] = 255 * scale
    path = write_tiff(tmp_path / "float.tif", samples)
    np.testing.assert_array_equal(check_windows(path), decode_image(path.read_bytes(), "float.tif"))


def test_single_band_is_grey_and_a_palette_is_coloured(tmp_path):
    grey = scene_pixels(bands=1)
    whole = check_windows(write_tiff(tmp_path / "grey.tif", grey))
    np.testing.assert_array_equal(whole, np.repeat(grey[0][..., None], 3, axis=2))
    picture = Image.fromarray(np.moveaxis(scene_pixels(), 0, 2)).quantize(8)
    picture.save(tmp_path / "palette.png")
    np.testing.assert_array_equal(check_windows(tmp_path / "palette.png"), np.array(picture.convert("RGB")))


def test_of_many_bands_those_named_by_colour_are_read(tmp_path):
    rasterio = pytest.importorskip("rasterio")
    kinds = rasterio.enums.ColorInterp
    pixels = scene_pixels(bands=4)
    path = write_tiff(tmp_path / "four.tif", pixels)
    with rasterio.open(path, "r+") as file:
        file.colorinterp = [kinds.undefined, kinds.blue, kinds.green, kinds.red]
    np.testing.assert_array_equal(check_windows(path), np.moveaxis(pixels[[3, 2, 1]], 0, 2))
    unnamed = write_tiff(tmp_path / "five.tif", scene_pixels(bands=5), photometric="minisblack")
    np.testing.assert_array_equal(check_windows(unnamed), np.moveaxis(scene_pixels(bands=5)[:3], 0, 2))


def test_what_is_no_data_is_black_and_counted(tmp_path):
    pixels = scene_pixels().clip(1)
    pixels[:, :, :50] = 0
    alpha = np.where(pixels.any(axis=0), 255, 0).astype(np.uint8)
    white = np.where(alpha, pixels, 255).astype(np.uint8)
    nans = np.where(alpha, pixels / 255, np.nan).astype(np.float32)
    for path in (
        write_tiff(tmp_path / "nodata.tif", pixels, nodata=0),
        write_tiff(
            tmp_path / "alpha.tif", np.concatenate((white, alpha[None])), photometric="rgb", alpha="yes"
        ),
        write_tiff(tmp_path / "nan.tif", nans),
    ):
        np.testing.assert_array_equal(check_windows(path), np.moveaxis(pixels, 0, 2))
        with Raster(path) as scene:
            assert scene.read(np.array([0, 0, 50, 150]))[1] == 0
            assert scene.read(np.array([40, 0, 60, 150]))[1] == pytest.approx(0.5)
            assert scene.read(np.array([50, 0, 200, 150]))[1] == 1
            assert not scene.preview[:, :50].any()


def test_value_of_no_data_does_not_choose_the_scale(tmp_path):
    samples = scene_pixels().astype(np.uint16) * 15
    samples[:, :10, :10] = 65535
    whole = check_windows(write_tiff(tmp_path / "wide.tif", samples, nodata=65535))
    assert whole.max() > 230


def test_preview_is_the_scene_made_smaller(geo_scene, monkeypatch):
    with Raster(geo_scene) as scene:
        np.testing.assert_array_equal(scene.preview, scene.read(WHOLE)[0])
    monkeypatch.setattr(raster, "PREVIEW", 20)
    with Raster(geo_scene) as scene:
        assert scene.preview.shape == (15, 20, 3)
        np.testing.assert_array_equal(scene.preview, scene.read(WHOLE)[0][::10, ::10])  # blotches of 10


def test_tiles_are_square_on_the_ground():
    assert Frame(9, 9).tile_shape == 1
    rasterio = pytest.importorskip("rasterio")
    utm, geographic = (rasterio.crs.CRS.from_epsg(code).to_wkt() for code in (32632, 4326))
    assert Frame(9, 9, utm, (0.5, 0, 6e5, 0, -0.5, 5e6)).tile_shape == 1
    assert Frame(9, 9, utm, (1, 0, 6e5, 0, -2, 5e6)).tile_shape == 0.5  # rows are twice as far apart
    turned = (0.3, 0.4, 6e5, 0.4, -0.3, 5e6)
    assert Frame(9, 9, utm, turned).tile_shape == pytest.approx(1)
    for broken in (float("nan"), float("inf"), 0):
        assert Frame(9, 9, utm, (broken, 0, 6e5, 0, -0.5, 5e6)).tile_shape == 1
        assert Frame(9, 9, utm, (0.5, 0, 6e5, 0, broken, 5e6)).tile_shape == 1
    # A degree of longitude is half as long at 60 degrees: a tile needs half as many rows as columns.
    assert Frame(100, 100, geographic, (0.001, 0, 9, 0, -0.001, 60.05)).tile_shape == pytest.approx(0.5)


def test_files_that_are_no_scenes_are_refused(tmp_path, geo_scene):
    with pytest.raises(ImageError, match="no such file"):
        Raster(tmp_path / "absent.tif")
    (tmp_path / "text.tif").write_text("not an image")
    with pytest.raises(ImageError, match=r"text\.tif"):
        Raster(tmp_path / "text.tif")
    (tmp_path / "empty.tif").touch()
    with pytest.raises(ImageError, match=r"empty\.tif"):
        Raster(tmp_path / "empty.tif")
    cut = tmp_path / "cut.tif"
    cut.write_bytes(geo_scene.read_bytes()[:-20000])
    with pytest.raises(ImageError, match=r"cut\.tif"), Raster(cut) as scene:
        scene.read(WHOLE)


@pytest.mark.parametrize("masked", [False, True])
def test_scene_whose_rows_do_not_fit_into_the_cache_is_read_in_parts_with_the_same_samples(
    tmp_path, monkeypatch, masked
):
    """Else each block would be decoded again for each row: a file of 300 bytes took 48 seconds."""
    rasterio = pytest.importorskip("rasterio")
    path = write_tiff(tmp_path / "scene.tif", scene_pixels(width=300).astype(np.uint16))
    if masked:
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "r+") as file:
            file.write_mask(scene_pixels(bands=1, width=300)[0] > 99)
    with Raster(path) as scene:
        whole = scene._samples([0, 2], None, (20, 70))
    monkeypatch.setattr(raster, "CACHE", 0)
    asked = []
    with Raster(path) as scene:
        read = scene._samples
        monkeypatch.setattr(scene, "_samples", lambda *given: (asked.append(given[1].width), read(*given))[1])
        parts = scene._spread_samples([0, 2], (20, 70))
    assert len(asked) == 5  # blocks of 64 across 300
    np.testing.assert_array_equal(parts[0], whole[0])
    np.testing.assert_array_equal(parts[1], whole[1])
    assert (whole[1] is not None) == masked


@pytest.mark.parametrize("number", [errno.EIO, errno.EMFILE])
def test_failing_disk_does_not_damage_a_scene(geo_scene, monkeypatch, number):
    rasterio = pytest.importorskip("rasterio")

    def fail(*given, **options):
        raise rasterio.errors.RasterioIOError(f"Read failed: {os.strerror(number)}")

    with Raster(geo_scene) as scene, monkeypatch.context() as failing:
        failing.setattr(scene, "_file", SimpleNamespace(read=fail))
        with pytest.raises(SwanError, match=f"cannot be read \\({os.strerror(number)}\\)") as read:
            scene.read(WHOLE)
    monkeypatch.setattr(rasterio, "open", fail)
    with pytest.raises(SwanError, match=f"cannot be read \\({os.strerror(number)}\\)") as opened:
        Raster(geo_scene)
    assert not {ImageError} & {type(read.value), type(opened.value)}


def test_rasterio_that_does_not_work_is_not_called_absent(monkeypatch):
    monkeypatch.setitem(sys.modules, "rasterio", None)
    with pytest.raises(SwanError, match=r"a scene needs rasterio, which is not installed\n.*swancli\[geo\]"):
        raster.require_rasterio()
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "rasterio.warp", None)
    with pytest.raises(SwanError, match="installed but does not work"):
        raster.require_rasterio()


def test_file_that_leads_to_others_is_refused_whatever_it_is_called(tmp_path, plain_scene):
    """A stranger's scene could show any file of this machine, or ask any address."""
    raw = '<VRTRasterBand dataType="Byte" band="1" subClass="VRTRawRasterBand">'
    size = '<VRTDataset rasterXSize="64" rasterYSize="64">'
    (tmp_path / "raw.tif").write_text(
        f"{size}{raw}<SourceFilename>/etc/passwd</SourceFilename></VRTRasterBand></VRTDataset>"
    )
    (tmp_path / "web.png").write_text("<GDAL_WMS><Service name='TMS'></Service></GDAL_WMS>")
    for name in ("raw.tif", "web.png"):
        with pytest.raises(ImageError, match="not in a format of a scene"):
            Raster(tmp_path / name)
    for name in ("raw.tif", "web.png"):
        (tmp_path / name).rename(tmp_path / f"{name}.vrt")
        with pytest.raises(ImageError, match="not part of a plain mosaic"):
            Raster(tmp_path / f"{name}.vrt", mosaic=True)


def vrt_of(*names):
    """A VRT of 64 x 64 pixels over files."""
    sources = "".join(
        f"<SimpleSource><SourceFilename relativeToVRT='1'>{name}</SourceFilename>"
        "<SourceBand>BAND</SourceBand></SimpleSource>"
        for name in names
    )
    bands = "".join(
        f'<VRTRasterBand dataType="Byte" band="{n}">{sources.replace("BAND", str(n))}</VRTRasterBand>'
        for n in (1, 2, 3)
    )
    return f'<VRTDataset rasterXSize="64" rasterYSize="64">{bands}</VRTDataset>'


def test_vrt_is_read_where_the_user_named_it_and_over_files_beside_it(tmp_path, plain_scene):
    inside = tmp_path / "below"
    inside.mkdir()
    (inside / "part.png").write_bytes(plain_scene.read_bytes())
    (tmp_path / "mosaic.vrt").write_text(vrt_of("below/part.png"))
    with pytest.raises(ImageError, match="not in a format of a scene"):
        Raster(tmp_path / "mosaic.vrt")
    with Raster(tmp_path / "mosaic.vrt", mosaic=True) as scene:
        np.testing.assert_array_equal(
            scene.read(np.array([0, 0, 64, 64]))[0], np.moveaxis(scene_pixels(), 0, 2)[:64, :64]
        )
    for name in (str(plain_scene), "../part.png", "/vsicurl/http://127.0.0.1/a.tif", "below/absent.png", ""):
        (tmp_path / "mosaic.vrt").write_text(vrt_of(name))
        with pytest.raises(ImageError, match="not a file in its folder"):
            Raster(tmp_path / "mosaic.vrt", mosaic=True)
    (inside / "nested.png").write_text(vrt_of("part.png"))
    (tmp_path / "mosaic.vrt").write_text(vrt_of("below/nested.png"))
    with pytest.raises(ImageError, match="not in a format of a scene"):
        Raster(tmp_path / "mosaic.vrt", mosaic=True)


def test_photo_on_its_side_is_upright_in_every_window(tmp_path):
    exif = Image.Exif()
    for orientation in range(1, 9):
        exif[0x0112] = orientation
        path = tmp_path / f"{orientation}.png"
        Image.fromarray(np.moveaxis(scene_pixels(), 0, 2)).save(path, exif=exif)
        right = decode_image(path.read_bytes(), path.name)
        with Raster(path) as scene:
            assert right.shape[:2] == (scene.frame.height, scene.frame.width)
            np.testing.assert_array_equal(scene.preview, right)
            for left, top, size in ((0, 0, 40), (101, 33, 47), (20, 110, 30)):
                part = right[top : top + size, left : left + size]
                box = np.array([left, top, left + part.shape[1], top + part.shape[0]])
                np.testing.assert_array_equal(scene.read(box)[0], part)


def test_overviews_do_not_decide_the_scale(tmp_path):
    rasterio = pytest.importorskip("rasterio")
    samples = np.random.default_rng(0).integers(0, 900, (3, 1500, 1400), dtype=np.uint16)
    samples[:, ::2] *= 4
    path = write_tiff(tmp_path / "wide.tif", samples)
    with Raster(path) as scene:
        before = scene.read(np.array([0, 0, 64, 64]))[0]
    with rasterio.open(path, "r+") as file:
        file.build_overviews([2, 4], rasterio.enums.Resampling.average)
    with Raster(path) as scene:
        np.testing.assert_array_equal(scene.read(np.array([0, 0, 64, 64]))[0], before)
    image = decode_image(path.read_bytes(), "wide.tif")
    assert np.abs(image[:64, :64].astype(int) - before).max() <= 1


def test_infrared_called_alpha_hides_nothing_and_is_said(tmp_path):
    pixels = scene_pixels(bands=4)
    pixels[3, :, :100] = 0
    path = write_tiff(tmp_path / "rgbn.tif", pixels)  # rasterio calls the fourth of four bytes alpha
    np.testing.assert_array_equal(check_windows(path), np.moveaxis(pixels[:3], 0, 2))
    with Raster(path) as scene:
        assert scene.read(WHOLE)[1] == 1
        (line,) = scene.notes.lines()
        assert "no mask" in line


def test_bands_and_stretch_are_the_users(tmp_path):
    pixels = scene_pixels(bands=5).astype(np.uint16) * 10
    path = write_tiff(tmp_path / "five.tif", pixels, photometric="minisblack")
    with Raster(path, parse_rendering("5,1,3", "0,2550")) as scene:
        shown = scene.read(WHOLE)[0]
    np.testing.assert_array_equal(shown, np.moveaxis(pixels[[4, 0, 2]] // 10, 0, 2))
    with pytest.raises(ImageError, match="no band 6"):
        Raster(path, parse_rendering("6", None))


def test_vrt_that_is_more_than_a_mosaic_is_refused(tmp_path):
    for element in (
        '<VRTRasterBand dataType="Byte" band="1" subClass="VRTDerivedRasterBand">'
        "<PixelFunctionLanguage>Python</PixelFunctionLanguage></VRTRasterBand>",
        "<GDALWarpOptions><SourceDataset>/etc/passwd</SourceDataset></GDALWarpOptions>",
        '<Metadata domain="OVERVIEWS"><MDI key="OVERVIEW_FILE">/etc/passwd</MDI></Metadata>',
        "<OverviewList>2</OverviewList>",
    ):
        path = tmp_path / "derived.vrt"
        path.write_text(f'<VRTDataset rasterXSize="64" rasterYSize="64">{element}</VRTDataset>')
        with pytest.raises(ImageError, match="not part of a plain mosaic"):
            Raster(path, mosaic=True)


def test_white_at_zero_has_the_scale_of_its_samples(tmp_path):
    """GDAL makes up a colour table for such a file if nothing else in it names a colour."""
    tifffile = pytest.importorskip("tifffile")
    samples = (4095 - np.arange(60 * 70).reshape(60, 70) % 4096).astype(np.uint16)
    tifffile.imwrite(tmp_path / "inverted.tif", samples, photometric="miniswhite")
    image = decode_image((tmp_path / "inverted.tif").read_bytes(), "inverted.tif")
    with Raster(tmp_path / "inverted.tif") as raster:
        scene, _ = raster.read(np.array([0, 0, 70, 60]))
    assert np.abs(scene.astype(int) - image).max() <= 1
    assert 100 < image.mean() < 150


def test_error_that_ends_nothing_is_reported_once_with_the_name_of_the_scene(plain_scene, monkeypatch):
    samples = Raster._samples

    def noisy(*given):
        logging.getLogger("rasterio._env").error("an odd block")
        return samples(*given)

    with Raster(plain_scene) as scene:
        monkeypatch.setattr(Raster, "_samples", noisy)
        with pytest.warns(SwanWarning) as warned:
            assert [scene.read(WHOLE)[1], scene.read(WHOLE)[1]] == [1, 1]
    assert [str(one.message) for one in warned] == [
        f"{plain_scene}: read, but a library reported: an odd block"
    ]
