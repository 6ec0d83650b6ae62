"""Where on its row a query would look: the quadtree's descent without the message."""

from __future__ import annotations

import torch
from torch import Tensor

from stereo import kernels
from stereo.attention.sparse import KeyGrid, child_nodes
from stereo.attention.tree import effective_levels, pool_grid
from stereo.kernels import reference


@torch.no_grad()
def row_candidates(
    q: Tensor, k: Tensor, levels: int, topk: int, side: Tensor | None = None, kernel: str = "auto"
) -> Tensor:
    """The children of the topk keys with the highest products on the level above -> (B, H, W, heads, M) int64, M <= 2 * topk.

    q (B, H, W, heads, d), k (B, H, Wk, heads, d), side as in stereo.attention.contract. An entry of Wk or more names no key;
    all others are distinct. A list may hold keys that ``side`` forbids. When all keys of a level are kept, so are all of k.
    """
    grid = KeyGrid.of(k, "row")
    fused = kernels.fused(kernel, k)
    shrink = pool_grid if fused is None else fused.pool
    level = reference.quadtree_level if fused is None else fused.quadtree_level
    tree = [(q, k)]
    for _ in range(effective_levels(levels, grid) - 1):
        tree.append((shrink(tree[-1][0], True), shrink(tree[-1][1], True)))
    if len(tree) == 1:
        return torch.arange(grid.count, device=q.device).expand(*q.shape[:4], -1)
    chosen, share = None, torch.ones((), device=q.device)
    for queries, keys in reversed(tree[1:]):
        _, chosen = level(queries, keys, keys, chosen, None, share, side, topk, None)
    assert chosen is not None  # there are two levels at least
    return reference.to_children(child_nodes(chosen.long(), KeyGrid.of(tree[1][1], "row"), grid), q)
