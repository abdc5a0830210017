"""One decoder for every kind of image file."""

import io
import os

import numpy as np
import pytest
from PIL import Image

from swancli.errors import ImageError, SwanError
from swancli.images import (
    decode_image,
    image_size,
    pixel_digest,
    pixels_of,
    read_bytes,
    read_inside,
    resize_image,
)


def encode(picture, format="png", **options):
    buffer = io.BytesIO()
    picture.save(buffer, format, **options)
    return buffer.getvalue()


def encode_tiff(samples, **options):
    tifffile = pytest.importorskip("tifffile")
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, samples, **options)
    return buffer.getvalue()


def first_pixels(data, count=3):
    pixels = decode_image(data, "it")
    assert pixels.dtype == np.uint8
    assert pixels.shape[2] == 3
    return pixels[0, :count].tolist()


def grey(*values):
    return [[value] * 3 for value in values]


def test_grey_becomes_rgb():
    assert first_pixels(encode(Image.fromarray(np.array([[0, 7, 255]], np.uint8)))) == grey(0, 7, 255)


def test_one_bit_image_becomes_black_and_white():
    assert first_pixels(encode(Image.fromarray(np.array([[True, False, True]])))) == grey(255, 0, 255)


def test_palette_becomes_its_colours():
    picture = Image.new("P", (3, 1))
    picture.putpalette([10, 20, 30, 40, 50, 60])
    picture.putpixel((1, 0), 1)
    assert first_pixels(encode(picture)) == [[10, 20, 30], [40, 50, 60], [10, 20, 30]]


def test_transparent_palette_entry_becomes_black():
    picture = Image.new("P", (2, 1))
    picture.putpalette([10, 20, 30, 40, 50, 60])
    picture.putpixel((1, 0), 1)
    assert first_pixels(encode(picture, transparency=0)) == [[0, 0, 0], [40, 50, 60]]


def test_transparent_pixels_become_black_and_half_transparent_ones_darker():
    rgba = np.array([[[200, 100, 50, 255], [200, 100, 50, 0], [200, 100, 50, 51]]], np.uint8)
    assert first_pixels(encode(Image.fromarray(rgba))) == [[200, 100, 50], [0, 0, 0], [40, 20, 10]]


def test_grey_with_alpha_is_composed_on_black():
    picture = Image.merge("LA", [Image.new("L", (2, 1), 90), Image.new("L", (2, 1), 0)])
    assert first_pixels(encode(picture)) == grey(0, 0)


def test_cmyk_jpeg_becomes_rgb():
    pixels = decode_image(encode(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "jpeg"), "it")
    assert np.abs(pixels[8, 8].astype(int) - [255, 0, 0]).max() <= 3


@pytest.mark.parametrize("format", ["png", "tiff"])
def test_sixteen_bit_grey_is_scaled_to_eight(format):
    samples = np.array([[0, 32896, 65535]], np.uint16)  # 32896 = 128 * 257
    assert first_pixels(encode(Image.fromarray(samples), format)) == grey(0, 128, 255)


def test_twelve_bit_samples_in_sixteen_fill_the_range():
    assert first_pixels(encode(Image.fromarray(np.array([[0, 819, 4095]], np.uint16)))) == grey(0, 51, 255)


def test_eight_bit_samples_in_sixteen_stay_as_they_are():
    assert first_pixels(encode(Image.fromarray(np.array([[0, 51, 200]], np.uint16)))) == grey(0, 51, 200)


def test_sixteen_bit_rgb_tiff_is_read():
    samples = np.full((4, 5, 3), (0, 32896, 65535), np.uint16)
    assert first_pixels(encode_tiff(samples, photometric="rgb"), 1) == [[0, 128, 255]]


def test_first_three_of_many_bands_count():
    samples = np.zeros((20, 20, 8), np.uint16)
    samples[..., :4] = (4095, 0, 819, 4000)
    assert first_pixels(encode_tiff(samples, photometric="minisblack", planarconfig="contig"), 1) == [
        [255, 0, 51]
    ]
    planes = np.moveaxis(samples, 2, 0).copy()
    assert first_pixels(encode_tiff(planes, photometric="minisblack", planarconfig="separate"), 1) == [
        [255, 0, 51]
    ]


