"""Short trainings side by side: every variant with the same data, budget and seeds, each run in a process of its own.

Runs lie in a folder per variant and seed; what an earlier call has finished is read, what it has begun goes on.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import torch

from datasets.base import open_dataset
from datasets.batches import training_batches
from datasets.procedural.dataset import GeneratedDataset
from stereo import StereoPredictor, build_model
from stereo.config import Recipe, to_dict
from stereo.engine.evaluate import evaluate
from stereo.engine.fit import fit
from stereo.engine.memory import keep_freed_memory
from stereo.image_io import atomic_write

SCORES = ("epe_noc", "epe_all", "bad3_noc", "iou_occluded")
REPORT_ONLY = "real_"  # prefix of the scores on data that nothing is chosen by


def study_parser(doc: str | None, seeds: int, runs: str) -> argparse.ArgumentParser:
    """With the arguments that every study has; ``parsed`` checks them."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=seeds, help="runs of each variant (default %(default)s)")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, one thread each (default %(default)s)")
    parser.add_argument("--steps", type=int, default=None, help="of each run (default: the recipe's)")
    parser.add_argument("--runs", type=Path, default=Path(runs), help="where runs lie (default %(default)s)")
    return parser


def add_variants(parser: argparse.ArgumentParser, variants: Sequence[str], recipe: Path, output: Path) -> None:
    """What a study of changes to one recipe has besides."""
    parser.add_argument("--data", default="", help="real pairs to report on, NAME:PATH (default: none)")
    parser.add_argument("--recipe", type=Path, default=recipe, help="what every run is given")
    parser.add_argument("--variants", nargs="+", choices=variants, default=variants, help="default: all")
    parser.add_argument("-o", "--output", type=Path, default=output, help="JSON")


def parsed(parser: argparse.ArgumentParser) -> argparse.Namespace:
    args = parser.parse_args()
    if min(args.seeds, args.jobs) < 1:
        parser.error("expected at least one seed and one job")
    return args


def seeded(recipe: Recipe, seed: int, kernel: str = "cpp") -> Recipe:
    """The recipe of one run: other data and other random weights for each seed."""
    data = replace(recipe.data, seed=recipe.data.seed + seed)
    return replace(recipe, data=data, train=replace(recipe.train, seed=seed, kernel=kernel))


def score_keys(report_data: str) -> list[str]:
    """Of what ``train_and_score`` gives."""
    return [f"{prefix}{key}" for prefix in (("", REPORT_ONLY) if report_data else ("",)) for key in SCORES]


def train_and_score(recipe: Recipe, folder: Path, report_data: str = "") -> dict[str, float]:
    """One run -> its scores on the recipe's validation scenes and, with the prefix, on ``report_data`` (NAME:PATH)."""
    done = folder / "result.json"
    if done.is_file():
        stored = json.loads(done.read_text(encoding="utf-8"))
        if stored["recipe"] == json.loads(json.dumps(to_dict(recipe))) and stored["report_data"] == report_data:
            return stored["scores"]
    torch.set_num_threads(recipe.train.threads)
    cv2.setNumThreads(recipe.train.threads)
    keep_freed_memory()
    torch.manual_seed(recipe.train.seed)
    model = build_model(recipe.model, recipe.train.kernel)
    scenes = {"": GeneratedDataset(recipe.train.validation_seed, recipe.train.validation_scenes)}
    if report_data:
        scenes[REPORT_ONLY] = open_dataset(report_data)

    def validate(network: Any) -> dict[str, float]:
        predict = StereoPredictor(network).predict
        summaries = {prefix: evaluate(predict, data, progress=False).summary for prefix, data in scenes.items()}
        return {f"{prefix}{key}": summary[key] for prefix, summary in summaries.items() for key in SCORES}

    batches = partial(training_batches, recipe.data, recipe.train.batch_size)
    going_on = (folder / "checkpoint.pt").is_file()
    scores = fit(model, batches, recipe, folder, resume=going_on, validate=validate, progress=False)
    with atomic_write(done) as temporary:
        temporary.write_text(
            json.dumps({"recipe": to_dict(recipe), "report_data": report_data, "scores": scores}), encoding="utf-8"
        )
    return scores


def run_all(
    variants: Sequence[str],
    seeds: int,
    jobs: int,
    folder: Path,
    recipe_of: Callable[[str, int], Recipe],
    report_data: str = "",
) -> dict[str, list[dict[str, float]]]:
    """Scores of every variant, one entry per seed; ``jobs`` runs at a time."""
    with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
        runs = {
            (name, seed): pool.submit(
                train_and_score, recipe_of(name, seed), folder / f"{name.replace(' ', '_')}-{seed}", report_data
            )
            for seed in range(seeds)
            for name in variants
        }
        scores: dict[str, list[dict[str, float]]] = {name: [] for name in variants}
        for (name, seed), run in runs.items():
            scores[name].append(run.result())
            print(f"{name}, seed {seed}: " + ", ".join(f"{k} {v:.3f}" for k, v in scores[name][-1].items()), flush=True)
    return scores


def mean_and_spread(runs: Sequence[Mapping[str, float]], key: str, digits: int) -> str:
    """Mean of the seeds, and half their range behind +-; a single run has none."""
    values = [run[key] for run in runs]
    if len(values) == 1:
        return f"{values[0]:.{digits}f}"
    return f"{statistics.mean(values):.{digits}f} +- {(max(values) - min(values)) / 2:.{digits}f}"


def format_columns(lines: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(_row(line, widths) for line in lines)


def _row(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(cell.rjust(width) for cell, width in zip(cells, widths, strict=True))
