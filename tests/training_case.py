"""What the tests of training train on, random batches of 32 x 64 px, and one process of a training with several."""

from __future__ import annotations

import math
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from stereo.config import Recipe, TrainConfig, preset
from stereo.engine.distributed import joined
from stereo.engine.fit import Batches, fit
from stereo.model.build import build_model
from stereo.model.stereo_model import StereoModel
from stereo.types import Batch, StoppedError

H, W = 32, 64
RECIPE = Recipe(
    model=preset("tiny"),
    train=TrainConfig(steps=6, batch_size=2, warmup_steps=2, log_every=1, image_every=100, checkpoint_every=3, seed=11),
)


def with_train(**changes: Any) -> Recipe:
    return replace(RECIPE, train=replace(RECIPE.train, **changes))


def make_batch(number: int) -> Batch:
    """A pure function of the number, as the data sets' batches are."""
    generator = torch.Generator().manual_seed(1000 + number)
    left, right = torch.rand(2, 2, 3, H, W, generator=generator).unbind()
    disp = 20 * torch.rand(2, H, W, generator=generator)
    valid, occluded, occluded_right = (torch.rand(2, H, W, generator=generator) < p for p in (0.9, 0.2, 0.2))
    return Batch(left, right, disp, valid, occluded, occluded_right, (f"scene-{2 * number}", f"scene-{2 * number + 1}"))


def batches(first: int, last: int, stride: int) -> Iterator[Batch]:
    return map(make_batch, range(first, last, stride))


def troubled(die_at: int = -1, bad: Sequence[int] = ()) -> Batches:
    """The process that is to make batch ``die_at`` is killed; those in ``bad`` hold three values that are not finite."""

    def source(first: int, last: int, stride: int) -> Iterator[Batch]:
        for number in range(first, last, stride):
            if number == die_at:
                os.kill(os.getpid(), signal.SIGKILL)
            batch = make_batch(number)
            if number in bad:
                batch.left[0, :, 3, 5] = math.nan
            yield batch

    return source


def score(model: StereoModel) -> dict[str, float]:
    """A validation: it depends on every weight that the disparity depends on."""
    with_noise = torch.rand(2, 1, 3, H, W, generator=torch.Generator().manual_seed(3))
    return {"epe": float(model(*with_noise).disp.mean())}


def train(run_dir: Path, recipe: Recipe = RECIPE, source: Batches = batches, **options: Any):
    """A fresh network, always the same, through ``fit``; returns it with what fit returned."""
    torch.manual_seed(5)
    model = build_model(recipe.model, recipe.train.kernel)
    numbers = fit(model, source, recipe, run_dir, progress=False, **options)
    return model, numbers


def one_process(task: dict[str, Any], rank: int, size: int, port: int, said: Path) -> None:
    """Process ``rank`` of ``size`` of a training; ``said`` receives its stderr.

    task: run_dir, train (settings of [train]), trouble (arguments of ``troubled``).
    """
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    source = troubled(**task.get("trouble", {}))
    with said.open("w", encoding="utf-8", buffering=1) as sys.stderr:
        try:
            with joined("cpu") as device:
                train(Path(task["run_dir"]), with_train(**task["train"]), source, device=device, resume=True, validate=score)
        except StoppedError as error:
            print(f"stopped: {error}", file=sys.stderr)
            raise SystemExit(1) from None
