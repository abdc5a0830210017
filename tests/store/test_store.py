"""The files between the steps: whole or not there, and read as they were written."""

import io
from dataclasses import replace

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from swancli.errors import ImageError, StoreError, SwanError
from swancli.images import AS_SAID, look_hash, pixel_digest
from swancli.scene_image.tiles import open_tiles
from swancli.store import vectors as vectors_module
from swancli.store.catalogue import Catalogue, read_catalogue, read_skipped, write_catalogue
from swancli.store.dataset import Dataset, create_dataset
from swancli.store.embeddings import (
    Embeddings,
    changed_since,
    find_embeddings,
    open_embeddings,
    read_embeddings,
    store_match,
    write_embeddings,
)
from swancli.store.hdf5 import (
    DATASET,
    EMBEDDINGS,
    FEATURES,
    PART,
    TILES,
    VOCABULARY,
    array_in,
    create_store,
    damage_named,
    from_relative,
    objects,
    open_store,
    reading,
    text_attribute,
    texts_in,
    to_relative,
)
from swancli.store.made_by import MadeBy
from swancli.store.parts import GatheredRows, Part, read_part, read_part_vectors, write_part
from swancli.store.rendering import write_rendering
from swancli.store.vectors import mapped

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
in_one_folder = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@st.composite
def catalogues(draw):
    count = draw(st.integers(0, 6))
    columns = [draw(st.lists(kind, min_size=count, max_size=count)) for kind in (texts, texts | st.none())]
    split = draw(st.lists(st.sampled_from(["train", "val", "test", None]), min_size=count, max_size=count))
    captions = draw(st.lists(st.tuples(texts, st.integers(-1, count - 1)), max_size=10))
    return Catalogue.of(*columns, split, *([row[side] for row in captions] for side in (0, 1)))


def columns(catalogue):
    return [getattr(catalogue, name).tolist() for name in ("filename", "scene", "split", "text", "image")]


@given(catalogue=catalogues())
@in_one_folder
def test_catalogue_of_any_text_reads_back_as_written(tmp_path, catalogue):
    with create_store(tmp_path / "a.h5", DATASET) as file:
        write_catalogue(file, catalogue)
    with open_store(tmp_path / "a.h5", DATASET) as file:
        assert columns(read_catalogue(file)) == columns(catalogue)


@given(catalogue=catalogues(), data=st.data())
@in_one_folder
def test_selected_captions_keep_their_image_and_order(catalogue, data):
    rows = np.array(data.draw(st.permutations(range(len(catalogue.filename)))), dtype=np.int64)
    rows = rows[: data.draw(st.integers(0, len(rows)))]
    part, captions = catalogue.select(rows)
    assert part.filename.tolist() == [catalogue.filename[row] for row in rows]
    assert captions.tolist() == [row for row, own in enumerate(catalogue.image) if own in rows]
    assert part.text.tolist() == [catalogue.text[row] for row in captions]
    assert rows[part.image].tolist() == catalogue.image[captions].tolist()


def test_image_rows_are_those_of_the_split():
    catalogue = Catalogue.of("abc", [None] * 3, ["val", None, "val"])
    assert catalogue.image_rows("val").tolist() == [0, 2]
    assert catalogue.image_rows("test").tolist() == []
    assert catalogue.image_rows(None).tolist() == [0, 1, 2]


def test_store_carries_format_version_maker_and_complete(tmp_path):
    with create_store(tmp_path / "a.h5", VOCABULARY):
        pass
    with h5py.File(tmp_path / "a.h5") as file:
        assert (file.attrs["format"], file.attrs["version"]) == ("swan-vocab", 1)
        assert file.attrs["created_by"].startswith("swancli ")
        assert file.attrs["complete"]


def open_problem(path, kind=DATASET):
    with pytest.raises(StoreError) as caught:
        open_store(path, kind)
    return str(caught.value)


def test_absent_file_names_the_command_that_makes_it(tmp_path):
    assert open_problem(tmp_path / "a.h5") == f"{tmp_path / 'a.h5'}: no such file\nmake it: swan prepare"
    assert "swan embed" in open_problem(tmp_path / "a.h5", EMBEDDINGS)


def test_file_of_another_kind_is_refused(tmp_path):
    (tmp_path / "a.h5").write_text("text")
    problem = open_problem(tmp_path / "a.h5")
    assert "not a readable HDF5 file" in problem
    assert problem.endswith("\nmake it: swan prepare")
    with create_store(tmp_path / "b.h5", VOCABULARY):
        pass
    said = "a swan-dataset file is needed, its format attribute says swan-vocab\nmake it: swan prepare"
    assert said in open_problem(tmp_path / "b.h5")
    with h5py.File(tmp_path / "c.h5", "w"):
        pass
    assert "its format attribute says nothing" in open_problem(tmp_path / "c.h5")


def test_store_of_another_kind_is_not_replaced_and_a_damaged_one_is(tmp_path):
    path = tmp_path / "a.h5"
    with create_store(path, VOCABULARY):
        pass
    before = path.read_bytes()
    with (
        pytest.raises(SwanError, match=r"a\.h5: is a swan-vocab file, made by `swan vocab`") as caught,
        create_store(path, DATASET),
    ):
        pass
    assert caught.value.hint == "give another --output"
    assert path.read_bytes() == before
    path.write_bytes(before[:100])
    with create_store(path, DATASET):
        pass
    open_store(path, DATASET).close()


