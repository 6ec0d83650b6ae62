"""Lists of candidate keys per query: how they are named, which count, and the two products over them in row and image scope."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from stereo import kernels
from stereo.attention.contract import as_rows, side_mask
from stereo.attention.position import Position


@dataclass(frozen=True)
class KeyGrid:
    """The keys that an index can name: row-major, height x width. In row scope only those of the query's own row.

    An index of ``count`` or more names a key that does not exist; so do all of its children, by the same arithmetic.
    """

    height: int
    width: int

    @classmethod
    def of(cls, k: Tensor, scope: str) -> KeyGrid:
        """k (B, Hk, Wk, heads, d)."""
        return cls(1 if scope == "row" else k.shape[1], k.shape[2])

    @property
    def count(self) -> int:
        return self.height * self.width

    def columns(self, index: Tensor) -> Tensor:
        return index if self.height == 1 else index % self.width

    def existing(self, index: Tensor) -> Tensor:
        """An index that the kernels can read, in place of any that names nothing."""
        return index.clamp(max=self.count - 1)


def child_nodes(chosen: Tensor, coarse: KeyGrid, fine: KeyGrid, factor: int = 2) -> Tensor:
    """Children of the chosen nodes: (..., K) indices on ``coarse`` -> (..., C * K) on ``fine``, entry c * K + k = child c of k.

    A node covers factor x factor keys, C = factor^2 row by row; where ``fine`` is a single row it covers C = factor.
    """
    split = 1 if fine.height == 1 else factor
    rows, columns = (chosen // coarse.width) * split, (chosen % coarse.width) * factor
    children = []
    for row in range(split):
        for column in range(factor):
            exists = (rows + row < fine.height) & (columns + column < fine.width)
            children.append(torch.where(exists, (rows + row) * fine.width + columns + column, fine.count))
    return torch.cat(children, dim=-1)


def allowed_candidates(
    candidates: Tensor, keys: KeyGrid, scope: str, side: Tensor | None, visible: Tensor | None = None
) -> Tensor:
    """Which candidates (B, H, W, heads, M) exist, lie on the allowed side of the query's column, and may be seen."""
    allowed = candidates < keys.count
    columns = torch.arange(candidates.shape[2], device=candidates.device)[:, None, None]
    one_sided = None if side is None else side_mask(side, columns - keys.columns(candidates))
    if one_sided is not None:
        allowed = allowed & one_sided
    if visible is not None:
        index = as_rows(keys.existing(candidates), scope).flatten(2)  # (B, H or 1, ...)
        allowed = allowed & as_rows(visible, scope).gather(-1, index).view(candidates.shape)
    return allowed


def candidate_scores(
    q: Tensor,
    k: Tensor,
    existing: Tensor,
    scope: str,
    columns: tuple[Tensor, Tensor],
    position: Position | None,
    kernel: str,
) -> Tensor:
    """Products of scaled queries with their candidates, position worked in -> (B, H, W, heads, M).

    columns: of the tokens of as_rows(q) and as_rows(k), in finest tokens.
    """
    q, k, index = (as_rows(x, scope) for x in (q, k, existing))
    backend = kernels.select(kernel, k)
    terms = None
    if position is not None:
        q, k = (position.encode(x, at) for x, at in zip((q, k), columns, strict=True))
        if backend is not kernels.reference and k.shape[2] <= kernels.MATMUL_MAX_WIDTH:  # there a product beats gathering
            whole = position.terms(q, k, *columns)
            terms = None if whole is None else whole.gather(-1, index)
        else:
            terms = position.terms(q, k, *columns, index)
    scores = backend.gather_scores(q, k, index)
    return (scores if terms is None else scores + terms).view(existing.shape)


def candidate_values(weights: Tensor, v: Tensor, existing: Tensor, scope: str, kernel: str) -> Tensor:
    """Values of the candidates times their weights -> (B, H, W, heads, d)."""
    weights, v, index = (as_rows(x, scope) for x in (weights, v, existing))
    message = kernels.select(kernel, v).gather_values(weights, v, index)
    return message.view(*existing.shape[:-1], v.shape[-1])
