"""From disparities to metres: depth with codes, its standard deviation, a cloud, and the files that hold them."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stereo.calibration.fit import field_of_view
from stereo.files import atomic_write
from stereo.geometry import Calibration, disparity_to_depth, points_from_disparity
from stereo.image_io import write_depth_png16, write_ply, write_tiff_bands

HIDDEN = 0.5  # pixels that are more probably occluded than not have no depth
DEPTH_FILES = ("npy", "png", "tiff", "ply")
# Of the confidence, a probability that may come from 8 bits: half a step from 0 and 1 nothing more is known.
CERTAINTY = 1 / 512
MOST_SIGMA = 10.0  # px: the confidence says nothing about errors so large
CONVENTIONS = {
    "depth_unit": "m, along the optical axis of the camera of the view",
    "depth_codes": "npy and tiff: nan = occluded or unknown, -inf = too near, +inf = too far",
    "depth_png": "value / 1000 = m; 0 = occluded or unknown, 1 = too near, 65535 = too far or beyond 65.534 m",
    "depth_tiff": "band 1: depth, m; band 2: its standard deviation, m, from the confidence; nan where there is none",
    "cloud": "m; x right, y down, z forward from the camera of the view",
}


@dataclass(frozen=True)
class DepthOptions:
    """What to keep, and in which files.

    near_m, far_m:   metres; what is nearer is coded too near, what is farther too far.
    min_confidence:  0 .. 1; less certain points stay out of the cloud.
    keep_occluded:   occluded pixels keep the depth that was guessed for them, in the maps and in the cloud.
    files:           of DEPTH_FILES.
    """

    near_m: float = 0.0
    far_m: float = math.inf
    min_confidence: float = 0.0
    keep_occluded: bool = False
    files: tuple[str, ...] = ("npy", "png", "ply")


@dataclass(frozen=True, eq=False)
class Measured:
    """What a depth is made from, all (H, W). disp: px, finite; known: bool, disp means something there; occlusion: probability
    in 0 .. 1; confidence: the same, that disp is within 1 px, or None."""

    disp: np.ndarray
    known: np.ndarray
    occlusion: np.ndarray
    confidence: np.ndarray | None


def depth_map(measured: Measured, calibration: Calibration, options: DepthOptions) -> np.ndarray:
    """(H, W) float32 metres; NaN: occluded or unknown; -inf: too near; +inf: too far, or at infinity and beyond."""
    depth = disparity_to_depth(measured.disp, calibration)
    depth[depth < options.near_m] = -np.inf
    depth[depth > options.far_m] = np.inf
    depth[~measured.known] = np.nan
    if not options.keep_occluded:
        depth[measured.occlusion > HIDDEN] = np.nan
    return depth


def disparity_sigma(confidence: np.ndarray) -> np.ndarray:
    """Standard deviation of the disparity, px, from c = P(|error| <= 1 px), any shape -> float64.

    Errors are taken to follow Laplace's distribution, whose tails are those of a match that mostly fits and sometimes does not:
    c = 1 - exp(-1 / b), so b = -1 / ln(1 - c), and sigma = sqrt(2) b. Capped at MOST_SIGMA, which c = 0.13 reaches.
    """
    certain = np.clip(np.asarray(confidence, np.float64), CERTAINTY, 1 - CERTAINTY)
    return np.minimum(-math.sqrt(2) / np.log1p(-certain), MOST_SIGMA)


def depth_sigma(depth: np.ndarray, confidence: np.ndarray | None, calibration: Calibration) -> np.ndarray:
    """Standard deviation of ``depth`` (H, W) m, float32 metres: Z^2 / (f baseline) times that of the disparity.

    NaN where the depth is a code, and everywhere without a confidence. The first order: good while it is small beside Z.
    """
    measured = np.isfinite(depth)
    if confidence is None:
        return np.full(depth.shape, np.nan, np.float32)
    z = np.where(measured, depth, 0).astype(np.float64)
    sigma = z**2 / (calibration.focal_px * calibration.baseline_m) * disparity_sigma(confidence)
    return np.where(measured, sigma, np.nan).astype(np.float32)


def plausibility(depth: np.ndarray, calibration: Calibration) -> dict[str, Any]:
    """Numbers by which a person sees whether the metres can be right; of a depth map (H, W) with codes."""
    metres = depth[np.isfinite(depth)].astype(np.float64)
    horizontal, vertical = field_of_view(calibration, (depth.shape[1], depth.shape[0]))
    names = ("nearest_m", "low_m", "median_m", "high_m", "farthest_m")
    values = np.percentile(metres, (0, 1, 50, 99, 100)).tolist() if len(metres) else [None] * len(names)
    return dict(zip(names, values, strict=True)) | {
        "known_share": float(np.isfinite(depth).mean()),
        "no_depth_share": float(np.isnan(depth).mean()),
        "too_near_share": float(np.isneginf(depth).mean()),
        "too_far_share": float(np.isposinf(depth).mean()),
        "view_horizontal_degrees": horizontal,
        "view_vertical_degrees": vertical,
        "focal_px": calibration.focal_px,
        "baseline_m": calibration.baseline_m,
        "doffs_px": calibration.doffs_px,
    }


def plausibility_line(facts: dict[str, Any]) -> str:
    """One line for people of what ``plausibility`` found."""
    view = f"{facts['view_horizontal_degrees']:.1f} x {facts['view_vertical_degrees']:.1f} degrees"
    rig = f"view {view}; f {facts['focal_px']:.5g} px, baseline {facts['baseline_m']:.4g} m, doffs {facts['doffs_px']:.4g} px"
    if facts["nearest_m"] is None:
        return f"depth: no pixel has one; {rig}"
    low, high = facts["low_m"], facts["high_m"]
    spread = f"nearest {facts['nearest_m']:.4g} m, median {facts['median_m']:.4g} m, farthest {facts['farthest_m']:.4g} m"
    return f"depth: {spread} (98 % within {low:.4g} to {high:.4g} m); {rig}"


def write_depth(
    folder: Path, stem: str, image: np.ndarray, measured: Measured, calibration: Calibration, options: DepthOptions
) -> tuple[list[Path], dict[str, Any]]:
    """The files of ``options`` and what the sidecar says of them.

    STEM.depth.npy (float32 metres), STEM.depth.png (16 bit, mm), STEM.depth.tiff (depth and its standard deviation), STEM.ply
    (the points of ``image`` (H, W, 3) uint8 whose depth is known and certain enough, with their confidence where there is one).
    """
    depth = depth_map(measured, calibration, options)
    far = options.far_m if math.isfinite(options.far_m) else None  # JSON knows no infinity
    facts = plausibility(depth, calibration) | {"near_m": options.near_m, "far_m": far, "keep_occluded": options.keep_occluded}
    paths = []
    for kind in options.files:
        paths.append(folder / (f"{stem}.ply" if kind == "ply" else f"{stem}.depth.{kind}"))
        if kind == "npy":
            with atomic_write(paths[-1]) as temporary:
                np.save(temporary, depth)
        elif kind == "png":
            write_depth_png16(paths[-1], depth)
        elif kind == "tiff":
            write_tiff_bands(paths[-1], np.stack([depth, depth_sigma(depth, measured.confidence, calibration)], axis=-1))
        else:
            facts["cloud_points"] = write_cloud(paths[-1], image, depth, measured, calibration, options)
    return paths, facts | CONVENTIONS


def write_cloud(
    path: Path,
    image: np.ndarray,
    depth: np.ndarray,
    measured: Measured,
    calibration: Calibration,
    options: DepthOptions,
) -> int:
    """Write the points whose ``depth`` (H, W) is a number and whose confidence suffices; returns how many."""
    keep = np.isfinite(depth)
    if measured.confidence is not None:
        keep &= measured.confidence >= options.min_confidence
    points = points_from_disparity(measured.disp, calibration)[keep]
    write_ply(path, points, image[keep], None if measured.confidence is None else measured.confidence[keep])
    return len(points)


def write_depth_sidecar(folder: Path, stem: str, facts: dict[str, Any]) -> Path:
    """STEM.depth.json, apart from the STEM.json that lies beside a disparity map of ours."""
    path = folder / f"{stem}.depth.json"
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    return path
