"""Scores of several files of weights on the same pairs, image by image, and how far each differs from the first.

    python -m experiments.compare_weights first=FILE present=FILE --data pairs:FOLDER [-o JSON]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from datasets.base import open_dataset
from experiments.study import SCORES, format_columns
from stereo import StereoPredictor
from stereo.checkpoint import load_model
from stereo.engine.evaluate import evaluate
from stereo.engine.machine import cpu_name
from stereo.engine.memory import keep_freed_memory
from stereo.image_io import atomic_write
from stereo.version import __version__

RESULT = Path(__file__).parent / "results" / "generator_versions.json"


def _or_none(value: str | float) -> str | float | None:
    """JSON has no NaN: what a figure without pixels is."""
    return None if value != value else value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", nargs="+", metavar="NAME=FILE", help="what is compared; the first is the reference")
    parser.add_argument("--data", required=True, help="NAME:PATH")
    parser.add_argument("-o", "--output", type=Path, default=RESULT, help="JSON (default: %(default)s)")
    args = parser.parse_args()
    named = dict(entry.partition("=")[::2] for entry in args.weights)
    if not all(named.values()):
        parser.error("expected NAME=FILE for each file of weights")
    keep_freed_memory()
    samples = open_dataset(args.data)
    rows: dict[str, dict] = {}
    for name, path in named.items():
        report = evaluate(StereoPredictor(load_model(path), precision="fp32").predict, samples, progress=False)
        scores = {key: report.summary[key] for key in SCORES}
        first = next(iter(rows.values()))["mean"] if rows else scores
        rows[name] = {
            "file": Path(path).name,
            "mean": scores,
            "of_the_first": {key: scores[key] / first[key] for key in SCORES},
            "images": [{key: _or_none(image[key]) for key in ("name", *SCORES)} for image in report.rows],
        }
    lines = [["", *SCORES, *(f"{key} / first" for key in SCORES)]]
    lines += [[name, *(f"{x:.3f}" for x in (*r["mean"].values(), *r["of_the_first"].values()))] for name, r in rows.items()]
    print(format_columns(lines))
    machine = {"cpu": cpu_name(), "torch": torch.__version__}
    result = {"version": __version__, "data": args.data, "machine": machine, "weights": rows}
    with atomic_write(args.output) as temporary:
        temporary.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
