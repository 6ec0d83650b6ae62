"""How fast, against what people use otherwise: attention against PyTorch's own, `small` against SGBM and STTR, in one run.

    python -m experiments.bench_speed            # from the root of the repository, on a quiet machine; half an hour

Cases of one group take turns, repeat by repeat, so that what disturbs the machine disturbs all of them; every single time is
written, with the median and its ratio to the group's first case. Inputs are random: no time here depends on what they hold.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stereo import StereoPredictor, build_model
from stereo.attention import build_attention
from stereo.attention.position import RelativeTerms, relative_sine
from stereo.config import PRESETS, load_recipe
from stereo.engine.learner import Learner
from stereo.engine.machine import cpu_name
from stereo.engine.memory import keep_freed_memory
from stereo.image_io import atomic_write
from stereo.inference.sgbm import SgbmPredictor
from stereo.types import Batch
from stereo.version import __version__

HERE = Path(__file__).parent
VIEWS, HEADS, DEPTH = 2, 8, 16  # of attention alone, on tokens of stride 3
STRIDE = 3


@dataclass(frozen=True)
class Case:
    """One thing to time. repeats: at most so many, for what takes a minute each."""

    name: str
    run: Callable[[], Any]
    repeats: int = 99


def attention_cases(height: int, width: int, relative: bool) -> list[Case]:
    """q, k, v -> message for both views of a pair, left looking to the left and right to the right where the operator can."""
    h, w = height // STRIDE, width // STRIDE
    g = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(VIEWS, h, w, HEADS, DEPTH, generator=g) for _ in range(3))
    side = torch.tensor([1, -1])
    tree = build_attention("quadtree_b", levels=4, topk=8, pool="mean_max")
    heads_first = [x.permute(0, 1, 3, 2, 4).reshape(VIEWS * h, HEADS, w, DEPTH).contiguous() for x in (q, k, v)]
    cases = [
        Case("quadtree_b", lambda: tree(q, k, v, scope="row", side=side)),
    ]
    if not relative:
        cases.append(Case("scaled_dot_product_attention", lambda: F.scaled_dot_product_attention(*heads_first)))
    else:  # gigabytes of tables, after which any other case finds its memory cold: a group of its own
        table = relative_sine(w, HEADS * DEPTH, float(STRIDE)).unflatten(-1, (HEADS, DEPTH))
        dense, position = build_attention("dense"), RelativeTerms(table * DEPTH**-0.5, table)
        cases.append(Case("sttr, relative positions", lambda: dense(q, k, v, scope="row", side=side, position=position), 2))
    return cases


def network_cases(height: int, width: int, slow: bool) -> list[Case]:
    rng = np.random.default_rng(0)
    left, right = (rng.integers(0, 256, (height, width, 3), dtype=np.uint8) for _ in range(2))
    shipped = StereoPredictor(build_model("small"))
    plain = StereoPredictor(build_model("small"), precision="fp32")
    dense = StereoPredictor(build_model(replace(PRESETS["small"], matching="dense")))
    sgbm = SgbmPredictor(256)
    cases = [
        Case(f"small, {shipped.precision}", lambda: shipped.predict(left, right)),
        Case("small, fp32", lambda: plain.predict(left, right)),
        Case(f"small with dense matching, {dense.precision}", lambda: dense.predict(left, right)),
        Case("SGBM, MODE_HH, 256 disparities", lambda: sgbm.predict(left, right)),
    ]
    if slow:
        for name in ("sttr-light", "sttr"):
            other = StereoPredictor(build_model(name))
            cases.append(Case(name, lambda other=other: other.predict(left, right), 1 if name == "sttr" else 2))
    return cases


def training_cases() -> list[Case]:
    """One step of the `small` recipe on 4 crops of 96x640."""
    recipe = load_recipe(HERE / "small.toml", [])
    g = torch.Generator().manual_seed(0)

    def mask() -> Tensor:
        return torch.rand(4, 96, 640, generator=g) < 0.1

    images = [torch.rand(4, 3, 96, 640, generator=g) for _ in range(2)]
    batch = Batch(*images, 60 * torch.rand(4, 96, 640, generator=g), ~mask(), mask(), mask())
    cases = []
    for kernel in ("cpp", "matmul"):
        learner = Learner(build_model(recipe.model, kernel), recipe, torch.device("cpu"))
        cases.append(Case(f"step, kernel={kernel}", lambda learner=learner: learner.step([batch], 1e-3)))
    return cases


def measure(cases: list[Case], repeats: int) -> dict[str, dict[str, Any]]:
    seconds: dict[str, list[float]] = {case.name: [] for case in cases}
    for case in cases:
        case.run()  # builds, allocates
    for turn in range(repeats):
        for case in cases:
            if turn < case.repeats:
                start = time.perf_counter()
                case.run()
                seconds[case.name].append(time.perf_counter() - start)
    first = statistics.median(seconds[cases[0].name])
    rows = {}
    for name, times in seconds.items():
        median = statistics.median(times)
        rows[name] = {"median": median, "times_the_first": median / first, "seconds": times}
        spread = f"{min(times):.3f} to {max(times):.3f}"
        print(f"  {name:45s} {median:8.3f} s ({spread}), {median / first:6.2f} x the first", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="the median of these (default %(default)s)")
    parser.add_argument("--fast", action="store_true", help="leave out what takes minutes: the STTR networks")
    parser.add_argument("-o", "--output", type=Path, default=HERE / "results" / "speed.json", help="JSON")
    args = parser.parse_args()
    if args.repeats < 1:
        parser.error("expected at least one repeat")
    keep_freed_memory()
    cv2.setNumThreads(torch.get_num_threads())
    groups: dict[str, Callable[[], list[Case]]] = {
        "attention 540x960": lambda: attention_cases(540, 960, relative=False),
        "attention 540x960, STTR's": lambda: attention_cases(540, 960, relative=True),
        "attention 1080x1920": lambda: attention_cases(1080, 1920, relative=False),
        "pair 540x960": lambda: network_cases(540, 960, not args.fast),
        "training step": training_cases,
    }
    result: dict[str, Any] = {
        "version": __version__,
        "machine": {"cpu": cpu_name(), "torch": torch.__version__, "threads": torch.get_num_threads()},
        "repeats": args.repeats,
        "groups": {},
    }
    for name, make in groups.items():
        print(name, flush=True)
        grad = torch.enable_grad() if name == "training step" else torch.inference_mode()
        with grad:
            result["groups"][name] = measure(make(), args.repeats)
    with atomic_write(args.output) as temporary:
        temporary.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
