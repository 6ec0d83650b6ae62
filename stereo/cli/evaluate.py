"""``evaluate``: scores on a data set with ground truth."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from datasets.base import DATASETS, open_dataset
from stereo.cli.shared import (
    add_device,
    add_memory,
    add_precision,
    add_weights,
    load_predictor,
    make_folder,
    page_target,
    say,
)
from stereo.engine.evaluate import Report, evaluate, format_table, make_card, write_card, write_csv
from stereo.inference.sgbm import SgbmPredictor, search_range
from stereo.report.evaluation_page import EvaluationPage

PROTOCOL = "every pixel with ground truth, no disparity limit; means of per-image values"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_weights(parser)
    add_device(parser)
    add_precision(parser)
    add_memory(parser)
    parser.add_argument("--data", required=True, metavar="NAME:PATH", help=f"NAME is one of {', '.join(DATASETS)}; "
                       "for example pairs:FOLDER, or generated:7:50 for 50 scenes of seed 7")  # fmt: skip
    parser.add_argument("--baseline", choices=["sgbm"], help="score OpenCV's semi-global matching on the same pixels")
    parser.add_argument("-o", "--output", help="folder for the per-image CSV and the result card (default: print only)")
    parser.add_argument("--html", metavar="FILE", help="one page: pictures of the worst images, histogram of errors, a table "
                       "that sorts; the baseline's goes beside it")  # fmt: skip


def run(args: argparse.Namespace) -> dict[str, Any]:
    samples = open_dataset(args.data)
    folder = make_folder(Path(args.output)) if args.output else None
    target = page_target(args.html) if args.html else None
    result: dict[str, Any] = {}

    def score(title: str, predict: Callable, weights: dict[str, Any] | None, precision: str | None = None) -> None:
        page = EvaluationPage() if target else None
        report: Report = evaluate(predict, samples, progress=not args.json, on_image=page.add if page else None)
        meta = {"protocol": PROTOCOL, "method": title, "weights": weights, "precision": precision, "data": args.data}
        say(args, f"\n{title} on {args.data}\n{format_table(report)}")
        if folder:
            write_csv(report, folder / f"{title}.csv")
            write_card(report, folder / f"{title}.card.json", meta)
            say(args, f"wrote {folder / title}.csv and {folder / title}.card.json")
        result[title] = make_card(report, meta)
        if page and target:
            path = target if weights else target.with_stem(f"{target.stem}.{title}")
            page.write(path, report, result[title])
            say(args, f"wrote {path}")

    predictor, weights = load_predictor(args)
    score(weights["preset"], predictor.predict, weights, predictor.precision)
    if args.baseline == "sgbm":
        # Samples are scored in order; the baseline's search range was chosen for each set.
        names = iter(samples.names)
        score("sgbm", lambda left, right: SgbmPredictor(search_range(next(names))).predict(left, right), None)
    return result
