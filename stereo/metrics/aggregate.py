"""Figures of a data set from those of its images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from stereo.metrics.errors import class_scores, is_pixel_mean, ratio


def aggregate(rows: Sequence[dict[str, Any]], weights: Sequence[float] | None = None) -> dict[str, Any]:
    """Figures of a data set from one dict per image, whose keys may end in a region: ``epe_noc``, ``count_noc``.

    For every float entry ``key``: the mean of the per-image values that are not NaN, and ``<key>_skipped``, how many are NaN
    or missing (the mean is NaN when all are). For every entry ``count...``: the sum. For every mean over pixels (EPE, bad-x,
    D1) and the RMS, and for the occlusion scores when their counts are there: ``<key>_pooled`` over all pixels at once, where
    big images weigh more. ``images`` is the number of rows; other entries (names, sizes) are left out.
    weights: of the images in the means; None weighs them alike. They change neither sums nor what is pooled.
    """
    shares = [1.0] * len(rows) if weights is None else weights
    result: dict[str, Any] = {"images": len(rows)}
    for key in dict.fromkeys(key for row in rows for key in row):
        values = [row.get(key, math.nan) for row in rows]
        if key.startswith("count"):
            result[key] = sum(row.get(key, 0) for row in rows)
        elif all(isinstance(value, float) for value in values):
            defined = [(value, share) for value, share in zip(values, shares, strict=True) if not math.isnan(value)]
            result[key] = ratio(math.fsum(v * share for v, share in defined), math.fsum(share for _, share in defined))
            result[f"{key}_skipped"] = len(values) - len(defined)
            result |= _pooled(rows, key)
    if "count_tp" in result:
        scores = class_scores(*(result[f"count_{key}"] for key in ("tp", "fp", "fn", "tn")))
        # 'pooled' is already taken by STTR for pooling the two classes.
        result |= {f"{key}_pooled": value for key, value in scores.items() if key != "iou_pooled"}
    return result


def _pooled(rows: Sequence[dict[str, Any]], key: str) -> dict[str, float]:
    """{"<key>_pooled": the figure of all pixels at once}, or nothing for what cannot be pooled."""
    figure, _, region = key.partition("_")
    power = 2 if figure == "rms" else 1
    if power == 1 and not is_pixel_mean(figure):
        return {}
    count = f"count_{region}" if region else "count"
    total = math.fsum(row[key] ** power * row[count] for row in rows if row.get(count))
    return {f"{key}_pooled": ratio(total, sum(row.get(count, 0) for row in rows)) ** (1 / power)}
