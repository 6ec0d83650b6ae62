"""One image: everything that a report says about it."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from stereo.engine.protocols import Protocol, exclusions
from stereo.inference.stored import StoredMap
from stereo.metrics import bin_errors, confidence_scores, occlusion_scores, region_errors, region_masks
from stereo.metrics.errors import absolute_errors, check_shapes
from stereo.types import DisparityMap, Sample


def hash_sample(sample: Sample) -> str:
    """SHA-256 of the images and the truth of the left view: equal hashes mean the same pixels and the same truth."""
    digest = hashlib.sha256()
    for array in (sample.left, sample.right, sample.disp, sample.valid, sample.occluded):
        # The shape as well: 2x3 and 3x2 of the same bytes are different data, and so are a mask and no mask.
        digest.update(repr(None if array is None else (array.shape, array.dtype.str)).encode())
        digest.update(b"" if array is None else np.ascontiguousarray(array).data)
    return digest.hexdigest()


def score_image(sample: Sample, result: DisparityMap | StoredMap, seconds: float, protocol: Protocol) -> dict[str, Any]:
    """One row of the report, see stereo.engine.evaluate.Report. Its keys depend on the protocol and the kind of result alone.

    Raises InputError for a sample without ground truth, unequal sizes, and numbers that cannot be scored.
    """
    height, width = sample.left.shape[:2]
    row: dict[str, Any] = {"name": sample.name, "height": height, "width": width, "seconds": seconds}
    row |= {"occlusion_known": sample.occluded is not None, "sha256": hash_sample(sample)}
    masks = region_masks(sample)  # of the whole image: an edge is one also where its far side is out of the limits
    assert sample.disp is not None  # region_masks has refused it otherwise
    inside, kept, counts = exclusions(protocol, sample)
    row |= counts
    scored = masks["all"] & kept
    error, reference = absolute_errors(result.disp, sample.disp, scored)
    regions = {region: mask[scored] for region, mask in masks.items()}
    row |= region_errors(error, reference, regions, protocol.thresholds, protocol.distribution)
    row |= bin_errors(error, reference)
    if result.confidence is not None:
        check_shapes(confidence=result.confidence, truth=sample.disp)
    row |= confidence_scores(error, None if result.confidence is None else result.confidence[scored])
    row |= _occlusion(sample, result.occlusion, inside, scored)
    return row | (result.counts if isinstance(result, StoredMap) else {})


def _occlusion(sample: Sample, predicted: np.ndarray | None, inside: np.ndarray, scored: np.ndarray) -> dict[str, Any]:
    """The occlusion's scores. Where no mask is given or none is predicted nothing is known: NaN, hence skipped and counted."""
    nothing = np.zeros_like(inside)
    if sample.occluded is None or predicted is None:
        scores = occlusion_scores(nothing, nothing, nothing)
    else:
        scores = occlusion_scores(predicted, sample.occluded, scored | (sample.occluded & inside))
    return {"count_known": scores.pop("count")} | scores
