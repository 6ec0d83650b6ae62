"""The quadtree by hand (SPEC 3.3, 3.4 and 3.4b, DESIGN section 2): numpy float64, one query and one head at a time."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import numpy as np

Node = tuple[int, int]


def tree_of(grid: np.ndarray, pool: str, visible: np.ndarray | None = None) -> Callable[[int, int, int], np.ndarray | None]:
    """node(level, y, x) -> (heads, d): what the node stands for, or None where nothing of it exists or may be seen."""

    @functools.cache
    def node(level: int, y: int, x: int) -> np.ndarray | None:
        if level == 0:
            exists = y < grid.shape[0] and x < grid.shape[1]
            return grid[y, x] if exists and (visible is None or visible[y, x]) else None
        four = [node(level - 1, 2 * y + a, 2 * x + b) for a in (0, 1) for b in (0, 1)]
        existing = [child for child in four if child is not None]
        if not existing:
            return None
        mean = sum(existing) / len(existing)
        return mean if pool == "mean" else (mean + functools.reduce(np.maximum, existing)) / 2

    return node


def turned(x: np.ndarray, position: float, frequencies: np.ndarray) -> np.ndarray:
    """Channels c and c + pairs as one complex number, times exp(i * position * frequency)."""
    pairs = len(frequencies)
    z = (x[:pairs] + 1j * x[pairs : 2 * pairs]) * np.exp(1j * position * frequencies)
    return np.concatenate([z.real, z.imag, x[2 * pairs :]])


def quadtree_by_hand(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    *,
    levels: int,
    topk: int | Sequence[int],
    level_weights: Sequence[float] | None,
    pool: str,
    side: int = 0,
    frequencies: Sequence[float] = (),
    scope: str = "row",
    visible: np.ndarray | None = None,
) -> np.ndarray:
    """q (H, W, heads, d), k and v (Hk, Wk, heads, d) -> (H, W, heads, d). ``level_weights`` makes it variant B, None variant A.

    topk: one K, or one per level, coarsest first. visible (Hk, Wk) bool: the keys that may be seen.
    """
    H, W, heads, d = q.shape
    extent = k.shape[1] if scope == "row" else max(k.shape[:2])
    keep = [topk] * levels if isinstance(topk, int) else list(topk)  # coarsest first
    while levels > 1 and -(-extent // 2 ** (levels - 1)) < 2:  # a single node chooses nothing
        levels -= 1
    omega = np.exp(np.asarray(level_weights[:levels], dtype=np.float64)) if level_weights is not None else np.ones(levels)
    if level_weights is not None:
        omega /= omega.sum()
    queries, keys, values = tree_of(q, pool), tree_of(k, pool, visible), tree_of(v, "mean", visible)

    def logit(level: int, query: Node, key: Node, head: int) -> float:
        centre = (2**level - 1) / 2  # of a node, from its first finest column
        a = turned(queries(level, *query)[head], query[1] * 2**level + centre, np.asarray(frequencies))
        b = turned(keys(level, *key)[head], key[1] * 2**level + centre, np.asarray(frequencies))
        return float(a @ b) / d**0.5

    def split(level: int, query: Node, parent: Node) -> list[Node]:
        """Children of a key of level + 1 that this query of ``level`` may look at."""
        rows = [query[0]] if scope == "row" else [2 * parent[0], 2 * parent[0] + 1]
        return [(y, x) for y in rows for x in (2 * parent[1], 2 * parent[1] + 1) if may_see(level, query, (y, x))]

    def may_see(level: int, query: Node, key: Node) -> bool:
        return keys(level, *key) is not None and side * (query[1] - key[1]) >= 0

    def one(y: int, x: int, head: int) -> np.ndarray:
        out, mass = np.zeros(d), 0.0
        kept: list[tuple[float, Node]] | None = None  # p and key of S_{l+1} of the parent
        for level in range(levels - 1, -1, -1):
            own = (y // 2**level, x // 2**level)
            if kept is None:
                rows = [own[0]] if scope == "row" else range(k.shape[0])
                groups = [(1.0, [(r, c) for r in rows for c in range(k.shape[1]) if may_see(level, own, (r, c))])]
            elif level_weights is not None:
                groups = [(1.0, [child for _, parent in kept for child in split(level, own, parent)])]
            else:
                groups = [(p, split(level, own, parent)) for p, parent in kept]
            scored: list[tuple[float, Node]] = []
            for share, members in groups:
                if members:
                    logits = [logit(level, own, key, head) for key in members]
                    mine = np.exp(np.asarray(logits) - max(logits))
                    scored += [(share * float(p), key) for p, key in zip(mine / mine.sum(), members, strict=True)]
            scored.sort(reverse=True)
            kept = scored[: keep[len(keep) - 1 - level]]
            for p, key in scored[len(kept) :] if level_weights is None and level > 0 else scored:
                out += omega[level] * p * values(level, *key)[head]
                mass += omega[level] * p
        return out / mass if mass > 0 else out

    out = np.zeros(q.shape)
    for y, x, head in np.ndindex(H, W, heads):
        out[y, x, head] = one(y, x, head)
    return out
