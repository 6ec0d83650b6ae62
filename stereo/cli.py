"""The command line: parse, compose, print. The only place that joins the rooms.

Exit codes: 0 done, 2 the input cannot work (one line on stderr says why and what to do), 1 our fault.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import torch
from tqdm import tqdm

from datasets.base import DATASETS, open_dataset
from datasets.batches import training_batches
from datasets.procedural.dataset import GeneratedDataset, render_sample
from datasets.procedural.write import write_dataset
from stereo.checkpoint import default_weights, load_model, load_published, load_state, save_weights
from stereo.config import load_recipe, to_dict
from stereo.engine.bench import HEIGHT, SIZES, WIDTHS, Limits, bench, format_rows, parse_size, plan
from stereo.engine.evaluate import Report, cpu_name, evaluate, format_table, make_card, write_card, write_csv
from stereo.engine.fit import NonFiniteLossError, fit
from stereo.engine.memory import keep_freed_memory
from stereo.geometry import read_middlebury_calib
from stereo.image_io import read_image, write_image
from stereo.inference.outputs import write_depth, write_maps, write_sidecar
from stereo.inference.predictor import StereoPredictor, check_pair
from stereo.inference.sgbm import SgbmPredictor, search_range
from stereo.metrics import disparity_errors, occlusion_scores, region_masks
from stereo.model.build import build_model
from stereo.report.figures import pair_figure
from stereo.types import InputError
from stereo.version import __version__

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".ppm", ".pgm", ".tif", ".tiff")
PROTOCOL = "every pixel with ground truth, no disparity limit; means of per-image values"
DEMO_SEED = 12  # a scene with a bit of everything, chosen by its picture before any score was seen
DEMO_SIZE = (384, 768)


def make_folder(path: Path) -> Path:
    """Create an output folder. Raises InputError when it cannot be written."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot create the output folder '{path}': {error.strerror}; choose another with -o") from None
    return path


def load_predictor(args: argparse.Namespace) -> tuple[StereoPredictor, dict[str, Any]]:
    """The predictor that --weights and --device ask for, and what a result card says about it."""
    path = Path(args.weights) if args.weights else default_weights()
    model = load_model(path, args.device)
    facts = {"name": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "preset": model.config.preset}
    return StereoPredictor(model), facts


def list_pairs(left: Path, right: Path) -> list[tuple[str, Path, Path]]:
    """(stem, left file, right file) of two files, or of two folders whose files have the same names."""
    if left.is_dir() != right.is_dir():
        raise InputError(f"got '{left}' and '{right}': give two images, or two folders that hold images of the same names")
    if not left.is_dir():
        return [(left.stem, left, right)]
    names = [{p.name for p in side.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES} for side in (left, right)]
    if not names[0]:
        raise InputError(f"folder '{left}' holds no image; expected files ending in {', '.join(IMAGE_SUFFIXES)}")
    if lonely := sorted(names[0] ^ names[1]):
        raise InputError(f"'{lonely[0]}' is in one folder only ({len(lonely)} such files); both need the same file names")
    stems = [Path(name).stem for name in names[0]]
    if len(set(stems)) < len(stems):
        raise InputError(f"folder '{left}' holds images that differ only in their ending; results would overwrite each other")
    return [(Path(name).stem, left / name, right / name) for name in sorted(names[0])]


