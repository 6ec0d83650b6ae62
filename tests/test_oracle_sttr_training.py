"""Losses, gradients, optimiser steps and error figures of the public code, out of our stages and our terms."""

from __future__ import annotations

import pytest
import torch
from oracle_record import compare, needs_oracles, stored
from sttr_oracle import (
    Case,
    Truth,
    TruthRun,
    at_tokens,
    network,
    public_iou,
    public_losses,
    public_metrics,
    run_with_truth,
)
from torch import Tensor

from stereo.metrics import aggregate, disparity_errors
from stereo.model.sttr.network import Sttr
from stereo.model.sttr.weights import our_names
from stereo.types import Transport

pytestmark = needs_oracles

GROUPS = {"backbone": 1e-4, "regression": 2e-4, "other": 1e-4}  # learning rates of the public optimiser


def group_of(ours: str) -> str:
    if ours.startswith("backbone."):
        return "backbone"
    return "regression" if ours.startswith(("matching.", "adjust.")) else "other"


def norm(gradients: list[Tensor]) -> Tensor:
    return torch.cat([g.double().flatten() for g in gradients]).norm()


@pytest.mark.parametrize("name", ["a", "b", "c", "noocc"])
def test_oracle_losses(name: str):
    case = Case("losses_standalone")
    stride = int(case[f"{name}.downsample"])
    truth = Truth.of(case, f"{name}.in.", float(case[f"{name}.validation_max_disp"]))
    outputs = ("gt_response", "gt_response_occ_left", "gt_response_occ_right", "disp_pred", "disp_pred_low_res", "occ_pred")
    given = {key: case[f"{name}.in.{key}"].requires_grad_() for key in outputs}
    # A transport with one candidate per token, whose mass is the stored response.
    shape = given["gt_response"].shape
    dustbins = []
    for side, mask in (("left", truth.occluded), ("right", truth.occluded_right)):
        dustbins.append(torch.ones(shape).masked_scatter(at_tokens(mask, stride), given[f"gt_response_occ_{side}"]))
    transport = Transport(given["gt_response"][..., None], torch.zeros(*shape, 1, dtype=torch.int64), *dustbins)
    zero = torch.zeros(shape)
    run = TruthRun(transport, zero, zero, zero, zero, given["disp_pred_low_res"], given["disp_pred"], given["occ_pred"])
    pairs = (pair.split(":") for pair in str(case.arrays[f"{name}.loss_weight"]).split(", "))
    factors = {key: float(value) for key, value in pairs}
    losses = public_losses(run, truth, stride, factors)
    for key, value in (losses | public_metrics(run.disp, run.occlusion, truth)).items():
        case.check(f"{name}.loss.{key}", value, rtol=1e-6)
    losses["aggregated"].backward()
    for key, tensor in given.items():
        case.check(f"{name}.grad.{key}", torch.zeros_like(tensor) if tensor.grad is None else tensor.grad, atol=1e-6)


@pytest.mark.parametrize("file", stored("train_grads_*"))
def test_oracle_gradients(file: str):
    """Group and total norms to 1e-3, single norms to 2 %, whole gradients as float32 determines them, plus 1e-4."""
    case = Case(file)
    source = str(case.arrays["meta.input_file"]).partition(".npz")[0]
    inputs = Case(source)
    stride = int(inputs["meta.downsample"])
    model = network(source, stride).train()
    run = run_with_truth(model, inputs)
    losses = public_losses(run, Truth.of(inputs), stride)
    for name, value in (losses | public_metrics(run.disp, run.occlusion, Truth.of(inputs))).items():
        case.check(f"loss.{name}", value, rtol=1e-6)
    losses["aggregated"].backward()

    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    nameless = [name for name, gradient in gradients.items() if gradient is None]
    assert nameless == case.arrays["grad.none_names"].tolist() == ["transformer.norm.weight", "transformer.norm.bias"]
    for group in GROUPS:
        ours = norm([g for name, g in gradients.items() if g is not None and group_of(name) == group])
        case.check(f"grad.group.{group}", ours, atol=0, rtol=1e-3)
    for module in ("backbone", "tokenizer", "transformer"):
        ours = norm([g for name, g in gradients.items() if g is not None and name.startswith(f"{module}.")])
        case.check(f"grad.module.{module}", ours, atol=0, rtol=1e-3)
    case.check("grad.total", norm([g for g in gradients.values() if g is not None]), atol=0, rtol=1e-3)

    names = case.arrays["grad.names"].tolist()
    parts = {name: [gradients[ours] for ours in our_names(name)] for name in names}
    case.check("grad.norms", torch.stack([norm(parts[name]) for name in names]), atol=1e-5, rtol=2e-2)
    noise = dict(zip(names, case.arrays["grad.rel_err_fp32_vs_fp64"].tolist(), strict=True))
    for name in names:
        if f"grad.full.{name}" in case and name not in ("tokenizer.up.0.convTrans.bias", "tokenizer.up.1.convTrans.bias"):
            expected = case[f"grad.full.{name}"].double()
            off = (torch.cat(parts[name]) if len(parts[name]) > 1 else parts[name][0]).double() - expected
            # 1e-4 of it for a pixel that rounding moves across the kink of a ReLU or of the smooth L1.
            allowed = (10 * noise[name] + 1e-4) * expected.norm() + 1e-5
            compare(f"{file}.npz", f"grad.full.{name}", off.norm(), 0.0, allowed)


