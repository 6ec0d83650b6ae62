"""Error figures of disparity, occlusion and confidence maps (numpy), by regions of the image, and their means over a data set.

Every threshold is strict; a figure without pixels is NaN, never 0.
Names of the field: EPE (end-point error, px), bad-x (share of pixels wrong by more than x px, percent), D1 (KITTI 2015: wrong
by more than 3 px and by more than 5 % of the truth, percent), IoU (intersection over union of a class, 0 to 1), AUSE (area
under the sparsification error: how much worse a confidence sorts pixels than the error itself would).
"""

from stereo.metrics.aggregate import aggregate
from stereo.metrics.confidence import confidence_scores
from stereo.metrics.errors import THRESHOLDS, bad_name, disparity_errors, occlusion_scores, region_errors, unit_of
from stereo.metrics.regions import BINS, REGIONS, bin_errors, region_masks

__all__ = [
    "BINS",
    "REGIONS",
    "THRESHOLDS",
    "aggregate",
    "bad_name",
    "bin_errors",
    "confidence_scores",
    "disparity_errors",
    "occlusion_scores",
    "region_errors",
    "region_masks",
    "unit_of",
]
