"""The record of a campaign: stages of a made-up log, counted by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from experiments.campaign import POINTS, stage
from stereo.types import InputError


def write_run(folder: Path, lines: list[dict]) -> Path:
    folder.mkdir()
    train = {"batch_size": 4, "accumulate": 2, "init": "/home/someone/runs/first/checkpoint.pt"}
    (folder / "recipe.json").write_text(json.dumps({"name": "r", "train": train}))
    (folder / "versions.json").write_text(json.dumps({"torch": "2", "command": "train /home/someone/r.toml"}))
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def step(number: int, loss: float, rate: float) -> dict:
    return {"step": number, "kind": "train", "loss/total": loss, "epe_visible_px": loss / 2, "samples_per_s": rate}


def test_a_stage_by_hand(tmp_path: Path):
    """Eight samples a step; killed after step 30 and resumed from 20, so that step 30 is told twice."""
    lines = [step(10, 4.0, 2.0), step(20, 3.0, 4.0), step(30, 99.0, 1.0), {"step": 20, "kind": "resume"}, step(30, 2.0, 8.0)]
    found = stage(write_run(tmp_path / "run", [*lines, {"step": 35, "kind": "validation", "epe_noc": 1.5}]))
    assert (found["run"], found["steps"], found["samples"]) == ("run", 35, 280)  # the last step tells its validation only
    assert found["hours"] == pytest.approx((80 / 2 + 80 / 4 + 80 / 8) / 3600)
    assert [(point["step"], point["loss/total"]) for point in found["curve"]] == [(10, 4.0), (20, 3.0), (30, 2.0)]
    assert found["validation"] == [{"step": 35, "epe_noc": 1.5}]
    assert found["weights"] is None
    assert "/home" not in json.dumps(found)
    assert found["recipe"]["train"]["init"] == "first/checkpoint.pt"


def test_a_long_curve_is_told_in_few_points(tmp_path: Path):
    found = stage(write_run(tmp_path / "run", [step(n, float(n), 1.0) for n in range(1, 101)]))
    assert len(found["curve"]) == POINTS
    assert found["curve"][0]["loss/total"] == 3.0  # of 1 .. 5


def test_what_is_no_run_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match=r"recipe\.json' cannot be read: .*name folders of runs"):
        stage(tmp_path)
