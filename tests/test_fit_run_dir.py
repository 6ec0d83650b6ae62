"""The folder of a run: its log, what is kept, what is best, what a full disk or a kill leaves, and what may be resumed."""

from __future__ import annotations

import json
import os
import resource
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_sttr import NARROW, network, random_batch
from training_case import RECIPE, batches, make_batch, train, with_train

from stereo.checkpoint import load_model, load_state, save_state, save_weights
from stereo.config import Recipe, from_dict
from stereo.engine.fit import fit
from stereo.engine.learner import Learner
from stereo.engine.panels import training_panel
from stereo.engine.run_dir import RunDir
from stereo.engine.schedule import rate_factor
from stereo.image_io import read_image
from stereo.model.build import build_model
from stereo.types import Batch, InputError, Prediction


def stopping_after(count: int):
    def source(first: int, last: int, stride: int) -> Iterator[Batch]:
        yield from batches(first, count, stride)
        raise KeyboardInterrupt

    return source


def lines_of(run_dir: Path) -> list[dict[str, Any]]:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    text = (run_dir / "log.jsonl").read_text(encoding="utf-8")
    assert text.endswith("\n")
    return [json.loads(line, parse_constant=refuse) for line in text.splitlines()]


def scripted(*scores: float):
    """A validation that returns these scores, one after the other."""
    left = list(scores)
    return lambda model: {"epe_noc": left.pop(0), "other": 1.0}


# ---------------------------------------------------------------------------------------------------------------------
# What is written


def test_the_log_is_json_with_every_figure(tmp_path: Path):
    def without_pixels(first: int, last: int, stride: int) -> Iterator[Batch]:
        for number in range(first, last, stride):
            batch = make_batch(number)
            yield replace(batch, valid=batch.valid & (number > 0))

    train(tmp_path, with_train(steps=3, validate_every=2), without_pixels, validate=scripted(3.0, 2.0))
    lines = lines_of(tmp_path)
    assert [(line["kind"], line["step"]) for line in lines] == [
        ("train", 0), ("train", 1), ("validation", 2), ("train", 2), ("validation", 3)
    ]  # fmt: skip
    terms = {f"loss/{term}" for term in ("response", "coarse", "disparity", "occlusion", "confidence", "total")}
    figures = {"epe_visible_px", "gradient_norm", "learning_rate", "data_wait_s", "samples_per_s", "eta_s"}
    assert lines[0].keys() == {"step", "kind"} | terms | figures
    assert lines[0]["epe_visible_px"] is None
    assert lines[1]["epe_visible_px"] > 0
    assert lines[1]["samples_per_s"] > 0
    assert [line["learning_rate"] for line in lines if line["kind"] == "train"] == [
        RECIPE.train.learning_rate * rate_factor(with_train(steps=3).train, step) for step in range(3)
    ]
    assert lines[2] == {"step": 2, "kind": "validation", "epe_noc": 3.0, "other": 1.0}


def test_a_resumed_log_holds_each_step_once(tmp_path: Path):
    """Steps 3 and 4 came after the checkpoint and come again; a line that the kill cut off goes."""
    recipe = with_train(validate_every=1)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, recipe, stopping_after(5), validate=scripted(*range(9)))
    (tmp_path / "versions.json").write_text("with what it began")
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 5, "kind": "tr')
    train(tmp_path, recipe, resume=True, validate=scripted(*range(9)))
    lines = lines_of(tmp_path)
    assert [line["step"] for line in lines if line["kind"] == "train"] == [0, 1, 2, 3, 4, 5]
    assert [line["step"] for line in lines if line["kind"] == "validation"] == [1, 2, 3, 4, 5, 6]
    (resumed,) = [line for line in lines if line["kind"] == "resume"]
    assert resumed["step"] == 3
    assert lines.index(resumed) == 6
    assert resumed["torch"] == torch.__version__
    assert (tmp_path / "versions.json").read_text() == "with what it began"