@pytest.mark.parametrize(
    ("attribute", "value", "said"),
    [
        ("version", 1, "version 1 of swan-dataset; this swan reads version 3"),
        ("complete", False, "interrupted\nmake it: swan prepare"),
        ("complete", None, "not complete"),
    ],
)
def test_other_version_and_incomplete_file_are_refused(tmp_path, attribute, value, said):
    with create_store(tmp_path / "a.h5", DATASET):
        pass
    with h5py.File(tmp_path / "a.h5", "a") as file:
        del file.attrs[attribute]
        if value is not None:
            file.attrs[attribute] = value
    assert said in open_problem(tmp_path / "a.h5")


def test_data_set_larger_than_is_unpacked_at_once_is_read_after_it_was_compressed(tmp_path, monkeypatch):
    """As `h5repack -f GZIP=4` does."""
    with create_dataset(tmp_path / "a.h5", "a", (8, 8)) as writer:
        for value in range(5):
            pixels = np.full((8, 8, 3), value, np.uint8)
            writer.add(pixels, pixel_digest(pixels), look_hash(pixels))
        writer.finish(Catalogue.of(map(str, range(5)), [None] * 5, [None] * 5))
    with h5py.File(tmp_path / "a.h5", "a") as file:
        pixels = file["images/pixels"][:]
        del file["images/pixels"]
        file.create_dataset("images/pixels", data=pixels, chunks=(1, 8, 8, 3), compression=4)
    monkeypatch.setattr("swancli.store.hdf5.MOST_UNPACKED", 500)
    with Dataset(tmp_path / "a.h5") as dataset:
        assert [int(dataset.image(row).mean()) for row in range(5)] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("kind", "older", "read", "again"),
    [
        (DATASET, 2, Dataset, "swan prepare"),  # without bands and stretch
        (EMBEDDINGS, 3, open_embeddings, "swan embed"),  # without bands, stretch and source
        (FEATURES, 1, None, "swan prepare --features"),
        (
            TILES,
            3,
            lambda path: open_tiles(path).__enter__(),
            "swan embed --scene-image",
        ),  # without bands, stretch and source
        (PART, 1, lambda path: read_part(path, ""), "swan embed"),  # without not_read
    ],
)
def test_files_of_earlier_layouts_are_of_an_older_version_and_not_damaged(tmp_path, kind, older, read, again):
    with create_store(tmp_path / "a.h5", kind) as file:
        version = file.attrs["version"]
    with h5py.File(tmp_path / "a.h5", "a") as file:
        file.attrs["version"] = older
    with pytest.raises(StoreError) as caught:
        read(tmp_path / "a.h5") if read else open_store(tmp_path / "a.h5", kind)
    said = f"a.h5: version {older} of {kind}; this swan reads version {version}\nmake it again: {again}"
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("column", "values", "said"),
    [
        ("captions/text", None, "no /captions/text"),
        ("captions/text", [1, 2], "/captions/text contains int64"),
        ("captions/image", [0, 9], r"/captions/image\[1\] is 9, and there are 2"),
        ("captions/image", [0, -2], r"/captions/image\[1\] is -2"),
        ("captions/image", [0], r"/captions/image has the shape \(1,\), not \(2\)"),
        ("images/scene", [0], r"/images/scene has the shape \(1,\), not \(2\)"),
        ("images/scene", [0, 7], r"/images/scene\[1\] is 7, and there are 1"),
    ],
)
def test_damaged_columns_are_reported(tmp_path, column, values, said):
    with create_store(tmp_path / "a.h5", DATASET) as file:
        write_catalogue(file, Catalogue.of("ab", ["x", None], ["val", "val"], "cd", [0, 1]))
        del file[column]
        if values is not None:
            file[column] = np.array(values)
    with open_store(tmp_path / "a.h5", DATASET) as file, pytest.raises(StoreError, match=said):
        read_catalogue(file)


@pytest.fixture
def odd_file(tmp_path):
    """A store with a group, a single number, and arrays of several types."""
    with create_store(tmp_path / "a.h5", DATASET) as file:
        file["group/inside"] = [1]
        file["single"] = 1
        file["empty"] = h5py.Empty("f")
        file["whole"] = np.zeros((2, 3), np.int32)
        file["text"] = ["a", "b"]
        file.attrs["number"] = 1
    return tmp_path / "a.h5"


@pytest.mark.parametrize(
    ("name", "kinds", "shape", "said"),
    [
        ("absent", "iu", (2,), "no /absent"),
        ("group", "iu", (1,), "/group is not an array"),
        ("single", "iu", (None,), r"/single has the shape \(\), not \(any\)"),
        ("empty", "f", (None,), r"/empty has the shape None, not \(any\)"),
        ("whole", "iu", (2,), r"/whole has the shape \(2, 3\), not \(2\)"),
        ("whole", "iu", (2, 4), r"/whole has the shape \(2, 3\), not \(2, 4\)"),
        ("whole", "iu", (None, 2), r"/whole has the shape \(2, 3\), not \(any, 2\)"),
        ("whole", "f", (2, 3), "/whole contains int32"),
        ("text", "iu", (2,), "/text contains object"),
    ],
)
def test_array_that_is_not_as_it_should_be_is_named(odd_file, name, kinds, shape, said):
    with (
        pytest.raises(StoreError, match=f"a.h5: damaged .*{said}") as caught,
        reading(odd_file, DATASET) as file,
    ):
        array_in(file, name, kinds, *shape)
    assert caught.value.hint == "make it again: swan prepare"


