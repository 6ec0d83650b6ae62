"""Does the generator look like the world? Its statistics beside those of real or rendered pairs with ground truth.

    python -m experiments.generator_statistics pairs:FOLDER            # from the root of the repository
    python -m experiments.generator_statistics pairs:FOLDER --names flyingthings3d/A-0032-0006 flyingthings3d/TEST_A_0000_0006

The pairs of --names are compared as a set of their own, beside all of them.
Compared are disparities (in per cent of the width), the occluded share and the part of it that lies outside the other frame,
and what there is to match: horizontal differences of brightness, the share of flat places, contrast and colourfulness.
Writes results/generator_statistics.json and .svg. The generator's contrast and slopes were adjusted by hand after reading such
a comparison with real pairs (docs/design_notes.md); no network was trained on them and no weights were chosen by them.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from datasets.base import open_dataset
from datasets.procedural.dataset import GeneratedDataset
from stereo.image_io import atomic_write
from stereo.types import InputError, Sample

RESULTS = Path(__file__).parent / "results"
DISPARITY_EDGES = np.concatenate([[0], np.geomspace(0.25, 40, 23)])  # per cent of the width
STEP_EDGES = np.array([0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 256])  # grey levels between neighbours: whole
FLAT = 2.0  # grey levels: a place is flat where the 9x9 window's standard deviation is below


def describe(samples: Iterable[Sample]) -> dict[str, Any]:
    """Means over samples, of each number over those that know it: shares of (known) pixels, in per cent.

    The entries of a histogram sum to 100.
    """
    values_of: dict[str, list[float]] = {}
    disparities, steps = np.zeros(len(DISPARITY_EDGES) - 1), np.zeros(len(STEP_EDGES) - 1)
    percents, count = [], 0

    def add(name: str, values: np.ndarray) -> None:
        values_of.setdefault(name, []).append(float(np.mean(values)))

    for sample in samples:
        assert sample.disp is not None and sample.valid is not None
        count += 1
        grey = cv2.cvtColor(sample.left, cv2.COLOR_RGB2GRAY).astype(np.float32)
        step = np.abs(np.diff(grey, axis=1))
        deviation = np.sqrt(np.maximum(cv2.blur(grey * grey, (9, 9)) - cv2.blur(grey, (9, 9)) ** 2, 0))
        width = grey.shape[1]
        share = 100 * sample.disp[sample.valid] / width
        percents.append(np.percentile(share, [1, 10, 50, 90, 99]))
        disparities += np.histogram(np.minimum(share, DISPARITY_EDGES[-1]), DISPARITY_EDGES)[0] / share.size
        steps += np.histogram(step, STEP_EDGES)[0] / step.size
        add("flat_percent", 100 * (deviation < FLAT))
        add("contrast_grey_levels", grey.std())
        add("brightness_grey_levels", grey)
        add("saturation_percent", cv2.cvtColor(sample.left, cv2.COLOR_RGB2HSV)[..., 1] / 2.55)
        if sample.occluded is not None:
            add("occluded_percent", 100 * sample.occluded[sample.valid])
            outside = np.arange(width) - sample.disp < 0
            add("outside_percent", 100 * outside[sample.valid])
    spread = np.percentile(np.array(percents)[:, 2], [0, 50, 100])
    return {
        "pairs": count,
        **{name: round(float(np.mean(values)), 2) for name, values in values_of.items()},
        "disparity_percent_of_width": dict(zip(("p1", "p10", "p50", "p90", "p99"), np.mean(percents, axis=0).round(2).tolist(),
                                               strict=True)),
        "median_disparity_least_middle_most": spread.round(2).tolist(),
        "disparity_histogram": (100 * disparities / count).round(2).tolist(),
        "step_histogram": (100 * steps / count).round(2).tolist(),
    }  # fmt: skip


def chart(found: dict[str, dict[str, Any]]) -> str:
    """Both histograms of every set as lines: SVG."""
    colours = ("#1f6fb4", "#d1603d", "#3d9970", "#8e5ea2")
    width, height, margin = 420, 220, 46
    whole = f'width="{2 * width}" height="{height + 60}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {whole} font-family="sans-serif" font-size="12">',
        f'<rect {whole} fill="white"/>',
    ]
    panels = (("disparity_histogram", DISPARITY_EDGES, "disparity, % of the width"),
              ("step_histogram", STEP_EDGES, "step to the next pixel, grey levels"))  # fmt: skip
    for number, (key, edges, title) in enumerate(panels):
        left, most = number * width + margin, max(max(entry[key]) for entry in found.values())
        bins = len(edges) - 1
        across = (width - margin - 16) / bins
        parts.append(
            f'<text x="{left}" y="20"><tspan font-weight="bold">{title}</tspan> (% of pixels, up to {most:.0f})</text>'
        )
        parts.append(f'<line x1="{left}" x2="{left + across * bins}" y1="{height}" y2="{height}" stroke="#999"/>')
        for tick in range(0, bins + 1, 4):
            parts.append(f'<text x="{left + across * tick:.0f}" y="{height + 16}" text-anchor="middle" fill="#555">'
                         f"{edges[tick]:.2g}</text>")  # fmt: skip
        for colour, entry in zip(colours, found.values(), strict=False):
            points = " ".join(f"{left + across * (i + 0.5):.1f},{height - (height - 40) * v / most:.1f}"
                              for i, v in enumerate(entry[key]))  # fmt: skip
            parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
    for number, (colour, name) in enumerate(zip(colours, found, strict=False)):
        parts.append(f'<text x="{margin + 260 * number}" y="{height + 44}" fill="{colour}">{name}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="data set to compare with, NAME:PATH")
    parser.add_argument("--names", nargs="+", default=[], help="these of its pairs also by themselves")
    parser.add_argument("--scenes", type=int, default=40, help="generated scenes (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the generated scenes (default %(default)s)")
    parser.add_argument("-o", "--output", type=Path, default=RESULTS, help="folder (default: experiments/results)")
    args = parser.parse_args()
    try:
        other = open_dataset(args.data)
    except InputError as error:
        parser.error(str(error))
    if strangers := sorted(set(args.names) - set(other.names)):
        parser.error(f"{strangers[0]} is not in {args.data}, which has {', '.join(other.names[:20])}")
    generated = GeneratedDataset(args.seed, args.scenes, 540, 960)
    found = {f"generated ({args.scenes} scenes)": describe(generated[i] for i in range(args.scenes))}
    for names in filter(None, (other.names, args.names)):
        sources = sorted({name.partition("/")[0] for name in names})
        title = sources[0] if len(sources) == 1 else args.data.partition(":")[0]
        members = describe(other[other.names.index(name)] for name in names)
        found[f"{title} ({len(names)} pairs)"] = {"names": list(names), **members}
    results = {
        "seed": args.seed,
        "disparity_edges": DISPARITY_EDGES.round(3).tolist(),
        "step_edges": STEP_EDGES.round(3).tolist(),
        "sets": found,
    }
    for name, entry in found.items():
        print(name)
        print("\n".join(f"  {key}: {value}" for key, value in entry.items() if not key.endswith("histogram")))
    for suffix, text in ((".json", json.dumps(results, indent=1) + "\n"), (".svg", chart(found))):
        with atomic_write(args.output / f"generator_statistics{suffix}") as temporary:
            temporary.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
