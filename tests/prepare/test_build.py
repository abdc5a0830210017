"""From a source to dataset.h5: what is checked, what is stored, what is left out."""

import json

import h5py
import numpy as np
import pytest
from PIL import Image

from swancli.errors import SwanError
from swancli.images import pixel_digest
from swancli.machine.progress import quiet
from swancli.prepare.build import (
    PrepareSettings,
    Skipped,
    SplitCount,
    group_skipped,
    prepare_dataset,
    prepare_demo,
)
from swancli.prepare.demo import generate_demo
from swancli.store.dataset import Dataset

SPLITS = ("train", "train", "val", "test")


@pytest.fixture
def source(tmp_path):
    """Four 8 x 6 (width x height) images of one colour each, two captions each."""
    folder = tmp_path / "source"
    (folder / "images").mkdir(parents=True)
    images = []
    for row, split in enumerate(SPLITS):
        Image.new("RGB", (8, 6), (row, 10, 20)).save(folder / "images" / f"port_{row}.png")
        sentences = [{"raw": f"port {row} {text}"} for text in "ab"]
        images.append(
            {"filename": f"port_{row}.png", "split": split, "scene": "port", "sentences": sentences}
        )
    (folder / "dataset.json").write_text(json.dumps({"images": images}))
    return folder


def prepare(source, progress=quiet, **options):
    output = source.parent / "out" / "dataset.h5"
    return prepare_dataset(PrepareSettings("tiny", source, workers=2, **options), output, progress), output


def prepare_problem(source, **options):
    with pytest.raises(SwanError) as caught:
        prepare(source, **options)
    folder = source.parent / "out"
    assert not folder.exists() or not list(folder.iterdir()), "a failure leaves nothing behind"
    return str(caught.value)


def test_rows_keep_the_order_of_the_source(source):
    summary, output = prepare(source)
    assert summary.shape == (6, 8)
    assert summary.skipped == []
    assert summary.splits == [
        SplitCount("train", 2, 4, 1),
        SplitCount("val", 1, 2, 1),
        SplitCount("test", 1, 2, 1),
    ]
    with Dataset(output) as dataset:
        assert dataset.name == "tiny"
        assert dataset.catalogue.filename.tolist() == [f"port_{row}.png" for row in range(4)]
        assert dataset.catalogue.split.tolist() == list(SPLITS)
        assert dataset.catalogue.scene.tolist() == ["port"] * 4
        assert dataset.catalogue.text.tolist() == [f"port {row} {text}" for row in range(4) for text in "ab"]
        assert dataset.catalogue.image.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
        assert [dataset.image(row)[0, 0].tolist() for row in range(4)] == [[row, 10, 20] for row in range(4)]
        assert dataset.digests(2) == pixel_digest(dataset.image(2))


def test_size_resizes_every_image(source):
    summary, output = prepare(source, size=5)
    assert summary.shape == (5, 5)
    with Dataset(output) as dataset:
        assert dataset.image(3).shape == (5, 5, 3)
        assert (dataset.image(3) == [3, 10, 20]).all()


def test_few_images_of_another_size_are_resized_to_the_common_one(tmp_path):
    (tmp_path / "source").mkdir()
    for row in range(10):
        Image.new("RGB", (8, 6) if row else (9, 9)).save(tmp_path / "source" / f"{row}.png")
    summary, output = prepare(tmp_path / "source")  # 9 of 10 share a size
    assert summary.shape == (6, 8)
    assert summary.splits == [SplitCount(None, 10, 0, 0)]
    with Dataset(output) as dataset:
        assert dataset.image(0).shape == (6, 8, 3)


def test_images_of_many_sizes_are_stored_as_they_are(source):
    path = source / "images" / "port_1.png"
    Image.new("L", (9, 9), 77).save(path)  # 3 of 4 share a size
    summary, output = prepare(source)
    assert summary.shape is None
    with Dataset(output) as dataset:
        assert (dataset.image(1) == np.full((9, 9, 3), 77)).all()
        assert dataset.image(0).shape == (6, 8, 3)
        assert dataset.digests(1) == pixel_digest(dataset.image(1))
    with h5py.File(output) as file:
        assert file["images/encoded"][1].tobytes() == path.read_bytes()


