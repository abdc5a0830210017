"""A run from the first step to the last: repeatable, resumable, and blind to the test split."""

import json
from dataclasses import replace

import h5py
import numpy as np
import pandas as pd
import pytest
import torch

from swancli.errors import SwanError
from swancli.evaluate.report import evaluate_checkpoint
from swancli.model.checkpoint import load_checkpoint
from swancli.model.encoder import Encoder
from swancli.model.swan import Swan
from swancli.store.dataset import Dataset
from swancli.store.lock import only_writer
from swancli.train import loop
from swancli.train.config import TrainSettings, resumed_config
from swancli.train.loop import Watch, rate_share
from swancli.vocab.vocabulary import count_words, write_vocabulary

NO_CLOCK = ["pairs_per_second", "seconds"]


def plain_values(content):
    """The tensors and plain values inside of nested lists and dictionaries, in order."""
    if isinstance(content, dict | list):
        inner = content.values() if isinstance(content, dict) else content
        return [value for part in inner for value in plain_values(part)]
    return [content]


def weights_of(path):
    return torch.load(path, weights_only=True)["model"]


def assert_same_run(first, second):
    """In everything but the clock and the run's name."""
    for name in ("best", "last"):
        one, two = (torch.load(getattr(run, name), weights_only=True) for run in (first, second))
        assert all(torch.equal(one["model"][key], two["model"][key]) for key in one["model"])
        assert {**one["origin"], "run": ""} == {**two["origin"], "run": ""}
    states = [
        plain_values([content["training"]["optimizer"], content["training"].get("weights", {})])
        for content in (one, two)
    ]
    for value, other in zip(*states, strict=True):
        assert torch.equal(value, other) if isinstance(value, torch.Tensor) else value == other
    tables = [pd.read_csv(run.metrics).drop(columns=NO_CLOCK) for run in (first, second)]
    pd.testing.assert_frame_equal(*tables)


class Interrupt(Watch):
    """Stops a run during its second epoch."""

    def step(self, epoch, step, steps, loss, pairs_per_second):
        if (epoch, step) == (2, 1):
            raise KeyboardInterrupt


def test_same_seed_gives_the_same_run(run_training):
    assert_same_run(run_training("one"), run_training("two"))


def test_interrupted_and_resumed_run_ends_where_the_uninterrupted_one_does(workspace, run_training):
    whole = run_training("whole", epochs=3, frozen=False)
    with pytest.raises(KeyboardInterrupt):
        run_training("parts", epochs=3, frozen=False, watch=Interrupt())
    assert len(pd.read_csv(workspace.run("tiny", "parts").metrics)) == 1
    parts = run_training("parts", epochs=3, frozen=False, resume=True)
    assert_same_run(whole, parts)


def test_epoch_that_metrics_lack_is_there_after_resuming(run_training):
    run = run_training("first", epochs=2)
    whole = run.metrics.read_text()
    run.metrics.write_text("".join(whole.splitlines(keepends=True)[:-1]))  # killed after `last.pt`
    run_training("first", epochs=2, resume=True)
    assert run.metrics.read_text() == whole


def test_run_that_another_process_trains_is_refused(workspace, run_training):
    run = workspace.run("tiny", "first")
    with only_writer(run.folder), pytest.raises(SwanError, match="another swan is writing there"):
        run_training("first", epochs=1)
    run_training("first", epochs=1)


def test_resumed_run_of_the_default_recipe_ends_where_the_uninterrupted_one_does(run_training):
    default = TrainSettings(epochs=3, batch_size=4, captions_per_image=1, backbone_rate=0.2)
    whole = run_training("whole", training=default, frozen=False)
    with pytest.raises(KeyboardInterrupt):
        run_training("parts", training=default, frozen=False, watch=Interrupt())
    assert_same_run(whole, run_training("parts", training=default, frozen=False, resume=True))


def test_backbone_learns_at_its_share_of_the_rate(run_training):
    still = TrainSettings(epochs=1, batch_size=4, captions_per_image=1, backbone_rate=0.0)
    run = run_training("still-backbone", training=still, frozen=False)
    groups = torch.load(run.last, weights_only=True)["training"]["optimizer"]["param_groups"]
    assert [group["highest"] for group in groups] == [1e-3, 0.0]


# ---------------------------------------------------------------------------------------------------------
# heads first, and the average of the weights

# Two steps in an epoch; the backbone is small, and its first stage is frozen.
HEADS_FIRST = TrainSettings(epochs=3, batch_size=4, captions_per_image=1, heads_first=2)
SMALL_TOWER = {"backbone": "timm/test_efficientnet", "frozen": False, "freeze_stages": 1}
WHOLE_TOWER = SMALL_TOWER | {"freeze_stages": 0}
STAGE_1, STAGE_4 = "backbone.network.blocks.0.0.conv.weight", "backbone.network.conv_head.weight"
HEAD = "image_tower.aggregate.0.weight"


