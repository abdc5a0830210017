"""The Python interface: what it costs, what it takes, and the README's example run whole."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import swancli
from swancli.embed.archive import archive_of_source, embed_archive
from swancli.embed.shards import WHOLE
from swancli.embed.sources import open_source
from swancli.errors import SwanError
from swancli.images import decode_image, read_bytes
from swancli.prepare.build import PrepareSettings, prepare_dataset
from swancli.query.index import build_index
from swancli.store.dataset import Dataset
from swancli.store.embeddings import open_embeddings, read_embeddings, write_embeddings
from swancli.vocab.vocabulary import export_json, read_vectors, read_vocabulary, write_vocabulary
from swancli.workspace import Group, Run, Workspace


def test_import_costs_no_library():
    code = (
        "import sys, swancli; dir(swancli); "
        "print([name for name in ('torch', 'numpy', 'pandas', 'h5py', 'rich') if name in sys.modules])"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert printed.stdout == "[]\n"


def test_names_are_listed_and_others_are_no_attributes():
    assert {"Encoder", "load_checkpoint", "open_search", "recall"} <= set(dir(swancli))
    with pytest.raises(AttributeError, match="encode"):
        swancli.encode  # noqa: B018


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A folder with four photos, of which two are equal, and one has a scene in its name."""
    folder = tmp_path_factory.mktemp("root")
    (folder / "path/to/photos/sub").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in ("1.jpg", "2.jpg", "sub/harbor_3.png"):
        image = Image.fromarray(rng.integers(0, 255, (40, 50, 3), np.uint8))
        image.save(folder / "path/to/photos" / name)
    (folder / "path/to/photos/4.jpg").write_bytes((folder / "path/to/photos/1.jpg").read_bytes())
    return folder


@pytest.fixture(scope="module")
def photos(root):
    return root / "path" / "to" / "photos"


def embed_folder(checkpoint, folder, output):
    encoder = swancli.Encoder(checkpoint, "cpu")
    archive = archive_of_source(open_source(str(folder)), 32, scene_from="name")
    embed_archive(encoder, archive, output, WHOLE)
    return output


@pytest.fixture(scope="module")
def embedded(photos, tiny_model, tmp_path_factory):
    """Embeddings of the folder by the tiny model."""
    return embed_folder(tiny_model, photos, tmp_path_factory.mktemp("out") / "embeddings.h5")


def test_example_of_the_readme_runs(root, photos, monkeypatch, capsys):
    script = Path(__file__).with_name("notebook.py")
    readme = (script.parents[1] / "README.md").read_text()
    (example,) = re.findall(r"^```python\n(.*?)^```", readme, re.M | re.S)
    assert example in script.read_text()
    embed_folder("shipped", photos, root / "swan-data/shipped/embeddings-photos.h5")
    monkeypatch.chdir(root)
    done = runpy.run_path(str(script))
    assert done["images"].shape == (2, done["encoder"].dimensions)
    assert done["images"].dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(done["captions"], axis=1), 1, atol=1e-5)
    assert done["vectors"].filename.tolist() == ["1.jpg", "2.jpg", "4.jpg", "sub/harbor_3.png"]
    np.testing.assert_allclose(done["again"], np.stack(done["vectors"].embedding), atol=1e-6)
    printed = capsys.readouterr().out
    assert "i2t R@1" in printed
    assert "rank" in printed


# ---------------------------------------------------------------------------------------------------------
# search


def test_search_is_a_table_of_the_best_images(embedded, photos, tiny_model):
    encoder, stored = swancli.Encoder(tiny_model, "cpu"), read_embeddings(embedded)
    with swancli.open_search(embedded, "cpu") as search:
        table = search("river", top_k=3)
    scores = (encoder.captions(["river"]) @ stored.image.T)[0]
    order = np.argsort(-scores, kind="stable")[:3]
    assert table.columns.tolist() == ["rank", "score", "path", "scene", "caption"]
    assert table["rank"].tolist() == [1, 2, 3]
    np.testing.assert_allclose(table.score, scores[order], atol=1e-6)
    names = stored.catalogue.filename[order]
    assert table.path.tolist() == [str(photos / name) for name in names]
    assert table.caption.isna().all()


def test_search_by_image_finds_the_image_itself_in_whatever_form_it_is_given(embedded, photos):
    path = photos / "sub" / "harbor_3.png"
    with swancli.open_search(str(embedded), "cpu") as search:
        for image in (path, str(path), Image.open(path), decode_image(read_bytes(path), "harbor")):
            table = search(image=image, top_k=1)
            assert table.path.tolist() == [str(path)]
            assert table.score[0] == pytest.approx(1, abs=1e-6)
            assert table.scene[0] == "harbor"


def test_search_takes_the_options_of_the_command(embedded):
    with swancli.open_search(embedded, "cpu") as search:
        assert search("river", scene="harbor").scene.tolist() == ["harbor"]
        assert search("river", scene=["harbor"], files="*_3.png").scene.tolist() == ["harbor"]
        everything = search("river")
        least = everything.score[1]
        assert len(search("river", threshold=least)) == (everything.score >= least).sum()
        away = search("river", not_="road")
        assert not np.array_equal(away.score, everything.score)
        assert away.equals(search("river", not_=["road"]))


def test_path_is_the_stored_name_where_the_pictures_are_gone(embedded, photos):
    moved = photos.rename(photos.with_name("elsewhere"))
    try:
        with swancli.open_search(embedded, "cpu") as search:
            assert set(search("river").path) == {"1.jpg", "2.jpg", "4.jpg", "sub/harbor_3.png"}
    finally:
        moved.rename(photos)


