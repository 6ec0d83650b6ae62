"""The quadtree itself, shared by its operators: levels, pooled one from the other, and what hangs between two of them.

Levels are numbered finest first: level 0 holds tokens, a node of level l + 1 stands for 2x2 nodes of level l.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from stereo.attention.sparse import KeyGrid


def effective_levels(levels: int, keys: KeyGrid) -> int:
    """Levels that still choose: the coarsest must hold at least two keys, so small inputs drop the coarse ones."""
    while levels > 1 and max(keys.height, keys.width) <= 2 ** (levels - 1):
        levels -= 1
    return levels


def pool_grid(x: Tensor, with_max: bool, visible: Tensor | None = None) -> Tensor:
    """2x2 pooling of (B, H, W, heads, d) -> (B, ceil(H/2), ceil(W/2), heads, d). A cell beyond the edge counts nowhere.

    ``with_max`` gives the average of mean and maximum, which keeps thin structures visible to the coarse levels.
    Cells that ``visible`` (B, H, W) bool denies count nowhere either; a node of such cells alone is 0.
    """
    planes = x.flatten(-2).permute(0, 3, 1, 2)  # channels-last, no copy
    if visible is None:
        pooled = _mean(planes)
        if with_max:
            pooled = (pooled + _max(planes)) / 2
    else:
        seen = visible[:, None]  # (B, 1, H, W)
        share = _mean(seen.to(x.dtype))
        pooled = _mean(planes.masked_fill(~seen, 0)) / share.clamp(min=0.25)  # of at most four cells
        if with_max:
            pooled = (pooled + _max(planes.masked_fill(~seen, float("-inf")))) / 2
        pooled = pooled.masked_fill(share == 0, 0)
    return pooled.permute(0, 2, 3, 1).unflatten(-1, x.shape[-2:])


def pool_mask(visible: Tensor) -> Tensor:
    """(B, H, W) bool -> (B, ceil(H/2), ceil(W/2)) bool: a node may be seen if one of its children may."""
    return _max(visible[:, None].float())[:, 0] > 0


def _mean(planes: Tensor) -> Tensor:
    return F.avg_pool2d(planes, 2, ceil_mode=True, count_include_pad=False)


def _max(planes: Tensor) -> Tensor:
    return F.max_pool2d(planes, 2, ceil_mode=True)


@dataclass(frozen=True)
class Pyramid:
    """All levels of one attention, finest first: queries, keys and values (B, H_l, W_l, heads, d).

    Queries are scaled by d^-0.5. visible: masks (B, Hk_l, Wk_l) bool of the keys that may be seen, or None for all.
    """

    queries: list[Tensor]
    keys: list[Tensor]
    values: list[Tensor]
    visible: list[Tensor] | None = None

    @classmethod
    def pooled(
        cls,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        levels: int,
        with_max: bool,
        key_mask: Tensor | None = None,
        pool: Callable[[Tensor, bool], Tensor] | None = None,
    ) -> Pyramid:
        """``with_max`` concerns queries and keys, which are compared; values are always averaged.

        pool: does what ``pool_grid`` does without a mask, faster.
        """
        masks = None if key_mask is None else [key_mask]
        unmasked = pool or pool_grid
        queries, keys, values = [q * q.shape[-1] ** -0.5], [k], [v]
        for _ in range(levels - 1):
            queries.append(unmasked(queries[-1], with_max))
            if masks is None:
                keys.append(unmasked(keys[-1], with_max))
                values.append(unmasked(values[-1], False))
            else:
                keys.append(pool_grid(keys[-1], with_max, masks[-1]))
                values.append(pool_grid(values[-1], False, masks[-1]))
                masks.append(pool_mask(masks[-1]))
        return cls(queries, keys, values, masks)