def test_array_of_the_right_type_and_shape_is_taken(odd_file):
    with reading(odd_file, DATASET) as file:
        assert (
            array_in(file, "whole", "iu", None, 3).shape
            == array_in(file, "whole", "iu", 2, 3).shape
            == (2, 3)
        )
        assert texts_in(file, "text").tolist() == texts_in(file, "text", 2).tolist() == ["a", "b"]
        with pytest.raises(ValueError, match=r"/text has the shape \(2,\), not \(3\)"):
            texts_in(file, "text", 3)
        with pytest.raises(TypeError, match="its attribute number is not text"):
            text_attribute(file, "number")


@pytest.mark.parametrize("name", ["format", "version", "complete"])
def test_attribute_of_several_values_is_damage(odd_file, name):
    with h5py.File(odd_file, "r+") as file:
        file.attrs[name] = [1, 1]
    assert f"a.h5: damaged (its attribute {name} has the shape (2,))" in open_problem(odd_file)


def test_damage_is_reported_in_its_first_line_and_without_the_quotes_of_a_key():
    for error in (KeyError("no /a\nbelow it"), ValueError("no /a\nbelow it"), OSError("no /a")):
        with pytest.raises(StoreError) as caught, damage_named("a.h5", EMBEDDINGS):
            raise error
        assert str(caught.value) == "a.h5: damaged (no /a)\nmake it again: swan embed"
    with pytest.raises(ZeroDivisionError), damage_named("a.h5", EMBEDDINGS):
        raise ZeroDivisionError


def is_open(path):
    """Whether this process has a file open, in which case HDF5 does not open it for writing."""
    try:
        h5py.File(path, "r+").close()
    except OSError:
        return True
    return False


def test_file_is_closed_when_it_is_refused_or_read_and_stays_open_on_request(odd_file):
    with pytest.raises(StoreError) as refused, reading(odd_file, VOCABULARY):
        pass
    assert not is_open(odd_file)  # although the error, which is still here, refers to it
    assert "a swan-vocab file is needed" in refused.value.problem
    with reading(odd_file, DATASET) as read:
        pass
    assert not read
    with reading(odd_file, DATASET, stay_open=True) as kept:
        pass
    assert kept
    kept.close()
    with pytest.raises(StoreError, match="damaged"), reading(odd_file, DATASET, stay_open=True) as read:
        raise ValueError("no")
    assert not read
    assert not is_open(odd_file)


def test_another_file_of_hdf5_is_replaced_by_a_store(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.attrs["format"] = "of another program"
    with create_store(tmp_path / "a.h5", DATASET):
        pass
    open_store(tmp_path / "a.h5", DATASET).close()


def test_paths_are_relative_to_the_file_and_addresses_stay(tmp_path):
    for path, stored in (
        ("", ""),
        ("s3://bucket/images", "s3://bucket/images"),
        (str(tmp_path / "images"), "../images"),
        (str(tmp_path / "run" / "best.pt"), "best.pt"),
    ):
        assert to_relative(path, tmp_path / "run") == stored
        assert from_relative(stored, tmp_path / "run") == path


def test_column_of_lists_is_a_column_of_objects():
    column = objects([[1, 2], [3, 4]])
    assert (column.shape, column.dtype, column[1]) == ((2,), object, [3, 4])


# ---------------------------------------------------------------------------------------------------------
# data sets and embeddings


def test_pixels_read_back_with_one_chunk_an_image(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (3, 4, 5, 3), dtype=np.uint8)
    with create_dataset(tmp_path / "dataset.h5", "tiny", (4, 5)) as writer:
        for image in images:
            writer.add(image, pixel_digest(image), look_hash(image))
        writer.finish(Catalogue.of("abc", [None] * 3, ["train"] * 3), [("d.jpg", "absent")])
    with Dataset(tmp_path / "dataset.h5") as dataset:
        assert dataset.name == "tiny"
        assert all((dataset.image(row) == images[row]).all() for row in range(3))
        assert dataset.digests(np.arange(len(images))).tolist() == [pixel_digest(image) for image in images]
    with h5py.File(tmp_path / "dataset.h5", "a") as file:
        assert file["images/pixels"].chunks == (1, 4, 5, 3)
        assert file["skipped/filename"].asstr()[:].tolist() == ["d.jpg"]
        assert file["skipped/reason"].asstr()[:].tolist() == ["absent"]
        del file["images/digest"]
    with pytest.raises(StoreError, match="no /images/digest"):
        Dataset(tmp_path / "dataset.h5")


def test_encoded_images_are_decoded_when_they_are_read(tmp_path):
    path, looks = tmp_path / "dataset.h5", [2**63 + 1, 0, 7]
    with create_dataset(path, "tiny", None) as writer:
        for shade, look in zip((10, 20, 30), looks, strict=True):
            content = io.BytesIO()
            Image.new("RGB", (5, 4), (shade, 0, 0)).save(content, "PNG")
            writer.add(content.getvalue() if shade != 30 else b"none", f"digest {shade}", look)
        splits = ["train", "val", None]
        writer.finish(Catalogue.of(["a", "b", "c.png"], [None] * 3, splits, ["a road"], [0]))
    with Dataset(path) as dataset:
        assert dataset.image(1).shape == (4, 5, 3)
        assert dataset.image(1)[3, 4].tolist() == [20, 0, 0]
        with pytest.raises(ImageError, match=r"dataset\.h5, image c\.png: not an image"):
            dataset.image(2)
        assert dataset.digests(np.array([2, 0])).tolist() == ["digest 30", "digest 10"]
        assert dataset.looks(np.array([1, 0])).tolist() == [0, 2**63 + 1]
        assert dataset.rows_of("train").tolist() == [0]
        for split, there in (("val", "train, val"), ("test", "train, val")):
            said = rf"dataset\.h5: no captions in split '{split}' \(it has {there}\)"
            with pytest.raises(SwanError, match=said) as caught:
                dataset.rows_of(split)
            assert "--split" in caught.value.hint
    assert not is_open(path)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (np.zeros((1, 4, 4, 3), np.uint16), "/images/pixels contains uint16 of the shape"),
        (np.zeros((1, 0, 4, 3), np.uint8), r"of the shape \(1, 0, 4, 3\)"),
        (np.zeros((1, 4, 4, 4), np.uint8), r"not \(1, any, any, 3\)"),
    ],
)
def test_pixels_that_are_no_images_are_refused(tmp_path, values, said):
    with create_dataset(tmp_path / "dataset.h5", "tiny", (4, 4)) as writer:
        writer.add(np.zeros((4, 4, 3), np.uint8), "digest", 1)
        writer.finish(Catalogue.of(["a"], [None], ["train"], ["a road"], [0]))
    with h5py.File(tmp_path / "dataset.h5", "r+") as file:
        del file["images/pixels"]
        file["images/pixels"] = values
    with pytest.raises(StoreError, match=said):
        Dataset(tmp_path / "dataset.h5")


