"""Which data set, run or file a command means when none is named."""

import json
import os
from pathlib import Path

import h5py
import pytest

from swancli.errors import SwanError
from swancli.store.hdf5 import recorded_source, write_source
from swancli.workspace import Workspace, file_part, own_file, shipped_checkpoint


@pytest.fixture
def workspace(tmp_path):
    """Two data sets with runs: ucm/a the oldest, rsicd/b, then ucm/c without a best checkpoint."""
    for age, (dataset, run, files) in enumerate(
        [
            ("ucm", "a", ["config.json", "best.pt", "embeddings.h5"]),
            ("rsicd", "b", ["config.json", "best.pt", "embeddings-tiles.h5"]),
            ("ucm", "c", ["config.json"]),
        ]
    ):
        folder = tmp_path / dataset / "runs" / run
        folder.mkdir(parents=True)
        for path in [*(folder / name for name in files), tmp_path / dataset / "dataset.h5"]:
            path.touch()
            os.utime(path, (1000 + age, 1000 + age))
    return Workspace(tmp_path)


def test_newest_run_is_the_one_with_the_newest_best_checkpoint(workspace):
    assert workspace.find_run().name == "b"
    assert workspace.find_run(dataset="ucm").name == "a"
    assert workspace.find_run(having="config.json").name == "c"


def test_run_is_found_by_name_in_any_data_set(workspace):
    assert workspace.find_run("a").dataset == "ucm"
    with pytest.raises(SwanError, match="no run 'c'"):
        workspace.find_run("c")


def test_mistyped_run_is_answered_with_those_there_are(workspace):
    with pytest.raises(SwanError) as caught:
        workspace.find_run("zebra")
    assert caught.value.hint == "there are: b, a"
    for number in range(12):
        run = workspace.run("ucm", f"x{number}")
        run.folder.mkdir()
        run.best.touch()
    with pytest.raises(SwanError, match=r"there are: (x\d+, ){9}x\d+ and more"):
        workspace.find_run("zebra", "ucm")


def test_name_of_a_run_in_place_of_a_file_is_recognised(workspace, monkeypatch):
    assert workspace.run_in_place_of(Path("a")).name == "a"
    for name in ("c", "none", "a.pt", "no/a", "", "shipped", str(workspace.run("ucm", "a").best)):
        assert workspace.run_in_place_of(Path(name)) is None
    monkeypatch.chdir(workspace.root / "ucm" / "runs")
    assert workspace.run_in_place_of(Path("a")) is None


def test_data_set_without_a_run_takes_another_ones(workspace):
    assert workspace.find_run_for(dataset="ucm").name == "a"
    assert workspace.find_run_for(dataset="sydney").name == "b"
    assert workspace.find_run_for("b", "ucm").dataset == "rsicd"


def test_newest_data_set_and_embeddings(workspace):
    assert workspace.newest_dataset() == "ucm"
    assert workspace.find_embeddings().name == "embeddings-tiles.h5"


@pytest.mark.parametrize("name", ["../up", "a/b", "", ".hidden", "a b"])
def test_names_that_are_no_folder_names_are_refused(workspace, name):
    with pytest.raises(SwanError, match="--dataset"):
        workspace.dataset(name)


def test_empty_root_says_what_to_do(tmp_path):
    for find, hint in (
        ("find_run", "swan train"),
        ("newest_dataset", "swan prepare"),
        ("find_embeddings", "swan embed"),
    ):
        with pytest.raises(SwanError) as caught:
            getattr(Workspace(tmp_path), find)()
        assert hint in caught.value.hint


def write_group(workspace, name, fold, age):
    group = workspace.group("ucm", name)
    group.folder.mkdir(parents=True)
    member = {"run": f"{name}-1", "label": "", "fold": fold, "config": {}}
    group.file.write_text(json.dumps({"members": [member]}))
    os.utime(group.file, (age, age))


def test_newest_group_and_the_newest_that_has_folds(workspace):
    assert workspace.find_group() is None
    write_group(workspace, "cv", 1, 2000)
    write_group(workspace, "ablation", 0, 3000)
    assert workspace.find_group().name == "ablation"
    assert workspace.find_group(folds=True).name == "cv"
    assert workspace.find_group("ablation", folds=True) is None
    assert workspace.find_group("cv", "rsicd") is None


def test_checkpoint_is_found_by_file_folder_or_run(workspace):
    best = workspace.run("ucm", "a").best
    assert workspace.find_checkpoint(str(best)) == best
    assert workspace.find_checkpoint(str(best.parent)) == best
    assert workspace.find_checkpoint("a") == best
    for name in ("nothing.pt", "no/such/file", "zebra"):
        with pytest.raises(SwanError, match=name):
            workspace.find_checkpoint(name)


def test_what_a_checkpoint_makes_lies_in_its_run_or_in_a_folder_of_its_own(workspace, tmp_path):
    root, digest = workspace.root, "0123456789abcdef"
    in_run = root / "ucm/runs/a/best.pt"
    assert workspace.folder_of(in_run, digest) == in_run.parent
    assert workspace.folder_of(shipped_checkpoint(), digest) == root / "shipped"
    model = root / "models" / "RemoteCLIP.v1"
    model.mkdir(parents=True)
    for path, name in (
        (model, "RemoteCLIP.v1-01234567"),
        (model / "best.pt", "best-01234567"),
        (root / "best.pt", "best-01234567"),
        (root / "ucm/runs/a/older/best.pt", "best-01234567"),
        (root / "deep/ucm/runs/a/best.pt", "best-01234567"),
    ):
        assert workspace.folder_of(path, digest) == root / name