class InterruptIn(Watch):
    """Stops a run in the first step of an epoch, and keeps what was said of its parts."""

    def __init__(self, epoch=0):
        self.epoch_to_stop, self.parts = epoch, []

    def part(self, first, last, what):
        self.parts.append((first, last, what))

    def step(self, epoch, step, steps, loss, pairs_per_second):
        if epoch == self.epoch_to_stop:
            raise KeyboardInterrupt


def weights_at_start(run):
    settings = load_checkpoint(run.last).model.settings
    torch.manual_seed(0)
    return Swan(settings).state_dict()


@pytest.mark.parametrize("average", [0.0, 0.3])
def test_towers_wait_for_the_heads_and_a_run_resumed_on_either_side_ends_as_the_whole_one(
    run_training, workspace, average
):
    recipe = {"training": replace(HEADS_FIRST, average=average), **SMALL_TOWER}
    watch = InterruptIn()
    whole = run_training("whole", watch=watch, **recipe)
    assert watch.parts == [(1, 2, "the heads alone"), (3, 3, "")]
    for resume, epoch in ((False, 2), (True, 3)):
        with pytest.raises(KeyboardInterrupt):
            run_training("parts", watch=InterruptIn(epoch), resume=resume, **recipe)
    parts = workspace.run("tiny", "parts")
    start, waited = weights_at_start(parts), weights_of(parts.last)
    moved = {name for name, value in start.items() if not torch.equal(value, waited[name])}
    assert HEAD in moved
    assert not [name for name in moved if name.startswith("backbone.")]
    watch = InterruptIn()
    run_training("parts", watch=watch, resume=True, **recipe)
    assert watch.parts == [(3, 3, "")]
    assert_same_run(whole, parts)
    end = weights_of(whole.last)
    assert not torch.equal(end[STAGE_4], start[STAGE_4])
    assert torch.equal(end[STAGE_1], start[STAGE_1])
    statistics = [name for name in start if name.startswith("backbone.") and "running" in name]
    assert statistics
    assert all(torch.equal(end[name], start[name]) for name in statistics)  # since a stage is frozen


def test_nothing_of_a_whole_backbone_changes_while_it_waits_for_the_heads(run_training):
    ended = {}
    for epochs in (1, 2):
        recipe = replace(HEADS_FIRST, epochs=epochs, heads_first=1)
        run = run_training(f"{epochs}-epochs", training=recipe, **WHOLE_TOWER)
        ended[epochs] = weights_of(run.last)
    start = weights_at_start(run)
    backbone = [name for name in start if name.startswith("backbone.")]
    assert all(torch.equal(ended[1][name], start[name]) for name in backbone)
    statistics = [name for name in backbone if name.endswith(("running_mean", "running_var"))]
    assert not any(torch.equal(ended[2][name], start[name]) for name in [STAGE_1, *statistics])


def test_training_whose_towers_are_frozen_has_one_part(run_training):
    watch = InterruptIn()
    run_training("one", watch=watch, training=replace(HEADS_FIRST, heads_first=1), frozen=True)
    assert watch.parts == [(1, 3, "")]


def test_average_is_validated_and_stored_beside_the_weights_it_follows(run_training, workspace, monkeypatch):
    """After two steps the average is 0.05 w1 + 0.95 w2: step 2 keeps min(0.05, 1 / 10) of it."""
    steps = []
    follow = loop.follow

    def followed(average, model, step, decay):
        steps.append(model.state_dict()[HEAD].clone())
        follow(average, model, step, decay)

    monkeypatch.setattr(loop, "follow", followed)
    recipe = TrainSettings(epochs=1, batch_size=4, captions_per_image=1, average=0.05)
    run = run_training("one", training=recipe, backbone="timm/test_efficientnet")
    first, second = steps
    assert not torch.equal(first, second)
    last = torch.load(run.last, weights_only=True)
    torch.testing.assert_close(last["model"][HEAD], 0.05 * first + 0.95 * second)
    assert torch.equal(last["training"]["weights"][HEAD], second)
    assert all(torch.equal(value, last["model"][name]) for name, value in weights_of(run.best).items())
    report = evaluate_checkpoint(Encoder(run, "cpu"), workspace, split="val")
    assert report.mean_recall == pytest.approx(pd.read_csv(run.metrics)["mR"].item())
    del last["training"]["weights"]
    torch.save(last, run.last)
    with pytest.raises(SwanError, match=r"last\.pt: cannot be resumed: its training has no weights"):
        run_training("one", training=recipe, backbone="timm/test_efficientnet", resume=True)


