"""Indices: they find what exact search finds, know what they belong to, and say how well they find it."""

import gc
import shutil
import sys
from dataclasses import replace

import faiss
import h5py
import numpy as np
import pytest
import torch

from swancli.errors import StoreError, SwanError
from swancli.query.index import (
    LEAST_FOR_CODES,
    MOST_RESULTS,
    PROPOSED,
    build_index,
    index_path,
    open_index,
    remove_stale_index,
)
from swancli.query.ranking import StreamedRanking, similarities
from swancli.store.catalogue import Catalogue
from swancli.store.embeddings import Embeddings, open_embeddings, write_embeddings
from swancli.store.made_by import MadeBy

DIMENSIONS = 16


def normalised(vectors):
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def clustered(count, seed=0):
    """Vectors around twenty centres."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((20, DIMENSIONS))
    return normalised(centres[np.arange(count) % 20] + 0.4 * rng.standard_normal((count, DIMENSIONS)))


def write(path, image, captions=40):
    """An embeddings file of these vectors, whose captions lie near the first of them."""
    noise = 0.3 * np.random.default_rng(1).standard_normal((captions, DIMENSIONS))
    caption = normalised(np.resize(image, (captions, DIMENSIONS)) + noise)
    names = [f"{row}.png" for row in range(len(image))]
    nothing = [None] * len(image)
    catalogue = Catalogue.of(names, nothing, nothing, ["a road"] * captions, [0] * captions)
    made_by = MadeBy("best.pt", "", image.shape[1], "repaired")
    write_embeddings(path, Embeddings(image, caption, catalogue, "small", made_by), names)
    return path


def exactly(path, questions, top_k):
    embeddings = open_embeddings(path)
    search = StreamedRanking(embeddings.image, np.arange(len(embeddings.image)), torch.device("cpu"))
    return list(search.best(questions, top_k))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder a kind, with the embeddings of 1,200 images and their index; not to be changed."""
    folder = tmp_path_factory.mktemp("indexed")
    for kind in PROPOSED:
        build_index(write(folder / kind / "embeddings.h5", clustered(1200)), kind)
    return folder


@pytest.mark.parametrize(("kind", "least"), [("flat", 1), ("hnsw", 0.99), ("ivf-pq", 0.95)])
def test_each_kind_finds_what_exact_search_finds(folder, kind, least):
    path = folder / kind / "embeddings.h5"
    embeddings, questions = open_embeddings(path), clustered(30, seed=2)
    found = list(open_index(path, embeddings).best(questions, 10))
    best = exactly(path, questions, 10)
    shares = [len(set(rows) & set(right)) / 10 for (rows, _), (right, _) in zip(found, best, strict=True)]
    assert np.mean(shares) >= least
    image = embeddings.image[:]
    for question, (rows, scores) in zip(questions, found, strict=True):
        assert scores.tolist() == similarities(image[rows], question).tolist()
        assert scores.tolist() == sorted(scores, reverse=True)
    if kind == "flat":
        assert [rows.tolist() for rows, _ in found] == [rows.tolist() for rows, _ in best]


@pytest.mark.parametrize("kind", PROPOSED)
def test_threshold_holds_and_few_results_are_the_first_of_many(folder, kind):
    path = folder / kind / "embeddings.h5"
    search, question = open_index(path, open_embeddings(path)), clustered(1, seed=3)
    ((rows, scores),) = search.best(question, 50)
    ((first, _),) = search.best(question, 5)
    ((above, _),) = search.best(question, 50, threshold=float(scores[7]))
    assert first.tolist() == rows[:5].tolist()
    assert above.tolist() == rows[:8].tolist()


@pytest.mark.parametrize("kind", PROPOSED)
def test_more_results_than_an_index_is_made_for_are_searched_exactly(folder, kind):
    path = folder / kind / "embeddings.h5"
    search, questions = open_index(path, open_embeddings(path)), clustered(2, seed=4)
    assert search.searched(MOST_RESULTS) == kind
    assert search.searched(MOST_RESULTS + 1) == "exact"
    assert "exact search" in search.note(MOST_RESULTS + 1)
    found, best = search.best(questions, 1200), exactly(path, questions, 1200)
    for (rows, _), (right, _) in zip(found, best, strict=True):
        assert rows.tolist() == right.tolist()


