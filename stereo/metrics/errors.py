"""Errors of a disparity map over the pixels of a mask, and agreement of an occlusion map."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from stereo.types import InputError

THRESHOLDS = (1.0, 2.0, 3.0)  # px, of bad-x where nothing else is asked for
QUANTILES = (50, 90, 95, 99)  # percent of the pixels, of Middlebury's and ETH3D's tables


def bad_name(limit: float) -> str:
    """The name of the figure bad-x: 'bad3', 'bad0.5'."""
    return f"bad{limit:g}"


def is_pixel_mean(figure: str) -> bool:
    """Whether the figure is a mean over pixels, so that images can be pooled by their counts."""
    return figure in ("epe", "d1") or figure.startswith("bad")


def unit_of(figure: str) -> str:
    """'px', '%' or '0 to 1': of a figure of ``disparity_errors``, ``occlusion_scores`` or ``confidence_scores``."""
    if figure == "d1" or figure.startswith("bad"):
        return "%"
    return "0 to 1" if figure.startswith(("iou", "f1")) else "times EPE" if figure == "ause_relative" else "px"


def check_shapes(**arrays: np.ndarray) -> None:
    """Raise InputError unless all arrays have one shape."""
    if len({array.shape for array in arrays.values()}) > 1:
        found = ", ".join(f"{name} {array.shape}" for name, array in arrays.items())
        raise InputError(f"sizes differ: {found}; resize to the size of the truth first (disparities times the width ratio)")


def absolute_errors(pred: np.ndarray, truth: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """|pred - truth| and truth, px, float64 (N,), of the N pixels of ``mask``, row by row. All arrays of one shape.

    Raises InputError when the shapes differ or a value inside the mask is not finite: NaN compares as "not wrong".
    """
    pred, truth, mask = np.asarray(pred), np.asarray(truth), np.asarray(mask, bool)
    check_shapes(pred=pred, truth=truth, mask=mask)
    reference = truth[mask].astype(np.float64)
    error = np.abs(pred[mask].astype(np.float64) - reference)
    broken = int(np.count_nonzero(~np.isfinite(error)))
    if broken:
        raise InputError(f"{broken} of {error.size} scored pixels are not finite; fill the unknown disparities before scoring")
    return error, reference


def _wrong(error: np.ndarray, reference: np.ndarray, thresholds: Sequence[float]) -> dict[str, np.ndarray]:
    """bad-x and D1 of each pixel."""
    bad = {bad_name(limit): error > limit for limit in thresholds}
    return bad | {"d1": (error > 3) & (error > 0.05 * reference)}


def _figures(error: np.ndarray, wrong: Mapping[str, int], distribution: bool) -> dict[str, Any]:
    """``wrong``: how many of the pixels are bad-x or D1."""
    if error.size == 0:
        names = ["epe", *wrong, *(["rms", *(f"a{q}" for q in QUANTILES)] if distribution else [])]
        return dict.fromkeys(names, math.nan) | {"count": 0}
    figures: dict[str, Any] = {"epe": float(error.mean())}
    figures |= {name: 100.0 * (count / error.size) for name, count in wrong.items()}
    if distribution:
        ranks = [-(-q * error.size // 100) - 1 for q in QUANTILES]
        ordered = np.partition(error, ranks)
        figures["rms"] = math.sqrt(float(np.square(error).mean()))
        figures |= {f"a{q}": float(ordered[rank]) for q, rank in zip(QUANTILES, ranks, strict=True)}
    return figures | {"count": error.size}


def disparity_errors(
    pred: np.ndarray,
    truth: np.ndarray,
    mask: np.ndarray,
    thresholds: Sequence[float] = THRESHOLDS,
    distribution: bool = False,
) -> dict[str, Any]:
    """Errors of ``pred`` against ``truth`` (both px, any equal shape) over the pixels where ``mask`` (bool) is True.

    Returns ``epe`` (px), ``bad1``, ``bad2``, ``bad3`` (or those of ``thresholds``, px), ``d1`` (percent, 0 to 100) and
    ``count`` (pixels in the mask). ``distribution`` adds ``rms`` and ``a50``, ``a90``, ``a95``, ``a99`` (px): the least error
    that at least so many percent of the pixels do not exceed.
    An empty mask gives NaN and count 0. Raises InputError like ``absolute_errors``.
    """
    error, reference = absolute_errors(pred, truth, mask)
    wrong = {name: int(np.count_nonzero(flags)) for name, flags in _wrong(error, reference, thresholds).items()}
    return _figures(error, wrong, distribution)


def region_errors(
    error: np.ndarray,
    reference: np.ndarray,
    masks: Mapping[str, np.ndarray],
    thresholds: Sequence[float] = THRESHOLDS,
    distribution: bool = False,
) -> dict[str, Any]:
    """The figures of ``disparity_errors`` for each of the regions, as 'epe_noc', 'count_noc' and so on.

    error, reference: those of ``absolute_errors`` over the mask that holds all regions; masks: (N,) bool in the same order.
    Comparing once and counting often is what makes many regions cheap.
    """
    wrong = _wrong(error, reference, thresholds)
    row: dict[str, Any] = {}
    for region, mask in masks.items():
        chosen = error if mask.all() else error[mask]  # selecting all pixels would only copy them
        counts = {name: int(np.count_nonzero(flags & mask)) for name, flags in wrong.items()}
        figures = _figures(chosen, counts, distribution)
        row |= {f"{key}_{region}": value for key, value in figures.items()}
    return row


def ratio(part: float, whole: float) -> float:
    """part / whole, NaN where there is no whole."""
    return part / whole if whole else math.nan


def class_scores(tp: int, fp: int, fn: int, tn: int) -> dict[str, float]:
    """The scores of ``occlusion_scores`` from the four counts; 'positive' is occluded."""
    occluded, visible = ratio(tp, tp + fp + fn), ratio(tn, tn + fp + fn)
    return {
        "iou_pooled": ratio(tp + tn, tp + tn + 2 * (fp + fn)),
        "iou_occluded": occluded,
        "iou_visible": visible,
        "iou_mean": (occluded + visible) / 2,
        "f1": ratio(2 * tp, 2 * tp + fp + fn),
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
    check_shapes(occlusion_prob=prob, occluded=occluded, known_mask=known)
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
    return class_scores(**counts) | {"count": values.size} | {f"count_{key}": value for key, value in counts.items()}
