"""Several runs reported as one: folds, lists of variants, and resuming them."""

import json
from contextlib import contextmanager, nullcontext
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from made_bert import write_bert

from swancli.embed.embed import open_dataset
from swancli.errors import SwanError
from swancli.evaluate.report import evaluate_checkpoint, evaluate_group
from swancli.model.checkpoint import load_checkpoint
from swancli.model.encoder import Encoder
from swancli.train.config import PUBLISHED_PAIRS, TrainSettings
from swancli.train.group import plan_runs, resumed_runs, train_runs
from swancli.train.loop import Watch

CHANGES = ("epochs", "variant", "training", "text", "vocab", "init_from", "without")
NO_CLOCK = ["pairs_per_second", "seconds"]


@contextmanager
def watching(epochs):
    yield Watch()


class Interrupt(Watch):
    """Stops a training in its second epoch."""

    def step(self, epoch, step, steps, loss, pairs_per_second):
        if epoch == 2:
            raise KeyboardInterrupt


def interrupted_in(run_number):
    """Watches run after run, and stops the given one."""
    begun = []

    @contextmanager
    def watch(epochs):
        begun.append(epochs)
        yield Interrupt() if len(begun) == run_number else Watch()

    return watch


@pytest.fixture
def plan(workspace, tiny_config):
    def make(name, **options):
        changes = {key: options.pop(key) for key in list(options) if key in CHANGES}
        return plan_runs(workspace, workspace.run("tiny", name), tiny_config(**changes), **options)

    return make


@pytest.fixture
def cross_validated(workspace, plan):
    runs = plan("cv", folds=2, epochs=1)
    return runs, train_runs(workspace, runs, "cpu", watching)


def same_runs(workspace, one, two):
    for first, second in zip(one.members, two.members, strict=True):
        for name in ("best", "last"):
            weights = [load_checkpoint(getattr(m.run, name)).model.state_dict() for m in (first, second)]
            assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
        tables = [pd.read_csv(member.run.metrics).drop(columns=NO_CLOCK) for member in (first, second)]
        pd.testing.assert_frame_equal(*tables)


def test_folds_are_runs_of_their_own_on_their_own_splits(workspace, cross_validated):
    runs, report = cross_validated
    assert [member.run.name for member in runs.members] == ["cv-fold1", "cv-fold2"]
    splits = []
    for member in runs.members:
        checkpoint = load_checkpoint(member.run.best)
        with open_dataset(workspace.dataset("tiny"), checkpoint) as dataset:
            splits.append(dataset.catalogue.split.tolist())
    assert splits[0] != splits[1]
    for split in splits:
        assert split[8:] == ["test"] * 4
        assert sorted(split[:8]) == ["train"] * 6 + ["val"] * 2  # round(0.8 * 8) = 6
    assert [row.report.images for row in report.rows] == [2, 2]


def test_fold_is_evaluated_on_the_images_that_validated_it(workspace, cross_validated):
    runs, report = cross_validated
    for member, row in zip(runs.members, report.rows, strict=True):
        again = evaluate_checkpoint(Encoder(member.run, "cpu"), workspace, split="val")
        best = pd.read_csv(member.run.metrics)["mR"].max()
        assert again.scores == row.report.scores
        assert again.mean_recall == pytest.approx(best)
        assert not again.warnings


def test_stopped_and_resumed_folds_end_where_the_uninterrupted_ones_do(workspace, plan):
    whole = plan("whole", folds=2)
    report = train_runs(workspace, whole, "cpu", watching)
    runs = plan("parts", folds=2)
    with pytest.raises(KeyboardInterrupt):
        train_runs(workspace, runs, "cpu", interrupted_in(2))
    assert len(pd.read_csv(runs.members[1].run.metrics)) == 1
    for name in ("parts", None):  # by name, and as the newest
        resumed = resumed_runs(workspace, name)
        assert resumed.members == runs.members
    again = train_runs(workspace, resumed, "cpu", watching)
    same_runs(workspace, whole, resumed)
    assert again.averaged("") == report.averaged("")


def test_fold_that_was_stopped_early_is_not_averaged_in_silence(workspace, plan):
    runs = plan("parts", folds=2)
    with pytest.raises(KeyboardInterrupt):
        train_runs(workspace, runs, "cpu", interrupted_in(2))
    report = evaluate_group(workspace, workspace.find_group("parts"))
    (warning,) = report.warnings
    assert "parts-fold2: only 1 of 2 epochs are trained" in warning
    assert "swan train --resume --run parts" in warning