@pytest.mark.parametrize("kind", ["flat", "hnsw"])
@pytest.mark.parametrize("count", [1, 2, 50])
def test_few_images_are_all_found(tmp_path, kind, count):
    path = write(tmp_path / "embeddings.h5", clustered(count))
    assert build_index(path, kind).recall == 1
    questions = clustered(3)
    found = open_index(path, open_embeddings(path)).best(questions, 10)
    for (rows, _), (right, _) in zip(found, exactly(path, questions, 10), strict=True):
        assert rows.tolist() == right.tolist()


def test_too_few_images_for_codes_are_refused_with_the_number_needed(tmp_path):
    path = write(tmp_path / "embeddings.h5", clustered(50))
    with pytest.raises(SwanError, match=f"50 distinct images; ivf-pq needs at least {LEAST_FOR_CODES}"):
        build_index(path, "ivf-pq")
    assert not index_path(path).exists()


@pytest.mark.parametrize("kind", PROPOSED)
def test_many_equal_pictures_do_not_hide_others(tmp_path, kind):
    """A third of the images are blank: each other one is found, and blank ones come in the order of rows."""
    image = clustered(1800)
    image[400:1000] = image[400]
    path = write(tmp_path / "embeddings.h5", image)
    card = build_index(path, kind)
    assert (card.rows, card.distinct) == (1800, 1201)
    search = open_index(path, open_embeddings(path))
    others = np.r_[0:400:40, 1000:1800:40]
    firsts = [rows[0] for rows, _ in search.best(image[others], 1)]
    assert np.mean(firsts == others) >= 0.95
    ((rows, scores),) = search.best(image[400:401], 20)
    assert rows.tolist() == list(range(400, 420))
    assert len(set(scores.tolist())) == 1


@pytest.mark.parametrize("kind", PROPOSED)
def test_same_embeddings_give_the_same_index_on_one_thread(folder, tmp_path, kind):
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    contents = []
    try:
        for name in ("one", "two"):
            path = write(tmp_path / name / "embeddings.h5", clustered(1200))
            build_index(path, kind)
            with h5py.File(index_path(path)) as file:
                contents.append(file["faiss"][:].tobytes())
    finally:
        faiss.omp_set_num_threads(threads)
    assert contents[0] == contents[1]


def test_recall_is_measured_with_captions_and_without_them_with_images(tmp_path):
    for captions, asked in ((40, "captions"), (0, "images")):
        path = write(tmp_path / "embeddings.h5", clustered(100), captions)
        card = build_index(path, "flat")
        assert (card.recall, card.questions, card.asked) == (1, captions or 100, asked)
        assert open_index(path, open_embeddings(path)).note(10) == (
            f"flat index: recall@10 1.000 against exact search, measured with {captions or 100} {asked}"
        )


def test_recall_shows_that_rows_are_missing(tmp_path, monkeypatch):
    """An index that proposes two rows finds two of the ten best."""
    monkeypatch.setitem(PROPOSED, "flat", 2)
    assert build_index(write(tmp_path / "embeddings.h5", clustered(100)), "flat").recall == 0.2


def test_index_is_asked_where_it_lies_after_its_file_was_closed_and_replaced(folder, tmp_path):
    """Its memory belongs to the ranking, and a new index is another file."""
    path = tmp_path / "embeddings.h5"
    shutil.copytree(folder / "hnsw", tmp_path, dirs_exist_ok=True)
    search, questions = open_index(path, open_embeddings(path)), clustered(5, seed=5)
    before = [rows.tolist() for rows, _ in search.best(questions, 10)]
    build_index(path, "flat")
    gc.collect()
    assert [rows.tolist() for rows, _ in search.best(questions, 10)] == before


def test_no_index_is_none(tmp_path):
    path = write(tmp_path / "embeddings.h5", clustered(10))
    assert open_index(path, open_embeddings(path)) is None


def test_index_of_other_embeddings_is_refused(folder, tmp_path):
    path = write(tmp_path / "embeddings.h5", clustered(1200, seed=9))
    shutil.copy(folder / "hnsw" / "embeddings.index", tmp_path)
    with pytest.raises(SwanError, match="made for other embeddings") as caught:
        open_index(path, open_embeddings(path))
    assert f"swan embed --index hnsw --embeddings {path}" in caught.value.hint
    assert "--exact" in caught.value.hint


