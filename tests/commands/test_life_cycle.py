"""The six commands, one after the other, as the contract writes them."""

import csv
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from subprocess import PIPE

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import RANDOM, SMALL, execute, invoke, write_source

RECALLS = ["R@1", "R@5", "R@10"]


def test_every_step_leaves_its_files_where_the_next_one_looks(finished):
    dataset = finished.root / "small"
    assert {path.name for path in dataset.iterdir()} == {"dataset.h5", "vocab.h5", "runs"}
    left = {path.name for path in finished.run.iterdir() if not path.name.startswith("events.")}
    assert left == {"config.json", "metrics.csv", "best.pt", "last.pt", "embeddings.h5"}


def test_commands_are_silent_on_standard_error_when_it_is_no_terminal(finished):
    assert {name: result.stderr for name, result in finished.printed.items()} == dict.fromkeys(
        finished.printed, ""
    )


def test_prepare_ends_with_a_table_of_its_splits(finished):
    lines = [line.split() for line in finished.printed["prepare"].stdout.splitlines()]
    counts = {line[0]: line[1:] for line in lines if line and line[0] in ("train", "val", "test")}
    assert counts == {"train": ["36", "180", "12"], "val": ["12", "60", "12"], "test": ["12", "60", "12"]}


def test_eval_prints_recall_and_scene_recall_tables(finished):
    printed = finished.printed["eval"].stdout
    for text in ("i2t R@10", "t2i R@10", "mR", "scene recall", "median", "12 images, 60 captions"):
        assert text in printed


def test_stores_are_read_with_plain_h5py(finished):
    with h5py.File(finished.run / "embeddings.h5") as file:
        assert file.attrs["format"] == "swan-embeddings"
        assert file.attrs["complete"]
        digest = hashlib.sha256((finished.run / "best.pt").read_bytes()).hexdigest()
        assert file.attrs["checkpoint_sha256"] == digest
        assert file.attrs["dataset"] == "small"
        image, caption = file["images/embedding"][:], file["captions/embedding"][:]
        assert image.shape == (60, 32)
        assert caption.shape == (300, 32)
        np.testing.assert_allclose(np.linalg.norm(image, axis=1), 1, atol=1e-5)
        np.testing.assert_allclose(np.linalg.norm(caption, axis=1), 1, atol=1e-5)
        assert file["captions/image"][:].tolist() == np.repeat(range(60), 5).tolist()
        assert file["images/filename"].asstr()[0] == "airport_0.png"


@pytest.fixture(scope="module")
def evaluated(finished):
    return json.loads(invoke("eval", "--json", "--ceiling", "--scene-recall", root=finished.root).stdout)


def test_eval_json_is_one_document_whose_mr_is_the_mean_of_six_recalls(evaluated):
    six = [evaluated[way][recall] for way in ("i2t", "t2i") for recall in RECALLS]
    assert evaluated["mR"] == pytest.approx(np.mean(six))
    assert (evaluated["split"], evaluated["images"], evaluated["captions"]) == ("test", 12, 60)
    assert evaluated["ceiling"]["mR"] == 100
    assert set(evaluated["scene_recall"]["i2t"]) == {"SR@1", "SR@5", "SR@10", "queries", "without_scene"}


def test_eval_csv_holds_the_same_figures_in_one_row(finished, evaluated):
    printed = invoke("eval", "--csv", root=finished.root).stdout
    (row,) = csv.DictReader(io.StringIO(printed))
    assert float(row["mR"]) == evaluated["mR"]
    assert float(row["t2i_R@5"]) == evaluated["t2i"]["R@5"]


def test_eval_of_the_embeddings_file_equals_eval_of_the_run(finished, evaluated):
    printed = invoke("eval", "--embeddings", finished.run / "embeddings.h5", "--json", root=finished.root)
    again = json.loads(printed.stdout)
    assert again["i2t"] == evaluated["i2t"]
    assert again["t2i"] == evaluated["t2i"]


