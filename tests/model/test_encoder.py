"""What an encoder takes, and that it encodes equal things once and a stream in bounded memory."""

import time
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from swancli.errors import ImageError, SwanError
from swancli.model.encoder import Encoder, Picture


@pytest.fixture(scope="module")
def encoder(tiny_model):
    return Encoder(tiny_model, "cpu", batch_size=2)


@pytest.fixture(scope="module")
def pictures():
    """Five pictures of 40 x 50 pixels, of which three are different."""
    rng = np.random.default_rng(0)
    return list(rng.integers(0, 255, (3, 40, 50, 3), np.uint8)[[0, 1, 0, 2, 1]])


def batch_sizes(encoder, monkeypatch):
    """How many pictures the model sees, batch by batch."""
    model, sizes = encoder.checkpoint.model, []
    encode = model.encode_images
    monkeypatch.setattr(model, "encode_images", lambda pixels: sizes.append(len(pixels)) or encode(pixels))
    return sizes


def test_paths_pil_images_arrays_and_streams_give_the_same(encoder, pictures, tmp_path):
    paths = [tmp_path / f"{row}.png" for row in range(5)]
    for path, pixels in zip(paths, pictures, strict=True):
        Image.fromarray(pixels).save(path)
    expected = encoder.images(pictures)
    assert expected.shape == (5, 32)
    assert expected.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(expected, axis=1), 1, atol=1e-5)
    opened = [Image.open(path) for path in paths]
    mixed = [paths[0], str(paths[1]), opened[2], pictures[3], paths[4]]
    for items in (paths, map(str, paths), opened, np.stack(pictures), (item for item in mixed)):
        np.testing.assert_array_equal(encoder.images(items), expected)
    assert encoder.images([]).shape == (0, 32)


def test_identical_pictures_are_encoded_once(encoder, pictures, monkeypatch):
    sizes = batch_sizes(encoder, monkeypatch)
    found = encoder.images(pictures)
    assert sizes == [2, 1]
    np.testing.assert_array_equal(found[[0, 1]], found[[2, 4]])


def test_stream_is_read_a_few_batches_ahead(encoder):
    """In batches of two: one that is encoded, two that wait, one that is made."""
    rng, made, ahead = np.random.default_rng(0), [], []

    def stream():
        for row in range(60):
            made.append(row)
            yield rng.integers(0, 255, (32, 32, 3), np.uint8)

    encoder.images(stream(), lambda phase, done, total: ahead.append(len(made) - done))
    assert len(made) == 60
    assert max(ahead) <= 2 * 4 + 1


def test_progress_counts_the_images_of_a_list_and_of_a_stream(encoder, pictures):
    shown = []
    encoder.images(pictures, lambda *told: shown.append(told))
    assert (shown[0], shown[-1]) == (("images", 0, 5), ("images", 5, 5))
    encoder.images(iter(pictures), lambda *told: shown.append(told))
    assert shown[-1] == ("images", 5, 0)
    encoder.captions(["a river", "a river"], lambda *told: shown.append(told))
    assert shown[-1] == ("captions", 1, 1)


def test_grey_and_transparent_pil_images_are_taken_as_their_files_are(encoder, tmp_path):
    for mode in ("L", "RGBA", "P"):
        image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (9, 9), np.uint8)).convert(mode)
        image.save(tmp_path / "image.png")
        both = encoder.images([image, tmp_path / "image.png"])
        np.testing.assert_array_equal(both[0], both[1])


@pytest.mark.parametrize(
    ("items", "said"),
    [
        ("a.jpg", "a single image"),
        (Image.new("RGB", (9, 9)), "a single image"),
        (["none.jpg"], "none.jpg"),
        ([np.zeros((9, 9, 3), np.float32)], r"image 0: an array of float32 \(9, 9, 3\)"),
        ([np.zeros((9, 9, 3), np.uint8), np.zeros((9, 9), np.uint8)], r"image 1: an array of uint8 \(9, 9\)"),
        (np.zeros((9, 9, 3), np.uint8), r"image 0: an array of uint8 \(9, 3\)"),
        ([None], "image 0: NoneType"),
    ],
)
def test_what_is_no_list_of_pictures_is_an_error_in_words(encoder, items, said):
    with pytest.raises(SwanError, match=said):
        encoder.images(items)


def test_damaged_file_behind_a_pil_image_is_an_image_error(encoder, pictures, tmp_path):
    Image.fromarray(pictures[0]).save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(data[: len(data) // 2])
    with pytest.raises(ImageError, match="image 0: damaged"):
        encoder.images([Image.open(tmp_path / "a.png")])


@pytest.mark.parametrize(
    ("texts", "said"), [("a river", "a single text"), (["a river", 7], "caption 1: int is not text")]
)
def test_what_is_no_list_of_texts_is_an_error_in_words(encoder, texts, said):
    with pytest.raises(SwanError, match=said):
        encoder.captions(texts)


def test_captions_may_be_any_iterable_of_texts(encoder):
    expected = encoder.captions(["a river", "a road"])
    assert expected.shape == (2, 32)
    np.testing.assert_array_equal(encoder.captions(iter(["a river", "a road"])), expected)
    np.testing.assert_array_equal(encoder.captions(np.array(["a river", "a road"], object)), expected)
    assert encoder.captions([]).shape == (0, 32)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"precision": "fp16"}, "fp32 or bf16"),
        ({"batch_size": 0}, "batch_size 0"),
        ({"device": "tpu"}, "tpu"),
    ],
)
def test_options_that_do_not_exist_are_refused(tiny_model, options, said):
    with pytest.raises(SwanError, match=said):
        Encoder(tiny_model, **{"device": "cpu", **options})


def test_encoder_says_what_it_encodes_with(encoder, tiny_model):
    assert encoder.device == torch.device("cpu")
    assert (encoder.dimensions, encoder.batch_size, encoder.precision) == (32, 2, "fp32")
    made_by = encoder.made_by
    assert (made_by.checkpoint, made_by.dimensions, made_by.variant) == (str(tiny_model), 32, "repaired")


def test_reading_ends_with_the_generator(encoder):
    """So that what is read, such as a scene, can be closed after it."""
    loaded = []

    def load(row):
        loaded.append(row)
        return np.full((8, 8, 3), row % 256, np.uint8), Picture("", str(row))

    starts = range(0, 800, 8)
    pieces = encoder.pieces((partial(load, row) for row in range(start, start + 8)) for start in starts)
    assert len(next(pieces).image) == 8
    pieces.close()
    count = len(loaded)
    assert count < 40
    time.sleep(0.1)
    assert len(loaded) == count
