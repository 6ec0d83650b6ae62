"""Which sample comes when: shares, epochs, and that nobody's asking changes it."""

from __future__ import annotations

import pickle
from collections import Counter

import numpy as np
import pytest

from datasets.mixture import BLOCK, Mixture, Pick
from stereo.types import InputError


def mixture(*lengths: int, weights=None, seed: int = 0) -> Mixture:
    """Of ranges, which have a length; a mixture never opens a sample."""
    return Mixture([range(length) for length in lengths], weights, seed)


def test_one_data_set_gives_each_sample_once_per_epoch_in_another_order():
    one = mixture(37)
    picks = [one.pick(number) for number in range(37 * 40)]
    orders = set()
    for epoch in range(40):
        part = picks[37 * epoch : 37 * (epoch + 1)]
        assert {(pick.member, pick.epoch) for pick in part} == {(0, epoch)}
        assert sorted(pick.item for pick in part) == list(range(37))
        orders.add(tuple(pick.item for pick in part))
    assert len(orders) == 40


def test_every_member_goes_through_its_own_epochs():
    mixed = mixture(5, 300, 11, weights=(1, 5, 2))
    turns: dict[int, list[Pick]] = {0: [], 1: [], 2: []}
    for number in range(3 * BLOCK):
        pick = mixed.pick(number)
        turns[pick.member].append(pick)
    for member, length in enumerate((5, 300, 11)):
        for start in range(0, len(turns[member]) - length, length):
            part = turns[member][start : start + length]
            assert {pick.epoch for pick in part} == {start // length}
            assert sorted(pick.item for pick in part) == list(range(length))


@pytest.mark.parametrize("weights", [(1, 1), (0.7, 0.3), (5, 1, 1), (1, 1e-4), (1, 3, 1e-3, 7)])
def test_weights_are_shares_in_every_block_and_in_the_long_run(weights):
    mixed = mixture(*range(100, 100 + len(weights)), weights=weights, seed=3)
    shares = np.array(weights) / sum(weights)
    total = np.zeros(len(weights))
    for block in range(300):
        mixed.pick(block * BLOCK)
        if block:
            counts = mixed._before[block] - mixed._before[block - 1]
            assert (np.abs(counts - shares * BLOCK) < 1 + 1e-6).all()
            total += counts
    # On average exact, also for a share of less than one sample per block: three standard deviations of a coin toss each.
    assert (np.abs(total / 299 - shares * BLOCK) < 3 * 0.5 / np.sqrt(299) + 1e-6).all()


def test_a_block_is_shuffled():
    mixed = mixture(3, 3, seed=1)
    members = [mixed.pick(number).member for number in range(BLOCK)]
    changes = Counter(a == b for a, b in zip(members[1:], members[:-1], strict=True))
    assert 0.4 < changes[True] / BLOCK < 0.6


def test_the_order_of_asking_and_a_copy_do_not_matter():
    straight, jumping = mixture(10, 20, seed=5), mixture(10, 20, seed=5)
    numbers = [5 * BLOCK + 3, 0, 2 * BLOCK, 7, 5 * BLOCK + 2]
    jumped = {number: jumping.pick(number) for number in numbers}
    copy = pickle.loads(pickle.dumps(jumping))
    for number in range(max(numbers) + 1):
        pick = straight.pick(number)
        assert jumped.get(number, pick) == pick == copy.pick(number)


def test_the_seed_matters():
    first, second = ([mixture(50, seed=seed).pick(n).item for n in range(50)] for seed in (0, 1))
    assert first != second


@pytest.mark.parametrize(
    ("lengths", "weights", "message"),
    [
        ((), None, "0 data sets"),
        ((3, 4), (1,), "2 data sets and 1 weights"),
        ((3, 4), (1, 0), "finite numbers above 0"),
        ((3, 4), (1, float("nan")), "finite numbers above 0"),
        ((3, 0), None, "a range of the mixture is empty"),
    ],
)
def test_refuses(lengths, weights, message):
    with pytest.raises(InputError, match=message):
        mixture(*lengths, weights=weights)
    with pytest.raises(InputError, match="seed -1"):
        mixture(3, seed=-1)
