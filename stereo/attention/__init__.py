"""Attention operators, side by side, one contract: see stereo.attention.contract."""

from __future__ import annotations

import inspect
import math
from typing import Any

from torch import nn

from stereo.attention.additive import AdditiveAttention
from stereo.attention.bilevel_routing import BilevelRouting
from stereo.attention.dense import DenseAttention
from stereo.attention.linear import LinearAttention
from stereo.attention.quadtree import QuadtreeA, QuadtreeB
from stereo.attention.spatial_reduction import SpatialReduction
from stereo.attention.window import WindowAttention
from stereo.config import AttentionConfig, near_matches
from stereo.types import InputError

ATTENTION: dict[str, type[nn.Module]] = {
    "dense": DenseAttention,
    "quadtree_a": QuadtreeA,
    "quadtree_b": QuadtreeB,
    "linear": LinearAttention,
    "spatial_reduction": SpatialReduction,
    "window": WindowAttention,
    "bilevel_routing": BilevelRouting,
    "additive": AdditiveAttention,
}


def options_of(name: str) -> set[str]:
    """Names of the options that the operator has. Raises InputError for an unknown name."""
    if name not in ATTENTION:
        raise InputError(f"unknown attention '{name}': {near_matches(str(name), ATTENTION)}")
    parameters = inspect.signature(ATTENTION[name]).parameters.values()
    return {p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD}  # not the *args, **kwargs of nn.Module


def grid_period(config: AttentionConfig) -> int:
    """Tokens after which the operator's grids repeat: a part that begins at a multiple of it is pooled as in the whole."""
    sides = {"levels": 2 ** (config.levels - 1)} | {name: getattr(config, name) for name in ("reduction", "window", "region")}
    return math.lcm(*(side for name, side in sides.items() if name in options_of(config.attention)))


def build_attention(name: str, **options: Any) -> nn.Module:
    """The operator of that name, for example ``build_attention("quadtree_b", levels=4, topk=8)``.

    Options are described at the class. Call it as ``operator(q, k, v, scope="row")`` with q (B,H,W,heads,d), k and v
    (B,Hk,Wk,heads,d).
    Raises InputError for an unknown name, TypeError for an option that the operator does not have.
    """
    unknown = set(options) - options_of(name)
    if unknown:
        known = ", ".join(sorted(options_of(name))) or "none"
        raise TypeError(f"{name} has no option {', '.join(sorted(unknown))}, expected one of: {known}")
    return ATTENTION[name](**options)
