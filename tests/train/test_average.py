import torch
from torch import nn

from swancli.train.average import follow


def made(weight, statistic=0.0):
    """A model of one trained weight, one frozen weight and one statistic."""
    model = nn.Module()
    model.weight = nn.Parameter(torch.tensor(weight))
    model.frozen = nn.Parameter(torch.tensor(7.0), requires_grad=False)
    model.register_buffer("statistic", torch.tensor(statistic))
    return model


def test_an_average_begins_with_the_first_step_and_then_follows_slower_and_slower():
    average = made(100.0)
    follow(average, made(1.0), 1, decay=0.5)
    assert average.weight.item() == 1  # what it was before the first step counts for nothing
    follow(average, made(2.0), 2, decay=0.5)
    torch.testing.assert_close(average.weight.item(), 0.1 * 1 + 0.9 * 2)
    follow(average, made(3.0), 3, decay=0.5)
    torch.testing.assert_close(average.weight.item(), (2 * 1.9 + 9 * 3) / 11)


def test_its_decay_is_never_above_the_given_one():
    average = made(1.0)
    follow(average, made(2.0), 1000, decay=0.75)
    assert average.weight.item() == 1.25


def test_statistics_are_taken_over_and_frozen_weights_are_left_alone():
    average, model = made(1.0), made(1.0, statistic=5.0)
    model.frozen.data.fill_(8.0)
    follow(average, model, 50, decay=0.9)
    assert average.statistic.item() == 5
    assert average.frozen.item() == 7
