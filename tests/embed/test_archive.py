"""Embeddings of pieces and shards: those of one process to the last bit, in order, whatever stops."""

import errno
import io
import json
import os
import re
import tarfile
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from swancli.embed import archive as module
from swancli.embed.archive import archive_of_dataset, archive_of_source, embed_archive, rendering_of_source
from swancli.embed.embed import embed_dataset
from swancli.embed.shards import WHOLE, Shard, ShardFolder
from swancli.embed.sources import ImageSource, Piece, SourceFile, open_source
from swancli.errors import ImageError, StoreError, SwanError
from swancli.images import AS_SAID, pixel_digest
from swancli.model.checkpoint import load_checkpoint, save_checkpoint
from swancli.model.encoder import EncodedPiece, Encoder
from swancli.model.settings import ModelSettings
from swancli.model.swan import Swan
from swancli.store import atomic as files
from swancli.store.catalogue import Catalogue
from swancli.store.dataset import Dataset, create_dataset
from swancli.store.embeddings import read_embeddings, write_embeddings
from swancli.vocab.vocabulary import count_words

SIDE = 32


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    vocabulary = count_words(["road", "pond"], min_count=1, stop_words="keep", dataset="d")
    shape = ModelSettings(words=len(vocabulary), image_size=SIDE, embed_dim=16, frozen=True)
    path = tmp_path_factory.mktemp("run") / "best.pt"
    save_checkpoint(path, Swan(shape).eval(), vocabulary, {"dataset": "d", "run": "r", "epoch": 1})
    return load_checkpoint(path)


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    monkeypatch.setattr(module, "PIECE_BATCHES", 2)


def embed(checkpoint, archive, output, shard=WHOLE, precision="fp32", **options):
    encoder = Encoder(checkpoint, "cpu", precision, batch_size=2)
    return embed_archive(encoder, archive, output, shard, **options)


def embed_in_shards(checkpoint, archive, output, count):
    """The outcome of each of n shards, one after the other."""
    return [embed(checkpoint, archive, output, Shard(number, count)) for number in range(1, count + 1)]


def picture_of(value):
    return np.random.default_rng(value).integers(0, 255, (SIDE, SIDE, 3), np.uint8)


def png(value):
    written = io.BytesIO()
    Image.fromarray(picture_of(value)).save(written, "PNG")
    return written.getvalue()


def content(path):
    """All that is in an embeddings file, and its digest."""
    found = {}
    with h5py.File(path) as file:
        file.visititems(lambda name, item: found.update({name: item[()]} if hasattr(item, "shape") else {}))
        digest = file.attrs["digest"]
    return found, digest


def assert_same(one, other):
    (columns, digest), (others, other_digest) = content(one), content(other)
    assert columns.keys() == others.keys()
    for name, values in columns.items():
        np.testing.assert_array_equal(values, others[name], err_msg=name)
    assert digest == other_digest


def write_dataset(path, values):
    """A data set with a picture for each value, equal ones for equal values, and a caption of each."""
    with create_dataset(path, "d", (SIDE, SIDE)) as writer:
        for value in values:
            writer.add(picture_of(value), pixel_digest(picture_of(value)), value)
        count = len(values)
        names = [f"{row}.png" for row in range(count)]
        captions = [("road", "pond", "road pond")[row % 3] for row in range(count)]
        writer.finish(Catalogue.of(names, ["road"] * count, ["train"] * count, captions, range(count)))
    return path


# ---------------------------------------------------------------------------------------------------------
# the same whatever the shards


