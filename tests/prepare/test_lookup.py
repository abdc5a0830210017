"""Names in a list and the files that they mean."""

import errno
import json
import os
from pathlib import Path

import pytest

from swancli.errors import SwanError
from swancli.prepare.build import PrepareSettings, prepare_dataset
from swancli.prepare.entries import Entry
from swancli.prepare.lookup import Lookup
from swancli.prepare.sources import read_source
from swancli.store.dataset import Dataset


def found_as(folder, on_disk, *listed, scene=None):
    """The names under which the files of a list are found; None for those that are not."""
    for name in on_disk:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
    lookup, found = Lookup(folder, listed, dict.fromkeys(listed, scene) if scene else {}), []
    for name in listed:
        try:
            found.append(lookup.find(Entry(name))[0])
        except FileNotFoundError:
            found.append(None)
    return found


@pytest.mark.parametrize(
    ("on_disk", "listed"),
    [
        ("cafe\u0301.jpg", "caf\u00e9.jpg"),  # as macOS writes names
        ("caf\u00e9.jpg", "cafe\u0301.jpg"),
        ("1.JPG", "1.jpg"),
        ("1.jpg", "1.JPG"),
        ("a/1.tif", "a\\1.tif"),
        ("1.jpg", " 1.jpg"),
        (" 1.jpg", "1.jpg"),
        ("\uc11c\uc6b8/1.Png", "\u1109\u1165\u110b\u116e\u11af/1.png"),  # Hangul, composed and not
    ],
)
def test_name_in_another_form_is_found(tmp_path, on_disk, listed):
    assert found_as(tmp_path, [on_disk], listed) == [on_disk]


def test_name_as_it_is_written_comes_first(tmp_path):
    names = [
        "1.jpg",
        "1.JPG",
        " 1.jpg",
        "caf\u00e9.jpg",
        "cafe\u0301.jpg",
        "a\\b.jpg",
        "a/b.jpg",
        "caf\udce9.jpg",
    ]
    assert found_as(tmp_path, names, *names) == names


def test_name_that_several_files_have_in_another_form_is_not_guessed(tmp_path):
    assert found_as(tmp_path, ["1.Jpg", "1.JPG"], "1.jpg") == [None]


def test_file_that_another_entry_names_is_not_taken_for_a_second(tmp_path):
    assert found_as(tmp_path, ["1.jpg"], "1.JPG", "1.jpg") == [None, "1.jpg"]
    assert found_as(tmp_path, ["2.png"], "2.PNG", "2.Png") == ["2.png", None]


def test_name_in_the_folder_of_its_scene_is_found_in_another_form(tmp_path):
    assert found_as(tmp_path, ["lake/1.JPG"], "1.jpg", scene="lake") == ["1.JPG"]


def write_list(folder, *names):
    images = [{"filename": name, "split": "train", "sentences": [{"raw": "a road"}]} for name in names]
    (folder / "dataset.json").write_text(json.dumps({"images": images}))
    return folder / "dataset.json"


def picture(path, value=0):
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (value, 0, 0)).save(path, "PNG")


def test_names_of_the_disk_are_stored_also_bytes_that_are_not_utf8(tmp_path):
    for number, name in enumerate(("caf\udce9.png", "2.PNG", " 3.png", "4.png")):
        picture(tmp_path / "images" / name, number)
    file = write_list(tmp_path, "caf\udce9.png", "2.png", " 3.png", "4.png")
    summary = prepare_dataset(PrepareSettings("d", file), tmp_path / "dataset.h5")
    with Dataset(tmp_path / "dataset.h5") as stored:
        assert stored.catalogue.filename.tolist() == ["caf\udce9.png", "2.PNG", " 3.png", "4.png"]
        assert stored.image(0)[0, 0].tolist() == [0, 0, 0]
        assert stored.image(2)[0, 0].tolist() == [2, 0, 0]
    forms = "Unicode form, case of the suffix, blanks, backslashes"
    assert f"{file}: 1 name differs from that on disk ({forms}); the first: 2.PNG" in summary.warnings


@pytest.mark.parametrize(
    ("on_disk", "listed", "offered"),
    [
        ("1.png", "1.tif", "1.png"),
        ("River_1.png", "river_1.png", "River_1.png"),
        ("a/1.PNG", "A/1.tif", "a/1.PNG"),
    ],
)
def test_name_that_differs_by_case_or_suffix_is_offered(tmp_path, on_disk, listed, offered):
    picture(tmp_path / "images" / on_disk)
    with pytest.raises(SwanError) as caught:
        prepare_dataset(PrepareSettings("d", write_list(tmp_path, "0.x", listed)), tmp_path / "dataset.h5")
    assert caught.value.hint.startswith(f"did you mean {offered} by {listed}? Or give their folder")


def test_list_may_not_lead_out_by_any_spelling(tmp_path):
    for name in (
        "../1.png",
        "/etc/1.png",
        "a\\..\\..\\1.png",
        "C:\\1.png",
        "C:/1.png",
        " /etc/1.png",
        "\\\\host\\1.png",
    ):
        with pytest.raises(SwanError, match="leads out of the folder of images"):
            read_source(write_list(tmp_path, name))
    with pytest.raises(SwanError, match="characters that are not text"):
        read_source(write_list(tmp_path, "\ud800.png"))


def test_folder_that_cannot_be_listed_is_an_error_unless_it_is_left_out(tmp_path, monkeypatch):
    picture(tmp_path / "f" / "1.png")
    picture(tmp_path / "f" / "locked" / "2.png")
    scandir = os.scandir

    def refuse(path):
        if "locked" in str(path):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    settings = PrepareSettings("d", tmp_path / "f")
    with pytest.raises(SwanError) as caught:
        prepare_dataset(settings, tmp_path / "dataset.h5")
    assert str(caught.value) == (
        f"{tmp_path / 'f'}/locked/: Permission denied\n"
        "check its name and who may read it; or leave it out: --missing skip"
    )
    summary = prepare_dataset(PrepareSettings("d", tmp_path / "f", missing="skip"), tmp_path / "dataset.h5")
    assert [(group.first, group.reason) for group in summary.skipped] == [("locked/", "Permission denied")]


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EACCES])
def test_image_that_the_system_does_not_show_is_not_called_missing(tmp_path, monkeypatch, number):
    for name in ("1.png", "2.png"):
        picture(tmp_path / "images" / name)
    source, is_file = write_list(tmp_path, "1.png", "2.png"), Path.is_file

    def refuse(path):
        if path.name == "2.png":
            raise OSError(number, os.strerror(number), str(path))
        return is_file(path)

    monkeypatch.setattr(Path, "is_file", refuse)
    for missing in ("error", "skip"):
        settings = PrepareSettings("d", source, missing=missing)
        if missing == "skip" and number == errno.EACCES:
            summary = prepare_dataset(settings, tmp_path / "dataset.h5")
            assert [(one.first, one.reason) for one in summary.skipped] == [("2.png", "Permission denied")]
            continue
        with pytest.raises(SwanError, match=os.strerror(number)) as caught:
            prepare_dataset(settings, tmp_path / "dataset.h5")
        assert "images/2.png" in caught.value.problem
        assert "missing" not in caught.value.problem
        assert ("--missing skip" in caught.value.hint) == (number == errno.EACCES)
