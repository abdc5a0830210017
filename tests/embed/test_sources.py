"""Images of folders, addresses and tars: in order, in pieces, and what is said of what cannot be read."""

import errno
import io
import os
import shutil
import subprocess
import tarfile

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFile
from hypothesis import given
from hypothesis import strategies as st

from swancli.embed.sources import open_source
from swancli.errors import ImageError, SwanError


@pytest.fixture
def memory():
    """The memory:// file system, empty; it is one for the whole process."""
    system = fsspec.filesystem("memory")
    system.store.clear()
    yield system
    system.store.clear()


def tar_of(members):
    """The bytes of a tar with members of these names and contents, in order."""
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as archive:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return written.getvalue()


def contents(source, rows=10):
    """Name and bytes of every picture, by piece."""
    return [[(picture.name, picture.read()) for picture in piece.pictures()] for piece in source.pieces(rows)]


def problem_of(images):
    with pytest.raises(SwanError) as caught:
        open_source(images)
    return str(caught.value)


# ---------------------------------------------------------------------------------------------------------
# folders and addresses


def test_address_lists_its_images_in_natural_order_and_passes_others_over(memory):
    for name in ("beach_10.jpg", "beach_2.jpg", "deep/er/7.PNG", "notes.txt", ".hidden.jpg"):
        memory.pipe(f"/tiles/{name}", name.encode())
    source = open_source("memory://tiles")
    assert (source.name, source.pictures) == ("tiles", "memory://tiles")
    assert contents(source) == [
        [
            ("beach_2.jpg", b"beach_2.jpg"),
            ("beach_10.jpg", b"beach_10.jpg"),
            ("deep/er/7.PNG", b"deep/er/7.PNG"),
        ]
    ]


def test_folder_and_file_address_are_the_same_source(tmp_path):
    for name in ("2.png", "10.png"):
        (tmp_path / name).write_bytes(name.encode())
    folder, address = open_source(str(tmp_path)), open_source(f"file://{tmp_path}")
    assert contents(folder) == contents(address) == [[("2.png", b"2.png"), ("10.png", b"10.png")]]
    assert folder.identity() == address.identity()
    assert folder.name == tmp_path.name


@given(files=st.integers(1, 30), rows=st.integers(1, 12))
def test_pieces_hold_every_image_once_in_order(files, rows):
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    for number in range(files):
        memory.pipe(f"/many/{number}.jpg", b"")
    pieces = contents(open_source("memory://many"), rows)
    assert [name for piece in pieces for name, *_ in piece] == [f"{number}.jpg" for number in range(files)]
    assert all(len(piece) == rows for piece in pieces[:-1])


def test_identity_changes_with_what_is_listed(memory):
    memory.pipe("/tiles/1.jpg", b"one")
    before = open_source("memory://tiles").identity()
    assert open_source("memory://tiles").identity() == before
    memory.pipe("/tiles/1.jpg", b"another")
    changed = open_source("memory://tiles").identity()
    memory.pipe("/tiles/2.jpg", b"two")
    assert len({before, changed, open_source("memory://tiles").identity()}) == 3


def test_image_that_is_gone_is_its_own_error_and_a_store_that_fails_is_not(memory, monkeypatch):
    memory.pipe("/tiles/1.jpg", b"one")
    (piece,) = open_source("memory://tiles").pieces(10)
    (picture,) = piece.pictures()
    memory.rm("/tiles/1.jpg")
    with pytest.raises(ImageError, match="no such file any more"):
        picture.read()

    def fail(*arguments, **options):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(type(memory), "cat_file", fail)
    with pytest.raises(SwanError, match=r"1\.jpg: cannot be read \(no route to host\)") as caught:
        picture.read()
    assert not isinstance(caught.value, ImageError)  # `--missing skip` would leave out what is there


def test_image_too_large_for_memory_is_not_read(memory, monkeypatch):
    monkeypatch.setattr("swancli.images.files.MOST_BYTES", 3)
    memory.pipe("/tiles/1.jpg", b"four")
    (picture,) = open_source("memory://tiles").pieces(10)[0].pictures()
    with pytest.raises(ImageError, match="too large"):
        picture.read()


