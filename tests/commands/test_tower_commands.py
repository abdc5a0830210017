"""Whole commands with towers from outside: a network of timm, a BERT in a folder, a model of open_clip."""

import csv
import gc
import hashlib
import json
import shutil
import subprocess
import sys
import warnings
from types import SimpleNamespace

import h5py
import pytest
import torch
from conftest import invoke, write_source
from made_bert import write_bert

from swancli.cli import main
from swancli.evaluate.match_threshold import MatchThreshold
from swancli.model.checkpoint import load_checkpoint

# The small model of open_clip reads 12 tokens.
pytestmark = pytest.mark.filterwarnings("ignore:.* texts are cut")
BACKBONE = "timm/test_efficientnet"
TOWERS = ["--dataset", "small", "--backbone", BACKBONE, "--embed-dim", "16"]
SMALL = ["--image-size", "64", "--schedule", "step"]


def words_of(source):
    """The words of all captions of a source."""
    images = json.loads((source / "dataset.json").read_text())["images"]
    return sorted({word for image in images for one in image["sentences"] for word in one["raw"].split()})


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A root with a data set, no vocabulary, and a run with both towers from outside; the towers."""
    base = tmp_path_factory.mktemp("towers")
    source, root = write_source(base / "source"), base / "root"
    bert = write_bert(base / "bert", words_of(source))
    prepared = invoke("prepare", "--dataset", "small", "--source", source, root=root)
    assert prepared.returncode == 0, prepared.stderr
    trained = invoke("train", *TOWERS, "--text", bert, "--epochs", "1", "--run", "first", root=root)
    assert trained.returncode == 0, trained.stderr
    embedded = invoke("embed", "--run", "first", root=root)
    assert embedded.returncode == 0, embedded.stderr
    return SimpleNamespace(root=root, bert=bert, source=source, runs=root / "small" / "runs")


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A small model of open_clip with random weights in a folder and in a file, and their names for swan."""
    from made_clip import make_model, model_cfg, register, save_folder, save_weights

    cfg, base = model_cfg(), tmp_path_factory.mktemp("clips")
    model = make_model(cfg)
    folder, file = save_folder(base / "small-clip", model, cfg), save_weights(base / "weights.pt", model)
    registered = register(base / "configs", cfg)
    in_file = SimpleNamespace(name=f"open_clip:{registered}:{file}", kind=registered, weights=file)
    weights = folder / "open_clip_model.safetensors"
    in_folder = SimpleNamespace(name=f"open_clip:{folder}", kind="small-clip", weights=weights)
    return SimpleNamespace(
        folder=folder, name=in_folder.name, forms={"small-clip": in_folder, "weights": in_file}
    )