@pytest.mark.parametrize("shape", [(4, 4), None])
def test_data_set_may_be_empty(tmp_path, shape):
    with create_dataset(tmp_path / "dataset.h5", "none", shape) as writer:
        writer.finish(Catalogue.of())
    with Dataset(tmp_path / "dataset.h5") as dataset:
        assert len(dataset.catalogue.filename) == len(dataset.digests(np.arange(0))) == 0
        with pytest.raises(SwanError, match=r"no captions in split 'val' \(it has no splits\)"):
            dataset.rows_of("val")


@pytest.mark.parametrize(
    "catalogue",
    [
        Catalogue.of("ab", [None] * 2, [None] * 2),
        Catalogue.of("a", [None], [None], ["a road", "a pond"], [0]),
    ],
)
def test_columns_of_different_lengths_are_not_written(tmp_path, catalogue):
    def write():
        with create_dataset(tmp_path / "a.h5", "a", None) as writer:
            writer.add(b"png", "digest", 0)
            writer.finish(catalogue)

    with pytest.raises(ValueError, match="zip"):
        write()
    assert list(tmp_path.iterdir()) == []


def test_data_set_that_cannot_be_read_on_is_named(tmp_path):
    path = tmp_path / "dataset.h5"
    digest_of(path, [1], Catalogue.of(["a.png"], [None], ["train"]))
    dataset = Dataset(path)
    dataset.close()  # as if the disk were gone
    for read, name in (
        (lambda: dataset.image(0), f"{path}, image a.png"),
        (lambda: dataset.digests(np.arange(1)), path),
        (lambda: dataset.looks(np.arange(1)), path),
    ):
        with pytest.raises(StoreError, match=f"^{name}: damaged") as caught:
            read()
        assert caught.value.hint == "make it again: swan prepare"


def digest_of(path, images, catalogue):
    """The digest of a data set as it is written and read."""
    with create_dataset(path, "tiny", (1, 1)) as writer:
        for value in images:
            image = np.full((1, 1, 3), value, np.uint8)
            writer.add(image, pixel_digest(image), look_hash(image))
        writer.finish(catalogue)
    with Dataset(path) as dataset:
        return dataset.digest


def test_digest_of_a_data_set_is_another_one_once_any_row_has_changed(tmp_path):
    rows = {
        "filename": ["a", "b"],
        "scene": ["x", None],
        "split": ["train", "val"],
        "text": ["one", "two"],
        "image": [0, 1],
    }
    path = tmp_path / "dataset.h5"
    digest = digest_of(path, [1, 2], Catalogue.of(**rows))
    assert digest == digest_of(path, [1, 2], Catalogue.of(**rows))
    changes = (
        {"filename": ["a", "c"]},
        {"scene": ["x", "None"]},
        {"split": ["train", None]},
        {"text": ["one", "three"]},
        {"image": [1, 1]},
        {name: values[::-1] for name, values in rows.items()},  # in another order
    )
    others = [digest_of(path, [1, 2], Catalogue.of(**rows | change)) for change in changes]
    others.append(digest_of(path, [1, 3], Catalogue.of(**rows)))
    assert len({digest, *others}) == 8


