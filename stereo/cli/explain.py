"""``explain``: the quadtree microscope, what the network looked at for one pixel."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from stereo.cli.shared import add_device, add_weights, load_predictor, make_folder, say
from stereo.image_io import read_image, write_image
from stereo.inference.explain import TOLERANCE, AttentionView, Explanation, check_pixel, explain
from stereo.inference.predictor import check_pair
from stereo.report.explain_figure import explain_figure
from stereo.report.explain_page import explain_page
from stereo.report.page import write_page
from stereo.version import __version__


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_weights(parser)
    add_device(parser)
    parser.set_defaults(precision="fp32", compile=False)  # in bf16 two runs may choose other nodes
    parser.add_argument("left", help="left image")
    parser.add_argument("right", help="right image")
    parser.add_argument("--at", nargs=2, type=int, required=True, metavar=("X", "Y"),
                        help="the pixel of the left image, px from the left and from the top, counted from 0")  # fmt: skip
    parser.add_argument("-o", "--output", default="out", help="folder for STEM.at-X-Y.html and .png (default: out)")


def run(args: argparse.Namespace) -> dict[str, Any]:
    left, right = read_image(args.left), read_image(args.right)
    check_pair(left, right)  # before the network is loaded
    check_pixel(args.at[0], args.at[1], left)
    predictor, weights = load_predictor(args)
    explained, _ = explain(predictor, left, right, *args.at)
    folder = make_folder(Path(args.output))
    stem = f"{Path(args.left).stem}.at-{explained.x}-{explained.y}"
    facts = {"left": args.left, "right": args.right, "weights": weights, "precision": predictor.precision}
    facts |= {"device": str(predictor.device), "version": __version__}
    files = [folder / f"{stem}.html", folder / f"{stem}.png"]
    title = f"{Path(args.left).name}: why pixel {explained.x}, {explained.y}?"
    write_page(files[0], explain_page(title, left, right, explained, facts))
    write_image(files[1], explain_figure(left, right, explained))
    say(args, "\n".join(_told(explained)))
    say(args, "\n".join(f"  wrote {path}" for path in files))
    return as_json(explained) | facts | {"files": [str(path) for path in files]}


def _told(explained: Explanation) -> list[str]:
    best = explained.transport.mass.argmax()
    token, mass = int(explained.transport.columns[best]), float(explained.transport.mass[best])
    found = f"disparity {explained.disp:.2f} px, match at x {explained.match_x:.2f}"
    sure = f"occlusion {explained.occlusion:.2f}, confidence {explained.confidence:.2f}"
    lines = [f"pixel {explained.x} {explained.y}: {found}, {sure}"]
    lines.append(f"  transport: {mass:.2f} on right token {token}, {explained.transport.dustbin:.2f} on no match")
    lines.append("  " + ", ".join(f"{name} {px:.2f}" for name, px in explained.stages) + " px")
    agreeing = f"{explained.agreeing:.2%} of all pixels within {TOLERANCE:g} px"
    lines.append(f"  watched run against the plain one: {explained.deviation:.1e} px at the pixel, {agreeing}")
    return lines


def as_json(explained: Explanation) -> dict[str, Any]:
    """Everything that was recorded, in plain numbers; fields as in stereo.inference.explain."""
    transport = {"columns": explained.transport.columns.tolist(), "mass": explained.transport.mass.tolist()}
    plain = {name: getattr(explained, name) for name in ("x", "y", "disp", "match_x", "occlusion", "confidence", "stride")}
    return plain | {
        "token": list(explained.token),
        "stages": dict(explained.stages),
        "transport": transport | {"dustbin": explained.transport.dustbin},
        "attention": [_attention_json(view) for view in explained.attentions],
        "deviation_px": explained.deviation,
        "agreeing_share": explained.agreeing,
    }


def _attention_json(view: AttentionView) -> dict[str, Any]:
    levels = [
        {"level": level.number, "share": level.share}
        | {name: getattr(level, name).tolist() for name in ("nodes", "weights", "kept")}
        for level in view.levels
    ]
    return {"layer": view.layer, "kind": view.kind, "tokens": view.tokens.tolist(), "levels": levels}
