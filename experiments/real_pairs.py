"""The network beside OpenCV's SGBM on real pairs with ground truth, in one run on one machine.

    python -m experiments.real_pairs FOLDER [--weights W] [-o experiments/results/real_pairs.json]

FOLDER holds <set>/<scene>/{left.png,right.png,disp_left.pfm,...}. Report only: no weights are chosen by these numbers.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import statistics
from pathlib import Path

import torch

from datasets.pairs import PairsDataset
from stereo import StereoPredictor, load_model
from stereo.checkpoint import default_weights
from stereo.engine.evaluate import ByName, Report, evaluate
from stereo.engine.machine import cpu_name
from stereo.engine.memory import keep_freed_memory
from stereo.engine.result_files import format_table
from stereo.image_io import atomic_write
from stereo.inference.sgbm import SgbmPredictor, search_range
from stereo.version import __version__

ROOT = Path(__file__).resolve().parents[1]
KEYS = ("epe_noc", "bad1_noc", "bad2_noc", "bad3_noc", "epe_all", "bad3_all", "iou_occluded", "seconds")


def condense(report: Report) -> dict:
    """Per-scene rows, their mean and median; None where a figure is not defined."""
    rows = [{"name": row["name"]} | {key: _number(row[key]) for key in KEYS} for row in report.rows]
    columns = {key: [row[key] for row in rows if row[key] is not None] for key in KEYS}
    means = {key: statistics.fmean(column) for key, column in columns.items()}
    medians = {key: statistics.median(column) for key, column in columns.items()}
    return {"rows": rows, "mean": means, "median": medians}


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--weights", type=Path, default=None)
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "experiments" / "results" / "real_pairs.json")
    args = parser.parse_args()
    keep_freed_memory()
    samples = PairsDataset(args.folder)
    weights = args.weights or default_weights()
    reports = {
        "small": evaluate(StereoPredictor(load_model(weights)).predict, samples),
        "sgbm": evaluate(ByName(lambda name: SgbmPredictor(search_range(name)).predict), samples),
    }
    for method, report in reports.items():
        print(f"\n{method}\n{format_table(report)}")
    results = {
        "command": "python -m experiments.real_pairs FOLDER",
        "weights": {"name": weights.name, "sha256": hashlib.sha256(weights.read_bytes()).hexdigest()},
        "version": __version__,
        "machine": {"cpu": cpu_name(), "threads": torch.get_num_threads(), "torch": torch.__version__},
        "data_sha256": reports["small"].data_sha256,
        "methods": {method: condense(report) for method, report in reports.items()},
    }
    with atomic_write(args.output) as temporary:
        temporary.write_text(json.dumps(results, indent=1, allow_nan=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
