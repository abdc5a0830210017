"""Re-ranking, by numbers worked out by hand."""

import numpy as np
import pytest

from swancli.evaluate.metrics import retrieval_scores
from swancli.evaluate.reranking import SHARPNESS, reranked_similarity
from swancli.evaluate.similarity import embedding_grids, matrix_grids


def test_score_is_the_product_of_both_preferences():
    axes = np.eye(2, dtype=np.float32)
    preferred = np.exp(SHARPNESS) / (np.exp(SHARPNESS) + 1)
    expected = 2 * np.log([[preferred, 1 - preferred], [1 - preferred, preferred]])
    assert reranked_similarity(axes, axes) == pytest.approx(expected)


def test_image_that_is_near_to_every_caption_gives_way():
    # Cosines 0.7, 0.65 of image 0 and 0, 0.6 of image 1: caption 1 prefers image 0, which prefers caption 0.
    # Ten times them: 13 - log(e^7 + e^6.5) = 5.53 for image 0, 12 - log(1 + e^6) = 6.00 for image 1.
    image = np.array([[0.7, 0.65, 0.2958], [0.0, 0.6, -0.8]], np.float32)
    caption = np.eye(2, 3, dtype=np.float32)
    of = np.array([0, 1])
    plain = retrieval_scores(embedding_grids(image, caption), of)
    assert plain.text_to_image.recall[1] == 50
    reranked = retrieval_scores(matrix_grids(reranked_similarity(image, caption)), of)
    assert reranked.text_to_image.recall[1] == 100


def test_equal_items_score_exactly_equal():
    rng = np.random.default_rng(0)
    image, caption = (rng.normal(size=(n, 4)).astype(np.float32) for n in (5, 7))
    image[3], caption[[2, 6]] = image[1], caption[4]
    scores = reranked_similarity(image, caption)
    assert (scores[3] == scores[1]).all()
    assert (scores[:, 2] == scores[:, 4]).all()
    assert (scores[:, 6] == scores[:, 4]).all()