def test_folds_that_were_not_begun_are_trained_on_resume(workspace, plan):
    runs = plan("parts", folds=3)
    with pytest.raises(KeyboardInterrupt):
        train_runs(workspace, runs, "cpu", interrupted_in(1))
    assert not runs.members[1].run.folder.exists()
    train_runs(workspace, resumed_runs(workspace, "parts"), "cpu", watching)
    assert all(member.run.best.exists() for member in runs.members)


def test_one_fold_of_a_group_can_be_resumed_by_its_name(workspace, cross_validated):
    runs = resumed_runs(workspace, "cv-fold2", epochs=2)
    assert [member.run.name for member in runs.members] == ["cv-fold2"]
    train_runs(workspace, runs, "cpu", watching)
    assert len(pd.read_csv(runs.members[0].run.metrics)) == 2


def test_each_variant_of_a_list_is_trained_with_the_same_recipe(workspace, plan):
    runs = plan("abl", variants=["full", "vmsf", "tcge+sfgs", "published"], epochs=1)
    assert [member.run.name for member in runs.members] == [
        "abl-full",
        "abl-without-vmsf",
        "abl-without-sfgs-tcge",
        "abl-published",
    ]
    report = train_runs(workspace, runs, "cpu", watching)
    assert report.labels == ["full", "without vmsf", "without sfgs+tcge", "published"]
    settings = [load_checkpoint(member.run.best).model.settings for member in runs.members]
    assert [(s.variant, s.without) for s in settings] == [
        ("repaired", ()),
        ("repaired", ("vmsf",)),
        ("repaired", ("sfgs", "tcge")),
        ("published", ()),
    ]
    shown = [(m.config.training.own_captions_only, m.config.training.hide_rare_words) for m in runs.members]
    assert shown == [(False, True)] * 3 + [(True, False)]  # which belongs to the variant
    alike = [replace(member.config.training, **PUBLISHED_PAIRS) for member in runs.members]
    assert len(set(alike)) == 1


def test_variants_and_folds_together_give_a_run_for_each(plan, monkeypatch):
    # A scene of two images leaves none to validate on.
    monkeypatch.setattr("swancli.train.group.opened_start", lambda *_: nullcontext())
    runs = plan("abl", variants=["full", "wsa"], folds=2, fold_rule="stratified")
    assert [(member.label, member.fold) for member in runs.members] == [
        ("full", 1),
        ("full", 2),
        ("without wsa", 1),
        ("without wsa", 2),
    ]
    assert runs.members[3].run.name == "abl-without-wsa-fold2"
    assert runs.members[3].config.fold.rule == "stratified"


@pytest.mark.parametrize(
    ("variants", "message"),
    [
        (["gru"], "gru"),
        (["full", "full"], "full is given twice"),
        (["vmsf+sfgs", "sfgs+vmsf"], "is given twice"),
    ],
)
def test_list_that_makes_no_sense_is_refused_before_anything_is_written(workspace, plan, variants, message):
    with pytest.raises(SwanError, match=message):
        plan("abl", variants=variants)
    assert not list((workspace.root / "tiny").glob("runs/*"))


def test_group_that_was_trained_is_not_overwritten(plan, cross_validated):
    for options in ({"folds": 2}, {"variants": ["full"]}, {}):
        with pytest.raises(SwanError, match=r"cv: this run exists"):
            plan("cv", **options)
    with pytest.raises(SwanError, match="cv-fold1: this run exists"):
        plan("cv-fold1")


@pytest.mark.parametrize("missing", ["vocab", "dataset"])
@pytest.mark.parametrize("options", [{"folds": 2}, {"variants": ["full", "vmsf"]}])
def test_group_whose_data_is_missing_is_not_planned(workspace, plan, missing, options):
    path = getattr(workspace, missing)("tiny")
    path.rename(path.with_suffix(".away"))
    with pytest.raises(SwanError, match=rf"{missing}\.h5: no such file") as error:
        plan("cv", **options)
    assert "--compare" not in error.value.problem
    assert not list((workspace.root / "tiny").glob("runs/*"))
    path.with_suffix(".away").rename(path)
    assert len(plan("cv", **options).members) == 2