def test_recipe_versions_and_panels(tmp_path: Path):
    recipe = with_train(image_every=4, ema=0.5)
    train(tmp_path, recipe)
    assert from_dict(Recipe, json.loads((tmp_path / "recipe.json").read_text())) == recipe
    facts = json.loads((tmp_path / "versions.json").read_text())
    assert facts.keys() == {"stereo", "python", "torch", "numpy", "cpu", "gpu", "processes", "command"}
    assert sorted(path.name for path in (tmp_path / "panels").iterdir()) == ["0000000.png", "0000004.png"]
    assert read_image(tmp_path / "panels" / "0000004.png").shape[1] > 3 * 64


def test_equal_colours_of_panels_are_equal_disparities(monkeypatch: pytest.MonkeyPatch):
    """One prediction beside two truths, the second a tenth of the first: its picture stays the same."""
    drawn = []
    monkeypatch.setattr("stereo.engine.panels.panel", lambda pictures, columns: drawn.append(dict(pictures)))
    batch = make_batch(0)
    prediction = Prediction(batch.disp, *(torch.zeros_like(batch.disp) for _ in range(3)))
    for factor in (1, 0.1):
        training_panel(replace(batch, disp=batch.disp * factor), prediction)
    assert np.array_equal(drawn[0]["disparity"], drawn[1]["disparity"])
    assert not np.array_equal(drawn[0]["ground truth"], drawn[1]["ground truth"])
    assert not np.array_equal(drawn[0]["error"], drawn[1]["error"])
    seen = batch.valid[0].numpy()
    assert np.array_equal(drawn[0]["disparity"][:32][seen], drawn[0]["ground truth"][:32][seen])


# ---------------------------------------------------------------------------------------------------------------------
# What is kept, and what is best


@pytest.mark.parametrize(("keep", "expected"), [(0, []), (1, [4, 6]), (2, [2, 4, 6]), (9, [2, 4, 6])])
def test_the_last_checkpoints_are_kept(tmp_path: Path, keep: int, expected: list[int]):
    train(tmp_path, with_train(checkpoint_every=2, keep=keep))
    kept = sorted(tmp_path.glob("checkpoint-*.pt"))
    assert [path.name for path in kept] == [f"checkpoint-{step:07d}.pt" for step in expected]
    assert [load_state(path)["step"] for path in kept] == expected
    assert load_state(tmp_path / "checkpoint.pt")["step"] == 6


def weights_at(step: int) -> dict[str, torch.Tensor]:
    """Of the straight run after so many steps."""
    torch.manual_seed(5)
    model = build_model(RECIPE.model)
    learner = Learner(model, RECIPE, torch.device("cpu"))
    for number in range(step):
        learner.step([make_batch(number)], rate_factor(RECIPE.train, number))
    return model.state_dict()


def same_weights(ours: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> bool:
    return ours.keys() == expected.keys() and all(torch.equal(value, expected[name]) for name, value in ours.items())


@pytest.mark.parametrize(("ship", "step", "epe"), [("best", 4, 2.0), ("last", 6, 4.0)])
def test_the_best_validated_weights(tmp_path: Path, ship: str, step: int, epe: float):
    recipe = with_train(validate_every=2, ship=ship)
    model, numbers = train(tmp_path, recipe, validate=scripted(3.0, 2.0, 4.0))
    assert load_state(tmp_path / "best.pt")["step"] == 4
    assert same_weights(load_model(tmp_path / "best.pt", "cpu").state_dict(), weights_at(4))
    assert numbers["epe_noc"] == epe
    assert same_weights(model.state_dict(), weights_at(step))


def test_a_score_that_is_no_number_is_never_the_best(tmp_path: Path):
    train(tmp_path, with_train(validate_every=2), validate=scripted(float("nan"), 5.0, float("nan")))
    assert load_state(tmp_path / "best.pt")["best"] == 5.0
    assert [line["epe_noc"] for line in lines_of(tmp_path) if line["kind"] == "validation"] == [None, 5.0, None]


def test_a_run_without_progress_ends(tmp_path: Path):
    """Scores 5 4 4 6: two without a better one. A resumed run is at its end, too."""
    recipe = with_train(steps=20, validate_every=2, patience=2, checkpoint_every=3)
    _, numbers = train(tmp_path, recipe, validate=scripted(5, 4, 4, 6, 1))
    state = load_state(tmp_path / "checkpoint.pt")
    assert (state["step"], state["best"], state["best_step"], state["stale"]) == (8, 4, 4, 2)
    assert numbers["epe_noc"] == 6
    _, numbers = train(tmp_path, recipe, resume=True, validate=scripted())
    assert numbers["epe_noc"] == 6
    assert load_state(tmp_path / "checkpoint.pt")["step"] == 8


def test_patience_goes_on_where_it_was(tmp_path: Path):
    recipe = with_train(steps=20, validate_every=2, patience=2, checkpoint_every=2)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, recipe, stopping_after(7), validate=scripted(5, 4, 4.5))
    train(tmp_path, recipe, resume=True, validate=scripted(6, 1))
    assert load_state(tmp_path / "checkpoint.pt")["step"] == 8


