"""The network beside two modes of OpenCV's SGBM on real pairs with ground truth, in one run on one machine.

    python -m experiments.real_pairs FOLDER [--weights W] [-o experiments/results/real_pairs.json] [--html FILE]

FOLDER holds <set>/<scene>/{left.png,right.png,disp_left.pfm,...}. Report only: no weights are chosen by these numbers.
FILE is a page with pictures of every scene and method; it shows the pairs, so it goes no further than their terms allow.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import torch

from datasets.pairs import PairsDataset
from experiments.real_pairs_page import Pictures, comparison_html
from stereo import StereoPredictor, load_model
from stereo.checkpoint import default_weights
from stereo.cli.shared import page_target
from stereo.engine.evaluate import ByName, Predict, Report, Samples, evaluate
from stereo.engine.machine import cpu_name
from stereo.engine.memory import keep_freed_memory
from stereo.engine.result_files import format_table
from stereo.image_io import atomic_write
from stereo.inference.sgbm import BASELINES, SgbmPredictor, search_range
from stereo.metrics import confidence_scores, region_masks
from stereo.metrics.errors import absolute_errors
from stereo.report.page import write_page
from stereo.types import DisparityMap, InputError, Sample
from stereo.version import __version__

ROOT = Path(__file__).resolve().parents[1]
KEYS = ("epe_noc", "bad1_noc", "bad2_noc", "bad3_noc", "epe_all", "bad3_all", "iou_occluded", "seconds")
KEPT, RATIO = "bad3_noc_kept80", "kept80_ratio"  # bad-3 without the 20 % least confident pixels; its ratio to bad-3
OURS = "ours"
TITLES = {OURS: "ours", "sgbm": "SGBM MODE_HH", "sgbm-3way": "SGBM MODE_SGBM_3WAY"}
STTR_NOTE = "STTR's published zero-shot average over {}: other scenes, so no more than a bearing"


@dataclass(frozen=True)
class Target:
    """A figure that ``ours`` has to reach (kind "must") or is meant to (kind "aim").

    of: a scene, or "mean"; key: of its figure; relation: "at most", "at least" or "below"; note: what the limit stands for.
    """

    kind: str
    name: str
    of: str
    key: str
    relation: str
    limit: float
    note: str = ""

    def met(self, value: float) -> bool:
        if self.relation == "at least":
            return bool(value >= self.limit)
        return bool(value < self.limit if self.relation == "below" else value <= self.limit)


TARGETS = (
    Target("must", "bad-3 visible, mean, %", "mean", "bad3_noc", "at most", 6.7),
    Target("must", "EPE all, mean, px", "mean", "epe_all", "at most", 1.1),
    *(
        Target("must", f"occluded IoU, {scene}", scene, "iou_occluded", "at least", 0.70, "with the data set's own mask")
        for scene in ("flyingthings3d/A-0032-0006", "middlebury2014/Motorcycle_Q")
    ),
    Target("must", "bad-3 without the 20 % least confident / bad-3", "mean", RATIO, "at most", 0.5, "ratio of the means"),
    Target("aim", "bad-3 visible, mean, %", "mean", "bad3_noc", "at most", 4.0),
    Target("aim", "bad-2 visible, mean, %", "mean", "bad2_noc", "at most", 6.0),
    Target("aim", "EPE visible, mean, px", "mean", "epe_noc", "at most", 0.8),
    *(
        Target("aim", f"bad-3 visible, {scene}, %", scene, "bad3_noc", "below", limit, STTR_NOTE.format(data))
        for scene, limit, data in (
            ("middlebury2014/Motorcycle_Q", 6.19, "Middlebury at quarter size"),
            ("kitti2012/000000_10", 6.74, "KITTI 2015"),
            ("kitti2015/000046_10", 6.74, "KITTI 2015"),
        )
    ),
)


def figures_of(method: dict[str, Any], of: str) -> dict[str, Any]:
    """The figures of a method's mean, median, or scene of that name; empty where there is no such scene."""
    return method[of] if of in ("mean", "median") else next((row for row in method["rows"] if row["name"] == of), {})


