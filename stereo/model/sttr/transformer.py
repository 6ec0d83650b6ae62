"""Alternating self and cross attention with relative positions: the "attend" stage (STTR section 3.2, SPEC 1.7 and 1.8)."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from stereo.attention.position import Position, RelativeTerms, Rotary
from stereo.model.recompute import Stack

Table = Tensor | Rotary | None  # of positions: STTR's relative sine (2w-1, C), or what needs no table, or nothing


class RelativeAttention(nn.Module):
    """Projections around one operator; the same query and key projections read the table of positions, biases included."""

    def __init__(self, channels: int, heads: int, operator: nn.Module):
        super().__init__()
        self.heads, self.operator = heads, operator
        self.query, self.key, self.value, self.out = (nn.Linear(channels, channels) for _ in range(4))
        for projection in (self.query, self.key, self.value):  # Xavier over the three of them stacked, as published
            nn.init.uniform_(projection.weight, -((1.5 / channels) ** 0.5), (1.5 / channels) ** 0.5)
        for projection in (self.query, self.key, self.value, self.out):
            nn.init.zeros_(projection.bias)

    def forward(self, x: Tensor, source: Tensor, table: Table, side: Tensor | None = None) -> Tensor:
        """x (B,h,w,C) queries, source (B,h,w,C) keys and values, table -> message (B,h,w,C)."""
        q, k, position = self.project(x, source, table)
        message = self.operator(q, k, self._split(self.value(source)), scope="row", side=side, position=position)
        return self.out(message.flatten(-2))

    def project(self, x: Tensor, source: Tensor, table: Table) -> tuple[Tensor, Tensor, Position | None]:
        """Queries, keys (B,h,w,heads,d) and positions: what a row of scores is made of."""
        q, k = self._split(self.query(x)), self._split(self.key(source))
        if not isinstance(table, Tensor):
            return q, k, table
        return q, k, RelativeTerms(self._split(self.query(table)) * q.shape[-1] ** -0.5, self._split(self.key(table)))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1))


class SelfLayer(nn.Module):
    """x + attention(norm(x)) along each view's own rows."""

    def __init__(self, channels: int, heads: int, operator: nn.Module):
        super().__init__()
        self.within = RelativeAttention(channels, heads, operator)
        self.norm1 = nn.LayerNorm(channels)

    def forward(self, x: Tensor, table: Table) -> Tensor:
        y = self.norm1(x)
        return x + self.within(y, y, table)


class CrossLayer(nn.Module):
    """The right view looks at the left one, then the left view at the right one as it is by now; one set of weights."""

    def __init__(self, channels: int, heads: int, operator: nn.Module):
        super().__init__()
        self.across = RelativeAttention(channels, heads, operator)
        self.norm1, self.norm2 = nn.LayerNorm(channels), nn.LayerNorm(channels)

    def forward(self, left: Tensor, right: Tensor, table: Table) -> tuple[Tensor, Tensor]:
        query, key, right = self.meet(left, right, table)
        return left + self.across(query, key, table), right

    def meet(self, left: Tensor, right: Tensor, table: Table) -> tuple[Tensor, Tensor, Tensor]:
        """Update the right view -> left queries, right keys (both normalised), right features; (B,h,w,C) each."""
        query = self.norm1(left)
        flipped = table.flip(0) if isinstance(table, Tensor) else table and table.mirrored()  # left minus right, whoever asks
        right = right + self.across(self.norm1(right), query, flipped)
        return query, self.norm2(right), right


class SttrTransformer(Stack):
    """Tokens of both views -> queries of the left and keys of the right view for the match, (B, h, w, heads, d) each.

    The last cross layer ends where its left update would begin: only the scores of that update are ever used, and they are
    the match (SPEC 1.8). So the matching shares its projections, in training too; copies would drift apart.
    """

    def __init__(self, channels: int, heads: int, layers: int, make_operator: Callable[[int], nn.Module]):
        super().__init__()
        self.self_layers = nn.ModuleList(SelfLayer(channels, heads, make_operator(i)) for i in range(layers))
        self.cross_layers = nn.ModuleList(CrossLayer(channels, heads, make_operator(i)) for i in range(layers))
        for layer_list in (self.self_layers, self.cross_layers):
            for layer in layer_list[1:]:
                layer.load_state_dict(layer_list[0].state_dict())  # equal at first, as published (SPEC 1.5)
        self.norm = nn.LayerNorm(channels)  # never used, never trained; published checkpoints hold it (SPEC P15)

    def forward(self, x: Tensor, table: Table) -> tuple[Tensor, Tensor, Position | None]:
        """x (2B, h, w, C), left images first; -> q, k, positions."""
        last = len(self.cross_layers) - 1
        for i, (self_layer, cross_layer) in enumerate(zip(self.self_layers, self.cross_layers, strict=True)):
            left, right = self.run(self_layer, x, table).chunk(2)
            if i < last:
                x = torch.cat(self.run(cross_layer, left, right, table))
        final = cast(CrossLayer, self.cross_layers[last])
        query, key, _ = final.meet(left, right, table)
        return final.across.project(query, key, table)
