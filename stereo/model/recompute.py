"""Gradient checkpointing: a layer keeps its inputs only, and is computed once more in the backward pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


class Stack(nn.Module):
    """A stack of layers that may be recomputed. ``recompute_layers`` sets ``recomputed``, which changes memory, not results."""

    recomputed = False

    def run(self, layer: nn.Module, *inputs: Any) -> Any:
        """layer(*inputs)."""
        if not (self.recomputed and torch.is_grad_enabled()):
            return layer(*inputs)
        return checkpoint(layer, *inputs, use_reentrant=False, preserve_rng_state=False)  # no layer draws random numbers


def recompute_layers(model: nn.Module, recomputed: bool) -> None:
    """Have every stack of layers inside ``model`` recomputed, or not."""
    for module in model.modules():
        if isinstance(module, Stack):
            module.recomputed = recomputed
