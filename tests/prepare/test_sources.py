"""Every layout a source may have, and what is said about a source that is wrong."""

import errno
import json
import os
import sys
from collections import Counter

import pandas
import pytest

from swancli.errors import SwanError
from swancli.prepare.entries import Entry
from swancli.prepare.lookup import Lookup
from swancli.prepare.sources import read_source


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def write_json(path, content):
    return write(path, json.dumps(content))


def image(filename="1.jpg", split="train", captions=("a road",), **more):
    return {"filename": filename, "split": split, "sentences": [{"raw": text} for text in captions], **more}


def read_problem(path, *arguments):
    with pytest.raises(SwanError) as caught:
        read_source(path, *arguments)
    return str(caught.value)


def write_precomp(folder, name, captions, filenames, ending=""):
    write(folder / f"{name}_caps{ending}.txt", "".join(f"{line}\n" for line in captions))
    write(folder / f"{name}_filename{ending}.txt", "".join(f"{line}\n" for line in filenames))


# ---------------------------------------------------------------------------------------------------------
# karpathy


def test_karpathy_entries_keep_order_split_scene_and_stripped_captions(tmp_path):
    images = [image("9.jpg", "restval", [" a road . ", "b"], scene="Sparse Forest"), image("1.jpg", "test")]
    source = read_source(write_json(tmp_path / "dataset.json", {"images": images}))
    assert source.format == "karpathy"
    assert source.entries == [
        Entry("9.jpg", ("a road .", "b"), "train", "Sparse Forest"),
        Entry("1.jpg", ("a road",), "test", None),
    ]


def test_karpathy_filepath_is_the_folder_of_the_file(tmp_path):
    images = [image("1.jpg", filepath="val2014"), image("2.jpg", filepath="test/2.jpg")]
    source = read_source(write_json(tmp_path / "dataset.json", {"images": images}))
    assert [entry.filename for entry in source.entries] == ["val2014/1.jpg", "test/2.jpg"]


def test_byte_order_mark_is_accepted(tmp_path):
    file = tmp_path / "dataset.json"
    file.write_bytes(b"\xef\xbb\xbf" + json.dumps({"images": [image()]}).encode())
    assert len(read_source(file).entries) == 1


@pytest.mark.parametrize(
    ("spelled", "split"),
    [
        ("train", "train"),
        ("valid", "val"),
        ("validation", "val"),
        ("dev", "val"),
        ("TEST", "test"),
        ("", None),
    ],
)
def test_split_names_are_brought_to_train_val_test(tmp_path, spelled, split):
    file = write_json(tmp_path / "dataset.json", {"images": [image(split=spelled)]})
    assert read_source(file).entries[0].split == split


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (image(captions=["a", "  "]), "images[1].sentences[1].raw is empty (filename 1.jpg)"),
        (image(split="holdout"), "images[1].split is 'holdout', not a known split"),
        (image(filename="/etc/1.jpg"), "images[1].filename leads out of the folder of images: /etc/1.jpg"),
        (image(filename="a/../../1.jpg"), "images[1].filename leads out"),
        (image(filename="..\\1.jpg"), "images[1].filename leads out"),
        (image(filename="C:\\1.jpg"), "images[1].filename leads out"),
        (image(filename=""), "images[1].filename is empty"),
        (image(filename=7), "images[1].filename is not text but int"),
        (image(filename="a\0b.jpg"), "images[1].filename contains characters that are not text"),
        (image(captions=["\ud800"]), "images[1].sentences[0].raw contains characters that are not text"),
        (image(filename="0.jpg"), "images[1]: 0.jpg is listed twice, first at"),
        ({"filename": "1.jpg"}, "images[1] has no key 'sentences'"),
        ({"sentences": []}, "images[1] has no key 'filename'"),
        ({"filename": "1.jpg", "sentences": {}}, "images[1].sentences is not a list but dict"),
        ({"filename": "1.jpg", "sentences": ["a"]}, "images[1].sentences[0] is not an object but str"),
        ({"filename": "1.jpg", "sentences": [{"tokens": []}]}, "images[1].sentences[0] has no key 'raw'"),
        ("1.jpg", "images[1] is not an object but str"),
    ],
)
def test_karpathy_errors_name_file_and_place(tmp_path, broken, said):
    file = write_json(tmp_path / "dataset.json", {"images": [image("0.jpg"), broken]})
    assert f"{file}: {said}" in read_problem(file)


