"""STTR with another operator in every layer: first of all the tree, which with one level has to be STTR itself."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from small_sttr import NARROW, network, pair, random_batch
from torch import Tensor

from stereo.attention import ATTENTION
from stereo.attention.dense import DenseAttention
from stereo.attention.position import RelativeTerms, Rotary, relative_sine, rotary_frequencies
from stereo.attention.quadtree import QuadtreeA, QuadtreeB
from stereo.attention.tree import pool_grid
from stereo.config import PRESETS, LossConfig, SttrConfig, preset
from stereo.losses import stereo_loss
from stereo.model.build import build_model
from stereo.types import InputError

TREE = replace(NARROW, attention="quadtree_b", topk=3)
LIGHT = replace(preset("quadtree-light"), layers=2, adjust_blocks=1)
POSITION = pytest.mark.parametrize("position", ["relative", "rotary", "none"])


@pytest.mark.parametrize(("name", "dense"), [("quadtree", "sttr"), ("quadtree-light", "sttr-light")])
def test_the_preset_is_sttr_with_the_tree_in_every_layer(name: str, dense: str):
    ours, theirs = preset(name), preset(dense)
    assert ours == replace(theirs, preset=name, attention="quadtree_b")
    assert isinstance(ours, SttrConfig) and (ours.levels, ours.topk, ours.pool) == (4, 6, "mean")
    model = build_model(name)
    operators = [m for m in model.modules() if isinstance(m, tuple(ATTENTION.values()))]
    assert len(operators) == 12
    assert all(isinstance(m, QuadtreeB) and m.levels == 4 and m.topk == [6] * 4 and m.pool == "mean" for m in operators)
    dense_model = build_model(dense)
    assert sum(isinstance(m, DenseAttention) for m in dense_model.modules()) == 12
    mixing = 12 * 4  # one scalar per level and layer is all that the tree adds
    count = [sum(p.numel() for p in m.parameters()) for m in (model, dense_model)]
    assert count[0] - count[1] == mixing


@POSITION
@pytest.mark.parametrize(("attention", "levels"), [("quadtree_b", 1), ("quadtree_a", 1), ("quadtree_a", 2)])
def test_one_level_is_sttr_with_the_same_weights(position: str, attention: str, levels: int):
    """On one level both variants are plain attention, so STTR's weights give STTR's maps.

    With two levels A is another function even with every key (SPEC 3.3): it has to differ, so the comparison can fail.
    """
    dense = network(NARROW, position=position)
    tree = network(NARROW, position=position, attention=attention, levels=levels, topk=10_000)
    missing, unexpected = tree.load_state_dict(dense.state_dict(), strict=False)
    assert not unexpected and all(name.endswith("operator.level_weights") for name in missing)
    images = pair(123, 143)
    with torch.no_grad():
        wanted, got = dense.match_normalised(*images), tree.match_normalised(*images)
        if levels > 1:
            assert (got.plan - wanted.plan).abs().max() > 1e-3
            return
        for name in ("plan", "disp_coarse", "occlusion_coarse", "disp", "occlusion_logits"):
            torch.testing.assert_close(getattr(got, name), getattr(wanted, name), atol=1e-4, rtol=1e-4)


def test_all_weight_on_the_finest_level_with_every_key_is_sttr_too():
    """Four levels, K beyond what exists: the walk through the coarse levels loses no key where widths are odd."""
    dense, tree = network(NARROW), network(NARROW, attention="quadtree_b", topk=10_000)
    tree.load_state_dict(dense.state_dict(), strict=False)
    for module in tree.modules():
        if isinstance(module, QuadtreeB):
            module.level_weights.data.copy_(torch.tensor([60.0, 0, 0, 0]))
    images = pair(122, 122)  # 41 tokens, then 21, 11, 6
    with torch.no_grad():
        wanted, got = dense.match_normalised(*images), tree.match_normalised(*images)
    torch.testing.assert_close(got.plan, wanted.plan, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(got.disp, wanted.disp, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("size", [(121, 130), (125, 209)])
@pytest.mark.parametrize(
    "config",
    [TREE, replace(TREE, attention="quadtree_a"), replace(TREE, position="rotary", pool="mean_max"), LIGHT],
    ids=["b", "a", "rotary", "light"],
)
def test_odd_sizes_run(config: SttrConfig, size: tuple[int, int]):
    model = network(config)
    with torch.no_grad():
        prediction = model(*pair(*size))
    assert prediction.disp.shape == (1, *size)
    assert all(x.isfinite().all() for x in (prediction.disp, prediction.occlusion_logits, prediction.disp_coarse))


@pytest.mark.parametrize("attention", sorted(ATTENTION))
def test_every_operator_fits_into_sttr(attention: str):
    with torch.no_grad():
        for position in ("relative", "rotary"):
            if position == "rotary" or attention not in ("linear", "additive"):
                model = network(NARROW, attention=attention, position=position)
                assert model(*pair(121, 130)).disp.isfinite().all()


@pytest.mark.parametrize("position", ["relative", "rotary"])
@pytest.mark.parametrize("attention", ["quadtree_a", "quadtree_b"])
def test_gradients_reach_every_parameter_that_is_used(attention: str, position: str):
    model = network(TREE, attention=attention, position=position).train()
    batch = random_batch(128, 256)
    stereo_loss(model(batch.left, batch.right), batch, LossConfig())["total"].backward()
    silent = [name for name, p in model.named_parameters() if p.grad is None]
    assert silent == ["transformer.norm.weight", "transformer.norm.bias"]
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    attend = [(name, p) for name, p in model.transformer.named_parameters() if p.grad is not None]
    assert [name for name, p in attend if not p.grad.any()] == []
    assert sum(name.endswith("level_weights") for name, _ in attend) == (4 if attention == "quadtree_b" else 0)


@pytest.mark.parametrize("width", [1, 2, 7, 9, 10, 16, 17, 31])
@pytest.mark.parametrize("level", [0, 1, 2, 3])
def test_offsets_between_coarse_nodes_name_rows_of_the_table(width: int, level: int):
    """The terms between node centres are those of the finest level at the same distance: none rounds, none leaves the table."""
    nodes = -(-width // 2**level)
    centres = (torch.arange(nodes) + 0.5) * 2**level - 0.5
    table = relative_sine(width, 4, 3.0)[:, None]  # (2 * width - 1, 1 head, 4)
    q = torch.randn(1, 1, nodes, 1, 4, generator=torch.Generator().manual_seed(0))
    candidates = torch.arange(nodes).expand(1, 1, nodes, 1, nodes)
    got = RelativeTerms(table, table).terms(q, q, centres, centres, candidates)
    for i in range(nodes):
        for j in range(nodes):
            row = table[width - 1 - (i - j) * 2**level, 0]
            wanted = (q[0, 0, i, 0] + q[0, 0, j, 0]) @ row
            torch.testing.assert_close(got[0, 0, i, 0, j], wanted, atol=1e-5, rtol=1e-5)


def test_the_terms_at_candidates_have_the_gradients_of_the_dense_terms():
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 2, 3, 7, 2, 4, generator=generator, dtype=torch.float64)
    tables = torch.randn(2, 13, 2, 4, generator=generator, dtype=torch.float64)
    candidates = torch.randint(0, 7, (2, 3, 7, 2, 5), generator=generator)
    columns, gradients = torch.arange(7), []
    weights = torch.randn(2, 3, 7, 2, 5, generator=generator, dtype=torch.float64)
    for sparse in (False, True):
        leaves = [x.clone().requires_grad_() for x in (q, k, *tables)]
        position = RelativeTerms(*leaves[2:])
        terms = position.terms(*leaves[:2], columns, columns, candidates if sparse else None)
        ((terms if sparse else terms.gather(-1, candidates)) * weights).sum().backward()
        gradients.append([x.grad for x in leaves])
    torch.testing.assert_close(*gradients)


def test_mirrored_rotary_is_the_same_rule_for_the_right_view():
    """Query u in the left view at i, key w in the right view at j; or query u right at j, key w left at i: one score."""
    rotary, columns = Rotary(rotary_frequencies(8)), torch.arange(6)
    u, w = torch.randn(2, 1, 1, 1, 1, 8, generator=torch.Generator().manual_seed(0)).expand(-1, 1, 1, 6, 1, 8)

    def scores(code: Rotary) -> Tensor:  # (query column, key column)
        return code.encode(u, columns)[0, 0, :, 0] @ code.encode(w, columns)[0, 0, :, 0].T

    torch.testing.assert_close(scores(rotary.mirrored()), scores(rotary).T)
    assert (scores(rotary) - scores(rotary).T).abs().max() > 0.1


def test_mean_pooling_is_what_the_preset_asks_for():
    x = torch.tensor([[1.0, 2.0], [3.0, 10.0]]).view(1, 2, 2, 1, 1)
    assert pool_grid(x, False).item() == 4.0
    assert pool_grid(x, True).item() == 7.0
    assert all(c.pool == "mean" for c in PRESETS.values() if isinstance(c, SttrConfig))


@pytest.mark.parametrize(
    ("changes", "blamed"),
    [
        ({"attention": "quadtree"}, "unknown attention 'quadtree'.*did you mean quadtree_"),
        ({"levels": 0}, "got levels 0, expected at least 1"),
        ({"topk": 0}, "got topk 0, expected at least 1"),
        ({"pool": "max"}, "got pool 'max', expected one of mean, mean_max"),
        ({"attention": "linear"}, "'linear' has no scores to add relative positions to; use position rotary or none"),
        ({"position": "rotary", "heads": 8}, "16 channels for 8 heads, expected a multiple of 4"),
    ],
)
def test_impossible_trees_are_one_line(changes: dict, blamed: str):
    with pytest.raises(InputError, match=blamed) as caught:
        network(TREE, **changes)
    assert "\n" not in str(caught.value)


def test_a_named_kernel_reaches_the_tree():
    model = build_model(TREE, kernel="reference")
    assert {m.kernel for m in model.modules() if isinstance(m, QuadtreeA | QuadtreeB)} == {"reference"}
