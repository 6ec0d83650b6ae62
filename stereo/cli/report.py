"""``report``: the page of a training run, also of one that still runs."""

from __future__ import annotations

import argparse
from typing import Any

from stereo.cli.shared import page_target, say
from stereo.report.run_log import RECIPES, read_run
from stereo.report.run_page import write_run_page
from stereo.types import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_dir", metavar="RUN_DIR", help="the folder that train wrote, for example runs/small")
    parser.add_argument("-o", "--output", metavar="FILE", help="the page (default: RUN_DIR/report.html)")


def run(args: argparse.Namespace) -> dict[str, Any]:
    if read_run(args.run_dir).is_empty:
        raise InputError(f"'{args.run_dir}' holds no run: none of log.jsonl, {', '.join(RECIPES)}, versions.json, panels/*.png")
    page = write_run_page(args.run_dir, page_target(args.output) if args.output else None)
    say(args, f"wrote {page}")
    return {"output": str(page)}
