"""What a report leaves behind: the table on the screen, a CSV with a line per image, the result card."""

from __future__ import annotations

import csv
import json
import math
import platform
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from stereo.engine.evaluate import Report
from stereo.engine.machine import cpu_name
from stereo.engine.protocols import DEFAULT
from stereo.image_io import atomic_write
from stereo.metrics import BINS, REGIONS, bad_name, unit_of
from stereo.version import __version__

# What the caller of write_card has to know, because only the caller can.
CARD_META = ("weights", "data")


def figure_of(key: str) -> str:
    """'bad3_noc_pooled' -> 'bad3': what the units are of."""
    return key if key.startswith(("iou", "ause")) else key.partition("_")[0]


def json_ready(value: Any) -> Any:
    """JSON has neither NaN, which becomes null, nor infinity, which no limit of a protocol is and becomes null too."""
    if isinstance(value, dict):
        return {key: json_ready(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_ready(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def make_card(report: Report, meta: dict[str, Any]) -> dict[str, Any]:
    """The result card: what was measured, on what, with what, and by which versions. Ready for JSON: NaN is None.

    meta: ``weights`` ({"name", "sha256"}, None for a method without), ``data`` (the data set as it was asked for), and whatever
    else the caller wants on record; it cannot replace a measured entry.
    """
    missing = [key for key in CARD_META if key not in meta]
    assert not missing, f"meta lacks {missing}"
    summary, protocol = report.summary, report.protocol
    figures = {key: figure_of(key) for key in summary if not key.startswith(("count", "images")) and key[-8:] != "_skipped"}
    pixels = {key.removeprefix("count_"): value for key, value in summary.items() if key.startswith("count_")}
    return json_ready(
        meta
        | {
            "protocol": asdict(protocol) | {"figures": {key: summary.get(key) for key in protocol.figures}},
            "images": summary["images"],
            "images_available": report.available,
            "images_without_occlusion": summary["images_without_occlusion"],
            "pixels": {"occlusion": pixels.pop("known")} | pixels,
            "regions": REGIONS,
            "bins": BINS,
            "units": {figure: "s" if figure == "seconds" else unit_of(figure) for figure in sorted(set(figures.values()))},
            "skipped": {key.removesuffix("_skipped"): summary[key] for key in summary if key.endswith("_skipped")},
            "summary": {key: value for key, value in summary.items() if not key.endswith("_skipped")},
            "data_sha256": report.data_sha256,
            "versions": {
                "stereo": __version__,
                "python": platform.python_version(),
                "torch": torch.__version__,
                "opencv": cv2.__version__,
                "numpy": np.__version__,
            },
            "cpu": cpu_name(),
        }
    )


def write_card(report: Report, path: str | Path, meta: dict[str, Any]) -> None:
    """Write ``make_card`` as JSON, atomically. Raises InputError when the file cannot be written."""
    text = json.dumps(make_card(report, meta), indent=2, allow_nan=False)
    with atomic_write(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def write_csv(report: Report, path: str | Path) -> None:
    """Write the rows as CSV, one line per image, atomically; NaN is an empty cell. Raises InputError like ``write_card``."""
    with atomic_write(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(report.rows[0]))
        writer.writeheader()
        writer.writerows({key: "" if value != value else value for key, value in row.items()} for row in report.rows)


def _usual(thresholds: Sequence[float]) -> float:
    """The threshold to show where there is room for one: 3 px, or the last."""
    return 3.0 if 3 in thresholds else thresholds[-1]


def _columns(report: Report) -> list[tuple[str, str, int]]:
    """Heading, key of a row, decimals."""
    limits = report.protocol.thresholds
    bad = [(f"bad-{limit:g} %", f"{bad_name(limit)}_noc", 1) for limit in limits]
    usual = _usual(limits)
    return [
        ("EPE px", "epe_noc", 2),
        *bad,
        ("D1 %", "d1_noc", 1),
        ("EPE all px", "epe_all", 2),
        (f"bad-{usual:g} all %", f"{bad_name(usual)}_all", 1),
        ("occ IoU", "iou_occluded", 3),
        ("AUSE px", "ause", 2),
        ("time s", "seconds", 2),
    ]


def format_table(report: Report) -> str:
    """The report as text: a line per image, the mean of the images, the pixel-pooled figures, and what to know."""
    columns, images = _columns(report), report.summary["images"]

    def cells(values: dict[str, Any], suffix: str = "") -> list[str]:
        numbers = [(values.get(key + suffix, math.nan), digits) for _, key, digits in columns]
        return ["-" if math.isnan(number) else f"{number:.{digits}f}" for number, digits in numbers]

    lines = [["image", "size", *(heading for heading, _, _ in columns)]]
    lines += [[row["name"], f"{row['width']}x{row['height']}", *cells(row)] for row in report.rows]
    lines += [[f"mean of {images}", "", *cells(report.summary)], ["pixel-pooled", "", *cells(report.summary, "_pooled")]]
    text = aligned(lines)
    text.insert(-2, text[1])
    summary = report.summary
    share = f"{summary['count_noc']} of {summary['count_all']} px"
    text.append(f"Errors without 'all' are over the pixels that both cameras see ({share}).")
    if unknown := summary["images_without_occlusion"]:
        text.append(f"{unknown} of {images} images have no occlusion mask: there both are over all pixels with ground truth.")
    skipped = [f"{heading} {summary[key + '_skipped']}" for heading, key, _ in columns if summary[key + "_skipped"]]
    if skipped:
        text.append(f"'-': no pixels to score. Images left out of a mean: {', '.join(skipped)}.")
    return "\n".join([*text, *_protocol_lines(report)])


def aligned(lines: list[list[str]]) -> list[str]:
    """Text lines of equal length: the first column to the left, a rule below the heading."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = [
        "  ".join([line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))])
        for line in lines
    ]
    return [text[0], "-" * len(text[0]), *text[1:]]


def format_regions(report: Report) -> str:
    """EPE and bad-x by region and by bin of the true disparity (bad-3): means of the images that have such pixels."""
    limit = _usual(report.protocol.thresholds)
    lines = [["region", "px", "EPE px", f"bad-{limit:g} %", "EPE pooled px"]]
    for region in (*REGIONS, *BINS):
        figures = (f"epe_{region}", f"{bad_name(3 if region in BINS else limit)}_{region}", f"epe_{region}_pooled")
        values = [report.summary.get(key, math.nan) for key in figures]
        lines.append([region, str(report.summary[f"count_{region}"]), *("-" if math.isnan(x) else f"{x:.2f}" for x in values)])
    return "\n".join(aligned(lines))


def _protocol_lines(report: Report) -> list[str]:
    """The protocol's own figures, and what it left out: pixels, whole images, and data that are not those of its convention."""
    protocol, summary = report.protocol, report.summary
    lines = []
    if protocol != DEFAULT:
        quoted = [(key, summary.get(key, math.nan), unit_of(figure_of(key))) for key in protocol.figures]
        listed = ", ".join(f"{key} {value:.3f}{'' if unit == '0 to 1' else f' {unit}'}" for key, value, unit in quoted)
        lines += [f"Protocol {protocol.name}: {protocol.text}.", listed]
    truth, cropped, beyond = (summary[f"count_{key}"] for key in ("truth", "excluded_crop", "excluded_range"))
    if cropped or beyond:
        reasons = [f"{beyond} not in {protocol.limits()}"] * bool(beyond) + [f"{cropped} in the cropped border"] * bool(cropped)
        lines.append(f"Left out of {truth} px with ground truth: {', '.join(reasons)}.")
    if report.available > summary["images"]:
        lines.append(f"{report.available - summary['images']} of {report.available} images are not scored.")
    if empty := sum(not row["count_all"] for row in report.rows):
        lines.append(f"{empty} of {summary['images']} images have no pixel to score.")
    if protocol.published not in (0, report.available):
        lines.append(f"Not the convention's data: it has {protocol.published} images, here are {report.available}.")
    filled = {kind: summary.get(f"count_pred_{kind}", 0) for kind in ("unknown", "negative")}
    if any(filled.values()):
        unknown = f"{filled['unknown']} px that the files do not know"
        lines.append(f"Filled from the background: {unknown}, {filled['negative']} px below 0.")
    return lines
