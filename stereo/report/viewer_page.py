"""The page of one pair: a line to drag between its maps, the numbers under the cursor, a confidence filter, and the cloud.

The maps travel as numbers (stereo.report.packed); ``assets/viewer.js`` colours, filters and reads them, and ``assets/cloud.js``
draws the points with WebGL. Nothing is asked of a network.
"""

from __future__ import annotations

import base64
import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from stereo.geometry import Calibration
from stereo.report.colour import UNKNOWN, robust_range
from stereo.report.layers import ERROR_LIMIT, SHARE, Scale, jpeg, scale_legend
from stereo.report.packed import byte_sum, packed_png, quantum_for
from stereo.report.page import TABLES, data_uri, decimals, embed_json, escape, facts_list, note, page
from stereo.types import DisparityMap, Sample

MOST_PIXELS = 1_500_000  # of the maps in a page; of larger ones every second, third ... pixel of every such row goes in
MOST_POINTS = 600_000  # that the cloud draws
SHOWN = {"a": "left", "b": "disparity"}  # left and right of the line at first
OCCLUDED = 0.5  # pixels that are more probably hidden than not stay out of the cloud, as in the .ply of ``infer``

_ABOUT = {
    "left": "the left image as it was given.",
    "disparity": "how many px further left the right camera sees a point: x_right = x_left - disparity, never below 0. Large "
    "is near. In px of this image's width.",
    "occlusion": "probability, 0 to 1, that the right camera does not see the pixel. Its disparity is then a guess from its "
    "surroundings.",
    "confidence": "probability, 0 to 1, that the disparity is within 1 px of the truth.",
    "truth": "the exact disparity in px; grey where it is unknown.",
    "error": f"|disparity - truth| in px. Colours end at {ERROR_LIMIT:g} px.",
}


@dataclass(frozen=True)
class _Shown:
    """One map of the page: its key for the script, the scale of its colours (None: a photograph)."""

    key: str
    scale: Scale | None


def viewer_page(
    title: str,
    left: np.ndarray,
    result: DisparityMap,
    facts: dict[str, Any],
    calibration: Calibration | None = None,
    truth: Sample | None = None,
) -> str:
    """The page of a pair as HTML.

    left: (H, W, 3) uint8 RGB; result: its maps. facts: what the sidecar says (stereo.inference.outputs.write_sidecar); what is
    not there is left out. calibration: of this image's size; without it depth is up to scale, and the page says so.
    truth: a sample whose ``disp`` and ``valid`` are known adds the truth and the error.
    Raises ValueError when the sizes differ.
    """
    for name, values in asdict(result).items():
        if values.shape != left.shape[:2]:
            raise ValueError(f"{name}: got shape {values.shape}, expected that of the left image, {left.shape[:2]}")
    true_disp = None
    if truth is not None and truth.disp is not None and truth.valid is not None:
        true_disp = np.where(truth.valid, truth.disp, np.nan)
    step = sampling_step(*left.shape[:2])
    maps = _maps(result.disp, true_disp)
    quantum = quantum_for(result.disp, true_disp)
    packed = _packed(result, true_disp, step, quantum)
    pictures = _pictures(_sampled(left, step), packed)
    beside = f'<div class="beside">{_readings(*left.shape[:2])}{_filter()}</div>'
    sections = [
        f'<div class="viewer">{_stage(pictures, maps)}{beside}</div>',
        _cloud(calibration),
        _explanations(maps, calibration, step, quantum),
        _facts(facts),
        embed_json("viewer", _data(left.shape, step, maps, quantum, calibration) | {"sums": [*map(byte_sum, packed)]}),
    ]
    return page(title, sections, "cloud.js", "viewer.js")


def sampling_step(height: int, width: int) -> int:
    """n: every n-th pixel of every n-th row is in the page, so that it stays small enough to be sent around."""
    return max(1, math.ceil(math.sqrt(height * width / MOST_PIXELS)))


def assumed_calibration(height: int, width: int) -> Calibration:
    """What stands in for a calibration: a focal length of one image width (a view of 53 degrees), and a baseline of 1."""
    return Calibration(focal_px=float(width), cx=(width - 1) / 2, cy=(height - 1) / 2, baseline_m=1.0)


