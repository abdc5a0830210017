"""Steps whose loss or gradients are no numbers are found, the first of them, however many are looked at."""

import numpy as np
import pytest
import torch

from swancli.train.nan_guard import Step, UnsoundStepError, check_steps, gradient_norm, step_error

NAN, INF = float("nan"), float("inf")


def step(number, loss=1.0, norm=1.0):
    return Step(number, np.array([number]), torch.tensor(loss), torch.tensor(norm))


@pytest.mark.parametrize("wrong", [{"loss": NAN}, {"loss": INF}, {"norm": NAN}, {"norm": INF}])
def test_first_unsound_step_is_found_among_those_looked_at_together(wrong):
    check_steps([])
    check_steps([step(1), step(2)])
    with pytest.raises(UnsoundStepError) as found:
        check_steps([step(1), step(2), step(3, **wrong), step(4, NAN), step(5)])
    assert found.value.step.number == 3


def test_one_gradient_that_is_no_number_makes_the_norm_none():
    model = torch.nn.Linear(3, 2)
    model(torch.ones(1, 3)).sum().backward()
    assert gradient_norm(model) == pytest.approx((6 + 2) ** 0.5)
    model.weight.grad[0, 1] = NAN
    assert not gradient_norm(model).isfinite()


def test_what_is_told_names_each_image_once():
    told = step_error("a: epoch 2", step(7, norm=INF), ["a.png", "b.png", "a.png"], "lower --lr")
    assert told.problem == (
        "a: epoch 2: the gradients are not finite at step 7 (gradient norm inf); its images: a.png, b.png"
    )
