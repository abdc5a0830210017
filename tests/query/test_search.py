"""What a question is made of, and which images a query searches."""

import numpy as np
import pytest

from swancli.errors import SwanError
from swancli.model.checkpoint import file_sha256
from swancli.query.index import build_index
from swancli.query.questions import AWAY, Question, Scope, composed
from swancli.query.search import image_rows, open_search
from swancli.store.catalogue import Catalogue
from swancli.store.embeddings import Embeddings, write_embeddings
from swancli.store.made_by import MadeBy


def test_texts_are_averaged_and_others_taken_away():
    """(1, 0) and (0, 1) lie at 45 degrees; less 0.3 of (0, 1) it is (0.5, 0.2), of length 0.5385."""
    texts = np.eye(2, dtype=np.float32)
    np.testing.assert_allclose(composed(texts, texts[:0]), [0.7071, 0.7071], atol=1e-4)
    assert AWAY == 0.3
    np.testing.assert_allclose(composed(texts, texts[1:]), [0.9285, 0.3714], atol=1e-4)


def test_one_text_is_asked_with_its_very_embedding():
    text = np.array([[0.6, 0.8000001]], np.float32)
    assert np.array_equal(composed(text, text[:0]), text[0])


def test_question_is_shown_as_it_was_put_together():
    assert str(Question(("a river",))) == "a river"
    assert str(Question(("a river", "a bridge"), ("boats",))) == "a river + a bridge - boats"


@pytest.fixture
def catalogue():
    return Catalogue.of(
        filename=["harbor_1.jpg", "harbor_2.png", "river_1.jpg", "7.jpg"],
        scene=["harbor", "harbor", "river", None],
        split=["train", "test", "test", None],
    )


@pytest.mark.parametrize(
    ("scope", "rows"),
    [
        (Scope(scenes=("harbor",)), [0, 1]),
        (Scope(scenes=("river", "harbor")), [0, 1, 2]),
        (Scope(split="test"), [1, 2]),
        (Scope(files="*.jpg"), [0, 2, 3]),
        (Scope(files="?.jpg"), [3]),
        (Scope(files="harbor_[12].*", split="test"), [1]),
        (Scope(scenes=("harbor",), split="test", files="*.png"), [1]),
    ],
)
def test_filters_leave_the_rows_that_pass_them_all(catalogue, scope, rows):
    assert image_rows(catalogue, scope).tolist() == rows


def test_name_with_brackets_is_no_pattern():
    catalogue = Catalogue.of(["a[1].jpg", "a1.jpg", "a2.jpg"], [None] * 3, [None] * 3)
    assert image_rows(catalogue, Scope(files="a[1].jpg")).tolist() == [0]
    assert image_rows(catalogue, Scope(files="a[12].jpg")).tolist() == [1, 2]


def test_no_filter_leaves_all(catalogue):
    assert image_rows(catalogue, Scope()) is None


@pytest.mark.parametrize(
    ("scope", "said"),
    [
        (Scope(scenes=("lake",)), "lake"),
        (Scope(split="val"), "val"),
        (Scope(files="x*"), r"--files 'x\*': none of 4 images"),
        (Scope(scenes=("river",), split="train"), "no image of scene river is in split train"),
        (Scope(scenes=("river",), files="harbor*"), "such as river_1.jpg"),
    ],
)
def test_filters_that_leave_nothing_are_refused_by_name(catalogue, scope, said):
    with pytest.raises(SwanError, match=said):
        image_rows(catalogue, scope)


@pytest.fixture
def embedded(tiny_model, tmp_path):
    """The path of four images' embeddings by the tiny model."""
    path = tmp_path / "embeddings.h5"
    made_by = MadeBy(str(tiny_model), file_sha256(tiny_model), 32, "repaired")
    image, names = np.eye(4, 32, dtype=np.float32), list("abcd")
    catalogue = Catalogue.of(names, [None] * 4, [None] * 4)
    write_embeddings(path, Embeddings(image, image[:0], catalogue, "a", made_by), names)
    return path


def test_question_whose_embedding_is_nan_is_refused(embedded):
    build_index(embedded, "flat")
    asked = np.full((1, 32), np.nan, np.float32)
    for exact in (False, True):
        with pytest.raises(SwanError, match="the embedding of a question contains NaN"):
            open_search(embedded, "cpu", exact=exact).ask_vector(asked, "a question", Scope())


@pytest.mark.parametrize("threshold", [float("nan"), -1.5, 2.0])
def test_minimum_score_that_is_no_cosine_is_refused(embedded, threshold):
    """NaN would let everything pass."""
    with open_search(embedded) as search, pytest.raises(SwanError, match="not from -1 to 1"):
        search.ask_row(0, Scope(threshold=threshold))
