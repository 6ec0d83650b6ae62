"""Error figures of disparity and occlusion maps (numpy). Every threshold is strict; a figure without pixels is NaN, never 0.

Names of the field: EPE (end-point error, px), bad-x (share of pixels wrong by more than x px, percent), D1 (KITTI 2015: wrong
by more than 3 px and by more than 5 % of the truth, percent), IoU (intersection over union of a class, 0 to 1).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from stereo.types import InputError, Sample

# Units of the error figures, and the list of what is averaged over the pixels of a region.
ERROR_UNITS = {"epe": "px", "bad1": "%", "bad2": "%", "bad3": "%", "d1": "%"}

REGIONS = {
    "all": "pixels with ground truth, occluded ones included",
    "noc": "pixels with ground truth that the right camera sees; all pixels with ground truth where the occlusion is unknown",
    "occ": "pixels with ground truth that the right camera does not see; none where the occlusion is unknown",
}


def _check_shapes(**arrays: np.ndarray) -> None:
    if len({array.shape for array in arrays.values()}) > 1:
        found = ", ".join(f"{name} {array.shape}" for name, array in arrays.items())
        raise InputError(f"sizes differ: {found}; resize to the size of the truth first (disparities times the width ratio)")


def disparity_errors(pred: np.ndarray, truth: np.ndarray, mask: np.ndarray) -> dict[str, Any]:
    """Errors of ``pred`` against ``truth`` (both px, any equal shape) over the pixels where ``mask`` (bool) is True.

    Returns ``epe`` (px), ``bad1``, ``bad2``, ``bad3``, ``d1`` (percent, 0 to 100) and ``count`` (pixels in the mask).
    An empty mask gives NaN and count 0.
    Raises InputError when the shapes differ or a value inside the mask is not finite: NaN compares as "not wrong".
    """
    pred, truth, mask = np.asarray(pred), np.asarray(truth), np.asarray(mask, bool)
    _check_shapes(pred=pred, truth=truth, mask=mask)
    reference = truth[mask].astype(np.float64)
    error = np.abs(pred[mask].astype(np.float64) - reference)
    broken = int(np.count_nonzero(~np.isfinite(error)))
    if broken:
        raise InputError(f"{broken} of {error.size} scored pixels are not finite; fill the unknown disparities before scoring")
    if error.size == 0:
        return dict.fromkeys(ERROR_UNITS, math.nan) | {"count": 0}
    percent = {f"bad{limit}": 100.0 * float(np.mean(error > limit)) for limit in (1, 2, 3)}
    d1 = 100.0 * float(np.mean((error > 3) & (error > 0.05 * reference)))
    return {"epe": float(error.mean()), **percent, "d1": d1, "count": error.size}


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.nan


def _class_scores(tp: int, fp: int, fn: int, tn: int) -> dict[str, float]:
    """The scores of ``occlusion_scores`` from the four counts; 'positive' is occluded."""
    occluded, visible = _ratio(tp, tp + fp + fn), _ratio(tn, tn + fp + fn)
    return {
        "iou_pooled": _ratio(tp + tn, tp + tn + 2 * (fp + fn)),
        "iou_occluded": occluded,
        "iou_visible": visible,
        "iou_mean": (occluded + visible) / 2,
        "f1": _ratio(2 * tp, 2 * tp + fp + fn),
    }


def occlusion_scores(occlusion_prob: np.ndarray, occluded: np.ndarray, known_mask: np.ndarray) -> dict[str, Any]:
    """Agreement of a predicted occlusion, ``occlusion_prob > 0.5``, with ``occluded`` (bool) where ``known_mask`` (bool).

    The shapes are equal and arbitrary. Returned, each in [0, 1] or NaN where undefined:
    ``iou_pooled``    (I_occ + I_vis) / (U_occ + U_vis), the "Occ IOU" of STTR: "nothing is occluded" scores (1-p)/(1+p) on an
                      image whose occluded share is p, so quote one of the next beside it;
    ``iou_occluded``  of the occluded class, NaN when nothing is occluded and nothing is predicted to be;
    ``iou_visible``   of the visible class; ``iou_mean`` of both (NaN when either is); ``f1`` of the occluded class.
    ``count`` is the number of known pixels, ``count_tp``, ``count_fp``, ``count_fn``, ``count_tn`` split it.
    Raises InputError when the shapes differ or a probability at a known pixel is not in [0, 1].
    """
    prob, occluded, known = np.asarray(occlusion_prob), np.asarray(occluded, bool), np.asarray(known_mask, bool)
    _check_shapes(occlusion_prob=prob, occluded=occluded, known_mask=known)
    values = prob[known]
    broken = int(np.count_nonzero(~((values >= 0) & (values <= 1))))
    if broken:
        raise InputError(f"{broken} of {values.size} occlusion probabilities are not in [0, 1]; apply the sigmoid first")
    predicted, actual = values > 0.5, occluded[known]
    counts = {
        "tp": int(np.count_nonzero(predicted & actual)),
        "fp": int(np.count_nonzero(predicted & ~actual)),
        "fn": int(np.count_nonzero(~predicted & actual)),
        "tn": int(np.count_nonzero(~predicted & ~actual)),
    }
    return _class_scores(**counts) | {"count": values.size} | {f"count_{key}": value for key, value in counts.items()}


def region_masks(sample: Sample) -> dict[str, np.ndarray]:
    """The regions of REGIONS as (H, W) bool masks: ``all``, ``noc``, ``occ``.

    Where ``sample.occluded`` is None, ``noc`` equals ``all`` and ``occ`` is empty: whoever reports such figures says so.
    Raises InputError when the sample has no ground truth.
    """
    if sample.disp is None or sample.valid is None:
        raise InputError(f"'{sample.name}' has no ground-truth disparity, so it cannot be scored")
    if sample.occluded is None:
        return {"all": sample.valid, "noc": sample.valid, "occ": np.zeros_like(sample.valid)}
    return {"all": sample.valid, "noc": sample.valid & ~sample.occluded, "occ": sample.valid & sample.occluded}


def aggregate(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Figures of a data set from one dict per image, whose keys may end in a region: ``epe_noc``, ``count_noc``.

    For every float entry ``key``: the mean of the per-image values that are not NaN, and ``<key>_skipped``, how many are NaN
    or missing (the mean is NaN when all are). For every entry ``count...``: the sum. For every figure of ERROR_UNITS, and for
    the occlusion scores when their counts are there: ``<key>_pooled`` over all pixels at once, where big images weigh more.
    ``images`` is the number of rows; other entries (names, sizes) are left out.
    """
    result: dict[str, Any] = {"images": len(rows)}
    for key in dict.fromkeys(key for row in rows for key in row):
        values = [row.get(key, math.nan) for row in rows]
        if key.startswith("count"):
            result[key] = sum(row.get(key, 0) for row in rows)
        elif all(isinstance(value, float) for value in values):
            defined = [value for value in values if not math.isnan(value)]
            result[key] = _ratio(math.fsum(defined), len(defined))
            result[f"{key}_skipped"] = len(values) - len(defined)
            figure, _, region = key.partition("_")
            if figure in ERROR_UNITS:
                count = f"count_{region}" if region else "count"
                total = math.fsum(row[key] * row[count] for row in rows if row.get(count))
                result[f"{key}_pooled"] = _ratio(total, sum(row.get(count, 0) for row in rows))
    if "count_tp" in result:
        scores = _class_scores(*(result[f"count_{key}"] for key in ("tp", "fp", "fn", "tn")))
        # 'pooled' is already taken by STTR for pooling the two classes.
        result |= {f"{key}_pooled": value for key, value in scores.items() if key != "iou_pooled"}
    return result
