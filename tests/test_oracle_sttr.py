"""Our network with the public one's weights, ``faithful``, against every tensor that was stored of the public one.

``inf.`` is what a user gets and what our forward path computes. ``gt.`` is the public network with the truth handed in.
"""

from __future__ import annotations

import pytest
import torch
from oracle_record import needs_oracles, rounding_noise, stored
from sttr_oracle import Case, Truth, at_tokens, flat_tolerance, network, public_losses, public_metrics, run_with_truth
from torch import Tensor

from stereo.attention import dense
from stereo.attention.contract import masked_softmax

pytestmark = needs_oracles

FILES = stored("sttr_default_*_ds*") + stored("sttr_small*_ds*")


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def as_stored(x: Tensor) -> Tensor:
    """(2, h, w, C), left then right -> (w, 2h, C), the layout of the stored features."""
    return x.flatten(0, 1).transpose(0, 1)


class Recorder:
    """What passes through the network's modules, and through every softmax of its attention, during one call."""

    def __init__(self, model, monkeypatch: pytest.MonkeyPatch):
        self.out: dict[str, Tensor] = {}
        self.into: dict[str, tuple[Tensor, ...]] = {}
        self.softmaxes: list[tuple[Tensor, Tensor]] = []  # scores and weights (B, h, heads, w, w)

        def softmax(scores: Tensor, allowed: Tensor | None) -> Tensor:
            weights = masked_softmax(scores, allowed)
            self.softmaxes.append((scores, weights))
            return weights

        monkeypatch.setattr(dense, "masked_softmax", softmax)
        for name, module in model.named_modules():
            module.register_forward_hook(lambda _, given, result, name=name: self._keep(name, given, result))

    def _keep(self, name: str, given: tuple, result) -> None:
        self.into[name], self.out[name] = given, result


