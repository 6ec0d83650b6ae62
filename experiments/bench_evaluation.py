"""What evaluating costs over the network's own time: reading, hashing, regions, errors, confidence, occlusion.

    python -m experiments.bench_evaluation       # from the root of the repository, on a quiet machine; five minutes

Pairs of 540x960 px are written to a temporary folder (PNG, PFM, masks) and evaluated from there with the shipped weights; the
same pairs, held in memory, go through the network alone. Both take turns, each time in a process of its own as from the command
line; the overhead is the ratio of the two walls, less one.
The processor's time is measured too: other programs on the machine disturb it less.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context, set_start_method
from pathlib import Path
from typing import Any

import cv2
import torch

from datasets.pairs import PairsDataset
from datasets.procedural.dataset import GeneratedDataset
from datasets.reading import read_ahead
from stereo import StereoPredictor, load_model
from stereo.checkpoint import default_weights
from stereo.engine.evaluate import evaluate
from stereo.engine.machine import cpu_name
from stereo.engine.memory import keep_freed_memory
from stereo.image_io import atomic_write, write_image, write_pfm
from stereo.version import __version__

HERE = Path(__file__).parent
HEIGHT, WIDTH, SEED = 540, 960, 10_000_103
LIMIT = 0.15  # what is promised


def write_pairs(root: Path, count: int) -> None:
    for index, sample in enumerate(GeneratedDataset(SEED, count, HEIGHT, WIDTH)):
        if index == count:  # it has no end of its own
            break
        folder = root / "generated" / f"{index:03d}"
        folder.mkdir(parents=True)
        write_image(folder / "left.png", sample.left)
        write_image(folder / "right.png", sample.right)
        write_pfm(folder / "disp_left.pfm", sample.disp)
        write_image(folder / "occ_left.png", sample.occluded.astype("uint8") * 255)


def timed(run: Callable[[], Any]) -> tuple[float, float]:
    """Seconds on the wall and of the processor: all threads, and processes that have ended meanwhile."""
    start = time.perf_counter(), sum(os.times()[:4])
    run()
    return time.perf_counter() - start[0], sum(os.times()[:4]) - start[1]


def predictor_of_a_command() -> StereoPredictor:
    """As the command line has it, in a process that has done nothing else yet."""
    set_start_method(None, force=True)  # the system's: a spawned process would spawn its readers, too
    keep_freed_memory()
    cv2.setNumThreads(torch.get_num_threads())
    return StereoPredictor(load_model(default_weights()))


def network(data: PairsDataset, count: int) -> tuple[float, float]:
    predict = predictor_of_a_command().predict
    held = [data[index] for index in range(count)]
    return timed(lambda: [predict(sample.left, sample.right) for sample in held])


def evaluation(data: PairsDataset, workers: int) -> tuple[float, float]:
    predict = predictor_of_a_command().predict
    return timed(lambda: evaluate(predict, data, progress=False, read=partial(read_ahead, workers=workers)))


def in_a_process(run: Callable[..., tuple[float, float]], *given: Any) -> tuple[float, float]:
    """Of its own: readers are forked, and what a process has held before would have to be copied for them page by page."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(run, *given).result()


def measure(root: Path, count: int, repeats: int, workers: int) -> dict[str, Any]:
    write_pairs(root, count)
    data = PairsDataset(root)
    turns = []
    in_a_process(network, data, 1)  # builds
    for turn in range(repeats):
        alone, alone_cpu = in_a_process(network, data, count)
        whole, whole_cpu = in_a_process(evaluation, data, workers)
        turns.append({
            "network_s": alone / count,
            "evaluation_s": whole / count,
            "overhead": whole / alone - 1,
            "overhead_of_processor": whole_cpu / alone_cpu - 1,
        })  # fmt: skip
        print(f"turn {turn + 1}: {turns[-1]}", flush=True)
    median = {key: statistics.median(turn[key] for turn in turns) for key in turns[0]}
    return {"precision": StereoPredictor(load_model(default_weights())).precision, "median": median, "turns": turns}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="the median of these (default %(default)s)")
    parser.add_argument("--pairs", type=int, default=24, help="in each repeat, with one start of a reader (%(default)s)")
    parser.add_argument("--workers", type=int, default=1, help="processes that read ahead (default %(default)s, as evaluate)")
    parser.add_argument("-o", "--output", type=Path, default=HERE / "results" / "evaluation_overhead.json", help="JSON")
    args = parser.parse_args()
    load = os.getloadavg()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), args.pairs, args.repeats, args.workers)
    result = {
        "command": "python -m experiments.bench_evaluation",
        "version": __version__,
        "weights": default_weights().name,
        "machine": {"cpu": cpu_name(), "torch": torch.__version__, "threads": torch.get_num_threads(), "load_before": load},
        "size": [HEIGHT, WIDTH],
        "pairs": args.pairs,
        "workers": args.workers,
        "limit": LIMIT,
        **found,
    }
    with atomic_write(args.output) as temporary:
        temporary.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    shown = {key: f"{100 * found['median'][key]:.1f} %" for key in ("overhead", "overhead_of_processor")}
    print(f"medians: {shown} (promised: at most {100 * LIMIT:.0f} % on the wall)")


if __name__ == "__main__":
    main()