def test_identical_pictures_have_equal_digests(source):
    Image.new("RGB", (8, 6), (0, 10, 20)).save(source / "images" / "port_3.png", compress_level=0)
    _, output = prepare(source)
    with Dataset(output) as dataset:
        assert dataset.digests(0) == dataset.digests(3) != dataset.digests(1)


def test_all_absent_images_are_reported_at_once(source):
    for row in (1, 3):
        (source / "images" / f"port_{row}.png").unlink()
    assert prepare_problem(source) == (
        f"{source / 'images'}: 2 of 4 images are missing: 2 port_<number>.png (first port_1.png)\n"
        "give their folder: --images DIR; or leave them out, --missing skip"
    )


def test_absent_folder_of_images_is_reported(source):
    said = prepare_problem(source, images=source / "nowhere", missing="skip")
    assert said.startswith(f"{source / 'nowhere'} (no such folder): 4 of 4 images are missing")
    assert "--images DIR" in said


def test_links_that_lead_out_of_the_folder_are_reported_and_can_be_left_out(source):
    secret = source.parent / "secret.png"
    (source / "images" / "port_1.png").rename(secret)
    (source / "images" / "port_1.png").symlink_to(secret)
    (source / "images" / "port_0.png").rename(source / "images" / "kept.png")
    (source / "images" / "port_0.png").symlink_to("kept.png")
    assert prepare_problem(source) == (
        f"{source / 'images'}: 1 of 4 images lie outside of it, by links or by name: "
        "1 port_<number>.png (first port_1.png)\n"
        "give the folder that the images themselves are in, or copy them: cp -rL; "
        "or leave them out, --missing skip"
    )
    summary, _ = prepare(source, missing="skip")
    assert summary.skipped == [
        Skipped("leads out of the folder of images", "port_<number>.png", 1, "port_1.png")
    ]


def test_folder_of_images_that_is_a_link_to_elsewhere_is_taken_only_if_it_is_given(source):
    """A source from a stranger could show any folder of this machine."""
    (source / "images").rename(source.parent / "elsewhere")
    (source / "images").symlink_to(source.parent / "elsewhere")
    said = prepare_problem(source)
    assert "images: is a link that leads out of its folder" in said
    assert f"--images {source.parent / 'elsewhere'}" in said
    assert not prepare(source, images=source / "images")[0].skipped


def test_scene_does_not_lead_out_of_the_folder(source):
    """An image may lie in a folder named like its scene."""
    (source / "images" / "port_1.png").rename(source.parent / "port_1.png")
    content = json.loads((source / "dataset.json").read_text())
    content["images"][1]["scene"] = "../.."
    (source / "dataset.json").write_text(json.dumps(content))
    assert "lie outside of it" in prepare_problem(source)


def test_truncated_and_false_images_are_named(source):
    path = source / "images" / "port_1.png"
    path.write_text("<html>not found</html>")
    said = prepare_problem(source)
    assert said.startswith(f"{path}: not an image (22 bytes)\n")
    assert "--missing skip" in said


def test_skip_leaves_out_absent_and_unreadable_images_and_counts_them(source):
    images = source / "images"
    images.rename(source / "imgs (1)")  # brackets in the path are no part of the reason
    images = source / "imgs (1)"
    (images / "port_0.png").unlink()
    (images / "port_2.png").write_bytes((images / "port_1.png").read_bytes()[:48])
    summary, output = prepare(source, missing="skip", images=images)
    assert summary.skipped == [
        Skipped("absent", "port_<number>.png", 1, "port_0.png"),
        Skipped("damaged image (image file is truncated)", "port_<number>.png", 1, "port_2.png"),
    ]
    assert summary.splits == [SplitCount("train", 1, 2, 1), SplitCount("test", 1, 2, 1)]
    with Dataset(output) as dataset:
        assert dataset.catalogue.filename.tolist() == ["port_1.png", "port_3.png"]
        assert dataset.catalogue.text.tolist() == ["port 1 a", "port 1 b", "port 3 a", "port 3 b"]
        assert dataset.catalogue.image.tolist() == [0, 0, 1, 1]
        assert dataset.image(1)[0, 0].tolist() == [3, 10, 20]
    with h5py.File(output) as file:
        assert file["skipped/filename"].asstr()[:].tolist() == ["port_0.png", "port_2.png"]
        assert file["skipped/reason"].asstr()[:].tolist() == [
            "absent",
            "damaged image (image file is truncated)",
        ]


