"""Attention operators, or position codes, side by side: one network, the same data, budget and seeds for all.

    python -m experiments.compare_attention operators        # from the root of the repository; about 40 minutes on two cores
    python -m experiments.compare_attention positions

Each variant is trained once per seed (of the weights and of the training scenes) as experiments/compare.toml says, and scored
on the same generated scenes, which no seed trains on. Cost is that of a 540x960 pair: multiply-adds by the one counter, median
time and peak memory of a fresh process. Runs go on where they stopped; the end writes results/compare_STUDY.json and .svg.
"""

from __future__ import annotations

import argparse
import json
import statistics
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import torch

from datasets.batches import training_batches
from datasets.procedural.dataset import GeneratedDataset
from experiments.dot_chart import Column, dot_chart
from stereo import StereoPredictor, build_model
from stereo.attention import ATTENTION
from stereo.config import Recipe, load_recipe, to_dict
from stereo.engine.bench import Case, Limits, count_case, measure_case
from stereo.engine.evaluate import cpu_name, evaluate
from stereo.engine.fit import fit
from stereo.engine.memory import keep_freed_memory
from stereo.image_io import atomic_write

HERE = Path(__file__).parent
SIZE = (540, 960)  # px, of the pair whose cost is counted and measured
STUDIES: dict[str, dict[str, dict[str, Any]]] = {
    "operators": {name: {"attention": name} for name in ATTENTION},
    "positions": {name: {"attention": "quadtree_b", "position": name} for name in ("rotary", "relative", "none")},
}
SCORES = ("epe_noc", "epe_all", "bad3_noc", "iou_occluded")
COLUMNS = (
    Column("EPE visible, px", "epe_noc", 2),
    Column("occluded IoU", "iou_occluded", 3),
    Column("GMAC", "gmac", 1),
    Column("peak MB", "peak_mb", 0),
    Column("seconds", "seconds", 2),
)


def recipe_of(settings: dict[str, Any], seed: int, steps: int | None) -> Recipe:
    recipe = load_recipe(HERE / "compare.toml", [] if steps is None else [f"train.steps={steps}"])
    # The C++ gathers have no faster way to relative positions; whole rows have (stereo.attention.sparse).
    kernel = "matmul" if settings.get("position") == "relative" else "cpp"
    return replace(
        recipe,
        model=replace(recipe.model, **settings),
        data=replace(recipe.data, seed=recipe.data.seed + seed),
        train=replace(recipe.train, seed=seed, kernel=kernel),
    )


def train_and_score(settings: dict[str, Any], seed: int, folder: Path, steps: int | None) -> dict[str, float]:
    """One run, in a process of its own; what an earlier one of the same recipe has finished is read."""
    recipe, done = recipe_of(settings, seed, steps), folder / "result.json"
    if done.is_file():
        stored = json.loads(done.read_text(encoding="utf-8"))
        if stored["recipe"] == json.loads(json.dumps(to_dict(recipe))):
            return stored["scores"]
    torch.set_num_threads(recipe.train.threads)
    cv2.setNumThreads(recipe.train.threads)
    keep_freed_memory()
    torch.manual_seed(recipe.train.seed)
    model = build_model(recipe.model, recipe.train.kernel)
    scenes = GeneratedDataset(recipe.train.validation_seed, recipe.train.validation_scenes)

    def validate(network: Any) -> dict[str, float]:
        summary = evaluate(StereoPredictor(network).predict, scenes, progress=False).summary
        return {key: summary[key] for key in SCORES}

    batches = partial(training_batches, recipe.data, recipe.train.batch_size)
    going_on = (folder / "checkpoint.pt").is_file()
    scores = fit(model, batches, recipe, folder, resume=going_on, validate=validate, progress=False)
    with atomic_write(done) as temporary:
        temporary.write_text(json.dumps({"recipe": to_dict(recipe), "scores": scores}), encoding="utf-8")
    return scores


def cost_of(settings: dict[str, Any], threads: int) -> dict[str, Any]:
    """Of a pair of SIZE px, with the backend that a user gets."""
    case = Case("preset", "small", *SIZE, settings=settings)
    row = count_case(case) | measure_case(case, Limits(threads=threads))
    return {
        "parameters": row["parameters"],
        "gmac": row["macs"] / 1e9,
        "attention_gmac": row["attention"] / 1e9,
        "peak_mb": None if row["peak_bytes"] is None else row["peak_bytes"] / 1e6,
        "seconds": row["seconds"],
        "all_seconds": row.get("all_seconds"),
        "skipped": row["skipped"],
    }


def format_table(variants: dict[str, dict[str, Any]]) -> str:
    """Mean of the seeds, and half their range behind +-."""
    heads = ["", "EPE noc", "EPE all", "bad-3 %", "occ IoU", "GMAC", "attention", "peak MB", "s"]
    lines = [heads]
    for name, variant in variants.items():
        cells = [name]
        for key, digits in zip(SCORES, (2, 2, 1, 3), strict=True):
            values = [run[key] for run in variant["runs"]]
            cells.append(f"{statistics.mean(values):.{digits}f} +- {(max(values) - min(values)) / 2:.{digits}f}")
        cost = variant["cost"]
        for key, digits in (("gmac", 1), ("attention_gmac", 2), ("peak_mb", 0), ("seconds", 2)):
            cells.append("-" if cost[key] is None else f"{cost[key]:.{digits}f}")
        lines.append(cells)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=sorted(STUDIES))
    parser.add_argument("--seeds", type=int, default=2, help="runs of each variant (default %(default)s)")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, one thread each (default %(default)s)")
    parser.add_argument("--steps", type=int, default=None, help="of each run (default: the recipe's)")
    parser.add_argument("--runs", type=Path, default=Path("runs/compare"), help="where runs lie (default %(default)s)")
    parser.add_argument("-o", "--output", type=Path, default=HERE / "results", help="folder (default: experiments/results)")
    args = parser.parse_args()
    if min(args.seeds, args.jobs) < 1:
        parser.error("expected at least one seed and one job")

    variants = STUDIES[args.study]
    with ProcessPoolExecutor(args.jobs, get_context("spawn")) as pool:
        runs = {
            (name, seed): pool.submit(train_and_score, settings, seed, args.runs / f"{name}-{seed}", args.steps)
            for seed in range(args.seeds)
            for name, settings in variants.items()
        }
        scores = {}
        for key, run in runs.items():
            scores[key] = run.result()
            print(f"{key[0]}, seed {key[1]}: " + ", ".join(f"{k} {v:.3f}" for k, v in scores[key].items()), flush=True)
    found = {
        name: {
            "settings": settings,
            "runs": [scores[name, seed] for seed in range(args.seeds)],
            "cost": cost_of(settings, threads=2),
        }
        for name, settings in variants.items()
    }
    results = {
        "command": f"python -m experiments.compare_attention {args.study} --seeds {args.seeds}"
        + (f" --steps {args.steps}" if args.steps else ""),
        "recipe": asdict(recipe_of({}, 0, args.steps)),
        "size": list(SIZE),
        "machine": {"cpu": cpu_name(), "torch": torch.__version__},
        "variants": found,
    }
    print(format_table(found))
    rows = {name: [run | variant["cost"] for run in variant["runs"]] for name, variant in found.items()}
    for suffix, text in ((".json", json.dumps(results, indent=1) + "\n"), (".svg", dot_chart(rows, COLUMNS))):
        with atomic_write(args.output / f"compare_{args.study}{suffix}") as temporary:
            temporary.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
