"""A step, and a run, on several processes are those of one process with the same batch."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import nn

from swancli.errors import SwanError
from swancli.machine.processes import Processes
from swancli.model.settings import ModelSettings
from swancli.model.swan import Swan
from swancli.train import distributed
from swancli.train.distributed import SharedFlatBatchNorm, SharedStatistics, share_norms
from swancli.train.loop import Watch
from swancli.train.run import train_run

CASES = ("fine-tuned", "timm", "frozen", "published")
SEVERAL = (3,)


@pytest.fixture(scope="module")
def root(module_workspace):
    """What `several_processes.py` wrote."""
    script = Path(__file__).with_name("several_processes.py")
    done = subprocess.run(
        [sys.executable, script, module_workspace.root], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return module_workspace.root


@pytest.mark.parametrize("count", SEVERAL)
@pytest.mark.parametrize("case", CASES)
def test_step_on_several_processes_is_that_of_one(root, case, count):
    one, several = (torch.load(root / f"{case}-{number}.pt", weights_only=True) for number in (1, count))
    assert several["loss"].item() == pytest.approx(one["loss"].item(), rel=1e-12)
    assert one["gradients"].keys() == several["gradients"].keys()
    assert max(part.abs().max() for part in one["gradients"].values()) > 1e-3
    for part in ("gradients", "state"):
        for name, expected in one[part].items():
            assert (several[part][name] - expected).abs().max() < 1e-9, name


@pytest.mark.parametrize("count", SEVERAL)
def test_step_in_single_precision_is_that_of_one_but_for_rounding(root, count):
    one, several = (
        torch.load(root / f"frozen-single-{number}.pt", weights_only=True) for number in (1, count)
    )
    assert one["loss"].dtype == torch.float32
    assert several["loss"].item() == pytest.approx(one["loss"].item(), rel=1e-6)
    gradients, others = (torch.cat(list(found["gradients"].values())) for found in (one, several))
    assert (others - gradients).norm() < 1e-5 * gradients.norm()


def test_backbone_norms_follow_the_images_of_all_processes(root):
    trained = torch.load(root / "fine-tuned-3.pt", weights_only=True)["state"]
    assert trained["backbone.network.bn1.running_mean"].abs().max() > 0
    assert trained["image_tower.pool.project.0.running_mean"].abs().max() > 0
    frozen = torch.load(root / "frozen-3.pt", weights_only=True)["state"]
    assert not frozen["backbone.network.bn1.running_mean"].any()


@pytest.mark.parametrize("count", SEVERAL)
def test_run_on_several_processes_is_that_of_one(root, count):
    one, several = (
        pd.read_csv(root / "tiny" / "runs" / f"on-{number}" / "metrics.csv").drop(
            columns=["pairs_per_second", "seconds"]
        )
        for number in (1, count)
    )
    assert len(one) == 2
    pd.testing.assert_frame_equal(one, several, rtol=1e-6)


@pytest.mark.parametrize("count", SEVERAL)
def test_towers_that_wait_and_the_average_are_those_of_one_process(root, count):
    one, several = (
        torch.load(root / "tiny" / "runs" / f"on-{number}" / "last.pt", weights_only=True)
        for number in (1, count)
    )
    for part in ("average", "weights"):
        assert one[part].keys() == several[part].keys()
        for name, expected in one[part].items():
            assert (several[part][name] - expected).abs().max() < 1e-8, name
    trained = "backbone.network.layer4.0.conv1.weight"
    assert not torch.equal(one["average"][trained], one["weights"][trained])
    assert "backbone.network.layer2.0.conv1.weight" not in one["weights"]  # frozen


def test_flat_norm_over_two_processes_by_hand(monkeypatch):
    """Values 1 and 3 here, 8 in the other process: mean 4, variance 26/3, or 13 as an estimate."""
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 0)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    other = torch.tensor([[8.0], [0.0], [1.0]])  # its mean, its variance, its count
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda rows: rows[1].add_(other))
    norm = nn.BatchNorm1d(1, eps=0)
    share_norms(norm)
    assert type(norm) is SharedFlatBatchNorm
    found = norm(torch.tensor([[1.0], [3.0]]))
    torch.testing.assert_close(found, torch.tensor([[-3.0], [-1.0]]) / (26 / 3) ** 0.5)
    assert norm.running_mean.item() == pytest.approx(0.4)
    assert norm.running_var.item() == pytest.approx(0.9 * 1 + 0.1 * 13)


# ---------------------------------------------------------------------------------------------------------
# norms that cannot be shared


class VarianceNorm(nn.Module):
    """Like timm's EvoNorm: not a batch norm of torch, but with a variance of the batch."""

    def __init__(self, width):
        super().__init__()
        self.register_buffer("running_var", torch.ones(width))


@pytest.mark.parametrize(
    "norm",
    [
        nn.BatchNorm3d(4),
        nn.SyncBatchNorm(4),
        nn.BatchNorm2d(4, affine=False),
        nn.BatchNorm2d(4, momentum=None),
        nn.BatchNorm2d(4, track_running_stats=False),
        nn.InstanceNorm2d(4, track_running_stats=True),
        VarianceNorm(4),
    ],
    ids=lambda norm: type(norm).__name__,
)
def test_norm_whose_statistics_cannot_be_shared_is_refused_by_name_unless_it_is_frozen(norm):
    shape = ModelSettings(words=3, backbone="timm/test_efficientnet", embed_dim=16)
    for frozen in (True, False):
        model = Swan(replace(shape, frozen=frozen))
        model.backbone.network.blocks.append(norm)
        if frozen:
            share_norms(model)
            assert not isinstance(model.backbone.network.bn1, SharedStatistics)
            assert isinstance(model.image_tower.vmsf.fuse[1], SharedStatistics)
            continue
        with pytest.raises(
            SwanError, match=rf"backbone\.network\.blocks\.5 \({type(norm).__name__}\)"
        ) as error:
            share_norms(model)
        assert "one process" in error.value.hint
        assert "--freeze" in error.value.hint


def test_norms_without_statistics_of_a_batch_stay_as_they_are():
    layers = nn.Sequential(nn.LayerNorm(4), nn.GroupNorm(2, 4), nn.InstanceNorm2d(4))
    share_norms(layers)
    assert [type(layer) for layer in layers] == [nn.LayerNorm, nn.GroupNorm, nn.InstanceNorm2d]


def test_run_whose_norms_cannot_be_shared_does_not_begin(workspace, tiny_config, monkeypatch):
    monkeypatch.setattr(distributed, "SHARED", {})
    run = workspace.run("tiny", "several")
    with pytest.raises(SwanError, match="on several processes"):
        train_run(
            workspace, run, tiny_config(), "cpu", resume=False, watch=Watch(), processes=Processes(0, 2)
        )
    assert not run.config.exists()
