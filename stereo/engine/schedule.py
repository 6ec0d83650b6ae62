"""Learning rate against the course of a run."""

from __future__ import annotations

import math

from stereo.config import TrainConfig

FLOOR = 0.01  # of the peak, where the cosine ends
FIRST, LAST = 1 / 25, 1e-4  # one_cycle: the rate it starts with, of the peak, and the one it ends with, of the first
WARMUP_SHARE = 0.1  # of a time budget within which warming up is over, however few steps that are


def warmup_cosine(step: float, total: int, warmup: int, floor: float = FLOOR) -> float:
    """Factor on the peak rate: linear over ``warmup`` steps, then half a cosine down to ``floor`` at ``total``."""
    if step < warmup:
        return (step + 1) / (warmup + 1)
    progress = (step - warmup) / max(total - warmup, 1)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


def one_cycle(step: float, total: int, warmup: int) -> float:
    """Factor on the peak rate: straight up from FIRST over ``warmup`` steps, straight down to FIRST * LAST at the last step."""
    if step < warmup:
        return FIRST + (1 - FIRST) * step / warmup
    progress = min((step - warmup) / max(total - 1 - warmup, 1), 1.0)
    return 1 + (FIRST * LAST - 1) * progress


def rate_factor(train: TrainConfig, step: int, time_share: float = 0.0) -> float:
    """Factor on train.learning_rate for the step with this number (from 0).

    time_share: of a time budget, spent before the step. The schedule stands where the steps or the time have got to, whichever
    is further, and a warm-up is not longer than WARMUP_SHARE of the time.
    """
    warmup = train.warmup_steps
    warmed = max(step, warmup * time_share / WARMUP_SHARE)
    place = warmed if warmed < warmup else max(step, time_share * train.steps, warmup)
    if train.schedule == "cosine":
        return warmup_cosine(place, train.steps, warmup)
    if train.schedule == "one_cycle":
        return one_cycle(place, train.steps, warmup)
    if place < warmup:
        return (place + 1) / (warmup + 1)
    passed = sum(place >= share * train.steps for share in train.milestones) if train.schedule == "step" else 0
    return train.step_factor**passed