def test_data_set_in_shards_has_equal_pictures_of_several_pieces_equal(checkpoint, tmp_path):
    values = [0, 1, 2, 3, 0, 4, 1, 0, 5, 6, 7, 8, 0]  # in pieces of four
    with Dataset(write_dataset(tmp_path / "dataset.h5", values)) as dataset:
        archive = archive_of_dataset(dataset, batch_size=2)
        embed(checkpoint, archive, tmp_path / "one.h5")
        first, second, third = embed_in_shards(checkpoint, archive, tmp_path / "three.h5", 3)
        alone = embed_dataset(Encoder(checkpoint, "cpu"), dataset)
    assert_same(tmp_path / "one.h5", tmp_path / "three.h5")
    assert (first.missing, second.missing, third.missing) == ([2, 3], [3], [])
    assert third.embeddings
    assert not second.embeddings
    image = read_embeddings(tmp_path / "three.h5").image
    equal = (image[:, None] == image).all(axis=2)
    np.testing.assert_array_equal(equal, np.equal.outer(values, values))
    np.testing.assert_allclose(image, alone.image, atol=1e-6)
    np.testing.assert_array_equal(read_embeddings(tmp_path / "three.h5").caption, alone.caption)
    with h5py.File(tmp_path / "three.h5") as file:
        assert not file["images/embedding"].is_virtual
        assert file["images/digest"].asstr()[:].tolist() == [pixel_digest(picture_of(v)) for v in values]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dataset.h5", "one.h5", "three.h5"]


@pytest.mark.parametrize(
    ("names", "rule", "scenes"),
    [
        (("pond_{}.png", "road_{}.png"), None, ["pond"] * 3 + ["road"] * 3),
        (("DJI_{}.png", "IMG_{}.png"), None, [None] * 6),
        (("DJI_{}.png", "IMG_{}.png"), "name", ["DJI"] * 3 + ["IMG"] * 3),
        (("pond/DJI_{}.png", "road/DJI_{}.png"), None, ["pond"] * 3 + ["road"] * 3),
        (("pond_{}.png", "road_{}.png"), "none", [None] * 6),
    ],
)
@pytest.mark.parametrize("shards", [1, 3])
def test_scenes_are_judged_by_the_names_of_all_pieces_and_shards(
    checkpoint, tmp_path, names, rule, scenes, shards
):
    for value, (name, number) in enumerate((name, number) for name in names for number in range(3)):
        path = tmp_path / "pictures" / name.format(number)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(value))
    archive = archive_of_source(open_source(str(tmp_path / "pictures")), 1, scene_from=rule)
    outcomes = embed_in_shards(checkpoint, archive, tmp_path / "a.h5", shards)
    assert read_embeddings(tmp_path / "a.h5").catalogue.scene.tolist() == scenes
    place = "folders" if "/" in names[0] else "file names"
    taken = f"from {place}" if any(scenes) else "none"
    assert [outcome.scenes for outcome in outcomes] == [""] * (shards - 1) + [taken]


def test_pictures_known_to_be_equal_are_read_once(checkpoint, tmp_path, monkeypatch):
    read = []
    image = Dataset.image
    monkeypatch.setattr(Dataset, "image", lambda self, row: read.append(row) or image(self, row))
    with Dataset(write_dataset(tmp_path / "dataset.h5", [0, 1, 0, 2, 1, 1, 1, 1, 3])) as dataset:
        embed_in_shards(checkpoint, archive_of_dataset(dataset, 2), tmp_path / "a.h5", 2)
    assert read == [0, 1, 3, 8]


def made_source(lengths, broken=()):
    """Pieces like tars: how many pictures one has is known when it was read; some break off."""

    def pictures(number):
        for row in range(lengths[number]):
            name = f"{number}.tar/{row}.png"
            data = b"nothing" if (number, row) in broken else png(100 * number + row)
            yield SourceFile(name, partial(bytes, data))
        if number in broken:
            raise ImageError(f"{number}.tar: cut short")

    pieces = [Piece(f"{number}.tar", partial(pictures, number)) for number in range(len(lengths))]
    listed = tuple((f"{number}.tar", length) for number, length in enumerate(lengths))
    return ImageSource("tars", "tars", listed, lambda rows: pieces)


def test_one_scale_is_decided_on_files_alone_and_makes_no_pieces(tmp_path):
    for row in range(3):
        Image.fromarray(np.full((4, 4), 300 * (row + 1), np.uint16)).save(tmp_path / f"{row}.png")
    source, reported = replace(open_source(str(tmp_path)), pieces=None), []
    rendering = rendering_of_source(source, AS_SAID, 1, lambda *done: reported.append(done))
    assert rendering.stretch == (0, 1023)
    assert reported == [("choosing one scale", done, 3) for done in (1, 2, 3)]
    with pytest.raises(SwanError, match="tars are read once"):
        rendering_of_source(made_source([2, 3]), AS_SAID)


