"""Files made to harm: nothing is decoded beyond what a file declares, and no other file is opened for it."""

import io
import struct
import tracemalloc
import zlib
from contextlib import suppress

import numpy as np
import pytest
from made_tiffs import made_tiff, picture_tags, plain_tiff
from PIL import Image

from swancli.errors import ImageError
from swancli.images import decode_image
from swancli.images.decode import orientation_in
from swancli.scene_image.raster import Raster

SMALL = np.full((64, 64, 3), 90, np.uint16)
MEGABYTES = 50  # at most, for a picture of 64 x 64


def refused(data, said):
    """Decodes bytes, which has to fail soon and without much memory."""
    tracemalloc.start()
    try:
        with pytest.raises(ImageError, match=said):
            decode_image(data, "bad.tif")
        assert tracemalloc.get_traced_memory()[1] < MEGABYTES * 1e6
    finally:
        tracemalloc.stop()


def encoded(kind, side=16, **options):
    written = io.BytesIO()
    Image.new("RGB", (side, side)).save(written, kind, **options)
    return bytearray(written.getvalue())


def jpeg2000_of(side):
    """A codestream that claims a side, whatever it holds."""
    data = encoded("JPEG2000", no_jp2=True)
    struct.pack_into(">2I", data, 8, side, side)
    struct.pack_into(">2I", data, 24, side, side)  # and one tile of that size
    return bytes(data)


def jpeg_of(side):
    data = encoded("JPEG")
    place = data.index(b"\xff\xc0") + 5
    struct.pack_into(">HH", data, place, side, side)
    return bytes(data)


def webp_of(side):
    data = encoded("WEBP", lossless=True)
    place = data.index(b"VP8L") + 9
    struct.pack_into("<I", data, place, (side - 1) | (side - 1) << 14)
    return bytes(data)


def lerc_of(side):
    return b"Lerc2 " + struct.pack("<iIiii", 4, 0, side, side, 1) + bytes(80)


@pytest.mark.parametrize(
    ("compression", "strip"),
    [
        (34712, jpeg2000_of(12_000)),
        (33003, jpeg2000_of(12_000)),
        (7, jpeg_of(12_000)),
        (50001, webp_of(12_000)),
        (34887, lerc_of(12_000)),
    ],
)
def test_strip_that_holds_more_than_the_tags_declare_is_not_decoded(compression, strip):
    pytest.importorskip("tifffile")
    tags = picture_tags(64, 64, 3, 16, compression=compression)
    refused(made_tiff(tags, [strip]), "12000 x 12000")
    many = picture_tags(64, 64, 5, 8, compression=compression, photometric=1)
    refused(made_tiff(many, [strip]), "12000 x 12000")


def test_second_codestream_of_a_jpeg_2000_file_does_not_hide_the_first():
    pytest.importorskip("tifffile")
    whole = bytes(encoded("JPEG2000"))
    start = whole.index(b"jp2c") - 4
    boxes = b"".join(
        struct.pack(">I4s", len(stream) + 8, b"jp2c") + stream
        for stream in (jpeg2000_of(12_000), jpeg2000_of(16))
    )
    refused(whole[:start] + boxes, "too large")


def test_compression_that_is_not_known_to_be_bounded_is_refused():
    pytest.importorskip("tifffile")
    refused(made_tiff(picture_tags(64, 64, 3, 16, compression=50002), [b"\xff\x0a"]), "compression 50002")


@pytest.mark.parametrize("without", [(), ("imagecodecs",)])
def test_strip_that_inflates_without_end_is_cut_off(without, monkeypatch):
    pytest.importorskip("tifffile")
    for name in without:
        monkeypatch.setitem(__import__("sys").modules, name, None)
    bomb = zlib.compress(bytes(80 * 2**20), 1)
    data = made_tiff(picture_tags(64, 64, 3, 16, compression=8), [bomb])
    tracemalloc.start()
    with suppress(ImageError):
        assert decode_image(data, "bad.tif").shape == (64, 64, 3)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < MEGABYTES * 1e6


