"""Collections of Milvus: addresses, uploads that are broken off and repeated, and what they find."""

import fcntl
import json
import socket
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from made_scenes import write_model
from pymilvus import MilvusClient, MilvusException

from swancli.errors import StoreError, SwanError
from swancli.milvus.collection import TOKEN, Address, connected, parse_address, read_card
from swancli.milvus.search import MOST, CollectionRanking, CollectionSearcher, open_collection
from swancli.milvus.upload import Upload, content_key, upload
from swancli.model.checkpoint import file_sha256, load_checkpoint
from swancli.model.encoder import Encoder
from swancli.query.questions import Scope
from swancli.query.ranking import exact_ranking
from swancli.query.search import image_rows
from swancli.store.catalogue import Catalogue
from swancli.store.embeddings import Embeddings, open_embeddings, write_embeddings
from swancli.store.made_by import MadeBy
from swancli.workspace import Workspace

SHA = "a" * 64
NAMES = ['a"b.jpg', "a'b.jpg", "a\\b.jpg", "50%.jpg", "50x.jpg", "a_b.jpg", "axb.jpg", "é.jpg", "日本.png"]
SCENES = ["l'eau", 'a "quay"', "back\\slash", None, "l'eau", "line\nbreak", "x", "x", "日本"]
SPLITS = ["train", "test", "test", None, "test", "train", "test", "val", 'say "val"']


def unit(rows, width, seed=0):
    vectors = np.random.default_rng(seed).standard_normal((rows, width)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def write(path, vectors, names=None, scenes=None, splits=None, *, digests=None, dataset="made", **of):
    """An embeddings file without captions; its pictures differ unless `digests` says otherwise."""
    count = len(vectors)
    names = names or [f"{row:05}.jpg" for row in range(count)]
    catalogue = Catalogue.of(names, scenes or [None] * count, splits or [None] * count)
    made = {"checkpoint": "best.pt", "sha256": SHA, "variant": "repaired", "dimensions": vectors.shape[1]}
    embeddings = Embeddings(vectors, vectors[:0], catalogue, dataset, MadeBy(**made | of))
    write_embeddings(path, embeddings, digests or list(map(str, range(count))))
    return path


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    """The path of one database; each test has a collection of its own in it."""
    return tmp_path_factory.mktemp("milvus") / "milvus.db"


@pytest.fixture
def address(database, request):
    name = "".join(letter if letter.isalnum() else "_" for letter in request.node.name)
    return Address(str(database), name)


# addresses


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("milvus://", Address("/swan/milvus.db")),
        ("milvus://?collection=ucm_2", Address("/swan/milvus.db", "ucm_2")),
        ("milvus://archive.db", Address("archive.db")),
        ("milvus://far away/archive.db?collection=a", Address("far away/archive.db", "a")),
        ("milvus:///data/archive.db", Address("/data/archive.db")),
        ("milvus://db.example.org:19530", Address("http://db.example.org:19530")),
        ("milvus://10.0.0.1:19530/earth", Address("http://10.0.0.1:19530", "swan", "earth")),
        ("milvus://host:19530/?collection=b", Address("http://host:19530", "b")),
        ("milvus://me:a%40b%2Fc@host:1/earth", Address("http://host:1", "swan", "earth", "me:a@b/c")),
        ("milvus://key@host:443?tls=true", Address("https://host:443", token="key")),
    ],
)
def test_each_form_of_an_address_is_understood(text, address, monkeypatch):
    monkeypatch.delenv(TOKEN, raising=False)
    assert parse_address(text, Path("/swan")) == address
    assert address.is_lite == text.partition("?")[0].endswith((".db", "//"))


@pytest.mark.parametrize(
    "text",
    [
        *("milvus", "http://host:19530", "milvus://host", "milvus://archive", "milvus://host:port"),
        *(
            "milvus://u:secret@host",
            "milvus://u:secret@archive.db",
            "milvus://host:1/a/b",
            "milvus://?name=a",
        ),
        *("milvus://archive.db?tls=true", "milvus://u:secret@host:1?collection=a-b", "milvus://host:1?tls=1"),
        *("milvus://host:65536", "milvus://[::1]:19530", "milvus://host:1?token=secret"),
    ],
)
def test_other_addresses_are_refused_without_showing_the_password(text, tmp_path):
    with pytest.raises(SwanError) as refused:
        parse_address(text, tmp_path)
    assert "secret" not in str(refused.value)
    assert (
        "HOST:PORT" in refused.value.hint
        or "collection" in refused.value.problem + refused.value.hint
        or ("tls" in refused.value.problem)
    )


