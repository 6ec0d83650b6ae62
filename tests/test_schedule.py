"""The learning rate's schedules against PyTorch's own, and against the clock of a time budget."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler

from stereo.config import TrainConfig
from stereo.engine.schedule import rate_factor, warmup_cosine
from stereo.types import InputError

TOTAL = 40


def ours(**settings: Any) -> list[float]:
    train = TrainConfig(steps=TOTAL, **settings)
    return [rate_factor(train, step) for step in range(TOTAL)]


def of_torch(make: Any) -> list[float]:
    """The rates that a scheduler of PyTorch sets for an optimiser with a peak of 1."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler, rates = make(optimizer), []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the optimiser makes no steps here
        for _ in range(TOTAL):
            rates.append(optimizer.param_groups[0]["lr"])
            if len(rates) < TOTAL:
                scheduler.step()
    return rates


@pytest.mark.parametrize("warmup", [3, 7, 19])
def test_one_cycle_is_that_of_pytorch(warmup: int):
    """Of straight lines, as the trainings of RAFT-Stereo use it. PyTorch's peak is at pct_start * total - 1."""

    def make(optimizer):
        share = (warmup + 1) / TOTAL
        return lr_scheduler.OneCycleLR(optimizer, 1.0, TOTAL, pct_start=share, anneal_strategy="linear", cycle_momentum=False)

    assert ours(schedule="one_cycle", warmup_steps=warmup) == pytest.approx(of_torch(make), rel=1e-9)


def test_steps_are_those_of_pytorch():
    def make(optimizer):
        return lr_scheduler.MultiStepLR(optimizer, [10, 30], 0.5)

    given = ours(schedule="step", warmup_steps=0, milestones=(0.25, 0.75), step_factor=0.5)
    assert given == pytest.approx(of_torch(make), rel=1e-12)


def test_constant_after_a_warm_up():
    assert ours(schedule="constant", warmup_steps=3) == [0.25, 0.5, 0.75, *[1.0] * 37]


def test_cosine_is_the_default_and_what_it_was():
    assert ours(warmup_steps=5) == [warmup_cosine(step, TOTAL, 5) for step in range(TOTAL)]


@pytest.mark.parametrize("schedule", ["cosine", "one_cycle", "step"])
def test_time_drives_the_schedule_where_it_is_further(schedule: str):
    """A run that gets through 10 of 1000 steps in its time: the last step has the rate that step 900 of all would have."""
    train = TrainConfig(steps=1000, warmup_steps=50, schedule=schedule)
    assert rate_factor(train, 9, 0.9) == rate_factor(train, 900)
    assert rate_factor(train, 950, 0.9) == rate_factor(train, 950)  # the steps are further
    assert rate_factor(train, 9, 1.0) == rate_factor(train, 1000)
    rates = [rate_factor(train, step, step / 10) for step in range(1, 11)]
    assert rates == sorted(rates, reverse=True)  # warmed up after a tenth of the time


def test_warming_up_takes_its_steps_or_a_tenth_of_the_time():
    train = TrainConfig(steps=1000, warmup_steps=99)
    assert rate_factor(train, 33, 0.01) == 34 / 100  # the steps are further than 9.9
    assert rate_factor(train, 0, 0.05) == pytest.approx((49.5 + 1) / 100)  # half of the tenth
    assert rate_factor(train, 0, 0.1) == pytest.approx(1.0, abs=1e-3)
    assert rate_factor(train, 99, 0.02) == 1.0
    short = TrainConfig(steps=100, warmup_steps=80)
    assert rate_factor(short, 1, 0.5) == 1.0  # warmed up, and by the steps' count the descent has not begun


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ({"schedule": "linear"}, "one of cosine, one_cycle, step, constant"),
        ({"precision": "fp8"}, "one of fp32, bf16, fp16"),
        ({"ship": "all"}, "one of last, best"),
        ({"milestones": (0.5, 0.4)}, "rising shares"),
        ({"milestones": (0.5, 1.0)}, "rising shares"),
        ({"ema": 1.0}, "from 0 to below 1"),
        ({"accumulate": 0}, "1 or more"),
        ({"skip_limit": 0}, "1 or more"),
        ({"keep": -1}, "0 or more"),
        ({"learning_rate": float("nan")}, "finite number above 0"),
        ({"backbone_rate": -1.0}, "finite number, 0 or more"),
        ({"patience": 2}, "train.validate_every"),
    ],
)
def test_what_cannot_be_is_refused(setting: dict[str, Any], expected: str):
    with pytest.raises(InputError, match=expected) as caught:
        TrainConfig(**setting)
    (name,) = setting
    assert str(caught.value).startswith(f"train.{name}: got ")
