"""The stored outputs of the public code in ../shared/oracles: opening them, comparing with them, remembering both.

Every oracle test goes through here, so that a run can end with a table of its largest errors (tests/conftest.py) and no stored
file is forgotten (tests/test_oracle_coverage.py). ../shared/oracles/README.md says what each tensor is.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

FOLDER = Path(__file__).resolve().parents[2] / "shared" / "oracles"
needs_oracles = pytest.mark.skipif(
    not FOLDER.is_dir(), reason="the stored outputs of the public code, ../shared/oracles beside the checkout, are not here"
)


class Comparison(NamedTuple):
    share: float  # error / tolerance
    error: float
    tolerance: float
    tensor: str


NOTHING = Comparison(-1.0, 0.0, 0.0, "")


@dataclass
class Compared:
    """What was compared with one file: names of tensors, and the comparison that came closest to its tolerance."""

    tensors: set[str] = field(default_factory=set)
    worst: Comparison = NOTHING


opened: dict[str, Compared] = {}  # by the name of the file; for the run
whole_run = pytest.StashKey[bool]()  # of pytest's config: every oracle test was selected


def stored(pattern: str) -> list[str]:
    """The stems of the .npz files whose stem matches ``pattern``, sorted; none where the folder is absent."""
    return sorted(path.stem for path in FOLDER.glob(f"{pattern}.npz"))


def peek(stem: str, name: str) -> str:
    """One entry of a file as text, to arrange tests by; it does not count as opening the file."""
    with np.load(FOLDER / f"{stem}.npz") as archive:
        return str(archive[name])


def open_arrays(stem: str) -> dict[str, np.ndarray]:
    file = f"{stem}.npz"
    with np.load(FOLDER / file) as archive:
        arrays = {key: archive[key] for key in archive.files}
    opened.setdefault(file, Compared())
    return arrays


def open_json(stem: str) -> dict[str, Any]:
    file = f"{stem}.json"
    content = json.loads((FOLDER / file).read_text(encoding="utf-8"))
    opened.setdefault(file, Compared())
    return content


def rounding_noise(stem: str) -> dict[str, float]:
    """Largest error of the public code in float32 against itself in float64, by tensor; what nobody measured is missing."""
    return open_json("fp64_error").get(stem, {})


def unopened() -> tuple[list[str], list[str]]:
    """Names of the files that nothing has opened: of the data files, and of what lies beside them."""
    names = sorted(path.name for path in FOLDER.glob("*") if path.name not in opened)
    data = [name for name in names if name.endswith((".npz", ".json"))]
    return data, [name for name in names if name not in data]


def never_compared() -> list[str]:
    """Names of the files that were opened for another reason: weights, tolerances."""
    return sorted(file for file, seen in opened.items() if not seen.tensors)


def compare(file: str, tensor: str, ours: Any, expected: Any, allowed: float | Tensor = 0.0) -> None:
    """Remember and print the entry that is worst in relation to what is ``allowed`` there; fail when one is beyond it.

    ours, expected: tensors, arrays or numbers of one shape; allowed: an absolute error, for all entries or one for each.
    """
    ours, expected = (torch.as_tensor(x).detach().double() for x in (ours, expected))
    assert ours.shape == expected.shape, f"{file} {tensor}: shape {tuple(ours.shape)}, stored {tuple(expected.shape)}"
    error = torch.where(ours == expected, 0.0, (ours - expected).abs())  # equal infinities differ by nothing
    allowed = torch.as_tensor(allowed, dtype=torch.float64).expand(error.shape)
    share = torch.where(error == 0, 0.0, error / allowed).nan_to_num(nan=torch.inf, posinf=torch.inf)
    seen = opened.setdefault(file, Compared())
    seen.tensors.add(tensor)
    if share.numel():
        at = share.argmax()
        found = Comparison(*(x.flatten()[at].item() for x in (share, error, allowed)), tensor)
        seen.worst = max(seen.worst, found)
        print(f"{file} {tensor}: error {found.error:.3e}, tolerance {found.tolerance:.3e}")
    beyond = int((share > 1).sum())
    assert not beyond, f"{file} {tensor}: {beyond} of {share.numel()} beyond the tolerance; the line above is the worst of them"


def table(whole: bool) -> list[str]:
    """One line for each file that something was compared with, then what was opened for other reasons, then the forgotten.

    ``whole``: every oracle test was selected. A part of them leaves most files unopened, which are then only counted.
    """
    lines = [f"{'oracle file':<34}{'tensors':>8}{'error':>11}{'tolerance':>11}{'share':>7}  tensor of the largest share"]
    for file, seen in sorted(opened.items()):
        if seen.tensors:
            share, error, tolerance, tensor = seen.worst
            lines.append(f"{file:<34}{len(seen.tensors):>8}{error:>11.2e}{tolerance:>11.2e}{max(share, 0.0):>7.3f}  {tensor}")
    lines.append(f"opened, but nothing was compared with it: {', '.join(never_compared()) or 'none'}")
    data, beside = unopened()
    if not whole:
        return [*lines, f"{len(data)} data files not opened by the tests that were selected"]
    lines.append(f"data files never opened: {', '.join(data) or 'none'}")
    return [*lines, f"other files never opened: {', '.join(beside) or 'none'}"]