@pytest.mark.parametrize(
    ("images", "said"),
    [
        ("memory://nothing", "no such folder"),
        ("nowhere", "--images nowhere: no such folder or tar"),
        ("nowhere.tar", "--images nowhere.tar: no such folder or tar"),
        (__file__, "is not a .tar file"),
        ("nosuch://bucket/tiles", "nosuch"),
        ("s3://key:secret@bucket/tiles", "holds a user name or a password"),
        ("memory://tiles-{0..3.tar", "memory://tiles-{0..3.tar"),
        ("memory://tiles-*.tar", "nothing has such a name"),
        ("memory://tiles-{0..1}.jpg", "is not a .tar file"),
        ("/{nowhere,at_all}.jpg", "is not a .tar file"),
    ],
)
def test_what_is_no_source_is_reported(memory, images, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    problem = problem_of(images)
    assert said in problem
    assert "secret" not in problem


def test_address_without_images_tells_what_is_known(memory):
    memory.pipe("/tiles/notes.txt", b"")
    assert "known are .jpg" in problem_of("memory://tiles")


# ---------------------------------------------------------------------------------------------------------
# tars

BOAT = [("./boat_1.jpg", b"one"), ("boat_1.txt", b"a boat"), ("sea/2.png", b"two"), ("sea/.3.png", b"no")]
FOUND = [("boat_1.jpg", b"one"), ("sea/2.png", b"two")]


def in_tar(name):
    return [(f"{name}/{member}", *others) for member, *others in FOUND]


@pytest.mark.parametrize(
    "images",
    ["memory://archive", "memory://archive/tiles-{000..001}.tar", "memory://archive/tiles-*.tar"],
)
def test_tars_are_pieces_of_the_images_in_them(memory, images):
    for number in range(2):
        memory.pipe(f"/archive/tiles-00{number}.tar", tar_of(BOAT))
    source = open_source(images)
    assert source.name == "archive"
    assert contents(source) == [in_tar("tiles-000.tar"), in_tar("tiles-001.tar")]
    assert [piece.border for piece in source.pieces(1)] == ["tiles-000.tar", "tiles-001.tar"]


def test_tars_of_a_folder_and_one_alone(tmp_path):
    (tmp_path / "a").mkdir()
    for name in ("10.tar", "a/9.tar"):
        (tmp_path / name).write_bytes(tar_of(BOAT))
    assert contents(open_source(str(tmp_path))) == [in_tar("10.tar"), in_tar("a/9.tar")]
    assert contents(open_source(str(tmp_path / "10.tar"))) == [in_tar("10.tar")]
    assert contents(open_source(str(tmp_path / "{10,a/9}.tar"))) == [in_tar("10.tar"), in_tar("a/9.tar")]


def test_tar_that_is_cut_short_tells_after_the_images_before(memory):
    whole = tar_of([("1.jpg", b"x" * 600), ("2.jpg", b"y" * 600)])
    memory.pipe("/cut.tar", whole[: 512 + 1024 + 512 + 100])
    pictures = open_source("memory://cut.tar").pieces(1)[0].pictures()
    assert next(pictures).read() == b"x" * 600
    with pytest.raises(ImageError, match=r"cut\.tar: damaged or cut short after 1 images"):
        next(pictures)


@pytest.mark.parametrize("cut", [1024, 1024 + 100, 2048, None])
def test_tar_that_ends_at_a_member_or_in_a_header_or_has_a_damaged_one_is_reported(memory, cut):
    whole = bytearray(tar_of([(f"{number}.jpg", b"x" * 100) for number in range(3)]))
    if cut is None:
        whole[1024 + 120] ^= 0x10  # in the header of the second
    memory.pipe("/odd.tar", bytes(whole[:cut]))
    pictures = open_source("memory://odd.tar").pieces(1)[0].pictures()
    with pytest.raises(ImageError, match=f"cut short after {1 if cut != 2048 else 2} images"):
        list(pictures)


def test_tars_beside_images_are_not_left_out_in_silence(memory, tmp_path):
    for name in ("thumb.jpg", "a.tar"):
        memory.pipe(f"/both/{name}", b"")
        (tmp_path / name).write_bytes(b"")
    for images in ("memory://both", str(tmp_path)):
        assert "holds images and tars" in problem_of(images)


def test_file_that_is_no_tar_and_one_that_is_absent_are_reported(memory):
    memory.pipe("/no.tar", b"nothing of the kind" * 100)
    for name, said in (("no", "damaged or cut short after 0 images"), ("none", "none.tar: no such file")):
        with pytest.raises(ImageError, match=said):
            next(open_source(f"memory://{name}.tar").pieces(1)[0].pictures())


def test_member_is_named_as_it_would_be_unpacked_and_a_large_one_alone_is_refused(memory, monkeypatch):
    monkeypatch.setattr("swancli.images.files.MOST_BYTES", 5)
    members = [("a/../../out.jpg", b"out"), ("/root.jpg", b"root"), ("large.jpg", b"larger"), ("1.jpg", b"1")]
    memory.pipe("/odd.tar", tar_of(members))
    out, root, large, last = open_source("memory://odd.tar").pieces(1)[0].pictures()
    read = [(picture.name, picture.read()) for picture in (out, root, last)]
    assert read == [("odd.tar/out.jpg", b"out"), ("odd.tar/root.jpg", b"root"), ("odd.tar/1.jpg", b"1")]
    with pytest.raises(ImageError, match="too large"):
        large.read()


def test_links_and_devices_in_a_tar_are_no_images(memory):
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as archive:
        for name, kind in (("link.jpg", tarfile.SYMTYPE), ("pipe.jpg", tarfile.FIFOTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            archive.addfile(member)
    memory.pipe("/links.tar", written.getvalue())
    assert contents(open_source("memory://links.tar")) == [[]]


# ---------------------------------------------------------------------------------------------------------
# names are facts, and what is not read is counted


def names_of(images):
    return [picture.name for piece in open_source(str(images)).pieces(10) for picture in piece.pictures()]


ODD = [
    " a.jpg",
    "back\\slash.jpg",
    "z:12_x:7.jpg",
    "caf\udce9.jpg",
    "new\nline.jpg",
    "C:\\1.jpg",
    "a\\..\\b.jpg",
]


def test_folder_address_and_tar_have_the_same_odd_names(memory, tmp_path):
    for name in ODD:
        (tmp_path / name).write_bytes(b"")
        memory.pipe(f"/tiles/{name}", b"")
    memory.pipe("/odd.tar", tar_of([(name, b"") for name in ODD]))
    assert sorted(names_of(tmp_path)) == sorted(names_of("memory://tiles")) == sorted(ODD)
    assert names_of("memory://odd.tar") == [f"odd.tar/{name}" for name in ODD]


def test_keys_of_an_address_are_not_resolved_as_paths(memory):
    for key in ("a/../1.jpg", "a//1.jpg", "a/./1.jpg", "a/1.jpg", "a/ /1.jpg"):
        memory.store[f"/tiles/{key}"] = MemoryFile(None, f"/tiles/{key}", b"x")
    assert len(set(names_of("memory://tiles"))) == 5


@pytest.mark.parametrize(
    "folder", ["2020 [north]", "a{b}*", "what?", "{1..3}", "x::y", "z::12", "new\nline", "%41"]
)
def test_name_that_exists_is_no_pattern(tmp_path, folder):
    place = tmp_path / folder
    place.mkdir()
    (place / "tiles[0].tar").write_bytes(tar_of(BOAT))
    in_it = [name for name, *_ in in_tar("tiles[0].tar")]
    assert names_of(place / "tiles[0].tar") == in_it
    assert names_of(place) == in_it
    assert open_source(str(place / "tiles[0].tar")).name == "tiles[0]"
    for pattern in ("*.tar", "tiles*.tar", "til{es,t}*.tar", "t*[0]*.tar"):
        assert names_of(place / pattern) == in_it
        assert open_source(str(place / pattern)).name == folder


def test_address_that_exists_is_no_pattern(memory):
    memory.pipe("/scene[1]/tiles[0].tar", tar_of(BOAT))
    memory.pipe("/more{1}/1.jpg", b"")
    assert names_of("memory://scene[1]/tiles[0].tar") == ["tiles[0].tar/boat_1.jpg", "tiles[0].tar/sea/2.png"]
    assert names_of("memory://more{1}") == ["1.jpg"]


def test_file_address_may_be_written_with_percent_signs(tmp_path):
    (tmp_path / "my tiles").mkdir()
    (tmp_path / "my tiles" / "1.jpg").write_bytes(b"")
    assert names_of(f"file://{tmp_path}/my%20tiles") == ["1.jpg"]


def test_folder_called_like_a_tar_is_a_folder(tmp_path):
    (tmp_path / "all" / "tiles-0.tar").mkdir(parents=True)
    (tmp_path / "all" / "tiles-0.tar" / "1.jpg").write_bytes(b"")
    assert names_of(tmp_path / "all") == ["tiles-0.tar/1.jpg"]
    assert names_of(tmp_path / "all" / "tiles-0.tar") == ["1.jpg"]


def test_pipe_called_like_a_tar_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "x.tar")
    assert "not read: 1 special file" in problem_of(str(tmp_path))
    for images in (tmp_path / "x.tar", tmp_path / "*.tar"):
        with pytest.raises(ImageError, match=r"x\.tar: not a file"):
            names_of(images)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EIO, errno.ESTALE, errno.EACCES])
