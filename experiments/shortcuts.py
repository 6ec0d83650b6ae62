"""What the fast ways of using the network cost in accuracy: bfloat16, few keys in the attention, matching along the tree.

    python -m experiments.shortcuts --data pairs:FOLDER        # from the root of the repository; minutes

One file of weights in every way, on generated scenes and, for reading only, on real pairs. Writes results/shortcuts.json: every
score, and the EPE of visible pixels in relation to the plain way's, whose attention keeps the K keys that it was trained with.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from datasets.base import open_dataset
from datasets.procedural.dataset import GeneratedDataset
from experiments.study import SCORES, format_columns
from stereo import StereoPredictor, build_model
from stereo.checkpoint import default_weights, load_model
from stereo.config import ModelConfig
from stereo.engine.evaluate import evaluate
from stereo.engine.machine import cpu_name
from stereo.engine.memory import keep_freed_memory
from stereo.image_io import atomic_write
from stereo.version import __version__

RESULT = Path(__file__).parent / "results" / "shortcuts.json"
SEED, HEIGHT, WIDTH = 99, 288, 640  # of the generated scenes
WAYS: dict[str, tuple[str, dict[str, Any]]] = {  # precision, changes of the configuration
    "plain": ("fp32", {"matching": "dense"}),
    "bf16": ("bf16", {"matching": "dense"}),
    "attention, top 4": ("fp32", {"matching": "dense", "topk": 4}),
    "attention, top 16": ("fp32", {"matching": "dense", "topk": 16}),
    "attention, all kept": ("fp32", {"matching": "dense", "topk": WIDTH}),  # more than there are
    "sparse, 2 levels, top 8": ("fp32", {"matching": "sparse", "match_levels": 2, "match_topk": 8}),
    "sparse, 3 levels, top 8": ("fp32", {"matching": "sparse", "match_levels": 3, "match_topk": 8}),
    "sparse, 3 levels, top 12": ("fp32", {"matching": "sparse", "match_levels": 3, "match_topk": 12}),
    "sparse, 4 levels, top 12": ("fp32", {"matching": "sparse", "match_levels": 4, "match_topk": 12}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="", help="real pairs to report on, NAME:PATH (default: none)")
    parser.add_argument("--weights", type=Path, default=None, help="default: the shipped ones")
    parser.add_argument("--scenes", type=int, default=24, help=f"generated ones of {HEIGHT}x{WIDTH} px (default %(default)s)")
    parser.add_argument("-o", "--output", type=Path, default=RESULT, help="JSON")
    args = parser.parse_args()
    keep_freed_memory()
    path = args.weights or default_weights()
    trained = load_model(path)
    if not isinstance(trained.config, ModelConfig):
        parser.error(f"expected weights of a network of this project, got those of '{trained.config.preset}'")
    data = {"generated": GeneratedDataset(SEED, args.scenes, HEIGHT, WIDTH)}
    if args.data:
        data["real"] = open_dataset(args.data)
    rows: dict[str, dict[str, dict[str, float]]] = {}
    for way, (precision, changes) in WAYS.items():
        model = build_model(replace(trained.config, **changes))
        model.load_state_dict(trained.state_dict())
        predict = StereoPredictor(model, precision=precision).predict
        rows[way] = {}
        for name, samples in data.items():
            summary = evaluate(predict, samples, progress=False).summary
            scores = {key: summary[key] for key in SCORES}
            scores["epe_ratio"] = scores["epe_noc"] / rows.get("plain", rows[way]).get(name, scores)["epe_noc"]
            rows[way][name] = scores
    shown = [["", *(f"{name} {key}" for name in data for key in (*SCORES, "epe_ratio"))]]
    shown += [[way, *(f"{x:.3f}" for scores in row.values() for x in scores.values())] for way, row in rows.items()]
    print(format_columns(shown))
    result = {
        "version": __version__,
        "weights": path.name,
        "generated": {"seed": SEED, "scenes": args.scenes, "height": HEIGHT, "width": WIDTH},
        "data": args.data,
        "machine": {"cpu": cpu_name(), "torch": torch.__version__},
        "ways": rows,
    }
    with atomic_write(args.output) as temporary:
        temporary.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
