"""The rule from samples to RGB: bands, no data, alpha and scale, on files whose right picture is known."""

import builtins
import io
import logging
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_tiffs import picture_tags, plain_tiff
from PIL import Image, ImageOps

from swancli.console import LibraryMessages
from swancli.errors import ImageError, SwanError
from swancli.images import (
    AS_SAID,
    Notes,
    Rendering,
    decode_image,
    image_size,
    parse_rendering,
)
from swancli.images.notes import MANY_BANDS, NEARLY_BLACK, NO_MASK, ONE_COLOUR, listening, seen_little
from swancli.images.pixels import upright
from swancli.images.rule import every_nth, is_mask
from swancli.images.scale import black_and_white
from swancli.prepare.one_scale import with_one_scale

RNG = np.random.default_rng(0)
PHOTO = np.sort(RNG.integers(0, 256, (40, 50, 3)), axis=1).astype(np.uint8)  # dark to bright, left to right


def metadata(*items):
    lines = "".join(f'<Item name="{n}" sample="{s}" role="{n.lower()}">{v}</Item>' for n, s, v in items)
    return {42112: f"<GDALMetadata>{lines}</GDALMetadata>\0".encode()}


def nodata(text):
    return {42113: f"{text}\0".encode()}


def decoded(data, rendering=AS_SAID):
    """Pixels, and what was noticed about them."""
    notes = Notes()
    return decode_image(data, "it.tif", rendering, notes), notes.lines()


def near(pixels, right, levels=1):
    assert pixels.shape == right.shape
    assert np.abs(pixels.astype(int) - right).max() <= levels


# ---------------------------------------------------------------------------------------------------------
# bands