@pytest.mark.parametrize("file", FILES)
def test_oracle_inference(file: str, monkeypatch: pytest.MonkeyPatch):
    case = Case(file)
    model = network(file, int(case["meta.downsample"]))
    seen = Recorder(model, monkeypatch)
    with torch.no_grad():
        maps = model.match_normalised(case["in.left"], case["in.right"])
        check_features(case, seen)
        check_layers(case, model, seen, maps.logits)
    h, width = maps.disp_coarse.shape[1:]
    found = {
        "raw_attn": maps.logits,
        "attn_ot": maps.plan,
        "disp_low_res_unscaled": maps.disp_coarse,
        "matched_attn": 1 - maps.occlusion_coarse[..., None],
        "occ_low_res": maps.occlusion_coarse,
        "out.disp_pred": maps.disp,
        "out.disp_pred_low_res": maps.disp_coarse * model.scale(maps.disp.shape[-1], width),
        "out.occ_pred": maps.occlusion_logits.sigmoid(),
    }
    if "adjust" in seen.out:
        disp, occlusion, _ = seen.into["adjust"]
        found |= {"cal.in_disp": disp, "cal.in_occ": occlusion, "cal.out_disp": seen.out["adjust"][0]}
    for name in ("raw_attn", "attn_ot"):
        found[f"{name}.rows"] = found[name][:, case["meta.low_rows"]]
    kept = [name for name in found if f"inf.{name}" in case]
    for name in kept:
        case.check(f"inf.{name}", found[name])
    assert len(kept) >= 7
    assert h == len(range(model.config.stride // 2, maps.disp.shape[1], max(model.config.stride, 1)))


def check_features(case: Case, seen: Recorder) -> None:
    quarter, eighth, sixteenth = seen.out["backbone"]
    full = seen.out["tokenizer.mix"]
    found = {
        "backbone.1.ch8": quarter[:, ::8],
        "backbone.2.ch8": eighth[:, ::8],
        "backbone.3": sixteenth,
        "tokens.ch": full[:, case["meta.tok_ch"]],
        "tokens.rows": full[:, :, case["meta.tok_rows"]],
    }
    for name, ours in found.items():
        if f"inf.{name}" in case:
            case.check(f"inf.{name}", ours)


def check_layers(case: Case, model, seen: Recorder, logits: Tensor) -> None:
    rows, last = case["meta.hn_rows"], model.config.layers - 1
    h = logits.shape[1]
    tokens = seen.out["tokenizer"]
    table = model.position_table(tokens, case["in.left"].shape[-1])
    assert (table is None) == ("inf.pos_enc" not in case)
    if table is not None:
        case.check("inf.pos_enc", table, atol=1e-6)
    found = {"self.0.mha_out.rows": as_stored(seen.out["transformer.self_layers.0.within"])[:, rows]}
    for i in range(last + 1):
        from_self = seen.out[f"transformer.self_layers.{i}"]
        _, weights = seen.softmaxes[3 * i]  # self, right update, left update; the last left update is the match
        found[f"self.{i}.mha_attn.rows"] = weights.mean(dim=2).flatten(0, 1)[rows]
        found[f"self.{i}.feat.rows"] = as_stored(from_self)[:, rows]
        if i < last:
            features = torch.cat(seen.out[f"transformer.cross_layers.{i}"])
            scores = seen.softmaxes[3 * i + 2][0].sum(dim=2)[0]
        else:  # its left features are of no use, so only this test computes them
            left, right = from_self.chunk(2)
            layer = model.transformer.cross_layers[i]
            query, key, right = layer.meet(left, right, table)
            features = torch.cat([left + layer.across(query, key, table, torch.ones(1, dtype=torch.int64)), right])
            scores = logits[0]
        found[f"cross.{i}.feat.rows"] = as_stored(features)[:, rows]
        found[f"cross.{i}.raw_attn.rows"] = scores[rows[rows < h]]
    for name, ours in found.items():
        if f"inf.{name}" in case:
            case.check(f"inf.{name}", ours)


@pytest.mark.parametrize("file", FILES)
def test_oracle_with_the_truth_handed_in(file: str, monkeypatch: pytest.MonkeyPatch):
    case = Case(file)
    stride = int(case["meta.downsample"])
    model = network(file, stride)
    seen = Recorder(model, monkeypatch)
    with torch.no_grad():
        run = run_with_truth(model, case)
    truth = Truth.of(case)
    found = {
        "gt_target": run.target[..., None],
        "disp_low_res_unscaled": run.disp_coarse,
        "matched_attn": run.window_mass[..., None],
        "occ_low_res": run.occlusion_coarse,
        "out.gt_response": run.response,
        "out.gt_response_occ_left": run.transport.dustbin[at_tokens(truth.occluded, stride)],
        "out.gt_response_occ_right": run.transport.dustbin_right[at_tokens(truth.occluded_right, stride)],
        "out.disp_pred": run.disp,
        "out.disp_pred_low_res": run.disp_low_res,
        "out.occ_pred": run.occlusion,
    }
    if "adjust" in seen.out:
        disp, occlusion, _ = seen.into["adjust"]
        found |= {"cal.in_disp": disp, "cal.in_occ": occlusion, "cal.out_disp": seen.out["adjust"][0]}
    if stride:
        losses = public_losses(run, truth, stride) | public_metrics(run.disp, run.occlusion, truth)
        found |= {f"loss.{name}": value for name, value in losses.items()}
    missing = set(case.names("gt.")) - {f"gt.{name}" for name in found}
    assert not missing
    for name in case.names("gt."):
        # A sum over an image in another order differs by a few of float32's last places, which can be more than its noise.
        case.check(name, found[name.removeprefix("gt.")], rtol=1e-6 if name.startswith("gt.loss.") else 0.0)


def test_oracle_each_pair_of_a_batch_of_two():
    """The public code fails on a batch; one pair at a time is its only meaning, and ours in a batch."""
    case = Case("sttr_small_batch2")
    model = network("sttr_small_batch2", stride=3)
    with torch.no_grad():
        maps = model.match_normalised(case["in.left"], case["in.right"])
        run = run_with_truth(model, case)
    scale = model.scale(maps.disp.shape[-1], maps.disp_coarse.shape[-1])
    occluded, occluded_right = (at_tokens(case[f"in.{name}"], 3) for name in ("occ_mask", "occ_mask_right"))
    for i in range(2):
        found = {
            "inf.out.disp_pred": (maps.disp[i : i + 1], 1e-2),
            "inf.out.disp_pred_low_res": (maps.disp_coarse[i : i + 1] * scale, 1e-2),
            "inf.out.occ_pred": (maps.occlusion_logits[i : i + 1].sigmoid(), 5e-4),
            "gt.out.gt_response": (run.response[i : i + 1], 5e-4),
            "gt.out.gt_response_occ_left": (run.transport.dustbin[i][occluded[i]], 5e-4),
            "gt.out.gt_response_occ_right": (run.transport.dustbin_right[i][occluded_right[i]], 5e-4),
            "gt.out.disp_pred_low_res": (run.disp_low_res[i : i + 1], 1e-2),
        }
        assert {f"single{i}.{name}" for name in found} == set(case.names(f"single{i}."))
        for name, (ours, atol) in found.items():
            case.check(f"single{i}.{name}", ours, atol)


@pytest.mark.parametrize("file", FILES)
def test_oracle_flat_tolerances_are_wide_enough(file: str):
    """They hold for whatever file comes without measured noise: twice the noise of each tensor of the files that have it."""
    for name, noise in rounding_noise(file).items():
        assert flat_tolerance(name) >= 2 * noise, name
