"""``bench``: what networks and operators cost."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from tqdm import tqdm

from stereo.cli.shared import make_folder, positive, say
from stereo.engine.bench import HEIGHT, SIZES, WIDTHS, Limits, bench, format_rows, parse_size, plan
from stereo.types import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--presets", nargs="*", help="networks to measure (default: all; without a name: none)")
    parser.add_argument("--operators", nargs="*", help="attention operators to measure by themselves (default: all; "
                        "without a name: none)")  # fmt: skip
    parser.add_argument("--sizes", nargs="*", metavar="HxW", default=[f"{h}x{w}" for h, w in SIZES],
                      help=f"sizes of the images, px (default: {' '.join(f'{h}x{w}' for h, w in SIZES)})")  # fmt: skip
    parser.add_argument("--widths", nargs="*", type=int, metavar="W", default=list(WIDTHS),
                      help="more sizes, all of --height, to see how cost grows "
                      f"(default: {' '.join(map(str, WIDTHS))})")  # fmt: skip
    parser.add_argument("--height", type=int, default=HEIGHT, help=f"of the --widths, px (default: {HEIGHT})")
    parser.add_argument("--no-time", action="store_true", help="count only, which runs nothing: no time, no peak memory")
    parser.add_argument("--repeats", type=int, default=5,
                        help="runs of each case, of which the median is reported (default: 5)")  # fmt: skip
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (default: PyTorch's choice)")
    parser.add_argument("--timeout", type=positive, default=900, metavar="S",
                        help="seconds after which a case is given up, all its repeats together (default: 900)")  # fmt: skip
    parser.add_argument("--kernel", default="auto", help="backend that is timed; counts do not depend on it (default: auto)")
    parser.add_argument("-o", "--output", default="experiments/results/bench.json", metavar="FILE",
                      help="JSON file to write (default: experiments/results/bench.json)")  # fmt: skip


def run(args: argparse.Namespace) -> dict[str, Any]:
    for name, least in (("height", 1), ("repeats", 1), ("threads", 0)):
        if getattr(args, name) < least:
            raise InputError(f"got --{name} {getattr(args, name)}, expected at least {least}")
    sizes = [parse_size(text) for text in args.sizes] + [(args.height, width) for width in args.widths]
    cases = plan(args.presets, args.operators, sizes, args.kernel)
    target = Path(args.output)
    if target.is_dir():
        raise InputError(f"cannot write '{target}': that is a folder; name a file, for example '{target}/bench.json'")
    make_folder(target.parent)
    limits = None if args.no_time else Limits(args.repeats, args.threads, args.timeout)
    rows = list(tqdm(bench(cases, limits, target), total=len(cases), unit="case", disable=True if args.json else None))
    say(args, f"{format_rows(rows)}\nwrote {target}")
    return {"output": str(target), "rows": rows}
