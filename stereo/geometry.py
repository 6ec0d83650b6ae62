"""Two views of one scene: warping, the left-right check, and disparity against metres. Pure functions on numpy arrays.

Sign: column ``x`` of the left view and column ``x - disp`` of the right view show the same point (stereo.types).
Pixel centres lie at whole numbers. Frame of a camera: x right, y down, z forward, in metres.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace

import numpy as np

from stereo.types import InputError


def _matching_columns(disp: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(H, W) px -> column x - disp in the other view (float64), and whether it lies in 0 .. W-1 (False where not finite)."""
    width = disp.shape[1]
    columns = np.arange(width, dtype=np.float64) - disp
    inside = (columns >= 0) & (columns <= width - 1)
    return np.where(inside, columns, 0.0), inside


def warp_right_to_left(right: np.ndarray, disp: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What the left camera would see, fetched from the right view: right[y, x - disp[y, x]], linear between two columns.

    right (H, W) or (H, W, C), any number type; disp (H, W) px.
    Returns warped, float32 in the shape of ``right``, 0 where out of frame, and inside (H, W) bool: the match is in frame.
    Whole disparities copy exactly (cv2.remap would round every coordinate to 1/32 px).
    Raises ValueError when the sizes differ.
    """
    right, disp = np.asarray(right), np.asarray(disp)
    if disp.ndim != 2 or right.ndim not in (2, 3) or right.shape[:2] != disp.shape:
        raise ValueError(f"got right {right.shape} and disp {disp.shape}, expected (H, W[, C]) and (H, W) of one size")
    columns, inside = _matching_columns(disp)
    below = columns.astype(np.intp)
    fraction = (columns - below).astype(np.float32)
    above = below + (fraction > 0)  # never beyond the last column, and no 0 * inf next to an unknown value
    rows = np.arange(len(disp))[:, None]
    a, b = right[rows, below].astype(np.float32), right[rows, above].astype(np.float32)
    if right.ndim == 3:
        fraction, mask = fraction[..., None], inside[..., None]
    else:
        mask = inside
    return np.where(mask, a + fraction * (b - a), np.float32(0)), inside


def left_right_check(
    disp_left: np.ndarray,
    disp_right: np.ndarray,
    limit: float = 1.0,
    valid_left: np.ndarray | None = None,
    valid_right: np.ndarray | None = None,
) -> np.ndarray:
    """Which left pixels the right camera does not see, from the disparities of both views -> occluded (H, W) bool.

    disp_left, disp_right (H, W) px; valid_left, valid_right (H, W) bool, None = known everywhere.
    Occluded: the match x - d is out of frame (below 0, above W-1), or the right view's disparity there differs by more than
    ``limit`` px. Without evidence, where the disparity of either view is unknown, a pixel is not called occluded.

    The right disparity is taken at the nearest column, not interpolated: between two surfaces interpolation makes up a
    disparity that neither has, which marks a rim of visible pixels. Nearest costs slope / 2 px on a slanted surface.
    Raises ValueError when the sizes differ.
    """
    disp_left, disp_right = np.asarray(disp_left), np.asarray(disp_right)
    known_left, known_right = (
        np.ones(disp_left.shape, bool) if v is None else np.asarray(v, bool) for v in (valid_left, valid_right)
    )
    shapes = [x.shape for x in (disp_left, disp_right, known_left, known_right)]
    if len(set(shapes)) != 1 or disp_left.ndim != 2:
        raise ValueError(f"got shapes {shapes} of disparities and masks, expected one (H, W)")
    columns, inside = _matching_columns(disp_left)
    nearest = np.rint(columns).astype(np.intp)
    rows = np.arange(len(disp_left))[:, None]
    differ = np.abs(disp_left - disp_right[rows, nearest]) > limit
    return known_left & (~inside | (known_right[rows, nearest] & differ))


@dataclass(frozen=True)
class Calibration:
    """A rectified rig, of the left camera or (``of_right_view``) of the right one, at one image size.

    focal_px:   horizontal focal length, px.
    cx, cy:     principal point of that camera, px.
    baseline_m: distance between the cameras, metres.
    doffs_px:   principal point of the right camera minus that of the left, px: a point at infinity has disp = -doffs.
    aspect:     vertical focal length / horizontal one; 1 until an image is resized by two different factors.
    Raises InputError for a value that is not finite, or a focal length, baseline or aspect that is not positive.
    """

    focal_px: float
    cx: float
    cy: float
    baseline_m: float
    doffs_px: float = 0.0
    aspect: float = 1.0

    def __post_init__(self) -> None:
        for name in (f.name for f in fields(self)):
            value = getattr(self, name)
            positive = name in ("focal_px", "baseline_m", "aspect")
            if not math.isfinite(value) or (positive and value <= 0):
                raise InputError(f"got {name} = {value}, expected a finite number{' above 0' if positive else ''}")

    def of_right_view(self) -> Calibration:
        """A left camera's rig for maps of the right view: points are in the right camera's frame, by its principal point."""
        return replace(self, cx=self.cx + self.doffs_px)

    def scaled(self, factor_x: float, factor_y: float) -> Calibration:
        """The same rig for images resized to factor_x times the width and factor_y times the height.

        Resizing keeps the corners of the picture, not the centres of its corner pixels (cv2.resize, F.interpolate with
        align_corners=False): x + 0.5 scales. Disparities of the resized pair are factor_x times the old ones.
        Raises InputError when a factor is not positive.
        """
        if not (factor_x > 0 and factor_y > 0):
            raise InputError(f"got factors {factor_x}, {factor_y} for a calibration, expected two numbers above 0")
        return Calibration(
            focal_px=self.focal_px * factor_x,
            cx=(self.cx + 0.5) * factor_x - 0.5,
            cy=(self.cy + 0.5) * factor_y - 0.5,
            baseline_m=self.baseline_m,
            doffs_px=self.doffs_px * factor_x,
            aspect=self.aspect * factor_y / factor_x,
        )


def disparity_to_depth(disp: np.ndarray, calibration: Calibration) -> np.ndarray:
    """disp (any shape) px -> depth along the optical axis, float32 metres: baseline * f / (disp + doffs).

    inf where disp + doffs <= 0 (at infinity or beyond) and where disp is not finite (unknown).
    """
    total = np.asarray(disp, np.float64) + calibration.doffs_px
    near = np.isfinite(total) & (total > 0)
    depth = calibration.baseline_m * calibration.focal_px / np.where(near, total, 1.0)
    with np.errstate(over="ignore"):  # beyond float32 is as good as infinity
        return np.where(near, depth, np.inf).astype(np.float32)


def depth_to_disparity(depth: np.ndarray, calibration: Calibration) -> np.ndarray:
    """Inverse of disparity_to_depth: depth (any shape) metres -> float32 px, baseline * f / depth - doffs; inf gives -doffs.

    Raises ValueError when a depth is 0, negative or NaN.
    """
    depth = np.asarray(depth, np.float64)
    if not (depth > 0).all():
        raise ValueError(f"{int((~(depth > 0)).sum())} of {depth.size} depths are not above 0 m, expected all of them to be")
    return (calibration.baseline_m * calibration.focal_px / depth - calibration.doffs_px).astype(np.float32)


def points_from_disparity(disp: np.ndarray, calibration: Calibration) -> np.ndarray:
    """disp (H, W) px of the view that ``calibration`` is of -> (H, W, 3) float32 metres; all three are inf where the depth is.

    Raises ValueError when disp is not (H, W).
    """
    disp = np.asarray(disp)
    if disp.ndim != 2:
        raise ValueError(f"got disp {disp.shape}, expected (H, W)")
    depth = disparity_to_depth(disp, calibration)
    finite = np.isfinite(depth)
    z = np.where(finite, depth, np.float32(1))
    x = (np.arange(disp.shape[1]) - calibration.cx) / calibration.focal_px
    y = (np.arange(disp.shape[0])[:, None] - calibration.cy) / (calibration.focal_px * calibration.aspect)
    return np.where(finite[..., None], np.stack([x * z, y * z, z], axis=-1), np.inf).astype(np.float32)
