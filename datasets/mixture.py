"""Which sample comes when: several data sets, drawn in stated shares, each gone through anew in every epoch of its own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from datasets.base import StereoDataset
from stereo.types import InputError

BLOCK = 1024  # samples within which the shares are met, to one sample
# First words of the seeds of independent draws (datasets.loading has more): equal lists of numbers would be equal draws.
_CHOICE, _ORDER = 1, 2


class Pick(NamedTuple):
    """Sample ``item`` of data set number ``member``, in that data set's own ``epoch``."""

    member: int
    epoch: int
    item: int


class Mixture:
    """An endless, seeded sequence of picks from one or more data sets: ``pick(number)``, the same whoever asks and when.

    weights: shares of the samples, any positive numbers, equal by default. They are shares of what is drawn, not of what
    is there: a small data set of a large weight is gone through more often. Every block of BLOCK samples holds each share,
    rounded up or down. Within an epoch of its own, a data set gives each of its samples once, in an order drawn anew.
    Raises InputError for no data set, an empty one, another number of weights, a weight that is not positive, a negative seed.
    """

    def __init__(self, datasets: Sequence[StereoDataset], weights: Sequence[float] | None = None, seed: int = 0) -> None:
        weights = [1.0] * len(datasets) if weights is None else list(weights)
        if not datasets or len(weights) != len(datasets):
            raise InputError(f"got {len(datasets)} data sets and {len(weights)} weights, expected one weight for each")
        if not all(weight > 0 and math.isfinite(weight) for weight in weights):
            raise InputError(f"got the weights {weights}, expected finite numbers above 0; leave out a data set of no weight")
        if seed < 0:
            raise InputError(f"got seed {seed}, expected 0 or more")
        for dataset in datasets:
            if not len(dataset):
                raise InputError(f"a {type(dataset).__name__} of the mixture is empty; expected at least one sample in each")
        self.datasets, self.seed = tuple(datasets), seed
        self._bounds = tuple((np.cumsum(weights) / np.sum(weights))[:-1].tolist())
        self._before = [np.zeros(len(datasets), np.int64)]  # per block: how many picks of each data set come before it

    def pick(self, number: int) -> Pick:
        """The pick of sample ``number``, 0 or more."""
        block, place = divmod(number, BLOCK)
        while len(self._before) <= block:
            chosen = _choices(self.seed, len(self._before) - 1, self._bounds)
            self._before.append(self._before[-1] + np.bincount(chosen, minlength=len(self.datasets)))
        chosen = _choices(self.seed, block, self._bounds)
        member = int(chosen[place])
        turn = int(self._before[block][member] + np.count_nonzero(chosen[:place] == member))
        epoch, position = divmod(turn, len(self.datasets[member]))
        order = _order(self.seed, member, epoch, len(self.datasets[member]))
        return Pick(member, epoch, int(order[position]))


@lru_cache(maxsize=16)
def _choices(seed: int, block: int, bounds: tuple[float, ...]) -> np.ndarray:
    """The members of one block's samples. bounds: where the shares, laid end to end on 0 .. 1, meet.

    Evenly spaced points, shifted at random and then shuffled: each share is met to one sample, and on average exactly.
    """
    rng = np.random.default_rng((_CHOICE, seed, block))
    points = (rng.permutation(BLOCK) + rng.random()) / BLOCK
    return np.searchsorted(bounds, points, side="right")


@lru_cache(maxsize=16)
def _order(seed: int, member: int, epoch: int, count: int) -> np.ndarray:
    return np.random.default_rng((_ORDER, seed, member, epoch)).permutation(count)
