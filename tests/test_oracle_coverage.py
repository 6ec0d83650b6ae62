"""Every file of stored outputs is used by a test. Runs after all other tests (conftest.py), for it asks what they opened."""

from __future__ import annotations

import oracle_record
import pytest
import torch
from oracle_record import needs_oracles, whole_run

# Weights that the public code ran with, and the rounding noise that tolerances are made of.
NO_OUTPUTS = {"fp64_error.json", "sttr_default_weights.npz", "sttr_small_weights_nobackbone.npz"}


@needs_oracles
def test_every_data_file_was_compared_with(request: pytest.FixtureRequest):
    if not request.config.stash[whole_run]:
        pytest.skip("only a part of the oracle tests was selected")
    assert oracle_record.stored("*")
    assert oracle_record.unopened()[0] == []
    assert set(oracle_record.never_compared()) <= NO_OUTPUTS


@pytest.fixture
def record(monkeypatch: pytest.MonkeyPatch, tmp_path):
    """An empty record of an empty folder."""
    monkeypatch.setattr(oracle_record, "opened", {})
    monkeypatch.setattr(oracle_record, "FOLDER", tmp_path)
    return oracle_record


def test_a_file_that_nobody_opens_is_named(record):
    for name in ("a.npz", "b.json", "README.md", "c.npz"):
        (record.FOLDER / name).write_bytes(b"{}")
    record.open_json("b")
    record.compare("c.npz", "x", 1.0, 1.0)
    assert record.unopened() == (["a.npz"], ["README.md"])
    assert record.never_compared() == ["b.json"]
    assert record.table(whole=True)[-3:] == [
        "opened, but nothing was compared with it: b.json",
        "data files never opened: a.npz",
        "other files never opened: README.md",
    ]
    assert record.table(whole=False)[-1] == "1 data files not opened by the tests that were selected"


def test_the_table_shows_the_error_that_is_nearest_to_its_own_tolerance(record):
    record.compare("a.npz", "x", torch.tensor([1.0, 100.0]), torch.tensor([1.5, 108.0]), torch.tensor([1.0, 10.0]))
    record.compare("a.npz", "y", torch.tensor([torch.inf, 2.0]), torch.tensor([torch.inf, 2.125]), 0.25)
    record.compare("a.npz", "x", torch.zeros(3), torch.zeros(3))  # nothing allowed, nothing off
    record.compare("a.npz", "empty", torch.zeros(0), torch.zeros(0), 1.0)
    assert record.opened["a.npz"].tensors == {"x", "y", "empty"}
    assert record.opened["a.npz"].worst == (0.8, 8.0, 10.0, "x")
    assert record.table(whole=True)[1].split() == ["a.npz", "3", "8.00e+00", "1.00e+01", "0.800", "x"]


@pytest.mark.parametrize("ours", [[1.0, 2.5], [1.0, torch.nan], [1.0, torch.inf], [1.0], [[1.0, 2.0]]])
def test_a_difference_fails_and_stands_in_the_table(record, ours):
    with pytest.raises(AssertionError, match=r"a\.npz x"):
        record.compare("a.npz", "x", torch.tensor(ours), torch.tensor([1.0, 2.0]), 0.25)
    if len(ours) == 2:
        assert record.opened["a.npz"].worst.share > 1