def test_embeddings_read_back(tmp_path):
    catalogue = Catalogue.of("ab", ["x", None], ["val", "val"], "cde", [0, 1, 1])
    image, caption = np.eye(2, 4, dtype=np.float32), np.ones((3, 4), dtype=np.float32) / 2
    made_by = MadeBy(str(tmp_path / "best.pt"), "0" * 64, 4, "repaired", str(tmp_path / "vocab.json"))
    written = Embeddings(image, caption, catalogue, "tiny", made_by)
    write_embeddings(tmp_path / "embeddings.h5", written, "ab")
    read = read_embeddings(tmp_path / "embeddings.h5")
    assert (read.image == image).all()
    assert (read.caption == caption).all()
    assert columns(read.catalogue) == columns(catalogue)
    assert (read.dataset, read.made_by) == ("tiny", made_by)


def small_embeddings(image, caption):
    nothing = [None] * len(image)
    catalogue = Catalogue.of(["a"] * len(image), nothing, nothing, ["c"] * len(caption), [0] * len(caption))
    return Embeddings(image, caption, catalogue, "tiny", MadeBy("best.pt", "", 4, "repaired"))


def test_digest_depends_on_the_image_embeddings_alone_however_they_lie_in_memory(tmp_path):
    rng = np.random.default_rng(0)
    image, caption = rng.random((50, 4), np.float32), rng.random((3, 4), np.float32)
    path = tmp_path / "embeddings.h5"
    digest = write_embeddings(path, small_embeddings(image, caption), ["a"] * 50)
    assert open_embeddings(path).digest == digest
    for same in (image.astype(np.float64), np.asfortranarray(image)):
        assert write_embeddings(path, small_embeddings(same, caption[:1]), ["b"] * 50) == digest
    for other in (image[::-1], image[:-1], image + np.float32(1e-6), image.reshape(25, 8)[:, :4]):
        assert write_embeddings(path, small_embeddings(other, caption), ["a"] * len(other)) != digest


def test_embeddings_are_a_table_of_images(tmp_path):
    image = np.eye(2, 4, dtype=np.float32)
    catalogue = Catalogue.of("ab", ["x", None], ["val", "test"], ["c"], [0])
    written = Embeddings(image, image[:1], catalogue, "tiny", MadeBy("best.pt", "", 4, "repaired"))
    write_embeddings(tmp_path / "embeddings.h5", written, "ab")
    for embeddings in (open_embeddings(str(tmp_path / "embeddings.h5")), written):
        table = embeddings.to_frame()
        assert table.columns.tolist() == ["filename", "scene", "split", "embedding"]
        assert table.filename.tolist() == ["a", "b"]
        assert table.scene.isna().tolist() == [False, True]
        assert table.embedding[1].dtype == np.float32
        np.testing.assert_array_equal(np.stack(table.embedding), image)


@pytest.mark.parametrize(
    "name", ["digest", "dataset_digest", "dataset", "checkpoint", "vocab", "pictures", "images/digest"]
)
def test_embeddings_without_what_swan_writes_are_refused(tmp_path, name):
    path = tmp_path / "embeddings.h5"
    write_embeddings(path, small_embeddings(np.eye(2, 4), np.eye(1, 4)), "ab")
    with h5py.File(path, "r+") as file:
        del (file if "/" in name else file.attrs)[name]
    with pytest.raises(StoreError, match=rf"embeddings\.h5: damaged \(.*{name}"):
        open_embeddings(path)


def test_embeddings_of_another_type_or_width_are_refused(tmp_path):
    path = tmp_path / "embeddings.h5"
    for name, values, said in (
        ("images/embedding", np.eye(2, 4), "/images/embedding contains float64, not float32"),
        ("captions/embedding", np.eye(1, 4), "/captions/embedding contains float64, not float32"),
        ("captions/embedding", np.eye(1, 8, dtype=np.float32), r"/captions/embedding has the shape \(1, 8\)"),
        ("captions/embedding", np.eye(2, 4, dtype=np.float32), r"/captions/embedding has the shape \(2, 4\)"),
        ("images/digest", ["a"], r"/images/digest has the shape \(1,\), not \(2\)"),
        ("images/seen", np.zeros(3, np.uint8), r"/images/seen has the shape \(3,\), not \(2\)"),
    ):
        write_embeddings(path, small_embeddings(np.eye(2, 4), np.eye(1, 4)), "ab")
        with h5py.File(path, "r+") as file:
            file.pop(name, None)
            file[name] = values
        with pytest.raises(StoreError, match=said):
            open_embeddings(path)
        assert not is_open(path)


def test_pictures_are_found_after_they_moved_with_their_embeddings(tmp_path):
    (tmp_path / "one").mkdir()
    for pictures, stored in (
        (str(tmp_path / "one" / "images"), "images"),
        ("s3://bucket/a", "s3://bucket/a"),
    ):
        written = replace(small_embeddings(np.eye(2, 4), np.eye(1, 4)), pictures=pictures)
        write_embeddings(tmp_path / "one" / "embeddings.h5", written, "ab")
        with h5py.File(tmp_path / "one" / "embeddings.h5") as file:
            assert file.attrs["pictures"] == stored
            assert file.attrs["identity"] == ""
        assert read_embeddings(tmp_path / "one" / "embeddings.h5").pictures == pictures
        moved = (tmp_path / "one").rename(tmp_path / "two")
        assert read_embeddings(moved / "embeddings.h5").pictures == pictures.replace("/one/", "/two/")
        moved.rename(tmp_path / "one")


