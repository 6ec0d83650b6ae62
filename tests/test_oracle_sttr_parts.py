"""Single stages of ours against the public code's, called alone: attention, positions, transport, adjustment, regression."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from oracle_record import needs_oracles
from sttr_oracle import Case, at_tokens
from torch import Tensor

from stereo.attention import dense
from stereo.attention.contract import masked_softmax
from stereo.attention.dense import DenseAttention
from stereo.attention.position import relative_sine
from stereo.config import SttrConfig
from stereo.geometry import left_right_check
from stereo.losses import response_at
from stereo.model.build import build_model
from stereo.model.matching import window_sums
from stereo.model.sttr.adjust import ContextAdjustment
from stereo.model.sttr.matching import log_sinkhorn, with_dustbins
from stereo.model.sttr.network import Sttr
from stereo.model.sttr.tokenizer import centre_crop
from stereo.model.sttr.transformer import RelativeAttention
from stereo.model.sttr.weights import our_names
from stereo.types import Transport

pytestmark = needs_oracles


@pytest.mark.parametrize("name", ["self_pos", "cross_pos", "cross_flip", "cross_mask", "self_nopos", "cross_nopos"])
def test_oracle_attention(name: str, monkeypatch: pytest.MonkeyPatch):
    case = Case("attention_relative")
    seen: list[tuple[Tensor, Tensor]] = []

    def softmax(scores: Tensor, allowed: Tensor | None) -> Tensor:
        if allowed is not None:
            scores = scores.masked_fill(~allowed, float("-inf"))
        seen.append((scores, masked_softmax(scores, None)))
        return seen[-1][1]

    monkeypatch.setattr(dense, "masked_softmax", softmax)
    channels = case[f"{name}.query"].shape[-1]
    layer = RelativeAttention(channels, int(case[f"{name}.nhead"]), DenseAttention())
    stacked = ("in_proj_weight", "in_proj_bias")
    for part in (*stacked, "out_proj.weight", "out_proj.bias"):
        names = our_names(f"x.{part}")
        for ours, value in zip(names, case[f"{name}.w.{part}"].chunk(len(names)), strict=True):
            layer.get_parameter(ours.removeprefix("x.")).data.copy_(value)
    # Stored as (W, rows, C); a row is a line of an image.
    query, key = (case[f"{name}.{x}"].transpose(0, 1)[None].requires_grad_() for x in ("query", "key"))
    table = None if name.endswith("nopos") else case[f"{name}.pos_enc"]  # of cross_flip: stored as the right view gets it
    kind = str(case.arrays[f"{name}.kind"])
    side = torch.ones(1, dtype=torch.int64) if case[f"{name}.masked"] else None
    message = layer(query, query if kind == "self" else key, table, side)
    case.check(f"{name}.out", message[0].transpose(0, 1))
    scores, weights = seen[0]
    case.check(f"{name}.raw_attn_sum", scores.sum(dim=2)[0])
    case.check(f"{name}.attn_mean", weights.mean(dim=2)[0])

    (message[0].transpose(0, 1) * case[f"{name}.grad_cotangent"]).sum().backward()
    for x, tensor in (("query", query), ("key", key)):
        if f"{name}.grad_{x}" in case:
            assert tensor.grad is not None
            case.check(f"{name}.grad_{x}", tensor.grad[0].transpose(0, 1), atol=2e-5, rtol=1e-5)
    for part in stacked:
        gradients = [layer.get_parameter(ours.removeprefix("x.")).grad for ours in our_names(f"x.{part}")]
        case.check(f"{name}.grad_{part}", torch.cat(gradients), atol=2e-5, rtol=1e-5)


POSITIONS = ["C128_W256_ds3", "C128_W197_ds4", "C32_W149_ds3", "C128_W64_ds0", "C64_W960_ds4", "C16_W101_ds2"]


@pytest.mark.parametrize("name", POSITIONS)
def test_oracle_positions(name: str):
    case = Case("pos_enc")
    channels, width, _, _, tokens = case[f"{name}.C_W_H_ds_sampledW"].tolist()
    case.check(f"{name}.pos_enc", relative_sine(tokens, channels, width / tokens), atol=1e-5)
    columns = torch.arange(tokens)
    if tokens < 100:  # the index map of the widest was not stored
        rows = tokens - 1 - columns[:, None] + columns
        case.check(f"{name}.pos_indexes", rows.view_as(case[f"{name}.pos_indexes"]), atol=0)


@pytest.mark.parametrize("name", "abcdef")
def test_oracle_transport(name: str):
    case = Case("ot_sinkhorn")
    logits, dustbin = case[f"{name}.attn"].requires_grad_(), case[f"{name}.phi"].requires_grad_()
    plan = log_sinkhorn(with_dustbins(logits, dustbin), int(case[f"{name}.iters"]))
    case.check(f"{name}.ot", plan)
    case.check(f"{name}.row_sum", plan.sum(dim=-1), atol=1e-4)
    case.check(f"{name}.col_sum", plan.sum(dim=-2), atol=1e-4)
    case.check(f"{name}.softmax", with_dustbins(logits, dustbin).softmax(dim=-1), atol=1e-6)
    (plan * case[f"{name}.grad_cotangent"]).sum().backward()
    case.check(f"{name}.grad_attn", logits.grad, atol=1e-5, rtol=1e-5)
    case.check(f"{name}.grad_phi", dustbin.grad, atol=1e-5, rtol=1e-5)


def adjustment(case: Case) -> ContextAdjustment:
    """The small adjustment that is stored in context_adjustment.npz."""
    module = ContextAdjustment(3, 8, 3)
    state = {adjust_name(name): case[name] for name in case.names("w.")}
    module.load_state_dict(state)
    return module


def adjust_name(stored: str) -> str:
    return our_names(f"regression_head.cal.{stored.removeprefix('w.')}")[0].removeprefix("adjust.")


def test_oracle_context_adjustment():
    case = Case("context_adjustment")
    module = adjustment(case)
    disp, occlusion = case["disp_raw"].requires_grad_(), case["occ_raw"].requires_grad_()
    adjusted, logits = module(disp, occlusion, case["img"])
    case.check("disp_final", adjusted, atol=1e-5)
    case.check("occ_final", logits.sigmoid(), atol=1e-5)
    ((adjusted * case["cot_disp"]).sum() + (logits.sigmoid() * case["cot_occ"]).sum()).backward()
    case.check("grad_disp_raw", disp.grad, atol=1e-4, rtol=1e-4)
    case.check("grad_occ_raw", occlusion.grad, atol=1e-4, rtol=1e-4)
    for name in case.names("w."):
        case.check(f"grad.{name}", module.get_parameter(adjust_name(name)).grad, atol=1e-4, rtol=1e-4)


def head(**changes) -> Sttr:
    """Only for its regress and refine: neither looks at a weight, but for the adjustment's."""
    return build_model(SttrConfig(channels=16, layers=1, heads=1, faithful=True, **changes))


