"""Data sets -> a stream of training batches that is the same for any number of workers and goes on from any step."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from datasets.frames import derived_masks
from datasets.mixture import Mixture, Pick
from datasets.transforms import Augmentation, Size, augment
from datasets.truth import wxh
from datasets.workers import Numbered, ordered_items
from stereo.geometry import left_right_check
from stereo.types import Batch, InputError, Sample

log = logging.getLogger(__name__)

# First words of the seeds of independent draws; datasets.mixture has 1 and 2.
_AUGMENT, _REPLACE = 3, 4


def collate(samples: Sequence[Sample]) -> Batch:
    """Stack samples of one size; images become float32 in [0, 1]. Both views' masks are needed.

    Raises InputError when a sample lacks ground truth or an occlusion mask.
    """
    for sample in samples:
        for name in ("disp", "valid", "occluded", "occluded_right"):
            if getattr(sample, name) is None:
                raise InputError(f"sample '{sample.name}' has no {name}; training needs disparity and both occlusion masks")

    def stack(name: str) -> torch.Tensor:
        return torch.from_numpy(np.stack([getattr(sample, name) for sample in samples]))

    def image(name: str) -> torch.Tensor:
        return stack(name).permute(0, 3, 1, 2).float() / 255

    return Batch(
        left=image("left"),
        right=image("right"),
        disp=stack("disp"),
        valid=stack("valid"),
        occluded=stack("occluded"),
        occluded_right=stack("occluded_right"),
        names=tuple(sample.name for sample in samples),
    )


def crop_of(number: int, crops: Sequence[Size], seed: int) -> Size:
    """The size (H, W) px of batch ``number``: one of ``crops``, drawn anew for each batch."""
    return crops[int(np.random.default_rng((seed, number, 5)).integers(len(crops)))]


def stream_batches(
    mixture: Mixture,
    augmentation: Augmentation,
    crops: Sequence[Size],
    batch_size: int,
    first: int,
    last: int,
    workers: int = 0,
    corrupt_share: float = 0.01,
    stride: int = 1,
) -> Iterator[Batch]:
    """Batches first .. last-1 of an endless stream, in order, augmented and cut to one of ``crops`` (H, W) px each.

    With a ``stride`` only every so many of them, those of range(first, last, stride): one process's share.

    Batch i holds the picks i * batch_size .. of the mixture. A sample is a pure function of (the mixture's seed, data set,
    epoch, index): neither ``workers`` nor ``first`` changes a bit of it.

    A sample that cannot be read (its data set raises InputError) is named in the log, once, and another one of the same data
    set, which the seed determines, takes its place. When more than ``corrupt_share`` of a data set (but at least one sample,
    unless the share is 0) has turned out unreadable, the stream ends with an InputError that names the first of them.

    What a sample lacks of what training needs is made up by ``completed``; the log says so once per data set.
    Raises InputError for a sample without ground truth, and at once for impossible arguments.
    """
    if batch_size < 1 or workers < 0 or not 0 <= first <= last:
        given = f"batch_size {batch_size}, workers {workers}, batches {first} .. {last}"
        raise InputError(f"got {given}; expected at least 1 sample, no fewer than 0 workers and 0 <= first <= last")
    if not crops or not all(len(size) == 2 and min(size) >= 1 for size in crops):
        raise InputError(f"got the crops {list(crops)}, expected at least one (height, width) in px")
    if not 0 <= corrupt_share <= 1:
        raise InputError(f"got a corrupt share of {corrupt_share}, expected 0 to 1")
    numbers = range(first, last, stride)
    numbered = _NumberedBatches(mixture, augmentation, tuple(crops), batch_size, numbers, corrupt_share)
    return _told(numbered, ordered_items(numbered, workers))


def completed(sample: Sample) -> tuple[Sample, str]:
    """The sample with both occlusion masks, as Batch needs them, and what was made up, in words ("" for nothing).

    With the disparities of both views, a missing mask comes from the left-right check. With the left one alone, the left mask
    says what that one knows: a match out of frame, or where a nearer left pixel lands too. Then nothing is known of the right
    view, and ``occluded_right`` is False everywhere: the loss learns from True only.
    Raises InputError without ground truth.
    """
    if sample.disp is None or sample.valid is None:
        raise InputError(f"sample '{sample.name}' has no ground truth; training needs its disparity: leave its data set out")
    if sample.occluded is not None and sample.occluded_right is not None:
        return sample, ""
    masks: dict[str, Any]
    if sample.disp_right is not None and sample.valid_right is not None:
        masks = derived_masks(sample.disp, sample.disp_right, sample.valid, sample.valid_right)
        said = "occlusion masks come from the left-right check"
    else:
        masks = {"occluded_right": np.zeros(sample.disp.shape, bool)}
        said = "nothing is known of what is occluded in the right view"
        if sample.occluded is None:
            masks["occluded"] = _hidden_by_nearer(sample.disp, sample.valid)
            said = f"the left occlusion mask comes from the left disparity alone, {said}"
    given = {name: getattr(sample, name) for name in masks if getattr(sample, name) is not None}
    return replace(sample, **(masks | given)), said


def _hidden_by_nearer(disp: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """(H, W) bool: the left-right check against the right disparities that the left ones imply, the nearest surface in each."""
    width = disp.shape[1]
    columns = np.rint(np.arange(width, dtype=np.float32) - disp).astype(np.intp)
    rows, lefts = np.nonzero(valid & (columns >= 0))
    implied = np.full(disp.shape, -1, np.float32)
    np.maximum.at(implied, (rows, columns[rows, lefts]), disp[rows, lefts])
    return left_right_check(disp, implied, 1.0, valid, implied >= 0)


@dataclass
class _Found:
    """One batch and what the main process has to tell: it alone knows what it has told already."""

    batch: Batch | None = None
    unreadable: list[tuple[Pick, str]] = field(default_factory=list)  # with the reader's own words
    notes: list[tuple[int, str, str]] = field(default_factory=list)  # data set, sample's name, what was made up
    refusal: str = ""  # why there is no batch


class _NumberedBatches(Numbered):
    """Item i is batch ``numbers[i]`` as a _Found. Nothing is raised in a worker, which would wrap it in a traceback."""

    def __init__(
        self,
        mixture: Mixture,
        augmentation: Augmentation,
        crops: tuple[Size, ...],
        batch_size: int,
        numbers: range,
        corrupt_share: float,
    ) -> None:
        self.mixture, self.augmentation, self.crops = mixture, augmentation, crops
        self.batch_size, self.numbers = batch_size, numbers
        counts = [len(dataset) for dataset in mixture.datasets]
        self.limits = [max(1, int(corrupt_share * count)) if corrupt_share else 0 for count in counts]

    def __len__(self) -> int:
        return len(self.numbers)

    def described(self, item: int) -> str:
        picks = map(self.mixture.pick, self._samples(item))
        listed = ", ".join(f"{type(self.mixture.datasets[pick.member]).__name__} {pick.item}" for pick in picks)
        return f"batch {self.numbers[item]} (samples {listed})"

    def _samples(self, item: int) -> range:
        return range(self.numbers[item] * self.batch_size, (self.numbers[item] + 1) * self.batch_size)

    def __getitem__(self, item: int) -> _Found:
        if not 0 <= item < len(self):
            raise IndexError(item)
        size = crop_of(self.numbers[item], self.crops, self.mixture.seed)
        found = _Found()
        try:
            found.batch = collate([self._sample(number, size, found) for number in self._samples(item)])
        except InputError as error:
            found.refusal = str(error)
        return found

    def _sample(self, number: int, size: Size, found: _Found) -> Sample:
        pick = self.mixture.pick(number)
        raw = self._read(pick, found)
        sample, said = completed(raw)
        if said:
            found.notes.append((pick.member, raw.name, said))
        if any(have < wanted for have, wanted in zip(raw.left.shape[:2], size, strict=True)):
            said = f"images smaller than the crop of {wxh(size)} px are enlarged"
            found.notes.append((pick.member, f"{raw.name} ({wxh(raw.left.shape)})", said))
        rng = np.random.default_rng((_AUGMENT, self.mixture.seed, *pick))
        return augment(sample, rng, self.augmentation, size)

    def _read(self, pick: Pick, found: _Found) -> Sample:
        """The picked sample, or the first readable one of a shuffled rest. Raises InputError past the limit of failures."""
        dataset, failures = self.mixture.datasets[pick.member], 0
        for item in itertools.chain([pick.item], self._others(pick)):
            try:
                return dataset[item]
            except InputError as error:
                found.unreadable.append((pick._replace(item=item), str(error)))
                failures += 1
                if failures > self.limits[pick.member]:
                    break
        raise InputError(f"no sample of the {type(dataset).__name__} can be read, for example: {found.unreadable[-1][1]}")

    def _others(self, pick: Pick) -> Iterator[int]:
        rng = np.random.default_rng((_REPLACE, self.mixture.seed, *pick))
        order = rng.permutation(len(self.mixture.datasets[pick.member]))
        yield from (int(item) for item in order if item != pick.item)


def _told(numbered: _NumberedBatches, items: Iterator[_Found]) -> Iterator[Batch]:
    """The batches of the items, after telling the log what is new. Raises InputError for a batch that there is not."""
    unreadable: list[dict[int, str]] = [{} for _ in numbered.mixture.datasets]
    noted: set[tuple[int, str]] = set()
    for found in items:
        for pick, reason in found.unreadable:
            seen = unreadable[pick.member]
            if pick.item not in seen:
                seen[pick.item] = reason
                log.warning("skipped, and replaced by another sample: %s", reason)
            if len(seen) > numbered.limits[pick.member]:
                dataset = numbered.mixture.datasets[pick.member]
                listed = "; ".join(list(seen.values())[:3])
                given = f"{len(seen)} of {len(dataset)} samples of the {type(dataset).__name__} cannot be read"
                raise InputError(f"{given}, allowed are {numbered.limits[pick.member]}; repair them or allow more: {listed}")
        for member, name, said in found.notes:
            if (member, said) not in noted:
                noted.add((member, said))
                log.info("%s: %s", name, said)
        if found.batch is None:
            raise InputError(found.refusal)
        yield found.batch
