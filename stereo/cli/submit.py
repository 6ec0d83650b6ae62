"""``submit``: the files that a benchmark wants uploaded."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datasets.base import DATASETS, StereoDataset
from stereo.cli.shared import add_device, add_memory, add_precision, add_sizes, add_weights, load_predictor, positive, say
from stereo.engine.evaluate import ByName, Predict
from stereo.engine.submission import BENCHMARKS, Benchmark, check_method, check_names, write_submission
from stereo.inference.stored import find_stored, read_stored_map
from stereo.types import InputError, Sample


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_weights(parser)
    add_device(parser)
    add_precision(parser)
    add_memory(parser)
    add_sizes(parser, finer=False)
    parser.add_argument("benchmark", choices=list(BENCHMARKS),
                        help="whose files; middlebury is its training and test images together")  # fmt: skip
    parser.add_argument("path", help="the folder of the data set, as for evaluate --data NAME:PATH")
    parser.add_argument("-o", "--output", type=Path, required=True, help="a new folder for the files and the archive")
    parser.add_argument("--method", default="stereo", help="name of the method, part of Middlebury's file names "
                        "(default: %(default)s)")  # fmt: skip
    parser.add_argument("--size", choices=["F", "H", "Q"], help="of Middlebury's images (default: the largest that is there)")
    parser.add_argument("--pred", type=Path, metavar="DIR", help="submit these files instead of predicting, as for evaluate")
    parser.add_argument("--seconds", type=positive, help="time that one image took, for files of --pred where the benchmark "
                        "asks for it")  # fmt: skip


def run(args: argparse.Namespace) -> dict[str, Any]:
    benchmark = BENCHMARKS[args.benchmark]
    check_method(args.method)
    if args.size and benchmark.data != "middlebury":
        raise InputError(f"--size is Middlebury's, and {benchmark.title} has one size; leave it out")
    splits = _open_splits(benchmark, args.path, args.size)
    names = [name for data in splits for name in data.names]
    predict, seconds = _predictor(args, benchmark, names)
    samples = (sample for data in splits for sample in _in_order(data))
    archive = write_submission(benchmark, samples, predict, args.output, args.method, seconds, not args.json)
    say(args, f"wrote {len(names)} images for {benchmark.title} to {args.output}; upload {archive}")
    return {"benchmark": args.benchmark, "images": len(names), "folder": str(args.output), "archive": str(archive)}


def _open_splits(benchmark: Benchmark, path: str, size: str | None) -> list[StereoDataset]:
    """The data set's splits. Raises InputError unless each of them is complete and all are of one size."""
    options = {} if size is None else {"size": size}
    splits = []
    for split, _ in benchmark.splits:
        splits.append(DATASETS[benchmark.data](path, split=split, **options))
        check_names(benchmark, split, splits[-1].names)
    if benchmark.data == "middlebury":
        sizes = {name.split("/")[1][-1] for data in splits for name in data.names}
        if len(sizes) > 1:
            raise InputError(f"the splits are there in the sizes {', '.join(sorted(sizes))}; name one with --size")
    return splits


def _in_order(data: StereoDataset) -> Iterator[Sample]:
    return (data[index] for index in range(len(data)))


def _predictor(args: argparse.Namespace, benchmark: Benchmark, names: list[str]) -> tuple[Predict | ByName, float | None]:
    """What predicts, and the seconds of an image where that only reads files. Raises InputError for flags that do not fit."""
    if not args.pred:
        if args.seconds:
            raise InputError("--seconds is for files of --pred; a network's time is measured")
        return load_predictor(args)[0].predict, None
    if args.weights:
        raise InputError("got --pred and --weights; expected one of them: files that are there, or a network that makes them")
    if benchmark.runtime[0] and not args.seconds:
        raise InputError(f"{benchmark.title} wants the time of an image; add --seconds S")
    files, missing = find_stored(args.pred, names)
    if missing:
        raise InputError(f"{len(missing)} of {len(names)} images have no prediction in '{args.pred}', for example {missing[0]}")
    return ByName(lambda name: lambda left, right: read_stored_map(files[name])), args.seconds
