"""Score anything that turns a pair into a DisparityMap: per-image rows, their summary, a CSV, a result card, a table.

The samples are handed in; this file knows neither data sets nor networks.
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
import torch
from tqdm import tqdm

from stereo.image_io import atomic_write
from stereo.metrics import ERROR_UNITS, REGIONS, aggregate, disparity_errors, occlusion_scores, region_masks
from stereo.types import DisparityMap, InputError, Sample
from stereo.version import __version__

Predict = Callable[[np.ndarray, np.ndarray], DisparityMap]
OnImage = Callable[[int, Sample, DisparityMap, dict[str, Any]], None]

# What the caller of write_card has to know, because only the caller can.
CARD_META = ("protocol", "weights", "data")


class Samples(Protocol):
    """What is scored: a list of Samples, or a data set that reads them one at a time."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Sample: ...


@dataclass(frozen=True)
class Report:
    """The result of ``evaluate``.

    rows:        one dict per image: name, height, width (px), seconds (of the predict call), occlusion_known (bool), the errors
                 of metrics.disparity_errors per region (epe_all, bad3_noc, count_occ, ...), and metrics.occlusion_scores
                 (iou_occluded, f1, ...), whose count is called count_known. NaN where a figure has no pixels.
    summary:     metrics.aggregate of the rows, and images_without_occlusion, where noc means all.
    data_sha256: of the images and their truth, in order: equal hashes mean that two reports scored the same pixels.
    """

    rows: tuple[dict[str, Any], ...]
    summary: dict[str, Any]
    data_sha256: str


def _hash_sample(digest: Any, sample: Sample) -> None:
    for array in (sample.left, sample.right, sample.disp, sample.valid, sample.occluded):
        # The shape as well: 2x3 and 3x2 of the same bytes are different data, and so are a mask and no mask.
        digest.update(repr(None if array is None else (array.shape, array.dtype.str)).encode())
        digest.update(b"" if array is None else np.ascontiguousarray(array).tobytes())


def _score(sample: Sample, result: DisparityMap, seconds: float) -> dict[str, Any]:
    """One row of the report."""
    height, width = sample.left.shape[:2]
    row: dict[str, Any] = {"name": sample.name, "height": height, "width": width, "seconds": seconds}
    row["occlusion_known"] = sample.occluded is not None
    masks = region_masks(sample)
    assert sample.disp is not None  # region_masks has refused it otherwise
    for region, mask in masks.items():
        errors = disparity_errors(result.disp, sample.disp, mask)
        row |= {f"{key}_{region}": value for key, value in errors.items()}
    # Where no mask was given nothing is known: an empty mask makes every score NaN, hence skipped and counted.
    occluded = np.zeros_like(masks["all"]) if sample.occluded is None else sample.occluded
    known = occluded if sample.occluded is None else masks["all"] | occluded
    scores = occlusion_scores(result.occlusion, occluded, known)
    row["count_known"] = scores.pop("count")
    return row | scores


def evaluate(predict: Predict, samples: Samples, progress: bool = True, on_image: OnImage | None = None) -> Report:
    """Predict and score every sample, one at a time; only the predict call is timed.

    predict:  takes left and right (H, W, 3) uint8 RGB, returns a DisparityMap of their size.
    progress: show a bar on stderr when that is a terminal.
    on_image: gets every image as it is scored, on_image(index, sample, result, row), for pages and files beside the report.
    Raises InputError for a sample that cannot be read or has no ground truth, a prediction of another size or with values that
    are not finite, and for no sample at all. Nothing is ever left out silently.
    """
    rows, digest = [], hashlib.sha256()
    for index in tqdm(range(len(samples)), desc="evaluate", unit="pair", disable=None if progress else True):
        sample = samples[index]
        try:
            start = time.perf_counter()
            result = predict(sample.left, sample.right)
            seconds = time.perf_counter() - start
            rows.append(_score(sample, result, seconds))
        except InputError as error:
            raise InputError(f"{sample.name}: {error}") from error
        if on_image is not None:
            on_image(index, sample, result, rows[-1])
        _hash_sample(digest, sample)
    if not rows:
        raise InputError("the data set is empty; expected at least one pair with ground truth")
    summary = aggregate(rows) | {"images_without_occlusion": sum(not row["occlusion_known"] for row in rows)}
    return Report(rows=tuple(rows), summary=summary, data_sha256=digest.hexdigest())


def cpu_name() -> str:
    """The processor's name as the system tells it; on Linux platform.processor() is often empty."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _null_for_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _null_for_nan(item) for key, item in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value


def make_card(report: Report, meta: dict[str, Any]) -> dict[str, Any]:
    """The result card: what was measured, on what, with what, and by which versions. Ready for JSON: NaN is None.

    meta: ``protocol`` (its name), ``weights`` ({"name", "sha256"}, None for a method without), ``data`` (the data set as it was
    asked for), and whatever else the caller wants on record; it cannot replace a measured entry.
    """
    missing = [key for key in CARD_META if key not in meta]
    assert not missing, f"meta lacks {missing}"
    summary = report.summary
    return _null_for_nan(
        meta
        | {
            "images": summary["images"],
            "images_without_occlusion": summary["images_without_occlusion"],
            "pixels": {region: summary[f"count_{region}"] for region in REGIONS} | {"occlusion": summary["count_known"]},
            "regions": REGIONS,
            "units": {**ERROR_UNITS, "iou": "0 to 1", "f1": "0 to 1", "seconds": "s"},
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


# Heading, key of a row, decimals.
_COLUMNS = (
    ("EPE px", "epe_noc", 2),
    ("bad-1 %", "bad1_noc", 1),
    ("bad-2 %", "bad2_noc", 1),
    ("bad-3 %", "bad3_noc", 1),
    ("D1 %", "d1_noc", 1),
    ("EPE all px", "epe_all", 2),
    ("bad-3 all %", "bad3_all", 1),
    ("occ IoU", "iou_occluded", 3),
    ("time s", "seconds", 2),
)


def format_table(report: Report) -> str:
    """The report as a text table: a line per image, the mean of the images, the pixel-pooled figures, and what to know."""

    def cells(values: dict[str, Any], suffix: str = "") -> list[str]:
        numbers = [(values.get(key + suffix, math.nan), digits) for _, key, digits in _COLUMNS]
        return ["-" if math.isnan(number) else f"{number:.{digits}f}" for number, digits in numbers]

    summary, images = report.summary, report.summary["images"]
    lines = [["image", "size", *(heading for heading, _, _ in _COLUMNS)]]
    lines += [[row["name"], f"{row['width']}x{row['height']}", *cells(row)] for row in report.rows]
    lines += [[f"mean of {images}", "", *cells(summary)], ["pixel-pooled", "", *cells(summary, "_pooled")]]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = [
        "  ".join([line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))])
        for line in lines
    ]
    text.insert(1, "-" * len(text[0]))
    text.insert(-2, text[1])
    share = f"{summary['count_noc']} of {summary['count_all']} px"
    text.append(f"Errors without 'all' are over the pixels that both cameras see ({share}).")
    if unknown := summary["images_without_occlusion"]:
        text.append(f"{unknown} of {images} images have no occlusion mask: there both are over all pixels with ground truth.")
    skipped = [f"{heading} {summary[key + '_skipped']}" for heading, key, _ in _COLUMNS if summary[key + "_skipped"]]
    if skipped:
        text.append(f"'-': no pixels to score. Images left out of a mean: {', '.join(skipped)}.")
    return "\n".join(text)
