"""Names from a listing are facts, and an output belongs to its full source: whole commands on odd folders."""

import json
import os
import shutil
import subprocess

import h5py
import numpy as np
import pytest
import torch
from conftest import invoke
from PIL import Image

from swancli.model.checkpoint import save_checkpoint
from swancli.model.settings import ModelSettings
from swancli.model.swan import Swan
from swancli.store.text import printable
from swancli.vocab.vocabulary import count_words


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A tiny model, which knows nothing."""
    torch.manual_seed(0)
    vocabulary = count_words(["road", "pond"], min_count=1, stop_words="keep", dataset="d")
    shape = ModelSettings(words=len(vocabulary), image_size=32, embed_dim=16, frozen=True)
    path = tmp_path_factory.mktemp("model") / "tiny.pt"
    save_checkpoint(path, Swan(shape).eval(), vocabulary, {"dataset": "d", "run": "r", "epoch": 1})
    return path


@pytest.fixture
def swan(checkpoint, tmp_path, monkeypatch):
    """Runs a command that has to work, in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def run(command, *arguments, code=0):
        model = ["--checkpoint", checkpoint] if command == "embed" else []
        result = invoke(command, *arguments, *model, root=tmp_path / "root")
        assert result.returncode == code, (result.stdout, result.stderr)
        return result

    return run


def picture(path, value=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(value).integers(0, 255, (32, 32, 3), np.uint8)
    Image.fromarray(pixels).save(path, "PNG")


def shell(folder, commands):
    subprocess.run(commands, shell=True, check=True, cwd=folder)


def found(swan, *arguments):
    """File names that a question finds, in order."""
    result = swan("query", "a road", "--json", *arguments)
    return [hit["filename"] for hit in json.loads(result.stdout)["results"]]


ODD = {
    "a leading blank": " leading.png",
    "a trailing blank before the suffix": "trailing .png",
    "a backslash": "back\\slash.png",
    "a drive of Windows": "z:12_x:7.png",
    "bytes in Latin-1": "caf\udce9.png",
    "an emoji code": "tile:100:200.png",
    "an emoji code of letters": ":airplane:.png",
    "markup of rich": "[bold]a[/bold].png",
    "a line feed": "a\nerror: forged.png",
    "a tab": "a\tb.png",
    "a line separator": "a\u2028b.png",
    "an escape sequence": "a\x1b[31mb.png",
    "a pattern": "[0-9]*{a,b}?.png",
    "letters apart": "cafe\u0301.png",
    "text from right to left": "\u202egnp.png",
    "a percent sign": "%2e%2e%2f1.png",
    "an option": "--json.png",
    "255 bytes": "x" * 251 + ".png",
}


@pytest.mark.parametrize("name", ODD.values(), ids=ODD)
def test_odd_name_is_read_stored_printed_in_one_line_and_shown(swan, tmp_path, name):
    picture(tmp_path / "f" / name)
    swan("embed", "--images", "f")
    (path,) = (tmp_path / "root").glob("tiny-*/embeddings-f.h5")
    with h5py.File(path) as file:
        assert file["images/filename"][0] == os.fsencode(name)
    assert found(swan) == [name]
    printed = swan("query", "a road", "--html", tmp_path / "hits.html").stdout
    # Question, heads, a rule and the result; of a table that does not fit, question and result.
    assert len(printed.splitlines()) == (2 if len(name) > 200 else 4)
    assert "data:image/jpeg" in (tmp_path / "hits.html").read_text(encoding="utf-8")
    assert swan("prepare", "--dataset", "d", "--source", "f").returncode == 0
    if name == ODD["an emoji code of letters"]:
        assert name in printed
    if "\udce9" in name:
        assert printable(name) in (tmp_path / "hits.html").read_text(encoding="utf-8")


def test_server_shows_names_that_are_no_utf8(swan, tmp_path):
    pytest.importorskip("fastapi")
    from swancli.query.search import open_search
    from swancli.query.serve import SearchRequest, Service
    from swancli.store.pictures import pictures_of

    picture(tmp_path / "f" / "caf\udce9.png")
    swan("embed", "--images", "f")
    (path,) = (tmp_path / "root").glob("tiny-*/embeddings-f.h5")
    with open_search(path, "cpu") as searcher:
        service = Service(searcher, pictures_of(searcher.embeddings))
        for asked in (SearchRequest(text=["a road"]), SearchRequest(like=0)):
            answer = service.ask(asked)
            assert '"caf\\\\xe9.png"' in service.found(answer).model_dump_json()
            assert "caf\\xe9.png" in service.page(asked, answer).encode().decode()
        assert service.picture(0, 32)


def test_folder_with_a_name_in_latin_1_is_embedded_and_found(swan, tmp_path):
    for folder in ("caf\udce9", "x" * 255):
        picture(tmp_path / folder / "1.png")
        swan("embed", "--images", folder)
        assert found(swan) == ["1.png"]
        swan("query", "a road", "--html", tmp_path / "hits.html")
        assert "data:image/jpeg" in (tmp_path / "hits.html").read_text()


def test_error_about_an_odd_name_is_one_line(swan, tmp_path):
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "a\nerror: forged :tada: [red].png").write_bytes(b"no image")
    said = swan("embed", "--images", "f", code=2).stderr
    assert "a\\nerror: forged :tada: [red].png: not an image" in said
    assert sum(line.startswith("error:") for line in said.splitlines()) == 1
    picture(tmp_path / "f" / "1.png")
    said = swan("embed", "--images", "f", "--missing", "skip").stderr
    assert "left out a\\nerror: forged :tada: [red].png" in said