def encode_digests(encoder, pieces, progress):
    """In place of the model: a vector that tells which picture it is of."""
    for piece in pieces:
        pictures = [load()[1] for load in piece]
        vectors = [[int(picture.digest[:6], 16), 1] + [0] * 14 for picture in pictures]
        image = np.array(vectors, np.float32).reshape(-1, 16)
        yield EncodedPiece(image / np.linalg.norm(image, axis=1, keepdims=True), pictures)


@given(lengths=st.lists(st.integers(0, 5), min_size=1, max_size=5), count=st.integers(2, 6))
@settings(max_examples=4, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
def test_pieces_of_unknown_lengths_give_every_picture_once_in_order(
    checkpoint, tmp_path_factory, monkeypatch, lengths, count
):
    monkeypatch.setattr(Encoder, "pieces", encode_digests)
    monkeypatch.setattr(files, "_sync", lambda path: None)
    folder, archive = tmp_path_factory.mktemp("made"), archive_of_source(made_source(lengths), 2)
    if not sum(lengths):
        with pytest.raises(SwanError, match="none of its 0 images"):
            embed(checkpoint, archive, folder / "one.h5")
        return
    embed(checkpoint, archive, folder / "one.h5")
    embed_in_shards(checkpoint, archive, folder / "many.h5", count)
    assert_same(folder / "one.h5", folder / "many.h5")
    names = read_embeddings(folder / "many.h5").catalogue.filename.tolist()
    assert names == [f"{n}.tar/{row}.png" for n, length in enumerate(lengths) for row in range(length)]


def test_what_cannot_be_read_is_left_out_and_listed_by_its_shard_and_by_the_last_one(checkpoint, tmp_path):
    source = made_source([3, 2, 2], broken=[(0, 1), 1])
    with pytest.raises(ImageError, match=r"0\.tar/1\.png: not an image") as told:
        embed(checkpoint, archive_of_source(source, 2), tmp_path / "one.h5")
    assert "--missing skip" in told.value.hint
    assert not any(tmp_path.iterdir())
    archive = archive_of_source(source, 2, missing="skip")
    whole = embed(checkpoint, archive, tmp_path / "one.h5")
    first = embed(checkpoint, archive, tmp_path / "three.h5", Shard(1, 3))
    state = json.loads((tmp_path / "three.shards" / "1-of-3.json").read_text())
    assert state == {"pieces": 1, "done": 1, "images": 2, "skipped": 1}
    second, third = (embed(checkpoint, archive, tmp_path / "three.h5", Shard(n, 3)) for n in (2, 3))
    assert_same(tmp_path / "one.h5", tmp_path / "three.h5")
    assert [name for name, _ in whole.skipped] == ["0.tar/1.png", "1.tar"]
    assert (first.images, [name for name, _ in first.skipped]) == (2, ["0.tar/1.png"])
    assert (second.images, [name for name, _ in second.skipped]) == (2, ["1.tar"])
    assert (third.images, third.skipped) == (6, whole.skipped)


# ---------------------------------------------------------------------------------------------------------
# interrupted and resumed


@pytest.fixture
def folder(tmp_path):
    """Eleven images, in pieces of four with batches of two."""
    (tmp_path / "images").mkdir()
    for number in range(11):
        (tmp_path / "images" / f"road_{number}.png").write_bytes(png(number))
    return tmp_path / "images"


@contextmanager
def written_parts(most=99):
    """Names of the parts that are written; an interrupt takes the place of the part after the first n."""
    write, written = module.write_part, []

    def interrupted(path, *arguments):
        if len(written) == most:
            raise KeyboardInterrupt
        written.append(path.name)
        write(path, *arguments)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(module, "write_part", interrupted)
        yield written


def interrupt(checkpoint, archive, output, shard=WHOLE, *, after):
    """An embedding that is interrupted after n pieces."""
    with written_parts(after), pytest.raises(KeyboardInterrupt):
        embed(checkpoint, archive, output, shard)


def test_resumed_process_keeps_its_pieces_and_ends_where_an_uninterrupted_one_does(
    checkpoint, folder, tmp_path
):
    archive = archive_of_source(open_source(str(folder)), 2)
    embed(checkpoint, archive, tmp_path / "one.h5")
    interrupt(checkpoint, archive, tmp_path / "two.h5", after=2)
    assert not (tmp_path / "two.h5").exists()
    state = json.loads((tmp_path / "two.shards" / "1-of-1.json").read_text())
    assert state == {"pieces": 3, "done": 2, "images": 8, "skipped": 0}
    progress = []
    options = {"resume": True, "progress": lambda *shown: progress.append(shown)}
    with written_parts() as written:
        embed(checkpoint, archive, tmp_path / "two.h5", **options)
    assert written == ["piece-000002.h5"]
    assert (progress[0], progress[-1]) == (("images", 8, 11), ("images", 11, 11))
    assert_same(tmp_path / "one.h5", tmp_path / "two.h5")
    assert not (tmp_path / "two.shards").exists()


def test_damaged_image_can_be_left_out_on_resume_as_its_error_says(checkpoint, folder, tmp_path):
    (folder / "road_9.png").write_bytes(b"no image")
    source, output = open_source(str(folder)), tmp_path / "one.h5"
    with pytest.raises(ImageError, match="or leave it out: --missing skip"):
        embed(checkpoint, archive_of_source(source, 2), output)
    with written_parts() as written:
        outcome = embed(checkpoint, archive_of_source(source, 2, "skip"), output, resume=True)
    assert written == ["piece-000002.h5"]
    assert (outcome.images, [name for name, _ in outcome.skipped]) == (10, ["road_9.png"])


def test_existing_embeddings_are_not_made_again_on_resume(checkpoint, folder, tmp_path, monkeypatch):
    (folder / "c.png").write_bytes(b"no image")
    archive, output = archive_of_source(open_source(str(folder)), 2, "skip"), tmp_path / "one.h5"
    first = embed(checkpoint, archive, output)
    assert [name for name, _ in first.skipped] == ["c.png"]
    with monkeypatch.context() as patch:
        patch.setattr(Encoder, "pieces", None)
        again = embed(checkpoint, archive, output, resume=True)
        in_shards = [embed(checkpoint, archive, output, Shard(n, 2), resume=True) for n in (1, 2)]
        follower = embed(checkpoint, archive, output, Shard(2, 2, follows=True), resume=True)
    for outcome in (again, *in_shards):
        assert (outcome.skipped, outcome.images, outcome.missing) == (first.skipped, 11, [])
        assert outcome.embeddings.image[:].tolist() == first.embeddings.image[:].tolist()
    assert (follower.missing, follower.embeddings) == ([], None)
    assert not list(tmp_path.glob("one.shards*"))
    other = embed(checkpoint, archive, output, resume=True, precision="bf16")
    assert other.embeddings.digest != first.embeddings.digest


def test_piece_whose_vectors_are_others_than_were_written_is_reported(checkpoint, folder, tmp_path):
    archive = archive_of_source(open_source(str(folder)), 2)
    interrupt(checkpoint, archive, tmp_path / "two.h5", after=2)
    damaged = tmp_path / "two.shards" / "1-of-1" / "piece-000000.h5"
    with h5py.File(damaged, "r+") as file:
        file["images/embedding"][0] = file["images/embedding"][1]
    with pytest.raises(StoreError, match=r"piece-000000\.h5: its vectors are damaged"):
        embed(checkpoint, archive, tmp_path / "two.h5", resume=True)
    assert not (tmp_path / "two.h5").exists()
    damaged.unlink()
    embed(checkpoint, archive, tmp_path / "one.h5")
    embed(checkpoint, archive, tmp_path / "two.h5", resume=True)
    assert_same(tmp_path / "one.h5", tmp_path / "two.h5")


def test_without_resume_a_shard_begins_again_and_leaves_the_others(checkpoint, folder, tmp_path):
    archive, output = archive_of_source(open_source(str(folder)), 2), tmp_path / "two.h5"
    embed(checkpoint, archive, output, Shard(1, 2))
    (other,) = (tmp_path / "two.shards" / "1-of-2").glob("piece-*")
    before = other.stat().st_mtime_ns
    interrupt(checkpoint, archive, output, Shard(2, 2), after=1)
    with written_parts() as written, pytest.MonkeyPatch.context() as patched:
        patched.setattr(module, "_join", lambda *_: None)
        embed(checkpoint, archive, output, Shard(2, 2))
    assert written == ["piece-000001.h5", "piece-000002.h5"]
    assert other.stat().st_mtime_ns == before
    with written_parts() as written:  # all pieces are there, so it only joins
        assert embed(checkpoint, archive, output, Shard(1, 2), resume=True).embeddings
    assert written == []
    assert len(read_embeddings(output).image) == 11
    assert not (tmp_path / "two.shards").exists()


def raised(*_):
    raise KeyboardInterrupt


@pytest.mark.parametrize("shard", [WHOLE, Shard(2, 2)], ids=lambda shard: shard.name)
@pytest.mark.parametrize("left", ["pieces", "file, manifest and pieces", "file and pieces"])
def test_process_that_is_killed_while_it_joins_encodes_nothing_again(
    checkpoint, folder, tmp_path, shard, left
):
    archive, output = archive_of_source(open_source(str(folder)), 2), tmp_path / "two.h5"
    embed(checkpoint, archive, tmp_path / "one.h5")
    if not shard.whole:
        embed(checkpoint, archive, output, Shard(1, 2))
    with pytest.MonkeyPatch.context() as patched:

        def write_and_die(*given):
            if left != "pieces":
                write_embeddings(*given)
                patched.setattr(ShardFolder, "remove_all" if "manifest" in left else "remove_own", raised)
            else:
                raise KeyboardInterrupt

        patched.setattr(module, "write_embeddings", write_and_die)
        with pytest.raises(KeyboardInterrupt):
            embed(checkpoint, archive, output, shard)
    assert output.exists() == ("file" in left)
    assert (tmp_path / "two.shards" / "manifest.json").exists() == (left != "file and pieces")
    with written_parts() as written:
        assert embed(checkpoint, archive, output, shard, resume=True).images == 11
    assert written == []
    assert_same(tmp_path / "one.h5", output)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "one.h5", "two.h5"]