def test_entry_that_cannot_be_trained_is_refused_before_the_others_are(workspace, plan, run_training):
    best = run_training("source", epochs=1, without=("vmsf",)).best
    given = {"init_from": str(best), "without": ("vmsf",)}
    with pytest.raises(SwanError, match=r"--compare without tcge: --init-from .*: it lacks") as error:
        plan("abl", variants=["full", "vmsf+tcge", "tcge"], **given)
    assert "leave it out" in error.value.hint
    assert not list((workspace.root / "tiny").glob("runs/abl*"))
    assert len(plan("abl", variants=["full", "vmsf+tcge"], **given).members) == 2


def test_variants_of_a_text_transformer(workspace, plan, tmp_path):
    bert = write_bert(tmp_path / "bert", ("a", "red", "field"))
    training = TrainSettings(epochs=1, batch_size=4, hide_rare_words=False)
    given = {"text": str(bert), "vocab": "", "training": training}
    with pytest.raises(SwanError, match=r"--compare published: .* its text tower is the GRU"):
        plan("abl", variants=["full", "published"], **given)
    assert not list((workspace.root / "tiny").glob("runs/*"))
    runs = plan("abl", variants=["repaired", "vmsf"], **given)
    assert not any(member.config.training.hide_rare_words for member in runs.members)
    assert train_runs(workspace, runs, "cpu", watching).labels == ["repaired", "without vmsf"]


def test_plan_of_a_group_that_never_began_does_not_hide_a_run_of_its_name(workspace, plan):
    plan("cv", folds=2)
    train_runs(workspace, plan("cv", epochs=1), "cpu", watching)
    assert workspace.find_group("cv") is None
    assert [member.run.name for member in resumed_runs(workspace, "cv").members] == ["cv"]


def test_group_with_an_untrained_run_says_how_to_resume(workspace, plan):
    runs = plan("cv", folds=2, epochs=1)
    with pytest.raises(SwanError, match="cv-fold1: not trained yet") as error:
        evaluate_group(workspace, workspace.find_group("cv"))
    assert "--resume --run cv" in error.value.hint
    assert runs.grouped


def test_damaged_group_file_is_named(workspace, cross_validated):
    group = workspace.find_group("cv")
    good = json.loads(group.file.read_text())
    for bad in ({}, {"members": [{}]}, {"members": [{**good["members"][0], "run": "../x"}]}):
        group.file.write_text(json.dumps(bad))
        with pytest.raises(SwanError, match=r"group\.json"):
            resumed_runs(workspace, "cv")


def test_mean_and_spread_are_taken_over_the_folds(cross_validated):
    _, report = cross_validated
    figures = [row.report.mean_recall for row in report.rows]
    mean, spread = report.averaged("")
    assert mean["mR"] == pytest.approx(sum(figures) / 2)
    assert spread["mR"] == pytest.approx(abs(figures[0] - figures[1]) / np.sqrt(2))  # n - 1
    assert report.mean_recall == mean["mR"]
    rows = report.table()
    assert [row["fold"] for row in rows] == [1, 2, "mean", "spread"]
    assert rows[2]["t2i_R@5"] == pytest.approx((rows[0]["t2i_R@5"] + rows[1]["t2i_R@5"]) / 2)
    assert rows[2]["dataset"] == "tiny"
    record = report.record()
    assert record["mean"]["t2i"]["R@5"] == pytest.approx(rows[2]["t2i_R@5"])
    assert [run["fold"] for run in record["runs"]] == [1, 2]


def test_clipping_holds_the_gradients_norm(workspace, plan, monkeypatch):
    """After each step the gradients are those that the optimiser saw."""
    norms = []
    step = torch.optim.Adam.step

    def watched(self, *arguments, **options):
        gradients = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        norms.append(float(torch.nn.utils.get_total_norm(gradients)))
        return step(self, *arguments, **options)

    monkeypatch.setattr(torch.optim.Adam, "step", watched)
    for clip_norm in (0.0, 0.01):
        training = TrainSettings(epochs=1, batch_size=4, clip_norm=clip_norm, lr=1e-3)
        train_runs(workspace, plan(f"clip{clip_norm}", training=training), "cpu", watching)
    free, clipped = np.split(np.array(norms), 2)
    assert (free > 0.02).all()
    assert (clipped <= 0.01001).all()