def test_images_seen_in_training_are_counted_also_as_copies_of_another_size(finished, evaluated, tmp_path):
    assert evaluated["seen_in_training"] == {"same": 0, "alike": 0}
    assert "no image was seen in training" in finished.printed["eval"].stdout
    source = write_source(tmp_path / "source")
    listed = json.loads((source / "dataset.json").read_text())
    for image in listed["images"]:
        image["split"] = {"train": "test", "test": "train", "val": "val"}[image["split"]]
    (source / "dataset.json").write_text(json.dumps(listed))
    best = finished.run / "best.pt"
    for size, counts in (((), {"same": 36, "alike": 0}), (("--size", 72), {"same": 0, "alike": 36})):
        invoke("prepare", "--dataset", "copy", "--source", source, *size, root=tmp_path)
        printed = invoke("eval", "--checkpoint", best, "--dataset", "copy", "--json", root=tmp_path)
        assert json.loads(printed.stdout)["seen_in_training"] == counts
    # A run that starts from the checkpoint has seen what that has.
    options = ["--dataset", "copy", "--init-from", best, "--epochs", "1", "--run", "on"]
    invoke("vocab", "--dataset", "copy", root=tmp_path)
    printed = invoke("train", *options, root=tmp_path)
    assert printed.returncode == 0, printed.stderr
    printed = invoke("eval", "--run", "on", root=tmp_path)
    assert "36 of 36 images were seen in training: 0 with the same pixels, 36 that look the" in printed.stdout
    invoke("embed", "--run", "on", root=tmp_path)
    printed = invoke("eval", "--embeddings", tmp_path / "copy/runs/on/embeddings.h5", "--csv", root=tmp_path)
    (row,) = csv.DictReader(io.StringIO(printed.stdout))
    assert (row["seen_in_training_same"], row["seen_in_training_alike"]) == ("0", "36")


@pytest.mark.parametrize("batch_size", [1, 5, 60])
def test_recall_does_not_depend_on_the_batch_size(finished, evaluated, batch_size):
    printed = invoke("eval", "--json", "--batch-size", batch_size, root=finished.root)
    assert json.loads(printed.stdout)["t2i"] == evaluated["t2i"]


def test_train_reports_the_best_epoch_on_the_validation_split(finished):
    table = pd.read_csv(finished.run / "metrics.csv")
    assert f"{table['mR'].max():.2f}" in finished.printed["train"].stdout
    assert "small val" in finished.printed["train"].stdout


def test_threshold_that_is_not_met_is_exit_code_3_after_the_figures(finished):
    missed = invoke("eval", "--json", "--min-mr", "99", root=finished.root)
    assert missed.returncode == 3
    assert "mR" in json.loads(missed.stdout)
    assert "below --min-mr 99" in missed.stderr
    assert invoke("eval", "--json", "--min-mr", "0", root=finished.root).returncode == 0


def test_query_prints_ranked_files_with_scores_and_scenes(finished):
    printed = execute("query", "two red planes", root=finished.root).stdout
    rows = [line.split() for line in printed.splitlines() if line.strip()[:1].isdigit()]
    assert [int(row[0]) for row in rows] == list(range(1, 11))
    scores = [float(row[1]) for row in rows]
    assert scores == sorted(scores, reverse=True)
    assert all(row[2].startswith(row[3] + "_") for row in rows)


def test_query_ranks_by_the_cosine_of_the_stored_embeddings(finished):
    """A caption asked again scores as its stored embedding does."""
    with h5py.File(finished.run / "embeddings.h5") as file:
        text = file["captions/text"].asstr()[7]
        scores = file["images/embedding"][:] @ file["captions/embedding"][7]
        names = file["images/filename"].asstr()[:]
    answer = json.loads(invoke("query", text, "--json", "--top-k", "60", root=finished.root).stdout)
    found = {hit["filename"]: hit["score"] for hit in answer["results"]}
    assert list(found) == names[np.argsort(-scores, kind="stable")].tolist()
    np.testing.assert_allclose([found[name] for name in names], scores, atol=1e-5)


def test_query_by_an_image_of_the_data_set_finds_itself_first(finished, source):
    image = source / "images" / "harbor_2.png"
    answer = json.loads(invoke("query", "--image", image, "--json", root=finished.root).stdout)
    assert answer["results"][0]["filename"] == "harbor_2.png"
    assert answer["results"][0]["score"] == pytest.approx(1, abs=1e-5)
    assert len(answer["results"][0]["captions"]) == 5