def test_two_shards_that_end_at_the_same_time_are_joined_once(checkpoint, folder, tmp_path):
    archive, output = archive_of_source(open_source(str(folder)), 2), tmp_path / "two.h5"
    embed(checkpoint, archive, tmp_path / "one.h5")
    written, ended = [], threading.Barrier(2)

    def pieces_ended(*arguments):
        done = embed_pieces(*arguments)
        ended.wait(60)
        return done

    with pytest.MonkeyPatch.context() as patched, ThreadPoolExecutor(2) as pool:
        embed_pieces = module._embed_pieces
        patched.setattr(module, "_embed_pieces", pieces_ended)
        patched.setattr(
            module, "write_embeddings", lambda *given: written.append(1) or write_embeddings(*given)
        )
        shards = [pool.submit(embed, checkpoint, archive, output, Shard(number, 2)) for number in (1, 2)]
        outcomes = [shard.result() for shard in shards]
    assert written == [1]
    assert [outcome.missing for outcome in outcomes] == [[], []]
    assert sorted(bool(outcome.embeddings) for outcome in outcomes) == [False, True]
    assert_same(tmp_path / "one.h5", output)
    assert not (tmp_path / "two.shards").exists()


def test_nothing_is_resumed_with_other_images_or_options(checkpoint, folder, tmp_path):
    interrupt(checkpoint, archive_of_source(open_source(str(folder)), 2), tmp_path / "two.h5", after=1)
    (folder / "road_0.png").write_bytes(png(99))
    archive = archive_of_source(open_source(str(folder)), 2)
    with pytest.raises(SwanError, match=r"two\.shards: begun with other images\n"):
        embed(checkpoint, archive, tmp_path / "two.h5", resume=True)
    with pytest.raises(SwanError, match="begun with other images, --precision fp32"):
        embed(checkpoint, archive, tmp_path / "two.h5", resume=True, precision="bf16")
    embed(checkpoint, archive, tmp_path / "two.h5")
    assert len(read_embeddings(tmp_path / "two.h5").image) == 11


