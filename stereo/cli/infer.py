"""``infer``: maps of pairs, wherever they come from: images, folders, stereo pictures, videos, cameras."""

from __future__ import annotations

import argparse
import time
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from stereo.cli.calibration_options import DepthWriter, add_calibration, add_depth, depth_writer
from stereo.cli.shared import (
    add_device,
    add_memory,
    add_precision,
    add_sizes,
    add_weights,
    load_predictor,
    output_folder,
    say,
    uninterrupted,
)
from stereo.cli.source_options import add_film, add_source, check_film, film_style, open_film, saved_kinds, source_of
from stereo.inference.film import DisparityFilm
from stereo.inference.outputs import write_maps, write_sidecar
from stereo.inference.passes import check_sizes
from stereo.inference.predictor import StereoPredictor
from stereo.inference.smoothing import TemporalFilter
from stereo.inference.stream import UsableFrames
from stereo.report.page import write_page
from stereo.report.viewer_page import viewer_page
from stereo.sources.frame import Source, StereoFrame
from stereo.sources.prefetch import Prefetch
from stereo.types import DisparityMap, InputError, StoppedError
from stereo.version import __version__

INTERRUPTED = 130  # the exit code of a shell for Ctrl-C
# Share of pixels with a confidence above 0.5: eleven real pairs have at least 0.51; with the views exchanged they have at most
# 0.18, with their rows 6 px apart at most 0.35 (weights small-f1ac5df6).
LEAST_SURE = 0.4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_weights(parser)
    add_device(parser)
    add_precision(parser)
    add_memory(parser)
    add_sizes(parser, finer=True)
    add_source(parser)
    add_film(parser)
    parser.add_argument("-o", "--output", default="out", help="folder for the results (default: out)")
    parser.add_argument("--both", action="store_true", help="also write the maps of the right view, and with a "
                        "calibration its depth, as STEM.right.*")
    parser.add_argument("--html", action="store_true", help="also write STEM.html, a page to look at: maps, the "
                        "numbers under the cursor, a cloud to turn; opens without an internet connection")  # fmt: skip
    add_calibration(parser)
    add_depth(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    check_film(args)
    source = source_of(args)
    if args.html and source.moving:
        raise InputError(f"got --html and the film {source.name}; expected pairs of images, of which a page can show one")
    with Prefetch(source) as incoming:
        one_size = source.moving or film_style(args, source) is not None
        frames = UsableFrames(incoming, source, one_size, args.max_frames)
        height, width = frames.first().left.shape[:2]
        if source.moving and args.sizes is None:
            args.sizes = [1.0]  # of a film the next frame is waited for
        check_sizes(args.sizes, height, width)  # refused before the network is loaded
        depth = depth_writer(args, (width, height))
        frames.require(partial(check_options, args, depth))
        predictor, weights = load_predictor(args)
        with output_folder(Path(args.output)) as folder:
            film = open_film(args, source, folder)
            job = Inference(args, source, predictor, weights, folder, depth, film)
            stopped = job.work(frames)
        notes = [*source.notes, *incoming.notes()]
    return job.report(frames, notes, stopped)


def check_options(args: argparse.Namespace, depth: DepthWriter | None, height: int, width: int) -> None:
    """Raise InputError when --sizes or the calibration do not fit images of such sides."""
    check_sizes(args.sizes, height, width)
    if depth is not None:
        depth.calibration((width, height))


class Inference:
    """One call of ``infer`` under way: what it works with, and what it has done so far."""

    def __init__(
        self,
        args: argparse.Namespace,
        source: Source,
        predictor: StereoPredictor,
        weights: dict[str, Any],
        folder: Path,
        depth: DepthWriter | None,
        film: DisparityFilm | None,
    ):
        self.args, self.source, self.predictor, self.folder = args, source, predictor, folder
        self.depth, self.film = depth, film
        self.kinds = saved_kinds(args, "none" if source.moving else "all")
        self.filters = [TemporalFilter(args.smooth) for _ in range(1 + args.both)]
        self.about = {
            "weights": weights,
            "precision": predictor.precision,
            "device": str(predictor.device),
            "version": __version__,
        }
        self.pairs: list[dict[str, Any]] = []  # of images; of a film, which may be long, only these:
        self.extremes: list[float] = []
        self.size, self.taken, self.seconds = (0, 0), 0, 0.0

    def work(self, frames: UsableFrames) -> KeyboardInterrupt | StoppedError | None:
        """Take the frames until they end; returns what ended them early. The film is complete in any case."""
        start = time.perf_counter()
        bar = tqdm(total=frames.expected, unit="frame", disable=self.source.length == 1, mininterval=0.5)
        try:
            with logging_redirect_tqdm():  # lines of the log stand above the bar
                for frame in frames:
                    going_on = self.take(frame)
                    self.taken += 1
                    bar.update()
                    if not going_on:
                        break
        except (KeyboardInterrupt, StoppedError) as error:
            return error
        finally:
            bar.close()
            self.seconds = time.perf_counter() - start
            if self.film is not None:
                with uninterrupted():  # a second Ctrl-C must not cost the film
                    self.film.close()
        return None

    def tell(self, text: str) -> None:
        """Print for people, above the bar."""
        with tqdm.external_write_mode():
            say(self.args, text)

    def take(self, frame: StereoFrame) -> bool:
        """Match one frame and write what is wanted of it. False when the user has closed the window."""
        start = time.perf_counter()
        images = frame.left, frame.right
        views = list(self.predictor.predict_both(*images)) if self.args.both else [self.predictor.predict(*images)]
        views = [smooth(image, view) for smooth, image, view in zip(self.filters, images, views, strict=False)]
        facts = frame_facts(frame, views[0]) | self.about | {"matched": str(self.predictor.plan)}
        facts["sizes"] = self.predictor.passes
        facts["seconds"] = time.perf_counter() - start
        self.size = facts["width"], facts["height"]
        bounds = [*self.extremes, facts["disparity_min_px"], facts["disparity_max_px"]]
        self.extremes = [min(bounds), max(bounds)]
        files = self.write(frame, views, facts)
        if not self.source.moving:
            self.pairs.append(facts | {"files": [str(file) for file in files]})
            self.tell(f"{frame.name}: {facts['width']}x{facts['height']} px in {facts['seconds']:.2f} s, disparity "
                      f"{facts['disparity_min_px']:.1f} to {facts['disparity_max_px']:.1f} px "
                      f"-> {self.folder / frame.stem}.*")  # fmt: skip
        if facts["confident_share"] < LEAST_SURE and not (self.source.moving and self.taken):
            self.tell(f"warning: sure of {facts['confident_share']:.0%} of the pixels of {frame.name} only; are left and right "
                      "exchanged, or the pair not rectified? 'check LEFT RIGHT' tells")  # fmt: skip
        return self.film is None or self.film.add(frame, views[0].disp)

    def write(self, frame: StereoFrame, views: list[DisparityMap], facts: dict[str, Any]) -> list[Path]:
        """The files of one frame: maps, depth, and what they mean; of a film only where it is saved frame by frame."""
        colour_range = tuple(self.args.range) if self.args.range else None
        files = write_maps(self.folder, frame.stem, views[0], self.kinds, colour_range)
        if self.args.both:
            files += write_maps(self.folder, f"{frame.stem}.right", views[1], self.kinds, colour_range)
        if self.depth:
            written = self.depth.write_map(self.folder, frame.stem, frame.left, views[0])
            files += written.files
            facts["depth"] = written.facts
            if not self.source.moving or not self.taken:  # of a film the first frame speaks for all
                self.tell("\n".join(written.lines))
            if self.args.both:
                written = self.depth.write_map(self.folder, f"{frame.stem}.right", frame.right, views[1], right=True)
                files += written.files
                facts["depth_right"] = written.facts
        if files or not self.source.moving:
            files.append(write_sidecar(self.folder, frame.stem, facts))
        if self.args.html:
            files.append(self.folder / f"{frame.stem}.html")
            calibration = self.depth.calibration(self.size) if self.depth else None
            write_page(files[-1], viewer_page(Path(frame.origin[0]).name, frame.left, views[0], facts, calibration))
        return files

    def report(self, frames: UsableFrames, notes: list[str], stopped: BaseException | None) -> dict[str, Any]:
        """Say what came of it; write the sidecar of a sequence. Raises what ended it early; a Ctrl-C only if it came first."""
        if stopped is not None and not self.taken:
            raise stopped
        result: dict[str, Any] = {} if self.source.moving else {"pairs": self.pairs}
        if self.film is not None or self.source.moving:
            facts = self.sequence_facts(frames, notes)
            sidecar = write_sidecar(self.folder, self.source.stem, facts)
            result["sequence"] = facts | {"files": [file for file in (facts.get("video"), str(sidecar)) if file]}
            say(self.args, sequence_line(facts, self.folder))
            if self.film is not None:
                say(self.args, self.film.range_line())
        for line in filter(None, [frames.summary(), *notes]):
            say(self.args, line)
        holds = f"{self.taken} frame(s) are done, in {self.folder}"
        if self.film is not None and self.film.path is not None:
            holds = f"{self.film.path} holds {self.film.frames} frames"
        if isinstance(stopped, StoppedError):
            raise StoppedError(f"{stopped}; {holds}")
        if stopped is not None:
            say(self.args, f"interrupted: {holds}")
            result["exit_code"] = INTERRUPTED
        return result

    def sequence_facts(self, frames: UsableFrames, notes: list[str]) -> dict[str, Any]:
        """What the sidecar of a sequence says, beside the units: one entry for all frames."""
        moving = self.source.moving
        return {
            "source": self.source.name,
            "width": self.size[0],
            "height": self.size[1],
            "fps": self.source.fps,
            "frames": self.taken,
            "skipped": frames.dropped,
            "skipped_reasons": frames.reasons,
            "notes": notes,
            "disparity_min_px": self.extremes[0] if self.extremes else None,
            "disparity_max_px": self.extremes[1] if self.extremes else None,
            "sizes": self.predictor.passes,
            "smooth": self.args.smooth,
            "cuts": self.filters[0].cuts,
            "saved_of_each_frame": self.kinds if moving else [],
            "seconds": self.seconds,
            **(self.film.facts() if self.film is not None else {}),
            **self.about,
        }


def frame_facts(frame: StereoFrame, result: DisparityMap) -> dict[str, Any]:
    """What is known of a frame and its map, for the sidecar."""
    disp = result.disp
    return {
        "left": frame.origin[0],
        "right": frame.origin[1],
        "frame": frame.index,
        "time": frame.time,
        "width": disp.shape[1],
        "height": disp.shape[0],
        "disparity_min_px": float(disp.min()),
        "disparity_max_px": float(disp.max()),
        "occluded_share": float((result.occlusion > 0.5).mean()),
        "confident_share": float((result.confidence > 0.5).mean()),
    }


def sequence_line(facts: dict[str, Any], folder: Path) -> str:
    """The line of a whole sequence, for people."""
    rate = facts["frames"] / facts["seconds"] if facts["seconds"] else 0.0
    line = f"{facts['source']}: {facts['frames']} frames of {facts['width']}x{facts['height']} px in {facts['seconds']:.1f} s"
    return f"{line} ({rate:.1f} frames/s) -> {facts.get('video') or folder}"