def test_oracle_window_regression():
    case = Case("regression_parts")
    plan = case["lr.attn"]
    moment, mass = window_sums(plan, torch.arange(plan.shape[-1]), torch.arange(plan.shape[-1]).expand(plan.shape))
    disp, occlusion = head().regress(moment, mass)
    case.check("lr.disp_noocc", disp, atol=1e-5)
    case.check("lr.norm_noocc", 1 - occlusion[..., None], atol=1e-6)
    case.check("lr.occ_from_norm_noocc", occlusion, atol=1e-6)
    known = torch.where(case["lr.occ_mask"], 1.0, mass)  # what the public code does when it is given the truth
    case.check("lr.disp_occ", moment / known, atol=1e-5)
    case.check("lr.norm_occ", known[..., None], atol=1e-6)
    case.check("lr.occ_from_norm_occ", 1 - known, atol=1e-6)


def test_oracle_response_at_the_biased_target():
    case = Case("regression_parts")
    mass = case["gt.attn"]
    width = mass.shape[-1]
    disp = case["gt.disp"]
    target = at_tokens(torch.arange(disp.shape[-1]).expand(disp.shape) - disp, 3) / float(case["gt.scale"])
    case.check("gt.target", target[..., None], atol=1e-5)
    nothing = torch.zeros(mass.shape[:-1])
    transport = Transport(mass, torch.arange(width).expand(mass.shape), nothing, nothing)
    case.check("gt.gt_response", response_at(transport, target.clamp(0, width - 1)), atol=1e-5)


def test_oracle_sampling_between_tokens():
    case = Case("regression_parts")
    source = case["s1d.source"]
    nothing = torch.zeros(source.shape[:-1])
    transport = Transport(source, torch.arange(source.shape[-1]).expand(source.shape), nothing, nothing)
    points = case["s1d.points"][..., 0].clamp(0, source.shape[-1] - 1)  # the public sampling stops at the border
    case.check("s1d.linear", response_at(transport, points), atol=1e-5)


@pytest.mark.parametrize("size", [(8, 11), (9, 10), (7, 12)])
def test_oracle_centre_crop(size: tuple[int, int]):
    case = Case("regression_parts")
    case.check(f"cc.{size[0]}x{size[1]}", centre_crop(case["cc.in"], torch.zeros(size)), atol=0)


@pytest.mark.parametrize("kind", ["nocal", "cal"])
def test_oracle_upsampling(kind: str):
    case = Case("regression_parts")
    model = head(adjust_blocks=0 if kind == "nocal" else 3, adjust_channels=8, adjust_expansion=3)
    if kind == "cal":
        model.adjust = adjustment(Case("context_adjustment"))
    with torch.no_grad():
        disp, logits = model.refine(case["up.disp_low"], case["up.occ_low"], case["up.left"])
    case.check(f"up.{kind}.disp", disp, atol=1e-4)
    case.check(f"up.{kind}.occ", logits.sigmoid(), atol=2e-6)
    scale = model.scale(case["up.left"].shape[-1], case["up.disp_low"].shape[-1])
    assert scale == pytest.approx(float(case["up.scale"]))
    case.check(f"up.{kind}.disp_low", case["up.disp_low"] * scale, atol=1e-5)


def test_oracle_left_right_check():
    """The public code takes 0 for unknown, and a match on the very first column of the right view for one outside of it."""
    case = Case("regression_parts")
    left, right = case.arrays["fo.disp_left"], case.arrays["fo.disp_right"]
    occluded = left_right_check(left, right, 1.0, left > 0, right > 0)
    occluded |= (left > 0) & (np.arange(left.shape[1]) == left)
    case.check("fo.occ_left", torch.from_numpy(occluded), atol=0)
    mirrored = left_right_check(right[:, ::-1], left[:, ::-1], 1.0, right[:, ::-1] > 0, left[:, ::-1] > 0)
    case.check("fo.occ_right", torch.from_numpy(mirrored[:, ::-1].copy()), atol=0)