def check_targets(methods: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Every target with what ours reached, whether that meets it, and the rivals' figures; None where there is no figure."""
    checked = []
    for target in TARGETS:
        rivals = {name: figures_of(method, target.of).get(target.key) for name, method in methods.items()}
        reached = rivals.pop(OURS)
        met = None if reached is None else target.met(reached)
        checked.append(asdict(target) | {"reached": reached, "met": met, "rivals": rivals})
    return checked


def kept_bad3(sample: Sample, result: DisparityMap) -> float:
    """bad-3 of the visible pixels, percent, once the 20 % of them that ``result`` is least sure of are discarded."""
    visible = region_masks(sample)["noc"]
    assert sample.disp is not None  # region_masks has refused it otherwise
    error, _ = absolute_errors(result.disp, sample.disp, visible)
    return confidence_scores(error, result.confidence[visible])["bad3_kept80"]


def condense(report: Report, kept: Mapping[str, float]) -> dict[str, Any]:
    """Per-scene rows, their mean and median; None where a figure is not defined. ``kept``: kept_bad3 by scene.

    The ratio of the mean is that of the two means: a scene almost without errors must not outweigh the others.
    """
    rows = []
    for row in report.rows:
        figures = {key: row[key] for key in KEYS} | {KEPT: kept[row["name"]]}
        figures[RATIO] = _ratio(figures)
        rows.append({"name": row["name"]} | {key: None if math.isnan(x) else x for key, x in figures.items()})
    columns = {key: [row[key] for row in rows if row[key] is not None] for key in (*KEYS, KEPT, RATIO)}
    means = {key: statistics.fmean(column) if column else None for key, column in columns.items()}
    means[RATIO] = None if means[RATIO] is None else _ratio(means)
    medians = {key: statistics.median(column) if column else None for key, column in columns.items()}
    return {"rows": rows, "mean": means, "median": medians}


def _ratio(figures: Mapping[str, Any]) -> float:
    return figures[KEPT] / figures["bad3_noc"] if figures["bad3_noc"] else math.nan


def measure(methods: Mapping[str, Predict | ByName], samples: Samples, pictures: Pictures | None = None) -> dict[str, Any]:
    """What is written of each method, the targets, and the hash of the data; ``pictures`` collects what the page shows."""
    condensed = {}
    for method, predict in methods.items():
        kept: dict[str, float] = {}

        def watch(index: int, sample: Sample, result: Any, row: Any, method: str = method, kept: dict = kept) -> None:
            kept[sample.name] = kept_bad3(sample, result)
            if pictures is not None:
                pictures.add(method, sample, result)

        report = evaluate(predict, samples, on_image=watch)
        print(f"\n{TITLES[method]}\n{format_table(report)}")
        condensed[method] = {"title": TITLES[method]} | condense(report, kept)
    return {"data_sha256": report.data_sha256, "targets": check_targets(condensed), "methods": condensed}


def _format_targets(targets: Sequence[dict[str, Any]]) -> str:
    words = {True: "met", False: "MISSED", None: "not measured"}
    lines = []
    for target in targets:
        reached = "-" if target["reached"] is None else f"{target['reached']:.2f}"
        limit = f"{target['relation']} {target['limit']:g}"
        lines.append(f"{target['kind']:5}{target['name']:50}{reached:>7}  {limit:14}{words[target['met']]}")
    return "\n".join(lines)


def _sgbm(mode: str) -> ByName:
    return ByName(lambda name: SgbmPredictor(search_range(name), mode).predict)


def run(args: argparse.Namespace) -> None:
    target = page_target(args.html) if args.html else None
    samples = PairsDataset(args.folder)
    weights = args.weights or default_weights()
    predictor = StereoPredictor(load_model(weights), sizes=None)  # as ``infer`` has it: small pairs at more than one size
    predictor.predict(samples[0].left, samples[0].right)  # what is set up once, such as kernels, is not a pair's time
    pictures = Pictures() if target else None
    measured = measure({OURS: predictor.predict} | {name: _sgbm(mode) for name, mode in BASELINES.items()}, samples, pictures)
    print(f"\n{_format_targets(measured['targets'])}")
    machine = {"cpu": cpu_name(), "threads": torch.get_num_threads(), "torch": torch.__version__}
    machine |= {"opencv": cv2.__version__, "opencv_threads": cv2.getNumThreads()}
    facts = {
        "command": "python -m experiments.real_pairs FOLDER",
        "weights": {"name": weights.name, "sha256": hashlib.sha256(weights.read_bytes()).hexdigest()},
        "precision": predictor.precision,
        "finer_sizes": list(predictor.model.finer_sizes),
        "version": __version__,
        "machine": machine,
    }
    results = facts | measured
    with atomic_write(args.output) as temporary:
        temporary.write_text(json.dumps(results, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    print(f"wrote {args.output}")
    if target and pictures is not None:
        write_page(target, comparison_html(results, pictures))
        print(f"wrote {target}")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--weights", type=Path, default=None)
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "experiments" / "results" / "real_pairs.json")
    parser.add_argument("--html", metavar="FILE", help="also a page with pictures of every scene")
    args = parser.parse_args(argv)
    keep_freed_memory()
    try:
        run(args)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
