"""How far a run has come, and when it is over."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from stereo.config import TrainConfig
from stereo.engine.distributed import from_first
from stereo.engine.schedule import rate_factor


@dataclass
class Course:
    """What a checkpoint remembers of a run besides what was learned. Equal in all processes.

    step:       steps done, skipped ones included.
    position:   batches that all processes together have taken from the data.
    seconds:    of work, summed over resumes.
    pace:       seconds that the last step took, what came with it included.
    closing:    seconds that the last validation took; a time budget leaves room for one more.
    in_a_row:   steps skipped in a row, up to now.
    best:       score of the best validation, lower is better; it was at ``best_step``.
    stale:      validations since then.
    numbers:    of the last validation.
    """

    step: int = 0
    position: int = 0
    seconds: float = 0.0
    pace: float = 0.0
    closing: float = 0.0
    in_a_row: int = 0
    best: float = math.inf
    best_step: int = 0
    stale: int = 0
    numbers: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, state: dict[str, Any]) -> Course:
        """From a checkpoint; one of version 0.2 knows its step and seconds, and took one batch per step."""
        known = {f.name: state[f.name] for f in fields(cls) if f.name in state}
        return cls(**({"position": state["step"]} | known))

    def state(self) -> dict[str, Any]:
        return asdict(self)

    def judge(self, numbers: dict[str, float]) -> bool:
        """Take note of a validation, whose first number is the score (lower is better); True when it is the best so far."""
        self.numbers, score = numbers, next(iter(numbers.values()))
        better = score < self.best
        if better:
            self.best, self.best_step, self.stale = score, self.step, 0
        else:
            self.stale += 1
        return better


class Clock:
    """The time that a run has taken and may take. ``budget`` in seconds, inf for none; the first process's clock counts."""

    def __init__(self, course: Course, train: TrainConfig, budget: float = math.inf) -> None:
        self.course, self.train, self.budget = course, train, budget
        self._spent, self._began = course.seconds, time.perf_counter()

    def tick(self) -> None:
        """After a step: read the clock, the same in every process."""
        now = self._spent + time.perf_counter() - self._began
        if self.budget < math.inf:
            now = from_first(lambda: now)
        self.course.pace, self.course.seconds = now - self.course.seconds, now

    def time_share(self) -> float:
        """Of the budget, without what closing the run takes; 0 without a budget."""
        return min(self.course.seconds / max(self.budget - self.course.closing, 1e-9), 1.0)

    def rate_factor(self) -> float:
        return rate_factor(self.train, self.course.step, self.time_share())

    def over(self) -> bool:
        """All steps done, no time for another one, or no better score for long."""
        course, patience = self.course, self.train.patience
        late = course.seconds + course.pace + course.closing > self.budget
        return course.step >= self.train.steps or late or 0 < patience <= course.stale
