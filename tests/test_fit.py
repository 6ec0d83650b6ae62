"""The training loop on random batches of 32 x 64 px: resuming, failing, validating, and the learning rate."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from training_case import RECIPE, H, W, batches, make_batch, train, with_train

from stereo.checkpoint import load_model, load_state
from stereo.config import LossConfig
from stereo.engine.fit import Batches, fit
from stereo.engine.guard import NonFiniteLossError
from stereo.engine.learner import visible_error
from stereo.engine.schedule import warmup_cosine
from stereo.model.build import build_model
from stereo.model.stereo_model import StereoModel
from stereo.types import Batch, InputError, Prediction


def differing(first: StereoModel, second: StereoModel) -> list[str]:
    other = second.state_dict()
    return [name for name, value in first.state_dict().items() if not torch.equal(value, other[name])]


def stopping_after(count: int) -> Batches:
    """The user presses Ctrl-C when ``count`` batches were consumed."""

    def source(first: int, last: int, stride: int) -> Iterator[Batch]:
        yield from batches(first, count, stride)
        raise KeyboardInterrupt

    return source


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> tuple[StereoModel, Path]:
    """Six steps without a break."""
    run_dir = tmp_path_factory.mktemp("straight")
    return train(run_dir)[0], run_dir


# ---------------------------------------------------------------------------------------------------------------------
# Training and resuming


def test_training_moves_every_parameter_and_writes_a_checkpoint(straight):
    model, run_dir = straight
    torch.manual_seed(5)
    assert len(differing(model, build_model("tiny"))) == len(list(model.parameters()))
    state = load_state(run_dir / "checkpoint.pt")
    assert state["step"] == 6
    assert state["recipe"]["train"]["seed"] == 11
    assert differing(model, load_model(run_dir / "checkpoint.pt", "cpu")) == []


def test_the_same_run_gives_the_same_bits(straight, tmp_path: Path):
    assert differing(straight[0], train(tmp_path)[0]) == []


def test_the_batches_matter(straight, tmp_path: Path):
    """What the comparisons above and below can see: one other batch out of six changes every tensor."""
    steps = [0, 1, 2, 3, 40, 5]
    model, _ = train(tmp_path, source=lambda first, last, stride: map(make_batch, steps[first:last:stride]))
    assert len(differing(straight[0], model)) == len(list(model.parameters()))


@pytest.mark.parametrize("interrupted_at", [3, 4, 5])
def test_resuming_gives_the_bits_of_a_straight_run(straight, tmp_path: Path, interrupted_at: int):
    """The steps after the last checkpoint, at 3, are lost and done again."""
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, source=stopping_after(interrupted_at))
    assert load_state(tmp_path / "checkpoint.pt")["step"] == 3

    asked = []

    def source(first: int, last: int, stride: int) -> Iterator[Batch]:
        asked.append((first, last, stride))
        return batches(first, last, stride)

    torch.manual_seed(77)  # neither what came before nor the fresh network's weights matter
    model = build_model(RECIPE.model)
    torch.rand(9)
    fit(model, source, RECIPE, tmp_path, resume=True, progress=False)
    assert asked == [(3, 6, 1)]
    assert differing(straight[0], model) == []
    ours, expected = (load_state(folder / "checkpoint.pt") for folder in (tmp_path, straight[1]))
    assert torch.equal(ours["random"][0]["torch"], expected["random"][0]["torch"])
    for key, values in expected["optimizer"]["state"].items():
        assert all(torch.equal(ours["optimizer"]["state"][key][name], value) for name, value in values.items())


def test_resuming_goes_on_with_the_random_numbers(tmp_path: Path):
    """Batches that draw from PyTorch's own random state, as an augmentation might."""

    def source(first: int, last: int, stride: int) -> Iterator[Batch]:
        for step in range(first, last):
            yield replace(make_batch(step), left=torch.rand(2, 3, H, W))

    def interrupted(first: int, last: int, stride: int) -> Iterator[Batch]:
        yield from source(first, 3, stride)
        raise KeyboardInterrupt

    expected, _ = train(tmp_path / "straight", source=source)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "broken", source=interrupted)
    torch.manual_seed(77)
    resumed, _ = train(tmp_path / "broken", source=source, resume=True)
    assert differing(expected, resumed) == []


