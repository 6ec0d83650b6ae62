"""An average of the weights over the steps, which generalises better than the last ones."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

HEAD_START = 10  # steps: until then hardly more than the mean, or random first weights would stay in it for long


class Average:
    """weights <- decay * weights + (1 - decay) * those of the model, at each ``update``.

    decay: what is reached in the end; update n (from 1) uses (1 + n) / (10 + n) where that is less.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay, self.updates = decay, 0
        self.weights = {name: value.detach().clone() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (HEAD_START + self.updates))
        for name, value in model.state_dict().items():
            self.weights[name].lerp_(value, 1 - decay)

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self.updates, "weights": self.weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.updates = state["updates"]
        for name, value in state["weights"].items():
            self.weights[name].copy_(value)


@contextmanager
def holding(model: nn.Module, weights: dict[str, Tensor] | None) -> Iterator[None]:
    """Put ``weights`` into the model inside the block; its own, to the bit, are back afterwards. None changes nothing."""
    if weights is None:
        yield
        return
    own = {name: value.clone() for name, value in model.state_dict().items()}
    model.load_state_dict(weights)
    try:
        yield
    finally:
        model.load_state_dict(own)