def test_invalid_json_is_reported_with_line_and_column(tmp_path):
    file = write(tmp_path / "dataset.json", '{"images": [\n  {"filename": }]}')
    assert f"{file}: not valid JSON (Expecting value: line 2 column 16" in read_problem(file)


@pytest.mark.parametrize("content", [{}, [], 3, {"images": {"a": 1}}, {"annotations": 3}])
def test_json_without_images_says_what_is_needed(tmp_path, content):
    file = write_json(tmp_path / "dataset.json", content)
    assert "no list under the key 'images'" in read_problem(file)


def test_text_that_is_not_utf8_is_reported_with_its_line(tmp_path):
    file = tmp_path / "dataset.json"
    file.write_bytes(b'{"images":\n ["caf\xe9"]}')
    assert f"{file}: line 2 is not UTF-8 text" in read_problem(file)


def test_nul_bytes_are_refused(tmp_path):
    file = tmp_path / "dataset.json"
    file.write_bytes("{}".encode("utf-16"))
    assert f"{file}: line 1 is not UTF-8 text" in read_problem(file)
    file.write_bytes("{\n}".encode("utf-16-le"))
    assert f"{file}: line 1 contains NUL bytes, so it is not text" in read_problem(file)


def test_absent_source_is_named(tmp_path):
    assert read_problem(tmp_path / "nowhere").startswith(f"{tmp_path / 'nowhere'}: no such source")


def test_empty_list_of_images_is_refused(tmp_path):
    assert "lists no images" in read_problem(write_json(tmp_path / "dataset.json", {"images": []}))


# ---------------------------------------------------------------------------------------------------------
# nwpu


def test_nwpu_classes_are_scenes_and_captions_keep_their_order(tmp_path):
    item = {"filename": "a_1.jpg", "split": "val", "raw": "0", **{f"raw_{n}": str(n) for n in (10, 2, 1)}}
    source = read_source(write_json(tmp_path / "dataset_nwpu.json", {"golf course": [item]}))
    assert source.format == "nwpu"
    assert source.entries == [Entry("a_1.jpg", ("0", "1", "2", "10"), "val", "golf course")]


def test_nwpu_image_is_found_in_the_folder_of_its_class(tmp_path):
    file = write_json(tmp_path / "dataset_nwpu.json", {"lake": [{"filename": "lake_1.jpg", "raw": "a lake"}]})
    write(tmp_path / "images" / "lake" / "lake_1.jpg", "")
    source = read_source(file)
    path = tmp_path / "images" / "lake" / "lake_1.jpg"
    lookup = Lookup(source.images, ["lake_1.jpg"], source.listed_scenes)
    assert lookup.find(source.entries[0]) == ("lake_1.jpg", path)


def test_nwpu_errors_name_class_and_key(tmp_path):
    file = write_json(tmp_path / "nwpu.json", {"lake": [{"filename": "1.jpg", "raw": "a", "raw_1": ""}]})
    assert f"{file}: lake[0].raw_1 is empty (filename 1.jpg)" in read_problem(file)
    assert "not NWPU's layout" in read_problem(write_json(tmp_path / "b.json", {"images": 3}), "nwpu")


# ---------------------------------------------------------------------------------------------------------
# precomp


@pytest.mark.parametrize("filenames", [["b.tif", "a.tif"], ["b.tif", "b.tif", "a.tif", "a.tif"]])
def test_precomp_takes_file_names_once_an_image_or_once_a_caption(tmp_path, filenames):
    write_precomp(tmp_path, "train", ["1", "2", "3", "4"], filenames)
    source = read_source(tmp_path)
    assert source.format == "precomp"
    assert source.entries == [Entry("b.tif", ("1", "2"), "train"), Entry("a.tif", ("3", "4"), "train")]


def test_precomp_caption_may_hold_other_line_separators(tmp_path):
    write_precomp(tmp_path, "test", ["one\u2028line", "two\x0bhalves"], ["a.tif", "b.tif"])
    assert [entry.captions for entry in read_source(tmp_path).entries] == [
        ("one\u2028line",),
        ("two\x0bhalves",),
    ]