def test_batch_of_queries_answers_one_json_line_each_in_order(finished):
    lines = "a red plane\n\n???\ntwo boats in the harbor\n"
    printed = execute("query", "--batch", "--json", "--top-k", "2", root=finished.root, stdin=lines)
    answers = [json.loads(line) for line in printed.stdout.splitlines()]
    assert [answer["query"] for answer in answers] == ["a red plane", "", "???", "two boats in the harbor"]
    assert [len(answer["results"]) for answer in answers] == [2, 0, 0, 2]
    assert [answer.get("error") for answer in answers] == [None, *["there is no word in it"] * 2, None]
    alone = json.loads(invoke("query", "a red plane", "--json", "--top-k", "2", root=finished.root).stdout)
    scores = [[hit.pop("score") for hit in answer["results"]] for answer in (answers[0], alone)]
    assert scores[0] == pytest.approx(scores[1], abs=1e-6)
    assert answers[0] == alone


def test_batch_answers_a_line_before_the_next_one_comes(finished):
    """So that another program can ask and wait for each answer."""
    command = [sys.executable, "-m", "swancli", "query", "--batch", "--json", "--top-k", "1"]
    environment = {**os.environ, "SWAN_ROOT": str(finished.root)}
    with subprocess.Popen(command, env=environment, stdin=PIPE, stdout=PIPE, text=True) as searching:
        for question in ("a red plane", "two boats in the harbor"):
            searching.stdin.write(f"{question}\n")
            searching.stdin.flush()
            assert json.loads(searching.stdout.readline())["query"] == question
        searching.stdin.close()
        assert searching.wait(timeout=60) == 0


def test_batch_takes_any_line_ends_and_answers_the_lines_before_one_that_is_no_text(finished):
    command = [sys.executable, "-m", "swancli", "query", "--batch", "--json", "--top-k", "1"]
    environment = {**os.environ, "SWAN_ROOT": str(finished.root)}
    asked = ["a red plane\r\n", "x" * 200_000 + "\n", "two boats"]
    options = {"env": environment, "capture_output": True, "check": False, "timeout": 120}
    printed = subprocess.run(command, input="".join(asked).encode(), **options)
    answers = [json.loads(line) for line in printed.stdout.splitlines()]
    assert [answer["query"] for answer in answers] == ["a red plane", "x" * 200_000, "two boats"]
    printed = subprocess.run(command, input=b"a red plane\n\xff\xfe\ntwo boats\n", **options)
    assert printed.returncode == 2
    assert [json.loads(line)["query"] for line in printed.stdout.splitlines()] == ["a red plane"]
    assert b"line 2 is not UTF-8 text" in printed.stderr


def test_text_query_needs_neither_torchvision_nor_pandas(finished):
    # NLTK imports scikit-learn, and that pandas, where it happens to be installed.
    code = (
        "import sys; sys.modules['sklearn'] = None; from swancli.cli import app; "
        "app(sys.argv[1:], standalone_mode=False); "
        "print(sorted({'torchvision', 'pandas'} & set(sys.modules)))"
    )
    arguments = [sys.executable, "-c", code, "query", "a red plane", "--root", str(finished.root)]
    printed = subprocess.run(arguments, capture_output=True, text=True, check=True, timeout=120)
    assert printed.stdout.splitlines()[-1] == "[]"


def test_query_filters_by_scene_and_split(finished):
    options = ["--scene", "harbor", "--split", "train", "--json"]
    answer = json.loads(invoke("query", "boats", *options, root=finished.root).stdout)
    assert len(answer["results"]) == 3
    assert {hit["scene"] for hit in answer["results"]} == {"harbor"}


def test_query_that_finds_no_match_is_no_error(finished):
    printed = invoke("query", "boats", "--threshold", "1.0", root=finished.root)
    assert printed.returncode == 0
    assert "no match" in printed.stdout
    as_json = invoke("query", "boats", "--threshold", "1.0", "--json", root=finished.root)
    assert json.loads(as_json.stdout)["results"] == []


def test_query_of_unknown_words_answers_and_names_them(finished):
    printed = invoke("query", "zeppelin blimp", "--json", root=finished.root)
    assert printed.returncode == 0
    assert "zeppelin, blimp" in printed.stderr
    answer = json.loads(printed.stdout)
    assert answer["unknown_words"] == ["zeppelin", "blimp"]
    assert len(answer["results"]) == 10


