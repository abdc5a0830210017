"""What an evaluation counts, on embeddings small enough to see through."""

import numpy as np
import pytest

from swancli.errors import SwanError
from swancli.evaluate.report import evaluate, training_texts
from swancli.store import Catalogue, Embeddings


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
        checkpoint="",
        checkpoint_sha256="",
        variant="repaired",
        vocab="",
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


def test_split_without_a_new_caption_is_told(embeddings):
    with pytest.raises(SwanError, match="every caption of split 'test'"):
        evaluate(embeddings, {}, split="test", known={"a river", "a bridge", "a road"})
