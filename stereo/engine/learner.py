"""What learns: a network with its average, its optimiser and its loss scale, and the step that changes them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from stereo.config import Recipe
from stereo.engine.distributed import add_up, add_up_gradients, world_size
from stereo.engine.ema import Average, holding
from stereo.engine.optimiser import build_optimizer, load_optimizer, set_rate
from stereo.losses import stereo_loss
from stereo.model.build import Network
from stereo.model.recompute import recompute_layers
from stereo.types import Batch, Prediction

AUTOCAST = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
LEAST_SCALE = 1.0  # of the loss in fp16: what still overflows here is the network's fault, not the scale's


@dataclass(frozen=True)
class Outcome:
    """One step. The numbers are those of all its batches, in all processes; the batches are this process's.

    terms:      means of the loss terms, "total" among them.
    epe:        mean |error| in px over pixels that both cameras see; NaN when there is none.
    norm:       of the gradient, before clipping.
    rate:       the learning rate.
    updated:    False when the loss or the gradient is not finite and nothing was changed.
    overflowed: not updated, but only because fp16's loss scale was too high; it is lower now.
    prediction: of the last batch.
    """

    terms: dict[str, float]
    epe: float
    norm: float
    rate: float
    updated: bool
    overflowed: bool
    prediction: Prediction
    batches: Sequence[Batch]
    suspects: Sequence[Batch]  # the batches whose loss is not finite; all of them when only the gradient is not


class Learner:
    """Moves ``model`` to ``device`` and trains it in place."""

    def __init__(self, model: Network, recipe: Recipe, device: torch.device) -> None:
        train = recipe.train
        self.recipe, self.device = recipe, device
        self.model = model.to(device).train()
        recompute_layers(model, train.gradient_checkpointing)
        self.network: Any = torch.compile(model) if train.compile else model
        self.optimizer = build_optimizer(model, train)
        self.average = Average(model, train.ema) if train.ema else None
        self.scaler = torch.amp.GradScaler(device.type, enabled=train.precision == "fp16")

    def step(self, batches: Sequence[Batch], factor: float) -> Outcome:
        """One update from the mean gradient of ``batches`` and the other processes' batches, at ``factor`` of the peak rate."""
        train = self.recipe.train
        rate = train.learning_rate * factor
        set_rate(self.optimizer, rate)
        self.optimizer.zero_grad(set_to_none=True)
        batches = [batch.to(self.device) for batch in batches]
        count = len(batches) * world_size()
        results = [self._backward(batch, count) for batch in batches]
        add_up_gradients(self.model.parameters())
        self.scaler.unscale_(self.optimizer)
        norm = float(torch.nn.utils.clip_grad_norm_(self.model.parameters(), train.clip_norm))
        terms, epe = _means([figures for _, figures in results], count)
        finite, scale = math.isfinite(terms["total"]), self.scaler.get_scale()
        updated = finite and math.isfinite(norm)
        if updated:
            self.scaler.step(self.optimizer)
            if self.average:
                self.average.update(self.model)
        self.scaler.update()
        return Outcome(
            terms, epe, norm, rate, updated,
            overflowed=finite and not updated and self.scaler.is_enabled() and scale > LEAST_SCALE,
            prediction=results[-1][0],
            batches=batches,
            suspects=[
                batch
                for batch, (_, figures) in zip(batches, results, strict=True)
                if not updated and (finite or not figures["total"].isfinite())
            ],
        )  # fmt: skip

    def _backward(self, batch: Batch, count: int) -> tuple[Prediction, dict[str, Tensor]]:
        """Add one batch's share of the gradient; its prediction and figures, which no graph hangs on."""
        dtype = AUTOCAST[self.recipe.train.precision]
        with torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32):
            prediction = self.network(batch.left, batch.right)
        terms = stereo_loss(prediction, batch, self.recipe.loss)
        self.scaler.scale(terms["total"] / count).backward()
        seen, error = visible_error(prediction, batch)
        figures = {name: term.detach() for name, term in terms.items()} | {"seen": seen, "error": error}
        return prediction.detached(), figures

    def shown(self) -> AbstractContextManager[None]:
        """Inside the block the network holds what is validated and shipped: the average where there is one."""
        return holding(self.model, self.average.weights if self.average else None)

    def state(self) -> dict[str, Any]:
        state = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict()}
        return state | ({"ema": self.average.state_dict()} if self.average else {})

    def load(self, state: dict[str, Any], where: str) -> None:
        """Go on from ``state``. Raises InputError, naming ``where``, when it does not fit.

        An average that the run did not have until now begins with the weights of ``state``.
        """
        self.model.load_state_dict(state["model"])
        load_optimizer(self.optimizer, state["optimizer"], where)
        if state.get("scaler"):
            self.scaler.load_state_dict(state["scaler"])
        if self.average:
            self.average = Average(self.model, self.recipe.train.ema)
            if "ema" in state:
                self.average.load_state_dict(state["ema"])


def visible_error(prediction: Prediction, batch: Batch) -> tuple[Tensor, Tensor]:
    """How many pixels both cameras see, and the sum of |error| in px over them; float64 scalars."""
    seen = batch.valid & ~batch.occluded
    error = (prediction.disp.detach() - batch.disp).abs()
    return seen.sum(dtype=torch.float64), torch.where(seen, error, 0).sum(dtype=torch.float64)


def _means(figures: Sequence[dict[str, Tensor]], count: int) -> tuple[dict[str, float], float]:
    """Over the batches of all processes, ``count`` in number: loss terms, and the error per visible pixel."""
    names = list(figures[0])
    sums = torch.stack([torch.stack([batch[name].double() for name in names]) for batch in figures]).sum(0)
    totals = dict(zip(names, add_up(sums).tolist(), strict=True))
    seen, error = totals.pop("seen"), totals.pop("error")
    return {name: total / count for name, total in totals.items()}, error / seen if seen else math.nan