def test_one_process_leaves_the_shards_of_others_as_they_are(checkpoint, folder, tmp_path):
    archive, output = archive_of_source(open_source(str(folder)), 2), tmp_path / "two.h5"
    embed(checkpoint, archive, output, Shard(1, 2))
    interrupt(checkpoint, archive, output, Shard(2, 2), after=1)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for resume in (False, True):
        with pytest.raises(SwanError, match="begun with --shard I/2"):
            embed(checkpoint, archive, output, resume=resume)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_one_process_replaces_embeddings_that_were_made_in_shards(checkpoint, folder, tmp_path):
    archive, output = archive_of_source(open_source(str(folder)), 2), tmp_path / "two.h5"
    embed_in_shards(checkpoint, archive, output, 2)
    with written_parts() as written:
        embed(checkpoint, archive, output, resume=True)
    assert written == []
    (folder / "road_11.png").write_bytes(png(11))
    archive = archive_of_source(open_source(str(folder)), 2)
    interrupt(checkpoint, archive, output, after=1)
    assert len(read_embeddings(output).image) == 11  # those of before, until the new ones are whole
    embed(checkpoint, archive, output, resume=True)
    assert len(read_embeddings(output).image) == 12
    (folder / "road_12.png").write_bytes(png(12))
    embed_in_shards(checkpoint, archive_of_source(open_source(str(folder)), 2), output, 2)
    assert len(read_embeddings(output).image) == 13
    assert not (tmp_path / "two.shards").exists()


