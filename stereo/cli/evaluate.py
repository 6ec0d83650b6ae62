"""``evaluate``: scores on a data set with ground truth, of a network, of SGBM, or of files that somebody else has computed."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any

from datasets.base import DATASETS, StereoDataset, open_dataset
from datasets.disparities import DisparityFolder
from datasets.reading import read_ahead
from stereo.checkpoint import available_device
from stereo.cli.shared import (
    add_device,
    add_memory,
    add_precision,
    add_sizes,
    add_weights,
    load_predictor,
    make_folder,
    page_target,
    say,
)
from stereo.engine.distributed import everyones, joined, rank, world_size
from stereo.engine.evaluate import ByName, OnImage, Predict, evaluate
from stereo.engine.protocols import PROTOCOLS, Protocol, open_protocol
from stereo.engine.result_files import format_regions, format_table, make_card, write_card, write_csv
from stereo.inference.sgbm import BASELINES, SgbmPredictor, search_range
from stereo.inference.stored import UNITS, StoredMap, find_stored, read_stored_map, write_stored_map
from stereo.metrics import REGIONS
from stereo.report.evaluation_page import EvaluationPage
from stereo.types import DisparityMap, InputError, Sample

LISTED = 10  # names of missing predictions on the screen; the card has them all
CUSTOM = ("above", "below", "crop", "region", "mean", "thresholds")  # flags that are settings of CustomProtocol


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_weights(parser)
    add_device(parser)
    add_precision(parser)
    add_memory(parser)
    add_sizes(parser, finer=False)
    parser.add_argument("--data", "--gt", required=True, metavar="NAME:PATH", help=f"NAME is one of {', '.join(DATASETS)}; "
                       "for example pairs:FOLDER, or generated:7:50 for 50 scenes of seed 7; with --pred also a folder of "
                       "disparity maps")  # fmt: skip
    parser.add_argument("--baseline", choices=list(BASELINES), help="score OpenCV's semi-global matching, MODE_HH or "
                        "MODE_SGBM_3WAY, on the same pixels")  # fmt: skip
    parser.add_argument("-o", "--output", help="folder for the per-image CSV and the result card (default: print only)")
    parser.add_argument("--pred", type=Path, metavar="DIR", help="score these files instead of a network: .pfm or .npy in px, "
                        "or 16-bit .png in px * 256, called like the images")  # fmt: skip
    parser.add_argument("--allow-missing", action="store_true", help="go on without the images that have no file in --pred")
    parser.add_argument("--html", metavar="FILE", help="one page: pictures of the worst images, histogram of errors, a table "
                        "that sorts; the baseline's goes beside it")  # fmt: skip
    parser.add_argument("--save-maps", action="store_true", help="keep every prediction below the folder of -o")
    parser.add_argument("--workers", type=int, default=1, help="processes that read ahead (default: %(default)s; 0: none)")
    rules = parser.add_argument_group("what is scored")
    rules.add_argument("--protocol", metavar="NAME", help=f"one of {', '.join(PROTOCOLS)}, custom, or a .toml file with the "
                       "settings below (default: every pixel with ground truth)")  # fmt: skip
    rules.add_argument("--above", type=float, metavar="PX", help="truth must be above this to count")
    rules.add_argument("--below", type=float, metavar="PX", help="truth must be below this to count")
    rules.add_argument("--crop", type=int, nargs=4, metavar=("TOP", "BOTTOM", "LEFT", "RIGHT"),
                       help="px at the borders that do not count")  # fmt: skip
    rules.add_argument("--region", choices=list(REGIONS), help="pixels that the quoted figures are of: all, those that both "
                       "cameras see (noc), occluded (occ), out of the other image (oof), edges, textureless")  # fmt: skip
    rules.add_argument("--mean", choices=["image", "pixel"],
                       help="quoted figures: the mean of the images' own values, or over all pixels at once")  # fmt: skip
    rules.add_argument("--thresholds", type=float, nargs="+", metavar="PX",
                       help="the x of bad-x, the share of pixels that are off by more than x px")  # fmt: skip


def run(args: argparse.Namespace) -> dict[str, Any]:
    if args.pred and args.weights:
        raise InputError("got --pred and --weights; expected one of them: files that are there, or a network that makes them")
    if args.save_maps and not args.output:
        raise InputError("--save-maps needs a folder; add -o DIR")
    if args.workers < 0:
        raise InputError(f"got {args.workers} workers, expected 0 or more")
    protocol = open_protocol(args.protocol, {key: getattr(args, key) for key in CUSTOM if getattr(args, key) is not None})
    samples = _open_truth(args)
    with joined(str(available_device(args.device))) as device:
        args.device = str(device)
        evaluation = _Evaluation(args, samples, protocol)
        if args.pred:
            evaluation.score_files()
        else:
            predictor, weights = load_predictor(args)
            facts = {"weights": weights, "precision": predictor.precision, "sizes": predictor.sizes}
            evaluation.score(weights["preset"], predictor.predict, facts)
        if args.baseline:
            mode = BASELINES[args.baseline]
            evaluation.score(args.baseline, ByName(lambda name: SgbmPredictor(search_range(name), mode).predict))
        args.json &= rank() == 0  # one object for all processes
    return evaluation.cards


def _open_truth(args: argparse.Namespace) -> StereoDataset:
    """The data set, or with --pred a plain folder of disparity maps."""
    if args.pred and args.data.partition(":")[0] not in DATASETS and Path(args.data).is_dir():
        return DisparityFolder(args.data)
    return open_dataset(args.data)


class _Evaluation:
    """What all methods of one call share. ``cards``: the result card of each, by its title."""

    def __init__(self, args: argparse.Namespace, samples: StereoDataset, protocol: Protocol) -> None:
        self.args, self.samples, self.protocol = args, samples, protocol
        self.folder = make_folder(Path(args.output)) if args.output else None
        self.page = page_target(args.html) if args.html else None
        self.cards: dict[str, Any] = {}

    def score(self, title: str, predict: Predict | ByName, facts: dict[str, Any] | None = None, **options: Any) -> None:
        """Evaluate, print, and write; ``facts`` go into the card, ``options`` to evaluate."""
        first = rank() == 0
        page = EvaluationPage(self.protocol) if self.page else None
        watchers = [*([page.add] if page else []), *self._watchers(title)]

        def on_image(*image: Any) -> None:
            for watch in watchers:
                watch(*image)

        report = evaluate(
            predict,
            self.samples,
            progress=first and not self.args.json,
            protocol=self.protocol,
            read=partial(read_ahead, workers=self.args.workers),
            sharded=world_size() > 1,
            on_image=on_image,
            **options,
        )
        pages = everyones(page)
        if not first:
            return
        meta = {"method": title, "weights": None, "precision": None, "data": self.args.data} | (facts or {})
        say(self.args, f"\n{title} on {self.args.data}\n{format_table(report)}\n\n{format_regions(report)}")
        if self.folder:
            write_csv(report, self.folder / f"{title}.csv")
            write_card(report, self.folder / f"{title}.card.json", meta)
            say(self.args, f"wrote {self.folder / title}.csv and {self.folder / title}.card.json")
        self.cards[title] = make_card(report, meta)
        if page and self.page:
            for other in filter(None, pages[1:]):
                page.absorb(other)
            path = self.page.with_stem(f"{self.page.stem}.{title}") if len(self.cards) > 1 else self.page
            page.write(path, report, self.cards[title])
            say(self.args, f"wrote {path}")

    def score_files(self) -> None:
        """Score the files of --pred. Raises InputError where some are missing, unless that is allowed."""
        chosen = self.protocol.chosen(len(self.samples))
        names = [self.samples.names[index] for index in chosen]
        files, missing = find_stored(self.args.pred, names)
        if missing:
            listed = ", ".join(missing[:LISTED]) + (", ..." if len(missing) > LISTED else "")
            found = f"{len(missing)} of {len(names)} images have no prediction in '{self.args.pred}': {listed}"
            if not self.args.allow_missing:
                raise InputError(f"{found}; add them, or --allow-missing to score the others")
            if rank() == 0:
                say(self.args, found)
        if rank() == 0:
            say(self.args, f"{len(files)} files such as '{next(iter(files.values()))}'; {UNITS}")
        present = [index for index in chosen if self.samples.names[index] in files]
        predict = ByName(lambda name: lambda left, right: read_stored_map(files[name]))
        facts = {"predictions": str(self.args.pred), "prediction_units": UNITS, "missing_predictions": missing}
        self.score(self.args.pred.resolve().name, predict, facts, indices=present)

    def _watchers(self, title: str) -> list[OnImage]:
        """What is done with each image of a method, beside scoring it; by the process that has scored it."""
        if not self.args.save_maps:
            return []
        assert self.folder is not None  # run has refused it otherwise
        folder = self.folder / "maps" / title

        def keep(index: int, sample: Sample, result: DisparityMap | StoredMap, row: dict[str, Any]) -> None:
            write_stored_map(folder, sample.name, result)

        return [keep]
