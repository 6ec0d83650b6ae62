"""Steps whose loss or gradient is not finite: skipped, named, kept, counted; and data workers that die."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from training_case import RECIPE, batches, make_batch, train, troubled, with_train

from datasets.batches import training_batches
from datasets.workers import IDLE, Numbered, _death, ordered_items
from stereo.checkpoint import load_state
from stereo.config import DataConfig
from stereo.engine.fit import Batches
from stereo.engine.guard import NonFiniteLossError
from stereo.engine.run_dir import REPROS
from stereo.engine.schedule import warmup_cosine
from stereo.losses import stereo_loss
from stereo.model.build import build_model
from stereo.types import Batch, StoppedError


def with_bad(*numbers: int) -> Batches:
    return troubled(bad=numbers)


def log_of(run_dir: Path, kind: str) -> list[dict[str, Any]]:
    lines = map(json.loads, (run_dir / "log.jsonl").read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line["kind"] == kind]


def test_a_bad_step_changes_nothing_and_the_run_goes_on(tmp_path: Path):
    """To the bit what a loop gives that leaves the update of step 4 out."""
    torch.manual_seed(5)
    model = build_model(RECIPE.model).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1.0, weight_decay=RECIPE.train.weight_decay)
    for step, batch in enumerate(batches(0, 6, 1)):
        if step != 4:
            optimizer.param_groups[0]["lr"] = RECIPE.train.learning_rate * warmup_cosine(step, 6, 2)
            optimizer.zero_grad(set_to_none=True)
            stereo_loss(model(batch.left, batch.right), batch, RECIPE.loss)["total"].backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), RECIPE.train.clip_norm)
            optimizer.step()
    ours, _ = train(tmp_path, source=with_bad(4))
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in ours.state_dict().items())
    (told,) = log_of(tmp_path, "skip")
    assert (told["step"], told["names"], told["repro"]) == (4, ["scene-8", "scene-9"], ["repro-0000004.pt"])
    assert load_state(tmp_path / "checkpoint.pt")["step"] == 6


def test_the_repro_batch_shows_it_again(tmp_path: Path):
    train(tmp_path, with_train(accumulate=2), source=with_bad(7))  # the second batch of step 3
    kept = torch.load(tmp_path / "repro-0000003.pt", weights_only=True)
    (batch,) = (Batch(**tensors) for tensors in kept["batches"])
    assert batch.names == ("scene-14", "scene-15")
    assert int(batch.left.isnan().sum()) == 3
    assert torch.equal(batch.disp, make_batch(7).disp)
    model = build_model(RECIPE.model).train()
    model.load_state_dict(kept["model"])
    assert not stereo_loss(model(batch.left, batch.right), batch, RECIPE.loss)["total"].isfinite()
    good = make_batch(7)
    assert stereo_loss(model(good.left, good.right), good, RECIPE.loss)["total"].isfinite()


def test_the_lines_of_the_documentation_show_it_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    text = (Path(__file__).resolve().parents[1] / "docs" / "training.md").read_text(encoding="utf-8")
    found = re.search(r"^  ```python\n(.*?)^  ```", text, re.MULTILINE | re.DOTALL)
    assert found
    train(tmp_path / "runs" / "small", source=with_bad(4))
    (tmp_path / "runs" / "small" / "repro-0000004.pt").rename(tmp_path / "runs" / "small" / "repro-0000042.pt")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(compile(textwrap.dedent(found[1]), "docs/training.md", "exec"), names)
    assert names["prediction"].disp.isnan().any()


def test_only_so_many_in_a_row(tmp_path: Path):
    recipe = with_train(steps=9, skip_limit=3, checkpoint_every=1)
    train(tmp_path / "fine", recipe, source=with_bad(1, 2, 4, 5, 7))
    assert [line["in_a_row"] for line in log_of(tmp_path / "fine", "skip")] == [1, 2, 1, 2, 1]
    with pytest.raises(NonFiniteLossError, match=r"step 5: .*scene-10.*3 in a row \(train\.skip_limit\)"):
        train(tmp_path / "stops", recipe, source=with_bad(1, 3, 4, 5))
    assert load_state(tmp_path / "stops" / "checkpoint.pt")["step"] == 5


def test_those_before_a_break_count(tmp_path: Path):
    """Two bad steps, a checkpoint between them: the resumed run stops where the straight one would."""

    def interrupted(first: int, last: int, stride: int) -> Iterator[Batch]:
        yield from with_bad(2)(0, 3, 1)
        raise KeyboardInterrupt

    recipe = with_train(skip_limit=2)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, recipe, source=interrupted)
    with pytest.raises(NonFiniteLossError, match=r"step 3: .*2 in a row"):
        train(tmp_path, recipe, source=with_bad(2, 3), resume=True)


def test_an_infinite_gradient_of_a_finite_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Nobody can say which of the step's batches it was, so all are named and kept."""

    def exploding(*args: Any) -> dict[str, torch.Tensor]:
        terms = stereo_loss(*args)
        if "scene-8" in args[1].names:
            total = terms["total"]
            total.register_hook(lambda gradient: gradient * math.inf)
            terms["total"] = total
        return terms

    monkeypatch.setattr("stereo.engine.learner.stereo_loss", exploding)
    train(tmp_path, with_train(accumulate=2))
    (told,) = log_of(tmp_path, "skip")
    assert told["names"] == ["scene-8", "scene-9", "scene-10", "scene-11"]
    assert math.isfinite(told["loss/total"])
    assert told["gradient_norm"] is None
    assert len(torch.load(tmp_path / told["repro"][0], weights_only=True)["batches"]) == 2