def test_precomp_verify_lists_only_divide_the_training_images(tmp_path):
    write_precomp(tmp_path, "train", "abc", ["1.tif", "2.tif", "3.tif"])
    write_precomp(tmp_path, "test", "d", ["4.tif"])
    write_precomp(tmp_path, "train", "ca", ["3.tif", "1.tif"], "_verify")
    write_precomp(tmp_path, "val", "b", ["2.tif"], "_verify")
    entries = read_source(tmp_path).entries
    assert [(entry.filename, entry.split) for entry in entries] == [
        ("1.tif", "train"),
        ("2.tif", "val"),
        ("3.tif", "train"),
        ("4.tif", "test"),
    ]


def test_precomp_verify_lists_suffice_without_the_plain_ones(tmp_path):
    write_precomp(tmp_path, "train", "ca", ["3.tif", "1.tif"], "_verify")
    write_precomp(tmp_path, "val", "b", ["2.tif"], "_verify")
    assert [entry.filename for entry in read_source(tmp_path).entries] == ["3.tif", "1.tif", "2.tif"]


def test_precomp_verify_lists_that_do_not_fit_are_refused(tmp_path):
    write_precomp(tmp_path, "train", "ab", ["1.tif", "2.tif"])
    write_precomp(tmp_path, "train", "a", ["1.tif"], "_verify")
    assert "1 images are not in both train_filename.txt and a" in read_problem(tmp_path)
    write_precomp(tmp_path, "val", "ab", ["1.tif", "2.tif"], "_verify")
    assert "val_filename_verify.txt: line 1: 1.tif is in train too" in read_problem(tmp_path)


def test_precomp_image_with_nothing_but_blank_lines_has_no_captions(tmp_path):
    write_precomp(tmp_path, "train", ["a", "b", "", " ", "c", "d"], ["1.tif", "2.tif", "3.tif"])
    assert [entry.captions for entry in read_source(tmp_path).entries] == [("a", "b"), (), ("c", "d")]


def test_precomp_blank_line_among_captions_is_an_error_with_its_line(tmp_path):
    write_precomp(tmp_path, "train", ["a", "b", "", "d"], ["1.tif", "2.tif"])
    assert f"{tmp_path / 'train_caps.txt'}: line 3 is empty (filename 2.tif)" in read_problem(tmp_path)


def test_precomp_counts_that_do_not_fit_name_both_files(tmp_path):
    write_precomp(tmp_path, "train", "abcde", ["1.tif", "2.tif"])
    said = read_problem(tmp_path)
    assert f"{tmp_path / 'train_caps.txt'} has 5 captions, no multiple of 2" in said
    assert str(tmp_path / "train_filename.txt") in said


def test_precomp_image_in_two_splits_is_refused(tmp_path):
    write_precomp(tmp_path, "train", "ab", ["1.tif"])
    write_precomp(tmp_path, "test", "ab", ["1.tif"])
    assert "1.tif is listed twice" in read_problem(tmp_path)


def test_precomp_needs_both_lists(tmp_path):
    write(tmp_path / "train_caps.txt", "a\n")
    assert f"{tmp_path / 'train_filename.txt'}: no such file, but train_caps.txt exists" in read_problem(
        tmp_path
    )


# ---------------------------------------------------------------------------------------------------------
# ucm


def write_ucm(folder, descriptions="2 a road .\n2 b .\n10 c .\n", train="10.tif\n", test="2.tif\n"):
    write(folder / "descriptions_UCM.txt", descriptions)
    write(folder / "filenames_train.txt", train)
    write(folder / "filenames_test.txt", test)


@pytest.mark.parametrize("folder", ["", "filenames"])
def test_ucm_numbers_are_the_stems_of_file_names(tmp_path, folder):
    write_ucm(tmp_path / folder)
    (tmp_path / "imgs").mkdir()
    source = read_source(tmp_path)
    assert (source.format, source.images) == ("ucm", tmp_path / "imgs")
    assert source.entries == [Entry("2.tif", ("a road .", "b ."), "test"), Entry("10.tif", ("c .",), "train")]


@pytest.mark.parametrize(
    ("lists", "said"),
    [
        (
            {"descriptions": "2 a\nten b\n"},
            "descriptions_UCM.txt: line 2 does not start with an image number: 'ten b'",
        ),
        (
            {"descriptions": "2 a\n10 b\n\n3 c\n"},
            "descriptions_UCM.txt: line 4: image 3 is in no filenames_*.txt",
        ),
        (
            {"descriptions": "2 a\n10 \n"},
            "descriptions_UCM.txt: line 2: the caption is empty (filename 10.tif)",
        ),
        ({"descriptions": "2 a\n"}, "descriptions_UCM.txt: no caption for 1 listed images, first 10.tif"),
        ({"train": "02.tif\n10.tif\n"}, "filenames_test.txt: line 1: image 2 is listed twice"),
        ({"train": "road10.tif\n"}, "filenames_train.txt: line 1: road10.tif is not <image number>.<suffix>"),
        ({"train": "", "test": ""}, "no file names in filenames_train.txt"),
    ],
)
def test_ucm_errors_name_file_and_line(tmp_path, lists, said):
    write_ucm(tmp_path, **lists)
    assert said in read_problem(tmp_path)


