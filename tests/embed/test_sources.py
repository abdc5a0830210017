"""Images of folders, addresses and tars: in order, in pieces, and what is said of what cannot be read."""

import io
import tarfile

import fsspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swancli.embed import sources as image_sources
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
    monkeypatch.setattr(image_sources, "MOST_BYTES", 3)
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


def test_member_that_leads_out_or_is_too_large_is_refused_and_the_others_are_read(memory, monkeypatch):
    monkeypatch.setattr(image_sources, "MOST_BYTES", 5)
    members = [("../out.jpg", b"out"), ("/root.jpg", b"root"), ("large.jpg", b"larger"), ("1.jpg", b"one")]
    memory.pipe("/odd.tar", tar_of(members))
    *odd, last = open_source("memory://odd.tar").pieces(1)[0].pictures()
    assert (last.name, last.read()) == ("odd.tar/1.jpg", b"one")
    for picture, said in zip(odd, ("leads out", "leads out", "too large"), strict=True):
        with pytest.raises(ImageError, match=said):
            picture.read()


def test_links_and_devices_in_a_tar_are_no_images(memory):
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as archive:
        for name, kind in (("link.jpg", tarfile.SYMTYPE), ("pipe.jpg", tarfile.FIFOTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            archive.addfile(member)
    memory.pipe("/links.tar", written.getvalue())
    assert contents(open_source("memory://links.tar")) == [[]]