def test_metadata_of_microscopes_does_not_choose_what_is_read():
    pytest.importorskip("tifffile")
    ome = (
        b'<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">'
        b'<Image ID="Image:0">'
        b'<Pixels DimensionOrder="XYCZT" ID="Pixels:0" SizeC="3" SizeT="400000000" SizeX="64" SizeY="64" '
        b'SizeZ="1" Type="uint16"><Channel ID="Channel:0:0" SamplesPerPixel="3"/><TiffData/></Pixels>'
        b"</Image></OME>"
    )
    for text in (ome, b"ImageJ=1.11a\nimages=400000000\nslices=400000000\n\0"):
        data = plain_tiff(SMALL, {270: text})
        tracemalloc.start()
        assert decode_image(data, "it").shape == (64, 64, 3)
        assert tracemalloc.get_traced_memory()[1] < MEGABYTES * 1e6
        tracemalloc.stop()


def test_directory_that_claims_too_much_is_refused():
    pytest.importorskip("tifffile")
    strip = SMALL.tobytes()
    tags = picture_tags(64, 64, 3, 16)
    tiled = {**tags, 322: ("I", [65_520]), 323: ("I", [65_520]), 324: ("I", [8]), 325: ("I", [99])}
    refused(made_tiff(tiled), "too large")
    refused(made_tiff(tags | {32997: ("I", [1000])}, [strip]), "1000 layers")
    refused(made_tiff(tags | {278: ("I", [1])}, [strip]), "64 are needed")
    refused(made_tiff(tags | {257: ("I", [2**31])}, [strip]), "too large")
    claimed = bytearray(made_tiff(tags | {42112: b"<GDALMetadata></GDALMetadata>\0"}, [strip]))
    place = claimed.index(struct.pack("<HH", 42112, 2)) + 4
    struct.pack_into("<I", claimed, place, 2**31)
    refused(bytes(claimed), "damaged")


def overlapping_tags(directories=64, size=2**20):
    """A TIFF of 64 x 64 whose every tag claims the whole file, in many directories."""
    tags = picture_tags(64, 64) | {273: ("I", [8]), 279: ("I", [64 * 64 * 3])}
    claims = [273, 279, 320, 324, 325, 338, 33550, 33922, 34264, 42112, 42113]
    body, links = bytearray(b"II*\0" + bytes(4 + 64 * 64 * 3)), [4]
    for number in range(directories):
        own = tags if number == 0 else {256: ("I", [64]), 257: ("I", [64])}
        entries = {
            tag: struct.pack("<HHI", tag, 3 if kind == "H" else 4, 1) + struct.pack("<I", values[0])
            for tag, (kind, values) in own.items()
        }
        for tag in claims if number else claims[2:]:
            entries[tag] = struct.pack("<HHII", tag, 1, size, 0)
        struct.pack_into("<I", body, links[-1], len(body))
        body += struct.pack("<H", len(entries)) + b"".join(entries[tag] for tag in sorted(entries))
        links.append(len(body))
        body += bytes(4)
    return bytes(body.ljust(size, b"\0"))


def test_tags_that_overlap_are_not_all_read(tmp_path):
    refused(overlapping_tags(), "tags are too large")
    path = tmp_path / "bad.tif"
    path.write_bytes(overlapping_tags())
    tracemalloc.start()
    with path.open("rb") as file:
        assert orientation_in(file) == 1
    assert tracemalloc.get_traced_memory()[1] < MEGABYTES * 1e6
    tracemalloc.stop()