BGRN = np.concatenate([PHOTO[..., ::-1], PHOTO[..., :1] // 3], axis=2)  # blue, green, red, near infrared
NAMES = {
    "words": ("blue", "green", "red", "nir"),
    "capitals": ("Blue", "GREEN", "Red", "Near Infrared"),
    "Sentinel-2": ("B02", "B03", "B04", "B08"),
    "long": ("B2, central wavelength 490 nm", "B3 - green", "B4 (red)", "B5 (red edge)"),
}


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("names", NAMES)
def test_blue_green_red_and_infrared_come_out_right_with_descriptions(names, wide):
    pytest.importorskip("tifffile")
    samples = BGRN.astype(np.uint16) * 257 if wide else BGRN
    items = [("DESCRIPTION", place, name) for place, name in enumerate(NAMES[names])]
    for tags in ({338: ("H", [0, 0, 0])}, {262: ("H", [2]), 338: ("H", [2])}):  # grey, or a writer's default
        pixels, lines = decoded(plain_tiff(samples, tags | metadata(*items)))
        near(pixels, PHOTO)
        assert lines == ()


def test_blue_green_red_and_infrared_come_out_right_with_tags_and_with_an_option_and_warn_without():
    pytest.importorskip("tifffile")
    items = [("COLORINTERP", place, name) for place, name in enumerate(("Blue", "Green", "Red", "Undefined"))]
    pixels, lines = decoded(plain_tiff(BGRN, {338: ("H", [0, 0, 0])} | metadata(*items)))
    near(pixels, PHOTO, 0)
    assert lines == ()
    unnamed = plain_tiff(BGRN, {338: ("H", [0, 0, 0])})
    pixels, lines = decoded(unnamed, parse_rendering("3,2,1", None))
    near(pixels, PHOTO, 0)
    assert lines == ()
    pixels, lines = decoded(unnamed)
    near(pixels, PHOTO[..., ::-1], 0)
    assert lines == (f"it.tif: {MANY_BANDS}",)


def test_one_line_counts_all_files_of_a_kind():
    pytest.importorskip("tifffile")
    notes = Notes()
    for name in ("a.tif", "b.tif", "c.tif"):
        decode_image(plain_tiff(np.repeat(PHOTO[..., :1], 13, axis=2)), name, notes=notes)
    assert notes.lines() == (f"3 images, such as a.tif: {MANY_BANDS}",)


def test_one_and_two_bands_are_grey():
    pytest.importorskip("tifffile")
    grey = np.repeat(PHOTO[..., :1], 3, axis=2)
    near(decoded(plain_tiff(PHOTO[..., :1]))[0], grey, 0)
    near(decoded(plain_tiff(PHOTO[..., :2].copy(), {338: ("H", [0])}))[0], grey, 0)


def test_bands_that_a_file_lacks_are_refused_unless_it_is_a_picture_to_search_by():
    wanted = parse_rendering("8,4,3", None)
    with pytest.raises(ImageError, match=r"it\.tif: has 3 bands, so there is no band 8"):
        decoded(plain_tiff(PHOTO), wanted)
    near(decoded(plain_tiff(PHOTO), Rendering(wanted.bands, lenient=True))[0], PHOTO, 0)


def test_single_band_may_be_chosen():
    near(decoded(plain_tiff(PHOTO), parse_rendering("2", None))[0], np.repeat(PHOTO[..., 1:2], 3, axis=2), 0)


@pytest.mark.parametrize("bands", ["", "3,2", "0,1,2", "a,b,c", "1,2,3,4", "3.0"])
def test_option_of_bands_that_says_nothing_is_refused(bands):
    if bands:
        with pytest.raises(SwanError, match="--bands"):
            parse_rendering(bands, None)
    else:
        assert parse_rendering(bands, None) == AS_SAID


@pytest.mark.parametrize("stretch", ["5", "3,3", "9,1", "nan,1", "0,inf", "a,b", "1,2,3"])
def test_stretch_that_says_nothing_is_refused(stretch):
    with pytest.raises(SwanError, match="--stretch"):
        parse_rendering(None, stretch)


# ---------------------------------------------------------------------------------------------------------
# no data


VALUES = {
    "uint16": (PHOTO.astype(np.uint16) * 16, 65535),
    "int16": (PHOTO.astype(np.int16) * 16, 32767),
    "negative": (PHOTO.astype(np.int16) * 16, -9999),
    "float32": ((PHOTO / 255 * 0.9).astype(np.float32), 9999),
    "largest": ((PHOTO / 255 * 0.9).astype(np.float32), 3.4028234663852886e38),
    "rounded": ((PHOTO / 255 * 0.9).astype(np.float32), -3.40282346638529e38),
    "float64": (PHOTO / 255 * 0.9, -1.7976931348623157e308),
}


@pytest.mark.parametrize("kind", VALUES)
def test_value_of_no_data_is_black_and_decides_nothing(kind):
    pytest.importorskip("tifffile")
    samples, value = VALUES[kind]
    whole = decoded(plain_tiff(samples, nodata(value)))[0]
    assert whole.max() > 200
    holed = samples.copy()
    holed[:15, :20] = value
    pixels = decoded(plain_tiff(holed, nodata(value)))[0]
    assert not pixels[:15, :20].any()
    near(pixels[15:], whole[15:], 0)


def test_value_that_the_type_cannot_hold_marks_nothing():
    for text in ("-9999", "65536", "1.5", "nan", "none", ""):
        near(decoded(plain_tiff(PHOTO, nodata(text)))[0], PHOTO, 0)


def test_pixel_with_one_band_of_the_value_is_data():
    samples = PHOTO.copy()
    samples[0, 0] = (0, 7, 9)
    assert decoded(plain_tiff(samples, nodata(0)))[0][0, 0].tolist() == [0, 7, 9]


def test_what_was_not_measured_decides_nothing_even_without_a_tag():
    pytest.importorskip("tifffile")
    samples = (PHOTO / 255).astype(np.float32)
    whole = decoded(plain_tiff(samples))[0]
    for value in (np.nan, np.inf, -np.inf, -9999, 3.4e38, -3.4028235e38):
        holed = samples.copy()
        holed[:15] = value
        pixels = decoded(plain_tiff(holed))[0]
        assert not pixels[:15].any()
        near(pixels[15:], whole[15:])


@pytest.mark.parametrize("bits", [1, 8])
def test_mask_in_the_file_is_black_and_decides_nothing(bits):
    samples = PHOTO.astype(np.uint16) * 16
    samples[:8, :, 0] = 60_000
    seen = np.ones((40, 50), np.uint8)
    seen[:8] = 0
    stored = np.packbits(seen, axis=1) if bits == 1 else seen * 255
    tags = picture_tags(40, 50, 1, bits, photometric=4) | {254: ("I", [4])}
    pytest.importorskip("tifffile")
    pixels = decoded(plain_tiff(samples, more=[(tags, [stored.tobytes()])]))[0]
    assert not pixels[:8].any()
    near(pixels[8:], PHOTO[8:])


def test_colour_that_a_png_calls_transparent_is_black():
    written = io.BytesIO()
    picture = PHOTO.copy()
    picture[:5] = (1, 2, 3)
    Image.fromarray(picture).save(written, "PNG", transparency=(1, 2, 3))
    pixels = decoded(written.getvalue())[0]
    assert not pixels[:5].any()
    near(pixels[5:], PHOTO[5:], 0)


# ---------------------------------------------------------------------------------------------------------
# alpha


def with_alpha(alpha, samples=PHOTO):
    return np.concatenate([samples, alpha[..., None].astype(samples.dtype)], axis=2)


MASK = np.full((40, 50), 255, np.uint8)
MASK[:, :10] = 0
SOFT = MASK.copy()
SOFT[:, 10:14] = (51, 102, 153, 204)
INFRARED = RNG.normal(60, 25, (40, 50)).clip(0, 255).astype(np.uint8)
WATER = np.where(np.arange(50) < 40, 0, INFRARED)


def test_alpha_is_a_mask_with_soft_edges_or_it_is_a_band():
    assert is_mask(MASK)
    assert is_mask(SOFT)
    assert is_mask(np.where(MASK > 0, 1, 0))  # 1 where it is opaque
    assert is_mask(np.full((4, 4), 128))  # the same everywhere
    assert not is_mask(INFRARED)
    assert not is_mask(WATER)
    assert not is_mask(np.linspace(0, 255, 100).astype(np.uint8))


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_infrared_called_alpha_is_ignored_and_said(kind):
    for alpha in (INFRARED, WATER):
        data = plain_tiff(with_alpha(alpha), {262: ("H", [2]), 338: ("H", [2])})
        if kind == "PNG":
            written = io.BytesIO()
            Image.fromarray(with_alpha(alpha), "RGBA").save(written, "PNG")
            data = written.getvalue()
        pixels, lines = decoded(data)
        near(pixels, PHOTO, 0)
        assert lines == (f"it.tif: {NO_MASK}",)


def test_mask_called_alpha_is_black_and_its_soft_edge_darker():
    pixels, lines = decoded(plain_tiff(with_alpha(SOFT), {262: ("H", [2]), 338: ("H", [2])}))
    near(pixels, np.rint(PHOTO * (SOFT[..., None] / 255)).astype(np.uint8))
    assert lines == ()


def test_premultiplied_colours_are_not_multiplied_again():
    pytest.importorskip("tifffile")
    shown = np.rint(PHOTO * (SOFT[..., None] / 255)).astype(np.uint8)
    pixels, _ = decoded(plain_tiff(with_alpha(SOFT, shown), {262: ("H", [2]), 338: ("H", [1])}))
    near(pixels, shown)


def test_alpha_described_as_something_else_is_a_band():
    data = plain_tiff(
        with_alpha(MASK), {262: ("H", [2]), 338: ("H", [2])} | metadata(("DESCRIPTION", 3, "nir"))
    )
    near(decoded(data)[0], PHOTO, 0)


# ---------------------------------------------------------------------------------------------------------
# scale


LEVELS = PHOTO / 255
SCALES = {  # samples, and the values that become black and white
    "uint16 of 8 bits": (PHOTO.astype(np.uint16), 0, 255),
    "uint16 of 10 bits": (LEVELS * 1023, 0, 1023),
    "uint16 of 12 bits": (LEVELS * 4095, 0, 4095),
    "uint16 of 16 bits": (LEVELS * 65535, 0, 65535),
    "uint16 reflectance x 10,000": (LEVELS * 9500, 0, 10_000),
    "int16 of 12 bits": ((LEVELS * 4095).astype(np.int16), 0, 4095),
    "uint32 of 16 bits": ((LEVELS * 65535).astype(np.uint32), 0, 65535),
    "fractions": (LEVELS.astype(np.float32) * 0.9, 0, 1),
    "fractions in half precision": (LEVELS.astype(np.float16), 0, 1),
}


@pytest.mark.parametrize("kind", SCALES)
def test_full_range_of_a_kind_of_samples_is_kept(kind):
    pytest.importorskip("tifffile")
    samples, black, white = SCALES[kind]
    samples = samples.astype(np.uint16) if samples.dtype == np.float64 else samples
    right = np.rint((samples.astype(np.float64) - black) * (255 / (white - black)))
    near(decoded(plain_tiff(samples))[0], right.clip(0, 255).astype(np.uint8))


def test_decibels_and_amplitudes_fill_the_range():
    pytest.importorskip("tifffile")
    amplitude = RNG.rayleigh(90, (60, 60, 1)).astype(np.float32)
    decibels = 20 * np.log10(amplitude / 1000)
    phase = np.exp(1j * RNG.uniform(0, 6, (60, 60, 1)))
    for samples in (amplitude, decibels, (amplitude * phase).astype(np.complex64)):
        pixels = decoded(plain_tiff(samples.astype(samples.dtype)))[0]
        low, high = np.percentile(pixels, (2, 98))
        assert low < 60
        assert high > 210
        assert 60 < pixels.mean() < 190
    complex_pixels = decoded(plain_tiff((amplitude * phase).astype(np.complex64)))[0]
    near(complex_pixels, decoded(plain_tiff(amplitude))[0])


def test_few_odd_samples_change_nothing():
    pytest.importorskip("tifffile")
    for name, odd in (("uint16 of 12 bits", 65535), ("fractions", 1.07), ("fractions", 5000)):
        samples = SCALES[name][0]
        samples = samples.astype(np.uint16) if samples.dtype == np.float64 else samples.copy()
        whole = decoded(plain_tiff(samples))[0]
        samples[20, 20] = odd
        pixels = decoded(plain_tiff(samples))[0]
        pixels[20, 20] = whole[20, 20]
        near(pixels, whole, 2)


def test_dark_data_is_seen():
    """Full scale is kept only as far as the picture is not nearly black."""
    pytest.importorskip("tifffile")
    for factor in (0.5, 0.1, 0.02, 0.001):
        for samples in (LEVELS.astype(np.float32) * np.float32(factor), (LEVELS * factor * 65535)):
            samples = samples.astype(np.uint16) if samples.dtype == np.float64 else samples
            assert 100 < decoded(plain_tiff(samples))[0].max() <= 255
    skewed = (RNG.exponential(0.02, (64, 64, 3))).astype(np.float32)
    skewed[:1] = 0.9
    pixels = decoded(plain_tiff(skewed))[0]
    assert np.median(pixels) >= 20


@pytest.mark.parametrize("value", [0, 1, 300, 65535, -12.5, 0.5, 1.0, 3e6])
def test_picture_of_one_value_has_one_colour(value):
    pytest.importorskip("tifffile")
    dtype = np.uint16 if isinstance(value, int) else np.float32
    pixels, lines = decoded(plain_tiff(np.full((9, 9, 1), value, dtype)))
    assert len(np.unique(pixels)) == 1
    assert lines == (f"it.tif: {ONE_COLOUR}",)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    st.sampled_from([2.0**32 - 1, math.inf]),
    st.lists(st.floats(-1, 1), min_size=3, max_size=40),
    st.floats(0.001, 70_000),
    st.floats(-0.5, 1),
)
def test_data_that_changes_a_little_changes_the_picture_a_little(largest, values, size, shift):
    """No jump anywhere, as there was just above 1 and above every power of two."""
    values = (np.array(values) + shift) * size
    low, high = black_and_white(values, largest)
    if np.ptp(values) < 0.2 * size:  # hardly any contrast, which any change changes
        return
    changed_low, changed_high = black_and_white(values * 1.001, largest)
    old, new = (
        (values - black) / (white - black) for black, white in ((low, high), (changed_low, changed_high))
    )
    assert np.abs(old.clip(0, 1) - new.clip(0, 1)).max() < 0.02


def test_eight_bits_are_never_stretched():
    dark = PHOTO // 10
    near(decoded(plain_tiff(dark))[0], dark, 0)
    near(decoded(plain_tiff(dark), parse_rendering(None, "0,5"))[0], dark, 0)
    near(decoded(plain_tiff(dark[..., :1]))[0], np.repeat(dark[..., :1], 3, axis=2), 0)


def test_stretch_takes_the_place_of_a_scale_for_each_picture():
    pytest.importorskip("tifffile")
    samples = PHOTO.astype(np.uint16) * 10
    pixels = decoded(plain_tiff(samples), parse_rendering(None, "100,1100"))[0]
    near(pixels, np.rint((samples.astype(float) - 100) * 0.255).clip(0, 255).astype(np.uint8))


def test_tiles_of_one_scene_are_comparable_with_one_scale():
    pytest.importorskip("tifffile")
    scene = (np.linspace(100, 1900, 40 * 80).reshape(40, 80, 1) * np.ones(3)).astype(np.uint16)
    tiles = [plain_tiff(np.ascontiguousarray(scene[part])) for part in (slice(0, 20), slice(20, 40))]
    own = np.concatenate([decoded(tile)[0] for tile in tiles])
    rendering = with_one_scale(2, lambda row: (tiles[row], "tile"), AS_SAID)
    common = np.concatenate([decoded(tile, rendering)[0] for tile in tiles])
    near(common, decoded(plain_tiff(scene))[0])
    assert np.abs(common.astype(int) - own).max() > 50
    eight = plain_tiff(PHOTO)
    assert with_one_scale(2, lambda row: ((eight, b"")[row], "it"), AS_SAID) == AS_SAID
    assert with_one_scale(0, None, AS_SAID) == AS_SAID


@pytest.mark.parametrize("samples", ["transparent", "masked", "no data"])
def test_one_scale_is_decided_on_the_same_samples_as_that_of_one_picture(samples):
    """Else one tile with a border would make all others dark."""
    pytest.importorskip("tifffile")
    seen = np.ones((40, 50), np.uint8)
    seen[:20] = 0
    picture = PHOTO.astype(np.uint16) * 4
    picture[:20] = 65_535
    if samples == "transparent":
        data = plain_tiff(with_alpha(seen.astype(np.uint16) * 65_535, picture), {338: ("H", [2])})
    elif samples == "masked":
        tags = picture_tags(40, 50, 1, 8, photometric=4) | {254: ("I", [4])}
        data = plain_tiff(picture, more=[(tags, [seen.tobytes()])])
    else:
        data = plain_tiff(picture, nodata(65_535))
    rendering = with_one_scale(1, lambda row: (data, "it"), AS_SAID)
    assert rendering.stretch == (0, 1023)
    near(decoded(data, rendering)[0], decoded(data)[0], 0)
    # A band marked as alpha that is no mask hides nothing.
    false = plain_tiff(
        np.concatenate([PHOTO, PHOTO[..., :1]], axis=2).astype(np.uint16) * 4, {338: ("H", [2])}
    )
    near(decoded(false, with_one_scale(1, lambda row: (false, "it"), AS_SAID))[0], decoded(false)[0], 0)


def test_rendering_is_written_as_the_options_take_it():
    for bands, stretch in (("3,2,1", "0,3000"), ("4", "-25.5,1e-05"), ("", "")):
        rendering = parse_rendering(bands, stretch)
        assert parse_rendering(rendering.bands_text, rendering.stretch_text) == rendering


# ---------------------------------------------------------------------------------------------------------
# other kinds of samples, orientation, and what is noticed


def test_white_at_zero_is_inverted():
    pytest.importorskip("tifffile")
    grey = PHOTO[..., :1]
    right = np.repeat(255 - grey, 3, axis=2)
    near(decoded(plain_tiff(grey, {262: ("H", [0])}))[0], right, 0)
    near(decoded(plain_tiff(grey.astype(np.uint16) * 257, {262: ("H", [0])}))[0], right)


def test_palette_of_a_tiff_gives_its_colours():
    table = np.zeros((3, 256), int)
    table[:, 1], table[:, 2] = (10 * 257, 20 * 257, 30 * 257), (255 * 257, 0, 0)
    samples = np.array([[0, 1, 2]], np.uint8)[..., None]
    data = plain_tiff(samples, {262: ("H", [3]), 320: ("H", table.ravel().tolist())} | nodata(2))
    assert decoded(data)[0][0].tolist() == [[0, 0, 0], [10, 20, 30], [0, 0, 0]]


def test_sixteen_bit_png_in_colour_keeps_all_its_bits():
    import struct
    import zlib

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    for bands, kind in ((3, 2), (4, 6), (2, 4)):
        samples = np.full((40, 50, bands), 65535, np.uint16)
        shown = 1 if bands == 2 else 3
        samples[..., :shown] = PHOTO[..., :shown].astype(np.uint16) * 16
        rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
        head = struct.pack(">IIBBBBB", 50, 40, 16, kind, 0, 0, 0)
        data = (
            b"\x89PNG\r\n\x1a\n"
            + chunk(b"IHDR", head)
            + chunk(b"IDAT", zlib.compress(rows))
            + chunk(b"IEND", b"")
        )
        near(decoded(data)[0], PHOTO if shown == 3 else np.repeat(PHOTO[..., :1], 3, axis=2))


def test_pgm_and_ppm_of_more_than_eight_bits_keep_their_values():
    samples = (PHOTO.astype(np.uint16) * 16).astype(">u2")
    data = b"P6 # with a comment\n50 40\n4095\n" + samples.tobytes()
    near(decoded(data)[0], PHOTO)
    near(decoded(b"P5\n50 40\n4095\n" + samples[..., 0].tobytes())[0], np.repeat(PHOTO[..., :1], 3, axis=2))
    with pytest.raises(ImageError, match="damaged image"):
        decode_image(data[:-5], "it")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_picture_is_upright(orientation, kind, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = Image.fromarray(PHOTO)
    options = (
        {"quality": 100, "subsampling": 0} if kind == "JPEG" else {"lossless": True} if kind == "WEBP" else {}
    )
    path = tmp_path / "turned"
    picture.save(path, kind, exif=exif, **options)
    with Image.open(path) as stored:
        right = np.array(ImageOps.exif_transpose(stored).convert("RGB"))
    near(decode_image(path.read_bytes(), "it"), right, 0)
    assert image_size(path) == right.shape[:2]
    assert upright(PHOTO, orientation).shape == right.shape


def test_map_lies_as_its_coordinates_say():
    placed = {33550: ("d", [1.0, 1.0, 0.0]), 33922: ("d", [0, 0, 0, 5e5, 5e6, 0]), 274: ("H", [6])}
    near(decoded(plain_tiff(PHOTO, placed))[0], PHOTO, 0)


def test_scale_is_decided_on_samples_at_the_places_of_gdal():
    assert every_nth(3).tolist() == [0, 1, 2]
    assert every_nth(10, 4).tolist() == [1, 3, 6, 8]
    assert len(every_nth(5000)) == 1024


def test_pictures_in_which_little_is_seen_are_noticed():
    assert seen_little(np.full((300, 300, 3), 9, np.uint8)) == ONE_COLOUR
    assert seen_little(PHOTO // 20) == NEARLY_BLACK
    assert seen_little(PHOTO) == ""
    speck = np.zeros((300, 300, 3), np.uint8)
    speck[7, 9] = 255
    assert seen_little(speck) == NEARLY_BLACK


def test_messages_of_libraries_become_one_line_with_the_name(capsys, monkeypatch):
    from swancli.images import decode

    def noisy(data, name, most):
        logging.getLogger("PIL.TiffImagePlugin").warning("odd tag")
        logging.getLogger("tifffile").error("odd strip\nand more")
        return read(data, name, most)

    read = decode._read
    monkeypatch.setattr(decode, "_read", noisy)
    notes = Notes()
    for name in ("a.tif", "b.tif"):
        decode_image(plain_tiff(PHOTO), name, notes=notes)
    assert notes.lines() == ("2 images, such as a.tif: read, but a library reported: odd strip",)
    assert capsys.readouterr().err == ""


def test_what_a_library_reports_is_heard_once(capsys):
    """While a picture is read here, and else by whoever listens to the whole program."""
    messages = LibraryMessages()
    logging.getLogger().addHandler(messages)
    log = logging.getLogger("PIL.TiffImagePlugin")
    with listening() as outer:
        log.error("first")
        with listening() as inner:
            log.error("two\nlines")
            logging.getLogger("tifffile").error("")
        log.error("last")
    assert (outer, inner) == (["first", "last"], ["two", "ERROR"])
    with pytest.raises(ValueError, match="it"), listening():
        raise ValueError("it")
    log.error("elsewhere")
    logging.getLogger().removeHandler(messages)
    messages.show()
    assert capsys.readouterr().err == "warning: Pillow: elsewhere\n"


def wide_tiff():
    return plain_tiff(PHOTO.astype(np.uint16))


def lzw_tiff():
    written = io.BytesIO()
    pytest.importorskip("tifffile").imwrite(
        written, PHOTO.astype(np.uint16), photometric="rgb", compression="lzw"
    )
    return written.getvalue()


def wide_jpeg2000():
    return pytest.importorskip("imagecodecs").jpeg2k_encode(PHOTO.astype(np.uint16) * 16, level=0)


@pytest.mark.parametrize(
    ("made", "package", "need"),
    [
        (wide_tiff, "tifffile", "a TIFF that Pillow cannot read (signed or wide samples, or many bands)"),
        (lzw_tiff, "imagecodecs", "a TIFF of compression 5"),
        (wide_jpeg2000, "imagecodecs", "a JPEG 2000 image of 3 bands of 16 bits"),
    ],
)
@pytest.mark.parametrize("broken", [False, True])
def test_package_that_is_absent_or_does_not_work_is_named(made, package, need, broken, monkeypatch):
    data = made()
    monkeypatch.delenv("PYTHONPATH", raising=False)
    reason = "libjxl.so.0.11: cannot open shared object file"
    real = builtins.__import__

    def without(name, *given):
        if name.partition(".")[0] == package:
            raise ImportError(reason) if broken else ModuleNotFoundError(f"No module {name}", name=name)
        return real(name, *given)

    if package == "imagecodecs":  # tifffile has imported it before
        monkeypatch.setattr(pytest.importorskip("tifffile").TiffPage, "asarray", missing_codec)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImageError) as raised:
        decode_image(data, "it")
    if broken:
        assert (
            raised.value.problem
            == f"it: {need} needs a package that is installed but does not work ({reason})"
        )
        assert "force-reinstall 'swancli[tiff]'" in raised.value.hint
    else:
        assert raised.value.problem == f"it: {need} needs {package}, which is not installed"
        assert raised.value.hint == "install the extra: pip install 'swancli[tiff]'"


@pytest.mark.parametrize("error", [ImportError("a broken library"), ModuleNotFoundError("", name="tifffile")])
def test_eight_bits_that_pillow_can_read_need_no_package(error, monkeypatch):
    """Colours multiplied by alpha are left to tifffile where it is there."""
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")  # then the hint is another one
    samples = with_alpha(np.full((40, 50), 255))
    real = builtins.__import__

    def without(name, *given):
        if name == "tifffile":
            raise error
        return real(name, *given)

    data = plain_tiff(samples, {262: ("H", [2]), 338: ("H", [1])})
    monkeypatch.setattr(builtins, "__import__", without)
    near(decoded(data)[0], PHOTO, 0)


def missing_codec(*_, **__):
    raise ValueError("<COMPRESSION.LZW: 5> requires the 'imagecodecs' package")


def test_white_is_a_value_that_the_type_can_hold():
    """int8 from 0 to 127 has its white at 127, not at 255."""
    pixels = decoded(plain_tiff(np.arange(128).reshape(8, 16, 1).astype(np.int8)))[0]
    assert pixels.max() == 255
    assert pixels[0, 8, 0] == 16
    data = plain_tiff(np.arange(128).reshape(8, 16, 1).astype(np.int8))
    assert with_one_scale(1, lambda row: (data, "it"), AS_SAID).stretch == (0, 127)
