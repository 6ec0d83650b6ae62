"""Alternating self and cross attention along epipolar lines: the "attend" stage (STTR section 3.2, QuadTree operators)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stereo.attention.position import Position, RelativeTerms, Rotary, relative_sine, rotary_frequencies
from stereo.model.layers import TokenNorm
from stereo.model.recompute import Stack

Code = Tensor | str  # of positions


class AttentionLayer(nn.Module):
    """Projections around one operator: x (B, h, w, C) queries, source (B, h, w, C) keys and values -> message (B, h, w, C)."""

    frequencies: Tensor

    def __init__(self, channels: int, heads: int, operator: nn.Module):
        super().__init__()
        self.heads, self.operator = heads, operator
        self.query = nn.Linear(channels, channels)
        self.key_value = nn.Linear(channels, 2 * channels)
        self.out = nn.Linear(channels, channels)
        self.register_buffer("frequencies", rotary_frequencies(channels // heads), persistent=False)

    def forward(self, x: Tensor, source: Tensor, code: Code, side: Tensor | None = None) -> Tensor:
        """code: "rotary", "none", or a table of relative positions (2w-1, C)."""
        q = self.query(x).unflatten(-1, (self.heads, -1))  # (B, h, w, heads, d)
        k, v = self._key_value(source)
        message = self.operator(q, k, v, scope="row", side=side, position=self._position(code))
        return self.out(message.flatten(-2))

    def _key_value(self, source: Tensor) -> tuple[Tensor, Tensor]:
        k, v = self.key_value(source).unflatten(-1, (2, self.heads, -1)).unbind(-3)
        return k, v

    def _position(self, code: Code) -> Position | None:
        if isinstance(code, Tensor):
            queries = self.query(code).unflatten(-1, (self.heads, -1))
            return RelativeTerms(queries * queries.shape[-1] ** -0.5, self._key_value(code)[0])
        return Rotary(self.frequencies) if code == "rotary" else None


class FeedForward(nn.Module):
    """Token-wise MLP with a depthwise 3x3 inside: the only place after the backbone where rows meet (SPEC 3.6)."""

    def __init__(self, channels: int, expansion: int):
        super().__init__()
        hidden = expansion * channels
        self.wide = nn.Linear(channels, hidden)
        self.mix = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.narrow = nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.wide(x)  # (B, h, w, hidden)
        mixed = self.mix(hidden.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return self.narrow(F.gelu(hidden + mixed))


class Layer(nn.Module):
    """Pre-norm self attention, cross attention and feed-forward, the same weights for both views."""

    def __init__(self, channels: int, heads: int, expansion: int, operators: Sequence[nn.Module]):
        super().__init__()
        self.self_attention = AttentionLayer(channels, heads, operators[0])
        self.cross_attention = AttentionLayer(channels, heads, operators[1])
        self.feed_forward = FeedForward(channels, expansion)
        self.norms = nn.ModuleList(TokenNorm(channels) for _ in range(3))

    def forward(self, x: Tensor, side: Tensor, code: Code) -> Tensor:
        """x (2B, h, w, C): all left images, then all right ones. side (2B,): +1 left, -1 right."""
        y = self.norms[0](x)
        x = x + self.self_attention(y, y, code)
        y = self.norms[1](x)
        x = x + self.cross_attention(y, torch.cat(y.chunk(2)[::-1]), code, side)  # both views at once, from the old features
        return x + self.feed_forward(self.norms[2](x))


class Transformer(Stack):
    """left, right (B, C, h, w) -> left, right (B, h, w, C), each aware of the other.

    make_operator(i): an operator for layer i. position: rotary | relative | none.
    """

    def __init__(
        self,
        channels: int,
        heads: int,
        layers: int,
        expansion: int,
        make_operator: Callable[[int], nn.Module],
        position: str = "rotary",
    ):
        super().__init__()
        self.layers = nn.ModuleList(
            Layer(channels, heads, expansion, [make_operator(i), make_operator(i)]) for i in range(layers)
        )
        self.norm = TokenNorm(channels)
        self.position = position

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """features (2B, C, h, w), left images first."""
        x = features.permute(0, 2, 3, 1)
        side = torch.ones(len(x), dtype=torch.int64, device=x.device)
        side[len(x) // 2 :] = -1
        code: Code = self.position
        if code == "relative":
            code = relative_sine(x.shape[2], x.shape[3], scale=1.0).to(x)
        for layer in self.layers:
            x = self.run(layer, x, side, code)
        left, right = self.norm(x).chunk(2)
        return left, right
