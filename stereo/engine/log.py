"""What a run tells: the bar on the screen, TensorBoard, and log.jsonl."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from stereo.config import TrainConfig
from stereo.engine.course import Clock, Course
from stereo.engine.distributed import rank, world_size
from stereo.engine.learner import Outcome
from stereo.engine.panels import training_panel
from stereo.engine.run_dir import RunDir, versions

T = TypeVar("T")


class Log:
    """Of one process; all but the first are silent. Use as a context manager."""

    def __init__(self, run: RunDir, train: TrainConfig, course: Course, clock: Clock, progress: bool) -> None:
        self.run, self.train, self.course, self.clock = run, train, course, clock
        self.writer = SummaryWriter(str(run.path), purge_step=course.step) if rank() == 0 else None
        self.progress = progress and rank() == 0
        self._waited = self._busy = 0.0  # seconds: of the last step for its data, of all steps since the last line
        self._steps = 0
        self._mark = time.perf_counter()

    def __enter__(self) -> Log:
        return self

    def __exit__(self, *_: Any) -> None:
        if self.writer:
            self.writer.close()

    def watched(self, source: Iterable[T]) -> Iterator[T]:
        """The steps' data; how long each is waited for, and what its step takes, is measured."""
        with tqdm(total=self.train.steps, initial=self.course.step, disable=not self.progress, unit="step") as self._bar:
            self._mark = time.perf_counter()
            for item in source:
                self._waited = time.perf_counter() - self._mark
                yield item
                self._mark = time.perf_counter()

    def step(self, outcome: Outcome) -> None:
        """Right after a step, whose number is that of the steps done before it."""
        number = self.course.step - 1
        self._busy += time.perf_counter() - self._mark
        self._steps += 1
        self._bar.update()
        if number % self.train.log_every == 0:
            self._tell_step(number, outcome)
        if self.writer and number % self.train.image_every == 0:
            picture = training_panel(outcome.batches[-1], outcome.prediction)
            self.writer.add_image("train/pair", picture, number, dataformats="HWC")
            self.run.save_panel(number, picture)

    def _tell_step(self, number: int, outcome: Outcome) -> None:
        per_step = self._busy / self._steps
        samples = self.train.batch_size * self.train.accumulate * world_size()
        left = min((self.train.steps - self.course.step) * per_step, self.clock.budget - self.course.seconds)
        self._busy, self._steps = 0.0, 0
        values = {f"loss/{name}": value for name, value in outcome.terms.items()}
        values |= {"epe_visible_px": outcome.epe, "gradient_norm": outcome.norm, "learning_rate": outcome.rate}
        values |= {"data_wait_s": self._waited, "samples_per_s": samples / per_step, "eta_s": left}
        self._write(number, "train", values)
        shown = {"loss": f"{outcome.terms['total']:.3f}", "epe": f"{outcome.epe:.2f}px"}
        self._bar.set_postfix(shown | {"samples/s": f"{samples / per_step:.1f}", "left": tqdm.format_interval(int(left))})

    def validation(self, numbers: dict[str, float], best: bool) -> None:
        self._write(self.course.step, "validation", numbers)
        listed = ", ".join(f"{name} {value:.3f}" for name, value in numbers.items())
        self.say(f"step {self.course.step}: validation {listed}{' (the best so far)' if best else ''}")

    def resumed(self) -> None:
        self.run.append(self.course.step, "resume", {"seconds": self.course.seconds, **versions()})
        self.say(f"going on from step {self.course.step}")

    def skip(self, values: dict[str, Any], line: str) -> None:
        """A step that changed nothing; its number is that of the steps done before it."""
        self.run.append(self.course.step - 1, "skip", values)
        self.say(line)

    def say(self, line: str) -> None:
        if rank() == 0:
            tqdm.write(line, file=sys.stderr)

    def _write(self, step: int, kind: str, values: dict[str, float]) -> None:
        self.run.append(step, kind, values)
        if self.writer:
            for name, value in values.items():
                if not math.isnan(value):
                    self.writer.add_scalar(f"{kind}/{name}", value, step)