def test_tar_that_a_failing_machine_does_not_open_is_not_to_be_left_out(tmp_path, monkeypatch, number):
    (tmp_path / "x.tar").write_bytes(tar_of(BOAT))
    source = open_source(str(tmp_path / "x.tar"))

    def refuse(path, *_):
        raise OSError(number, os.strerror(number), path)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(SwanError, match=r"x\.tar: cannot be read") as caught:
        contents(source)
    assert isinstance(caught.value, ImageError) == (number == errno.EACCES)


def test_tar_that_is_a_link_leading_out_is_refused_unless_it_is_named(tmp_path):
    (tmp_path / "private.tar").write_bytes(tar_of(BOAT))
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "x.tar").symlink_to(tmp_path / "private.tar")
    for images in (tmp_path / "f", tmp_path / "f" / "*.tar"):
        with pytest.raises(ImageError, match=r"x\.tar: leads out of the folder"):
            names_of(images)
    assert len(names_of(tmp_path / "f" / "x.tar")) == 2


def test_what_an_address_or_a_tar_holds_beside_images_is_counted(memory):
    for name in ("1.jpg", "2.heic", "notes.txt", "@eaDir/1.jpg", ".Trash-1000/files/2.jpg", "._1.jpg"):
        memory.pipe(f"/tiles/{name}", b"")
    source = open_source("memory://tiles")
    assert [picture.name for piece in source.pieces(9) for picture in piece.pictures()] == ["1.jpg"]
    assert source.not_read == {
        **{".heic": 1, ".txt": 1, "in @eaDir": 1, "in .Trash-1000": 1, "hidden file": 1},
    }
    members = [("1.jpg", b""), ("1.txt", b""), ("./__MACOSX/._1.jpg", b""), ("a/.git/1.jpg", b""), ("x", b"")]
    memory.pipe("/t.tar", tar_of(members))
    (piece,) = open_source("memory://t.tar").pieces(9)
    for _ in range(2):  # the counts are of one reading
        assert [picture.name for picture in piece.pictures()] == ["t.tar/1.jpg"]
        assert piece.not_read == {".txt": 1, "in __MACOSX": 1, "in .git": 1, "without a suffix": 1}


