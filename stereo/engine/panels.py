"""What a network makes of a training pair, as one picture whose colours mean the same px at every step."""

from __future__ import annotations

import numpy as np

from stereo.report.colour import GRAY, colour_disparity, colour_error, gray, with_legend
from stereo.report.figures import panel
from stereo.types import Batch, Prediction

RANGE = 0.25  # of the picture's width: where the colours of the disparity end
ERROR_LIMIT = 3.0  # px, where those of the error end


def training_panel(batch: Batch, prediction: Prediction) -> np.ndarray:
    """The first pair of the batch: left | right | disparity, truth | error | occlusion. (H', W', 3) uint8 RGB."""
    left, right = ((x[0].permute(1, 2, 0) * 255).byte().cpu().numpy() for x in (batch.left, batch.right))
    disp, valid, occluded = (getattr(batch, name)[0].cpu().numpy() for name in ("disp", "valid", "occluded"))
    result, limit = prediction.to_map(), RANGE * left.shape[1]

    def coloured(values: np.ndarray) -> np.ndarray:
        return with_legend(colour_disparity(values, 0, limit), 0, limit)

    probability = with_legend(gray(result.occlusion), 0, 1, "", GRAY)
    pictures = [
        ("left", left),
        ("right", right),
        ("occluded", gray(occluded.astype(np.float32))),
        ("disparity", coloured(result.disp)),
        ("ground truth", coloured(np.where(valid, disp, np.nan))),
        ("occlusion probability", probability),
        ("error", colour_error(result.disp, disp, valid, ERROR_LIMIT)),
    ]
    return panel(pictures, columns=3)