def test_words_that_the_model_does_not_know_are_a_warning(embedded):
    with swancli.open_search(embedded, "cpu") as search, pytest.warns(UserWarning, match="zeppelin"):
        search("zeppelin river")


@pytest.mark.parametrize(
    ("texts", "options", "said"),
    [
        ((), {}, "nothing to search for"),
        (("river",), {"image": "a.jpg"}, "more than one way"),
        ((), {"image": "a.jpg", "not_": "road"}, "more than one way"),
        ((["river", "road"],), {}, "made of texts"),
        (("?!",), {}, "no word"),
        (("river",), {"top_k": 0}, "top_k 0"),
        (("river",), {"scene": "lake"}, "lake"),
        (("river",), {"captions": True}, "no captions to rank"),
        (("river",), {"threshold": "auto"}, "threshold"),
        ((), {"image": "none.jpg"}, "none.jpg"),
    ],
)
def test_what_cannot_be_asked_is_an_error_in_words(embedded, texts, options, said):
    with swancli.open_search(embedded, "cpu") as search, pytest.raises(SwanError, match=said):
        search(*texts, **options)


# ---------------------------------------------------------------------------------------------------------
# recall


def test_recall_is_the_table_of_eval():
    """Two images of two captions each; image 1's own come second and third, caption 3's image second.

    i2t R@1: image 0 hits, image 1 does not. t2i R@1: captions 0, 1 and 2 hit, caption 3 does not. All is
    found among five.
    """
    similarity = np.array([[0.9, 0.8, 0.1, 0.7], [0.5, 0.1, 0.4, 0.3]])
    table = swancli.recall(similarity, [0, 0, 1, 1])
    assert table.columns.tolist() == [
        *("i2t R@1", "i2t R@5", "i2t R@10", "t2i R@1", "t2i R@5", "t2i R@10", "mR"),
    ]
    assert table.iloc[0].tolist() == pytest.approx([50, 100, 100, 75, 100, 100, 525 / 6])


def test_equal_scores_count_at_their_expected_value():
    """Any order of two equal captions is as likely, so half of the queries hit."""
    table = swancli.recall(np.ones((2, 2)), np.array([0, 1]))
    assert table["i2t R@1"][0] == table["t2i R@1"][0] == pytest.approx(50)


@pytest.mark.parametrize(
    ("similarity", "image", "said"),
    [
        (np.ones(3), [0, 1, 2], "shape"),
        (np.ones((2, 3)), [0, 1], r"\(2, 3\)"),
        (np.ones((2, 3)), [0, 1, 2], "0 to 1"),
        (np.ones((2, 2)), [0.0, 1.0], "float64"),
        (np.ones((2, 2)), [0, -2], "int64 from -2 to 0"),
        (np.ones((2, 2)), [-1, -1], "no image has a caption"),
        (np.full((2, 2), np.nan), [0, 1], "NaN"),
    ],
)
def test_similarities_that_cannot_be_scored_are_refused(similarity, image, said):
    with pytest.raises(SwanError, match=said) as caught:
        swancli.recall(similarity, image)
    assert caught.value.hint


# ---------------------------------------------------------------------------------------------------------
# paths


def test_paths_may_be_text_everywhere(photos, embedded, tiny_model, tmp_path):
    checkpoint = swancli.load_checkpoint(str(tiny_model))
    out = str(tmp_path)
    workspace = Workspace(out)
    assert workspace.dataset("d") == tmp_path / "d" / "dataset.h5"
    assert (Run(f"{out}/runs/a").best, Group(f"{out}/runs/a").name) == (tmp_path / "runs/a/best.pt", "a")
    settings = PrepareSettings("d", source=str(photos))
    prepare_dataset(settings, f"{out}/d/dataset.h5")
    with Dataset(f"{out}/d/dataset.h5") as dataset:
        assert len(dataset.catalogue.filename) == 4
    write_vocabulary(f"{out}/vocab.h5", checkpoint.tokenizer)
    export_json(f"{out}/vocab.json", checkpoint.tokenizer)
    assert read_vocabulary(f"{out}/vocab.h5").words == read_vocabulary(f"{out}/vocab.json").words
    assert read_vectors(f"{out}/vocab.h5") is None
    write_embeddings(f"{out}/embeddings.h5", read_embeddings(str(embedded)), "abcd")
    build_index(f"{out}/embeddings.h5", "flat")
    open_embeddings(f"{out}/embeddings.h5").image.file.close()
    with swancli.open_search(f"{out}/embeddings.h5", "cpu", checkpoint=str(tiny_model)) as search:
        assert len(search("river")) == 4
    assert swancli.Encoder(str(tiny_model), "cpu").images([str(photos / "1.jpg")]).shape == (1, 32)


def test_checkpoint_may_be_named_by_a_path_a_run_or_shipped(tiny_model, tmp_path):
    run = Run(tmp_path / "d" / "runs" / "first")
    run.folder.mkdir(parents=True)
    run.best.write_bytes(tiny_model.read_bytes())
    loaded = [swancli.load_checkpoint(name) for name in (str(tiny_model), tiny_model, run)]
    assert len({checkpoint.sha256 for checkpoint in loaded}) == 1
    assert loaded[2].path == run.best
    assert swancli.load_checkpoint("shipped").path.name == "shipped.pt"
    assert swancli.Encoder(loaded[0], "cpu").checkpoint is loaded[0]