def test_folder_of_images_is_embedded_and_searched(finished, source, tmp_path):
    output = tmp_path / "folder.h5"
    printed = invoke("embed", "--images", source / "images", "--output", output, root=finished.root)
    assert printed.returncode == 0, printed.stderr
    with h5py.File(output) as file:
        assert file["images/embedding"].shape == (60, 32)
        assert file["captions/embedding"].shape == (0, 32)
    answer = json.loads(invoke("query", "boats", "--embeddings", output, "--json", root=finished.root).stdout)
    whole = json.loads(invoke("query", "boats", "--json", root=finished.root).stdout)
    scores = [[hit["score"] for hit in found["results"]] for found in (answer, whole)]
    np.testing.assert_allclose(*scores, atol=1e-5)


def test_lines_of_text_are_embedded_from_a_file_and_from_standard_input(finished, tmp_path):
    (tmp_path / "lines.txt").write_text("a red plane\ntwo boats\n", encoding="utf-8")
    for name, given in ((str(tmp_path / "lines.txt"), None), ("-", "a red plane\ntwo boats\n")):
        output = tmp_path / "texts.h5"
        printed = invoke("embed", "--texts", name, "--output", output, root=finished.root, stdin=given)
        assert printed.returncode == 0, printed.stderr
        with h5py.File(output) as file:
            assert file["captions/text"].asstr()[:].tolist() == ["a red plane", "two boats"]
            assert file["captions/image"][:].tolist() == [-1, -1]


def test_resumed_run_is_not_started_with_other_settings(finished):
    refused = invoke("train", "--resume", "--run", "first", "--lr", "0.1", root=finished.root)
    assert refused.returncode == 2
    assert "--lr" in refused.stderr


def test_train_prints_json_alone(finished, tmp_path):
    root = tmp_path / "root"
    shutil.copytree(finished.root, root)
    options = ["--dataset", "small", "--epochs", "1", "--run", "other", "--json", *SMALL]
    printed = invoke("train", *options, root=root)
    assert json.loads(printed.stdout)["split"] == "val"


def test_vocab_exports_the_published_layout_and_takes_it_back(finished, tmp_path):
    exported = tmp_path / "words.json"
    counted = invoke(
        "vocab", "--dataset", "small", "--output", tmp_path / "a.h5", "--export", exported, root=finished.root
    )
    assert counted.returncode == 0, counted.stderr
    words = json.loads(exported.read_text())
    assert words["idx"] == len(words["word2idx"]) + 1
    imported = invoke("vocab", "--import", exported, "--output", tmp_path / "b.h5", root=finished.root)
    assert imported.returncode == 0, imported.stderr
    with h5py.File(tmp_path / "a.h5") as one, h5py.File(tmp_path / "b.h5") as two:
        assert one["words"].asstr()[:].tolist() == two["words"].asstr()[:].tolist()


def test_recall_does_not_depend_on_the_order_of_the_rows(finished, source, evaluated, tmp_path):
    """The same images and captions, listed in another order, give the same figures to the last digit."""
    shuffled = tmp_path / "shuffled"
    shutil.copytree(source, shuffled)
    content = json.loads((source / "dataset.json").read_text())
    generator = np.random.default_rng(0)
    generator.shuffle(content["images"])
    for image in content["images"]:
        generator.shuffle(image["sentences"])
    (shuffled / "dataset.json").write_text(json.dumps(content))
    root = tmp_path / "root"
    assert invoke("prepare", "--dataset", "small", "--source", shuffled, root=root).returncode == 0
    best = finished.run / "best.pt"
    printed = invoke("eval", "--checkpoint", best, "--json", "--ceiling", "--scene-recall", root=root)
    again = json.loads(printed.stdout)
    for figures in ("i2t", "t2i", "mR", "ceiling", "scene_recall"):
        assert again[figures] == evaluated[figures]


def test_identical_pictures_and_captions_are_encoded_once_and_score_equal(finished, source, tmp_path):
    folder = tmp_path / "twins"
    folder.mkdir()
    for name in ("a_1.png", "b_1.png"):
        shutil.copy(source / "images" / "harbor_2.png", folder / name)
    shutil.copy(source / "images" / "harbor_1.png", folder / "c_1.png")
    output = tmp_path / "twins.h5"
    invoke("embed", "--images", folder, "--output", output, root=finished.root)
    with h5py.File(output) as file:
        first, second, third = file["images/embedding"][:]
    assert np.array_equal(first, second)
    assert not np.array_equal(first, third)


