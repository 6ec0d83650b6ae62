"""The dictionary of the project: every name, shape, unit and sign is defined here and nowhere else.

Alphabet: B batch, H x W image, h x w coarse grid (tokens), C channels, heads, d = C / heads.
Sign: a scene point at column ``x`` of the left image lies at column ``x - disp`` of the right image; ``disp >= 0``.
Unit: ``disp`` is in pixels of its own array's width; ``disp_coarse`` is in coarse pixels (tokens).
Unknown and occluded pixels live in boolean masks; they are never encoded as 0, inf or -1 inside the program.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor


class InputError(ValueError):
    """The user gave something that cannot work. One line: what was given, what is allowed, what to do (exit code 2)."""


class StoppedError(RuntimeError):
    """Work under way cannot go on, though the input was fine. One line: what happened, what is kept, what to do (code 1)."""


@dataclass(frozen=True)
class Sample:
    """One stereo pair as read from files or rendered from a seed (numpy, no batch axis).

    left, right:   (H, W, 3) uint8 RGB, rectified.
    disp:          (H, W) float32 px, finite everywhere; meaningful only where ``valid``. None without ground truth.
    valid:         (H, W) bool, True where ``disp`` is known (occluded pixels may be valid). None without ground truth.
    occluded:      (H, W) bool, True where the left pixel is not seen by the right camera. None when it is not known.
    *_right:       the same for the right view: ``x_left = x_right + disp_right``.
    name:          what a log line calls it, for example "middlebury2014/Motorcycle_Q".
    """

    left: np.ndarray
    right: np.ndarray
    disp: np.ndarray | None = None
    valid: np.ndarray | None = None
    occluded: np.ndarray | None = None
    disp_right: np.ndarray | None = None
    valid_right: np.ndarray | None = None
    occluded_right: np.ndarray | None = None
    name: str = ""


@dataclass(frozen=True)
class Batch:
    """Samples of equal size as tensors: left, right (B,3,H,W) float32 in [0,1]; the rest as in Sample with a leading B."""

    left: Tensor
    right: Tensor
    disp: Tensor
    valid: Tensor
    occluded: Tensor
    occluded_right: Tensor
    names: tuple[str, ...] = ()

    def to(self, device: torch.device | str) -> Batch:
        moved = {f.name: getattr(self, f.name).to(device) for f in fields(self) if f.name != "names"}
        return replace(self, **moved)


@dataclass(frozen=True)
class Transport:
    """Where each left token's probability mass went along its epipolar line (STTR section 3.3).

    mass:          (B, h, w, J) in [0,1], mass on each candidate right token. Dense matching has J = w_right.
    index:         (B, h, w, J) int64, the right-token column of each candidate.
    dustbin:       (B, h, w) in [0,1], mass on "no match"; ``mass.sum(-1) + dustbin == 1``.
    dustbin_right: (B, h, w_right) in [0,1], the same seen from the right view (the column marginal is only approximate).
    """

    mass: Tensor
    index: Tensor
    dustbin: Tensor
    dustbin_right: Tensor


@dataclass(frozen=True)
class Prediction:
    """What the network returns. It has no field for a label, so truth cannot enter a forward pass.

    disp:             (B, H, W) px, >= 0.
    occlusion_logits: (B, H, W); ``occlusion`` is its sigmoid, the probability that the right camera does not see the pixel.
    confidence_logits:(B, H, W); ``confidence`` is its sigmoid, the probability that ``disp`` is within 1 px.
    disp_coarse:      (B, h, w) coarse px, straight from the match, before any adjustment.
    transport:        the match itself; None when the caller asked for maps only.
    """

    disp: Tensor
    occlusion_logits: Tensor
    confidence_logits: Tensor
    disp_coarse: Tensor
    transport: Transport | None = None

    @property
    def occlusion(self) -> Tensor:
        return self.occlusion_logits.sigmoid()

    @property
    def confidence(self) -> Tensor:
        return self.confidence_logits.sigmoid()

    def detached(self) -> Prediction:
        """The maps alone, without the match and without the graph that led to them."""
        maps = {f.name: getattr(self, f.name).detach() for f in fields(self) if f.name != "transport"}
        return Prediction(**maps)

    def to_map(self, item: int = 0) -> DisparityMap:
        """One image of the batch as numpy."""
        maps = (self.disp, self.occlusion, self.confidence)
        return DisparityMap(*(x[item].detach().float().cpu().numpy() for x in maps))


@dataclass(frozen=True)
class DisparityMap:
    """A finished result for one pair: float32 (H, W) numpy arrays at the input's own size.

    disp: px, >= 0, finite, dense. occlusion, confidence: in [0, 1].
    """

    disp: np.ndarray
    occlusion: np.ndarray
    confidence: np.ndarray