def test_resuming_a_finished_run_changes_nothing(straight, tmp_path: Path):
    (tmp_path / "checkpoint.pt").write_bytes((straight[1] / "checkpoint.pt").read_bytes())
    model, _ = train(tmp_path, resume=True)
    assert differing(straight[0], model) == []


def test_resuming_with_another_network_is_refused(straight, tmp_path: Path):
    """Even when the tensors would fit: another K, another number of iterations."""
    checkpoint = (straight[1] / "checkpoint.pt").read_bytes()
    for change in ({"topk": 5}, {"sinkhorn_iterations": 9}, {"layers": 1}):
        path = tmp_path / "checkpoint.pt"
        path.write_bytes(checkpoint)
        with pytest.raises(InputError, match=r"\[model\]"):
            train(tmp_path, replace(RECIPE, model=replace(RECIPE.model, **change)), resume=True)
        assert path.read_bytes() == checkpoint


def test_resuming_where_there_is_no_checkpoint_yet_starts(straight, tmp_path: Path):
    """So that one command serves a job that may be killed at any time, its first minute included."""
    assert differing(straight[0], train(tmp_path, resume=True)[0]) == []


@pytest.mark.parametrize(("steps", "every", "expected"), [(4, 3, [3, 4]), (4, 2, [2, 4]), (2, 100, [2])])
def test_checkpoints_come_at_their_steps_and_at_the_end(tmp_path: Path, steps: int, every: int, expected: list[int]):
    seen = []

    def source(first: int, last: int, stride: int) -> Iterator[Batch]:
        for step in range(first, last):
            yield make_batch(step)  # control comes back after the step is done
            path = tmp_path / "checkpoint.pt"
            seen.append(load_state(path)["step"] if path.exists() else 0)

    train(tmp_path, with_train(steps=steps, checkpoint_every=every), source)
    assert sorted({*seen, load_state(tmp_path / "checkpoint.pt")["step"]} - {0}) == expected


# ---------------------------------------------------------------------------------------------------------------------
# Failing


def poisoned(step_to_poison: int, where: str, value: float) -> Batches:
    def source(first: int, last: int, stride: int) -> Iterator[Batch]:
        for step in range(first, last):
            batch = make_batch(step)
            if step == step_to_poison:
                getattr(batch, where)[0].view(-1)[:2000:7] = value
            yield batch

    return source


@pytest.mark.parametrize(("where", "value"), [("left", math.nan), ("right", math.inf), ("disp", math.nan), ("disp", math.inf)])
def test_a_batch_that_is_not_finite_stops_the_run(straight, tmp_path: Path, where: str, value: float):
    with pytest.raises(NonFiniteLossError) as caught:
        train(tmp_path, with_train(skip_limit=1), source=poisoned(4, where, value))
    message = str(caught.value)
    assert message.startswith("step 4:")
    for part in ("scene-8", "scene-9", "total", "gradient norm", "checkpoint is kept"):
        assert part in message
    assert "\n" not in message

    state = load_state(tmp_path / "checkpoint.pt")
    assert state["step"] == 3
    assert all(value.isfinite().all() for value in state["model"].values())
    model, _ = train(tmp_path, resume=True)  # with the data repaired
    assert differing(straight[0], model) == []


def test_a_bad_batch_leaves_the_network_in_memory_alone(tmp_path: Path):
    torch.manual_seed(5)
    model = build_model("tiny")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(NonFiniteLossError):
        fit(model, poisoned(0, "left", math.nan), with_train(skip_limit=1), tmp_path, progress=False)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not (tmp_path / "checkpoint.pt").exists()


# ---------------------------------------------------------------------------------------------------------------------
# Validating and logging


