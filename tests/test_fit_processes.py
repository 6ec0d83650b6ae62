"""Training in several processes (gloo): the same learning as in one, the same end when one of them is killed."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from training_case import one_process, train, with_train

from stereo.checkpoint import load_state
from stereo.engine.distributed import _fresh

HERE = Path(__file__).resolve().parent
CLOCKS = ("seconds", "pace", "closing")  # of a state: what no two runs share
EVERYTHING = {"precision": "fp16", "ema": 0.9, "accumulate": 2, "validate_every": 2, "kernel": "reference"}


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., list[int | None]]]:
    """start(processes, task, said): run a training to the end of its processes; their exit codes, their stderr to ``said``."""
    context = get_context("forkserver")  # imports everything once, and has used no thread when it forks
    context.set_forkserver_preload(["training_case"])

    def start_processes(size: int, task: dict[str, Any], said: list[str] | None = None) -> list[int | None]:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        paths = [tmp_path_factory.mktemp("said") / "stderr" for _ in range(size)]
        running = [context.Process(target=one_process, args=(task, i, size, port, paths[i])) for i in range(size)]
        for process in running:
            process.start()
        for process in running:
            process.join(timeout=120)
        if said is not None:
            said += [path.read_text() for path in paths]
        return [process.exitcode for process in running]

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
    assert start(2, {"run_dir": str(together), "train": settings}) == [0, 0]
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
    figures = [[line["epe_visible_px"] for line in lines_of(folder) if line["kind"] == "train"] for folder in (together, alone)]
    assert figures[0] == pytest.approx(figures[1], rel=1e-6)  # of the pixels of both processes
    assert len(list(together.glob("events.*"))) == 1  # one writer
    states = [load_state(folder / "checkpoint.pt") for folder in (together, alone)]
    assert [state["position"] for state in states] == [40, 40]
    for name, value in states[0]["model"].items():
        assert torch.allclose(value, states[1]["model"][name], rtol=0, atol=1e-6), name


@pytest.mark.parametrize("size", [1, 2])
def test_a_killed_run_goes_on_to_the_same_bits(start, tmp_path: Path, size: int):
    """With all that has a state of its own: average, loss scale, accumulation, validations, and a bad batch to skip.

    A step takes two batches of each process. The last process of step 2 meets the bad one, that of step 4 is killed, after the
    checkpoint at 3.
    """
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    together = 2 * size
    bad, deadly = 3 * together - 1, 5 * together - 1
    assert start(size, {"run_dir": str(straight), "train": EVERYTHING, "trouble": {"bad": [bad]}}) == [0] * size
    *others, last = start(size, {"run_dir": str(broken), "train": EVERYTHING, "trouble": {"bad": [bad], "die_at": deadly}})
    assert last == -signal.SIGKILL
    assert others == [1] * (size - 1)
    assert load_state(broken / "checkpoint.pt")["step"] == 3
    assert start(size, {"run_dir": str(broken), "train": EVERYTHING, "trouble": {"bad": [bad]}}) == [0] * size
    ours, expected = (load_state(folder / "checkpoint.pt") for folder in (broken, straight))
    assert expected["ema"]["updates"] > 0
    assert expected["scaler"]["scale"] > 0
    assert len(expected["random"]) == size
    assert expected["position"] == 6 * together
    assert differences(ours, expected) == []
    assert losses(broken) == losses(straight)
    (skipped,) = [line for line in lines_of(broken) if line["kind"] == "skip" and line["reason"] == "not finite"]
    names = [f"scene-{2 * bad}", f"scene-{2 * bad + 1}"]
    assert (skipped["step"], skipped["names"]) == (2, names)
    assert skipped["repro"] == ["repro-0000002.pt" if size == 1 else "repro-0000002-rank1.pt"]


def test_a_run_goes_on_with_another_number_of_processes(start, tmp_path: Path):
    """Begun by one process with two batches per step, ended by two with one: each batch is learned from once."""
    settings = {"kernel": "reference"}
    alone = {"run_dir": str(tmp_path / "straight"), "train": settings | {"accumulate": 2}}
    assert start(1, alone) == [0]
    broken = {"run_dir": str(tmp_path / "broken"), "train": settings | {"accumulate": 2}, "trouble": {"die_at": 8}}
    assert start(1, broken) == [-signal.SIGKILL]
    assert start(2, {"run_dir": str(tmp_path / "broken"), "train": settings}) == [0, 0]
    assert losses(tmp_path / "broken") == pytest.approx(losses(tmp_path / "straight"), abs=1e-6)
    assert load_state(tmp_path / "broken" / "checkpoint.pt")["position"] == 12


def test_those_who_lose_a_process_say_so_and_end(start, tmp_path: Path):
    said: list[str] = []
    assert start(2, {"run_dir": str(tmp_path), "train": {}, "trouble": {"die_at": 3}}, said) == [1, -signal.SIGKILL]
    line = said[0].splitlines()[-1]
    assert line.startswith("stopped: process 0 of 2: another process of the run is gone (")
    assert "--resume" in line


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


def test_processes_started_again_meet_in_a_fresh_part_of_the_store():
    """The store still holds what an earlier attempt has written: its part's name, and an address that nobody listens at."""
    store = dist.HashStore()
    store.set("part", "stale")
    store.set("stale/address", "of the dead")
    with ThreadPoolExecutor(3) as pool:
        others = [pool.submit(_fresh, store, number, 3) for number in (1, 2)]
        time.sleep(0.1)  # both have read the stale name by now
        assert not any(other.done() for other in others)
        parts = [_fresh(store, 0, 3), *(other.result(timeout=30) for other in others)]
    parts[0].set("address", "of the living")
    assert [part.get("address") for part in parts] == [b"of the living"] * 3