# ---------------------------------------------------------------------------------------------------------
# table


TABLE = 'caption,filename,split,scene\n"a, b",2.png,train,Port\nc,1.png,val,\n\nd,2.png,,\n'


def test_table_rows_are_grouped_by_file_name_in_order(tmp_path):
    source = read_source(write(tmp_path / "list.csv", TABLE))
    assert source.format == "table"
    assert source.entries == [
        Entry("2.png", ("a, b", "d"), "train", "Port"),
        Entry("1.png", ("c",), "val", None),
    ]


def test_table_captions_that_look_like_missing_values_are_kept(tmp_path):
    file = write(tmp_path / "list.csv", "filename,caption\n1.png,None\n1.png,NA\n1.png,12\n")
    assert read_source(file).entries[0].captions == ("None", "NA", "12")


def test_parquet_reads_as_the_same_csv_does(tmp_path):
    pytest.importorskip("pyarrow")
    rows = {"filename": ["2.png", "1.png"], "caption": ["a, b", "c"], "split": ["train", None]}
    pandas.DataFrame(rows).to_parquet(tmp_path / "list.parquet")
    entries = read_source(tmp_path / "list.parquet").entries
    assert entries == [Entry("2.png", ("a, b",), "train"), Entry("1.png", ("c",))]


def test_parquet_without_pyarrow_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert "swancli[parquet]" in read_problem(write(tmp_path / "list.parquet", "PAR1"))


@pytest.mark.parametrize("number", [errno.EIO, errno.EMFILE])
def test_parquet_on_a_failing_disk_is_not_called_damaged(tmp_path, monkeypatch, number):
    parquet = pytest.importorskip("pyarrow.parquet")

    def fail(path):
        raise OSError(number, f"Error reading bytes from file: {os.strerror(number)}")

    monkeypatch.setattr(parquet, "read_schema", fail)
    said = read_problem(write(tmp_path / "list.parquet", "PAR1"))
    assert f"list.parquet: cannot be read ({os.strerror(number)})" in said
    assert "download" not in said


def test_parquet_that_unpacks_to_far_more_than_it_has_is_refused(tmp_path, monkeypatch):
    """A caption of a megabyte, stored once for 30 rows: a file of a few kilobytes."""
    monkeypatch.setattr("swancli.prepare.tables.SMALL_TABLE", 2**24)
    pyarrow = pytest.importorskip("pyarrow")
    pytest.importorskip("pyarrow.parquet")
    rows = {"filename": [f"{row}.jpg" for row in range(30)], "caption": ["road " * 200_000] * 30}
    pyarrow.parquet.write_table(pyarrow.table(rows), tmp_path / "list.parquet", compression="zstd")
    assert (tmp_path / "list.parquet").stat().st_size < 20_000
    assert "unpacks to more than 0.0 GB" in read_problem(tmp_path / "list.parquet")


def test_parquet_of_empty_rows_without_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("swancli.prepare.tables.SMALL_TABLE", 2**24)
    pyarrow = pytest.importorskip("pyarrow")
    pytest.importorskip("pyarrow.parquet")
    nothing = pyarrow.nulls(400_000, "string")
    table = pyarrow.table({"filename": nothing, "caption": nothing})
    pyarrow.parquet.write_table(table, tmp_path / "list.parquet")
    assert "unpacks to more than 0.0 GB" in read_problem(tmp_path / "list.parquet")


def test_parquet_with_numbers_and_categories_is_read_as_text_is(tmp_path):
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    frame = pandas.DataFrame({"FileName": ["1.jpg", "2.jpg"], "caption ": ["a", "b"], "size": [1, 2]})
    frame["scene"] = pandas.Categorical(["road", None])
    frame.set_index("size").to_parquet(tmp_path / "list.parquet")
    entries = read_source(tmp_path / "list.parquet").entries
    assert entries == [Entry("1.jpg", ("a",), None, "road"), Entry("2.jpg", ("b",))]