def test_reflectance_is_scaled_by_one_and_missing_values_are_black():
    samples = np.array([[0.0, 0.2, 1.0], [np.nan, np.inf, -9999.0]], np.float32)
    pixels = decode_image(encode(Image.fromarray(samples), "tiff"), "it")
    assert pixels[..., 0].tolist() == [[0, 51, 255], [0, 0, 0]]


def test_all_black_wide_image_stays_black():
    assert first_pixels(encode(Image.fromarray(np.zeros((1, 2), np.uint16)))) == grey(0, 0)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I", "I;16", "F"])
@pytest.mark.parametrize("height", [255, 256, 600])
def test_large_picture_has_the_same_pixels_as_a_small_one(mode, height, monkeypatch):
    """It is taken over from Pillow in blocks of rows."""
    image = Image.new(mode, (5, height))
    count, choose = len(image.tobytes()), np.random.default_rng(0)
    values = (
        choose.random(count // 4, np.float32) if mode == "F" else choose.integers(0, 256, count, np.uint8)
    )
    image.frombytes(values.tobytes())
    if mode == "P":
        image.putpalette(np.arange(768).astype(np.uint8).tobytes())
    small = pixels_of(image, "it")
    monkeypatch.setattr("swancli.images.decode.LARGE", 0)
    assert (pixels_of(image, "it") == small).all()


def test_truncated_jpeg_is_reported_as_damaged():
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = encode(Image.fromarray(noise), "jpeg")
    with pytest.raises(ImageError, match=r"road\.jpg: damaged image"):
        decode_image(data[: len(data) // 2], "road.jpg")


@pytest.mark.parametrize(("data", "said"), [(b"", "0 bytes"), (b"<html>not found</html>", "22 bytes")])
def test_what_is_no_image_is_reported_with_its_length(data, said):
    with pytest.raises(ImageError, match=rf"road\.jpg: not an image \({said}\)"):
        decode_image(data, "road.jpg")


def test_damaged_tiff_is_reported_as_damaged():
    pytest.importorskip("tifffile")
    with pytest.raises(ImageError, match=r"a\.tif: damaged TIFF"):
        decode_image(b"II*\0" + b"\xff" * 40, "a.tif")


def test_image_beyond_the_limit_of_pixels_is_reported_as_too_large(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(ImageError, match=r"a\.png: image too large"):
        decode_image(encode(Image.new("L", (10, 10))), "a.png")


@pytest.mark.parametrize("kind", ["png", "wide tiff", "jpeg2000", "opened"])
def test_picture_for_which_no_memory_is_left_is_not_damaged(kind, monkeypatch):
    """Else `--missing skip` would leave it out, and all others of its size."""

    def fail(*given, **options):
        raise MemoryError

    item = Image.new("RGB", (8, 8))
    if kind == "wide tiff":
        data = encode_tiff(np.zeros((8, 8, 3), np.uint16), photometric="rgb")
        monkeypatch.setattr("tifffile.TiffFile", fail)
    elif kind == "jpeg2000":
        codecs = pytest.importorskip("imagecodecs")
        data = codecs.jpeg2k_encode(np.zeros((8, 8), np.uint16))
        monkeypatch.setattr(codecs, "jpeg2k_decode", fail)
    else:
        data = encode(item)
        monkeypatch.setattr("PIL.Image.Image.tobytes", fail)
    with pytest.raises(SwanError, match="it: there is not enough memory left for a picture") as found:
        pixels_of(item, "it") if kind == "opened" else decode_image(data, "it")
    assert not isinstance(found.value, ImageError)


def test_absent_file_is_reported(tmp_path):
    with pytest.raises(ImageError, match="No such file"):
        read_bytes(tmp_path / "a.png")
    with pytest.raises(ImageError, match="No such file"):
        image_size(tmp_path / "a.png")


def test_size_is_height_and_width(tmp_path):
    (tmp_path / "a.png").write_bytes(encode(Image.new("L", (7, 3))))
    assert image_size(tmp_path / "a.png") == (3, 7)
    (tmp_path / "b.tif").write_bytes(encode_tiff(np.zeros((30, 50, 3), np.uint16), photometric="rgb"))
    assert image_size(tmp_path / "b.tif") == (30, 50)


def test_resize_gives_height_and_width_and_leaves_a_fitting_image_alone():
    pixels = np.full((4, 8, 3), 9, np.uint8)
    assert resize_image(pixels, 4, 8) is pixels
    smaller = resize_image(pixels, 2, 3)
    assert smaller.shape == (2, 3, 3)
    assert (smaller == 9).all()


def test_digest_is_of_pixels_and_shape():
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    assert pixel_digest(pixels) == pixel_digest(pixels.copy())
    assert pixel_digest(pixels) != pixel_digest(pixels.reshape(4, 2, 3))
    assert pixel_digest(pixels) != pixel_digest(pixels + 1)


def test_real_tiffs_decode(real_data):
    samples = (real_data / "tif_samples").glob("*.tif")
    shapes = {path.name: decode_image(read_bytes(path), path.name).shape for path in samples}
    assert len(shapes) == 6
    assert {shape for name, shape in shapes.items() if name.startswith("ucm")} == {(256, 256, 3)}
    assert {shape for name, shape in shapes.items() if name.startswith("sydney")} == {(500, 500, 3)}


@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("bands", [3, 4])
def test_wide_tiff_bands_keep_their_values(planar, bands):
    """12-bit values in 16-bit bands, interleaved or plane by plane: 4095 becomes 255."""
    tifffile = pytest.importorskip("tifffile")
    values = np.arange(12 * 20 * bands, dtype=np.uint16).reshape(12, 20, bands)
    values += 4095 - values.max()
    stored = np.moveaxis(values, 2, 0) if planar == "separate" else values
    file = io.BytesIO()
    tifffile.imwrite(file, stored, photometric="rgb", planarconfig=planar)
    expected = np.rint(values[..., :3] * (255 / 4095)).astype(np.uint8)
    np.testing.assert_array_equal(decode_image(file.getvalue(), "a.tif"), expected)


@pytest.mark.parametrize("name", ["a.jpg", "a.eps"])
def test_file_that_another_program_would_open_is_no_image(name):
    """Pillow hands PostScript to Ghostscript, whatever the file is called."""
    data = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n"
    with pytest.raises(ImageError, match="not an image"):
        decode_image(data, name)


def test_link_inside_a_folder_is_read_and_one_that_leads_out_is_not(tmp_path):
    folder = tmp_path / "folder"
    (folder / "below").mkdir(parents=True)
    (tmp_path / "secret.png").write_bytes(b"secret")
    (folder / "below" / "a.png").write_bytes(b"own")
    (folder / "inside.png").symlink_to("below/a.png")
    (folder / "outside.png").symlink_to(tmp_path / "secret.png")
    (folder / "away").symlink_to(tmp_path)
    (tmp_path / "called").symlink_to(folder)
    assert read_inside(folder / "inside.png", folder) == b"own"
    assert read_inside(tmp_path / "called" / "inside.png", tmp_path / "called") == b"own"
    for name in ("outside.png", "away/secret.png", "../secret.png", "below/../../secret.png"):
        with pytest.raises(ImageError, match="leads out"):
            read_inside(folder / name, folder)
    with pytest.raises(ImageError, match="leads out"):
        read_inside(folder / "/etc/passwd", folder)


def test_folder_beside_one_whose_name_begins_the_same_is_outside_of_it(tmp_path):
    folder, beside = tmp_path / "images", tmp_path / "images-private"
    folder.mkdir()
    beside.mkdir()
    (beside / "secret.png").write_bytes(b"secret")
    (folder / "link.png").symlink_to(beside / "secret.png")
    for name in ("link.png", "../images-private/secret.png"):
        with pytest.raises(ImageError, match="leads out"):
            read_inside(folder / name, folder)


def test_what_is_no_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    for name, said in (("pipe.png", "not a file"), ("absent.png", "No such file"), ("a\0.png", "null")):
        with pytest.raises(ImageError, match=said):
            read_inside(tmp_path / name, tmp_path)


def test_small_file_that_claims_many_samples_is_refused_before_it_is_read():
    stack = encode_tiff(np.zeros((40, 64, 64, 3), np.uint16), compression="zlib", photometric="rgb")
    plain = encode(Image.new("RGB", (64, 64)))
    for data in (stack, plain):
        with pytest.raises(ImageError, match="image too large"):
            decode_image(data, "it", most_samples=10_000)


def test_sparse_file_of_a_terabyte_is_refused(tmp_path):
    with (tmp_path / "a.png").open("wb") as file:
        file.truncate(10**12)
    with pytest.raises(ImageError, match=r"image too large \(1000\.0 GB\)"):
        read_bytes(tmp_path / "a.png")
