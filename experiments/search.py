"""What `small` is made of, one thing changed at a time: the same budget for every variant, from random weights.

    python -m experiments.search --data pairs:FOLDER      # from the root of the repository; what it costs: search.toml
    python -m experiments.search --seeds 3 --variants small "dense attention" -o experiments/results/quadtree_or_dense.json

Chosen by the scores on generated scenes; those on real pairs are for reading only. Writes results/search.json.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch

from experiments.study import add_variants, format_columns, mean_and_spread, parsed, run_all, score_keys, seeded, study_parser
from stereo import build_model
from stereo.config import Recipe, load_recipe
from stereo.engine.count import count_forward
from stereo.engine.machine import cpu_name
from stereo.image_io import atomic_write
from stereo.version import __version__

HERE = Path(__file__).parent
SIDES = 544, 960  # of the pair whose multiply-adds are told: 540x960 px as the network pads it
VARIANTS: dict[str, tuple[str, ...]] = {
    "small": (),
    "no second look": ("model.sharpen_channels=0",),  # the heads at 1/4 then have a layer more, and upsample four times
    "wider second look": ("model.sharpen_channels=32",),
    "36 channels": ("model.channels=36",),
    "72 channels": ("model.channels=72",),
    "context of 64": ("model.context_channels=64",),
    "2 layers": ("model.layers=2",),
    "4 layers": ("model.layers=4",),
    "K 4": ("model.topk=4",),
    "K 16": ("model.topk=16",),
    "3 levels": ("model.levels=3",),
    "relative position": ("model.position=relative",),
    "no position": ("model.position=none",),
    "dense attention": ("model.attention=dense",),
    "dense matching": ("model.matching=dense",),
    "half the matches": ("model.match_topk=6",),
    "no coarse loss": ("loss.coarse=0.0",),
    "response loss doubled": ("loss.response=2.0",),
    "occluded pixels as visible": ("loss.occluded_weight=1.0",),
    "higher crops": ("data.crops=[[128, 160]]",),
    "smaller disparities": ("data.max_disparity=0.2",),
    "no colour, blur, noise": ("data.content.photometric=0.0",),
    "aligned cameras": ("data.content.misalignment=0.0",),
    "half the rate": ("train.learning_rate=5e-4",),
    "twice the rate": ("train.learning_rate=2e-3",),
}


def recipe_of(path: Path, steps: int | None, name: str, seed: int) -> Recipe:
    budget = [] if steps is None else [f"train.steps={steps}"]
    return seeded(load_recipe(path, [*budget, *VARIANTS[name]]), seed)


def giga_macs(recipe: Recipe) -> float:
    pair = torch.empty(2, 1, 3, *SIDES)
    return count_forward(build_model(recipe.model), *pair).macs / 1e9


def main() -> None:
    parser = study_parser(__doc__, seeds=1, runs="runs/search")
    add_variants(parser, list(VARIANTS), HERE / "search.toml", HERE / "results" / "search.json")
    args = parsed(parser)
    recipes = partial(recipe_of, args.recipe, args.steps)
    scores = run_all(args.variants, args.seeds, args.jobs, args.runs, recipes, args.data)
    cost = {name: giga_macs(recipes(name, 0)) for name in scores}
    keys = score_keys(args.data)
    lines = [["", "GMAC", *keys]]
    for name, runs in sorted(scores.items(), key=lambda item: sum(run["epe_noc"] for run in item[1])):
        lines.append([name, f"{cost[name]:.1f}", *(mean_and_spread(runs, key, 3) for key in keys)])
    print(format_columns(lines))
    results = {
        "version": __version__,
        "recipe": asdict(load_recipe(args.recipe)),
        "steps": args.steps,
        "machine": {"cpu": cpu_name(), "torch": torch.__version__},
        "variants": {
            name: {"settings": VARIANTS[name], "gmac": cost[name], "runs": runs} for name, runs in scores.items()
        },
    }
    with atomic_write(args.output) as temporary:
        temporary.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
