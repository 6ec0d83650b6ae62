"""The files that one pair leaves behind."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from stereo.image_io import atomic_write, write_disparity_png16, write_image, write_pfm
from stereo.report.colour import colour_disparity, gray, robust_range, with_legend
from stereo.types import DisparityMap


def _write_colours(path: Path, result: DisparityMap, colour_range: tuple[float, float] | None) -> None:
    low, high = colour_range or robust_range(result.disp)
    write_image(path, with_legend(colour_disparity(result.disp, low, high), low, high))


# What can be saved of a pair: the ending of the file -> how it is written.
MAPS: dict[str, Callable[[Path, DisparityMap, tuple[float, float] | None], None]] = {
    "disp.pfm": lambda path, result, _: write_pfm(path, result.disp),
    "disp.png": _write_colours,
    "disp16.png": lambda path, result, _: write_disparity_png16(path, result.disp),
    "occ.png": lambda path, result, _: write_image(path, gray(result.occlusion)[..., 0]),
    "conf.png": lambda path, result, _: write_image(path, gray(result.confidence)[..., 0]),
}


def write_maps(
    folder: Path,
    stem: str,
    result: DisparityMap,
    kinds: Iterable[str] = tuple(MAPS),
    colour_range: tuple[float, float] | None = None,
) -> list[Path]:
    """STEM.disp.pfm (px), .disp.png (colour with a scale), .disp16.png (px * 256), .occ.png and .conf.png (0..255 = 0..1).

    kinds: those of MAPS that are wanted. colour_range: (low, high) px of the colours; None: what this map needs.
    """
    paths = {kind: folder / f"{stem}.{kind}" for kind in kinds}
    for kind, path in paths.items():
        MAPS[kind](path, result, colour_range)
    return list(paths.values())


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
