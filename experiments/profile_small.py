"""Where the time of `small` goes: per operation and per stage, in inference and in a training step.

    python -m experiments.profile_small            # from the root of the repository, on a quiet machine; a minute
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from experiments.bench_speed import HERE, training_cases
from stereo import StereoPredictor, build_model
from stereo.engine.machine import cpu_name
from stereo.engine.memory import keep_freed_memory
from stereo.image_io import atomic_write
from stereo.version import __version__

STAGES = ("backbone", "transformer", "matching", "refine", "sharpen")
SHOWN = 20  # operations of a table


def seconds_of_operations(run: Callable[[], Any], repeats: int) -> dict[str, float]:
    """Mean seconds per call of ``run`` inside each operation, without those that it calls; the longest first."""
    run()
    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        for _ in range(repeats):
            run()
    rows = sorted(recorded.key_averages(), key=lambda row: -row.self_cpu_time_total)
    return {row.key: row.self_cpu_time_total / 1e6 / repeats for row in rows[:SHOWN]}


def seconds_of_stages(model: nn.Module, run: Callable[[], Any], repeats: int) -> dict[str, float]:
    total: Counter[str] = Counter()

    def begin(name: str) -> Callable:
        return lambda *_: total.update({name: -time.perf_counter()})

    def end(name: str) -> Callable:
        return lambda *_: total.update({name: time.perf_counter()})

    for name in STAGES:
        getattr(model, name).register_forward_pre_hook(begin(name))
        getattr(model, name).register_forward_hook(end(name))
    start = time.perf_counter()
    for _ in range(repeats):
        run()
    total["all"] = time.perf_counter() - start
    return {name: seconds / repeats for name, seconds in total.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="the mean of these (default %(default)s)")
    parser.add_argument("-o", "--output", type=Path, default=HERE / "results" / "profile.json", help="JSON")
    args = parser.parse_args()
    keep_freed_memory()
    rng = np.random.default_rng(0)
    left, right = (rng.integers(0, 256, (540, 960, 3), dtype=np.uint8) for _ in range(2))
    model = build_model("small")
    predictor = StereoPredictor(model)

    def infer() -> None:
        predictor.predict(left, right)

    result = {
        "version": __version__,
        "machine": {"cpu": cpu_name(), "torch": torch.__version__, "threads": torch.get_num_threads()},
        "inference": {
            "pair": "540x960",
            "precision": predictor.precision,
            "operations": seconds_of_operations(infer, args.repeats),
            "stages": seconds_of_stages(model, infer, args.repeats),
        },
        "training": {"crops": "4 of 96x640", "operations": seconds_of_operations(training_cases()[0].run, args.repeats)},
    }
    for part in ("inference", "training"):
        print(part)
        for name, seconds in result[part]["operations"].items():
            print(f"  {seconds * 1e3:8.1f} ms  {name}")
    with atomic_write(args.output) as temporary:
        temporary.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
