"""``train``: a network from a recipe."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any

import torch

from datasets.batches import training_batches
from datasets.procedural.dataset import GeneratedDataset
from stereo.checkpoint import load_state, save_weights
from stereo.cli.shared import add_device, make_folder, say
from stereo.config import load_recipe, to_dict
from stereo.engine.evaluate import cpu_name, evaluate
from stereo.engine.fit import fit
from stereo.engine.memory import keep_freed_memory
from stereo.inference.predictor import StereoPredictor
from stereo.model.build import build_model
from stereo.report.run_page import write_run_page
from stereo.types import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_device(parser)
    parser.add_argument("recipe", help="for example experiments/smoke.toml")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=VALUE", help="change one setting of the recipe")
    parser.add_argument("-o", "--output", help="folder of the run (default: runs/<name of the recipe>)")
    parser.add_argument("--resume", action="store_true", help="go on from the folder's checkpoint.pt")


def run(args: argparse.Namespace) -> dict[str, Any]:
    recipe = load_recipe(args.recipe, args.set)
    train = recipe.train
    run_dir = make_folder(Path(args.output or f"runs/{recipe.name}"))
    checkpoint = run_dir / "checkpoint.pt"
    if checkpoint.exists() and not args.resume:
        raise InputError(f"'{run_dir}' already holds a run; add --resume to go on with it, or choose another folder with -o")
    if train.threads:
        torch.set_num_threads(train.threads)
    keep_freed_memory()
    torch.manual_seed(train.seed)
    model = build_model(recipe.model, train.kernel)
    scenes = GeneratedDataset(train.validation_seed, train.validation_scenes)

    def validate(network) -> dict[str, float]:
        summary = evaluate(StereoPredictor(network).predict, scenes, progress=False).summary
        return {key: summary[key] for key in ("epe_noc", "epe_all", "bad3_noc", "iou_occluded")}

    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    batches = partial(training_batches, recipe.data, train.batch_size, device=device)
    numbers = fit(model, batches, recipe, run_dir, device, args.resume, validate)
    seconds = load_state(checkpoint)["seconds"]
    card = {
        "recipe": to_dict(recipe),
        "samples_seen": train.steps * train.batch_size,
        "hours": round(seconds / 3600, 3),
        "hardware": cpu_name() if device == "cpu" else torch.cuda.get_device_name(),
        "validation": {"data": f"generated:{train.validation_seed}:{train.validation_scenes}"} | numbers,
    }
    weights = save_weights(model, run_dir, recipe.model.preset, card)
    page = write_run_page(run_dir)
    listed = ", ".join(f"{key} {value:.3f}" for key, value in numbers.items())
    say(args, f"{recipe.name}: {train.steps} steps; {train.validation_scenes} generated scenes: {listed}; {weights}; {page}")
    return card | {"weights": str(weights)}