def test_the_disk_is_not_filled_with_repro_batches(tmp_path: Path):
    train(tmp_path, with_train(steps=REPROS + 2, skip_limit=99), source=with_bad(*range(REPROS + 2)))
    assert len(list(tmp_path.glob("repro-*.pt"))) == REPROS
    assert [bool(line["repro"]) for line in log_of(tmp_path, "skip")] == [True] * REPROS + [False] * 2


# ---------------------------------------------------------------------------------------------------------------------
# Data workers


class Deadly(Numbered):
    """Whoever makes item 5 is killed."""

    def __len__(self) -> int:
        return 20

    def __getitem__(self, item: int) -> int:
        if item == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        return item

    def described(self, item: int) -> str:
        return f"the batch called {item}"


def test_a_data_worker_that_dies_is_named_with_what_it_made():
    """Also when the main thread is busy meanwhile: the line comes with the next item that is asked for."""
    before = signal.getsignal(signal.SIGCHLD)
    items, got = ordered_items(Deadly(), workers=2), []
    assert signal.getsignal(signal.SIGCHLD) == before

    def ask() -> None:
        for item in items:
            got.append(item)
            deadline = time.monotonic() + 0.2
            while time.monotonic() < deadline:  # a step of the training
                math.sqrt(2)

    with pytest.raises(StoppedError, match=r"^data worker 1 \(process \d+\) died while it made the batch called 5; .*--resume"):
        ask()
    assert got == [0, 1, 2, 3, 4][: len(got)]  # what the dead one had made may be lost with it


def test_a_death_is_told_wherever_the_worker_was():
    board = torch.tensor([[70, IDLE], [71, 3]])
    assert _death(70, Deadly(), board) == "data worker 0 (process 70) died between two batches"
    assert _death(71, Deadly(), board) == "data worker 1 (process 71) died while it made the batch called 3"
    assert _death(72, Deadly(), board) == "a data worker (process 72) died as it started"


def test_an_error_inside_a_worker_is_not_taken_for_a_death():
    class Failing(Deadly):
        def __getitem__(self, item: int) -> int:
            raise RuntimeError("DataLoader worker is a phrase in another message")

    with pytest.raises(RuntimeError, match="another message") as caught:
        next(ordered_items(Failing(), workers=1))
    assert not isinstance(caught.value, StoppedError)


@pytest.mark.parametrize("sets", [(), (("generated:5:9:48x96", 1.0),)])
def test_processes_share_the_batches(sets):
    """With a stride each takes its own; together they are what one process would make, in order."""
    config = DataConfig(seed=4, crops=((32, 64), (48, 64)), workers=0, sets=sets)
    alone = list(training_batches(config, 2, 3, 7))
    shares = [list(training_batches(config, 2, 3 + rank, 7, 2)) for rank in range(2)]
    assert [len(share) for share in shares] == [2, 2]
    for batch, (number, rank) in zip(alone, ((i // 2, i % 2) for i in range(4)), strict=True):
        other = shares[rank][number]
        assert batch.names == other.names
        assert torch.equal(batch.left, other.left)
        assert torch.equal(batch.disp, other.disp)


def test_a_generated_batch_is_described_by_its_scenes():
    from datasets.batches import TrainingBatches

    numbered = TrainingBatches(DataConfig(seed=4, workers=0), 3, range(10, 20, 2))
    assert numbered.described(1) == "batch 12 (scenes 36 to 38 of generated:4)"
    assert [name.split("/")[1] for name in numbered[1].names] == ["000036", "000037", "000038"]