@pytest.mark.parametrize("digest", [None, ""])
def test_index_without_a_digest_belongs_to_no_embeddings(folder, tmp_path, digest):
    """Also not to embeddings that have none either."""
    shutil.copytree(folder / "flat", tmp_path, dirs_exist_ok=True)
    path = tmp_path / "embeddings.h5"
    with h5py.File(index_path(path), "r+") as file, h5py.File(path, "r+") as other:
        other.attrs["digest"] = ""
        del file.attrs["digest"]
        if digest is not None:
            file.attrs["digest"] = digest
    with pytest.raises(SwanError, match="damaged" if digest is None else "made for other embeddings"):
        open_index(path, open_embeddings(path))


def with_another_storage(index, folder):
    """Vectors in place of their codes."""
    storage = faiss.IndexFlatIP(DIMENSIONS)
    storage.add(clustered(index.ntotal))
    index.own_fields = False
    index.storage = storage
    return storage


def with_another_quantizer(index, folder):
    """An index that follows links in place of plain centres."""
    quantizer = faiss.IndexHNSWFlat(DIMENSIONS, 4, faiss.METRIC_INNER_PRODUCT)
    quantizer.add(clustered(index.nlist))
    index.own_fields = False
    index.quantizer = quantizer
    return quantizer


def with_lists_in_another_file(index, folder):
    """The lists of a file that the index names."""
    lists = faiss.OnDiskInvertedLists(index.nlist, index.code_size, str(folder / "lists"))
    lists.merge_from_1(index.invlists)
    index.replace_invlists(lists, False)
    return lists


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("hnsw", with_another_storage),
        ("ivf-pq", with_another_quantizer),
        ("ivf-pq", with_lists_in_another_file),
    ],
)
def test_index_made_of_other_parts_is_refused(folder, tmp_path, kind, change):
    """A stranger's index: faiss would read any of them, and further files."""
    shutil.copytree(folder / kind, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "embeddings.h5"
    with h5py.File(index_path(path), "r+") as file:
        index = faiss.deserialize_index(file["faiss"][:])
        kept = change(index, tmp_path)  # the index refers to it
        del file["faiss"]
        file["faiss"] = faiss.serialize_index(index)
        del kept
    with pytest.raises(StoreError, match="parts that swan does not use"):
        open_index(path, open_embeddings(path))


@pytest.mark.parametrize("kind", PROPOSED)
@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (
            lambda file: file["faiss"].write_direct(np.full(96, 255, np.uint8), dest_sel=np.s_[4:100]),
            "cannot read",
        ),
        (
            lambda file: file["faiss"].write_direct(np.frombuffer(b"IxPT", np.uint8), dest_sel=np.s_[:4]),
            "/faiss is not an index",
        ),
        (lambda file: file["rows"].__setitem__(3, 10**9), "not there"),
        (lambda file: file["rows"].__setitem__(3, -5), "not there"),
        (lambda file: file["starts"].__setitem__(3, 0), "not there"),
        (lambda file: file.__delitem__("starts"), "damaged"),
        (lambda file: file.attrs.__delitem__("kind"), "damaged"),
        (lambda file: file.attrs.__delitem__("complete"), "not complete"),
    ],
)
def test_damaged_index_is_the_users_to_fix(folder, tmp_path, kind, damage, problem):
    shutil.copytree(folder / kind, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "embeddings.h5"
    with h5py.File(index_path(path), "r+") as file:
        damage(file)
    with pytest.raises(StoreError, match=problem) as caught:
        open_index(path, open_embeddings(path))
    assert "--exact" in caught.value.hint


def test_links_that_lead_out_of_the_index_are_refused(folder, tmp_path):
    """A stranger's index may hold anything: faiss would follow its links to anywhere in memory."""
    shutil.copytree(folder / "hnsw", tmp_path, dirs_exist_ok=True)
    path = tmp_path / "embeddings.h5"
    with h5py.File(index_path(path), "r+") as file:
        index = faiss.deserialize_index(file["faiss"][:])
        links = faiss.vector_to_array(index.hnsw.neighbors)
        start = file["faiss"][:].tobytes().find(links.tobytes())
        file["faiss"][start : start + 4 * len(links)] = np.full(len(links), 10**9, np.int32).view(np.uint8)
    with pytest.raises(StoreError, match="out of range"):
        open_index(path, open_embeddings(path))


def test_numbers_that_are_in_no_list_are_reported_when_they_are_proposed(folder, tmp_path):
    shutil.copytree(folder / "ivf-pq", tmp_path, dirs_exist_ok=True)
    path = tmp_path / "embeddings.h5"
    with h5py.File(index_path(path), "r+") as file:
        index = faiss.deserialize_index(file["faiss"][:])
        numbers = faiss.rev_swig_ptr(index.invlists.get_ids(0), index.invlists.list_size(0))
        numbers[:] = 10**12
        file["faiss"][:] = faiss.serialize_index(index)
    embeddings = open_embeddings(path)
    with pytest.raises(StoreError, match="not there"):
        list(open_index(path, embeddings).best(embeddings.image[:200], 10))


def test_faiss_that_does_not_check_an_index_is_refused(folder, monkeypatch):
    monkeypatch.setattr(faiss, "__version__", "1.13.2")
    path = folder / "hnsw" / "embeddings.h5"
    with pytest.raises(SwanError, match="without checking it"):
        open_index(path, open_embeddings(path))


@pytest.mark.parametrize("kind", PROPOSED)
@pytest.mark.parametrize("share", [0.0, 0.5, 0.95])
def test_index_that_was_cut_off_is_refused(folder, tmp_path, kind, share):
    shutil.copytree(folder / kind, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "embeddings.h5"
    whole = index_path(path).read_bytes()
    index_path(path).write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(StoreError, match="not a readable HDF5 file"):
        open_index(path, open_embeddings(path))


def test_new_vectors_leave_no_index_behind_and_equal_ones_leave_it(tmp_path):
    path = write(tmp_path / "embeddings.h5", clustered(50))
    build_index(path, "flat")
    embeddings = open_embeddings(path)
    read = replace(embeddings, image=embeddings.image[:], caption=embeddings.caption[:])
    embeddings.image.file.close()
    assert remove_stale_index(path, write_embeddings(path, read, read.catalogue.filename)) is None
    assert index_path(path).exists()
    digest = write_embeddings(path, replace(read, image=read.image[::-1]), read.catalogue.filename)
    assert remove_stale_index(path, digest).kind == "flat"
    assert not index_path(path).exists()


def test_file_of_another_kind_with_the_name_of_an_index_stays(tmp_path):
    path = write(tmp_path / "embeddings.h5", clustered(10))
    index_path(path).write_text("mine")
    assert remove_stale_index(path, "other") is None
    assert index_path(path).read_text() == "mine"


def test_without_faiss_the_extra_is_named(folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    path = folder / "flat" / "embeddings.h5"
    for attempt in (lambda: open_index(path, open_embeddings(path)), lambda: build_index(path, "flat")):
        with pytest.raises(SwanError, match="needs faiss") as caught:
            attempt()
        assert "swancli[search]" in caught.value.hint
        assert "--exact" in caught.value.hint


def test_failed_building_keeps_the_existing_index(tmp_path, monkeypatch):
    path = write(tmp_path / "embeddings.h5", clustered(50))
    build_index(path, "flat")
    before = index_path(path).read_bytes()

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("swancli.query.index._stream", fail)
    with pytest.raises(SwanError, match="no room left"):
        build_index(path, "hnsw")
    assert index_path(path).read_bytes() == before
    assert {file.name for file in tmp_path.iterdir()} == {"embeddings.h5", "embeddings.index"}


def test_building_tells_how_far_it_is(tmp_path):
    told = []
    build_index(write(tmp_path / "embeddings.h5", clustered(100)), "hnsw", lambda *phase: told.append(phase))
    assert list(dict.fromkeys(phase for phase, _, _ in told)) == [
        "comparing",
        "learning",
        "indexing",
        "measuring recall",
    ]
    assert all(done <= total for _, done, total in told)
    assert {phase for phase, done, total in told if done == total} == {phase for phase, _, _ in told}


def test_embeddings_of_different_names_have_different_indices(tmp_path):
    names = ("e.h5", "e.v1", "e.v2", "e.v1.h5", "e")
    assert index_path(tmp_path / "e.h5") == tmp_path / "e.index"
    assert len({index_path(tmp_path / name) for name in names[1:3]}) == 2


def test_index_that_says_it_is_not_trained_is_refused(folder, tmp_path):
    shutil.copytree(folder / "ivf-pq", tmp_path, dirs_exist_ok=True)
    path = tmp_path / "embeddings.h5"
    with h5py.File(index_path(path), "r+") as file:
        index = faiss.deserialize_index(file["faiss"][:])
        index.is_trained = False
        file["faiss"][:] = faiss.serialize_index(index)
    with pytest.raises(StoreError, match="not trained"):
        open_index(path, open_embeddings(path))