def run_infer(args: argparse.Namespace) -> dict[str, Any]:
    pairs = list_pairs(Path(args.left), Path(args.right))
    calibration = read_middlebury_calib(args.calib) if args.calib else None
    check_pair(read_image(pairs[0][1]), read_image(pairs[0][2]))  # before the network is loaded
    predictor, weights = load_predictor(args)
    folder = make_folder(Path(args.output))  # last, so that refused input leaves no empty folder behind
    done = []
    for stem, left_path, right_path in pairs:
        left, right = read_image(left_path), read_image(right_path)
        start = time.perf_counter()
        results = list(predictor.predict_both(left, right)) if args.both else [predictor.predict(left, right)]
        seconds = time.perf_counter() - start
        files = write_maps(folder, stem, results[0])
        if args.both:
            files += write_maps(folder, f"{stem}.right", results[1])
        if calibration:
            files += write_depth(folder, stem, left, results[0], calibration)
        disp = results[0].disp
        facts = {
            "left": str(left_path),
            "right": str(right_path),
            "width": disp.shape[1],
            "height": disp.shape[0],
            "disparity_min_px": float(disp.min()),
            "disparity_max_px": float(disp.max()),
            "occluded_share": float((results[0].occlusion > 0.5).mean()),
            "weights": weights,
            "device": str(next(predictor.model.parameters()).device),
            "seconds": seconds,
            "version": __version__,
        }
        files.append(write_sidecar(folder, stem, facts))
        done.append(facts | {"files": [str(f) for f in files]})
        say(args, f"{left_path}: {disp.shape[1]}x{disp.shape[0]} px in {seconds:.2f} s, disparity {disp.min():.1f} to "
                  f"{disp.max():.1f} px -> {folder / stem}.*")  # fmt: skip
    return {"pairs": done}


def run_demo(args: argparse.Namespace) -> dict[str, Any]:
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
    size = f"{DEMO_SIZE[1]}x{DEMO_SIZE[0]} px"
    say(args, f"generated pair (seed {args.seed}), {size}, weights {weights['name']}, {cpu_name()}")
    say(args, "\n".join(f"  wrote {path}" for path in files))
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


def run_train(args: argparse.Namespace) -> dict[str, Any]:
    recipe = load_recipe(args.recipe, args.set)
    train = recipe.train
    run_dir = make_folder(Path(args.output or f"runs/{recipe.name}"))
    checkpoint = run_dir / "checkpoint.pt"
    if checkpoint.exists() and not args.resume:
        raise InputError(f"'{run_dir}' already holds a run; add --resume to go on with it, or choose another folder with -o")
    if train.threads:
        torch.set_num_threads(train.threads)
    keep_freed_memory()
    torch.manual_seed(train.seed)
    model = build_model(recipe.model, train.kernel)
    scenes = GeneratedDataset(train.validation_seed, train.validation_scenes)

    def validate(network) -> dict[str, float]:
        summary = evaluate(StereoPredictor(network).predict, scenes, progress=False).summary
        return {key: summary[key] for key in ("epe_noc", "epe_all", "bad3_noc", "iou_occluded")}

    batches = partial(training_batches, recipe.data, train.batch_size)
    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    numbers = fit(model, batches, recipe, run_dir, device, args.resume, validate)
    seconds = load_state(checkpoint)["seconds"]
    card = {
        "recipe": to_dict(recipe),
        "samples_seen": train.steps * train.batch_size,
        "hours": round(seconds / 3600, 3),
        "hardware": cpu_name() if device == "cpu" else torch.cuda.get_device_name(),
        "validation": {"data": f"generated:{train.validation_seed}:{train.validation_scenes}"} | numbers,
    }
    weights = save_weights(model, run_dir, recipe.model.preset, card)
    listed = ", ".join(f"{key} {value:.3f}" for key, value in numbers.items())
    say(args, f"{recipe.name}: {train.steps} steps; {train.validation_scenes} generated scenes: {listed}; {weights}")
    return card | {"weights": str(weights)}


def run_evaluate(args: argparse.Namespace) -> dict[str, Any]:
    samples = open_dataset(args.data)
    folder = make_folder(Path(args.output)) if args.output else None
    result: dict[str, Any] = {}

    def score(title: str, predict: Callable, weights: dict[str, Any] | None) -> None:
        report: Report = evaluate(predict, samples, progress=not args.json)
        meta = {"protocol": PROTOCOL, "method": title, "weights": weights, "data": args.data}
        say(args, f"\n{title} on {args.data}\n{format_table(report)}")
        if folder:
            write_csv(report, folder / f"{title}.csv")
            write_card(report, folder / f"{title}.card.json", meta)
            say(args, f"wrote {folder / title}.csv and {folder / title}.card.json")
        result[title] = make_card(report, meta)

    predictor, weights = load_predictor(args)
    score(weights["preset"], predictor.predict, weights)
    if args.baseline == "sgbm":
        # Samples are scored in order; the baseline's search range was chosen for each set.
        names = iter(samples.names)
        score("sgbm", lambda left, right: SgbmPredictor(search_range(next(names))).predict(left, right), None)
    return result