def test_token_comes_from_the_environment_and_is_shown_nowhere(tmp_path, monkeypatch):
    monkeypatch.setenv(TOKEN, "me:secret")
    address = parse_address("milvus://host:1/earth?collection=a&tls=true", tmp_path)
    assert address.token == "me:secret"
    assert str(address) == "milvus://host:1/earth?collection=a&tls=true"
    assert "secret" not in repr(address)
    assert parse_address("milvus://you:known@host:1", tmp_path).token == "you:known"


# keys and uploads


def test_key_depends_on_the_name_and_the_picture():
    key = content_key("ucm", "a.jpg", "picture")
    assert key == content_key("ucm", "a.jpg", "picture")
    assert len(key) == 32
    others = [("ucm", "b.jpg", "picture"), ("ucm", "a.jpg", "other"), ("rsicd", "a.jpg", "picture")]
    assert len({key, *(content_key(*other) for other in others)}) == 4
    assert content_key("", "a", "b") != content_key("", "ab", "")


def test_uploading_again_doubles_nothing_and_brings_what_changed(address, tmp_path):
    vectors, names = unit(5, 8), list("abcda")
    digests = ["1", "2", "3", "4", "1"]  # the last image is the first once more
    path = write(tmp_path / "a.h5", vectors, names, digests=digests)
    assert upload(path, address) == Upload(new=4, changed=0, unchanged=1, total=4)
    assert upload(path, address) == Upload(new=0, changed=0, unchanged=5, total=4)
    # as another batch size would move it, with another split for one image
    moved = vectors + np.float32(1e-6)
    path = write(tmp_path / "b.h5", moved, names, splits=[None, "val", None, None, None], digests=digests)
    assert upload(path, address) == Upload(new=0, changed=1, unchanged=4, total=4)
    with connected(address) as client:
        client.load_collection(address.collection)
        rows = client.query(
            address.collection, filter='split == "val"', output_fields=["filename", "dataset"]
        )
    assert [(row["filename"], row["dataset"]) for row in rows] == [("b", "made")]


def test_upload_that_fails_says_how_far_it_came_and_continues_from_there(address, tmp_path, monkeypatch):
    path, upserts = write(tmp_path / "a.h5", unit(45, 8)), []

    def failing(self, *arguments, real=MilvusClient.upsert, **options):
        upserts.append(arguments)
        if len(upserts) == 3:
            raise MilvusException(message="the connection is lost")
        return real(self, *arguments, **options)

    monkeypatch.setattr("swancli.milvus.upload.BATCH", 10)
    monkeypatch.setattr(MilvusClient, "upsert", failing)
    with pytest.raises(SwanError, match=r"20 of 45 images there \(the connection is lost\)") as failed:
        upload(path, address)
    assert failed.value.hint == f"resume from there: swan embed --embeddings {path} --to '{address}'"
    told = []
    assert upload(path, address, lambda *progress: told.append(progress)) == Upload(25, 0, 20, 45)
    assert len(upserts) == 3 + 3  # the first two batches were passed over
    assert told == [("upload", done, 45) for done in (0, 10, 20, 30, 40, 45)]


@pytest.mark.parametrize(
    ("width", "of", "said"),
    [
        (8, {"sha256": "b" * 64}, r"another checkpoint, .*pt \(aaaaaaaaaaaa\), than .*pt \(bbbbbbbbbbbb\)"),
        (16, {}, "its vectors have 8 dimensions, those of .*best.pt have 16"),
    ],
)
def test_vectors_of_another_checkpoint_or_width_are_refused(width, of, said, database, tmp_path):
    address = Address(str(database), "of_one_checkpoint")
    upload(write(tmp_path / "a.h5", unit(2, 8)), address)
    with pytest.raises(SwanError, match=said) as refused:
        upload(write(tmp_path / "b.h5", unit(2, width), **of), address)
    assert "?collection=NAME" in refused.value.hint


