"""``infer``: maps of a pair of photographs, or of two folders of them."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from stereo.cli.calibration_options import add_calibration, add_depth, depth_writer
from stereo.cli.shared import (
    add_device,
    add_memory,
    add_precision,
    add_weights,
    load_predictor,
    make_folder,
    say,
)
from stereo.image_io import read_image
from stereo.inference.outputs import write_maps, write_sidecar
from stereo.inference.predictor import check_pair
from stereo.types import InputError
from stereo.version import __version__

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".ppm", ".pgm", ".tif", ".tiff")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_weights(parser)
    add_device(parser)
    add_precision(parser)
    add_memory(parser)
    parser.add_argument("left", help="left image, or a folder of left images")
    parser.add_argument("right", help="right image, or a folder of right images with the same file names")
    parser.add_argument("-o", "--output", default="out", help="folder for the results (default: out)")
    parser.add_argument("--both", action="store_true", help="also write the maps of the right view, as STEM.right.*")
    add_calibration(parser)
    add_depth(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    pairs = list_pairs(Path(args.left), Path(args.right))
    first = read_image(pairs[0][1])
    check_pair(first, read_image(pairs[0][2]))  # before the network is loaded
    depth = depth_writer(args, (first.shape[1], first.shape[0]))
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
        written = depth.write_map(folder, stem, left, results[0]) if depth else None
        if written:
            files += written.files
            say(args, "\n".join(written.lines))
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
            "precision": predictor.precision,
            "device": str(predictor.device),
            "matched": str(predictor.plan),
            "seconds": seconds,
            "version": __version__,
        } | ({"depth": written.facts} if written else {})
        files.append(write_sidecar(folder, stem, facts))
        done.append(facts | {"files": [str(f) for f in files]})
        say(args, f"{left_path}: {disp.shape[1]}x{disp.shape[0]} px in {seconds:.2f} s, disparity {disp.min():.1f} to "
                  f"{disp.max():.1f} px -> {folder / stem}.*")  # fmt: skip
    return {"pairs": done}


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