class InterruptAtOnce(Watch):
    def step(self, epoch, step, steps, loss, pairs_per_second):
        raise KeyboardInterrupt


def test_run_stopped_in_its_first_epoch_resumes_from_the_start(run_training):
    whole = run_training("whole", epochs=1)
    with pytest.raises(KeyboardInterrupt):
        run_training("parts", epochs=1, watch=InterruptAtOnce())
    assert_same_run(whole, run_training("parts", epochs=1, resume=True))


def test_rate_of_an_epoch_follows_its_schedule():
    step = TrainSettings(schedule="step")
    assert [rate_share(step, epoch, 3, 5) for epoch in (1, 20)] == pytest.approx([1, 0.7])
    cosine = TrainSettings(schedule="cosine", epochs=2)
    # 8 steps, of which the first 4 rise.
    assert rate_share(cosine, 1, 1, 4) == pytest.approx(0.25)
    assert rate_share(cosine, 2, 1, 4) == pytest.approx(0.5)


def test_rate_of_what_waits_is_zero_and_then_follows_the_schedule_from_its_start():
    cosine = TrainSettings(schedule="cosine", epochs=4)
    waiting = [rate_share(cosine, epoch, step, 4, waits=2) for epoch in (1, 2) for step in (1, 2, 3, 4)]
    assert waiting == [0] * 8
    # The first of the 8 steps that are left, of which 4 rise; the fifth is half way down.
    assert rate_share(cosine, 3, 1, 4, waits=2) == pytest.approx(0.25)
    assert rate_share(cosine, 4, 1, 4, waits=2) == pytest.approx(0.5)
    assert rate_share(cosine, 3, 1, 4) == pytest.approx(0.5)  # step 9 of 16, of what does not wait
    step = TrainSettings(schedule="step")
    assert [rate_share(step, epoch, 1, 4, waits=1) for epoch in (1, 2, 20, 21)] == pytest.approx(
        [0, 1, 1, 0.7]
    )


def test_learning_rate_reaches_the_optimiser(run_training):
    """With a rate of zero nothing but batch statistics moves."""
    still = TrainSettings(epochs=1, batch_size=4, captions_per_image=1, lr=0.0)
    run = run_training("still", training=still, frozen=False)
    settings = load_checkpoint(run.best).model.settings
    torch.manual_seed(0)
    start = Swan(settings).state_dict()
    trained = weights_of(run.last)
    assert all(torch.equal(start[key], trained[key]) for key in start if key.endswith("weight"))


def test_caption_of_punctuation_alone_trains(workspace, run_training):
    with h5py.File(workspace.dataset("tiny"), "r+") as file:
        file["captions/text"][0] = " . "
    run_training("one", epochs=1)


def test_longer_resume_equals_a_longer_run(run_training):
    whole = run_training("whole", epochs=3)
    run_training("parts", epochs=1)
    assert_same_run(whole, run_training("parts", epochs=3, resume=True))


def test_run_leaves_its_settings_and_one_row_per_epoch(run_training, tiny_config):
    run = run_training("one", epochs=2)
    table = pd.read_csv(run.metrics)
    assert table["epoch"].tolist() == [1, 2]
    recalls = [f"{way}_R@{k}" for way in ("i2t", "t2i") for k in (1, 5, 10)]
    np.testing.assert_allclose(table[recalls].mean(axis=1), table["mR"])
    assert json.loads(run.config.read_text())["training"]["epochs"] == 2
    assert resumed_config(run).training == tiny_config().training
    assert not list(run.folder.glob("*.tmp"))


def test_best_checkpoint_is_the_epoch_of_highest_validation_recall(run_training):
    run = run_training("one", epochs=3)
    table = pd.read_csv(run.metrics)
    origin = load_checkpoint(run.best).origin
    assert origin["epoch"] == table["epoch"][table["mR"].idxmax()]
    assert origin["val_mR"] == pytest.approx(table["mR"].max())


def test_test_split_is_never_read(monkeypatch, run_training):
    read = []
    image = Dataset.image
    monkeypatch.setattr(Dataset, "image", lambda self, row: read.append(int(row)) or image(self, row))
    run_training("one", epochs=1)
    assert set(read) == set(range(8))


def test_existing_run_is_not_overwritten(run_training):
    run_training("one", epochs=1)
    with pytest.raises(SwanError, match="this run exists"):
        run_training("one", epochs=1)


def test_vocabulary_of_another_data_set_is_refused(workspace, run_training):
    other = count_words(["a red field"], min_count=1, stop_words="keep", dataset="other")
    write_vocabulary(workspace.vocab("tiny"), other)
    with pytest.raises(SwanError, match="counted from data set other"):
        run_training("one")
    assert not workspace.run("tiny", "one").folder.exists()