def test_embedding_whose_length_is_not_1_is_named_with_its_row(tmp_path):
    caption = np.eye(3, 4) * [[1], [1], [0.5]]
    write_embeddings(tmp_path / "embeddings.h5", small_embeddings(np.eye(2, 4), caption), "ab")
    with pytest.raises(StoreError, match=r"embeddings\.h5: /captions/embedding\[2\] has the length 0\.5"):
        read_embeddings(tmp_path / "embeddings.h5")


def test_embeddings_of_an_archive_are_found_by_its_identity(tmp_path):
    path = tmp_path / "embeddings.h5"
    assert find_embeddings(path, "one") is None
    seen = np.array([1, 0], np.uint8)
    written = replace(small_embeddings(np.eye(2, 4), np.eye(1, 4)), seen=seen)
    write_embeddings(path, written, "ab", "one", [("c", "gone")])
    assert find_embeddings(path, "two") is None
    assert not is_open(path)
    found = find_embeddings(path, "one")
    assert found.seen.tolist() == [1, 0]
    assert read_skipped(found.image.file) == [("c", "gone")]
    found.image.file.close()
    store_match(path, '{"threshold": 0.5}')
    read = read_embeddings(path)
    assert read.made_by == replace(
        written.made_by, match='{"threshold": 0.5}', checkpoint=read.made_by.checkpoint
    )
    assert (read.image == np.eye(2, 4)).all()


def test_data_set_that_was_prepared_again_is_reported_and_one_that_is_gone_is_not(tmp_path):
    rows = Catalogue.of("ab", [None] * 2, ["train"] * 2, ["a road"], [0])
    path = tmp_path / "dataset.h5"
    digest = digest_of(path, [1, 2], rows)
    embeddings = replace(
        small_embeddings(np.eye(2, 4), np.eye(1, 4)), pictures=str(path), dataset_digest=digest
    )
    assert changed_since(embeddings) == ""
    assert digest_of(path, [1, 3], rows) != digest
    assert changed_since(embeddings).startswith(f"{path} was prepared again after it was embedded")
    assert changed_since(replace(embeddings, dataset_digest="")) == ""
    path.write_bytes(b"damaged")
    assert changed_since(embeddings) == ""
    path.unlink()
    assert changed_since(embeddings) == ""


def test_opened_embeddings_stay_in_the_file_until_they_are_read(tmp_path):
    image = np.random.default_rng(0).random((20, 4), np.float32)
    path = tmp_path / "embeddings.h5"
    write_embeddings(path, small_embeddings(image, np.eye(1, 4)), ["a"] * 20)
    opened = open_embeddings(path)
    assert isinstance(opened.image, h5py.Dataset)
    assert (opened.image[5:7] == image[5:7]).all()
    there = mapped(opened.image)
    opened.image.file.close()
    assert isinstance(there, np.memmap)
    assert (there[[3, 19]] == image[[3, 19]]).all()


def test_column_that_is_not_in_one_piece_is_read(tmp_path):
    with h5py.File(tmp_path / "file.h5", "w") as file:
        column = file.create_dataset("column", data=np.arange(10), chunks=(3,), compression="gzip")
        assert mapped(column).tolist() == list(range(10))
        assert mapped(file.create_dataset("empty", (0, 4), np.float32)).shape == (0, 4)


def test_checkpoint_is_found_after_it_moved_with_its_embeddings(tmp_path):
    folder = tmp_path / "run"
    made_by = MadeBy(str(folder / "best.pt"), "", 4, "repaired", str(folder / "vocab.json"))
    empty = Embeddings(np.zeros((0, 4)), np.zeros((0, 4)), Catalogue.of(), "tiny", made_by)
    write_embeddings(folder / "embeddings.h5", empty, [])
    assert read_embeddings(folder / "embeddings.h5").made_by == made_by
    moved = folder.rename(tmp_path / "moved")
    found = read_embeddings(moved / "embeddings.h5").made_by
    assert (found.checkpoint, found.vocab) == (str(moved / "best.pt"), str(moved / "vocab.json"))


def test_embeddings_that_do_not_fit_their_rows_are_refused(tmp_path):
    catalogue = Catalogue.of("ab", ["x", None], ["val", "val"], "c", [0])
    wrong = Embeddings(
        np.zeros((3, 4)), np.zeros((1, 4)), catalogue, "tiny", MadeBy("best.pt", "", 4, "repaired")
    )
    write_embeddings(tmp_path / "embeddings.h5", wrong, "ab")
    with pytest.raises(StoreError, match="/images/embedding has the shape"):
        read_embeddings(tmp_path / "embeddings.h5")


def elsewhere_raw(file, other):
    file.create_dataset("images/pixels", (1, 8, 8, 3), np.uint8, external=[(str(other), 0, 192)])


def elsewhere_link(file, other):
    file["images/pixels"] = h5py.ExternalLink(str(other), "/pixels")


def elsewhere_virtual(file, other):
    layout = h5py.VirtualLayout((1, 8, 8, 3), np.uint8)
    layout[:] = h5py.VirtualSource(str(other), "/pixels", (1, 8, 8, 3))
    file.create_virtual_dataset("images/pixels", layout)


