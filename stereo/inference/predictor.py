"""Two photographs in, a DisparityMap out: padding and number formats live here, so that the network never sees them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stereo.config import near_matches
from stereo.model.build import Network
from stereo.types import DisparityMap, InputError

MIN_SIDE = 32  # px
PRECISIONS = ("auto", "fp32", "bf16")


def check_pair(left: np.ndarray, right: np.ndarray) -> None:
    """Raise InputError unless both are uint8 RGB (H, W, 3) of one size, H and W at least 32 px."""
    for side, image in (("left", left), ("right", right)):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise InputError(f"the {side} image is {image.dtype} {image.shape}, expected uint8 RGB of shape (H, W, 3)")
    sizes = [f"{image.shape[1]}x{image.shape[0]}" for image in (left, right)]
    if sizes[0] != sizes[1]:
        raise InputError(f"the left image is {sizes[0]} px and the right one {sizes[1]} px; a rectified pair has one size")
    if min(left.shape[:2]) < MIN_SIDE:
        raise InputError(f"the images are {sizes[0]} px; expected at least {MIN_SIDE} px on each side")


def computes_bf16(device: torch.device) -> bool:
    """Whether the device has instructions for bfloat16; without them it is slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # not in the oldest PyTorch allowed
    return device.type == "cpu" and any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16"))


class StereoPredictor:
    """Runs a network on pairs of any size from 32x32 px on.

    Images are padded below and to the right by repeating their border to the sizes that the network declares
    (``granularity``, ``min_side``), and the maps are cut back.

    precision: fp32, bf16 (autocast: products in bfloat16, sums, softmax and transport in float32), or auto: bf16 where the
    device computes in it and the network declares that it bears it (``bears_bf16``). ``self.precision`` says which it became.
    Raises InputError for another one.
    """

    def __init__(self, model: Network, precision: str = "auto"):
        if precision not in PRECISIONS:
            raise InputError(f"got precision '{precision}', {near_matches(precision, PRECISIONS)}")
        self.model = model.eval()
        if precision == "auto":
            precision = "bf16" if model.bears_bf16 and computes_bf16(self._device) else "fp32"
        self.precision = precision

    def predict(self, left: np.ndarray, right: np.ndarray) -> DisparityMap:
        """left, right: (H, W, 3) uint8 RGB, rectified. Returns float32 (H, W) maps of the left view.

        Raises InputError for other types, sizes that differ, or sides below 32 px.
        """
        check_pair(left, right)
        height, width = left.shape[:2]
        low = torch.autocast(self._device.type, torch.bfloat16, enabled=self.precision == "bf16")
        with torch.inference_mode(), low:
            prediction = self.model(*(self._prepare(image) for image in (left, right)))
        maps = prediction.to_map()
        return DisparityMap(*(np.ascontiguousarray(x[:height, :width]) for x in (maps.disp, maps.occlusion, maps.confidence)))

    def predict_both(self, left: np.ndarray, right: np.ndarray) -> tuple[DisparityMap, DisparityMap]:
        """The maps of the left and of the right view. In a mirror the right camera is the left one, so it is a second run."""
        mirrored = self.predict(right[:, ::-1], left[:, ::-1])
        unmirrored = (np.ascontiguousarray(x[:, ::-1]) for x in (mirrored.disp, mirrored.occlusion, mirrored.confidence))
        return self.predict(left, right), DisparityMap(*unmirrored)

    @property
    def _device(self) -> torch.device:
        return next(self.model.parameters()).device

    def _prepare(self, image: np.ndarray) -> Tensor:
        """(H, W, 3) uint8 -> (1, 3, H', W') float in [0, 1] on the network's device, H' and W' as it wants them."""
        x = torch.from_numpy(np.ascontiguousarray(image)).to(self._device).permute(2, 0, 1)[None].float() / 255
        step, least = self.model.granularity, self.model.min_side
        below, beside = (max(side, least) + -max(side, least) % step - side for side in x.shape[2:])
        return F.pad(x, (0, beside, 0, below), mode="replicate")
