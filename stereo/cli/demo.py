"""``demo``: the whole path on a generated pair, compared with its exact truth."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from datasets.procedural.dataset import render_sample
from stereo.cli.shared import add_device, add_precision, add_sizes, add_weights, load_predictor, make_folder, say
from stereo.engine.machine import cpu_name
from stereo.image_io import write_image
from stereo.inference.outputs import write_maps
from stereo.metrics import disparity_errors, occlusion_scores, region_masks
from stereo.report.figures import pair_figure
from stereo.report.page import write_page
from stereo.report.viewer_page import viewer_page
from stereo.version import __version__

DEMO_SEED = 17  # a scene with a bit of everything, chosen by its picture before any score was seen
DEMO_SIZE = (384, 768)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_weights(parser)
    add_device(parser)
    add_precision(parser)
    add_sizes(parser, finer=True)
    parser.add_argument("-o", "--output", default="demo", help="folder for the pictures (default: demo)")
    parser.add_argument("--seed", type=int, default=DEMO_SEED, help=f"which pair to generate (default: {DEMO_SEED})")


def run(args: argparse.Namespace) -> dict[str, Any]:
    sample = render_sample(args.seed, 0, *DEMO_SIZE)
    predictor, weights = load_predictor(args)
    folder = make_folder(Path(args.output))
    start = time.perf_counter()
    result = predictor.predict(sample.left, sample.right)
    seconds = time.perf_counter() - start
    assert sample.disp is not None and sample.occluded is not None  # a generated sample has all its truth
    masks = region_masks(sample)
    errors = {region: disparity_errors(result.disp, sample.disp, masks[region]) for region in ("noc", "all")}
    occlusion = occlusion_scores(result.occlusion, sample.occluded, masks["all"])
    for name, image in (("left.png", sample.left), ("right.png", sample.right)):
        write_image(folder / name, image)
    write_image(folder / "figure.png", pair_figure(sample.left, result, sample))
    files = [folder / "left.png", folder / "right.png", folder / "figure.png", *write_maps(folder, "demo", result)]
    facts = {
        "left": f"generated, seed {args.seed}",
        "width": DEMO_SIZE[1],
        "height": DEMO_SIZE[0],
        "seconds": seconds,
        "weights": weights,
        "sizes": predictor.passes,
        "precision": predictor.precision,
        "device": str(predictor.device),
        "version": __version__,
    }
    files.append(folder / "demo.html")
    write_page(files[-1], viewer_page("demo", sample.left, result, facts, truth=sample))
    size = f"{DEMO_SIZE[1]}x{DEMO_SIZE[0]} px"
    say(args, f"generated pair (seed {args.seed}), {size}, weights {weights['name']}, {cpu_name()}")
    say(args, "\n".join(f"  wrote {path}" for path in files))
    say(args, f"open {files[-1]} in a browser: maps, the numbers under the cursor, a cloud to turn")
    visible, whole = errors["noc"], errors["all"]
    say(args, f"EPE {visible['epe']:.2f} px visible, {whole['epe']:.2f} px all; bad-3 {visible['bad3']:.1f} %; "
              f"occlusion IoU {occlusion['iou_occluded']:.2f}; {seconds:.2f} s")  # fmt: skip
    return {
        "epe_noc_px": errors["noc"]["epe"],
        "epe_all_px": errors["all"]["epe"],
        "bad3_noc_percent": errors["noc"]["bad3"],
        "iou_occluded": occlusion["iou_occluded"],
        "iou_pooled": occlusion["iou_pooled"],
        "seconds": seconds,
        "weights": weights,
        "files": [str(path) for path in files],
    }
