"""What an evaluation counts, on embeddings small enough to see through."""

from dataclasses import replace

import numpy as np
import pytest

from swancli.errors import SwanError
from swancli.evaluate.report import evaluate, evaluate_file, training_texts
from swancli.model.checkpoint import file_sha256
from swancli.store.catalogue import Catalogue
from swancli.store.dataset import Dataset, create_dataset
from swancli.store.embeddings import Embeddings, write_embeddings
from swancli.store.made_by import MadeBy


@pytest.fixture
def embeddings():
    """Two test images on the axes and a training image; four test captions, of which two are new."""
    catalogue = Catalogue.of(
        ["train.png", "one.png", "two.png"],
        [None] * 3,
        ["train", "test", "test"],
        ["a river", "a river", "a bridge", "a river", "a road"],
        np.array([0, 1, 1, 2, 2]),
    )
    one, two = [1.0, 0.0], [0.0, 1.0]
    return Embeddings(
        image=np.array([one, one, two], np.float32),
        caption=np.array([one, one, two, two, two], np.float32),
        catalogue=catalogue,
        dataset="hand",
        made_by=MadeBy("", "", 2, "repaired"),
    )


def test_new_captions_are_counted_apart(embeddings):
    known = training_texts(embeddings.catalogue)
    assert known == {"a river"}
    report = evaluate(embeddings, {}, split="test", known=known, ceiling=True)
    # Of the new ones, "a bridge" lies on the wrong image and "a road" on its own; image one finds none of its
    # own first: both are as far from it, and are in either order.
    assert (report.captions, report.new_captions) == (4, 2)
    assert report.scores.text_to_image.recall[1] == pytest.approx(75)
    assert report.new.text_to_image.recall[1] == pytest.approx(50)
    assert report.new.image_to_text.recall[1] == pytest.approx(50)
    assert report.record()["new_captions"]["captions"] == 2
    assert report.new_ceiling.mean_recall == 100  # both are on their own, where "a river" is of both images
    assert report.ceiling.mean_recall < 100


def test_new_captions_are_not_counted_unasked(embeddings):
    report = evaluate(embeddings, {}, split="test")
    assert report.new is None
    assert "new_captions" not in report.record()


def test_split_without_a_new_caption_is_reported(embeddings):
    with pytest.raises(SwanError, match="every caption of split 'test'"):
        evaluate(embeddings, {}, split="test", known={"a river", "a bridge", "a road"})


@pytest.fixture
def written(embeddings, tmp_path):
    """The same as a file, beside the checkpoint and the data set that it was made of."""
    (tmp_path / "best.pt").write_bytes(b"weights")
    with create_dataset(tmp_path / "dataset.h5", "hand", (8, 8)) as writer:
        for row in range(3):
            writer.add(np.full((8, 8, 3), row, np.uint8), f"{row:032x}", row)
        writer.finish(embeddings.catalogue)
    with Dataset(tmp_path / "dataset.h5") as dataset:
        made_of = {"pictures": str(dataset.path), "dataset_digest": dataset.digest}
    checkpoint = tmp_path / "best.pt"
    made_of["made_by"] = MadeBy(str(checkpoint), file_sha256(checkpoint), 2, "repaired")
    image = np.array([[1, 0], [0.6, 0.8], [0, 1]], np.float32)
    write_embeddings(tmp_path / "embeddings.h5", replace(embeddings, image=image, **made_of), "012")
    return tmp_path / "embeddings.h5"


def test_embeddings_whose_checkpoint_and_data_set_are_unchanged_are_not_doubted(written):
    assert evaluate_file(written).warnings == ()
    (written.parent / "best.pt").unlink()
    (written.parent / "dataset.h5").unlink()
    assert evaluate_file(written).warnings == ()


def test_checkpoint_that_was_trained_on_since_is_reported(written):
    (written.parent / "best.pt").write_bytes(b"others")
    (warning,) = evaluate_file(written).warnings
    assert "the embeddings were made by another checkpoint" in warning
    assert "best.pt" in warning


def test_data_set_with_other_pixels_since_is_reported(written, embeddings):
    with create_dataset(written.parent / "dataset.h5", "hand", (8, 8)) as writer:
        for row in range(3):
            writer.add(np.full((8, 8, 3), 9, np.uint8), f"{row + 99:032x}", 0)
        writer.finish(embeddings.catalogue)
    (warning,) = evaluate_file(written).warnings
    assert "dataset.h5 was prepared again after it was embedded" in warning


def test_test_image_with_the_embedding_of_a_training_one_is_reported(written, embeddings):
    write_embeddings(written, embeddings, "012")
    (warning,) = evaluate_file(written).warnings
    assert warning.startswith("1 of 2 images of test have the name or the embedding of a training image")


@pytest.mark.parametrize("wrong", [2.0, np.nan])
def test_embeddings_that_are_not_of_length_one_are_refused(written, embeddings, wrong):
    write_embeddings(written, replace(embeddings, image=embeddings.image * np.float32(wrong)), "012")
    with pytest.raises(
        SwanError, match=r"/images/embedding\[0\] (has the length 2, not 1|contains NaN or infinity)"
    ):
        evaluate_file(written)