def run_generate(args: argparse.Namespace) -> dict[str, Any]:
    write_dataset(Path(args.output), args.scenes, args.seed, args.height, args.width, progress=not args.json)
    say(args, f"wrote {args.scenes} scenes of {args.width}x{args.height} px to {args.output}; "
              f"use them with --data flyingthings3d:{args.output}")  # fmt: skip
    return {"folder": args.output, "scenes": args.scenes, "seed": args.seed}


def run_convert(args: argparse.Namespace) -> dict[str, Any]:
    model = load_published(args.checkpoint)
    target = Path(args.output)
    card = {"converted_from": Path(args.checkpoint).name}
    weights = save_weights(model, make_folder(target.parent), target.name.removesuffix(".safetensors"), card)
    c = model.config
    say(args, f"{args.checkpoint}: {c.preset}, {c.layers} layers of {c.heads} heads, faithful -> {weights}")
    return {"weights": str(weights), "config": to_dict(c)}


def run_bench(args: argparse.Namespace) -> dict[str, Any]:
    sizes = [parse_size(text) for text in args.sizes] + [(args.height, width) for width in args.widths]
    cases = plan(args.presets, args.operators, sizes, args.kernel)
    if args.repeats < 1:
        raise InputError(f"got --repeats {args.repeats}, expected at least 1")
    target = Path(args.output)
    make_folder(target.parent)
    limits = None if args.no_time else Limits(args.repeats, args.threads, args.timeout)
    rows = list(tqdm(bench(cases, limits, target), total=len(cases), unit="case", disable=True if args.json else None))
    say(args, f"{format_rows(rows)}\nwrote {target}")
    return {"output": str(target), "rows": rows}


def say(args: argparse.Namespace, text: str) -> None:
    """Print for people; with --json stdout belongs to the one JSON object."""
    print(text, file=sys.stderr if args.json else sys.stdout)


