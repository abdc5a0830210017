"""Of the steps whose loss or gradients are not finite the first is found, however many are looked at."""

import numpy as np
import pytest
import torch

from swancli.errors import SwanError
from swancli.train.nan_guard import Step, StepWatch, gradient_norm, step_error

NAN, INF = float("nan"), float("inf")


def step(number, loss=1.0, norm=1.0):
    return Step(number, np.array([number]), torch.tensor(loss), torch.tensor(norm))


@pytest.mark.parametrize("wrong", [{"loss": NAN}, {"loss": INF}, {"norm": NAN}, {"norm": INF}])
def test_first_unsound_step_is_found_among_those_looked_at_together(wrong):
    watch = StepWatch(torch.device("cuda"), 6, lambda step: SwanError(f"step {step.number}"))
    for sound in (step(1), step(2), step(3), step(4, **wrong), step(5, NAN)):
        watch.see(sound)  # a GPU reads the first of ten steps, and the last
    with pytest.raises(SwanError, match="step 4"):
        watch.see(step(6))


def test_each_step_is_looked_at_on_a_cpu():
    watch = StepWatch(torch.device("cpu"), 6, lambda step: SwanError(f"step {step.number}"))
    watch.see(step(1))
    with pytest.raises(SwanError, match="step 2"):
        watch.see(step(2, NAN))


def test_one_gradient_that_is_nan_makes_the_norm_not_finite():
    model = torch.nn.Linear(3, 2)
    model(torch.ones(1, 3)).sum().backward()
    assert gradient_norm(model) == pytest.approx((6 + 2) ** 0.5)
    model.weight.grad[0, 1] = NAN
    assert not gradient_norm(model).isfinite()


def test_error_names_each_image_once():
    told = step_error("a: epoch 2", step(7, norm=INF), ["a.png", "b.png", "a.png"], "lower --lr")
    assert told.problem == (
        "a: epoch 2: the gradients are not finite at step 7 (gradient norm inf); its images: a.png, b.png"
    )
