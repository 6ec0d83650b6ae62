"""What the tests of the comparison on real pairs share: five scenes with hostile names, three methods of known errors."""

from __future__ import annotations

from typing import Any

from page_cases import HOSTILE, sample

from experiments.real_pairs import OURS, TITLES, measure
from experiments.real_pairs_page import Pictures
from stereo.engine.evaluate import ByName

# px, the error of every pixel of the scenes in the order of HOSTILE; the third has no occlusion mask
OFFSETS = {OURS: (0.5, 4.5, 1.5, 3.5, 2.5), "sgbm": (0.5, 1.0, 4.5, 2.5, 3.5), "sgbm-3way": (9.0, 9.0, 9.0, 9.0, 9.0)}
WORST_FIRST = [HOSTILE[place] for place in (1, 3, 0, 2, 4)]  # bad-3 of ours is 100 % twice, then 0 %; ties keep their order
FACTS = {"command": "python -m <here>", "weights": {"name": "w<b>", "sha256": "01"}, "precision": "fp32", "version": "0.3.0",
         "finer_sizes": [1.0, 0.5, 2.0],
         "machine": {"cpu": "<i>", "threads": 1, "torch": "2", "opencv": "4", "opencv_threads": 3}}  # fmt: skip


def comparison() -> tuple[dict[str, Any], Pictures]:
    """What real_pairs.json would hold, and the pictures."""
    samples = [sample(name, 0, occluded=place != 2)[0] for place, name in enumerate(HOSTILE)]
    pictures = Pictures()
    methods = {method: ByName(lambda name, offsets=offsets: lambda left, right: sample(name, offsets[HOSTILE.index(name)])[1])
               for method, offsets in OFFSETS.items()}  # fmt: skip
    assert methods.keys() == TITLES.keys()
    return FACTS | measure(methods, samples, pictures), pictures