def test_validation_disturbs_nothing_and_its_last_numbers_are_returned(straight, tmp_path: Path):
    calls = []

    def validate(model: StereoModel) -> dict[str, float]:
        torch.rand(len(calls) + 3)  # a validation that draws random numbers
        calls.append((model.training, torch.is_grad_enabled()))
        with_noise = torch.rand(2, 1, 3, H, W)
        return {"epe": float(len(calls)), "mean": float(model(*with_noise).disp.mean())}

    model, numbers = train(tmp_path, with_train(validate_every=2), validate=validate)
    assert calls == [(False, False)] * 3
    assert numbers["epe"] == 3
    assert math.isfinite(numbers["mean"])
    assert model.training
    assert differing(straight[0], model) == []
    assert torch.equal(*(load_state(folder / "checkpoint.pt")["random"][0]["torch"] for folder in (tmp_path, straight[1])))


@pytest.mark.parametrize(("every", "expected"), [(0, [4]), (3, [3, 4]), (2, [2, 4])])
def test_validation_comes_at_its_steps_and_at_the_end(tmp_path: Path, every: int, expected: list[int]):
    done = []

    def source(first: int, last: int, stride: int) -> Iterator[Batch]:
        for step in range(first, last):
            done.append(step + 1)
            yield make_batch(step)

    seen = []
    train(tmp_path, with_train(steps=4, validate_every=every), source, validate=lambda _: seen.append(done[-1]) or {"epe": 1.0})
    assert seen == expected


def test_the_log_holds_every_term_and_the_schedule(straight):
    events = EventAccumulator(str(straight[1])).Reload()
    tags = set(events.Tags()["scalars"])
    terms = ("response", "coarse", "disparity", "occlusion", "confidence", "total")
    assert {f"train/loss/{term}" for term in terms} | {"train/epe_visible_px", "train/gradient_norm"} <= tags
    rates = {event.step: event.value for event in events.Scalars("train/learning_rate")}
    expected = {step: RECIPE.train.learning_rate * warmup_cosine(step, 6, 2) for step in range(6)}
    assert rates == pytest.approx(expected, rel=1e-6)  # stored as float32
    totals = [sum(getattr(LossConfig(), t) * events.Scalars(f"train/loss/{t}")[2].value for t in terms[:-1])]
    assert totals == pytest.approx([events.Scalars("train/loss/total")[2].value], rel=1e-5)
    assert events.Tags()["images"] == ["train/pair"]


def test_bf16_trains_to_finite_weights(tmp_path: Path):
    model, _ = train(tmp_path, with_train(steps=2, precision="bf16"))
    assert all(parameter.dtype == torch.float32 and parameter.isfinite().all() for parameter in model.parameters())


def test_visible_error_by_hand():
    disp = torch.tensor([[[1.0, 2.0, 3.0, 4.0]]])
    valid, occluded = torch.tensor([[[True, True, False, True]]]), torch.tensor([[[False, False, False, True]]])
    images = torch.zeros(2, 1, 3, 1, 4)
    batch = Batch(*images, torch.zeros(1, 1, 4), valid, occluded, occluded)
    prediction = Prediction(disp, disp, disp, disp)
    assert [float(x) for x in visible_error(prediction, batch)] == [2, 3.0]
    assert [float(x) for x in visible_error(prediction, replace(batch, valid=occluded))] == [0, 0]


# ---------------------------------------------------------------------------------------------------------------------
# Learning rate


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (0, 1 / 5),  # warm-up over 4 steps: fifths of the peak, never 0
        (1, 2 / 5),
        (3, 4 / 5),
        (4, 1.0),  # the peak
        (8, 0.01 + 0.99 * (2 + math.sqrt(2)) / 4),  # a quarter of the cosine: cos 45 degrees
        (12, 0.505),  # half way
        (20, 0.01),
        (25, 0.01),  # beyond the end it stays
    ],
)
def test_warmup_and_cosine(step: int, expected: float):
    assert warmup_cosine(step, total=20, warmup=4) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("total", "warmup"), [(10, 0), (1, 0), (5, 5), (3, 10)])
def test_the_rate_is_always_in_range(total: int, warmup: int):
    rates = [warmup_cosine(step, total, warmup) for step in range(total)]
    assert all(0.01 <= rate <= 1 for rate in rates)
    assert rates[: warmup + 1] == sorted(rates[: warmup + 1])
    assert rates[warmup:] == sorted(rates[warmup:], reverse=True)


def test_another_floor():
    assert warmup_cosine(10, 10, 0, floor=0.25) == 0.25