def test_checkpoint_gives_the_same_embeddings_after_reading(run_training):
    run = run_training("one", epochs=1)
    checkpoint = load_checkpoint(run.best)
    again = load_checkpoint(run.best)
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        first, second = (c.model.encode_images(pixels) for c in (checkpoint, again))
    assert torch.equal(first, second)
    assert checkpoint.tokenizer.words[:3] == ("a", "red", "field")


def test_damaged_checkpoint_is_refused(tmp_path, run_training):
    run = run_training("one", epochs=1)
    content = torch.load(run.best, weights_only=True)
    content["settings"]["embed_dim"] = 24
    torch.save(content, tmp_path / "other.pt")
    (tmp_path / "cut.pt").write_bytes(run.best.read_bytes()[:1000])
    for name, message in (("other.pt", "do not fit"), ("cut.pt", "loaded safely"), ("none.pt", "no such")):
        with pytest.raises(SwanError, match=message):
            load_checkpoint(tmp_path / name)


class Poison(Watch):
    """Makes the weights of a run not a number after a step."""

    def __init__(self, monkeypatch, epoch, step):
        self.after = epoch, step
        self.poisoned = False
        plain = loop.hinge_loss

        def poisoned_loss(similarity, *masks, **options):
            return plain(similarity * (float("nan") if self.poisoned else 1), *masks, **options)

        monkeypatch.setattr(loop, "hinge_loss", poisoned_loss)

    def step(self, epoch, step, steps, loss, pairs_per_second):
        self.poisoned = (epoch, step) == self.after


def test_loss_that_is_nan_stops_with_its_step_files_and_the_last_good_checkpoint(
    run_training, monkeypatch, workspace
):
    run = workspace.run("tiny", "a")
    with pytest.raises(SwanError, match=r"epoch 2 of 2 steps: the loss is nan at step 2 ") as told:
        run_training("a", epochs=3, watch=Poison(monkeypatch, 2, 1))
    names = told.value.problem.partition("its images: ")[2].split(", ")
    assert names
    assert set(names) <= {"red_0.png", "green_1.png", "blue_2.png", "white_3.png"}
    assert f"the last good checkpoint is {run.last}" in told.value.hint
    assert "--init-from" in told.value.hint
    assert load_checkpoint(run.last).origin["epoch"] == 1
    assert all(value.isfinite().all() for value in weights_of(run.last).values())
    assert len(pd.read_csv(run.metrics)) == 1


def test_loss_that_is_nan_at_once_says_that_there_is_no_checkpoint(run_training, monkeypatch, workspace):
    watch = Poison(monkeypatch, 0, 0)
    watch.poisoned = True
    with pytest.raises(SwanError, match="at step 1 ") as told:
        run_training("a", epochs=1, watch=watch)
    assert told.value.hint.startswith("no checkpoint is written yet")
    assert not workspace.run("tiny", "a").last.exists()


def test_exploding_weights_are_not_kept(run_training, workspace):
    explode = TrainSettings(epochs=2, batch_size=8, captions_per_image=1, lr=1e30, schedule="step")
    with pytest.raises(SwanError) as told:
        run_training("a", training=explode)
    assert "validation: embeddings contain NaN or infinity" in told.value.problem
    assert "no checkpoint is written yet" in told.value.hint
    assert not workspace.run("tiny", "a").last.exists()


def test_what_has_changed_since_a_run_is_reported(run_training, workspace):
    """One run for all of it: test images that trained, other pixels, weights that are NaN."""
    run = run_training("a", epochs=1)
    assert evaluate_checkpoint(Encoder(run, "cpu"), workspace).warnings == ()
    with h5py.File(workspace.dataset("tiny"), "r+") as file:
        file["images/digest"][8] = file["images/digest"][0]
        file.attrs["digest"] = "of other pixels"
    changed, seen = evaluate_checkpoint(Encoder(run, "cpu"), workspace).warnings
    assert "dataset.h5 was prepared again after the training" in changed
    assert seen.startswith("1 of 4 images of test have the name or the pixels of a training image")
    with pytest.raises(SwanError, match="prepared again since the run began"):
        run_training("a", epochs=2, resume=True)
    content = torch.load(run.best, weights_only=True)
    content["model"]["image_tower.aggregate.0.weight"][0, 0] = float("nan")
    torch.save(content, run.best)
    with pytest.raises(
        SwanError, match=r"1 of its weights contain NaN or infinity, first image_tower\.aggregate\.0"
    ):
        load_checkpoint(run.best)