@pytest.mark.parametrize("command", ["embed", "prepare"])
def test_hidden_folders_are_passed_over_and_all_that_is_not_read_is_counted(swan, tmp_path, command):
    for name in (
        "1.png",
        ".ipynb_checkpoints/1.png",
        "@eaDir/1.png/x.png",
        "sub/2.png",
        "sub/__MACOSX/._1.png",
    ):
        picture(tmp_path / "f" / name)
    for name in ("a.heic", "b.txt", "c.TXT", "._1.png"):
        (tmp_path / "f" / name).write_bytes(b"")
    picture(tmp_path / "other" / "3.png")
    (tmp_path / "f" / "more").symlink_to(tmp_path / "other")
    options = ["--images", "f"] if command == "embed" else ["--dataset", "d", "--source", "f"]
    lines = [line for line in swan(command, *options).stderr.splitlines() if "not read" in line]
    (line,) = lines
    start, _, kinds = line.partition(": not read: ")
    assert start == f"warning: {tmp_path}/f" or command == "prepare"
    assert kinds.startswith("3 hidden folders (.ipynb_checkpoints, @eaDir, __MACOSX), 2 .txt, ")
    assert set(kinds.split(", ")[-3:]) == {"1 linked folder", "1 .heic", "1 hidden file"}


def test_folder_of_links_says_what_it_holds(swan, tmp_path):
    picture(tmp_path / "g" / "1.png")
    (tmp_path / "h").mkdir()
    (tmp_path / "h" / "more").symlink_to(tmp_path / "g")
    said = swan("embed", "--images", "h", code=2).stderr
    assert "no images in it; not read: 1 linked folder" in said
    assert "links to folders are not followed" in said


@pytest.mark.skipif(not shutil.which("tar"), reason="needs tar")
def test_tar_that_was_joined_and_appended_to_by_tar_itself(swan, tmp_path):
    for number in range(4):
        picture(tmp_path / f"{number}.png", number)
    shell(tmp_path, "tar cf a.tar 0.png 1.png; tar cf b.tar 2.png")
    shutil.copy(tmp_path / "3.png", tmp_path / "0.png")  # another picture under its name
    (tmp_path / "notes.txt").write_text("")
    subprocess.run(
        "tar rf a.tar 0.png notes.txt; cat a.tar b.tar > 'c[0].tar'", shell=True, check=True, cwd=tmp_path
    )
    said = swan("embed", "--images", "c[0].tar").stderr
    assert "not read: 1 .txt" in said
    assert sorted(found(swan)) == [f"c[0].tar/{number}.png" for number in range(3)]
    (path,) = (tmp_path / "root").glob("tiny-*/embeddings-*.h5")
    with h5py.File(path) as file:
        stored = dict(zip(file["images/filename"].asstr()[:], file["images/digest"].asstr()[:], strict=True))
    swan("embed", "--images", tmp_path / "0.png", code=2)
    picture(tmp_path / "only" / "3.png", 3)
    swan("embed", "--images", "only")
    with h5py.File(next((tmp_path / "root").glob("tiny-*/embeddings-only.h5"))) as file:
        assert stored["c[0].tar/0.png"] == file["images/digest"].asstr()[0]


def test_tar_unpacked_into_a_folder_of_its_name_is_embedded_and_shown(swan, tmp_path):
    picture(tmp_path / "f" / "tiles-0.tar" / "1.png")
    swan("embed", "--images", "f")
    swan("query", "a road", "--html", tmp_path / "hits.html")
    assert "data:image/jpeg" in (tmp_path / "hits.html").read_text()


# ---------------------------------------------------------------------------------------------------------
# an output belongs to its full source