def test_damaged_parquet_is_named(tmp_path):
    pytest.importorskip("pyarrow")
    file = write(tmp_path / "list.parquet", "no parquet at all")
    assert f"{file}: not a readable Parquet file" in read_problem(file)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("file,caption\n1.png,a\n", "no column filename (it has file, caption)"),
        ("name\n1.png\n", "no column filename and no column caption"),
        ("filename,caption\n1.png,a\n2.png,\n", "row 3: caption is empty (filename 2.png)"),
        ("filename,caption\n\n1.png,a\n,b\n", "row 4: filename is empty"),
        (
            "filename,caption,split\n1.png,a,train\n1.png,b,holdout\n",
            "row 3: split is 'holdout', not a known split",
        ),
        ("filename,caption,split\n1.png,a,train\n1.png,b,test\n", "row 3: split of 1.png is test, but train"),
        ("filename,caption\n1.png,a road, a house\n", "rows have more values than the header"),
        ("filename,caption\n1.png,a\n2.png,b,c\n", "not a readable table"),
        ("filename,caption,Caption\n1.png,a,b\n", "two columns are named caption"),
        ("filename,caption\n../1.png,a\n", "row 2: filename leads out of the folder of images"),
        ("", "not a readable table"),
    ],
)
def test_table_errors_name_file_and_row(tmp_path, text, said):
    file = write(tmp_path / "list.csv", text)
    problem = read_problem(file)
    assert problem.startswith(f"{file}: ")
    assert said in problem


# ---------------------------------------------------------------------------------------------------------
# folder, recognition, scenes


def test_folder_lists_images_below_it_in_natural_order(tmp_path):
    for name in ("b/1.JPG", "img10.png", "img2.png", ".hidden.png", "notes.txt"):
        write(tmp_path / name, "")
    source = read_source(tmp_path)
    assert (source.format, source.images) == ("folder", tmp_path)
    assert [entry.filename for entry in source.entries] == ["b/1.JPG", "img2.png", "img10.png"]


def test_nwpu_keys_with_more_digits_than_python_reads_are_ordered_too(tmp_path):
    many = "9" * 5000
    entry = {"filename": "1.jpg", "raw": "a road", f"raw_{many}": "a house", "raw_2": "a tree"}
    write_json(tmp_path / "list.json", {"road": [entry]})
    (found,) = read_source(tmp_path / "list.json").entries
    assert found.captions == ("a road", "a tree", "a house")


def test_folder_with_json_and_images_is_a_json_source(tmp_path):
    write_json(tmp_path / "dataset.json", {"images": [image()]})
    write(tmp_path / "images" / "1.jpg", "")
    source = read_source(tmp_path)
    assert (source.format, source.images) == ("karpathy", tmp_path / "images")
    assert read_source(tmp_path, "folder").entries == [Entry("images/1.jpg")]


@pytest.mark.parametrize("folder", ["images", "imgs", "rsicd_images", "RSICD_images", "../rsicd_images"])
def test_images_are_looked_for_beside_the_list(tmp_path, folder):
    file = write_json(tmp_path / "home" / "dataset_rsicd.json", {"images": [image()]})
    (file.parent / folder).mkdir()
    assert read_source(file).images == (file.parent / folder).resolve()
    assert read_source(file, images=tmp_path).images == tmp_path


def test_images_may_be_in_the_folder_of_the_lists(tmp_path):
    file = write_json(tmp_path / "dataset.json", {"images": [image()]})
    assert read_source(file).images == tmp_path


def test_several_sources_in_a_folder_ask_for_a_choice(tmp_path):
    write_json(tmp_path / "dataset.json", {"images": [image()]})
    write(tmp_path / "list.csv", "filename,caption\n1.jpg,a\n")
    said = read_problem(tmp_path)
    assert "several sources fit: dataset.json (karpathy or nwpu), list.csv (table)" in said
    assert "--format karpathy|precomp|ucm|nwpu|table|folder" in said
    assert read_source(tmp_path, "table").entries == [Entry("1.jpg", ("a",))]


def write_ucm_as_distributed(folder, listed):
    write_json(
        folder / "dataset.json", {"images": [image("1.tif", captions=["json"]), image("2.tif", "test")]}
    )
    write(folder / "filenames" / "descriptions_UCM.txt", f"{listed[0]} lists\n")
    write(folder / "filenames" / "filenames_train.txt", f"{listed}\n")