def elsewhere_by_a_soft_link(file, other):
    file["kept/pixels"] = h5py.ExternalLink(str(other), "/pixels")
    file["images/pixels"] = h5py.SoftLink("/kept/pixels")


@pytest.mark.parametrize(
    "lead",
    [elsewhere_raw, elsewhere_link, elsewhere_virtual, elsewhere_by_a_soft_link],
    ids=lambda f: f.__name__,
)
def test_file_whose_pixels_lie_in_another_file_is_refused(tmp_path, lead):
    """A stranger's could show any file of this machine, such as a key, as a picture."""
    other = tmp_path / "other.h5"
    with h5py.File(other, "w") as file:
        file["pixels"] = np.zeros((1, 8, 8, 3), np.uint8)
    with create_store(tmp_path / "a.h5", DATASET) as file:
        file.attrs["dataset"] = "a"
        write_catalogue(file, Catalogue.of(["a.png"], [None], ["train"], ["a road"], [0]))
        lead(file, other)
    with pytest.raises(StoreError, match="is in another file") as caught:
        Dataset(tmp_path / "a.h5")
    assert caught.value.hint == "make it: swan prepare"


def test_link_to_another_file_whose_name_is_no_text_is_refused(tmp_path):
    with create_store(tmp_path / "a.h5", DATASET) as file:
        file.id.links.create_external(b"\xff", b"other.h5", b"/pixels")
    assert "its /\ufffd is in another file" in open_problem(tmp_path / "a.h5")


def test_soft_link_inside_the_file_is_followed(tmp_path):
    with create_store(tmp_path / "a.h5", DATASET) as file:
        file.attrs["dataset"] = "a"
        write_catalogue(file, Catalogue.of(["a.png"], [None], ["train"], ["a road"], [0]))
        file.attrs.update(digest="0", bands="", stretch="")
        file["images/digest"] = ["0"]
        file["images/look"] = np.zeros(1, np.uint64)
        file["kept"] = np.full((1, 8, 8, 3), 7, np.uint8)
        file["images/pixels"] = h5py.SoftLink("/kept")
    with Dataset(tmp_path / "a.h5") as dataset:
        assert (dataset.image(0) == 7).all()


@pytest.mark.parametrize("kind", [h5py.vlen_dtype(np.float32), h5py.string_dtype(), h5py.ref_dtype])
def test_column_of_objects_is_never_mapped(tmp_path, kind):
    """Its bytes in the file would be taken for addresses in memory."""
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("a", (3,), kind)
        assert not isinstance(mapped(file["a"]), np.memmap)


def test_embeddings_that_are_not_finite_are_refused(tmp_path):
    path = tmp_path / "embeddings.h5"
    catalogue = Catalogue.of(["a"], [None], [None])
    vectors = np.ones((1, 4), np.float32)
    made_by = MadeBy("best.pt", "", 4, "repaired")
    write_embeddings(path, Embeddings(vectors, vectors[:0], catalogue, "a", made_by), "a")
    with h5py.File(path, "a") as file:
        del file["images/embedding"]
        file.create_dataset("images/embedding", (1, 4), h5py.vlen_dtype(np.float32))
    with pytest.raises(StoreError, match="contains object"):
        open_embeddings(path)


@pytest.mark.parametrize("column", ["pixels", "encoded", "digest", "look"])
def test_images_that_are_not_one_for_each_name_are_refused(tmp_path, column):
    """They would be paired with the captions of other images."""
    path = tmp_path / "dataset.h5"
    with create_dataset(path, "a", None if column == "encoded" else (8, 8)) as writer:
        for name in ("a", "b"):
            writer.add(b"png" if column == "encoded" else np.zeros((8, 8, 3), np.uint8), name, 0)
        writer.finish(Catalogue.of(["a", "b"], [None] * 2, ["train"] * 2, ["a road"] * 2, [0, 1]))
    with h5py.File(path, "a") as file:
        values = file[f"images/{column}"][:1]
        del file[f"images/{column}"]
        kind = h5py.vlen_dtype(np.uint8) if column == "encoded" else None
        file.create_dataset(f"images/{column}", data=values, dtype=kind)
    with pytest.raises(StoreError, match=rf"/images/{column} has the shape \(1,.*not \(2"):
        Dataset(path)


# ---------------------------------------------------------------------------------------------------------
# pieces of embeddings


def write_parts(folder):
    """Five vectors in two pieces, of three and of two."""
    vectors = np.eye(5, 8, dtype=np.float32)
    paths = [folder / f"piece-{number}.h5" for number in (1, 2)]
    for path, rows in zip(paths, (slice(0, 3), slice(3, 5)), strict=True):
        names = [f"{row}.png" for row in range(5)][rows]
        catalogue = Catalogue.of(names, [None] * len(names), [None] * len(names))
        write_part(path, Part(catalogue, np.array(names, object), [("b.png", "gone")]), vectors[rows], "id")
    return paths, vectors


def test_part_reads_back(tmp_path):
    paths, vectors = write_parts(tmp_path)
    part = read_part(paths[1], "id")
    assert part.catalogue.filename.tolist() == part.pixel_digest.tolist() == ["3.png", "4.png"]
    assert part.skipped == [("b.png", "gone")]
    np.testing.assert_array_equal(read_part_vectors(paths[1], 2, 8), vectors[3:])