def test_folder_named_like_the_data_set_does_not_replace_its_embeddings(
    finished, source, tmp_path, monkeypatch
):
    root = tmp_path / "root"
    shutil.copytree(finished.root, root)
    before = (root / "small/runs/first/embeddings.h5").read_bytes()
    monkeypatch.chdir(tmp_path)
    Path("small").mkdir()
    shutil.copy(source / "images" / "harbor_2.png", "small/a_1.png")
    assert invoke("embed", "--run", "first", "--images", "small", root=root).returncode == 0
    assert (root / "small/runs/first/embeddings.h5").read_bytes() == before
    assert (root / "small/runs/first/embeddings-small.h5").exists()


def test_embedded_texts_are_not_what_a_query_searches(finished, tmp_path):
    root = tmp_path / "root"
    shutil.copytree(finished.root, root)
    assert invoke("embed", "--texts", "-", root=root, stdin="a line\n").returncode == 0
    assert invoke("query", "boats", root=root).returncode == 0


def test_data_set_prepared_again_after_training_is_pointed_out(finished, source, tmp_path):
    root = tmp_path / "root"
    shutil.copytree(finished.root, root)
    invoke("prepare", "--dataset", "small", "--source", source, "--split", "random", root=root)
    assert "prepared again" in invoke("eval", "--json", root=root).stderr
    resumed = invoke("train", "--resume", "--run", "first", "--epochs", "3", root=root)
    assert resumed.returncode == 2
    assert "prepared again" in resumed.stderr


def test_closed_pipe_is_no_bug_and_the_page_is_written_all_the_same(finished, tmp_path):
    page = tmp_path / "hits.html"
    query = f"{sys.executable} -m swancli query --batch --html {page}"
    command = f"{query} | head -1; exit ${{PIPESTATUS[0]}}"
    result = subprocess.run(
        ["bash", "-c", command],
        env={**os.environ, "SWAN_ROOT": str(finished.root)},
        input="boats\n" * 200,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr
    assert "</html>" in page.read_text()


def test_vocab_of_a_source_counts_its_training_captions_only(source, tmp_path):
    content = json.loads((source / "dataset.json").read_text())
    content["images"][-1] |= {"split": "test", "sentences": [{"raw": "onlyhere"}]}
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    for splits, held in (("train", False), ("all", True)):
        options = ["--source", tmp_path / "dataset.json", "--output", tmp_path / "v.h5", "--splits", splits]
        assert invoke("vocab", *options, root=tmp_path).returncode == 0
        with h5py.File(tmp_path / "v.h5") as file:
            assert ("onlyhere" in file["words"].asstr()[:]) == held


def test_pretrained_backbone_is_what_a_run_starts_from(source, tmp_path):
    invoke("prepare", "--dataset", "small", "--source", source, root=tmp_path)
    invoke("vocab", "--dataset", "small", root=tmp_path)
    options = ["--dataset", "small", "--image-size", "32", "--epochs", "1"]
    printed = invoke("pretrain", *options, root=tmp_path)
    assert printed.returncode == 0, printed.stderr
    assert "backbone trained on the scenes of small" in printed.stdout
    weights = tmp_path / "small" / "backbone-resnet18.pt"
    options += [*RANDOM, "--embed-dim", "32", "--weights", weights, "--run", "r"]
    trained = invoke("train", *options, "--freeze", root=tmp_path)
    assert trained.returncode == 0, trained.stderr
    own = torch.load(weights, weights_only=True)["state_dict"]
    run = torch.load(tmp_path / "small/runs/r/best.pt", weights_only=True)["model"]
    assert all(torch.equal(run[f"backbone.network.{name}"], value) for name, value in own.items())
    other = invoke("train", *options, "--backbone", "resnet50", "--run", "other", root=tmp_path)
    assert other.returncode == 2
    assert "it fits --backbone resnet18" in other.stderr


def test_reranked_recall_and_new_captions_are_shown_beside_the_recall(finished):
    options = ["--split", "val", "--rerank", "--ceiling"]
    plain = json.loads(invoke("eval", "--split", "val", "--json", root=finished.root).stdout)
    printed = invoke("eval", *options, root=finished.root)
    assert printed.returncode == 0, printed.stderr
    assert "re-ranked" in printed.stdout
    record = json.loads(invoke("eval", *options, "--json", root=finished.root).stdout)
    assert record["mR"] == plain["mR"]
    assert set(record["reranked"]) == {"i2t", "t2i", "mR"}