class Parser(argparse.ArgumentParser):
    """argparse whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; see '{self.prog} --help'")


VERBS: dict[str, tuple[Callable[[argparse.Namespace], dict[str, Any]], str]] = {
    "infer": (run_infer, "disparity, occlusion and confidence of a pair of images, or of two folders of pairs"),
    "demo": (run_demo, "generate a pair, run the shipped weights on it, compare with the exact truth"),
    "train": (run_train, "train a network from a recipe (a TOML file in experiments/)"),
    "evaluate": (run_evaluate, "score a network, and OpenCV's SGBM beside it, on a data set with ground truth"),
    "generate": (run_generate, "write a procedural data set to disk in the FlyingThings3D layout"),
    "convert": (run_convert, "turn a checkpoint of the public STTR code into weights of this program"),
    "bench": (run_bench, "parameters, multiply-adds, memory and time of networks and of attention operators, over sizes"),
}


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(prog="run_stereo.py", description="Disparity, occlusion and confidence from two rectified photographs.")
    parser.add_argument("--version", action="version", version=__version__)
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    parsers = {}
    for name, (run, text) in VERBS.items():
        parsers[name] = verbs.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        parsers[name].set_defaults(run=run)
        parsers[name].add_argument("--json", action="store_true", help="print one JSON object to stdout, the rest to stderr")

    for name in ("infer", "demo", "evaluate"):
        parsers[name].add_argument("--weights", help="a .safetensors file or a run's checkpoint.pt (default: the shipped)")
    for name in ("infer", "demo", "evaluate", "train"):
        parsers[name].add_argument("--device", help="cpu or cuda (default: a GPU when there is one)")

    infer = parsers["infer"]
    infer.add_argument("left", help="left image, or a folder of left images")
    infer.add_argument("right", help="right image, or a folder of right images with the same file names")
    infer.add_argument("-o", "--output", default="out", help="folder for the results (default: out)")
    infer.add_argument("--both", action="store_true", help="also write the maps of the right view, as STEM.right.*")
    infer.add_argument("--calib", help="a Middlebury calib.txt: also write metric depth and a point cloud")

    demo = parsers["demo"]
    demo.add_argument("-o", "--output", default="demo", help="folder for the pictures (default: demo)")
    demo.add_argument("--seed", type=int, default=DEMO_SEED, help=f"which pair to generate (default: {DEMO_SEED})")

    train = parsers["train"]
    train.add_argument("recipe", help="for example experiments/smoke.toml")
    train.add_argument("--set", action="append", default=[], metavar="A.B=VALUE", help="change one setting of the recipe")
    train.add_argument("-o", "--output", help="folder of the run (default: runs/<name of the recipe>)")
    train.add_argument("--resume", action="store_true", help="go on from the folder's checkpoint.pt")

    score = parsers["evaluate"]
    score.add_argument("--data", required=True, metavar="NAME:PATH", help=f"NAME is one of {', '.join(DATASETS)}; "
                       "for example pairs:FOLDER, or generated:7:50 for 50 scenes of seed 7")  # fmt: skip
    score.add_argument("--baseline", choices=["sgbm"], help="score OpenCV's semi-global matching on the same pixels")
    score.add_argument("-o", "--output", help="folder for the per-image CSV and the result card (default: print only)")

    generate = parsers["generate"]
    generate.add_argument("-o", "--output", required=True, help="an empty or new folder")
    generate.add_argument("--scenes", type=int, required=True, help="how many pairs")
    generate.add_argument("--seed", type=int, default=0, help="same seed, same bytes (default: 0)")
    generate.add_argument("--height", type=int, default=540)
    generate.add_argument("--width", type=int, default=960)

    convert = parsers["convert"]
    convert.add_argument("checkpoint", help="for example sceneflow_pretrained_model.pth.tar, of STTR or of STTR-light")
    convert.add_argument("-o", "--output", required=True, metavar="FILE",
                         help="for example weights/sttr.safetensors; a part of its checksum is added to the name")  # fmt: skip

    cost = parsers["bench"]
    cost.add_argument("--presets", nargs="*", help="networks (default: all; without a name: none)")
    cost.add_argument("--operators", nargs="*", help="attention alone (default: all; without a name: none)")
    cost.add_argument("--sizes", nargs="*", metavar="HxW", default=[f"{h}x{w}" for h, w in SIZES],
                      help=f"px (default: {' '.join(f'{h}x{w}' for h, w in SIZES)})")  # fmt: skip
    cost.add_argument("--widths", nargs="*", type=int, metavar="W", default=list(WIDTHS),
                      help=f"more sizes, all of one height: growth (default: {' '.join(map(str, WIDTHS))})")  # fmt: skip
    cost.add_argument("--height", type=int, default=HEIGHT, help=f"px, of the --widths (default: {HEIGHT})")
    cost.add_argument("--no-time", action="store_true", help="count only, which runs nothing: no time, no peak memory")
    cost.add_argument("--repeats", type=int, default=5, help="the median of these is the time (default: 5)")
    cost.add_argument("--threads", type=int, default=0, help="CPU threads (default: PyTorch's choice)")
    cost.add_argument("--timeout", type=float, default=900, metavar="S", help="for one case, all repeats (default: 900)")
    cost.add_argument("--kernel", default="auto", help="backend that is timed; counts do not depend on it (default: auto)")
    cost.add_argument("-o", "--output", default="experiments/results/bench.json", metavar="FILE",
                      help="JSON (default: experiments/results/bench.json)")  # fmt: skip
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")  # to stderr: what was chosen, derived or built
    try:
        args = build_parser().parse_args(argv)
        result = args.run(args)
    except InputError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except NonFiniteLossError as error:
        print(f"stopped: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    if args.json:
        print(json.dumps(result))
    return 0
