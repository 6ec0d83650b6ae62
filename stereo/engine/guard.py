"""What happens to a step whose loss or gradient is not finite: it is skipped, told, kept for a closer look, and counted."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

from stereo.config import to_dict
from stereo.engine.course import Course
from stereo.engine.distributed import everyones
from stereo.engine.learner import Learner, Outcome
from stereo.engine.log import Log
from stereo.engine.run_dir import RunDir
from stereo.types import StoppedError


class NonFiniteLossError(StoppedError):
    """The loss or a gradient is NaN or infinite, in several steps in a row. The message names step, terms and samples."""


def guard(outcome: Outcome, learner: Learner, course: Course, run: RunDir, log: Log) -> None:
    """After every step, in all processes. Raises NonFiniteLossError at the train.skip_limit-th bad one in a row."""
    number, scale = course.step - 1, learner.scaler.get_scale()
    if outcome.updated:
        course.in_a_row = 0
        return
    if outcome.overflowed:  # how fp16 finds its scale; nothing is wrong
        line = f"step {number}: skipped, fp16 overflowed; the loss scale is now {scale:g}"
        log.skip({"reason": "overflow", "scale": scale}, line)
        return
    course.in_a_row += 1
    names = [name for own in everyones([name for batch in outcome.suspects for name in batch.names]) for name in own]
    path = run.save_repro(number, _repro(outcome, learner, number)) if outcome.suspects else None
    files = [str(file) for file in everyones(path) if file]
    listed = ", ".join(f"{name} {value:.4g}" for name, value in outcome.terms.items())
    found = f"step {number}: the loss or its gradient is not finite ({listed}, gradient norm {outcome.norm:.4g}) on {names}"
    found += f", kept in {', '.join(files)}" if files else ""
    values = {"reason": "not finite", "names": names, "repro": [Path(file).name for file in files], "in_a_row": course.in_a_row}
    log.skip(values | {"loss/total": outcome.terms["total"], "gradient_norm": outcome.norm}, f"{found}; skipped")
    if course.in_a_row >= learner.recipe.train.skip_limit:
        raise NonFiniteLossError(
            f"{found}; {course.in_a_row} in a row (train.skip_limit), so the run stops and the last checkpoint is kept: "
            "lower train.learning_rate or set train.precision to fp32, then --resume"
        )


def _repro(outcome: Outcome, learner: Learner, step: int) -> dict[str, Any]:
    """All that it takes to see it again: Batch(**batch) for each of "batches", through the network with these weights."""
    tensors = [{f.name: getattr(batch.to("cpu"), f.name) for f in fields(batch)} for batch in outcome.suspects]
    return {
        "step": step,
        "recipe": to_dict(learner.recipe),
        "batches": tensors,
        "model": learner.model.state_dict(),
        "terms": outcome.terms,
        "gradient_norm": outcome.norm,
    }