def _sampled(x: np.ndarray, step: int) -> np.ndarray:
    """Pixels are left out, not averaged: the page shows numbers that were computed. The first is (step // 2, step // 2)."""
    return np.ascontiguousarray(x[step // 2 :: step, step // 2 :: step])


def _maps(disp: np.ndarray, true_disp: np.ndarray | None) -> list[_Shown]:
    low, high = robust_range(disp if true_disp is None else true_disp)
    px: Scale = ("turbo", low, high, "px")
    shown = [_Shown("left", None), _Shown("disparity", px), _Shown("occlusion", SHARE), _Shown("confidence", SHARE)]
    if true_disp is not None:
        shown += [_Shown("truth", px), _Shown("error", ("inferno", 0.0, ERROR_LIMIT, "px"))]
    return shown


def _data(
    shape: tuple[int, ...], step: int, maps: list[_Shown], quantum: float, calibration: Calibration | None
) -> dict[str, Any]:
    """What the script must know. Coordinates are those of the whole image: sample (i, j) is pixel (first + i * step, ...)."""
    height, width = shape[:2]
    return {
        "size": [width, height],
        "step": step,
        "first": step // 2,
        "quantum": quantum,
        "maps": [{"key": shown.key, "scale": shown.scale} for shown in maps],
        "tables": {name: base64.b64encode(table.tobytes()).decode() for name, table in TABLES.items()},
        "unknown": UNKNOWN.tolist(),
        "rig": asdict(calibration or assumed_calibration(height, width)),
        "unit": "m" if calibration else "baselines",
        "points": MOST_POINTS,
        "occluded": OCCLUDED,
    }


def _packed(result: DisparityMap, true_disp: np.ndarray | None, step: int, quantum: float) -> tuple[bytes, bytes]:
    """Two PNGs of numbers: disparity with confidence, truth with occlusion. Without truth all of it is unknown."""
    truth = np.full(result.disp.shape, np.nan) if true_disp is None else true_disp
    return (
        packed_png(_sampled(result.disp, step), quantum, _sampled(result.confidence, step)),
        packed_png(_sampled(truth, step), quantum, _sampled(result.occlusion, step)),
    )


def _pictures(left: np.ndarray, packed: tuple[bytes, bytes]) -> str:
    """The numbers as two pictures that nobody looks at, and the photograph, above which the maps' canvases are."""
    rows, columns = left.shape[:2]
    size = f'width="{columns}" height="{rows}"'
    values, more = (data_uri(png, "image/png") for png in packed)
    photograph = data_uri(jpeg(left, max(rows, columns)), "image/jpeg")
    return f"""<img id="values" src="{values}" alt="" hidden><img id="more" src="{more}" alt="" hidden>
<img class="layer photograph" id="photograph" src="{photograph}" alt="left image" {size} draggable="false">
<canvas class="layer a" data-side="a" {size}></canvas><canvas class="layer b" data-side="b" {size}></canvas>"""


def _stage(pictures: str, maps: list[_Shown]) -> str:
    """The two maps with the line between them."""
    legends = "".join(
        f'<div class="legend" data-layer="{shown.key}"{" hidden" * (shown.key not in SHOWN.values())}>'
        f"{scale_legend(_title(shown.key), shown.scale, open_end=shown.key == 'error')}</div>"
        for shown in maps
    )
    unscripted = note("Without scripts only the photograph shows: the maps are numbers, which a script colours.")
    return f"""<div class="card"><noscript>{unscripted}</noscript>
<p class="note" id="altered" role="alert" hidden>This browser alters what a page reads from its own pictures, against
tracking: maps and numbers below are not exact. Allow this file to use canvas data, or open it in another browser.</p>
<div class="stage" id="stage">{pictures}
<span class="line" aria-hidden="true"></span><span class="probe" id="probe" hidden aria-hidden="true"></span>
<input type="range" id="line" min="0" max="100" step="1" value="50" aria-label="Line between the two maps"
 aria-valuetext="50 percent"></div>
<div class="choices">{"".join(_choice(side, maps) for side in SHOWN)}</div><div class="legends">{legends}</div>
<p class="hint">Drag the line, or focus it and use the arrow keys; the keys 1 to {len(maps)} choose what is right of it, with
Shift what is left of it.</p></div>
"""


def _readings(height: int, width: int) -> str:
    """The numbers of one pixel."""
    return f"""<section class="card readings" aria-labelledby="pixel"><h2 id="pixel">The pixel under the cursor</h2>
<div class="toolbar"><label>x <input type="number" id="x" min="0" max="{width - 1}" value="{3 * width // 4}"></label>
<label>y <input type="number" id="y" min="0" max="{height - 1}" value="{height // 2}"></label></div>
<dl class="facts" id="readings" aria-live="polite"></dl>
<p class="hint">Point at the picture, tap it, or type a place. x counts from the left, y from the top, both from 0.</p>
</section>
"""


def _title(key: str) -> str:
    return "left image" if key == "left" else key


def _choice(side: str, maps: list[_Shown]) -> str:
    options = "".join(
        f'<option value="{shown.key}"{" selected" * (shown.key == SHOWN[side])}>{_title(shown.key)}</option>' for shown in maps
    )
    place = "Left of the line" if side == "a" else "Right of the line"
    return f'<label>{place} <select data-side="{side}">{options}</select></label>'


def _filter() -> str:
    return """<section class="card readings" aria-labelledby="filter"><h2 id="filter">Only what is sure</h2>
<div class="wide-label"><label for="threshold">Confidence of at least</label> <output id="limit" for="threshold">0 %</output>
<input type="range" id="threshold" min="0" max="100" step="1" value="0"></div>
<p id="kept" role="status" aria-live="polite"></p>
<p class="hint">What is less sure turns grey in the maps and leaves the cloud.</p></section>
"""


def _cloud(calibration: Calibration | None) -> str:
    if calibration is None:
        unit = note(
            "No calibration was given, so the cloud's shape is a guess: distances count baselines (one is the distance between "
            "the two cameras), and the focal length is assumed to be one image width, a view of 53 degrees."
        )
    else:
        unit = (
            f'<p class="hint">In metres: focal length {calibration.focal_px:g} px, baseline {calibration.baseline_m:g} m, '
            f"offset of the principal points {calibration.doffs_px:g} px.</p>"
        )
    return f"""<section aria-labelledby="points"><h2 id="points">The cloud</h2>{unit}
<div class="card"><canvas id="cloud" class="cloud" tabindex="0" role="img" aria-describedby="moves"
 aria-label="Cloud of points, coloured as the left image"></canvas>
<p class="note" id="no-cloud" hidden>This browser has no WebGL, so there is no cloud; everything else works.</p>
<div class="toolbar" id="cloud-tools"><label><input type="checkbox" id="hidden-too"> show occluded pixels, too</label>
<button type="button" id="reset">Reset the view</button><span id="drawn" role="status" aria-live="polite"></span></div>
<p class="hint" id="moves">Drag to orbit, turn the wheel or pinch to come nearer, double-click to go back. With the keyboard:
focus the cloud, then arrow keys, + and -, and 0.</p></div></section>
"""


def _explanations(maps: list[_Shown], calibration: Calibration | None, step: int, quantum: float) -> str:
    about = [(_title(shown.key), _ABOUT[shown.key]) for shown in maps]
    if calibration:
        depth = "along the optical axis of the left camera, in metres: baseline * focal length / (disparity + offset of the "
        depth += "principal points). Infinite where that sum is not above 0."
    else:
        depth = "focal length / disparity, in baselines, with an assumed focal length; infinite where the disparity is 0."
    about.append(("depth", depth))
    about.append(("X, Y, Z", "the point in the left camera's frame: X to the right, Y down, Z forward."))
    rows = "".join(f"<div><dt>{name}</dt><dd>{escape(text)}</dd></div>" for name, text in about)
    every = f" Of the image every {step} px in x and y are in this page, at their own values." if step > 1 else ""
    return f"""<section aria-labelledby="about"><h2 id="about">What the maps mean</h2><dl class="about">{rows}</dl>
<p class="hint">Disparities are stored here in steps of {quantum:.2g} px, probabilities in steps of 1/255.{every}</p></section>
"""


def _facts(facts: dict[str, Any]) -> str:
    """What the sidecar tells that a reader asks for."""
    weights = facts.get("weights") or {}
    size = f"{facts['width']} x {facts['height']} px" if {"width", "height"} <= set(facts) else None
    seconds = f"{decimals(facts['seconds'], 2)} s" if "seconds" in facts else None
    told = [("Left image", facts.get("left")), ("Right image", facts.get("right")), ("Size", size), ("Time", seconds)]
    told += [("Weights", weights.get("name")), ("Network", weights.get("preset")), ("Matched", facts.get("matched"))]
    told += [("Precision", facts.get("precision")), ("Device", facts.get("device")), ("Version", facts.get("version"))]
    told += [("SHA-256 of the weights", weights.get("sha256"))]
    if not facts:
        return ""
    return f'<section aria-labelledby="facts"><h2 id="facts">How it was made</h2>{facts_list(told)}</section>'
