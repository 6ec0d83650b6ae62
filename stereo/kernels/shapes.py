"""Results without content, for tracing (torch.compile, export): one definition for the operators of every compiled backend."""

from __future__ import annotations

import torch
from torch import Tensor


def like(x: Tensor) -> Tensor:
    return x.new_empty(x.shape)


def scores(q: Tensor, k: Tensor, index: Tensor) -> Tensor:
    return q.new_empty(index.shape)


def values(weights: Tensor, v: Tensor, index: Tensor) -> Tensor:
    return v.new_empty((*index.shape[:4], v.shape[-1]))


def pooled(x: Tensor, *_: bool) -> Tensor:
    B, H, W, heads, d = x.shape
    return x.new_empty((B, (H + 1) // 2, (W + 1) // 2, heads, d))


def norm(x: Tensor, scale: Tensor, *_) -> tuple[Tensor, Tensor]:
    return like(x), scale.new_empty((2, x.numel() // max(x.shape[-1], 1)))


def norm_gradients(grad, x, scale, y, statistics, residual, relu) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return like(x), like(scale), like(scale), like(x) if residual else x.new_empty(0)


def level(q, k, v, parent, coarse, share, side, topk, turn_q, turn_k) -> tuple[Tensor, Tensor]:
    kept = min(topk, k.shape[2] if parent is None else 2 * parent.shape[-1])
    return like(q), q.new_empty((*q.shape[:4], kept), dtype=torch.int32)


def level_gradients(grad, q, k, v, parent, share, *_) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return like(q), like(k), like(v), like(share)


def propagation(disp: Tensor, *_) -> tuple[Tensor, Tensor]:
    return like(disp), like(disp)


def propagation_gradients(grad_disp, grad_confidence, disp, confidence, logits, q, k, dilation) -> tuple[Tensor, ...]:
    return like(disp), like(confidence), like(logits), like(q), like(k)