def test_oracle_four_optimiser_steps():
    """The public loop: AdamW, three groups, clipped to 0.1. Three steps to 1e-3, as stored, the fourth to 1e-3 or 1e-2.

    By the fourth step rounding has grown (Adam scales the noise of a vanishing gradient up to a full step) to where visible
    tokens have two best matches within 1e-4 of each other; which one wins changes the mean disparity error by up to 0.6 %,
    between one thread and two of our own code just as well. What does not hang on that choice stays at 1e-3.
    """
    case, inputs = Case("train_steps_small"), Case("sttr_small_C_ds3")
    model = network("sttr_small_C_ds3", stride=3).train()
    named = list(model.named_parameters())
    groups = [{"params": [p for n, p in named if group_of(n) == group], "lr": rate} for group, rate in GROUPS.items()]
    optimizer = torch.optim.AdamW(groups, weight_decay=1e-4)
    truth = Truth.of(inputs)
    history = []
    for _ in range(4):
        run = run_with_truth(model, inputs)
        losses = public_losses(run, truth, 3)
        row = losses | public_metrics(run.disp, run.occlusion, truth)
        optimizer.zero_grad()
        losses["aggregated"].backward()
        row["grad_norm_before_clip"] = torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()
        history.append(torch.stack([row[column].detach().double() for column in case.arrays["columns"].tolist()]))
    columns = case.arrays["columns"].tolist()
    steady = torch.tensor([column in ("rr", "occ_be", "iou", "error_px", "total_px") for column in columns])
    allowed = torch.full((4, len(columns)), 1e-3)
    allowed[3, ~steady] = 1e-2
    case.check("history", torch.stack(history), atol=0, rtol=allowed)
    case.check("final.phi", model.matching.dustbin, atol=0, rtol=1e-3)
    case.check("final.in_conv0", model.backbone.stem[0].weight, atol=1e-4, rtol=1e-3)  # one step of 1e-4
    case.check("final.cross_in_proj_bias", cross_bias(model), atol=1e-5, rtol=1e-3)


def cross_bias(model: Sttr) -> Tensor:
    names = our_names("transformer.cross_attn_layers.1.cross_attn.in_proj_bias")
    return torch.cat([model.get_parameter(name) for name in names])


@pytest.mark.parametrize("name", ["a", "b", "c", "d", "e", "int"])
def test_oracle_metrics(name: str):
    case = Case("metrics")
    found = figures(case, name)
    wrong = found[f"bad{int(case[f'{name}.px_threshold'])}"] / 100
    for key, value in {
        "error_px": wrong * found["count"],
        "total_px": found["count"],
        "px_error_rate": wrong,
        "epe": found["epe"],
        "iou": found["iou"],
    }.items():
        case.check(f"{name}.{key}", torch.tensor(float(value), dtype=torch.float64), atol=1e-6)


def figures(case: Case, name: str) -> dict:
    """Ours on one stored case."""
    disp, occluded = case.arrays[f"{name}.disp"], case.arrays[f"{name}.occ_mask"]
    valid = ~case.arrays[f"{name}.invalid_mask"]
    errors = disparity_errors(case.arrays[f"{name}.pred"], disp, valid)
    return errors | {"iou": public_iou(case.arrays[f"{name}.occ_pred"], occluded, valid)}


def test_oracle_metrics_of_a_data_set():
    """Their end-point error and IOU are means of images, their share of wrong pixels is pooled."""
    case = Case("metrics")
    rows = [figures(case, name) for name in "abc"]
    for row, name in zip(rows, "abc", strict=True):
        row["bad3"] = row[f"bad{int(case[f'{name}.px_threshold'])}"]  # each case has its own threshold
    summary = aggregate(rows)
    for key, value in {"epe": summary["epe"], "iou": summary["iou"], "px_error_rate": summary["bad3_pooled"] / 100}.items():
        case.check(f"dataset.{key}", torch.tensor(value, dtype=torch.float64), atol=1e-6)