@pytest.mark.parametrize("block", [1, 2, 4, 100])
def test_rows_gathered_from_pieces_are_written_as_those_of_one_array_are(tmp_path, monkeypatch, block):
    monkeypatch.setattr(vectors_module, "BLOCK", block)
    paths, vectors = write_parts(tmp_path)
    place = np.array([4, 0, 1, 2, 3, 0, 4, 4])  # rows of equal pictures have the vector of the first
    catalogue = Catalogue.of("abcdefgh", [None] * 8, [None] * 8)
    digests = []
    for name, image in (("a.h5", GatheredRows(paths, [3, 2], place, 8)), ("b.h5", vectors[place])):
        made = Embeddings(image, vectors[:0], catalogue, "a", MadeBy("b", "", 8, "repaired"))
        digests.append(write_embeddings(tmp_path / name, made, "stuvwxyz"))
    assert digests[0] == digests[1]
    np.testing.assert_array_equal(read_embeddings(tmp_path / "a.h5").image, vectors[place])
    with h5py.File(tmp_path / "a.h5") as file:
        assert not file["images/embedding"].is_virtual


def replace_vectors(path, vectors):
    with h5py.File(path, "r+") as file:
        del file["images/embedding"]
        file["images/embedding"] = vectors


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda path: path.unlink(), r"piece-2\.h5: no such file"),
        (lambda path: path.write_bytes(path.read_bytes()[:2000]), r"piece-2\.h5: not a readable HDF5 file"),
        (lambda path: replace_vectors(path, np.eye(2, 8, dtype=np.float32)), "its vectors are damaged"),
        (lambda path: replace_vectors(path, np.eye(3, 8, dtype=np.float32)), r"has the shape \(3, 8\)"),
        (lambda path: replace_vectors(path, np.eye(2, 4, dtype=np.float32)), r"has the shape \(2, 4\)"),
        (lambda path: replace_vectors(path, np.eye(2, 8, dtype=np.float64)), "its vectors are damaged"),
    ],
)
def test_piece_that_is_not_as_it_was_written_ends_the_joining_and_leaves_no_file(tmp_path, spoil, said):
    paths, vectors = write_parts(tmp_path)
    spoil(paths[1])
    image = GatheredRows(paths, [3, 2], np.arange(5), 8)
    catalogue = Catalogue.of("abcde", [None] * 5, [None] * 5)
    with pytest.raises(StoreError, match=said):
        write_embeddings(
            tmp_path / "a.h5",
            Embeddings(image, vectors[:0], catalogue, "a", MadeBy("b", "", 8, "repaired")),
            "abcde",
        )
    assert sorted(path.name for path in tmp_path.iterdir() if "piece" not in path.name) == []


def test_open_file_is_mapped_and_not_the_one_that_has_its_name_by_now(tmp_path):
    """A running server would show the names of the old file with the vectors of the new one."""
    for name, value in (("old.h5", 1), ("new.h5", 2)):
        with h5py.File(tmp_path / name, "w") as file:
            file["a"] = np.full(1000, value)
    with h5py.File(tmp_path / "old.h5") as file:
        (tmp_path / "new.h5").replace(tmp_path / "old.h5")
        assert (mapped(file["a"]) == 1).all()


def test_array_of_another_file_is_not_read_whatever_has_led_to_it(tmp_path):
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["a"] = np.arange(3)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        layout = h5py.VirtualLayout((3,), np.int64)
        layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "a", (3,))
        file.create_virtual_dataset("hidden/a", layout)
        file["shown"] = h5py.SoftLink("/hidden/a")
        with pytest.raises(ValueError, match="in another file"):
            array_in(file, "shown", "i", 3)


def test_array_whose_values_were_never_written_is_refused(tmp_path):
    """A file of a few kilobytes can claim any number of rows, which would all be made when they are read."""
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("empty", (10**12,), np.float32, chunks=(1024,))
        file.create_dataset("part", (10**6,), np.float32, chunks=(1024,))[:2048] = 1
        file.create_dataset("packed", (10**9,), np.float32, chunks=(10**6,), compression="gzip")
        file["whole"] = np.ones(10, np.float32)
        file.create_dataset("zipped", data=np.zeros(10**5, np.float32), compression="gzip")
        file.create_dataset("none", (0,), np.float32)
        for name in ("empty", "part", "packed"):
            with pytest.raises(ValueError, match="does not contain all of it"):
                array_in(file, name, "f", None)
        for name in ("whole", "zipped", "none"):
            array_in(file, name, "f", None)


def test_data_set_with_pictures_beyond_any_image_is_refused(tmp_path):
    with create_store(tmp_path / "a.h5", DATASET) as file:
        file.attrs.update(dataset="a", digest="0")
        write_rendering(file, AS_SAID)
        write_catalogue(file, Catalogue.of(["a.png"], [None], ["train"], ["a road"], [0]))
        file["images/digest"] = ["0"]
        file["images/look"] = np.zeros(1, np.uint64)
        shape = (1, 20_000, 20_000, 3)
        file.create_dataset("images/pixels", shape, np.uint8, chunks=(1, 1000, 1000, 3), compression="gzip")
    with pytest.raises(StoreError, match="20000, 20000"):
        Dataset(tmp_path / "a.h5")
