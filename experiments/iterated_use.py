"""The same weights at several sizes of a pair, merged by confidence: what it gives, and what it costs.

    python -m experiments.iterated_use --data pairs:FOLDER        # from the root of the repository; 15 minutes

Sizes are chosen by the scores on generated scenes, with the time in view; those on real pairs are for reading only. Writes
results/iterated_use.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

import torch

from datasets.base import open_dataset
from datasets.procedural.dataset import GeneratedDataset
from experiments.study import SCORES, format_columns
from stereo import StereoPredictor
from stereo.checkpoint import default_weights, load_model
from stereo.engine.evaluate import evaluate
from stereo.engine.machine import cpu_name
from stereo.engine.memory import keep_freed_memory
from stereo.image_io import atomic_write
from stereo.version import __version__

RESULT = Path(__file__).parent / "results" / "iterated_use.json"
SEED, HEIGHT, WIDTH = 99, 288, 640  # of the generated scenes
KEYS = ("bad1_noc", *SCORES)
SIZES: tuple[tuple[float, ...], ...] = (
    (1,),
    (0.5,),
    (1.5,),
    (2,),
    (0.5, 1),  # a second pass at half size, meant for large disparities
    (0.5, 1.5),
    (1, 2),
    (0.5, 1, 2),
    (1, 1.5, 2),
    (0.5, 0.7, 1, 2),
    (0.5, 0.7, 1, 1.4, 2),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="", help="real pairs to report on, NAME:PATH (default: none)")
    parser.add_argument("--weights", type=Path, default=None, help="default: the shipped ones")
    parser.add_argument("--scenes", type=int, default=16, help=f"generated ones of {HEIGHT}x{WIDTH} px (default %(default)s)")
    parser.add_argument("-o", "--output", type=Path, default=RESULT, help="JSON")
    args = parser.parse_args()
    keep_freed_memory()
    path = args.weights or default_weights()
    network = load_model(path)
    data = {"generated": GeneratedDataset(SEED, args.scenes, HEIGHT, WIDTH)}
    if args.data:
        data["real"] = open_dataset(args.data)
    rows = []
    for sizes in SIZES:
        predict = StereoPredictor(network, sizes=sizes).predict
        row: dict = {"sizes": sizes}
        for name, samples in data.items():
            report = evaluate(predict, samples, progress=False)
            row[name] = {key: report.summary[key] for key in KEYS}
            row[name]["seconds"] = statistics.fmean(scene["seconds"] for scene in report.rows)
            row[name]["times_once"] = row[name]["seconds"] / (rows[0] if rows else row)[name]["seconds"]
        rows.append(row)
    keys = (*KEYS, "times_once")
    shown = [["sizes", *(f"{name} {key}" for name in data for key in keys)]]
    shown += [[" ".join(map(str, row["sizes"])), *(f"{row[n][key]:.3f}" for n in data for key in keys)] for row in rows]
    print(format_columns(shown))
    result = {
        "version": __version__,
        "weights": path.name,
        "generated": {"seed": SEED, "scenes": args.scenes, "height": HEIGHT, "width": WIDTH},
        "data": args.data,
        "machine": {"cpu": cpu_name(), "torch": torch.__version__},
        "rows": rows,
    }
    with atomic_write(args.output) as temporary:
        temporary.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