def process_of_rank(agent: int, rank: int) -> int:
    """The process that torchrun, ``agent``, has started for this rank; 0 while there is none."""
    with contextlib.suppress(OSError):  # a process that ended meanwhile
        for child in Path(f"/proc/{agent}/task/{agent}/children").read_text().split():
            if f"\0RANK={rank}\0" in Path(f"/proc/{child}/environ").read_text():
                return int(child)
    return 0


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="processes are found through /proc")
def test_torchrun_starts_a_run_again_that_lost_a_process(tmp_path: Path):
    """The program itself, two processes, one of them killed: torchrun restarts both, and the end is that of one process."""
    crumb = ["data.crops=[[32,64]]", "data.workers=1", "train.batch_size=1", "train.validation_scenes=1", "train.threads=1"]
    crumb += ["train.steps=40", "train.checkpoint_every=5", "train.log_every=1", "train.kernel=matmul"]
    train_verb = ["train", str(HERE.parent / "experiments" / "smoke.toml"), "--device", "cpu"]
    train_verb += [text for setting in crumb for text in ("--set", setting)]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--max-restarts", "1"]
    command += [str(HERE.parent / "run_stereo.py"), *train_verb, "-o", str(tmp_path / "together")]
    with (tmp_path / "said").open("w") as said:
        agent = subprocess.Popen(command, stdout=said, stderr=said, env=os.environ | {"OMP_NUM_THREADS": "1"})
        checkpoint = tmp_path / "together" / "checkpoint.pt"
        while not checkpoint.exists() and agent.poll() is None:
            time.sleep(0.02)
        victim = process_of_rank(agent.pid, 1)
        assert victim, (tmp_path / "said").read_text()
        os.kill(victim, signal.SIGKILL)
        assert agent.wait(timeout=600) == 0, (tmp_path / "said").read_text()
    assert "going on from step" in (tmp_path / "said").read_text()
    assert [line["kind"] for line in lines_of(tmp_path / "together")].count("resume") == 1
    alone = [sys.executable, str(HERE.parent / "run_stereo.py"), *train_verb, "-o", str(tmp_path / "alone")]
    subprocess.run([*alone, "--set", "train.accumulate=2"], check=True, capture_output=True, timeout=600)
    ours, expected = losses(tmp_path / "together"), losses(tmp_path / "alone")
    assert len(ours) == len(expected) == 40
    assert max(abs(a - b) for a, b in zip(ours, expected, strict=True)) <= 1e-6
