"""What the tests of the attention operators share: the variants under test, inputs, and full attention as anyone writes it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stereo.attention import ATTENTION, build_attention, options_of

EVERYTHING = 1000  # a K larger than any row used here
ODD_WIDTHS = [1, 2, 7, 31, 33, 100]
UNEQUAL_WIDTHS = [(7, 12), (12, 7), (1, 5), (5, 1), (33, 100)]

# float64 against float64, two orders of the same sums of order 1: rounding stays below 1e-13.
EXACT = {"rtol": 0.0, "atol": 1e-12}
# The rotary angles are float32 on purpose (they are tables, not learned): up to 100 tokens times a quarter turn, half a
# float32 rounding of that is 1e-5, times dot products of order 1.
ROTARY = {"rtol": 0.0, "atol": 2e-5}


@dataclass(frozen=True)
class Variant:
    """One operator with one set of options, and what it does not promise.

    block: how many columns may share what is read of them, and rows too in a quadtree. any_grids: query and key rows may
    differ in width. averages: the message is a mean of values, with weights that sum to 1. everything: no token goes unread.
    """

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    block: int = 1
    any_grids: bool = True
    averages: bool = True
    everything: bool = True

    @property
    def rows(self) -> int:
        return self.block if self.name.startswith("quadtree") else 1

    def build(self, dtype: torch.dtype = torch.float64, head_dim: int = 8) -> nn.Module:
        sizes = {"head_dim": head_dim} if "head_dim" in options_of(self.name) else {}
        operator = build_attention(self.name, **self.options, **sizes).to(dtype)
        generator = torch.Generator().manual_seed(0)
        for parameter in operator.parameters():  # away from any symmetric start
            parameter.data.copy_(torch.randn(parameter.shape, generator=generator))
        return operator

    def __str__(self) -> str:
        return "-".join([self.name, *(f"{key}{value}" for key, value in self.options.items())])


OPTIONS: dict[str, list[Variant]] = {
    "quadtree_a": [
        Variant("quadtree_a", {"levels": 3, "topk": 2, "pool": "mean"}, block=4),
        Variant("quadtree_a", {"levels": 3, "topk": (3, 2, 1), "pool": "mean_max"}, block=4),
        Variant("quadtree_a", {"levels": 2, "topk": EVERYTHING}, block=2),
        Variant("quadtree_a", {"levels": 1, "topk": 1}, block=1),
    ],
    "quadtree_b": [
        Variant("quadtree_b", {"levels": 3, "topk": 2, "pool": "mean"}, block=4),
        Variant("quadtree_b", {"levels": 3, "topk": 2, "pool": "mean_max"}, block=4),
        Variant("quadtree_b", {"levels": 3, "topk": [1, 3, 1], "kernel": "reference"}, block=4),
        Variant("quadtree_b", {"levels": 2, "topk": EVERYTHING}, block=2),
        Variant("quadtree_b", {"levels": 1, "topk": 1}, block=1),
    ],
    "spatial_reduction": [Variant("spatial_reduction", {"reduction": r}, block=r) for r in (1, 4)],
    "window": [
        Variant("window", {"window": 4}, any_grids=False),
        Variant("window", {"window": 8, "shifted": True, "kernel": "reference"}, any_grids=False),
    ],
    "bilevel_routing": [
        Variant("bilevel_routing", {"region": 4, "topk": EVERYTHING}, block=4),
        Variant("bilevel_routing", {"region": 4, "topk": 2}, block=4, everything=False),
    ],
    "additive": [
        Variant("additive", {"values": True}, any_grids=False, averages=False),
        Variant("additive", {"values": False}, any_grids=False, averages=False, everything=False),
    ],
}
# A new operator joins the suite by being registered; it needs an entry in OPTIONS only where its defaults do not suit.
VARIANTS = [variant for name in ATTENTION for variant in OPTIONS.get(name, [Variant(name)])]
each_operator = pytest.mark.parametrize("variant", VARIANTS, ids=str)
each_average = pytest.mark.parametrize("variant", [v for v in VARIANTS if v.averages], ids=str)


def make_inputs(
    height: int, width: int, key_width: int | None = None, batch: int = 1, heads: int = 2, d: int = 8, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    columns = (width, width, width) if key_width is None else (width, key_width, key_width)
    q, k, v = (torch.randn(batch, height, n, heads, d, generator=generator, dtype=torch.float64) for n in columns)
    return q, k, v


def side_of(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.int64)


def only_level(operator: nn.Module, level: int) -> nn.Module:
    """Let one level speak alone: the softmax of the level weights is then exactly 1 there and 0 elsewhere."""
    with torch.no_grad():
        operator.level_weights.fill_(float("-inf"))
        operator.level_weights[level] = 0.0
    return operator


def plain_attention(q: Tensor, k: Tensor, v: Tensor, side: int = 0) -> Tensor:
    """Full attention along the row as anyone writes it, in the dtype of the inputs."""
    scores = torch.einsum("bhind,bhjnd->bhnij", q, k) / q.shape[-1] ** 0.5
    i, j = torch.arange(q.shape[2])[:, None], torch.arange(k.shape[2])
    scores = scores.masked_fill(side * (i - j) < 0, float("-inf"))
    return torch.einsum("bhnij,bhjnd->bhind", scores.softmax(dim=-1), v)


def shaped(*shape: int) -> Tensor:
    return torch.zeros(shape)


GOOD = (1, 2, 5, 2, 4)
