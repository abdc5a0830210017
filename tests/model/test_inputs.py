"""What prepares images for a model: values that cannot be are refused, also in a checkpoint."""

import math

import numpy as np
import pytest
import torch

from swancli.errors import StoreError, SwanError
from swancli.model.checkpoint import load_checkpoint
from swancli.model.inputs import Preprocessing
from swancli.model.settings import ModelSettings

WRONG = [
    ("interpolation", "foo", "interpolation 'foo': not one of bilinear, bicubic"),
    ("interpolation", ["bilinear"], r"interpolation \['bilinear'\]: not one of"),
    ("fit", "foo", "fit 'foo': not one of squash, crop"),
    ("fit", None, "fit None: not one of"),
    ("mean", (math.nan, 0.5, 0.5), r"mean \(nan, 0\.5, 0\.5\): not three finite numbers"),
    ("mean", (0.5, 0.5), "mean .*: not three finite numbers"),
    ("mean", "0.5", "mean '0.5': not three finite numbers"),
    ("mean", (0.5, 0.5, "0.5"), "mean .*: not three finite numbers"),
    ("std", (0.2, 0.2, 0.0), r"std \(0\.2, 0\.2, 0\.0\): not three numbers above 0"),
    ("std", (0.2, -0.2, 0.2), "std .*: not three numbers above 0"),
    ("std", (0.2, math.inf, 0.2), "std .*: not three numbers above 0"),
    ("std", None, "std None: not three numbers above 0"),
    ("image_size", 0, "image_size 0: not a whole number of at least 1"),
    ("image_size", 32.0, r"image_size 32\.0: not a whole number"),
    ("image_size", "32", "image_size '32': not a whole number"),
]


@pytest.mark.parametrize(("key", "value", "said"), WRONG)
def test_value_that_cannot_prepare_an_image_is_refused_by_its_key(key, value, said):
    with pytest.raises(SwanError, match=said):
        Preprocessing(**{"size" if key == "image_size" else key: value})
    with pytest.raises(SwanError, match=said):
        ModelSettings(words=1, **{key: value})


@pytest.mark.parametrize(("key", "value", "said"), WRONG)
def test_checkpoint_with_such_a_setting_is_refused_on_loading(tiny_model, tmp_path, key, value, said):
    content = torch.load(tiny_model, weights_only=True)
    content["settings"][key] = value
    torch.save(content, tmp_path / "odd.pt")
    with pytest.raises(StoreError, match=rf"odd\.pt: {said}"):
        load_checkpoint(tmp_path / "odd.pt")


def test_every_allowed_value_prepares_an_image():
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    for interpolation in ("bilinear", "bicubic"):
        for fit in ("squash", "crop"):
            prepare = Preprocessing(16, (0, 0, 0), (1, 1, 1), interpolation, fit)
            resized = prepare.resized(pixels)
            assert resized.shape == (16, 16, 3)
            normalised = prepare.normalise(torch.from_numpy(resized).permute(2, 0, 1)[None])
            assert float(normalised.max()) == pytest.approx(resized.max() / 255)
