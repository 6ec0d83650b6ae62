"""Every operator without a tree against its own formula: numpy float64, one query and one head at a time, in both scopes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from attention_cases import EVERYTHING, EXACT, side_of
from torch import Tensor

from stereo.attention import build_attention
from stereo.attention.position import Position, Rotary, rotary_frequencies

Place = tuple[int, int]
Size = tuple[int, int]
SAME = [((3, 7), (3, 7)), ((5, 9), (5, 9)), ((1, 1), (1, 1)), ((2, 13), (2, 13))]
ANY = [*SAME, ((4, 5), (4, 11)), ((3, 6), (3, 1))]
PLANES = [((3, 5), (7, 4)), ((1, 6), (5, 3)), ((4, 3), (1, 7))]
HEADS, D = 2, 4


def make_planes(query: Size, key: Size) -> list[Tensor]:
    generator = torch.Generator().manual_seed(7)
    return [torch.randn(1, *size, HEADS, D, generator=generator, dtype=torch.float64) for size in (query, key, key)]


class Task:
    """One head of one call: q[y, x], k[y, x], v[y, x] are vectors of d."""

    def __init__(self, q: np.ndarray, k: np.ndarray, v: np.ndarray, scope: str, side: int):
        self.q, self.k, self.v, self.scope, self.side = q, k, v, scope, side

    def keys_of(self, query: Place, one_sided: bool = True) -> list[Place]:
        rows = [query[0]] if self.scope == "row" else range(self.k.shape[0])
        side = self.side if one_sided else 0
        return [(y, x) for y in rows for x in range(self.k.shape[1]) if side * (query[1] - x) >= 0]

    def block_of(self, place: Place, size: int, shift: int = 0) -> Place:
        return place[0] if self.scope == "row" else (place[0] + shift) // size, (place[1] + shift) // size


def mean_by(weights: list[float], vectors: list[np.ndarray]) -> np.ndarray:
    return sum(w * x for w, x in zip(weights, vectors, strict=True)) / sum(weights)


def softmax_mean(query: np.ndarray, keys: list[np.ndarray], values: list[np.ndarray]) -> np.ndarray:
    return mean_by([math.exp(float(query @ key) / math.sqrt(len(query))) for key in keys], values)


def linear(task: Task, place: Place, operator: Any) -> np.ndarray:
    def phi(x: np.ndarray) -> np.ndarray:
        return np.array([c + 1 if c > 0 else math.exp(c) for c in x])

    keys = task.keys_of(place)
    return mean_by([float(phi(task.q[place]) @ phi(task.k[j])) for j in keys], [task.v[j] for j in keys])


def spatial_reduction(task: Task, place: Place, operator: Any) -> np.ndarray:
    own = task.block_of(place, operator.reduction)
    blocks: dict[Place, list[Place]] = {}
    for j in task.keys_of(place, one_sided=False):
        block = task.block_of(j, operator.reduction)
        if task.side * (own[1] - block[1]) >= 0:
            blocks.setdefault(block, []).append(j)
    keys, values = ([np.mean([x[j] for j in members], axis=0) for members in blocks.values()] for x in (task.k, task.v))
    return softmax_mean(task.q[place], keys, values)


def window(task: Task, place: Place, operator: Any) -> np.ndarray:
    def block(j: Place) -> Place:
        return task.block_of(j, operator.size, operator.offset)

    keys = [j for j in task.keys_of(place) if block(j) == block(place)]
    return softmax_mean(task.q[place], [task.k[j] for j in keys], [task.v[j] for j in keys])


def bilevel_routing(task: Task, place: Place, operator: Any) -> np.ndarray:
    size, own = operator.region, task.block_of(place, operator.region)
    regions: dict[Place, list[Place]] = {}
    for j in task.keys_of(place, one_sided=False):
        region = task.block_of(j, size)
        if task.side * (own[1] - region[1]) >= 0:
            regions.setdefault(region, []).append(j)
    mates = [i for i in np.ndindex(task.q.shape[:2]) if task.block_of(i, size) == own]
    query = np.mean([task.q[i] for i in mates], axis=0)
    affinity = {region: float(query @ np.mean([task.k[j] for j in members], axis=0)) for region, members in regions.items()}
    best = sorted(affinity, key=affinity.__getitem__, reverse=True)[: operator.topk]
    keys = [j for region in best for j in regions[region] if task.side * (place[1] - j[1]) >= 0]
    return softmax_mean(task.q[place], [task.k[j] for j in keys], [task.v[j] for j in keys])


def additive(task: Task, place: Place, operator: Any) -> np.ndarray:
    def pool(weights: Tensor, vectors: list[np.ndarray]) -> np.ndarray:
        return softmax_mean(weights.detach().numpy(), vectors, vectors)

    rows = [place[0]] if task.scope == "row" else range(task.q.shape[0])
    g = pool(operator.query_pool, [task.q[y, x] for y in rows for x in range(task.q.shape[1])])
    gated = g * task.k[place]
    if operator.values:
        gated = pool(operator.key_pool, [g * task.k[j] for j in task.keys_of(place)]) * task.v[place]
    weight, bias = operator.transform.weight.detach().numpy(), operator.transform.bias.detach().numpy()
    return weight @ gated + bias + task.q[place]


def dense(task: Task, place: Place, operator: Any) -> np.ndarray:
    keys = task.keys_of(place)
    return softmax_mean(task.q[place], [task.k[j] for j in keys], [task.v[j] for j in keys])


FORMULAS: list[tuple[Callable[[Task, Place, Any], np.ndarray], dict[str, Any], list[tuple[Size, Size]]]] = [
    (dense, {}, ANY),
    (linear, {}, ANY),
    (spatial_reduction, {"reduction": 2}, ANY),
    (spatial_reduction, {"reduction": 3}, ANY),
    (window, {"window": 3}, SAME),
    (window, {"window": 4, "shifted": True}, SAME),
    (window, {"window": 5, "shifted": True, "kernel": "reference"}, SAME),
    (bilevel_routing, {"region": 2, "topk": 2}, ANY),
    (bilevel_routing, {"region": 3, "topk": 1, "kernel": "reference"}, ANY),
    (bilevel_routing, {"region": 3, "topk": EVERYTHING}, ANY),
    (additive, {"head_dim": D, "values": True}, SAME),
    (additive, {"head_dim": D, "values": False}, SAME),
]
CASES = [
    pytest.param(formula, options, *grids, scope, id=f"{formula.__name__}-{options}-{grids}-{scope}")
    for formula, options, all_grids in FORMULAS
    for scope in ("row", "image")
    for grids in (all_grids + PLANES if scope == "image" and all_grids is ANY else all_grids)
]


@pytest.mark.parametrize("side", [0, +1, -1])
@pytest.mark.parametrize(("formula", "options", "query", "key", "scope"), CASES)
def test_operator_equals_its_formula(formula: Callable, options: dict, query: Size, key: Size, scope: str, side: int) -> None:
    if side and query[1] != key[1]:
        side = 0  # one-sided search is for rows of equal width
    torch.manual_seed(0)  # the pooling weights of `additive`
    operator = build_attention(formula.__name__, **options).double()
    q, k, v = make_planes(query, key)
    message = operator(q, k, v, scope=scope, side=side_of(side) if side else None)[0].detach().numpy()
    for head in range(HEADS):
        task = Task(*(x[0, :, :, head].numpy() for x in (q, k, v)), scope, side)
        for place in np.ndindex(query):
            np.testing.assert_allclose(message[(*place, head)], formula(task, place, operator), rtol=0, atol=1e-11)


@pytest.mark.parametrize("scope", ["row", "image"])
@pytest.mark.parametrize("side", [None, +1, -1])
@pytest.mark.parametrize("rotary", [False, True], ids=["plain", "rotary"])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("spatial_reduction", {"reduction": 1}),
        ("window", {"window": 50}),
        ("bilevel_routing", {"region": 3, "topk": EVERYTHING}),
    ],
)
def test_operator_that_leaves_nothing_out_equals_dense(
    name: str, options: dict[str, Any], rotary: bool, side: int | None, scope: str
) -> None:
    inputs = make_planes((5, 13), (5, 13))
    call = {
        "scope": scope,
        "side": None if side is None else side_of(side),
        "position": Rotary(rotary_frequencies(D)) if rotary else None,
    }
    expected = build_attention("dense")(*inputs, **call)
    torch.testing.assert_close(build_attention(name, **options)(*inputs, **call), expected, **EXACT)


def test_a_choice_of_regions_does_choose() -> None:
    inputs = make_planes((4, 12), (4, 12))
    few, all_of_them = (build_attention("bilevel_routing", region=3, topk=topk)(*inputs) for topk in (1, EVERYTHING))
    assert not torch.isclose(few, all_of_them).all(dim=-1).any()


@pytest.mark.parametrize("side", [None, +1, -1])
@pytest.mark.parametrize("name", ["linear", "additive"])
def test_extreme_features_stay_finite_in_float32_and_bfloat16(name: str, side: int | None) -> None:
    operator = build_attention(name, **({"head_dim": D} if name == "additive" else {}))
    for dtype in (torch.float32, torch.bfloat16):
        q, k, v = ((x * 300).to(dtype) for x in make_planes((3, 40), (3, 40)))
        message = operator(q, -k.abs(), v, side=None if side is None else side_of(side))
        assert message.isfinite().all()


class PerPair:
    """A position object that speaks through terms only."""

    def encode(self, x: Tensor, columns: Tensor) -> Tensor:
        return x

    def terms(
        self, q: Tensor, k: Tensor, query_columns: Tensor, key_columns: Tensor, candidates: Tensor | None = None
    ) -> Tensor:
        distance = query_columns[:, None] - key_columns  # (W, Wk)
        if candidates is None:
            return -distance.abs()[None, None, :, None].to(q.dtype).expand(*q.shape[:4], -1)
        columns = query_columns[:, None, None] - key_columns[candidates]
        return -columns.abs().to(q.dtype)


@pytest.mark.parametrize("scope", ["row", "image"])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("window", {"window": 50}),
        ("bilevel_routing", {"region": 3, "topk": EVERYTHING}),
        ("spatial_reduction", {"reduction": 1}),
        ("quadtree_a", {"levels": 1}),
        ("quadtree_b", {"levels": 1}),
    ],
)
def test_terms_per_pair_are_added_by_columns(name: str, options: dict[str, Any], scope: str) -> None:
    inputs, position = make_planes((3, 7), (3, 7)), PerPair()
    expected = build_attention("dense")(*inputs, scope=scope, position=position)
    torch.testing.assert_close(build_attention(name, **options)(*inputs, scope=scope, position=position), expected, **EXACT)
    assert not torch.isclose(expected, build_attention("dense")(*inputs, scope=scope)).any(dim=-1).any()


@pytest.mark.parametrize("name", ["linear", "additive"])
def test_operators_without_pairs_refuse_terms_per_pair(name: str) -> None:
    position: Position = PerPair()
    operator = build_attention(name, **({"head_dim": D} if name == "additive" else {})).double()
    with pytest.raises(ValueError, match="cannot add the terms of PerPair; use Rotary"):
        operator(*make_planes((2, 5), (2, 5)), position=position)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("spatial_reduction", {"reduction": 0}),
        ("window", {"window": 0}),
        ("bilevel_routing", {"region": 0}),
        ("bilevel_routing", {"topk": 0}),
    ],
)
def test_options_without_meaning_are_refused(name: str, options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=rf"expected .*{next(iter(options))} >= 1"):
        build_attention(name, **options)