def test_pieces_of_another_archive_or_under_another_name_are_not_taken(checkpoint, folder, tmp_path):
    archive, output = archive_of_source(open_source(str(folder)), 2), tmp_path / "two.h5"
    embed(checkpoint, archive, output, Shard(1, 2))
    own, other = (tmp_path / "two.shards" / name for name in ("1-of-2", "2-of-2"))
    other.mkdir()
    for name in ("piece-000001.h5", "piece-000002.h5"):
        (other / name).write_bytes((own / "piece-000000.h5").read_bytes())
    with pytest.raises(StoreError, match=r"piece-000001\.h5: of another archive, or another piece"):
        embed(checkpoint, archive, output, Shard(1, 2), resume=True)
    assert not output.exists()


def test_shards_are_joined_under_the_lock_of_all_of_them(checkpoint, folder, tmp_path, monkeypatch):
    """Else two shards that finish at the same time would both write and remove the files."""
    locked, written = [], module.write_embeddings
    alone = ShardFolder.alone_in_archive

    @contextmanager
    def watched(shards):
        with alone(shards):
            locked.append(shards.folder)
            yield
            locked.pop()

    monkeypatch.setattr(ShardFolder, "alone_in_archive", watched)

    def write(path, *given):
        assert locked == [tmp_path / "two.shards"]
        assert (tmp_path / "two.shards" / ".lock").exists()
        return written(path, *given)

    monkeypatch.setattr(module, "write_embeddings", write)
    archive = archive_of_source(open_source(str(folder)), 2)
    _, joined = embed_in_shards(checkpoint, archive, tmp_path / "two.h5", 2)
    assert joined.missing == []
    assert (tmp_path / "two.h5").exists()


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EMFILE])
def test_failing_disk_ends_the_embedding_also_if_unreadable_images_are_left_out(
    checkpoint, folder, tmp_path, monkeypatch, number
):
    """Else all images from there on would be left out, and the command would end as if it had worked."""
    archive = archive_of_source(open_source(str(folder)), 2, "skip")
    read = Path.read_bytes

    def failing(path):
        if path.suffix == ".png":
            raise OSError(number, os.strerror(number), str(path))
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", failing)
    with pytest.raises(SwanError, match=re.escape(f"cannot be read ({os.strerror(number)})")) as caught:
        embed(checkpoint, archive, tmp_path / "a.h5")
    assert not isinstance(caught.value, ImageError)
    assert not (tmp_path / "a.h5").exists()