def test_nothing_readable_is_an_error_even_with_skip(source):
    for path in (source / "images").iterdir():
        path.write_text("text")
    said = prepare_problem(source, missing="skip")
    assert "tiny: no image could be read: 4 port_<number>.png (first port_0.png)" in said


def test_failure_leaves_an_older_data_set_as_it_was(source):
    _, output = prepare(source)
    before = output.read_bytes()
    (source / "images" / "port_3.png").write_text("text")
    with pytest.raises(SwanError):
        prepare(source)
    assert output.read_bytes() == before
    assert list(output.parent.iterdir()) == [output]


def test_drawn_splits_do_not_depend_on_which_images_are_there(tmp_path):
    folder = tmp_path / "source"
    folder.mkdir()
    for row in range(30):
        Image.new("L", (4, 4), row).save(folder / f"{row}.png")
    rows = "".join(f"{row}.png,a road\n" for row in range(30))
    (folder / "list.csv").write_text(f"filename,caption\n{rows}")
    whole, output = prepare(folder, split="random", seed=5)
    assert [(count.split, count.images) for count in whole.splits] == [("train", 19), ("val", 5), ("test", 6)]
    with Dataset(output) as dataset:
        before = dict(zip(dataset.catalogue.filename, dataset.catalogue.split, strict=True))
    (folder / "7.png").unlink()
    prepare(folder, split="random", seed=5, missing="skip")
    with Dataset(output) as dataset:
        after = dict(zip(dataset.catalogue.filename, dataset.catalogue.split, strict=True))
    assert before.keys() - after.keys() == {"7.png"}
    assert all(before[name] == split for name, split in after.items())


def test_source_without_splits_is_refused_before_images_are_read(tmp_path):
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "list.csv").write_text("filename,caption\n1.png,a\n")
    assert "1 of 1 captioned images have no split" in prepare_problem(tmp_path / "source")


def test_workers_do_not_change_the_file(source):
    contents = []
    for workers in (1, 4):
        output = source.parent / f"{workers}.h5"
        prepare_dataset(PrepareSettings("tiny", source, workers=workers), output)
        with h5py.File(output) as file:
            contents.append((file["images/pixels"][:].tobytes(), file["images/digest"][:].tolist()))
    assert contents[0] == contents[1]


def test_progress_of_each_phase_ends_at_its_total(source):
    calls = []
    prepare(source, progress=lambda *call: calls.append(call))
    last = {phase: (done, total) for phase, done, total in calls}
    assert last == {
        "looking for images": (4, 4),
        "reading image sizes": (4, 4),
        "reading images": (4, 4),
    }


def test_one_scale_for_all_images_is_recorded_and_leaves_out_what_cannot_be_read(source):
    for row in range(3):
        Image.fromarray(np.full((6, 8), 300 * (row + 1), np.uint16)).save(
            source / "images" / f"port_{row}.png"
        )
    (source / "images" / "port_3.png").write_bytes(b"nothing")
    phases = []
    _, output = prepare(source, lambda *done: phases.append(done), one_scale=True, missing="skip")
    assert ("choosing one scale", 4, 4) in phases
    with Dataset(output) as dataset:
        assert dataset.rendering.stretch == (0, 1023)
        assert [dataset.image(row)[0, 0, 0] for row in range(3)] == [75, 150, 224]  # 300 x 255 / 1023 = 74.8


