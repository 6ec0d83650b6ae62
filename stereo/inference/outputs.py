"""The files that one pair leaves behind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from stereo.image_io import atomic_write, write_disparity_png16, write_image, write_pfm
from stereo.report.colour import colour_disparity, gray, robust_range, with_legend
from stereo.types import DisparityMap


def write_maps(folder: Path, stem: str, result: DisparityMap) -> list[Path]:
    """STEM.disp.pfm (px), .disp.png (colour with a scale), .disp16.png (px * 256), .occ.png and .conf.png (0..255 = 0..1)."""
    low, high = robust_range(result.disp)
    paths = [folder / f"{stem}.{suffix}" for suffix in ("disp.pfm", "disp.png", "disp16.png", "occ.png", "conf.png")]
    write_pfm(paths[0], result.disp)
    write_image(paths[1], with_legend(colour_disparity(result.disp, low, high), low, high))
    write_disparity_png16(paths[2], result.disp)
    write_image(paths[3], gray(result.occlusion)[..., 0])
    write_image(paths[4], gray(result.confidence)[..., 0])
    return paths


def write_sidecar(folder: Path, stem: str, facts: dict[str, Any]) -> Path:
    """STEM.json: what the other files mean. ``facts`` is added to the units and conventions."""
    conventions = {
        "disparity_unit": "px of this image's width",
        "disparity_sign": "x_right = x_left - disparity, disparity >= 0",
        "disp16_scale": "value / 256 = px, 0 = unknown",
        "occlusion": "probability that the right camera does not see the pixel, 0..1 (PNG: 0..255)",
        "confidence": "probability that the disparity is within 1 px, 0..1 (PNG: 0..255)",
    }
    path = folder / f"{stem}.json"
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(facts | conventions, indent=2) + "\n", encoding="utf-8")
    return path
