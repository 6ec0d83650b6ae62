"""Which content of the generator matters? The same network, budget and seeds, one thing left out at a time.

    python -m experiments.compare_content --data pairs:FOLDER        # from the root of the repository; hours, see compare.toml

Scored on generated scenes with everything in them, and, for reading only, on real pairs. Writes results/compare_content.json.
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from experiments.study import add_variants, format_columns, mean_and_spread, parsed, run_all, score_keys, seeded, study_parser
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
    return seeded(replace(recipe, data=replace(recipe.data, content=content)), seed)


def main() -> None:
    parser = study_parser(__doc__, seeds=2, runs="runs/content")
    add_variants(parser, list(LEFT_OUT), HERE / "compare.toml", HERE / "results" / "compare_content.json")
    args = parsed(parser)
    scores = run_all(
        args.variants, args.seeds, args.jobs, args.runs, partial(recipe_of, args.recipe, args.steps), args.data
    )
    keys = score_keys(args.data)
    lines = [["", *keys], *([name, *(mean_and_spread(runs, key, 3) for key in keys)] for name, runs in scores.items())]
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