def test_folder_of_something_else_is_refused_and_stays_as_it_is(tmp_path):
    (tmp_path / "mine.db").mkdir()
    (tmp_path / "mine.db" / "letter.txt").write_text("")
    path = write(tmp_path / "a.h5", unit(2, 8))
    with pytest.raises(SwanError, match="a folder that is not a Milvus Lite database"):
        upload(path, Address(str(tmp_path / "mine.db")))
    assert [entry.name for entry in (tmp_path / "mine.db").iterdir()] == ["letter.txt"]


def test_collection_that_something_else_made_is_refused(address, tmp_path):
    with connected(address) as client:
        client.create_collection(address.collection, dimension=8)
    path = write(tmp_path / "a.h5", unit(2, 8))
    with pytest.raises(SwanError, match="that this swan did not make"):
        upload(path, address)
    with pytest.raises(SwanError, match="that this swan did not make"), open_of(address, tmp_path):
        pass


def test_upload_continues_where_one_was_killed_before_the_index_was_made(address, tmp_path, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    path = write(tmp_path / "a.h5", unit(2, 8))
    with monkeypatch.context() as patched:
        patched.setattr(MilvusClient, "create_index", interrupted)
        with pytest.raises(KeyboardInterrupt):
            upload(path, address)
    assert upload(path, address).total == 2


def test_file_without_images_and_one_with_a_damaged_vector_are_refused(address, tmp_path):
    with pytest.raises(SwanError, match="contains no images"):
        upload(write(tmp_path / "a.h5", unit(0, 8)), address)
    vectors = unit(3, 8)
    vectors[1] *= 2
    with pytest.raises(StoreError, match=r"embedding\[1\] has the length 2"):
        upload(write(tmp_path / "b.h5", vectors), address)


# databases


def test_database_that_another_program_has_open_is_reported(tmp_path):
    address = Address(str(tmp_path / "a.db"))
    with connected(address):
        pass
    with (tmp_path / "a.db" / "LOCK").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(SwanError, match=r"a\.db: another program has it open"), connected(address):
            pass
    with connected(address):
        pass


def test_proxy_of_the_environment_does_not_keep_lite_from_itself(tmp_path, monkeypatch):
    for name in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    with connected(Address(str(tmp_path / "a.db"))) as client:
        assert client.list_collections() == []


def test_file_that_is_no_database_is_reported(tmp_path):
    (tmp_path / "a.db").write_text("something else")
    with (
        pytest.raises(SwanError, match=r"a\.db: not a Milvus Lite database"),
        connected(Address(str(tmp_path / "a.db"))),
    ):
        pass


def test_cluster_that_is_not_there_is_reported_in_a_line(tmp_path, capfd):
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # and nothing listens
        address = parse_address(f"milvus://me:secret@127.0.0.1:{bound.getsockname()[1]}", tmp_path)
        with pytest.raises(SwanError, match="cannot be reached") as failed, connected(address):
            pass
    assert "secret" not in str(failed.value)
    assert capfd.readouterr() == ("", "")


def test_server_is_filled_and_asked_as_lite_is(tmp_path, tiny_model):
    from milvus_lite.adapter.grpc.server import start_server_in_thread

    server, stored, port = start_server_in_thread(str(tmp_path / "server.db"))
    try:
        address = parse_address(f"milvus://127.0.0.1:{port}", tmp_path)
        path = write(tmp_path / "a.h5", unit(30, 32), **made_by(tiny_model))
        assert upload(path, address).total == 30
        with open_of(address, tmp_path) as searcher:
            (first, *_) = searcher.ask_vector(unit(30, 32)[7:8], "an image", Scope(top_k=2)).hits
            assert (first.filename, first.score) == ("00007.jpg", pytest.approx(1))
            assert searcher.ranking(Scope()).searched(10) == "milvus-autoindex"
            assert "may miss" in searcher.ranking(Scope()).note(10)
    finally:
        server.stop(grace=0)
        stored.close()


# questions


def made_by(model):
    return {"checkpoint": str(model), "sha256": file_sha256(model)}


def open_of(address, root, **options):
    return open_collection(address, "cpu", workspace=Workspace(root), texts_only=True, **options)


def test_images_of_one_name_in_two_data_sets_are_two_and_distinguished(address, tmp_path, tiny_model):
    for dataset in ("one", "two"):
        made = {**made_by(tiny_model), "dataset": dataset}
        assert upload(write(tmp_path / f"{dataset}.h5", unit(1, 32), ["a.jpg"], **made), address).new == 1
    with open_of(address, tmp_path) as opened:
        answer = opened.ask_vector(unit(1, 32), "asked", Scope())
        found = [(hit["filename"], hit["dataset"]) for hit in answer.record()["results"]]
        assert found == [("a.jpg", "one"), ("a.jpg", "two")]
        assert opened.datasets() == ["one", "two"]
        assert len({hit.row for hit in answer.hits}) == 2


@pytest.fixture(scope="module")
def searcher(database, tiny_model, tmp_path_factory):
    """A collection of a few images whose names and scenes need care."""
    folder = tmp_path_factory.mktemp("odd_names")
    path = write(folder / "a.h5", unit(len(NAMES), 32), NAMES, SCENES, SPLITS, **made_by(tiny_model))
    address = Address(str(folder / "odd.db"))
    upload(path, address)
    with open_of(address, folder) as opened:
        yield opened


CATALOGUE = Catalogue.of(NAMES, SCENES, SPLITS)
SCOPES = [{}, {"scenes": ("l'eau",)}, {"scenes": ('a "quay"', "back\\slash", "line\nbreak", "日本")}]
SCOPES += [{"split": "test"}, {"split": 'say "val"'}, {"scenes": ("x",), "split": "val"}]
SCOPES += [{"files": pattern} for pattern in ("*", "50%*", "a?b.jpg", "a_b.*", "a\\b.jpg", "?.jpg", "??.png")]
SCOPES += [{"files": pattern} for pattern in ('*"*', "a'b*", "50?.jpg")]
SCOPES += [{"files": "a*", "split": "test", "scenes": ("x", 'a "quay"')}]


@pytest.mark.parametrize("scope", SCOPES, ids=map(str, range(len(SCOPES))))
def test_filters_leave_the_images_that_they_leave_of_a_file(searcher, scope):
    scope = Scope(top_k=100, **scope)
    rows = image_rows(CATALOGUE, scope)
    wanted = NAMES if rows is None else [NAMES[row] for row in rows]
    assert searcher.count(scope) == len(wanted)
    hits = searcher.ask_vector(unit(1, 32, seed=1), "a vector", scope).hits
    assert sorted(hit.filename for hit in hits) == sorted(wanted)
    assert all(hit.scene == SCENES[NAMES.index(hit.filename)] for hit in hits)


@pytest.mark.parametrize(
    ("scope", "said", "hint"),
    [
        ({"scenes": ("x", "lake")}, "--scene 'lake': no image has this scene", 'there are: a "quay", back'),
        ({"split": "x"}, "--split 'x': no image has this split", 'there are: say "val", test, train, val'),
        ({"scenes": ("x",), "split": "train"}, "no image of scene x is in split train", ""),
        ({"scenes": ("x",), "split": "train", "files": "a*"}, "no image of scene x is in split train", ""),
        ({"scenes": ("x",), "split": "test", "files": "b*"}, "--files 'b*': none of these images", "names"),
        ({"files": "b*"}, "--files 'b*': none of these images", "whole names"),
        ({"files": "[ab]*"}, "--files '[ab]*': Milvus knows only * and ?", "leave"),
        ({"top_k": MOST + 1}, "--top-k 16385: Milvus gives at most 16384 results", "fewer"),
    ],
)
def test_filters_that_leave_nothing_or_cannot_be_asked_are_refused_by_name(searcher, scope, said, hint):
    with pytest.raises(SwanError) as refused:
        searcher.ranking(Scope(**scope))
    assert refused.value.problem.startswith(said)
    assert hint in refused.value.hint


def test_rows_of_hits_are_those_of_their_names(searcher):
    for seed in (1, 2):
        for hit in searcher.ask_vector(unit(1, 32, seed), "a vector", Scope(top_k=4)).hits:
            assert searcher.filename[hit.row] == hit.filename


def test_what_is_found_is_what_exact_search_finds_to_the_last_bit(address, tmp_path):
    vectors, asked = unit(3000, 32), unit(50, 32, seed=1)
    vectors[1000:1040] = vectors[0]  # more equal ones than are asked for at first
    asked[0] = vectors[0]
    path = write(tmp_path / "a.h5", vectors)
    upload(path, address)
    with open_embeddings(path).image.file as file:
        exact = exact_ranking(file["images/embedding"], np.arange(3000), torch.device("cpu"))
        with connected(address) as client:
            client.load_collection(address.collection)
            ranking = CollectionRanking(client, address, "", 3000)
            for top_k, threshold in ((10, -1.0), (60, 0.3)):
                found = ranking.best(asked, top_k, threshold)
                for hits, (rows, scores) in zip(found, exact.best(asked, top_k, threshold), strict=True):
                    assert [hit.filename for hit in hits] == [f"{row:05}.jpg" for row in rows]
                    assert [hit.score for hit in hits] == scores.tolist()


def test_checkpoint_is_the_collections_own_and_no_other(tiny_model, address, tmp_path):
    gone = tmp_path / "gone.pt"
    path = write(tmp_path / "a.h5", unit(2, 32), **{**made_by(tiny_model), "checkpoint": str(gone)})
    upload(path, address)
    with pytest.raises(SwanError, match=r"gone\.pt: no such file, the checkpoint that made milvus://"):
        open_of(address, tmp_path).__enter__()
    with open_of(address, tmp_path, checkpoint=tiny_model) as searcher:
        assert searcher.checkpoint.path == tiny_model
    run = tmp_path / "ucm" / "runs" / "first"
    run.mkdir(parents=True)
    (run / "best.pt").write_bytes(tiny_model.read_bytes())  # the newest run's is it
    with open_of(address, tmp_path) as searcher:
        assert searcher.checkpoint.path == run / "best.pt"
    other = write_model(run / "best.pt", seed=1)
    for option in ({}, {"checkpoint": other}):
        with pytest.raises(SwanError) as refused:
            open_of(address, tmp_path, **option).__enter__()
        assert "--checkpoint FILE" in refused.value.hint
    hashes = [file_sha256(path)[:12] for path in (tiny_model, other)]
    assert f"gone.pt ({hashes[0]}), than {other} ({hashes[1]})" in refused.value.problem


def test_threshold_is_that_of_training_or_has_to_be_given(searcher, tiny_model):
    with pytest.raises(SwanError, match="--threshold auto"):
        searcher.match_threshold  # noqa: B018 - it is measured, or raises, when it is first needed
    stored = {"offset": 0.5, "growth": 0.1, "images": 9, "captions": 9, "miss": 10.0, "false_alarm": 20.0}
    checkpoint = load_checkpoint(tiny_model, captions_only=True)
    encoder = Encoder(replace(checkpoint, origin={**checkpoint.origin, "match_threshold": stored}), "cpu")
    for match, offset in (("", 0.5), (json.dumps(stored | {"offset": 0.25}), 0.25)):
        asking = CollectionSearcher(None, Address("a.db"), 1, encoder, match)
        assert asking.match_threshold.offset == offset


def test_threshold_that_was_set_later_is_recorded_and_one_that_is_missing_removes_none(address, tmp_path):
    upload(write(tmp_path / "a.h5", unit(2, 8)), address)
    for match in ('{"threshold": 0.3}', '{"threshold": 0.4}', ""):
        upload(write(tmp_path / "a.h5", unit(2, 8), match=match), address)
        with connected(address) as client:
            found = read_card(client, address)
        assert found.match == (match or '{"threshold": 0.4}')
        assert found.sha256 == SHA


def test_collection_says_what_it_holds(address, tmp_path):
    upload(write(tmp_path / "a.h5", unit(2, 8), checkpoint=str(tmp_path / "best.pt")), address)
    with connected(address) as client:
        card = json.loads(client.describe_collection(address.collection)["properties"]["swan"])
    assert card == {
        "format": "swan-collection",
        "version": 2,
        "sha256": SHA,
        "dimensions": 8,
        "checkpoint": str(tmp_path / "best.pt"),
        "vocab": "",
        "variant": "repaired",
        "configuration": "",
        "activation": "",
        "match": "",
    }
