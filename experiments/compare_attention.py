"""Attention operators, or position codes, side by side: one network, the same data, budget and seeds for all.

    python -m experiments.compare_attention operators        # from the root of the repository; about 40 minutes on two cores
    python -m experiments.compare_attention positions

Each variant is trained once per seed (of the weights and of the training scenes) as experiments/compare.toml says, and scored
on the same generated scenes, which no seed trains on. Cost is that of a 540x960 pair: multiply-adds by the one counter, median
time and peak memory of a fresh process. Runs go on where they stopped; the end writes results/compare_STUDY.json and .svg.
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from experiments.dot_chart import Column, dot_chart
from experiments.study import SCORES, format_columns, mean_and_spread, parsed, run_all, seeded, study_parser
from stereo.attention import ATTENTION
from stereo.config import Recipe, load_recipe
from stereo.engine.bench import Case, Limits, count_case, measure_case
from stereo.engine.machine import cpu_name
from stereo.image_io import atomic_write
from stereo.version import __version__

HERE = Path(__file__).parent
SIZE = (540, 960)  # px, of the pair whose cost is counted and measured
STUDIES: dict[str, dict[str, dict[str, Any]]] = {
    "operators": {name: {"attention": name} for name in ATTENTION},
    "positions": {name: {"attention": "quadtree_b", "position": name} for name in ("rotary", "relative", "none")},
}
COLUMNS = (
    Column("EPE visible, px", "epe_noc", 2),
    Column("occluded IoU", "iou_occluded", 3),
    Column("GMAC", "gmac", 1),
    Column("peak MB", "peak_mb", 0),
    Column("seconds", "seconds", 2),
)


def recipe_of(study: str, steps: int | None, name: str, seed: int) -> Recipe:
    settings = STUDIES[study][name]
    recipe = load_recipe(HERE / "compare.toml", [] if steps is None else [f"train.steps={steps}"])
    # The C++ gathers have no faster way to relative positions; whole rows have (stereo.attention.sparse).
    kernel = "matmul" if settings.get("position") == "relative" else "cpp"
    return seeded(replace(recipe, model=replace(recipe.model, **settings)), seed, kernel)


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
    lines = [["", "EPE noc", "EPE all", "bad-3 %", "occ IoU", "GMAC", "attention", "peak MB", "s"]]
    for name, variant in variants.items():
        cells = [name] + [
            mean_and_spread(variant["runs"], key, digits) for key, digits in zip(SCORES, (2, 2, 1, 3), strict=True)
        ]
        for key, digits in (("gmac", 1), ("attention_gmac", 2), ("peak_mb", 0), ("seconds", 2)):
            value = variant["cost"][key]
            cells.append("-" if value is None else f"{value:.{digits}f}")
        lines.append(cells)
    return format_columns(lines)


def main() -> None:
    parser = study_parser(__doc__, seeds=2, runs="runs/compare")
    parser.add_argument("study", choices=sorted(STUDIES))
    parser.add_argument("-o", "--output", type=Path, default=HERE / "results", help="folder (default: experiments/results)")
    args = parsed(parser)

    scores = run_all(
        list(STUDIES[args.study]), args.seeds, args.jobs, args.runs, partial(recipe_of, args.study, args.steps)
    )
    found = {
        name: {"settings": settings, "runs": scores[name], "cost": cost_of(settings, threads=2)}
        for name, settings in STUDIES[args.study].items()
    }
    results = {
        "command": f"python -m experiments.compare_attention {args.study} --seeds {args.seeds}"
        + (f" --steps {args.steps}" if args.steps else ""),
        "version": __version__,
        "recipe": asdict(load_recipe(HERE / "compare.toml")),
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
