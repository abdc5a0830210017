"""A step, and a run, on several processes are those of one process with the same batch."""

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

CASES = ("fine-tuned", "frozen", "published")
SEVERAL = (2, 4)


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
    trained = torch.load(root / "fine-tuned-4.pt", weights_only=True)["state"]
    assert trained["backbone.network.bn1.running_mean"].abs().max() > 0
    frozen = torch.load(root / "frozen-4.pt", weights_only=True)["state"]
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
