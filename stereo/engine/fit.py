"""Training: one loop, everything handed in."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from stereo.checkpoint import initialise, load_state, shipped_weights
from stereo.config import Recipe, model_config, to_dict
from stereo.engine.course import Clock, Course
from stereo.engine.distributed import everyones, from_first, rank, world_size
from stereo.engine.guard import guard
from stereo.engine.learner import Learner
from stereo.engine.log import Log
from stereo.engine.randomness import random_state, seed_everything, set_random_state
from stereo.engine.run_dir import RunDir, disk_errors_told
from stereo.model.build import Network
from stereo.types import Batch, InputError

Batches = Callable[[int, int, int], Iterator[Batch]]
Validate = Callable[[Network], dict[str, float]]
FORMAT = 2  # of checkpoints; 1 was that of version 0.2, without a number


def fit(
    model: Network,
    batches: Batches,
    recipe: Recipe,
    run_dir: Path,
    device: torch.device | str = "cpu",
    resume: bool = False,
    validate: Validate | None = None,
    progress: bool = True,
    max_minutes: float = math.inf,
) -> dict[str, float]:
    """Train ``model`` in place and return the validation's numbers of the weights that it holds in the end.

    batches(first, last, stride): the batches with the numbers of range(first, last, stride), pure functions of their numbers.
    A step takes the next accumulate * processes of them, so what is learned from does not depend on who takes which, and a
    resumed run goes on where it stopped.
    validate(model): numbers, the score first (lower is better).
    max_minutes: the schedule ends within that time, resumes included.
    All processes (stereo.engine.distributed) call this alike; the first one writes ``run_dir`` (stereo.engine.run_dir).
    ``resume`` goes on from the checkpoint there, or starts where there is none.

    Raises NonFiniteLossError and StoppedError, leaving the last good checkpoint in place, and InputError for a resume that
    cannot be and for what cannot be written.
    """
    train = recipe.train
    run = RunDir(Path(run_dir))
    seed_everything(train.seed + rank())
    going_on = resume and from_first(run.checkpoint.is_file)
    if train.init and not going_on:
        initialise(model, train.init, train.fresh)
    learner = Learner(model, recipe, torch.device(device))
    course = _restore(run, learner) if going_on else Course()
    clock = Clock(course, train, 60 * max_minutes)

    with disk_errors_told(run.path):
        run.open(recipe, course.step)
        with Log(run, train, course, clock, progress) as log:
            if going_on:
                log.resumed()
            elif resume:
                log.say(f"no checkpoint in '{run.path}' yet: starting")
            together = train.accumulate * world_size()  # batches per step
            last = course.position + (train.steps - course.step) * together
            source = iter(()) if clock.over() else batches(course.position + rank(), last, world_size())
            for own in log.watched(_grouped(source, train.accumulate)):
                outcome = learner.step(own, clock.rate_factor())
                course.step, course.position = course.step + 1, course.position + together
                clock.tick()
                guard(outcome, learner, course, run, log)
                log.step(outcome)
                if validate and (clock.over() or _due(course.step, train.validate_every)):
                    _validate(validate, learner, course, run, log)
                over = clock.over()
                if over or _due(course.step, train.checkpoint_every):
                    run.save(_state(learner, course), train.keep)
                if over:
                    break
            if not clock.over():
                given = f"the data ended after {course.step} of {train.steps} steps"
                raise InputError(f"{given}; lower train.steps or give more data")
            if validate and not course.numbers:
                _validate(validate, learner, course, run, log)
        return _finish(learner, course, run)


def _grouped(source: Iterator[Batch], count: int) -> Iterator[list[Batch]]:
    """``count`` batches at a time; an incomplete group at the end is left out."""
    while len(group := list(itertools.islice(source, count))) == count:
        yield group


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def _validate(validate: Validate, learner: Learner, course: Course, run: RunDir, log: Log) -> None:
    """Score what would be shipped, in evaluation mode and in the first process, without touching any random state."""

    def score() -> tuple[dict[str, float], float]:
        began, state = time.perf_counter(), random_state()
        with learner.shown(), torch.no_grad():
            learner.model.eval()
            numbers = validate(learner.model)
            learner.model.train()
        set_random_state(state)
        return numbers, time.perf_counter() - began

    numbers, course.closing = from_first(score)
    best = course.judge(numbers)
    if best and learner.recipe.train.validate_every:
        run.save_best(_state(learner, course))
    log.validation(numbers, best)


def _finish(learner: Learner, course: Course, run: RunDir) -> dict[str, float]:
    """Leave in the network what is shipped; the numbers of its validation."""
    if learner.recipe.train.ship == "best" and from_first(run.best.is_file):
        state = from_first(lambda: load_state(run.best))
        learner.model.load_state_dict(shipped_weights(state))
        return state["numbers"]
    if learner.average:
        learner.model.load_state_dict(learner.average.weights)
    return course.numbers


def _state(learner: Learner, course: Course) -> dict[str, Any]:
    """A checkpoint. "random" has an entry for each process."""
    made_by = {"format": FORMAT, "recipe": to_dict(learner.recipe), "random": everyones(random_state())}
    return made_by | learner.state() | course.state()


def _restore(run: RunDir, learner: Learner) -> Course:
    """Go on from the run's checkpoint. Raises InputError when it is none, of another network, or of a newer version."""
    state, where = from_first(run.load), f"checkpoint '{run.checkpoint}'"
    if state.get("format", 1) > FORMAT:
        raise InputError(f"{where} was written by a newer version of this program; update, or start a new run folder")
    if model_config(state["recipe"]["model"], where) != learner.recipe.model:
        raise InputError(f"{where} was trained with another [model] section; start a new run folder")
    learner.load(state, where)
    states = state["random"]
    if torch.is_tensor(states):  # of version 0.2, which remembered PyTorch's alone
        torch.set_rng_state(states)
    elif len(states) == world_size():  # other numbers of processes draw other numbers
        set_random_state(states[rank()])
    return Course.of(state)
