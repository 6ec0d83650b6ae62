"""Training terms (STTR section 3.6) without the traps of the public code: SPEC P1, P2, P3, P11."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from stereo.config import LossConfig
from stereo.types import Batch, Prediction, Transport


def response_at(transport: Transport, target: Tensor) -> Tensor:
    """Probability of a match at a fractional right-token column, linear between the two neighbours (SPEC 1.11).

    target (B, h, w) in right tokens -> (B, h, w). All mass at a whole target gives exactly 1, at any width and stride.
    """
    nearness = (1 - (transport.index - target[..., None]).abs()).clamp(min=0)
    return (transport.mass * nearness).sum(dim=-1)


def response_loss(transport: Transport, target: Tensor, visible: Tensor, occluded: Tensor, occluded_right: Tensor) -> Tensor:
    """One joint mean of -log p over visible matches, left dustbins where occluded, right dustbins where occluded.

    target, visible, occluded, occluded_right: (B, h, w). Zero when no token qualifies.
    """
    terms = torch.cat([
        response_at(transport, target)[visible],
        transport.dustbin[occluded],
        transport.dustbin_right[occluded_right],
    ])
    return -(terms + 1e-6).log().mean() if terms.numel() else transport.mass.sum() * 0


def masked_mean(values: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean; 0, still attached to the graph, when no pixel counts (never NaN: SPEC P11)."""
    weights = weights.to(values.dtype)
    return (values * weights).sum() / weights.sum().clamp(min=1e-6)


def stereo_loss(prediction: Prediction, batch: Batch, config: LossConfig) -> dict[str, Tensor]:
    """Every term and their weighted sum under "total". Scalars.

    The mask of occluded pixels selects what is supervised; it never reaches the network (SPEC P1). Tokens are compared with
    the pixel at their centre in units of the integer stride (SPEC P2, P3).
    """
    assert prediction.transport is not None  # the network always hands it out
    height, width = prediction.disp_coarse.shape[-2:]
    stride = round(batch.disp.shape[-1] / width)
    centre = slice(stride // 2, None, stride)
    disp, valid, occluded, occluded_right = (
        x[:, centre, centre][:, :height, :width] for x in (batch.disp, batch.valid, batch.occluded, batch.occluded_right)
    )
    visible = valid & ~occluded
    target = torch.arange(width, device=disp.device) - disp / stride

    terms = {
        "response": response_loss(prediction.transport, target, visible, occluded, occluded_right),
        "coarse": masked_mean(F.smooth_l1_loss(prediction.disp_coarse * stride, disp, reduction="none"), visible),
    }
    error = F.smooth_l1_loss(prediction.disp, batch.disp, reduction="none")
    weight = torch.where(batch.occluded, config.occluded_weight, 1.0) * batch.valid
    terms["disparity"] = masked_mean(error, weight)

    known = batch.valid | batch.occluded
    bce = F.binary_cross_entropy_with_logits
    terms["occlusion"] = masked_mean(bce(prediction.occlusion_logits, batch.occluded.float(), reduction="none"), known)
    right = ((prediction.disp - batch.disp).abs() < 1).float()  # no gradient: a comparison
    terms["confidence"] = masked_mean(bce(prediction.confidence_logits, right, reduction="none"), batch.valid)

    terms["total"] = sum(getattr(config, name) * term for name, term in terms.items())
    return terms