def test_shipped_checkpoint_encodes_where_no_run_can(workspace, tmp_path):
    empty = Workspace(tmp_path / "empty")
    assert empty.find_encoder(foreign=True) == shipped_checkpoint()
    with pytest.raises(SwanError, match="no run and no data set under"):
        empty.find_encoder()
    empty.dataset("ucm").parent.mkdir(parents=True)
    empty.dataset("ucm").touch()
    assert empty.find_encoder() == shipped_checkpoint()
    assert workspace.find_encoder().parent.name == "b"
    with pytest.raises(SwanError, match="no run 'c'"):
        workspace.find_encoder("c")


def test_run_on_generated_images_does_not_encode_pictures_of_ones_own(tmp_path):
    folder = tmp_path / "demo" / "runs" / "first"
    folder.mkdir(parents=True)
    (folder / "best.pt").touch()
    workspace = Workspace(tmp_path)
    assert workspace.find_encoder() == folder / "best.pt"
    assert workspace.find_encoder(foreign=True) == shipped_checkpoint()


def test_nothing_of_ones_own_may_be_called_shipped(workspace):
    for make in (lambda: workspace.dataset("shipped"), lambda: workspace.run("ucm", "shipped")):
        with pytest.raises(SwanError, match="comes with swan"):
            make()
    assert workspace.find_checkpoint("shipped") == shipped_checkpoint()


# ---------------------------------------------------------------------------------------------------------
# an output belongs to its full source


def made_from(path, source):
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        write_source(file, source, path.parent)


def test_no_two_sources_share_a_file(tmp_path):
    folder, written = tmp_path / "root", []
    sources = [str(tmp_path / place / "images") for place in ("seoul", "tokyo", "x/seoul", "y/seoul")]
    sources += ["s3://a/images", "s3://b/images", "s3://b/images/"]
    for source in sources:
        path, other = own_file(folder, "embeddings-", "images", source)
        assert other == ("" if source == sources[0] else sources[0])
        made_from(path, source)
        written.append(path.name)
    assert written[:3] == ["embeddings-images.h5", "embeddings-tokyo-images.h5", "embeddings-seoul-images.h5"]
    assert len(set(written)) == len(sources)
    assert [own_file(folder, "embeddings-", "images", source)[0].name for source in sources] == written


def test_tiles_of_scenes_with_one_long_name_are_found(tmp_path):
    name = "S2B_MSIL2A_20240501T103629_N0510_R008_T32TPS_20240501T134522_mosaic_of_the_valley.tif"
    scenes = [tmp_path / place / name for place in ("north", "south", "x/north")]
    for scene in scenes:
        scene.parent.mkdir(parents=True)
        scene.touch()
        path, _ = own_file(tmp_path / "root" / "shipped", "tiles-", name, str(scene))
        made_from(path, str(scene))
    found = [Workspace(tmp_path / "root").find_tiles(scene) for scene in scenes]
    assert len(set(found)) == 3
    for path, scene in zip(found, scenes, strict=True):
        assert recorded_source(path) == str(scene)
    assert Workspace(tmp_path / "root").find_tiles(tmp_path / "other.tif") is None


def test_file_of_an_older_version_that_does_not_say_its_source_is_not_replaced(tmp_path):
    with h5py.File(tmp_path / "embeddings-images.h5", "w") as file:
        file.attrs.update(format="swan-embeddings", version=3)
    path, other = own_file(tmp_path, "embeddings-", "images", "/tokyo/images")
    assert (path.name, other) == ("embeddings-tokyo-images.h5", "an unknown source")
    (tmp_path / "embeddings-images.h5").write_bytes(b"damaged")
    assert own_file(tmp_path, "embeddings-", "images", "/tokyo/images")[0].name == "embeddings-images.h5"


def test_file_of_a_source_that_is_reached_by_a_link_is_its_own(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "link").symlink_to("images")
    path, _ = own_file(tmp_path, "embeddings-", "images", str(tmp_path / "images"))
    made_from(path, str(tmp_path / "link"))
    assert own_file(tmp_path, "embeddings-", "images", str(tmp_path / "images")) == (path, "")


def test_file_that_is_being_made_from_another_source_is_left_alone(tmp_path):
    (tmp_path / "embeddings-images.shards").mkdir()
    manifest = tmp_path / "embeddings-images.shards" / "manifest.json"
    manifest.write_text(json.dumps({"source": "/seoul/images"}))
    path, other = own_file(tmp_path, "embeddings-", "images", "/tokyo/images")
    assert (path.name, other) == ("embeddings-tokyo-images.h5", "/seoul/images")
    assert own_file(tmp_path, "embeddings-", "images", "/seoul/images")[0].name == "embeddings-images.h5"


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("my tiles [north]", "my-tiles-north"),
        ("caf\udce9", "caf"),
        ("\u5730\u56fe" * 100, ("\u5730\u56fe" * 14)[:26]),  # 80 bytes hold 26 of these letters
        ("***", "images"),
        ("big.tif", "big.tif"),
    ],
)
def test_part_of_a_file_name_is_plain_and_short(name, part):
    assert file_part(name) == part


def test_link_that_leads_nowhere_is_passed_over(workspace):
    run = workspace.find_run("b")
    (run.folder / "embeddings-old.h5").symlink_to(run.folder / "gone.h5")
    assert workspace.find_embeddings() == run.folder / "embeddings-tiles.h5"