def test_the_average_is_what_is_validated_and_shipped(tmp_path: Path):
    seen = []

    def validate(model) -> dict[str, float]:
        seen.append({name: value.clone() for name, value in model.state_dict().items()})
        return {"epe_noc": 1.0}

    model, _ = train(tmp_path, with_train(ema=0.9), validate=validate)
    state = load_state(tmp_path / "checkpoint.pt")
    assert same_weights(state["model"], weights_at(6))  # what goes on learning is not the average
    assert not same_weights(state["ema"]["weights"], state["model"])
    for shipped in (seen[-1], model.state_dict(), load_model(tmp_path / "checkpoint.pt", "cpu").state_dict()):
        assert same_weights(shipped, state["ema"]["weights"])


# ---------------------------------------------------------------------------------------------------------------------
# What can go wrong with files


def test_a_checkpoint_is_on_disk_before_its_name_and_then_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    done = []
    fsync, rename = os.fsync, os.replace

    def synced(descriptor: int) -> None:
        done.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", lambda *paths: done.append("rename") or rename(*paths))
    save_state(tmp_path / "checkpoint.pt", {"recipe": {}, "model": {}, "step": 1})
    assert done == ["file", "rename", "folder"]


def test_a_full_disk_is_one_line_and_the_last_checkpoint_stays(tmp_path: Path):
    """No file may grow beyond 200 kB once step 4 begins; a checkpoint has 2 MB."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def source(first: int, last: int, stride: int) -> Iterator[Batch]:
        for number in range(first, last, stride):
            if number == 4:
                resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, before[1]))
            yield make_batch(number)

    try:
        with pytest.raises(InputError, match=r"checkpoint\.pt': File too large; the last checkpoint is kept: make room"):
            train(tmp_path, source=source)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert load_state(tmp_path / "checkpoint.pt")["step"] == 3
    assert not list(tmp_path.glob(".*"))
    model, _ = train(tmp_path, resume=True)
    assert same_weights(model.state_dict(), weights_at(6))


@pytest.mark.parametrize("what", ["append", "save_panel"])
def test_whatever_finds_the_disk_full_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str):
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(RunDir, what, full)
    with pytest.raises(InputError, match=r"No space left on device; the last checkpoint is kept: make room, then --resume"):
        train(tmp_path)


def test_other_errors_of_the_system_are_not_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def missing(*_: Any) -> None:
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr(RunDir, "append", missing)
    with pytest.raises(FileNotFoundError):
        train(tmp_path)


def test_what_a_kill_left_half_written_goes(tmp_path: Path):
    leftovers, own = [tmp_path / ".0123456789ab.pt", tmp_path / "panels" / ".0123456789ab.png"], tmp_path / ".notes.txt"
    (tmp_path / "panels").mkdir()
    for path in (*leftovers, own, tmp_path / "best.pt"):
        path.write_bytes(b"x")
    train(tmp_path)
    assert not any(path.exists() for path in leftovers)
    assert not (tmp_path / "best.pt").exists()  # of an attempt that was killed before its first checkpoint
    assert own.exists()


def as_of_version_0_2(state: dict[str, Any]) -> dict[str, Any]:
    """What version 0.2 wrote: nothing but these, PyTorch's random state alone, and groups without a factor of the rate."""
    groups = [{k: v for k, v in group.items() if k != "rate"} for group in state["optimizer"]["param_groups"]]
    old = {"state": state["optimizer"]["state"], "param_groups": groups}
    known = ("steps", "batch_size", "learning_rate", "warmup_steps", "seed")
    recipe = state["recipe"] | {"train": {key: state["recipe"]["train"][key] for key in known}}
    return {"recipe": recipe, "model": state["model"], "optimizer": old, "step": 3, "seconds": 7.5,
            "random": state["random"][0]["torch"]}  # fmt: skip


