"""Score anything that turns a pair into a disparity map: a row of figures for each image, and their summary.

The samples are handed in; this file knows neither data sets nor networks. Each image is predicted and scored by itself, so no
figure depends on a batch, on who reads ahead, or on which process scored it.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from tqdm import tqdm

from stereo.engine.distributed import everyones, rank, world_size
from stereo.engine.protocols import DEFAULT
from stereo.engine.protocols import Protocol as ScoringProtocol
from stereo.engine.scoring import score_image
from stereo.inference.stored import StoredMap
from stereo.metrics import aggregate
from stereo.types import DisparityMap, InputError, Sample, StoppedError

Predict = Callable[[np.ndarray, np.ndarray], DisparityMap | StoredMap]
# What is done with each image once it is scored: its number in the data set, the sample, what was predicted, its row.
OnImage = Callable[[int, Sample, DisparityMap | StoredMap, dict[str, Any]], None]


class Samples(Protocol):
    """What is scored: a list of Samples, or a data set that reads them one at a time."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Sample: ...


# Hands over the samples of the given indices in their order.
Read = Callable[[Any, Sequence[int]], Iterator[Sample]]


def one_by_one(samples: Samples, indices: Sequence[int]) -> Iterator[Sample]:
    """Each sample when it is asked for."""
    return (samples[index] for index in indices)


@dataclass(frozen=True)
class ByName:
    """A predictor that has to know which image it is given: ``choose`` makes one for the image of that name."""

    choose: Callable[[str], Predict]


@dataclass(frozen=True)
class Report:
    """The result of ``evaluate``.

    rows:        one dict per image: name, height, width (px), seconds (of the predict call), occlusion_known (bool), sha256
                 (of images and truth), count_truth and what the protocol excludes of it (count_excluded_crop,
                 count_excluded_range), the errors of metrics.disparity_errors per region (epe_all, bad3_noc, count_occ, ...)
                 and per bin of the true disparity (epe_d0to16, bad3_d192up, ...), metrics.confidence_scores (ause, risk_50,
                 ...) and metrics.occlusion_scores (iou_occluded, f1, ...), whose count is called count_known. NaN where a
                 figure has no pixels. Scored files add what was filled in them (count_pred_unknown, count_pred_negative).
    summary:     metrics.aggregate of the rows, and images_without_occlusion, where noc means all.
    data_sha256: of the rows' sha256, in order: equal hashes mean that two reports scored the same images and truth.
    protocol:    what was scored, and which figures are quoted.
    available:   images in the data set, of which the protocol may have drawn some.
    """

    rows: tuple[dict[str, Any], ...]
    summary: dict[str, Any]
    data_sha256: str
    protocol: ScoringProtocol
    available: int


def evaluate(
    predict: Predict | ByName,
    samples: Samples,
    progress: bool = True,
    protocol: ScoringProtocol = DEFAULT,
    read: Read = one_by_one,
    sharded: bool = False,
    on_image: OnImage | None = None,
    indices: Sequence[int] | None = None,
) -> Report:
    """Predict and score every sample that the protocol chooses, one at a time; only the predict call is timed.

    predict:  takes left and right (H, W, 3) uint8 RGB, returns a DisparityMap of their size, or a StoredMap.
    progress: show a bar on stderr when that is a terminal: of this process's share.
    read:     how samples are read, for example datasets.reading.read_ahead with its workers. Two are alive at once, the one
              that is scored and the next; three while a sample is read, as the one before is let go of after that.
    sharded:  share the images out among the processes of torch.distributed's group; every process must call this, and each
              returns the whole report.
    on_image: called after each image (``OnImage``), by the process that scored it.
    indices:  the images to score, ascending, instead of all that the protocol chooses.
    Raises InputError for a sample that cannot be read or has no ground truth, a prediction of another size or with values that
    are not finite, and for no sample at all; StoppedError for a reader that died. Nothing is ever left out silently.
    """
    if len(samples) == 0:
        raise InputError("the data set is empty; expected at least one pair with ground truth")
    chosen = protocol.chosen(len(samples)) if indices is None else list(indices)

    def score(mine: Sequence[int]) -> dict[int, dict[str, Any]]:
        rows = {}
        hidden = None if progress else True
        predicted = _predicted(predict, read(samples, mine))
        bar = tqdm(predicted, desc="evaluate", total=len(mine), unit="pair", disable=hidden)
        for index, (sample, result, seconds) in zip(mine, bar, strict=True):
            with _named(sample):
                rows[index] = score_image(sample, result, seconds, protocol)
            if on_image:
                on_image(index, sample, result, rows[index])
        return rows

    found = _shared_out(score, chosen) if sharded else score(chosen)
    rows = tuple(found[index] for index in chosen)
    summary = aggregate(rows, [protocol.weight(row["name"]) for row in rows] if protocol.weights else None)
    summary["images_without_occlusion"] = sum(not row["occlusion_known"] for row in rows)
    data_sha256 = hashlib.sha256("\n".join(row["sha256"] for row in rows).encode()).hexdigest()
    return Report(rows, summary, data_sha256, protocol, len(samples))


def _predicted(
    predict: Predict | ByName, samples: Iterator[Sample]
) -> Iterator[tuple[Sample, DisparityMap | StoredMap, float]]:
    """Each sample, what was predicted, and the seconds that took. Raises InputError that names the image.

    The next sample is taken before this one is scored. What is raised in its place (InputError, StoppedError) waits for that.
    """
    coming = next(samples, None)
    while coming is not None:
        sample = coming
        with _named(sample):
            run = predict.choose(sample.name) if isinstance(predict, ByName) else predict
            start = time.perf_counter()
            result = run(sample.left, sample.right)
            seconds = time.perf_counter() - start
        # Whoever reads ahead starts on another sample when one is taken: here, to do that beside the scoring on one core and
        # not beside the network, which has all of them.
        broken: InputError | StoppedError | None = None
        try:
            coming = next(samples, None)
        except (InputError, StoppedError) as error:
            broken = error
        yield sample, result, seconds
        if broken:  # only now, when what was predicted is scored
            raise broken


@contextmanager
def _named(sample: Sample) -> Iterator[None]:
    """Have an InputError name the image."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{sample.name}: {error}") from error


def _shared_out(
    score: Callable[[Sequence[int]], dict[int, dict[str, Any]]], chosen: Sequence[int]
) -> dict[int, dict[str, Any]]:
    """The rows of all processes. A process that cannot go on says so to the others, which would wait for it for ever."""
    mine: dict[int, dict[str, Any]] | InputError
    try:
        mine = score(chosen[rank() :: world_size()])
    except InputError as error:
        mine = error
    found: dict[int, dict[str, Any]] = {}
    for part in everyones(mine):
        if isinstance(part, InputError):
            raise part
        found |= part
    return found
