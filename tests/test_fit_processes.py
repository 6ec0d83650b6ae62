"""Training in several processes (gloo): the same learning as in one, the same end when one of them is killed."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch
from training_case import one_process, train, with_train

from stereo.checkpoint import load_state

HERE = Path(__file__).resolve().parent
CLOCKS = ("seconds", "pace", "closing")  # of a state: what no two runs share
EVERYTHING = {"precision": "fp16", "ema": 0.9, "accumulate": 2, "validate_every": 2, "kernel": "reference"}


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[int, dict[str, Any]], list[tuple[int | None, str]]]]:
    """start(processes, task): run one training to the end of its processes; exit code and stderr of each."""
    context = get_context("forkserver")  # imports everything once, and has used no thread when it forks
    context.set_forkserver_preload(["training_case"])

    def start_processes(size: int, task: dict[str, Any]) -> list[tuple[int | None, str]]:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        said = [tmp_path_factory.mktemp("said") / "stderr" for _ in range(size)]
        running = [context.Process(target=one_process, args=(task, i, size, port, said[i])) for i in range(size)]
        for process in running:
            process.start()
        for process in running:
            process.join(timeout=120)
        return [(process.exitcode, path.read_text()) for process, path in zip(running, said, strict=True)]

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(HERE.parent), str(HERE)]))
        yield start_processes


def lines_of(run_dir: Path) -> list[dict[str, Any]]:
    return list(map(json.loads, (run_dir / "log.jsonl").read_text(encoding="utf-8").splitlines()))


def losses(run_dir: Path) -> list[float]:
    return [line["loss/total"] for line in lines_of(run_dir) if line["kind"] == "train"]


def differences(ours: Any, other: Any, where: str = "") -> list[str]:
    """Where two states differ, in any bit of any tensor and any value."""
    if isinstance(ours, dict) and isinstance(other, dict):
        return [
            found
            for key in ours.keys() | other.keys()
            if key not in CLOCKS
            for found in differences(ours.get(key), other.get(key), f"{where}.{key}")
        ]
    if isinstance(ours, list | tuple) and isinstance(other, list | tuple) and len(ours) == len(other):
        return [x for i, pair in enumerate(zip(ours, other, strict=True)) for x in differences(*pair, f"{where}[{i}]")]
    if torch.is_tensor(ours) and torch.is_tensor(other):
        return [] if torch.equal(ours, other) else [where]
    return [] if type(ours) is type(other) and ours == other else [where]


def test_two_processes_learn_what_one_learns_with_twice_the_accumulation(start, tmp_path: Path):
    settings = {"steps": 20, "checkpoint_every": 20, "kernel": "reference"}
    together, alone = tmp_path / "together", tmp_path / "alone"
    assert [code for code, _ in start(2, {"run_dir": str(together), "train": settings})] == [0, 0]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        train(alone, with_train(**settings, accumulate=2))
    finally:
        torch.set_num_threads(threads)
    ours, expected = losses(together), losses(alone)
    assert len(ours) == 20
    assert max(abs(a - b) for a, b in zip(ours, expected, strict=True)) <= 1e-6
    assert len(set(ours)) == 20  # it does learn, from other data in each step
    states = [load_state(folder / "checkpoint.pt") for folder in (together, alone)]
    assert [state["position"] for state in states] == [40, 40]
    for name, value in states[0]["model"].items():
        assert torch.allclose(value, states[1]["model"][name], rtol=0, atol=1e-6), name


def test_a_killed_process_ends_the_run_which_then_goes_on_to_the_same_bits(start, tmp_path: Path):
    """With all that has a state of its own; and the second process meets a bad batch, which both have to skip."""
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    # Batches 4 s .. 4 s + 3 are step s; the second process takes the odd ones. 17 is in step 4, after the checkpoint at 3.
    bad = {"bad": [11]}
    assert [code for code, _ in start(2, {"run_dir": str(straight), "train": EVERYTHING, "trouble": bad})] == [0, 0]
    first, second = start(2, {"run_dir": str(broken), "train": EVERYTHING, "trouble": bad | {"die_at": 17}})
    assert second[0] == -signal.SIGKILL
    assert first[0] == 1
    last = first[1].splitlines()[-1]
    assert last.startswith("stopped: process 0 of 2: another process of the run is gone")
    assert "--resume" in last
    assert load_state(broken / "checkpoint.pt")["step"] == 3
    assert [code for code, _ in start(2, {"run_dir": str(broken), "train": EVERYTHING, "trouble": bad})] == [0, 0]
    ours, expected = (load_state(folder / "checkpoint.pt") for folder in (broken, straight))
    assert expected["ema"]["updates"] > 0
    assert expected["scaler"]["scale"] > 0
    assert len(expected["random"]) == 2
    assert expected["position"] == 6 * 4
    assert differences(ours, expected) == []
    assert losses(broken) == losses(straight)
    skipped = [line for line in lines_of(broken) if line["kind"] == "skip" and line["reason"] == "not finite"]
    assert [(line["step"], line["names"], line["repro"]) for line in skipped] == [
        (2, ["scene-22", "scene-23"], ["repro-0000002-rank1.pt"])
    ]


@pytest.mark.parametrize("kind", ["tensor", "number", "missing", "longer", "type"])
def test_the_comparison_sees_every_kind_of_difference(kind: str):
    def state() -> dict[str, Any]:
        return {"a": [torch.zeros(2), 1], "b": {"c": 1.0}, "seconds": 3.0}

    other = state()
    if kind == "tensor":
        other["a"][0][1] = 1e-30
    else:
        other |= {"number": {"b": {"c": 2.0}}, "missing": {"d": 1}, "longer": {"a": [1]}, "type": {"b": {"c": 1}}}[kind]
    assert differences(state(), other | {"seconds": 4.0}) != []
    assert differences(state(), state() | {"seconds": 4.0}) == []
