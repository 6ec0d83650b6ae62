"""Training: one loop, everything handed in."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from stereo.checkpoint import load_state, save_state
from stereo.config import Recipe, model_config, to_dict
from stereo.engine.schedule import warmup_cosine
from stereo.losses import stereo_loss
from stereo.model.build import Network
from stereo.report.figures import pair_figure
from stereo.types import Batch, InputError, Prediction, Sample


class NonFiniteLossError(RuntimeError):
    """The loss or a gradient is NaN or infinite. The message names step, terms and samples."""


def fit(
    model: Network,
    batches: Callable[[int, int], Iterator[Batch]],
    recipe: Recipe,
    run_dir: Path,
    device: torch.device | str = "cpu",
    resume: bool = False,
    validate: Callable[[Network], dict[str, float]] | None = None,
    progress: bool = True,
) -> dict[str, float]:
    """Train ``model`` in place and return the last validation's numbers.

    batches(first, last): the batches of steps first .. last-1; a resumed run asks for the rest, so the data go on where they
    stopped. Everything is written under ``run_dir``: checkpoint.pt (model, optimiser, step, random state), TensorBoard files.
    Raises NonFiniteLossError, leaving the last good checkpoint in place, and InputError for a resume that cannot be.
    """
    train = recipe.train
    device = torch.device(device)
    if train.precision not in ("fp32", "bf16"):
        raise InputError(f"got train.precision {train.precision!r}, expected fp32 or bf16")
    run_dir.mkdir(parents=True, exist_ok=True)
    path = run_dir / "checkpoint.pt"
    torch.manual_seed(train.seed)
    model.to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=train.learning_rate, weight_decay=train.weight_decay)
    first, spent = _restore(path, recipe, model, optimizer) if resume else (0, 0.0)
    began = time.perf_counter()

    numbers: dict[str, float] = {}
    done = first
    with SummaryWriter(str(run_dir), purge_step=first) as writer:
        bar = tqdm(batches(first, train.steps), total=train.steps, initial=first, disable=not progress, unit="step")
        ended = time.perf_counter()
        for step, batch in enumerate(bar, start=first):
            waited = time.perf_counter() - ended
            batch = batch.to(device)
            for group in optimizer.param_groups:
                group["lr"] = train.learning_rate * warmup_cosine(step, train.steps, train.warmup_steps)
            prediction, terms, norm = _step(model, optimizer, batch, recipe, step)
            epe = visible_epe(prediction, batch)
            ended = time.perf_counter()
            if step % train.log_every == 0:
                bar.set_postfix(loss=f"{terms['total']:.3f}", epe=f"{epe:.2f}px")
                scalars = {f"loss/{k}": v for k, v in terms.items()} | {"epe_visible_px": epe, "gradient_norm": norm}
                scalars |= {"learning_rate": optimizer.param_groups[0]["lr"], "data_wait_s": waited}
                for name, value in scalars.items():
                    writer.add_scalar(f"train/{name}", value, step)
            if step % train.image_every == 0:
                writer.add_image("train/pair", _figure(batch, prediction), step, dataformats="HWC")
            done = step + 1
            if done % train.checkpoint_every == 0 or done == train.steps:
                save_state(path, _state(recipe, model, optimizer, done, spent + time.perf_counter() - began))
            if validate and train.validate_every and done % train.validate_every == 0 and done < train.steps:
                _validate(model, validate, writer, done)
        if done < train.steps:
            raise InputError(f"the data ended after {done} of {train.steps} steps; lower train.steps or give more data")
        if validate:
            numbers = _validate(model, validate, writer, done)
    return numbers


def visible_epe(prediction: Prediction, batch: Batch) -> float:
    """Mean |error| in px over pixels that both cameras see; NaN when there is none."""
    seen = batch.valid & ~batch.occluded
    return float((prediction.disp.detach() - batch.disp).abs()[seen].mean())


def _step(model, optimizer, batch: Batch, recipe: Recipe, step: int) -> tuple[Prediction, dict[str, float], float]:
    """Forward, loss, backward, clip, update."""
    optimizer.zero_grad(set_to_none=True)
    with torch.autocast(batch.left.device.type, torch.bfloat16, enabled=recipe.train.precision == "bf16"):
        prediction = model(batch.left, batch.right)
    terms = stereo_loss(prediction, batch, recipe.loss)
    terms["total"].backward()
    norm = float(torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.train.clip_norm))
    values = {name: float(term.detach()) for name, term in terms.items()}
    if not (math.isfinite(values["total"]) and math.isfinite(norm)):
        listed = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
        raise NonFiniteLossError(
            f"step {step}: the loss or its gradient is not finite ({listed}, gradient norm {norm:.4g}) on {list(batch.names)}; "
            "the last checkpoint is kept: lower train.learning_rate or set train.precision to fp32, then --resume"
        )
    optimizer.step()
    return prediction, values, norm


def _figure(batch: Batch, prediction: Prediction):
    """The first pair of the batch with truth and errors."""
    left, right = ((x[0].permute(1, 2, 0) * 255).byte().cpu().numpy() for x in (batch.left, batch.right))
    truth = {name: getattr(batch, name)[0].cpu().numpy() for name in ("disp", "valid", "occluded")}
    return pair_figure(left, prediction.to_map(), Sample(left, right, **truth))


def _validate(model: Network, validate, writer: SummaryWriter, step: int) -> dict[str, float]:
    """Score in evaluation mode without touching the training's random state."""
    with torch.random.fork_rng(), torch.no_grad():
        model.eval()
        numbers = validate(model)
        model.train()
    for name, value in numbers.items():
        writer.add_scalar(f"validation/{name}", value, step)
    listed = ", ".join(f"{name} {value:.3f}" for name, value in numbers.items())
    tqdm.write(f"step {step}: validation {listed}", file=sys.stderr)
    return numbers


def _state(recipe: Recipe, model, optimizer, step: int, seconds: float) -> dict:
    return {
        "recipe": to_dict(recipe),
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "step": step,
        "seconds": seconds,  # of training, summed over resumes
        "random": torch.get_rng_state(),
    }


def _restore(path: Path, recipe: Recipe, model, optimizer) -> tuple[int, float]:
    """Load a checkpoint into model and optimiser; the step to go on with, and the seconds spent so far."""
    state = load_state(path)
    if model_config(state["recipe"]["model"], f"checkpoint '{path}'") != recipe.model:
        raise InputError(f"checkpoint '{path}' was trained with another [model] section; start a new run folder")
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    for group in optimizer.param_groups:  # what the recipe says now, not what it said when the run began
        group["weight_decay"] = recipe.train.weight_decay
    torch.set_rng_state(state["random"])
    return state["step"], state["seconds"]
