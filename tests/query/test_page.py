"""The page of answers: one file, everything in it escaped, nothing loaded from elsewhere."""

import base64
import hashlib
import io
import re
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
from PIL import Image

from swancli.errors import SwanError
from swancli.images import pixel_digest
from swancli.query.page import write_page
from swancli.query.questions import Answer, Hit
from swancli.store.hdf5 import TEXT
from swancli.store.pictures import Pictures, jpeg

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


def test_picture_that_is_gone_is_reported_in_its_place(folder):
    (folder / "b.png").unlink()
    page = written(folder, [Answer("boats", (), hits())])
    assert page.count("data:image/jpeg;base64,") == 2
    assert "b.png: cannot be read (No such file or directory)" in page


def replaced(path, grey):
    Image.fromarray(np.full((40, 60, 3), grey, np.uint8)).save(path)


@pytest.fixture
def digested(folder, tmp_path):
    """The pictures of the folder, with the digests of their pixels as a store has them."""
    with h5py.File(tmp_path / "digests.h5", "w") as file:
        digests = [pixel_digest(np.full((40, 60, 3), 90, np.uint8))] * 2
        yield Pictures(folder, ["a.png", "b.png"], file.create_dataset("digest", data=digests, dtype=TEXT))


def test_picture_that_was_replaced_is_noticed_on_the_page_and_one_saved_again_is_not(folder, digested):
    replaced(folder / "a.png", 91)
    replaced(folder / "b.png", 90)  # another time, the same pixels
    write_page(folder.parent / "page.html", [Answer("boats", (), hits())], digested)
    first, second = (folder.parent / "page.html").read_text(encoding="utf-8").split("<li>")[1:]
    assert "changed since it was embedded" in first
    assert "changed since it was embedded" not in second
    assert digested.changed == {0}


def test_picture_that_is_put_back_is_no_longer_changed(folder, digested):
    for grey, changed in ((91, {0}), (90, set())):
        replaced(folder / "a.png", grey)
        digested.pixels(0)
        assert digested.changed == changed


def test_serve_writes_a_note_on_a_picture_that_was_replaced_and_logs_it_once(folder, digested, caplog):
    pytest.importorskip("fastapi")
    from swancli.query.serve import Service

    catalogue = SimpleNamespace(filename=["a.png", "b.png"])
    service = SimpleNamespace(
        pictures=digested, searcher=SimpleNamespace(catalogue=catalogue), checked_row=lambda row: row
    )
    before = Service.picture(service, 0, 384)
    replaced(folder / "a.png", 91)
    after = [Service.picture(service, 0, 384) for _ in range(2)]
    assert after[0] == after[1] != before
    assert np.ptp(np.asarray(Image.open(io.BytesIO(before)))) == 0
    assert np.ptp(np.asarray(Image.open(io.BytesIO(after[0])))) > 100
    assert [record.getMessage() for record in caplog.records] == [
        "a.png: changed since it was embedded; embed again: swan embed"
    ]


@pytest.mark.parametrize("change", ["another size", "turned", "one pixel"])
def test_every_change_of_pixels_is_noticed(folder, digested, change):
    pixels = {
        "another size": np.full((40, 61, 3), 90, np.uint8),
        "turned": np.full((60, 40, 3), 90, np.uint8),
    }
    changed = pixels.get(change, np.full((40, 60, 3), 90, np.uint8))
    changed[0, 0, 0] += change == "one pixel"
    Image.fromarray(changed).save(folder / "a.png")
    digested.pixels(0)
    assert digested.changed == {0}


def test_pictures_without_digests_are_shown_as_they_are(folder):
    pictures = Pictures(folder, ["a.png"])
    pictures.pixels(0)
    assert pictures.changed == set()


@pytest.mark.parametrize(
    "shape", [(400, 400), (40, 60), (300, 1200), (1200, 300), (1, 1), (1, 3000), (3000, 2)]
)
def test_note_is_written_into_the_middle_of_a_picture_of_any_shape(shape):
    picture = Image.open(
        io.BytesIO(jpeg(np.zeros((*shape, 3), np.uint8), 384, "changed since it was embedded"))
    )
    square = min(picture.size)
    left, top = ((length - square) // 2 for length in picture.size)
    pixels = np.asarray(picture.crop((left, top, left + square, top + square))).astype(int)
    strip = pixels[-square // 9 + 4 : -4]
    assert square >= min(240, *shape)
    assert max(picture.size) <= max(384, square)
    assert (strip[:, :8] - strip[:, :8, :1] < -30)[..., 2].all()  # orange ground at its left edge
    assert 0.02 < (strip.min(axis=2) > 180).mean() < 0.6  # with white letters
    assert (pixels[: -square // 9 - 8] < 40).all()


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