@pytest.fixture
def run_main(monkeypatch, capsys):
    """Runs the executable's own function in this process, with what it does to warnings and errors."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["swan", *map(str, arguments)])
        monkeypatch.setattr(gc, "freeze", lambda: None)
        threshold = gc.get_threshold()
        with warnings.catch_warnings(), pytest.raises(SystemExit) as ended:
            main()
        gc.set_threshold(*threshold)
        printed = capsys.readouterr()
        return SimpleNamespace(returncode=ended.value.code, stdout=printed.out, stderr=printed.err)

    return run


def config_of(made, run):
    return json.loads((made.runs / run / "config.json").read_text())


def losses(made, run):
    with (made.runs / run / "metrics.csv").open() as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


def ran(*arguments, root):
    printed = invoke(*arguments, root=root)
    assert printed.returncode == 0, printed.stderr
    return printed


def refused(*arguments, root, said):
    printed = invoke(*arguments, root=root)
    assert printed.returncode == 2, arguments
    assert printed.stderr.startswith("error: ")
    assert len(printed.stderr.splitlines()) <= 2, printed.stderr
    assert said in printed.stderr
    return printed


# ---------------------------------------------------------------------------------------------------------
# a network of timm and a text transformer


def test_run_with_a_text_transformer_needs_no_vocabulary(made):
    assert not (made.root / "small/vocab.h5").exists()
    config = config_of(made, "first")
    assert (config["backbone"], config["text"], config["vocab"]) == (BACKBONE, str(made.bert), "")
    assert config["image_size"] == 160  # that of timm's data configuration
    assert not config["training"]["hide_rare_words"]
    assert config["training"]["text_rate"] == 0.1
    record = json.loads(ran("eval", "--run", "first", "--json", root=made.root).stdout)
    assert (record["images"], record["captions"]) == (12, 60)
    with h5py.File(made.runs / "first/embeddings.h5") as file:
        assert file["images/embedding"].shape == (60, 16)
        assert file["captions/embedding"].shape == (300, 16)


def test_query_ranks_by_the_stored_embedding_and_names_unknown_words(made):
    stored = made.runs / "first/embeddings.h5"
    with h5py.File(stored) as file:
        text = file["captions/text"].asstr()[7]
        best = float((file["images/embedding"][:] @ file["captions/embedding"][7]).max())
    answer = json.loads(ran("query", text, "--embeddings", stored, "--json", root=made.root).stdout)
    assert answer["results"][0]["score"] == pytest.approx(best, abs=1e-5)
    assert answer["unknown_words"] == []
    asked = ["query", "two planes near the самолёт and a xyzzy", "--embeddings", stored, "--json"]
    printed = ran(*asked, root=made.root)
    assert json.loads(printed.stdout)["unknown_words"] == ["самолёт", "xyzzy"]
    assert "words that the model does not know: самолёт, xyzzy" in printed.stderr


def test_score_of_a_match_is_set_by_training(made):
    options = ["--embeddings", made.runs / "first/embeddings.h5", "--threshold", "auto"]
    assert ran("query", "two planes", *options, root=made.root)


def test_text_query_imports_nothing_that_images_need(made):
    code = "import sys; from swancli.cli import app; app(sys.argv[1:], standalone_mode=False); " + (
        "print(sorted({'torchvision', 'timm', 'pandas', 'transformers', 'open_clip'} & set(sys.modules)))"
    )
    options = ["--embeddings", made.runs / "first/embeddings.h5", "--root", made.root]
    arguments = [sys.executable, "-c", code, "query", "a plane", *map(str, options)]
    printed = subprocess.run(arguments, capture_output=True, text=True, check=True, timeout=120)
    assert printed.stdout.splitlines()[-1] == "[]"


def test_parts_of_the_model_can_be_left_out_with_any_towers(made):
    options = [*TOWERS, *SMALL, "--text", made.bert, "--epochs", "1", "--compare", "full,vmsf,sfgs,tcge"]
    printed = ran("train", *options, "--run", "parts", root=made.root)
    for label in ("full", "without vmsf", "without sfgs", "without tcge"):
        assert label in printed.stdout
    whole = load_checkpoint(made.runs / "parts-full/best.pt").model.state_dict()
    for part, prefix in (
        ("vmsf", "image_tower.vmsf."),
        ("sfgs", "image_tower.sfgs."),
        ("tcge", "text_tower.tcge."),
    ):
        model = load_checkpoint(made.runs / f"parts-without-{part}/best.pt").model
        assert model.settings.without == (part,)
        assert any(key.startswith(prefix) for key in whole), prefix
        assert not any(key.startswith(prefix) for key in model.state_dict()), prefix
    options = [
        *TOWERS,
        *SMALL,
        "--text",
        made.bert,
        "--epochs",
        "1",
        "--without",
        "vmsf,tcge",
        "--run",
        "two",
    ]
    ran("train", *options, root=made.root)
    assert config_of(made, "two")["without"] == ["vmsf", "tcge"]


def equal_weights(one, other):
    first, second = (torch.load(path, weights_only=True)["model"] for path in (one, other))
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def test_resumed_run_of_partly_frozen_towers_ends_bit_identical(made):
    options = [*TOWERS, *SMALL, "--text", made.bert, "--freeze-text", "1", "--freeze-stages", "2"]
    options += ["--heads-first", "1", "--average", "0.9"]
    ran("train", *options, "--epochs", "2", "--run", "straight", root=made.root)
    ran("train", *options, "--epochs", "1", "--run", "halted", root=made.root)
    ran("train", "--resume", "--run", "halted", "--epochs", "2", root=made.root)
    assert equal_weights(made.runs / "straight/last.pt", made.runs / "halted/last.pt")
    start, end = (
        torch.load(made.runs / run / "last.pt", weights_only=True)["model"] for run in ("first", "halted")
    )
    # Both runs have drawn the same weights; the first one keeps the text tower whole and trains the backbone.
    same = {key for key in start if torch.equal(start[key], end[key])}
    layers = {key.split(".")[4] for key in same if key.startswith("text_tower.bert.encoder.layers.")}
    assert layers == {"0"}
    assert {"text_tower.bert.words.weight", "text_tower.bert.positions.weight"} < same
    assert config_of(made, "halted")["freeze_stages"] == 2


def test_heads_train_on_features_of_both_towers(made, tmp_path, monkeypatch):
    """The folder of the text tower may be given from where it is."""
    monkeypatch.chdir(made.bert.parent)
    options = [
        "--dataset",
        "small",
        "--features",
        "--backbone",
        BACKBONE,
        "--text",
        "bert",
        "--image-size",
        "64",
    ]
    printed = ran("prepare", *options, "--views", "2", root=made.root)
    assert "features" in printed.stdout
    monkeypatch.chdir(tmp_path)
    options = ["--dataset", "small", "--features", "--embed-dim", "16", "--epochs", "1", "--run", "heads"]
    ran("train", *options, root=made.root)
    config = config_of(made, "heads")
    assert (config["backbone"], config["text"], config["image_size"]) == (BACKBONE, str(made.bert), 64)
    assert config["frozen"]
    with h5py.File(made.root / "small/features.h5") as file:
        assert file["captions/states"].shape[1] == 16
    given = ["train", "--dataset", "small", "--features", "--run", "x", "--freeze-text", "1"]
    printed = invoke(*given, root=made.root)
    assert printed.returncode == 2
    assert "the text transformer stays frozen" in printed.stderr


# ---------------------------------------------------------------------------------------------------------
# models of open_clip

LEARNING = ["--dataset", "small", "--lr", "1e-3", "--schedule", "step", "--augmentation", "none"]


def test_model_of_open_clip_learns_and_resumes_exactly(made, clip):
    options = [*LEARNING, "--init-from", clip.name]
    ran("train", *options, "--epochs", "3", "--run", "clip", root=made.root)
    first, _, last = losses(made, "clip")
    assert last < 0.95 * first
    ran("train", *options, "--epochs", "1", "--run", "clip-halted", root=made.root)
    ran("train", "--resume", "--run", "clip-halted", "--epochs", "3", root=made.root)
    assert equal_weights(made.runs / "clip/last.pt", made.runs / "clip-halted/last.pt")
    config = config_of(made, "clip")
    assert (config["backbone"], config["embed_dim"], config["image_size"]) == ("open_clip/small-clip", 16, 32)
    record = json.loads(ran("eval", "--run", "clip", "--scene-recall", "--json", root=made.root).stdout)
    assert record["images"] == 12
    assert "scene_recall" in record
    ran("embed", "--run", "clip", root=made.root)
    answer = json.loads(ran("query", "two planes", "--threshold", "auto", "--json", root=made.root).stdout)
    assert answer["results"] == sorted(answer["results"], key=lambda hit: -hit["score"])
    options = [
        "--dataset",
        "small",
        "--init-from",
        made.runs / "clip/best.pt",
        "--epochs",
        "1",
        "--run",
        "on",
    ]
    ran("train", *options, root=made.root)


@pytest.mark.parametrize("folder", ["small-clip", "weights"])
def test_embeddings_of_open_clip_are_under_the_root_and_query_finds_them(made, clip, folder):
    form = clip.forms[folder]
    asked = ["query", "many planes самолёт", "--threshold", "auto", "--json"]
    options = ["--checkpoint", form.name, "--images", made.source / "images"]
    ran("embed", *options, root=made.root)
    refused(*asked, root=made.root, said="swan embed --calibrate DATASET")
    ran("embed", *options, "--calibrate", "small", root=made.root)
    digest = hashlib.sha256(form.weights.read_bytes()).hexdigest()
    place = made.root / f"{folder}-{digest[:8]}"
    with h5py.File(place / "embeddings-images.h5") as file:
        assert file["images/embedding"].shape == (60, 16)
        match = json.loads(file.attrs["match"])
        assert (file.attrs["variant"], file.attrs["activation"]) == (f"open_clip:{form.kind}", "gelu")
        assert file.attrs["checkpoint_sha256"] == digest
    assert (match["images"], match["captions"]) == (12, 60)
    printed = ran(*asked, root=made.root)
    assert "самолёт" in printed.stderr
    scores = [hit["score"] for hit in json.loads(printed.stdout)["results"]]
    least = MatchThreshold.from_plain(match).among(60)
    assert all(score >= least for score in scores)
    # Of a data set, the score is measured on its own validation split.
    ran("embed", "--checkpoint", form.name, "--dataset", "small", root=made.root)
    assert (place / "embeddings-of-small.h5").exists()
    whole = json.loads(ran(*asked, root=made.root).stdout)["results"]
    assert [hit["score"] for hit in whole] == pytest.approx(scores, abs=1e-5)


def test_renamed_folder_of_open_clip_is_the_same_model_and_another_configuration_is_not(made, clip, tmp_path):
    folder = shutil.copytree(clip.folder, tmp_path / "one")
    (tmp_path / "lines.txt").write_text("many planes\n")
    output = tmp_path / "embeddings.h5"
    options = ["embed", "--images", made.source / "images", "--output", output, "--checkpoint"]
    ran(*options, folder, root=made.root)
    asked = ["query", "many planes", "--embeddings", output, "--json", "--checkpoint"]
    before = ran(*asked, folder, root=made.root).stdout
    folder = folder.rename(tmp_path / "clip.v1")
    assert ran(*asked, folder, root=made.root).stdout == before
    # The weights inside it name it too, since the embeddings record a folder.
    assert ran(*asked, folder / "open_clip_model.safetensors", root=made.root).stdout == before
    with h5py.File(output) as file:
        vectors = file["images/embedding"][:]
    # Calibrated later: the score is stored, and nothing is encoded again.
    ran(*options, folder, "--resume", "--calibrate", "small", root=made.root)
    with h5py.File(output) as file:
        assert json.loads(file.attrs["match"])["captions"] == 60
        assert (file["images/embedding"][:] == vectors).all()
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["model_cfg"]["quick_gelu"] = True
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    said = "made as open_clip:one with gelu, not with quick_gelu"
    refused(*asked, folder, root=made.root, said=said)
    ran(*options, folder, "--resume", root=made.root)
    with h5py.File(output) as file:
        assert file.attrs["activation"] == "quick_gelu"
        assert not (file["images/embedding"][:] == vectors).all()


def test_eval_of_open_clip_has_scene_recall_and_ceiling(made, clip):
    options = ["--checkpoint", clip.name, "--dataset", "small", "--scene-recall", "--ceiling", "--json"]
    record = json.loads(ran("eval", *options, root=made.root).stdout)
    assert record["ceiling"]["mR"] == 100
    assert record["scene_recall"]["i2t"]["queries"] == 12


def test_file_that_needs_quick_gelu_is_reported_on_standard_error(clip, tmp_path, run_main):
    folder = tmp_path / "RemoteCLIP-ViT-B-32"
    folder.symlink_to(clip.folder)
    (tmp_path / "lines.txt").write_text("many planes\n")
    options = ["--texts", tmp_path / "lines.txt", "--output", tmp_path / "texts.h5"]
    printed = run_main("embed", "--checkpoint", f"open_clip:{folder}", *options)
    assert printed.returncode == 0, printed.stderr
    (line,) = printed.stderr.splitlines()
    assert line.startswith("warning: ")
    assert "needs QuickGELU (RemoteCLIP starts from OpenAI's weights)" in line


def test_captions_that_are_cut_are_counted_once_per_split(made, clip, run_main):
    from open_clip import SimpleTokenizer

    options = ["--dataset", "small", "--init-from", clip.name, "--epochs", "1", "--run", "cut"]
    printed = run_main("train", *options, "--root", made.root)
    assert printed.returncode == 0, printed.stderr
    images = json.loads((made.source / "dataset.json").read_text())["images"]
    encode = SimpleTokenizer().encode
    for split, line in zip(("train", "val"), printed.stderr.splitlines(), strict=True):
        texts = [one["raw"] for image in images if image["split"] == split for one in image["sentences"]]
        cut = sum(len(encode(text)) + 2 > 12 for text in texts)  # with start and end
        said = f"{cut} of {len(texts)} texts are cut: they have more than 12 tokens"
        assert line == f"warning: {said}"


# ---------------------------------------------------------------------------------------------------------
# what is refused


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--text", "gru", "--freeze-text", "1"], "--freeze-text has no effect: the GRU is always trained"),
        (["--text", "gru", "--text-rate", "0.5"], "--text-rate has no effect: the GRU is always trained"),
        (
            ["--text", "BERT", "--text-rate", "0.5"],
            "the text transformer is frozen\n  freeze fewer layers: --freeze-text N",
        ),
        (
            ["--init-from", "first", "--text-rate", "0.5"],
            "--text-rate has no effect: the text transformer is frozen",
        ),
        (["--text", "BERT", "--vocab", "v.h5"], "--vocab: this text tower has its own words"),
        (
            ["--text", "BERT", "--init-from", "first"],
            "--text: the checkpoint of --init-from has its own text tower",
        ),
        (["--freeze", "--freeze-stages", "2"], "--freeze-stages has no effect: the whole backbone is frozen"),
        (["--freeze-stages", "5"], "--freeze-stages 5: a backbone has 4 stages"),
        (["--text", "BERT", "--variant", "published"], "--variant published: its text tower is the GRU"),
        (["--backbone", "timm/resnet8"], "do you mean timm/resnet"),
        (["--init-from", "open_clip:"], "names no model or no file"),
    ],
)
def test_options_without_effect_and_impossible_ones_are_refused_at_once(made, options, said):
    given = [str(made.bert) if option == "BERT" else option for option in options]
    refused("train", "--dataset", "small", "--run", "x", *given, root=made.root, said=said)
    assert not (made.runs / "x").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            ["--freeze", "--weights", "none"],
            "the backbone is frozen at random weights: give --weights FILE, or --fine-tune it",
        ),
        (
            ["--freeze-stages", "2", "--backbone", "resnet18"],
            "--freeze-stages 2: these stages are frozen at random weights",
        ),
        ([], ""),
        (["--weights", "none"], ""),
        (["--freeze"], ""),
        (["--fine-tune"], ""),
        (["--freeze", "--weights", "w.pt"], ""),
        (["--freeze-stages", "2", "--weights", "w.pt"], ""),
        (["--freeze-stages", "2", "--init-from", "first"], ""),
    ],
)
def test_part_that_is_frozen_at_random_weights_is_warned_about(made, monkeypatch, options, said):
    monkeypatch.setattr("swancli.train.group.train_runs", lambda *_: None)
    printed = ran("train", "--dataset", "small", "--run", "x", *options, root=made.root)
    warnings = [line for line in printed.stderr.splitlines() if line.startswith("warning: ")]
    assert len(warnings) == bool(said)
    assert said in " ".join(printed.stderr.split())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--text", "BERT", "--freeze-text", "3"], "--freeze-text 3"),
        (["--text", "BERT", "--backbone", "timm/test_vit"], "no map at stride 4"),
        (["--text", "BERT", "--backbone", "timm/test_coatnet", "--image-size", "96"], "--image-size 96: "),
        (["--text", "nofolder"], "--text nofolder: no such folder\n  give gru, minilm, or a folder with"),
        (["--text", "MiniLM"], "--text MiniLM: no such folder\n  do you mean minilm? give gru, minilm, or"),
        (["--text", "BERT", "--weights", "imagenet"], "imagenet: these are weights of timm/tf_eff"),
        (["--text", "BERT", "--weights", "gone.pt"], "gone.pt: no such file"),
        (["--init-from", "CLIP", "--embed-dim", "32"], "--embed-dim: "),
        (["--init-from", "CLIP", "--image-size", "64"], "--image-size: "),
        (["--init-from", "CLIP", "--without", "tcge"], "--without: "),
        (["--init-from", "CLIP", "--compare", "full,tcge"], "--compare without tcge: --without: "),
        (
            ["--init-from", "CLIP", "--compare", "full,published"],
            "--compare published: --variant published: ",
        ),
        (["--text", "BERT", "--compare", "full,published"], "--compare published: --variant published: "),
        (["--init-from", "CLIP", "--freeze-stages", "1"], "the image tower of open_clip is not in stages"),
        (["--init-from", "CLIP", "--freeze-text", "4"], "--freeze-text 4: the text transformer has 3 layers"),
        (
            ["--init-from", "CLIP", "--features"],
            "--features: not for models of open_clip\n  leave --features out",
        ),
        (["--init-from", "CLIP", "--compile"], "--compile: not for models of open_clip"),
    ],
)
def test_what_does_not_fit_is_refused_and_the_name_of_the_run_stays_free(made, request, options, said):
    towers = [] if {"CLIP", "--backbone"} & set(options) else ["--backbone", BACKBONE]
    given = {"BERT": str(made.bert)}
    if "CLIP" in options:
        given["CLIP"] = request.getfixturevalue("clip").name
    options = [given.get(option, option) for option in options]
    refused("train", "--dataset", "small", "--run", "x", *towers, *options, root=made.root, said=said)
    assert not list(made.runs.glob("x*/*.json"))


def test_unknown_network_is_one_clear_line_with_a_hint(made, run_main):
    options = ["--dataset", "small", "--backbone", "timm/tf_efficientnet_light0", "--root", made.root]
    printed = run_main("train", *options)
    assert printed.returncode == 2
    problem, hint = printed.stderr.splitlines()
    assert problem == "error: --backbone timm/tf_efficientnet_light0: timm has no such network"
    assert "timm/tf_efficientnet_lite0" in hint
    assert printed.stdout == ""
