"""Two processes under torchrun against one: the same CSV and card, byte for byte except for the seconds."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from stereo.checkpoint import save_weights
from stereo.model.build import build_model

ROOT = Path(__file__).resolve().parents[1]
# Sums of a network's products depend on how many threads share them; torchrun sets one.
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def run(*argv: str, processes: int = 1) -> subprocess.CompletedProcess:
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] if processes > 1 else []
    command = [sys.executable, *launcher, str(ROOT / "run_stereo.py"), "evaluate", *argv]
    return subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=300, check=False)


def lines_without_seconds(path: Path) -> list[list[str]]:
    with path.open(newline="", encoding="utf-8") as file:
        lines = list(csv.reader(file))
    at = lines[0].index("seconds")
    return [line[:at] + line[at + 1 :] for line in lines]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory) -> dict[int, Path]:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("sharded")
    weights = str(save_weights(build_model("tiny"), folder, "tiny"))
    argv = ["--data", "generated:7:5:32x64", "--weights", weights, "--baseline", "sgbm", "--save-maps", "--json"]
    for processes in (1, 2):
        done = run(*argv, "-o", str(folder / str(processes)), processes=processes)
        assert done.returncode == 0, done.stderr
        assert list(json.loads(done.stdout)) == ["tiny", "sgbm"]  # one object, from one of the processes
    return {processes: folder / str(processes) for processes in (1, 2)}


@pytest.mark.parametrize("method", ["tiny", "sgbm"])
def test_two_processes_are_one(outputs: dict[int, Path], method: str):
    one, two = (lines_without_seconds(outputs[n] / f"{method}.csv") for n in (1, 2))
    assert [line[0] for line in one] == ["name", *(f"generated:7/{i:06d}" for i in range(5))]
    assert one == two
    cards = [json.loads((outputs[n] / f"{method}.card.json").read_text(encoding="utf-8")) for n in (1, 2)]
    for card in cards:
        card["summary"] = {key: value for key, value in card["summary"].items() if not key.startswith("seconds")}
    assert cards[0] == cards[1]


def test_every_process_keeps_the_maps_of_its_images(outputs: dict[int, Path]):
    one, two = ({p.relative_to(outputs[n]): p for p in outputs[n].rglob("*.pfm")} for n in (1, 2))
    assert len(one) == 10 and one.keys() == two.keys()
    assert all(one[path].read_bytes() == two[path].read_bytes() for path in one)


def test_what_one_process_cannot_read_ends_all_of_them(outputs: dict[int, Path], tmp_path: Path):
    maps = outputs[1] / "maps" / "sgbm" / "generated:7"
    for path in maps.glob("*.pfm"):
        (tmp_path / path.name).write_bytes(path.read_bytes() if "000003" not in path.name else b"Pf\n")
    done = run("--data", "generated:7:5:32x64", "--pred", str(tmp_path), processes=2)
    assert done.returncode != 0
    said = [line for line in done.stderr.splitlines() if line.startswith("error: generated:7/000003: ")]
    # Both processes know the failure, but torchrun may end the second before it has told of it. Neither waits for ever:
    # `run` has a limit of time.
    assert said and all("000003.disp.pfm" in line for line in said)
