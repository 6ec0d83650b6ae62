"""What the oracle tests of STTR share: the stored cases, our network with their weights, tolerances, the public losses."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from oracle_record import compare, open_arrays, rounding_noise
from torch import Tensor

from stereo.config import SttrConfig
from stereo.losses import masked_mean, response_at, response_loss
from stereo.metrics import disparity_errors, occlusion_scores
from stereo.model.build import build_model
from stereo.model.matching import window_sums
from stereo.model.sttr.network import Sttr
from stereo.model.sttr.weights import convert_names, guess_config
from stereo.types import Transport

EPSILON = 1e-6  # inside the logarithms of the public losses
# Where nobody has measured the rounding noise of a file: by the first of these that the name of a tensor holds.
FLAT = {
    "loss.": 1e-3,
    "cal.": 1e-3,
    "pos_enc": 1e-5,
    "raw_attn": 6e-3,
    "attn_ot": 2e-3,
    "gt_response": 2e-3,
    "matched_attn": 5e-4,
    "occ": 5e-4,
    "disp": 1e-2,
    "": 3e-4,
}


class Case:
    """One stored file: ``case["inf.pos_enc"]`` is a tensor, ``"name" in case`` says whether it is there."""

    def __init__(self, file: str):
        self.file = file
        self.arrays = open_arrays(file)
        self.noise = rounding_noise(file)

    def __contains__(self, name: str) -> bool:
        return name in self.arrays

    def __getitem__(self, name: str) -> Tensor:
        return torch.from_numpy(np.array(self.arrays[name]))

    def names(self, prefix: str) -> list[str]:
        return [name for name in self.arrays if name.startswith(prefix) and not name.endswith(".stats")]

    def check(self, name: str, ours: Tensor, atol: float | None = None, rtol: float | Tensor = 0.0) -> None:
        """Compare with the stored tensor, to ``atol`` plus ``rtol`` of its entries.

        Without ``atol``: ten times the rounding noise that was measured on the public code, plus 1e-6.
        """
        expected = self[name].double()
        if atol is None:
            atol = 10 * self.noise[name] + 1e-6 if name in self.noise else flat_tolerance(name)
        compare(f"{self.file}.npz", name, ours, expected, atol + rtol * expected.abs().clamp(max=1e30))


def flat_tolerance(name: str) -> float:
    return next(tolerance for part, tolerance in FLAT.items() if part in name)


def weights(file: str) -> dict[str, Tensor]:
    """The published state that the case was made with; the small networks share the backbone of the default one."""
    state = Case("sttr_default_weights").arrays
    if not file.startswith("sttr_default"):
        state = {key: value for key, value in state.items() if key.startswith("backbone.")}
        state |= Case("sttr_small_weights_nobackbone").arrays
    if "_nocal_" in file:
        state = {key: value for key, value in state.items() if not key.startswith("regression_head.cal.")}
    return {key: torch.from_numpy(np.array(value)) for key, value in state.items()}


def network(file: str, stride: int) -> Sttr:
    state = weights(file)
    channels = len(state["transformer.norm.weight"])
    like = SttrConfig(
        faithful=True,
        stride=stride,
        heads=8 if file.startswith("sttr_default") else channels // 8,  # not stored: heads of the small ones are 8 wide
        position="none" if "_nopos_" in file else "relative",
        matching="softmax" if "_softmax_" in file else "transport",
    )
    model = build_model(guess_config(state, like))
    model.load_state_dict(convert_names(state, model.state_dict(), file))
    return model.eval()


@dataclass
class TruthRun:
    """The public network as it behaves when it is handed the truth (SPEC P1): for its losses only, so it lives in the tests.

    (B, h, w) but for disp and occlusion (B, H, W) px and probability, and the masks and disparities of the batch.
    """

    transport: Transport
    target: Tensor
    disp_coarse: Tensor
    window_mass: Tensor
    occlusion_coarse: Tensor
    disp_low_res: Tensor
    disp: Tensor
    occlusion: Tensor

    @property
    def response(self) -> Tensor:
        """Between the first and the last token only: the public sampling stops at the border."""
        return response_at(self.transport, self.target.clamp(0, self.transport.mass.shape[-1] - 1))


def at_tokens(x: Tensor, stride: int) -> Tensor:
    """Columns and rows floor(s/2), floor(s/2) + s, ...: where the public code samples."""
    every = slice(stride // 2, None, max(stride, 1))
    return x[:, every, every]


def run_with_truth(model: Sttr, case: Case) -> TruthRun:
    """Our stages, with the window mass overwritten where the truth says occluded, as public training and evaluation do."""
    left, right = case["in.left"], case["in.right"]
    maps = model.match_normalised(left, right)
    plan, stride = maps.plan, model.config.stride
    mass = plan[..., :-1, :-1]
    width = mass.shape[-1]
    index = torch.arange(width)
    transport = Transport(mass, index.expand(mass.shape), plan[..., :-1, -1], plan[..., -1, :-1])
    scale = model.scale(left.shape[-1], width)
    columns = torch.arange(left.shape[-1]).expand(case["in.disp"].shape)
    target = (at_tokens(columns, stride) - at_tokens(case["in.disp"], stride)) / scale
    moment, mass = window_sums(transport.mass, index, transport.index)
    mass = torch.where(at_tokens(case["in.occ_mask"], stride), 1.0, mass)
    disp, logits = model.refine(moment / mass, 1 - mass, left)
    # Without the adjustment probabilities are 0 and 1, which logits cannot say; the public losses need them exactly.
    occlusion = logits.sigmoid() if model.adjust and stride else model.upsample(1 - mass, left.shape[-2:])
    return TruthRun(transport, target, moment / mass, mass, 1 - mass, moment / mass * scale, disp, occlusion)


@dataclass
class Truth:
    """disp (B, H, W) px, occluded and occluded_right (B, H, W) bool; limit: largest disparity that counts, -1 for any."""

    disp: Tensor
    occluded: Tensor
    occluded_right: Tensor
    limit: float = -1

    @classmethod
    def of(cls, case: Case, prefix: str = "in.", limit: float = -1) -> Truth:
        return cls(case[f"{prefix}disp"], case[f"{prefix}occ_mask"], case[f"{prefix}occ_mask_right"], limit)

    @property
    def visible(self) -> Tensor:
        """What the public code takes for visible: anything with a disparity. Real truth has none where it is occluded."""
        return (self.disp > 0) & (self.disp < self.limit) if self.limit != -1 else self.disp > 0


def public_losses(run: TruthRun, truth: Truth, stride: int, factors: dict[str, float] | None = None) -> dict[str, Tensor]:
    """SPEC 2.1 out of our own terms, with the biased target of the public code."""
    tokens = {name: at_tokens(getattr(truth, name), stride) for name in ("disp", "visible", "occluded", "occluded_right")}
    target = run.target.clamp(0, run.transport.mass.shape[-1] - 1)
    occluded, seen = run.occlusion[truth.occluded], run.occlusion[truth.visible]
    losses = {
        "rr": response_loss(run.transport, target, tokens["visible"], tokens["occluded"], tokens["occluded_right"]),
        "l1_raw": masked_mean(F.smooth_l1_loss(run.disp_low_res, tokens["disp"], reduction="none"), tokens["visible"]),
        "l1": masked_mean(F.smooth_l1_loss(run.disp, truth.disp, reduction="none"), truth.visible),
        "occ_be": -torch.cat([(occluded + EPSILON).log(), (1 - seen + EPSILON).log()]).mean(),
    }
    return losses | {"aggregated": sum((factors or {}).get(name, 1.0) * loss for name, loss in losses.items())}


def public_metrics(disp: Tensor, occlusion: Tensor, truth: Truth, threshold: int = 3) -> dict[str, Tensor]:
    """The public figures out of ours: wrong and all pixels, end-point error, Occ IOU."""
    mask = truth.visible.numpy()
    errors = disparity_errors(disp.detach().numpy(), truth.disp.numpy(), mask)
    wrong = round(errors[f"bad{threshold}"] * errors["count"] / 100)
    iou = public_iou(occlusion.detach().numpy(), truth.occluded.numpy(), mask)
    figures = {"error_px": wrong, "total_px": errors["count"], "epe": errors["epe"], "iou": iou}
    return {name: torch.tensor(float(value), dtype=torch.float64) for name, value in figures.items()}


def public_iou(occlusion: np.ndarray, occluded: np.ndarray, visible: np.ndarray) -> float:
    """Ours, wherever a pixel is occluded or visible. The public code counts a pixel that is said to be both in both classes."""
    if not (occluded & visible).any():
        return occlusion_scores(occlusion, occluded, visible | occluded)["iou_pooled"]
    predicted, known = occlusion > 0.5, visible | occluded
    shared = (predicted & occluded).sum() + (~predicted & visible).sum()
    return shared / (((predicted | occluded) & known).sum() + ((~predicted | visible) & known).sum())


def with_config(model: Sttr, **changes) -> Sttr:
    """The same weights under another configuration."""
    other = build_model(replace(model.config, **changes))
    other.load_state_dict(model.state_dict())
    return other.train(model.training)
