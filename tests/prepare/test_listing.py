"""The listing of a folder: names as the disk has them, their order, and the count of what is passed over."""

import errno
import os
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swancli.errors import SwanError
from swancli.prepare import listing as module
from swancli.prepare.listing import Names, list_folder, natural_order, not_read_text


def touch(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return folder


def test_numbers_in_names_are_ordered_by_value_however_long():
    names = ["a10.jpg", "a2.jpg", "a.jpg", "b1.jpg", "a02.jpg", "a" + "9" * 5000, "a1" + "0" * 5000]
    assert sorted(names, key=natural_order) == [
        *("a02.jpg", "a2.jpg", "a10.jpg", "a" + "9" * 5000, "a1" + "0" * 5000, "a.jpg", "b1.jpg")
    ]


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=6)))
def test_packed_names_are_the_sorted_names_also_in_several_runs(names):
    names.append("caf\udce9.jpg")  # a byte that is not UTF-8
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(module, "SORTED_AT_ONCE", 3)
        packed = Names(names)
    assert list(packed) == sorted(names, key=natural_order)
    assert [names[place] for place in packed.order] == list(packed)


ODD = [
    " leading blank.jpg",
    "back\\slash.jpg",
    "z:12_x:7.jpg",
    "tile:100:200.jpg",
    "new\nline.jpg",
    "caf\udce9.jpg",
    "cafe\u0301.jpg",
    "caf\u00e9.jpg",
    "C:\\1.jpg",
    "~.jpg",
    "-.jpg",
    "%41.jpg",
    "a b/c.d/[1].JPG",
    "\U0001f6f0.webp",
    "x.tar/1.jpg",
    "\u202egpj.jpg",
]


def test_every_name_of_the_disk_is_listed_as_it_is(tmp_path):
    touch(tmp_path, *ODD)
    found = list_folder(tmp_path)
    assert sorted(found.names) == sorted(ODD)
    assert not found.not_read
    assert not found.tars  # a folder called x.tar is a folder


HIDDEN = [
    *(".ipynb_checkpoints", ".Trash-1000", "@eaDir", "__MACOSX", "lost+found", "$RECYCLE.BIN", ".git"),
    *("System Volume Information", "#recycle", "#snapshot", "@Recycle", ".@__thumb", "~snapshot"),
    *(".Spotlight-V100", ".fseventsd", "FOUND.000", ".AppleDouble"),
]


def test_hidden_and_system_folders_are_passed_over_and_counted(tmp_path):
    for name in HIDDEN:
        touch(tmp_path, f"{name}/below/1.jpg", f"sub/{name}/1.jpg")
    touch(tmp_path, "1.jpg", "git/2.jpg", "trash/3.jpg", "._1.jpg", ".DS_Store")
    found = list_folder(tmp_path)
    assert list(found.names) == ["1.jpg", "git/2.jpg", "trash/3.jpg"]
    said = not_read_text(found.not_read)
    assert said.startswith(f"{2 * len(HIDDEN)} hidden folders (")
    assert said.endswith(", ...), 2 hidden files")


def test_folder_that_is_hidden_itself_is_read(tmp_path):
    assert list(list_folder(touch(tmp_path / ".cache", "1.jpg")).names) == ["1.jpg"]


def test_what_is_not_read_is_counted_by_kind(tmp_path):
    touch(
        tmp_path,
        "1.jpg",
        "a.heic",
        "b.HEIC",
        "sub/c.heic",
        "notes",
        "x.tar.gz",
        "y.tgz",
        "no.suffix too long",
    )
    touch(tmp_path.parent / f"{tmp_path.name}-other", "1.jpg")
    (tmp_path / "more").symlink_to(tmp_path.parent / f"{tmp_path.name}-other")
    (tmp_path / "ring").symlink_to("ring")
    os.mkfifo(tmp_path / "pipe.jpg")
    os.mkfifo(tmp_path / "pipe.tar")
    found = list_folder(tmp_path)
    assert (list(found.names), found.tars) == (["1.jpg"], [])
    assert sorted(not_read_text(found.not_read).split(", ")) == sorted(
        "3 .heic, 3 without a suffix, 2 special files, 1 linked folder, 1 .tar.gz, 1 .tgz".split(", ")
    )


def test_text_of_what_is_not_read_is_one_line_however_many_kinds():
    hidden = Counter({"in .git": 3, "in @eaDir": 1})
    kinds = Counter({f".k{number}": number for number in range(1, 13)}) + hidden
    assert not_read_text(kinds) == (
        "12 .k12, 11 .k11, 10 .k10, 9 .k9, 8 .k8, 7 .k7, 6 .k6, 5 .k5 and 14 of other kinds"
    )
    assert not_read_text(hidden) == "4 in hidden folders (.git, @eaDir)"
    assert not_read_text(Counter({"linked folder": 2, "link": 1})) == "2 linked folders, 1 link"
    assert not_read_text(Counter()) == ""


def test_link_to_nothing_is_listed_so_that_it_is_missed(tmp_path):
    (tmp_path / "gone.jpg").symlink_to("nowhere.jpg")
    found = list_folder(tmp_path, stamps=True)
    assert list(found) == [("gone.jpg", -1, 0)]


def test_folder_that_cannot_be_listed_is_reported(tmp_path, monkeypatch):
    touch(tmp_path, "a/1.jpg", "b/2.jpg")
    scandir = os.scandir

    def refuse(path):
        if str(path).rstrip("/").endswith("a"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    found = list_folder(tmp_path)
    assert (list(found.names), found.unreadable) == (["b/2.jpg"], [("a/", "Permission denied")])
    with pytest.raises(SwanError, match=r"/a: cannot be listed \(Permission denied\)"):
        list_folder(tmp_path / "a")


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EIO, errno.ESTALE])
@pytest.mark.parametrize("call", ["scandir", "stat"])
def test_failing_disk_is_no_reason_to_pass_over_a_folder_or_an_image(tmp_path, monkeypatch, number, call):
    touch(tmp_path, "a/1.jpg", "b/2.jpg")
    scandir = os.scandir

    class Entry:
        """An image whose status the disk does not give."""

        name, path = "1.jpg", str(tmp_path / "a" / "1.jpg")
        is_dir = is_symlink = lambda self: False
        is_file = lambda self: True  # noqa: E731

        def stat(self):
            raise OSError(number, os.strerror(number))

    class Entries(list):
        __enter__, __exit__ = lambda self: self, lambda *_: None

    def refuse(path):
        if not str(path).rstrip("/").endswith("a"):
            return scandir(path)
        if call == "scandir":
            raise OSError(number, os.strerror(number), str(path))
        return Entries([Entry()])

    monkeypatch.setattr(os, "scandir", refuse)
    for folder in (tmp_path, tmp_path / "a"):
        with pytest.raises(SwanError, match=r"a(/1\.jpg)?: cannot be (listed|looked up)") as caught:
            list_folder(folder, stamps=True)
        assert f"({os.strerror(number)})" in caught.value.problem


def test_stamps_are_of_their_names(tmp_path):
    for number in (10, 9, 1):
        (tmp_path / f"{number}.jpg").write_bytes(b"x" * number)
    assert [(name, size) for name, size, _ in list_folder(tmp_path, stamps=True)] == [
        ("1.jpg", 1),
        ("9.jpg", 9),
        ("10.jpg", 10),
    ]
