"""Kill a training with SIGKILL at random moments, again and again, and see that it always goes on, to the same end.

    python -m experiments.kill_resume [--kills 50] [-o JSON]

A run of the tiny network writes a checkpoint after every step, so that many kills come while files are written. Each time the
run has been seen to go on, it is killed after a random time; the next process has to load what that left. In the end the run
is left alone until it is over, and weights and curve are compared with those of a run that nobody killed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from stereo.checkpoint import load_state
from stereo.engine.machine import cpu_name
from stereo.engine.run_dir import LEFT_BEHIND
from stereo.image_io import atomic_write
from stereo.version import __version__

HERE = Path(__file__).parent
SETTINGS = {
    "data.crops": "[[32,64]]", "data.workers": 1, "train.batch_size": 1, "train.accumulate": 2, "train.threads": 1,
    "train.ema": 0.99, "train.steps": 400, "train.checkpoint_every": 1, "train.keep": 2, "train.log_every": 1,
    "train.image_every": 20, "train.validate_every": 100, "train.validation_scenes": 1, "train.warmup_steps": 20,
}  # fmt: skip
WINDOW = 4.0  # s, from the sight of a run that goes on to its kill, at most
PATIENCE = 120.0  # s for a process to start


def start(run_dir: Path) -> subprocess.Popen[bytes]:
    options = [text for key, value in SETTINGS.items() for text in ("--set", f"{key}={value}")]
    command = [sys.executable, str(HERE.parent / "run_stereo.py"), "train", str(HERE / "smoke.toml"), "--device", "cpu"]
    command += ["--resume", "-o", str(run_dir), *options]
    with (run_dir.parent / f"{run_dir.name}.stderr").open("ab") as said:
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=said)


def lines_of(run_dir: Path) -> list[dict[str, Any]]:
    """Whole lines of the log; one that is being written, or was cut off, is left out. A broken one before it raises."""
    path = run_dir / "log.jsonl"
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    return [json.loads(line) for line in text.split("\n")[:-1]]


def wait_until_it_goes_on(run_dir: Path, process: subprocess.Popen[bytes], resumes: int) -> None:
    """Until there is a checkpoint and the log has told of ``resumes`` resumes."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if (run_dir / "checkpoint.pt").is_file() and len(resumed_at(run_dir)) >= resumes:
            return
        if process.poll() is not None:
            raise SystemExit(f"the run ended by itself with exit code {process.returncode}; see {run_dir}.stderr")
        time.sleep(0.01)
    raise SystemExit(f"the run did not go on within {PATIENCE:.0f} s; see {run_dir}.stderr")


def kill_again_and_again(run_dir: Path, kills: int, rng: random.Random) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for number in range(kills):
        process = start(run_dir)
        wait_until_it_goes_on(run_dir, process, number)
        delay = rng.uniform(0, WINDOW)
        time.sleep(delay)
        over = process.poll() is not None
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        if over:
            raise SystemExit(f"the run was over before kill {number}; raise train.steps")
        steps = {path.name: load_state(path)["step"] for path in run_dir.glob("[!.]*.pt")}  # each of them has to load
        found.append({
            "seconds": round(delay, 3),
            "checkpoint": steps["checkpoint.pt"],
            "logged": curve(run_dir)[-1][0],
            "half_written": sum(bool(LEFT_BEHIND.fullmatch(path.name)) for path in run_dir.iterdir()),
        })  # fmt: skip
        print(f"kill {number + 1}: {found[-1]}", flush=True)
    return found


def finish(run_dir: Path) -> dict[str, Any]:
    if start(run_dir).wait() != 0:
        raise SystemExit(f"the run failed; see {run_dir}.stderr")
    return load_state(run_dir / "checkpoint.pt")


def resumed_at(run_dir: Path) -> list[int]:
    return [line["step"] for line in lines_of(run_dir) if line["kind"] == "resume"]


def curve(run_dir: Path) -> list[tuple[int, float]]:
    return [(line["step"], line["loss/total"]) for line in lines_of(run_dir) if line["kind"] == "train"]


def same(ours: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return ours.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in ours.items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50, help="how often (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: %(default)s)")
    parser.add_argument("-o", "--output", type=Path, default=HERE / "results" / "kill_resume.json", help="JSON")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        killed, straight = Path(folder) / "killed", Path(folder) / "straight"
        for run_dir in (killed, straight):
            run_dir.mkdir()
        kills = kill_again_and_again(killed, args.kills, random.Random(args.seed))
        ours, expected = finish(killed), finish(straight)
        result = {
            "version": __version__,
            "machine": {"cpu": cpu_name(), "torch": torch.__version__},
            "settings": SETTINGS,
            "kills": len(kills),
            "resumes": len(resumed_at(killed)),
            "resumed_from_the_checkpoint": resumed_at(killed) == [kill["checkpoint"] for kill in kills],
            "corrupt_files": 0,  # each one would have ended this
            "kills_while_a_file_was_written": sum(kill["half_written"] > 0 for kill in kills),
            "every_step_once": [step for step, _ in curve(killed)] == list(range(SETTINGS["train.steps"])),
            "same_curve": curve(killed) == curve(straight),
            "same_weights": same(ours["model"], expected["model"]),
            "same_average": same(ours["ema"]["weights"], expected["ema"]["weights"]),
            "moments": kills,
        }
    with atomic_write(args.output) as temporary:
        temporary.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({key: value for key, value in result.items() if key != "moments"}, indent=1))


if __name__ == "__main__":
    main()