def outputs(tmp_path):
    return sorted(path.name for path in (tmp_path / "root").glob("*/*.h5"))


def test_folders_of_one_name_have_outputs_of_their_own(swan, tmp_path):
    for number, city in enumerate(("seoul", "tokyo", "busan", "x/seoul")):
        picture(tmp_path / city / "images" / f"{number}.png", number)
        said = swan("embed", "--images", f"{city}/images").stderr
        assert ("another file has the usual name" in said) == (number > 0)
        assert found(swan) == [f"{number}.png"]
    names = outputs(tmp_path)
    assert len(names) == 4
    assert {"embeddings-images.h5", "embeddings-tokyo-images.h5", "embeddings-busan-images.h5"} < set(names)
    picture(tmp_path / "tokyo" / "images" / "9.png", 9)
    swan("embed", "--images", tmp_path / "tokyo" / "images" / ".." / "images")  # by another way
    assert outputs(tmp_path) == names
    assert sorted(found(swan)) == ["1.png", "9.png"]


def test_name_of_a_source_that_is_gone_is_not_taken_and_a_moved_root_keeps_its_files(swan, tmp_path):
    picture(tmp_path / "a" / "images" / "1.png")
    swan("embed", "--images", "a/images")
    shutil.move(tmp_path / "a", tmp_path / "b")
    swan("embed", "--images", "b/images")
    assert outputs(tmp_path) == ["embeddings-b-images.h5", "embeddings-images.h5"]


def test_tars_patterns_and_folders_of_one_name_have_outputs_of_their_own(swan, tmp_path):
    picture(tmp_path / "p.png")
    (tmp_path / "tiles").mkdir()
    subprocess.run(
        "tar cf tiles/a-0.tar p.png; tar cf tiles/b-0.tar p.png; cp tiles/a-0.tar tiles.tar",
        shell=True,
        check=True,
        cwd=tmp_path,
    )
    for count, images in enumerate(
        ("tiles/a-*.tar", "tiles/b-*.tar", "tiles", "tiles.tar", "tiles/a-*.tar"), start=1
    ):
        swan("embed", "--images", images)
        assert len(outputs(tmp_path)) == min(count, 4)


def test_texts_of_one_name_and_a_file_called_stdin_have_outputs_of_their_own(swan, tmp_path):
    for place in ("a/captions.txt", "b/captions.txt", "stdin"):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        (tmp_path / place).write_text("a road\n")
        swan("embed", "--texts", place)
    assert outputs(tmp_path) == ["texts-b-captions.txt.h5", "texts-captions.txt.h5", "texts-stdin.h5"]


def test_folder_named_like_a_data_set_does_not_replace_its_embeddings(swan, tmp_path):
    picture(tmp_path / "source" / "1.png")
    picture(tmp_path / "of-ucm" / "2.png")
    swan("prepare", "--dataset", "ucm", "--source", "source")
    swan("embed", "--dataset", "ucm")
    swan("embed", "--images", "of-ucm")
    assert len([name for name in outputs(tmp_path) if name.startswith("embeddings")]) == 2
    swan("embed", "--dataset", "ucm")
    assert len([name for name in outputs(tmp_path) if name.startswith("embeddings")]) == 2


def test_unfinished_embeddings_of_another_folder_are_not_replaced(swan, tmp_path):
    for city in ("seoul", "tokyo"):
        for number in range(2):
            picture(tmp_path / city / "images" / f"{number}.png", number)
    swan("embed", "--images", "seoul/images", "--shard", "1/2", "--batch-size", "1")
    swan("embed", "--images", "tokyo/images", "--batch-size", "1")
    assert outputs(tmp_path) == ["embeddings-tokyo-images.h5"]
    swan("embed", "--images", "seoul/images", "--shard", "2/2", "--batch-size", "1")
    assert outputs(tmp_path) == ["embeddings-images.h5", "embeddings-tokyo-images.h5"]


def test_scenes_of_one_name_have_tiles_of_their_own_and_each_is_found(swan, tmp_path):
    pytest.importorskip("rasterio")
    for number, city in enumerate(("seoul", "tokyo")):
        (tmp_path / city).mkdir()
        pixels = np.random.default_rng(number).integers(0, 255, (300, 300, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / city / "scene.tif")
        swan("embed", "--scene-image", f"{city}/scene.tif")
    assert outputs(tmp_path) == ["tiles-scene.tif.h5", "tiles-tokyo-scene.tif.h5"]
    for city in ("seoul", "tokyo"):
        said = swan("query", "a road", "--scene-image", f"{city}/scene.tif").stderr
        assert "embedded again" not in said