def stream_of(memory, monkeypatch):
    """Makes files of memory:// streams, which cannot seek, and give less than is asked."""
    open_ = type(memory).open

    class Stream(io.RawIOBase):
        def __init__(self, data):
            self._data = io.BytesIO(data)

        def readable(self):
            return True

        def read(self, size=-1):
            return self._data.read(min(size, 700) if size > 0 else size)

    def opened(self, path, mode="rb", **options):
        with open_(self, path, mode, **options) as file:
            return Stream(file.read())

    monkeypatch.setattr(type(memory), "open", opened)


@pytest.mark.parametrize("seekable", [True, False])
def test_tars_that_were_joined_are_read_to_their_end(memory, monkeypatch, seekable):
    parts = [tar_of([(f"{number}.jpg", bytes([number]) * 900)]) for number in range(3)]
    memory.pipe("/joined.tar", b"".join([parts[0], tar_of([]), parts[1], bytes(512), parts[2]]))
    if not seekable:
        stream_of(memory, monkeypatch)
    (piece,) = open_source("memory://joined.tar").pieces(1)
    read = [(picture.name, picture.read()) for picture in piece.pictures()]
    assert read == [(f"joined.tar/{number}.jpg", bytes([number]) * 900) for number in range(3)]


def test_what_follows_a_tar_and_is_none_is_reported_after_the_images_before(memory):
    memory.pipe("/odd.tar", tar_of([("1.jpg", b"one")]) + b"no tar at all" * 100)
    pictures = open_source("memory://odd.tar").pieces(1)[0].pictures()
    assert next(pictures).read() == b"one"
    with pytest.raises(ImageError, match="cut short after 1 images"):
        next(pictures)


