"""Quadtree attention: coarse to fine, the best K keys of a query's node are split into their children on the next level.

QuadTree Attention (ICLR 2022, arXiv 2201.02767), variants A and B. Scope "image" is the paper's: 4K candidates per query and
level. Scope "row" carries it over to epipolar lines: a coarse row stands for 2^l fine rows, so a node still has four children,
but a query looks only into its own row of each level: 2K candidates, linear in the width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stereo import kernels
from stereo.attention.contract import check_inputs, check_key_mask, columns_of, masked_softmax
from stereo.attention.position import Position, Rotary
from stereo.attention.sparse import KeyGrid, allowed_candidates, candidate_scores, candidate_values, child_nodes
from stereo.attention.tree import Pyramid, effective_levels
from stereo.kernels.reference import to_children


@dataclass(frozen=True)
class Level:
    """What one level did, on its own grid of queries. Indices: see stereo.attention.sparse.KeyGrid."""

    number: int  # 0 is the finest
    candidates: Tensor  # (B, H_l, W_l, heads, M)
    weights: Tensor  # (B, H_l, W_l, heads, M): p_l of each candidate, 0 where it may not be seen
    best: Tensor | None  # (B, H_l, W_l, heads, K): places among the M of those that the next level splits; None on the finest
    spoken: Tensor  # (B, H_l, W_l, heads, M): the part of the weights that the message is made of
    message: Tensor  # (B, H_l, W_l, heads, d)

    def of_best(self, x: Tensor) -> Tensor:
        """``weights`` or ``candidates`` of the chosen ones -> (B, H_l, W_l, heads, K)."""
        assert self.best is not None
        return x.gather(-1, self.best)


class Quadtree(nn.Module):
    """The walk down the tree, common to both variants.

    levels: L, finest included; those that would leave a single key drop out. topk: K, keys kept per query and level, one number
    or one per level, coarsest first as in the public code (the finest level's is not used). pool: "mean" as published, or
    "mean_max". kernel: a backend name of stereo.kernels.
    """

    scopes = ("row", "image")
    watch: Callable[[Level], None] | None = None  # is shown every level as it was computed; fused kernels, which hide it, rest

    def __init__(self, levels: int = 4, topk: int | Sequence[int] = 8, pool: str = "mean_max", kernel: str = "auto"):
        super().__init__()
        per_level = [topk] * levels if isinstance(topk, int) else list(topk)
        if levels < 1 or min(per_level, default=0) < 1 or pool not in ("mean", "mean_max"):
            raise ValueError(f"expected levels >= 1, topk >= 1 and pool mean|mean_max, got {levels}, {topk}, {pool!r}")
        if len(per_level) != levels:
            raise ValueError(f"expected one topk or one for each of the {levels} levels, got {len(per_level)}: {topk}")
        self.levels, self.pool, self.kernel = levels, pool, kernel
        self.topk = per_level[::-1]  # finest first, like everything else here

    def forward(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        scope: str = "row",
        side: Tensor | None = None,
        position: Position | None = None,
        key_mask: Tensor | None = None,
    ) -> Tensor:
        """q (B,H,W,heads,d), k and v (B,Hk,Wk,heads,d) -> message (B,H,W,heads,d). See stereo.attention.contract.

        key_mask (B, Hk, Wk) bool, True = may be seen. A query that may see nothing gets the message 0.
        """
        check_inputs(self.scopes, q, k, v, scope, side)
        check_key_mask(key_mask, k)
        levels = effective_levels(self.levels, KeyGrid.of(k, scope))
        fast = kernels.fused(self.kernel, k)
        pool = None if fast is None else fast.pool
        return self.attend(Pyramid.pooled(q, k, v, levels, self.pool == "mean_max", key_mask, pool), scope, side, position)

    def attend(self, tree: Pyramid, scope: str = "row", side: Tensor | None = None, position: Position | None = None) -> Tensor:
        """The message (B, H, W, heads, d) from a pyramid that may have been pooled in any way."""
        shares = self.level_shares(len(tree.keys))
        message = mass = None
        for level in self.walk(tree, scope, side, position):
            if self.watch is not None:
                self.watch(level)
            here = level.message * shares[level.number]
            message = here if message is None else to_children(message, here) + here
            if tree.visible is not None:  # a chosen node may hold no child that this query may see: its weight is void
                weight = level.spoken.sum(dim=-1, keepdim=True) * shares[level.number]
                mass = weight if mass is None else to_children(mass, weight) + weight
        assert message is not None  # there is always the finest level
        return message if mass is None else message / mass.masked_fill(mass == 0, 1)

    def walk(
        self, tree: Pyramid, scope: str = "row", side: Tensor | None = None, position: Position | None = None
    ) -> Iterator[Level]:
        """One level after the other, coarsest first."""
        parent = coarse = None
        for number in reversed(range(len(tree.keys))):
            q, k, v = tree.queries[number], tree.keys[number], tree.values[number]
            visible = None if tree.visible is None else tree.visible[number]
            grid = KeyGrid.of(k, scope)
            if parent is None or coarse is None:
                candidates = torch.arange(grid.count, device=q.device).expand(*q.shape[:4], -1)
            else:
                candidates = to_children(child_nodes(parent.of_best(parent.candidates), coarse, grid), q)
            allowed = allowed_candidates(candidates, grid, scope, side, visible)
            existing = grid.existing(candidates)
            columns = _centres(q, number, scope), _centres(k, number, scope)
            scores = candidate_scores(q, k, existing, scope, columns, position, self.kernel)
            weights = self.weigh(scores, allowed, parent, visible is not None)
            best = None
            if number > 0:
                best = weights.topk(min(self.topk[number], weights.shape[-1]), dim=-1, sorted=False).indices
            spoken = self.speak(weights, best)
            message = candidate_values(spoken, v, existing, scope, self.kernel)
            parent, coarse = Level(number, candidates, weights, best, spoken, message), grid
            yield parent

    def weigh(self, scores: Tensor, allowed: Tensor, parent: Level | None, masked: bool) -> Tensor:
        """p_l of every candidate -> (B, H, W, heads, M). ``masked``: a query may have no candidate that is allowed."""
        raise NotImplementedError

    def speak(self, weights: Tensor, best: Tensor | None) -> Tensor:
        """The weights of the level's message -> (B, H, W, heads, M)."""
        raise NotImplementedError

    def level_shares(self, levels: int) -> Tensor:
        """(levels,): the factor of each level's message, finest first."""
        raise NotImplementedError


class QuadtreeA(Quadtree):
    """A child's softmax among its siblings times its parent's score (SPEC 3.3, QTAttA); parameter-free.

    p_l(q, k) = p_{l+1}(pa(q), pa(k)) exp z(q, k) / sum over the siblings k' of k of exp z(q, k'), z scaled product, pa parent.
    Chosen keys hand all of their weight to their children and say nothing themselves, so the weights of a query sum to 1 over
    all levels: one distribution, fine where it matters. On the finest level, be it the only one, everybody speaks.
    """

    def weigh(self, scores: Tensor, allowed: Tensor, parent: Level | None, masked: bool) -> Tensor:
        if parent is None:
            return masked_softmax(scores, allowed, may_be_empty=masked)
        kept = to_children(parent.of_best(parent.weights), scores)
        siblings, permitted = (x.unflatten(-1, (-1, kept.shape[-1])).transpose(-1, -2) for x in (scores, allowed))
        shares = masked_softmax(siblings, permitted, may_be_empty=True)  # K beyond what exists: void parents
        return (shares * kept[..., None]).transpose(-1, -2).flatten(-2)

    def speak(self, weights: Tensor, best: Tensor | None) -> Tensor:
        return weights if best is None else weights.scatter(-1, best, 0.0)

    def level_shares(self, levels: int) -> Tensor:
        return torch.ones(levels)


class QuadtreeB(Quadtree):
    """Each level normalised on its own over all its candidates, levels mixed by learned weights (SPEC 3.4, QTAttB).

    lepe_channels: heads * d to add a depthwise 3x3 convolution of the values to every level's message (LePE, CSWin Transformer,
    arXiv 2107.00652), 0 to leave it out. It needs query and key grids of one size, reads the eight neighbours whatever scope
    and side, and takes masked keys as 0.
    """

    def __init__(
        self,
        levels: int = 4,
        topk: int | Sequence[int] = 8,
        pool: str = "mean_max",
        kernel: str = "auto",
        lepe_channels: int = 0,
    ):
        super().__init__(levels, topk, pool, kernel)
        self.level_weights = nn.Parameter(torch.zeros(levels))  # finest first; zeros mix all levels alike
        if lepe_channels:
            convolutions = (nn.Conv2d(lepe_channels, lepe_channels, 3, padding=1, groups=lepe_channels) for _ in range(levels))
            self.lepe = nn.ModuleList(convolutions)  # finest first
        self.lepe_channels = lepe_channels

    def attend(self, tree: Pyramid, scope: str = "row", side: Tensor | None = None, position: Position | None = None) -> Tensor:
        fast = kernels.fused(self.kernel, tree.keys[0])
        alone = scope == "row" and tree.visible is None
        # Other codes of position than the rotary one add terms to the scores.
        if fast is not None and self.watch is None and alone and (position is None or isinstance(position, Rotary)):
            message = self._descend(tree, side, position, fast.quadtree_level)
        else:
            message = super().attend(tree, scope, side, position)
        return message + self._local(tree) if self.lepe_channels else message

    def _descend(self, tree: Pyramid, side: Tensor | None, position: Rotary | None, quadtree_level: Callable) -> Tensor:
        """What ``walk`` and the sum of its messages give, one pass per level; see stereo.kernels.reference.quadtree_level."""
        shares = self.level_shares(len(tree.keys))
        message = chosen = None
        for number in reversed(range(len(tree.keys))):
            q, k, v = tree.queries[number], tree.keys[number], tree.values[number]
            turns = position and tuple(position.turns(_centres(x, number, "row")) for x in (q, k))
            topk = self.topk[number] if number > 0 else 0
            message, chosen = quadtree_level(q, k, v, chosen, message, shares[number], side, topk, turns)
        assert message is not None  # there is always the finest level
        return message

    def weigh(self, scores: Tensor, allowed: Tensor, parent: Level | None, masked: bool) -> Tensor:
        return masked_softmax(scores, allowed, may_be_empty=masked)

    def speak(self, weights: Tensor, best: Tensor | None) -> Tensor:
        return weights

    def level_shares(self, levels: int) -> Tensor:
        return self.level_weights[:levels].softmax(dim=0)

    def _local(self, tree: Pyramid) -> Tensor:
        """LePE of all levels, mixed by the same weights as their messages -> (B, H, W, heads, d)."""
        if tree.queries[0].shape != tree.values[0].shape or tree.values[0].shape[-2:].numel() != self.lepe_channels:
            shapes = tuple(tree.queries[0].shape), tuple(tree.values[0].shape)
            raise ValueError(f"LePE needs queries and values of one size with {self.lepe_channels} channels, got {shapes}")
        shares = self.level_shares(len(tree.values))
        total = None
        for number in reversed(range(len(tree.values))):
            v = tree.values[number]
            if tree.visible is not None:
                v = v.masked_fill(~tree.visible[number][..., None, None], 0)
            weight, bias = (x.to(v.dtype) for x in self.lepe[number].parameters())  # parameters may be wider than inputs
            planes = v.flatten(-2).permute(0, 3, 1, 2)
            local = F.conv2d(planes, weight, bias, padding=1, groups=self.lepe_channels)
            local = local.permute(0, 2, 3, 1).unflatten(-1, v.shape[-2:]) * shares[number]
            total = local if total is None else to_children(total, local) + local
        assert total is not None
        return total


def _centres(x: Tensor, level: int, scope: str) -> Tensor:
    """Centre of every node of a level, in finest tokens along the row."""
    return (columns_of(x, scope) + 0.5) * 2**level - 0.5
