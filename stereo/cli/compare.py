"""``compare``: two runs of ``evaluate`` on the same images."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from stereo.cli.shared import say
from stereo.engine.compare import compare, format_comparisons, read_run
from stereo.engine.result_files import json_ready
from stereo.image_io import atomic_write


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("a", type=Path, help="METHOD.csv or METHOD.card.json of 'evaluate -o'")
    parser.add_argument("b", type=Path, help="the same of another method, scored on the same images")
    parser.add_argument("--figures", nargs="+", default=[], metavar="NAME", help="columns of the CSV, for example epe_noc "
                        "bad3_noc ause (default: what the protocol quotes)")  # fmt: skip
    parser.add_argument("--resamples", type=int, default=10_000,
                        help="random draws of images that tell how sure the difference is (a bootstrap; "
                        "default: %(default)s)")  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="of these draws (default: %(default)s)")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="also write the result here, as JSON")


def run(args: argparse.Namespace) -> dict[str, Any]:
    a, b = read_run(args.a), read_run(args.b)
    found = compare(a, b, args.figures, args.resamples, args.seed)
    say(args, format_comparisons(found, (str(a.path), str(b.path)), args.resamples, args.seed))
    result = {"a": str(a.path), "b": str(b.path), "resamples": args.resamples, "seed": args.seed}
    result |= {"figures": json_ready([asdict(one) for one in found])}
    if args.output:
        with atomic_write(args.output) as temporary:
            temporary.write_text(json.dumps(result, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    return result