@pytest.mark.parametrize("tags", [{700: bytes(3000)}, {tag: bytes(3000) for tag in range(60_000, 61_000)}])
def test_tags_of_others_count_too_since_libraries_copy_them(tags):
    data = bytearray(plain_tiff(np.full((64, 64, 3), 9, np.uint8), tags))
    assert (decode_image(bytes(data), "it") == 9).all()
    place = struct.unpack_from("<I", data, 4)[0]
    for entry in range(place + 2, place + 2 + 12 * struct.unpack_from("<H", data, place)[0], 12):
        if struct.unpack_from("<H", data, entry)[0] in tags:
            struct.pack_into("<II", data, entry + 4, len(data) // 2, 8)
    if len(tags) > 1:
        refused(bytes(data), "tags are too large")
    else:
        assert (decode_image(bytes(data), "it") == 9).all()


def test_only_the_tags_of_a_mask_are_read_of_further_pictures():
    """What a thumbnail or an overview says of itself is no reason to refuse the picture."""
    mask = picture_tags(64, 64, 1, 8, photometric=4) | {254: ("I", [4])}
    overview = picture_tags(32, 32) | {42112: bytes(20_000)}
    more = [(overview, [bytes(32 * 32 * 3)]), (mask, [bytes(64 * 32) + b"\1" * (64 * 32)])]
    data = bytearray(plain_tiff(np.full((64, 64, 3), 9, np.uint8), more=more))
    struct.pack_into("<I", data, data.index(struct.pack("<HHI", 42112, 2, 20_000)) + 4, 2**31)
    pixels = decode_image(bytes(data), "it")
    assert not pixels[:32].any()
    assert (pixels[32:] == 9).all()


@pytest.mark.parametrize("side", [4096, 20_000, 300_000])
def test_tile_of_a_mask_that_is_far_larger_than_the_picture_is_refused(side):
    mask = picture_tags(64, 64, 1, 8, compression=8, photometric=4) | {254: ("I", [4])}
    strip = zlib.compress(b"\1" * 1000)
    mask |= {322: ("I", [side]), 323: ("I", [side]), 324: ("I", [8]), 325: ("I", [len(strip)])}
    refused(plain_tiff(np.full((64, 64, 3), 9, np.uint8), more=[(mask, [])]), f"tiles of {side} x {side}")


def test_tile_of_a_mask_may_be_larger_than_a_small_picture():
    pixels = np.full((64, 64, 3), 9, np.uint8)
    plain = plain_tiff(pixels)
    seen = np.zeros((512, 512), np.uint8)
    seen[20:64, 10:64] = 255
    strip = zlib.compress(seen.tobytes())
    mask = picture_tags(64, 64, 1, 8, compression=8, photometric=4) | {254: ("I", [4])}
    mask |= {322: ("I", [512]), 323: ("I", [512]), 324: ("I", [8]), 325: ("I", [len(strip)])}
    data = plain_tiff(pixels, {700: strip}, more=[(mask, [])])
    data = bytearray(data)
    entry = data.rindex(struct.pack("<HHI", 324, 4, 1))
    struct.pack_into("<I", data, entry + 8, data.index(strip))
    shown = decode_image(bytes(data), "it")
    assert (shown == decode_image(plain, "it") * (seen[:64, :64, None] > 0)).all()


def test_bands_that_no_tiff_can_have_are_refused():
    tags = picture_tags(1, 1, 1) | {277: ("I", [80_000_000])}
    refused(made_tiff(tags, [b"1"]), "80000000 bands")


def test_entities_in_metadata_do_not_grow():
    laughs = (
        b"<!DOCTYPE a [<!ENTITY a 'ha'><!ENTITY b '&a;&a;'>]><GDALMetadata><Item>&b;</Item></GDALMetadata>"
    )
    pixels = decode_image(plain_tiff(np.full((4, 4, 3), 9, np.uint8), {42112: laughs + b"\0"}), "it")
    assert (pixels == 9).all()


# ---------------------------------------------------------------------------------------------------------
# scenes: GDAL opens that file and nothing else


SECRET = 201


@pytest.fixture
def scene(tmp_path):
    """A plain scene of 90, 300 pixels a side, in its own folder."""
    pytest.importorskip("rasterio")
    path = tmp_path / "scene.tif"
    path.write_bytes(plain_tiff(np.full((300, 300, 3), 90, np.uint8)))
    return path


def shown(path, **options):
    with Raster(path, **options) as raster:
        whole = raster.read(np.array([0, 0, raster.frame.width, raster.frame.height]))[0]
        return {*np.unique(whole).tolist(), *np.unique(raster.preview).tolist()}


def overview(target):
    return f'<GDALMetadata><Item name="OVERVIEW_FILE" domain="OVERVIEWS">{target}</Item></GDALMetadata>\0'


def secret_file(folder):
    path = folder / "secret.tif"
    path.write_bytes(plain_tiff(np.full((150, 150, 3), SECRET, np.uint8)))
    return path


def empty_mask(side, bands=1):
    """A mask of a scene as GDAL writes it into a file beside it: no data anywhere."""
    flags = "".join(f'<Item name="INTERNAL_MASK_FLAGS_{band + 1}">2</Item>' for band in range(bands))
    text = f"<GDALMetadata>{flags}</GDALMetadata>\0"
    return plain_tiff(np.zeros((side, side, 1), np.uint8), {42112: text.encode()})


def test_overviews_in_another_file_are_refused_before_they_are_opened(tmp_path, scene, monkeypatch):
    secret = secret_file(tmp_path)
    inline = (
        f"&lt;VRTDataset rasterXSize='150' rasterYSize='150'&gt;&lt;VRTRasterBand dataType='Byte' band='1' "
        f"subClass='VRTRawRasterBand'&gt;&lt;SourceFilename&gt;{secret}&lt;/SourceFilename&gt;"
        "&lt;/VRTRasterBand&gt;&lt;/VRTDataset&gt;"
    )
    for target in (str(secret), "/vsicurl/http://127.0.0.1:9/a.tif", inline, ":::BASE:::secret.tif"):
        scene.write_bytes(
            plain_tiff(np.full((3000, 3000, 3), 90, np.uint8), {42112: overview(target).encode()})
        )
        with pytest.raises(ImageError, match="refers to another file"):
            Raster(scene)
    mosaic = tmp_path / "mosaic.vrt"
    source = '<SimpleSource><SourceFilename relativeToVRT="1">scene.tif</SourceFilename></SimpleSource>'
    mosaic.write_text(
        '<VRTDataset rasterXSize="3000" rasterYSize="3000"><VRTRasterBand dataType="Byte" band="1">'
        f"{source}</VRTRasterBand></VRTDataset>"
    )
    with pytest.raises(ImageError, match="refers to another file"):
        Raster(mosaic, mosaic=True)


def test_files_beside_a_scene_are_not_read(tmp_path, scene):
    secret = secret_file(tmp_path)
    (tmp_path / "scene.tif.ovr").write_bytes(secret.read_bytes())
    (tmp_path / "scene.tif.msk").write_bytes(empty_mask(300, 3))
    (tmp_path / "scene.tfw").write_text("2\n0\n0\n-2\n500000\n5000000\n")
    (tmp_path / "scene.tif.aux.xml").write_text(
        "<PAMDataset><SRS>EPSG:32633</SRS><GeoTransform>1,2,0,3,0,-2</GeoTransform>"
        f'<Metadata domain="OVERVIEWS"><MDI key="OVERVIEW_FILE">{secret}</MDI></Metadata>'
        '<PAMRasterBand band="1"><NoDataValue>90</NoDataValue></PAMRasterBand></PAMDataset>'
    )
    assert shown(scene) == {90}
    with Raster(scene) as raster:
        assert raster.frame.crs == ""


@pytest.mark.parametrize("format", ["BMP", "NITF"])
def test_files_beside_a_format_whose_driver_looks_for_them_are_not_read(format, tmp_path):
    rasterio = pytest.importorskip("rasterio")
    path = tmp_path / f"scene.{format.lower()}"
    size = {"height": 30, "width": 30, "count": 1, "dtype": "uint8"}
    with rasterio.open(path, "w", driver=format, **size) as file:
        file.write(np.full((1, 30, 30), 90, np.uint8))
    path.with_name(f"{path.name}.msk").write_bytes(empty_mask(30))
    path.with_name(f"{path.name}.aux.xml").write_text(
        '<PAMDataset><PAMRasterBand band="1"><NoDataValue>90</NoDataValue></PAMRasterBand></PAMDataset>'
    )
    assert shown(path) == {90}


def test_block_that_is_too_large_for_windows_is_refused(tmp_path):
    pytest.importorskip("rasterio")
    path = tmp_path / "bomb.tif"
    tags = picture_tags(60_000, 60_000, 1, 8, compression=8)
    tiles = {322: ("I", [60_000]), 323: ("I", [60_000]), 324: ("I", [8]), 325: ("I", [99])}
    path.write_bytes(made_tiff(tags | tiles, more=[(tags, [zlib.compress(bytes(100_000))])]))
    with pytest.raises(ImageError, match="too large to read in windows"):
        Raster(path)