@pytest.mark.parametrize("seekable", [True, False])
def test_hard_link_in_a_tar_is_the_picture_that_it_is_linked_to(memory, tmp_path, monkeypatch, seekable):
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as archive:
        for name, data in (("original", b"one"), ("2.jpg", b"two")):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
        for name, target in (("a.jpg", "original"), ("b.jpg", "./a.jpg"), ("c.jpg", "gone")):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.LNKTYPE, target
            archive.addfile(member)
    (tmp_path / "linked.tar").write_bytes(written.getvalue())
    memory.pipe("/linked.tar", written.getvalue())
    stream_of(memory, monkeypatch)
    (piece,) = open_source(str(tmp_path / "linked.tar") if seekable else "memory://linked.tar").pieces(1)
    read = [(picture.name, picture.read()) for picture in piece.pictures()]
    assert read == [("linked.tar/2.jpg", b"two"), ("linked.tar/a.jpg", b"one"), ("linked.tar/b.jpg", b"one")]
    assert piece.not_read == {"without a suffix": 1, "link": 1}


def test_sparse_member_of_gnu_tar_is_read_with_its_holes(memory, tmp_path):
    if not shutil.which("tar"):
        pytest.skip("needs tar")
    with (tmp_path / "1.jpg").open("wb") as file:
        file.write(b"start")
        file.seek(2**20)
        file.write(b"end")
    for format in ("gnu", "posix"):
        done = subprocess.run(
            ["tar", f"--format={format}", "-Scf", f"{format}.tar", "1.jpg"], cwd=tmp_path, capture_output=True
        )
        if done.returncode:
            pytest.skip("needs GNU tar")
        (picture,) = open_source(str(tmp_path / f"{format}.tar")).pieces(1)[0].pictures()
        assert picture.name == f"{format}.tar/1.jpg"
        assert picture.read() == b"start" + bytes(2**20 - 5) + b"end"


def test_member_with_a_nul_in_its_name_is_left_out_alone(memory):
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name in ("a\0b.jpg", "1.jpg"):
            member = tarfile.TarInfo("x.jpg")
            member.pax_headers = {"path": name}
            archive.addfile(member)
    memory.pipe("/nul.tar", written.getvalue())
    odd, sound = open_source("memory://nul.tar").pieces(1)[0].pictures()
    assert (sound.name, sound.read()) == ("nul.tar/1.jpg", b"")
    with pytest.raises(ImageError, match="has a NUL character in its name"):
        odd.read()