def test_a_run_of_version_0_2_goes_on_to_the_same_bits(tmp_path: Path):
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, source=stopping_after(4))
    path = tmp_path / "checkpoint.pt"
    save_state(path, as_of_version_0_2(load_state(path)))
    model, _ = train(tmp_path, resume=True)
    assert same_weights(model.state_dict(), weights_at(6))
    assert load_state(path)["seconds"] > 7.5


def test_a_checkpoint_of_a_later_version_is_refused(tmp_path: Path):
    train(tmp_path)
    path = tmp_path / "checkpoint.pt"
    save_state(path, load_state(path) | {"format": 99})
    with pytest.raises(InputError, match="newer version"):
        train(tmp_path, resume=True)


# ---------------------------------------------------------------------------------------------------------------------
# Weights to start from


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("trained")
    model, _ = train(run_dir, with_train(steps=2, ema=0.9))
    save_weights(model, run_dir, "tiny")
    return run_dir


@pytest.mark.parametrize("pattern", ["checkpoint.pt", "*.safetensors"])
def test_training_starts_from_given_weights(trained: Path, tmp_path: Path, pattern: str):
    (file,) = trained.glob(pattern)
    recipe = with_train(steps=1, init=str(file), learning_rate=1e-30, weight_decay=0.0)
    for ema in (0.0, 0.9):  # an average begins there, too
        model, _ = train(tmp_path / str(ema), replace(recipe, train=replace(recipe.train, ema=ema)))
        expected = load_state(trained / "checkpoint.pt")["ema"]["weights"]
        assert all(torch.allclose(value, expected[name], rtol=1e-6) for name, value in model.state_dict().items())


def test_a_resumed_run_does_not_start_over(trained: Path, tmp_path: Path):
    recipe = with_train(init=str(trained / "checkpoint.pt"))
    expected, _ = train(tmp_path / "straight", recipe)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "broken", recipe, stopping_after(4))
    model, _ = train(tmp_path / "broken", recipe, resume=True)
    assert same_weights(model.state_dict(), expected.state_dict())


def test_weights_that_do_not_fit_are_named(trained: Path, tmp_path: Path):
    start = with_train(init=str(trained / "checkpoint.pt"))
    deeper = replace(start, model=replace(RECIPE.model, layers=3))
    with pytest.raises(InputError, match=r"do not fit the \[model\].*'transformer\.layers\.2\.\S+' absent.*layers 2 \(now 3\)"):
        train(tmp_path / "a", deeper)
    with pytest.raises(InputError, match=r"settings that differ: .*heads 2 \(now 4\)|channels 32 \(now 64\)"):
        train(tmp_path / "a", replace(start, model=replace(RECIPE.model, channels=64, heads=4)))
    with pytest.raises(InputError, match="do not exist"):
        train(tmp_path / "a", with_train(init="nowhere.safetensors"))
    with pytest.raises(InputError, match=r"'convert published\.pth\.tar'"):
        train(tmp_path / "a", with_train(init="published.pth.tar"))
    assert not (tmp_path / "a").exists()