def test_json_is_read_where_text_lists_repeat_its_images(tmp_path):
    write_ucm_as_distributed(tmp_path, "1.tif")
    assert [entry.captions for entry in read_source(tmp_path).entries] == [("json",), ("a road",)]
    assert read_source(tmp_path, "ucm").entries == [Entry("1.tif", ("lists",), "train")]


def test_text_lists_of_other_images_than_the_json_ask_for_a_choice(tmp_path):
    write_ucm_as_distributed(tmp_path, "3.tif")
    said = read_problem(tmp_path)
    assert f"several sources fit: dataset.json (karpathy or nwpu), {tmp_path.name} (ucm)" in said


def test_folder_without_a_source_says_what_was_looked_for(tmp_path):
    said = read_problem(tmp_path)
    assert said.startswith(f"{tmp_path}: not a known source\nlooked for a .json list")
    assert "descriptions_*.txt and filenames_train.txt (ucm)" in said
    assert f"{tmp_path}: not a source of format ucm" in read_problem(tmp_path, "ucm")


def test_file_of_another_format_is_refused(tmp_path):
    file = write_json(tmp_path / "dataset.json", {"images": [image()]})
    assert "not a source of format precomp" in read_problem(file, "precomp")
    assert "not a known source" in read_problem(write(tmp_path / "list.txt", "a"))


def test_scenes_come_from_file_names_where_the_list_names_none(tmp_path):
    names = [f"{scene}_{number}.jpg" for scene in ("port", "tennis_court") for number in (1, 2, 3)]
    source = read_source(write_json(tmp_path / "dataset.json", {"images": list(map(image, names))}))
    assert [entry.scene for entry in source.entries] == ["port"] * 3 + ["tennis_court"] * 3
    assert source.scenes == "from file names"


LISTED = {"images": [image("river_1.jpg", scene="Wide River"), image("river_2.jpg"), image("port_3.jpg")]}


@pytest.mark.parametrize(
    ("rule", "scenes", "said"),
    [
        (None, ["Wide River", None, None], "as the source names them"),
        ("name", ["river", "river", "port"], "from file names"),
        ("folder", [None] * 3, "none"),
        ("none", [None] * 3, "none"),
    ],
)
def test_scenes_of_a_list_are_kept_unless_a_rule_is_given(tmp_path, rule, scenes, said):
    source = read_source(write_json(tmp_path / "dataset.json", LISTED), scene_from=rule)
    assert ([entry.scene for entry in source.entries], source.scenes) == (scenes, said)


@pytest.mark.parametrize("rule", [None, "none"])
@pytest.mark.parametrize(("filename", "folder"), [("river_1.jpg", "Wide River"), ("port_3.jpg", "port")])
def test_images_are_found_in_the_folder_of_their_scene_whatever_scene_they_get(
    tmp_path, rule, filename, folder
):
    source = read_source(write_json(tmp_path / "dataset.json", LISTED), scene_from=rule)
    path = write(source.images / folder / filename, "")
    (entry,) = (entry for entry in source.entries if entry.filename == filename)
    assert Lookup(source.images, [filename], source.listed_scenes).find(entry)[1] == path


# ---------------------------------------------------------------------------------------------------------
# the real lists


def test_rsitmd_lists_give_the_published_splits(real_data):
    source = read_source(real_data / "rsitmd_precomp")
    assert Counter(entry.split for entry in source.entries) == {"train": 3435, "val": 856, "test": 452}
    # 23,715 lines of captions, 20 of them blank: those of four training images.
    assert sum(len(entry.captions) for entry in source.entries) == 23715 - 20
    assert sum(not entry.captions for entry in source.entries) == 4
    names = (real_data / "rsitmd_precomp" / "train_filename.txt").read_text().split()
    assert [entry.filename for entry in source.entries[:4291]] == names


def test_ucm_and_rsicd_lists_read_whole(real_data):
    ucm, rsicd = read_source(real_data / "ucm"), read_source(real_data / "rsicd")
    assert (len(ucm.entries), sum(len(entry.captions) for entry in ucm.entries)) == (2100, 10500)
    assert len({entry.scene for entry in ucm.entries}) == 21
    assert (len(rsicd.entries), sum(len(entry.captions) for entry in rsicd.entries)) == (9828, 49140)
    assert sum(entry.scene is None for entry in rsicd.entries) == 855