def test_reasons_that_differ_in_numbers_alone_are_one():
    skipped = [("1.jpg", "not an image (7 bytes)"), ("2.jpg", "not an image (22 bytes)")]
    assert group_skipped(skipped) == [Skipped("not an image (7 bytes)", "<number>.jpg", 2, "1.jpg")]


def test_skipped_images_are_grouped_by_reason_and_pattern():
    skipped = [("00578.jpg", "absent"), ("port_1.jpg", "damaged image"), ("9.jpg", "absent"), ("8.jpg", "x")]
    assert group_skipped(skipped) == [
        Skipped("absent", "<number>.jpg", 2, "00578.jpg"),
        Skipped("damaged image", "port_<number>.jpg", 1, "port_1.jpg"),
        Skipped("x", "<number>.jpg", 1, "8.jpg"),
    ]


def test_demo_is_written_as_any_other_data_set(tmp_path):
    summary = prepare_demo(tmp_path / "dataset.h5", images=48, seed=1, size=32)
    assert [count.split for count in summary.splits] == ["train", "val", "test"]
    assert sum(count.images for count in summary.splits) == 48
    assert sum(count.captions for count in summary.splits) == 240
    with Dataset(tmp_path / "dataset.h5") as dataset:
        assert dataset.name == "demo"
        assert dataset.image(47).shape == (32, 32, 3)


def test_source_may_be_left_out_for_the_demo_alone(tmp_path):
    with pytest.raises(SwanError, match="--dataset ucm: no source given"):
        prepare_dataset(PrepareSettings("ucm"), tmp_path / "dataset.h5")
    with pytest.raises(SwanError, match="has its own splits"):
        prepare_dataset(PrepareSettings("demo", split="random"), tmp_path / "dataset.h5")


def test_rsicd_without_its_test_images_says_how_many_are_missing(real_data, tmp_path):
    with pytest.raises(
        SwanError, match=r"855 of 9828 images are missing: 855 <number>\.jpg \(first 00578\.jpg\)"
    ):
        prepare_dataset(PrepareSettings("rsicd", real_data / "rsicd"), tmp_path / "dataset.h5")
    assert list(tmp_path.iterdir()) == []


def test_real_tiffs_of_two_sizes_are_stored_as_they_are(real_data, tmp_path):
    summary = prepare_dataset(PrepareSettings("tif", real_data / "tif_samples"), tmp_path / "dataset.h5")
    assert summary.shape is None
    assert summary.splits == [SplitCount(None, 6, 0, 0)]  # no scene of several images


def test_test_image_with_the_pixels_of_a_training_one_is_reported(source):
    (one_colour,) = prepare(source)[0].warnings
    assert one_colour.startswith("4 images, such as ")
    assert one_colour.endswith("port_0.png: the picture has one colour")
    Image.new("RGB", (8, 6), (0, 10, 20)).save(source / "images" / "port_3.png", compress_level=0)
    _, warning = prepare(source)[0].warnings
    assert warning.startswith("1 of 1 images of test have the name or the pixels of a training image")
    assert "(first port_3.png, as port_0.png)" in warning


def test_captions_that_are_off_by_one_are_reported(tmp_path):
    folder = tmp_path / "source"
    (folder / "images").mkdir(parents=True)
    images = list(generate_demo(36, seed=1, size=16))
    for entry, pixels in images:
        Image.fromarray(pixels).save(folder / "images" / entry.filename)
    captions = [caption for entry, _ in images for caption in entry.captions]
    (folder / "train_filename.txt").write_text("\n".join(entry.filename for entry, _ in images))
    (folder / "train_caps.txt").write_text("\n".join(captions))
    assert prepare(folder)[0].warnings == ()
    (folder / "train_caps.txt").write_text("\n".join(captions[1:] + captions[:1]))
    (warning,) = prepare(folder)[0].warnings
    assert "1 line earlier in the list" in warning
    assert str(folder) in warning
