"""Attention operators, side by side, one contract: see stereo.attention.contract."""

from __future__ import annotations

from typing import Any

from torch import nn

from stereo.attention.dense import DenseAttention
from stereo.attention.quadtree import QuadtreeA, QuadtreeB
from stereo.config import near_matches
from stereo.types import InputError

ATTENTION: dict[str, type[nn.Module]] = {"dense": DenseAttention, "quadtree_a": QuadtreeA, "quadtree_b": QuadtreeB}


def build_attention(name: str, **options: Any) -> nn.Module:
    """The operator of that name, for example ``build_attention("quadtree_b", levels=4, topk=8)``.

    Call it as ``operator(q, k, v, scope="row")`` with q (B,H,W,heads,d), k and v (B,Hk,Wk,heads,d).
    Raises InputError for an unknown name, TypeError for an option that the operator does not have.
    """
    if name not in ATTENTION:
        raise InputError(f"unknown attention '{name}': {near_matches(str(name), ATTENTION)}")
    return ATTENTION[name](**options)