def test_a_trained_network_grows_a_part(trained: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """The second look at half resolution, from one that had none, as docs/training.md has it."""
    parts = ("sharpen.", "refine.mask.", "refine.doubt.")
    unchanged = {"steps": 1, "learning_rate": 1e-30, "weight_decay": 0.0}
    train(tmp_path / "without", replace(with_train(steps=1), model=replace(RECIPE.model, sharpen_channels=0)))
    given = tmp_path / "without" / "checkpoint.pt"
    model, _ = train(tmp_path / "grown", with_train(init=str(given), fresh=parts, **unchanged))
    torch.manual_seed(5)  # as ``train`` does
    born, before = build_model(model.config).state_dict(), load_state(given)["model"]
    for name, value in model.state_dict().items():
        expected = born if name.startswith(parts) else before
        torch.testing.assert_close(value, expected[name], rtol=1e-6, atol=1e-20)
    assert f"of {len(born)} tensors start anew: sharpen., refine.mask., refine.doubt." in caplog.text
    with pytest.raises(InputError, match=r"no tensor begins with 'sharpening'; the model's parts are .*sharpen"):
        train(tmp_path / "a", with_train(init=str(trained / "checkpoint.pt"), fresh=("sharpening",)))
    with pytest.raises(InputError, match=r"train\.fresh: got \('',\)"):
        with_train(init="x.pt", fresh=("",))
    with pytest.raises(InputError, match=r"train\.fresh: .* where train\.init is not given"):
        with_train(fresh=parts)


def test_training_goes_on_from_a_converted_sttr(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """Published weights carry ``faithful``; a recipe without it takes them and says so."""
    published = network(faithful=True)
    file = save_weights(published, tmp_path, "sttr")
    recipe = Recipe(model=NARROW, train=replace(RECIPE.train, steps=1, init=str(file), learning_rate=1e-30, weight_decay=0.0))
    torch.manual_seed(5)
    model = build_model(NARROW)
    fit(model, lambda *_: iter([random_batch(123, 141)]), recipe, tmp_path / "run", progress=False)
    assert all(torch.allclose(value, published.state_dict()[name], atol=1e-20) for name, value in model.state_dict().items())
    assert "faithful True (now False)" in caplog.text


def test_settings_that_change_no_tensor_are_told(trained: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    start = with_train(init=str(trained / "checkpoint.pt"), steps=1)
    train(tmp_path / "same", start)
    assert not caplog.records
    train(tmp_path / "other", replace(start, model=replace(RECIPE.model, topk=5)))
    assert "topk 6 (now 5)" in caplog.text


# ---------------------------------------------------------------------------------------------------------------------
# A time budget


class FakeClock:
    """Time passes when the test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


def test_a_time_budget_ends_the_run_and_its_schedule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """10 s for steps of 1 s, broken off after 6, of which 4 were saved: the seconds of those count."""
    clock = FakeClock()
    monkeypatch.setattr("stereo.engine.course.time", clock)

    def slow(first: int, last: int, stride: int) -> Iterator[Batch]:
        for number in range(first, last, stride):
            clock.now += 1
            yield make_batch(number)

    recipe = with_train(steps=1000, warmup_steps=1, checkpoint_every=4)

    def interrupted(first: int, last: int, stride: int) -> Iterator[Batch]:
        yield from slow(first, 6, stride)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, recipe, interrupted, max_minutes=10 / 60)
    train(tmp_path, recipe, slow, resume=True, max_minutes=10 / 60)
    assert load_state(tmp_path / "checkpoint.pt")["step"] == 10
    assert load_state(tmp_path / "checkpoint.pt")["seconds"] == 10
    rates = [line["learning_rate"] / recipe.train.learning_rate for line in lines_of(tmp_path) if line["kind"] == "train"]
    assert rates == [pytest.approx(rate_factor(recipe.train, step, step / 10)) for step in range(10)]
    assert max(rates) > 0.9
    assert rates[-1] < 0.05
    train(tmp_path, recipe, slow, resume=True, max_minutes=10 / 60)
    assert load_state(tmp_path / "checkpoint.pt")["step"] == 10


def test_a_time_budget_leaves_room_for_the_last_validation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Steps of 1 s and validations of 4 s after every 2 steps, 20 s in all."""
    clock = FakeClock()
    monkeypatch.setattr("stereo.engine.course.time", clock)
    monkeypatch.setattr("stereo.engine.fit.time", clock)

    def slow(first: int, last: int, stride: int) -> Iterator[Batch]:
        for number in range(first, last, stride):
            clock.now += 1
            yield make_batch(number)

    def validate(model) -> dict[str, float]:
        clock.now += 4
        return {"epe_noc": 1.0}

    train(tmp_path, with_train(steps=1000, validate_every=2), slow, validate=validate, max_minutes=20 / 60)
    assert clock.now <= 20
    assert lines_of(tmp_path)[-1]["kind"] == "validation"
    assert clock.now + 5 > 20  # one more step and its validation would not have fitted
