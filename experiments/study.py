"""Short trainings side by side: every variant with the same data, budget and seeds, each run in a process of its own.

Runs lie in a folder per variant and seed; what an earlier call has finished is read, what it has begun goes on.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
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
