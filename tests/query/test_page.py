"""The page of answers: one file, everything in it escaped, nothing loaded from elsewhere."""

import base64
import hashlib
import io
import re

import h5py
import numpy as np
import pytest
from PIL import Image

from swancli.errors import SwanError, SwanWarning
from swancli.images import pixel_digest
from swancli.query.page import write_page
from swancli.query.questions import Answer, Hit
from swancli.store.hdf5 import TEXT
from swancli.store.pictures import ChangedPicture, Pictures, jpeg

EVIL = "</script><script>alert(1)</script><img src=x onerror='alert(2)'>\"&amp;"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "pictures").mkdir()
    for name in ("a.png", "b.png"):
        Image.fromarray(np.full((40, 60, 3), 90, np.uint8)).save(tmp_path / "pictures" / name)
    return tmp_path / "pictures"


def written(folder, answers, filenames=("a.png", "b.png")):
    path = folder.parent / "page.html"
    write_page(path, answers, Pictures(folder, filenames))
    return path.read_text(encoding="utf-8")


def hits(*captions):
    return (Hit(1, 0, 0.75, "a.png", "harbor", captions), Hit(2, 1, -0.5, "b.png", None, ()))


def test_page_holds_pictures_scores_scenes_and_captions(folder):
    page = written(folder, [Answer("two boats", ("blimp",), hits("boats in a harbor"))])
    assert page.count("data:image/jpeg;base64,") == 4  # in the grid, and for the opened one
    for shown in ("two boats", "0.750", "-0.500", "harbor", "boats in a harbor", "does not know: blimp"):
        assert shown in page


def test_every_text_is_escaped(folder):
    answer = Answer(EVIL, (EVIL,), (Hit(1, 0, 0.5, EVIL, EVIL, (EVIL,)),))
    page = written(folder, [answer, answer])
    assert page.count("<script") == 1
    assert "<img src=x" not in page
    assert "onerror='" not in page


def test_nothing_is_loaded_from_elsewhere_and_the_policy_allows_the_script_that_is_there(folder):
    page = written(folder, [Answer("boats", (), hits())])
    addresses = re.findall(r"(?:src|href|action|data-whole)=\"([^\"]*)\"", page)
    assert all(address.startswith(("data:", "#")) for address in addresses)
    assert "url(" not in page
    assert "@import" not in page
    policy = re.search(r"Content-Security-Policy\" content=\"([^\"]*)\"", page)[1].replace("&#39;", "'")
    assert policy.startswith("default-src 'none'")
    for tag in ("script", "style"):
        (text,) = re.findall(rf"<{tag}>(.*?)</{tag}>", page, flags=re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy


def test_picture_that_is_gone_is_reported_in_its_place_without_a_path(folder):
    """Whoever gets the page need not see where pictures are; the one who writes it sees why."""
    (folder / "b.png").unlink()
    with pytest.warns(SwanWarning, match=f"left out: 1; the first: {folder}/b.png: cannot be read"):
        page = written(folder, [Answer("boats", (), hits())])
    assert page.count("data:image/jpeg;base64,") == 2
    assert page.count("its picture was removed") == 1
    assert str(folder.parent) not in page


@pytest.fixture
def embedded(folder, tmp_path):
    """The pictures of the folder, with the digests of their pixels as a store has them."""
    with h5py.File(tmp_path / "digests.h5", "w") as file:
        digests = [pixel_digest(np.full((40, 60, 3), 90, np.uint8))] * 2
        yield Pictures(folder, ["a.png", "b.png"], file.create_dataset("digest", data=digests, dtype=TEXT))


@pytest.mark.parametrize("change", ["another size", "turned", "one pixel"])
def test_picture_that_was_replaced_is_not_shown_and_one_saved_again_is(folder, embedded, change):
    """The score is of another one; and a stranger's embeddings may name any folder, but not its pixels."""
    shape = {"another size": (40, 61, 3), "turned": (60, 40, 3)}.get(change, (40, 60, 3))
    pixels = np.full(shape, 90, np.uint8)
    pixels[0, 0, 0] += change == "one pixel"
    Image.fromarray(pixels).save(folder / "a.png")
    Image.fromarray(np.full((40, 60, 3), 90, np.uint8)).save(folder / "b.png")  # the same pixels
    assert (embedded.pixels(1) == 90).all()
    with pytest.raises(ChangedPicture, match=r"'a\.png' has changed since it was embedded") as caught:
        embedded.jpeg(0, 100)
    assert "--pictures" in caught.value.hint
    with pytest.warns(SwanWarning, match="pictures left out: 1"):
        write_page(folder.parent / "page.html", [Answer("boats", (), hits())], embedded)
    first, second = (folder.parent / "page.html").read_text(encoding="utf-8").split("<li>")[1:]
    assert "changed since it was embedded" in first
    assert "data:image" not in first
    assert "data:image" in second


def test_name_that_leads_out_of_the_folder_is_not_read(folder):
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(folder.parent / "secret.png")
    (folder / "link.png").symlink_to(folder.parent / "secret.png")
    pictures = Pictures(folder, ["../secret.png", "link.png", str(folder / "../secret.png")])
    for row in range(3):
        with pytest.raises(SwanError, match="leads out of"):
            pictures.pixels(row)


def test_no_match_and_a_question_that_could_not_be_asked_are_reported(folder):
    answers = [Answer("boats", (), ()), Answer("???", (), (), SwanError("there is no word in it"))]
    page = written(folder, answers)
    assert "no match" in page
    assert "there is no word in it" in page


def test_folder_that_is_gone_is_reported_with_the_way_out(tmp_path):
    with pytest.raises(SwanError, match="--pictures"):
        Pictures(tmp_path / "gone", [])


@pytest.mark.parametrize("shape", [(1003, 777, 3), (300, 2000, 3), (1, 900, 3)])
def test_large_picture_is_shown_as_pillow_reduces_it(shape):
    """In strips, which take a quarter of the memory; each pixel is the mean of the same square."""
    pixels = np.random.default_rng(0).integers(0, 255, shape, np.uint8)
    small = Image.open(io.BytesIO(jpeg(pixels, 100)))
    expected = Image.fromarray(pixels).reduce(max(shape) // 200)
    expected.thumbnail((100, 100), Image.Resampling.LANCZOS)
    assert small.size == expected.size
    assert np.abs(np.asarray(small, float) - np.asarray(expected, float)).mean() < 12  # JPEG rounds noise
