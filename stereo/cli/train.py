"""``train``: a network from a recipe."""

from __future__ import annotations

import argparse
import logging
from functools import partial
from pathlib import Path
from typing import Any

import torch

from datasets.batches import training_batches
from datasets.procedural.dataset import GeneratedDataset
from stereo.checkpoint import available_device, load_state, save_weights
from stereo.cli.shared import add_device, output_folder, positive, say
from stereo.config import Recipe, load_recipe, to_dict
from stereo.engine.distributed import everyones, from_first, joined, rank, restarts, world_size
from stereo.engine.evaluate import evaluate
from stereo.engine.fit import fit
from stereo.engine.machine import cpu_name
from stereo.engine.memory import keep_freed_memory
from stereo.inference.predictor import StereoPredictor
from stereo.model.build import Network, build_model
from stereo.report.run_page import write_run_page
from stereo.types import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_device(parser)
    parser.add_argument("recipe", help="a TOML file of settings, for example experiments/smoke.toml")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=VALUE",
                        help="change one setting of the recipe, as train.steps=100; may be repeated")  # fmt: skip
    parser.add_argument("-o", "--output", help="folder of the run (default: runs/<name of the recipe>)")
    parser.add_argument("--resume", action="store_true", help="go on from the folder's checkpoint.pt, if there is one yet")
    parser.add_argument("--max-minutes", type=positive, metavar="MINUTES", default=float("inf"),
                        help="end within this time, or with the recipe's train.steps, whichever is first, the "
                        "learning rate brought down in time")  # fmt: skip


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Alone, or in each process that torchrun starts; then the first one prints, and returns what --json prints."""
    recipe, device = load_recipe(args.recipe, args.set), available_device(args.device)
    with output_folder(Path(args.output or f"runs/{recipe.name}")) as run_dir:
        return _run_in(run_dir, args, recipe, str(device))


def _run_in(run_dir: Path, args: argparse.Namespace, recipe: Recipe, named: str) -> dict[str, Any]:
    """named: a device; of several processes on GPUs each takes one of its own."""
    train = recipe.train
    if train.threads:
        torch.set_num_threads(train.threads)
    keep_freed_memory()
    torch.manual_seed(train.seed)
    model = build_model(recipe.model, train.kernel)
    scenes = GeneratedDataset(train.validation_seed, train.validation_scenes)

    def validate(network: Network) -> dict[str, float]:
        summary = evaluate(StereoPredictor(network).predict, scenes, progress=False).summary
        return {key: summary[key] for key in ("epe_noc", "epe_all", "bad3_noc", "iou_occluded")}

    with joined(named) as device:
        resume = args.resume or max(everyones(restarts())) > 0  # a host on which nothing died has not counted
        from_first(partial(_check_folder, run_dir, resume))
        if rank():
            logging.getLogger().setLevel(logging.ERROR)  # the first process has said it
        batches = partial(training_batches, recipe.data, train.batch_size, device=device)
        numbers = fit(model, batches, recipe, run_dir, device, resume, validate, max_minutes=args.max_minutes)
        if rank():
            return {}
        card = _card(recipe, run_dir, device, numbers)
    weights = save_weights(model, run_dir, recipe.model.preset, card)
    page = write_run_page(run_dir)
    listed = ", ".join(f"{key} {value:.3f}" for key, value in numbers.items())
    say(args, f"{recipe.name}: {card['steps']} steps; {train.validation_scenes} generated scenes: {listed}; {weights}; {page}")
    return card | {"weights": str(weights)}


def _check_folder(run_dir: Path, resume: bool) -> None:
    if not resume and (run_dir / "checkpoint.pt").exists():
        raise InputError(f"'{run_dir}' already holds a run; add --resume to go on with it, or choose another folder with -o")


def _card(recipe: Recipe, run_dir: Path, device: torch.device, numbers: dict[str, float]) -> dict[str, Any]:
    """Where the weights come from."""
    state, train = load_state(run_dir / "checkpoint.pt"), recipe.train
    return {
        "recipe": to_dict(recipe),
        "steps": state["step"],
        "samples_seen": state["position"] * train.batch_size,
        "hours": round(state["seconds"] / 3600, 3),
        "hardware": cpu_name() if device.type == "cpu" else torch.cuda.get_device_name(device),
        "processes": world_size(),
        "validation": {"data": f"generated:{train.validation_seed}:{train.validation_scenes}"} | numbers,
    }
