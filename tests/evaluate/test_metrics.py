"""Every figure by hand, by brute force over all orders, and against the published code's values."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swancli.errors import SwanError
from swancli.evaluate import similarity as similarity_module
from swancli.evaluate.metrics import TIES, Direction, Scores, caption_ranks, retrieval_scores
from swancli.evaluate.scene_recall import scene_confusion, scene_oracle_grids, scene_recall
from swancli.evaluate.similarity import ceiling_grids, chance_grids, embedding_grids, matrix_grids

SHARED = Path(__file__).resolve().parents[3] / "shared"
PARITY = SHARED / "parity" / "swan_reference.npz"
UCM = SHARED / "datasets" / "ucm" / "dataset.json"


def figures(direction):
    return [*direction.recall.values(), direction.median_rank, direction.mean_rank]


def objects(values):
    column = np.empty(len(values), dtype=object)
    column[:] = values
    return column


# ---------------------------------------------------------------------------------------------------------
# the published code's values


@pytest.fixture(scope="module")
def published():
    if not PARITY.is_file():
        pytest.skip("reference values of the published code are not beside this repository")
    with np.load(PARITY) as arrays:
        return {name: arrays[name] for name in arrays.files if name.startswith(("metric", "recall", "scene"))}


@pytest.mark.parametrize("ties", TIES)
def test_recall_and_ranks_are_those_of_the_published_code(published, ties):
    scores = retrieval_scores(matrix_grids(published["metric_sims"]), np.arange(200) // 5, ties=ties)
    np.testing.assert_allclose(figures(scores.image_to_text), published["recall_i2t"], atol=1e-9, rtol=0)
    np.testing.assert_allclose(figures(scores.text_to_image), published["recall_t2i"], atol=1e-9, rtol=0)


@pytest.mark.parametrize("ties", TIES)
def test_scene_recall_is_that_of_the_published_code(published, ties):
    ks = published["scene_k"].tolist()
    scene = published["metric_scene"].astype(object)
    found = scene_recall(matrix_grids(published["metric_sims"]), np.arange(200) // 5, scene, ties=ties, ks=ks)
    for direction, name in ((found.image_to_text, "scene_i2t"), (found.text_to_image, "scene_t2i")):
        share = [direction.share[k] / 100 for k in ks]
        np.testing.assert_allclose(share, published[name], atol=1e-9, rtol=0)


def test_directions_swapped_are_noticed(published):
    scores = retrieval_scores(matrix_grids(published["metric_sims"]), np.arange(200) // 5)
    assert abs(scores.image_to_text.recall[1] - published["recall_t2i"][0]) > 1
    with pytest.raises(ValueError, match="40 captions"):
        retrieval_scores(matrix_grids(published["metric_sims"].T), np.arange(200) // 5)


# ---------------------------------------------------------------------------------------------------------
# by hand


def test_without_ties_by_hand():
    similarity = np.array([[0.9, 0.1, 0.8], [0.7, 0.6, 0.2]])  # captions 0, 1 of image 0; 2 of image 1
    for ties in TIES:
        scores = retrieval_scores(matrix_grids(similarity), np.array([0, 0, 1]), ties=ties, ks=(2,))
        assert scores.image_to_text.recall == {1: 50, 2: 50, 5: 100, 10: 100}
        assert (scores.image_to_text.median_rank, scores.image_to_text.mean_rank) == (2, 2)
        assert scores.text_to_image.recall == {
            1: pytest.approx(100 / 3),
            2: 100,
            5: 100,
            10: 100,
        }
        assert scores.text_to_image.mean_rank == pytest.approx(5 / 3)
        assert scores.mean_recall == pytest.approx((50 + 100 + 100 + 100 / 3 + 100 + 100) / 6)


@pytest.mark.parametrize(
    ("ties", "recall_at_1", "recall_at_2", "rank"),
    [("expected", 50, 100 * 5 / 6, 5 / 3), ("best", 100, 100, 1), ("worst", 0, 0, 3)],
)
def test_ties_by_hand_image_to_text(ties, recall_at_1, recall_at_2, rank):
    # two own captions and two of another image tie for image 0: C(2, 2) / C(4, 2) = 1/6 to miss both places
    similarity = np.array([[5.0, 5, 5, 5]])
    caption_image = np.array([0, 0, -1, -1])
    found = retrieval_scores(matrix_grids(similarity), caption_image, ties=ties, ks=(2,)).image_to_text
    assert found.recall[1] == pytest.approx(recall_at_1)
    assert found.recall[2] == pytest.approx(recall_at_2)
    assert found.mean_rank == pytest.approx(rank)


@pytest.mark.parametrize(
    ("ties", "recall_at_1", "recall_at_2", "rank"),
    [("expected", 0, 100 / 3, 3), ("best", 0, 100, 2), ("worst", 0, 0, 4)],
)
def test_ties_by_hand_text_to_image(ties, recall_at_1, recall_at_2, rank):
    similarity = np.array([[1.0], [2], [1], [1]])  # one image above, three tied, the caption's among them
    found = retrieval_scores(matrix_grids(similarity), np.array([2]), ties=ties, ks=(2,)).text_to_image
    assert found.recall[1] == recall_at_1
    assert found.recall[2] == pytest.approx(recall_at_2)
    assert found.mean_rank == pytest.approx(rank)


def test_equal_captions_share_one_order():
    # one string for two captions of image 0 and one of image 1: image 0 first helps two, image 1 first one
    embedding = np.array([[1.0, 0]], dtype=np.float32)
    image, caption = np.repeat(embedding, 2, axis=0), np.repeat(embedding, 3, axis=0)
    grids, caption_image = embedding_grids(image, caption), np.array([0, 0, 1])
    recall = {
        ties: retrieval_scores(grids, caption_image, ties=ties).text_to_image.recall[1] for ties in TIES
    }
    assert recall == {"expected": 50, "best": pytest.approx(200 / 3), "worst": pytest.approx(100 / 3)}


def test_equal_images_share_one_order_in_which_all_captions_of_one_come_first():
    # One caption of image 0, three of image 1, all equal. Worst: those of image 1 first, ranks 1 and 4.
    grids, caption_image = matrix_grids(np.zeros((2, 4))), np.array([0, 1, 1, 1])
    mean_rank = {
        ties: retrieval_scores(grids, caption_image, ties=ties).image_to_text.mean_rank for ties in TIES
    }
    # Expected: (n + p + 1) / (p + 1), so 5 / 2 and 5 / 4. Best: a caption of each image first, ranks 1 and 2.
    assert mean_rank == {"expected": 1.875, "best": 1.5, "worst": 2.5}


@pytest.mark.parametrize("seed", range(5))
def test_queries_that_differ_do_not_share_an_order(seed):
    """A query alone in its group has the rank G + 1 at best, and G + n + 1 at worst."""
    similarity = np.random.default_rng(seed).integers(0, 3, (12, 30)).astype(float)
    owner = np.arange(30) % 12
    own = similarity[owner, np.arange(30)]
    assert len(np.unique(similarity.T, axis=0)) == 30
    above, level = (similarity > own).sum(axis=0), (similarity == own).sum(axis=0)
    for ties, ranks in (("best", above + 1), ("worst", above + level)):  # one image is the caption's own
        found = retrieval_scores(matrix_grids(similarity), owner, ties=ties, ks=(2,)).text_to_image
        assert found.mean_rank == pytest.approx(ranks.mean())
        assert found.recall[2] == pytest.approx(100 * (ranks <= 2).mean())


def test_median_rank_is_rounded_down():
    similarity = np.array([[1.0, 0], [2, 1]])  # ranks of the captions' images: 2, 1
    assert retrieval_scores(matrix_grids(similarity), np.array([0, 1])).text_to_image.median_rank == 1


def test_images_without_caption_and_captions_without_image_are_skipped_and_counted():
    similarity = np.array([[0.5, 0.9], [0.4, 0.1]])
    scores = retrieval_scores(matrix_grids(similarity), np.array([0, -1]))
    assert (scores.image_to_text.queries, scores.image_to_text.skipped) == (1, 1)
    assert (scores.text_to_image.queries, scores.text_to_image.skipped) == (1, 1)
    assert scores.image_to_text.mean_rank == 2  # the caption without an image still competes
    assert scores.text_to_image.mean_rank == 1


@pytest.mark.parametrize("shape", [(0, 0), (2, 0), (0, 2), (2, 2)])
def test_no_query_is_an_error_that_says_so(shape):
    caption_image = np.full(shape[1], -1)
    with pytest.raises(SwanError, match=r"^nothing to score: no image has a caption") as caught:
        retrieval_scores(matrix_grids(np.zeros(shape)), caption_image)
    assert caught.value.hint
    with pytest.raises(SwanError, match="no image has a caption"):
        retrieval_scores(embedding_grids(np.zeros((shape[0], 4)), np.zeros((shape[1], 4))), caption_image)
    with pytest.raises(SwanError, match="no query has a scene"):
        scene_recall(matrix_grids(np.zeros(shape)), caption_image, objects([None] * shape[0]))


def test_a_diverged_model_gets_no_score():
    image = np.array([[np.nan, 1]], dtype=np.float32)
    with pytest.raises(SwanError, match="a similarity is NaN"):
        retrieval_scores(embedding_grids(image, image), np.array([0]))


def test_an_unknown_tie_rule_or_k_is_refused():
    with pytest.raises(ValueError, match="Best"):
        retrieval_scores(chance_grids(1, 1), np.array([0]), ties="Best")
    with pytest.raises(ValueError, match="starts at 1"):
        retrieval_scores(chance_grids(1, 1), np.array([0]), ks=(0,))


def test_arguments_that_do_not_fit_together_are_refused():
    with pytest.raises(ValueError, match=r"the shape \(3,\), there are 2 captions"):
        retrieval_scores(chance_grids(3, 2), np.array([0, 1, 2]))


def test_recall_at_1_5_and_10_needs_no_request():
    assert list(retrieval_scores(chance_grids(1, 1), np.array([0]), ks=()).image_to_text.recall) == [1, 5, 10]


def test_record_has_each_direction_under_its_short_name():
    to_text = Direction({1: 1.5, 5: 2.5, 10: 3.5}, median_rank=4, mean_rank=5.5, queries=6, skipped=0)
    to_image = Direction({1: 11.5, 5: 12.5, 10: 13.5}, median_rank=14, mean_rank=15.5, queries=16, skipped=0)
    assert Scores(to_text, to_image).record() == {
        "i2t": {"R@1": 1.5, "R@5": 2.5, "R@10": 3.5, "median_rank": 4, "mean_rank": 5.5},
        "t2i": {"R@1": 11.5, "R@5": 12.5, "R@10": 13.5, "median_rank": 14, "mean_rank": 15.5},
        "mR": 7.5,
    }


# ---------------------------------------------------------------------------------------------------------
# by brute force over all orders of equal scores


@st.composite
def tied_cases(draw):
    """A small matrix (N, M) of few distinct values, an owner for each caption, a scene for each image."""
    images, captions = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    values = draw(st.lists(st.integers(0, 1), min_size=images * captions, max_size=images * captions))
    owners = draw(st.lists(st.integers(-1, images - 1), min_size=captions, max_size=captions))
    owners[0] = 0
    scene = draw(st.lists(st.sampled_from(["a", "b", None]), min_size=images, max_size=images))
    scene[0] = "a"
    return np.array(values, float).reshape(images, captions), np.array(owners), objects(scene)


def orders(row):
    """Every order of the candidates, best first, that the scores allow."""
    return [p for p in itertools.permutations(range(len(row))) if (np.diff(row[list(p)]) <= 0).all()]


def brute_force(similarity, figure_of_query, asked, ties):
    """The mean of a figure over queries; the equal rows of a matrix (Q, C) share one order."""
    pick = {"expected": np.mean, "best": np.max, "worst": np.min}[ties]
    total = 0.0
    for row in {tuple(row) for row in similarity}:
        equal = [q for q in np.flatnonzero(asked) if tuple(similarity[q]) == row]
        total += pick([sum(figure_of_query(q, order) for q in equal) for order in orders(np.array(row))])
    return total / np.count_nonzero(asked)


@settings(deadline=None, max_examples=60)
@given(tied_cases(), st.sampled_from(TIES), st.integers(1, 5))
def test_recall_and_mean_rank_are_those_over_all_orders(case, ties, k):
    similarity, caption_image, _ = case
    scores = retrieval_scores(matrix_grids(similarity), caption_image, ties=ties, ks=(k,))
    images = np.arange(len(similarity))
    for matrix, owner, candidate_owner, found in (
        (similarity, images, caption_image, scores.image_to_text),
        (similarity.T, caption_image, images, scores.text_to_image),
    ):
        asked = (owner >= 0) & np.isin(owner, candidate_owner)

        def first(query, order, owner=owner, candidate_owner=candidate_owner):
            return 1 + next(place for place, c in enumerate(order) if candidate_owner[c] == owner[query])

        recall = brute_force(matrix, lambda q, order, first=first: first(q, order) <= k, asked, ties)
        rank = -brute_force(matrix, lambda q, order, first=first: -first(q, order), asked, ties)
        assert found.recall[k] == pytest.approx(100 * recall, abs=1e-10)
        assert found.mean_rank == pytest.approx(rank, abs=1e-10)


@settings(deadline=None, max_examples=60)
@given(tied_cases(), st.sampled_from(TIES), st.integers(1, 5))
def test_scene_recall_is_that_over_all_orders(case, ties, k):
    similarity, caption_image, scene = case
    found = scene_recall(matrix_grids(similarity), caption_image, scene, ties=ties, ks=(k,))
    of_caption = objects([scene[i] if i >= 0 else None for i in caption_image])
    for matrix, own, other, direction in (
        (similarity, scene, of_caption, found.image_to_text),
        (similarity.T, of_caption, scene, found.text_to_image),
    ):

        def share(query, order, own=own, other=other):
            best = order[: min(k, len(other))]
            return sum(other[c] == own[query] for c in best) / len(best)

        asked = np.array([name is not None for name in own])
        assert direction.share[k] == pytest.approx(100 * brute_force(matrix, share, asked, ties), abs=1e-10)
        assert (direction.queries, direction.skipped) == (asked.sum(), len(asked) - asked.sum())


@settings(deadline=None, max_examples=60)
@given(tied_cases())
def test_best_and_worst_bound_the_expected_value(case):
    similarity, caption_image, scene = case
    worst, expected, best = (
        retrieval_scores(matrix_grids(similarity), caption_image, ties=ties)
        for ties in ("worst", "expected", "best")
    )
    for name in ("image_to_text", "text_to_image"):
        low, mid, high = (getattr(scores, name) for scores in (worst, expected, best))
        assert all(low.recall[k] - 1e-9 <= mid.recall[k] <= high.recall[k] + 1e-9 for k in (1, 5, 10))
        assert high.mean_rank - 1e-9 <= mid.mean_rank <= low.mean_rank + 1e-9
    shares = [
        scene_recall(matrix_grids(similarity), caption_image, scene, ties=ties, ks=(1,)).text_to_image
        for ties in ("worst", "expected", "best")
        if any(scene[i] is not None for i in caption_image if i >= 0)
    ]
    assert all(low.share[1] <= high.share[1] + 1e-9 for low, high in itertools.pairwise(shares))


# ---------------------------------------------------------------------------------------------------------
# rows in any order, blocks of any size


@pytest.fixture(scope="module")
def retrieval():
    """Embeddings in which strings and images repeat, beside sizes that leave a tail in a matrix product."""
    random = np.random.default_rng(7)
    image = random.standard_normal((61, 37)).astype(np.float32)
    image[10] = image[3]
    text = random.standard_normal((97, 37)).astype(np.float32)
    caption = text[random.integers(0, 97, 305)]
    image, caption = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (image, caption))
    scene = objects([("pond", "port", "road", None)[i % 4] for i in range(61)])
    return image, caption, np.arange(305) // 5, scene


@pytest.mark.parametrize("ties", TIES)
def test_shuffled_rows_leave_every_figure_as_it_was(retrieval, ties):
    image, caption, caption_image, scene = retrieval
    random = np.random.default_rng(1)
    rows, columns = random.permutation(len(image)), random.permutation(len(caption))
    plain, shuffled = embedding_grids(image, caption), embedding_grids(image[rows], caption[columns])
    of = np.argsort(rows)[caption_image[columns]]
    assert retrieval_scores(shuffled, of, ties=ties) == retrieval_scores(plain, caption_image, ties=ties)
    assert scene_recall(shuffled, of, scene[rows], ties=ties) == scene_recall(
        plain, caption_image, scene, ties=ties
    )


@pytest.mark.parametrize("ties", TIES)
def test_block_size_does_not_matter(retrieval, ties, monkeypatch):
    image, caption, caption_image, scene = retrieval
    image, caption = np.round(image * 64), np.round(caption * 64)  # whole numbers: products are exact
    grids = embedding_grids(image, caption)
    before = retrieval_scores(grids, caption_image, ties=ties)
    scenes_before = scene_recall(grids, caption_image, scene, ties=ties)
    monkeypatch.setattr(similarity_module, "CELLS", 1000)
    assert retrieval_scores(grids, caption_image, ties=ties) == before
    assert scene_recall(grids, caption_image, scene, ties=ties) == scenes_before


def test_blocks_give_each_query_once_and_equal_rows_equal_scores(monkeypatch):
    monkeypatch.setattr(similarity_module, "BLOCK", 4)
    random = np.random.default_rng(3)
    few = random.standard_normal((5, 19)).astype(np.float32)
    queries, candidates = few[random.integers(0, 5, 40)], few[random.integers(0, 5, 33)]
    queries[0] = queries[1] = 0
    queries[1] *= -1  # -0.0 is equal to 0.0
    whole = np.zeros((40, 33), dtype=np.float32)
    seen = []
    for rows, similarity in embedding_grids(queries, candidates)[0].blocks():
        assert len(rows) <= 4
        assert similarity.dtype == np.float32
        whole[rows] = similarity
        seen.extend(rows)
    assert sorted(seen) == list(range(40))
    np.testing.assert_allclose(whole, queries @ candidates.T, atol=1e-5)
    for matrix, rows in ((whole, queries), (whole.T, candidates)):
        for row in np.unique(rows, axis=0):
            equal = matrix[(rows == row).all(axis=1)]
            assert (equal == equal[0]).all()


def test_blocks_of_some_queries_give_only_those(retrieval):
    image, caption, *_ = retrieval
    grid = embedding_grids(image, caption)[1]
    asked = np.arange(len(caption)) % 3 == 0
    whole = np.zeros((len(caption), len(image)), dtype=np.float32)
    for rows, similarity in grid.blocks():
        whole[rows] = similarity
    seen = []
    for rows, similarity in grid.blocks(asked):
        np.testing.assert_array_equal(similarity, whole[rows])
        seen.extend(rows)
    assert sorted(seen) == np.flatnonzero(asked).tolist()


def test_embeddings_and_their_similarity_matrix_score_alike(retrieval):
    image, caption, caption_image, scene = retrieval
    matrix = np.zeros((len(image), len(caption)), dtype=np.float32)
    grids = embedding_grids(image, caption)
    for rows, similarity in grids[0].blocks():
        matrix[rows] = similarity
    alike = matrix_grids(matrix)
    assert retrieval_scores(alike, caption_image) == retrieval_scores(grids, caption_image)
    assert scene_recall(alike, caption_image, scene) == scene_recall(grids, caption_image, scene)


# ---------------------------------------------------------------------------------------------------------
# ceiling, chance, scene oracle


def test_ceiling_by_hand():
    text, caption_image = objects(["a road", "a pond", "a road", "a port"]), np.array([0, 0, 1, 1])
    grids = ceiling_grids(text, caption_image, 2)
    scores = retrieval_scores(grids, caption_image)
    assert scores.text_to_image.recall[1] == 75  # each "a road" has two images to find
    # an image's own two captions and the other's equal one share the first place: 1 in 3 to miss
    assert scores.image_to_text.recall[1] == pytest.approx(200 / 3)
    assert retrieval_scores(grids, caption_image, ties="worst").image_to_text.recall[1] == 0


def test_ceiling_is_full_when_no_caption_repeats():
    caption_image = np.array([0, 0, 1])
    scores = retrieval_scores(ceiling_grids(objects(["a", "b", "c"]), caption_image, 3), caption_image)
    assert scores.mean_recall == 100
    assert scores.image_to_text.skipped == 1


def test_ceiling_of_ucm_test_captions():
    if not UCM.is_file():
        pytest.skip("UCM-Captions is not beside this repository")
    entries = [e for e in json.loads(UCM.read_text(encoding="utf-8"))["images"] if e["split"] == "test"]
    text = objects([sentence["raw"] for entry in entries for sentence in entry["sentences"]])
    caption_image = np.array([row for row, entry in enumerate(entries) for _ in entry["sentences"]])
    grids = ceiling_grids(text, caption_image, len(entries))
    recall = {
        ties: retrieval_scores(grids, caption_image, ties=ties).text_to_image.recall
        for ties in ("expected", "best")
    }
    assert {k: round(value, 1) for k, value in recall["expected"].items()} == {1: 38.0, 5: 84.6, 10: 100.0}
    assert {k: round(value, 1) for k, value in recall["best"].items()} == {1: 38.3, 5: 84.8, 10: 100.0}


def test_chance_is_one_candidate_in_all():
    scores = retrieval_scores(chance_grids(20, 100), np.arange(100) // 5)
    assert scores.text_to_image.recall == {k: pytest.approx(100 * k / 20) for k in (1, 5, 10)}
    assert scores.image_to_text.recall[1] == pytest.approx(5)
    assert scores.text_to_image.mean_rank == 10.5


def test_scene_oracle_finds_one_image_among_those_of_its_scene():
    scene = objects(["pond"] * 4 + ["port"] * 2 + [None] * 2)
    scores = retrieval_scores(scene_oracle_grids(scene, np.arange(8)), np.arange(8))
    at_1 = (4 * 1 / 4 + 2 * 1 / 2 + 2 * 1 / 8) / 8  # without a scene all eight are equal
    for direction in (scores.image_to_text, scores.text_to_image):
        assert direction.recall[1] == pytest.approx(100 * at_1)
        assert direction.recall[10] == 100


# ---------------------------------------------------------------------------------------------------------
# ranks of single captions, confusion of scenes

AXES = np.eye(4, dtype=np.float32)


def test_rank_of_each_caption_by_hand():
    # image 0 scores 3, images 1 and 2 score 1, image 3 scores 0, for every caption
    caption = np.tile(np.array([[3.0, 1, 1, 0]], dtype=np.float32), (5, 1))
    ranks = caption_ranks(embedding_grids(AXES, caption), np.array([0, 2, 3, 1, -1]))
    np.testing.assert_array_equal(ranks, [1, 2.5, 4, 2.5, np.nan])


def test_ranks_average_to_the_mean_rank():
    random = np.random.default_rng(0)
    image, caption = random.integers(-1, 2, (9, 3)), random.integers(-1, 2, (20, 3))
    caption_image = np.append(np.arange(19) % 9, -1)
    grids = embedding_grids(image.astype(np.float32), caption.astype(np.float32))
    ranks = caption_ranks(grids, caption_image)
    mean = retrieval_scores(grids, caption_image).text_to_image.mean_rank
    assert np.nanmean(ranks) == pytest.approx(mean)


CONFUSED = objects(["pond", "port", "port", None])


def test_scene_confusion_by_hand():
    # captions of a pond: one finds the pond, one ties over a port and the image without a scene;
    # the caption of a port ties over all four
    caption = np.array([[1, 0, 0, 0], [0, 1, 0, 1], [1, 1, 1, 1], [0, 0, 1, 0]], dtype=np.float32)
    found = scene_confusion(embedding_grids(AXES, caption), np.array([0, 0, 1, 3]), CONFUSED)
    assert found.index.tolist() == ["pond", "port"]
    assert found.columns.tolist() == ["pond", "port", "no scene"]
    np.testing.assert_allclose(found, [[1 / 2, 1 / 4, 1 / 4], [1 / 4, 2 / 4, 1 / 4]])


def test_scene_without_a_caption_has_an_empty_row():
    found = scene_confusion(embedding_grids(AXES, AXES[:1]), np.array([0]), CONFUSED)
    np.testing.assert_array_equal(found, [[1, 0, 0], [np.nan] * 3])


def test_diagonal_of_the_scene_confusion_is_the_scene_recall(retrieval):
    image, caption, caption_image, scene = retrieval
    grids = embedding_grids(image, caption)
    found = scene_confusion(grids, caption_image, scene)
    np.testing.assert_allclose(found.sum(axis=1), 1)
    queries = [np.count_nonzero(scene[caption_image] == name) for name in found.index]
    mean = np.average(np.diag(found), weights=queries)
    recall = scene_recall(grids, caption_image, scene, ks=(1,)).text_to_image.share[1]
    assert 100 * mean == pytest.approx(recall)


def test_scene_confusion_needs_a_scene():
    with pytest.raises(SwanError, match="scene"):
        scene_confusion(embedding_grids(AXES, AXES), np.arange(4), objects([None] * 4))
