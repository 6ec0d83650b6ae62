"""Which content of the generator matters? The same network, budget and seeds, one thing left out at a time.

    python -m experiments.compare_content --data pairs:FOLDER        # from the root of the repository; hours, see compare.toml

Scored on generated scenes with everything in them, and, for reading only, on real pairs. Writes results/compare_content.json.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from experiments.study import REPORT_ONLY, SCORES, format_columns, mean_and_spread, run_all
from stereo.config import ContentConfig, Recipe, load_recipe
from stereo.engine.machine import cpu_name
from stereo.image_io import atomic_write
from stereo.version import __version__

HERE = Path(__file__).parent
LEFT_OUT: dict[str, dict[str, Any]] = {
    "everything": {},
    "no slants": {"slants": 0.0},
    "no relief": {"relief": 0.0},
    "no thin things": {"thin": 0.0},
    "no rooms": {"floors": 0.0, "walls": 0.0, "standing": 0.0},
    "no shadows": {"shadows": 0.0},
    "no repetition": {"repetition": 0.0},
    "nothing plain": {"plain": 0.0},
    "same cameras": {"photometric": 0.0},
    "aligned": {"misalignment": 0.0},
}


def recipe_of(path: Path, steps: int | None, name: str, seed: int) -> Recipe:
    recipe = load_recipe(path, [] if steps is None else [f"train.steps={steps}"])
    content = replace(recipe.data.content, **LEFT_OUT[name])
    return replace(
        recipe,
        data=replace(recipe.data, seed=recipe.data.seed + seed, content=content),
        train=replace(recipe.train, seed=seed, kernel="cpp"),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="", help="real pairs to report on, NAME:PATH (default: none)")
    parser.add_argument("--recipe", type=Path, default=HERE / "compare.toml", help="what every run is given")
    parser.add_argument("--variants", nargs="+", choices=list(LEFT_OUT), default=list(LEFT_OUT), help="default: all")
    parser.add_argument("--seeds", type=int, default=2, help="runs of each variant (default %(default)s)")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, one thread each (default %(default)s)")
    parser.add_argument("--steps", type=int, default=None, help="of each run (default: the recipe's)")
    parser.add_argument("--runs", type=Path, default=Path("runs/content"), help="where runs lie (default %(default)s)")
    parser.add_argument("-o", "--output", type=Path, default=HERE / "results" / "compare_content.json", help="JSON")
    args = parser.parse_args()
    if min(args.seeds, args.jobs) < 1:
        parser.error("expected at least one seed and one job")
    scores = run_all(
        args.variants, args.seeds, args.jobs, args.runs, partial(recipe_of, args.recipe, args.steps), args.data
    )
    prefixes = ("", REPORT_ONLY) if args.data else ("",)
    lines = [["", *(f"{prefix}{key}" for prefix in prefixes for key in SCORES)]]
    lines += [
        [name, *(mean_and_spread(runs, f"{prefix}{key}", 3) for prefix in prefixes for key in SCORES)]
        for name, runs in scores.items()
    ]
    print(format_columns(lines))
    results = {
        "version": __version__,
        "recipe": asdict(load_recipe(args.recipe)),
        "steps": args.steps,
        "usual": asdict(ContentConfig()),
        "machine": {"cpu": cpu_name(), "torch": torch.__version__},
        "variants": {name: {"content": LEFT_OUT[name], "runs": runs} for name, runs in scores.items()},
    }
    with atomic_write(args.output) as temporary:
        temporary.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