def test_shard_has_one_process_at_a_time(checkpoint, folder, tmp_path):
    archive, output = archive_of_source(open_source(str(folder)), 2), tmp_path / "two.h5"
    with ShardFolder(output, Shard(1, 2)).alone_in_shard():
        with pytest.raises(SwanError, match="another swan is writing there"):
            embed(checkpoint, archive, output, Shard(1, 2))
        embed(checkpoint, archive, output, Shard(2, 2))


# ---------------------------------------------------------------------------------------------------------
# tars that were appended to, and what is not read


def tar_at(path, *members):
    """A tar with members of these names and contents, in order."""
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def test_of_a_member_that_is_there_twice_the_last_counts(checkpoint, tmp_path):
    """As `tar -r` replaces a file; also a damaged one, which is then no error."""
    tar_at(
        tmp_path / "t.tar",
        ("1.png", png(1)),
        ("2.png", b"damaged"),
        ("3.png", png(3)),
        ("./1.png", png(4)),
        ("2.png", png(5)),
        ("1.txt", b"a road"),
        ("@eaDir/1.png", png(1)),
    )
    outcome = embed(checkpoint, archive_of_source(open_source(str(tmp_path)), 2), tmp_path / "e.h5")
    assert outcome.skipped == []
    assert outcome.not_read == {".txt": 1, "in @eaDir": 1}
    stored = read_embeddings(tmp_path / "e.h5")
    assert stored.catalogue.filename.tolist() == ["t.tar/3.png", "t.tar/1.png", "t.tar/2.png"]
    expected = Encoder(checkpoint, "cpu", batch_size=2).images([picture_of(value) for value in (3, 4, 5)])
    np.testing.assert_allclose(stored.image, expected, atol=1e-6)


def test_last_member_of_a_name_counts_also_if_it_is_damaged(checkpoint, tmp_path):
    tar_at(tmp_path / "t.tar", ("1.png", png(1)), ("2.png", png(2)), ("1.png", b"damaged"))
    source = open_source(str(tmp_path / "t.tar"))
    with pytest.raises(ImageError, match=r"t\.tar/1\.png: not an image"):
        embed(checkpoint, archive_of_source(source, 2), tmp_path / "e.h5")
    outcome = embed(checkpoint, archive_of_source(source, 2, "skip"), tmp_path / "e.h5")
    assert [name for name, _ in outcome.skipped] == ["t.tar/1.png"]
    assert outcome.embeddings.catalogue.filename.tolist() == ["t.tar/2.png"]


def test_what_tars_hold_beside_images_is_counted_over_all_shards_and_resumes(checkpoint, tmp_path):
    (tmp_path / "tars").mkdir()
    for number in range(3):
        tar_at(tmp_path / "tars" / f"{number}.tar", ("1.png", png(number)), ("1.json", b"{}"))
    archive = archive_of_source(open_source(str(tmp_path / "tars")), 2)
    first, second = embed_in_shards(checkpoint, archive, tmp_path / "e.h5", 2)
    assert (first.not_read, second.not_read) == ({".json": 1}, {".json": 3})
    interrupt(checkpoint, archive, tmp_path / "one.h5", after=2)
    assert embed(checkpoint, archive, tmp_path / "one.h5", resume=True).not_read == {".json": 3}


def test_folder_that_cannot_be_listed_is_an_error_or_left_out(checkpoint, folder, tmp_path):
    source = replace(open_source(str(folder)), unreadable=[("locked/", "Permission denied")])
    with pytest.raises(ImageError, match=r"images/locked/: Permission denied"):
        archive_of_source(source, 2)
    outcome = embed(checkpoint, archive_of_source(source, 2, "skip"), tmp_path / "e.h5")
    assert (outcome.images, outcome.skipped) == (11, [("locked/", "Permission denied")])
