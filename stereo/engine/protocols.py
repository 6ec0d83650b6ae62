"""Named ways of scoring: which images and pixels count, and which figures are quoted. The table of them is data.

Published numbers differ in these more than in their methods: the same maps give another EPE when occluded pixels or
disparities above 192 px are left out. docs/evaluation.md has the table in words.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stereo.config import from_dict, near_matches
from stereo.metrics import REGIONS, THRESHOLDS, bad_name
from stereo.types import InputError, Sample


@dataclass(frozen=True)
class Protocol:
    """What is scored. A pixel counts when it has ground truth d with above < d < below and lies inside the crop.

    text:         one sentence for people.
    source:       whose convention it is.
    figures:      the protocol's own numbers, keys of Report.summary: a plain key is the mean of the images, one that ends in
                  _pooled is over all pixels at once.
    within_width: d may not exceed the image's width either.
    crop:         px at the top, bottom, left and right that do not count.
    thresholds:   px, of bad-x.
    distribution: also the RMS and the quantiles of the error.
    draw, seed:   so many images are drawn from the sorted data set by numpy's legacy generator; 0 takes all.
    published:    how many images the data set of the convention has, 0 = any.
    weights:      of scenes in the means of images; those that are not named weigh 1.
    """

    name: str
    text: str
    source: str
    figures: tuple[str, ...]
    above: float = -math.inf
    below: float = math.inf
    within_width: bool = False
    crop: tuple[int, int, int, int] = (0, 0, 0, 0)
    thresholds: tuple[float, ...] = THRESHOLDS
    distribution: bool = False
    draw: int = 0
    seed: int = 0
    published: int = 0
    weights: tuple[tuple[str, float], ...] = ()

    def chosen(self, count: int) -> list[int]:
        """The images out of ``count`` that are scored, in ascending order."""
        if not self.draw:
            return list(range(count))
        return sorted(int(i) for i in np.random.RandomState(self.seed).permutation(count)[: self.draw])

    def inside(self, shape: tuple[int, ...]) -> np.ndarray:
        """(H, W) bool: what the crop leaves of an image of that shape."""
        height, width = shape[:2]
        top, bottom, left, right = self.crop
        mask = np.zeros((height, width), bool)
        mask[top : max(top, height - bottom), left : max(left, width - right)] = True
        return mask

    def in_range(self, disp: np.ndarray) -> np.ndarray:
        """(H, W) px -> (H, W) bool: disparities that count."""
        kept = (disp > self.above) & (disp < self.below)
        return kept & (disp <= disp.shape[1]) if self.within_width else kept

    def weight(self, name: str) -> float:
        """Of the image "set/.../scene" in the means."""
        return dict(self.weights).get(name.rpartition("/")[2], 1.0)

    def limits(self) -> str:
        """'0 < d < 192 px', '' without limits."""
        low = f"{self.above:g} < " if self.above > -math.inf else ""
        high = f" < {self.below:g}" if self.below < math.inf else " <= width" if self.within_width else ""
        return f"{low}d{high} px" if low or high else ""


def _quoted(region: str, thresholds: Sequence[float], *more: str, mean: str = "image") -> tuple[str, ...]:
    """Keys of the summary: the EPE, bad-x and ``more``, of one region."""
    suffix = f"_{region}" + ("_pooled" if mean == "pixel" else "")
    return tuple(f"{figure}{suffix}" for figure in ("epe", *map(bad_name, thresholds), *more))


SHARP = (0.5, 1.0, 2.0, 4.0)  # px, thresholds of Middlebury and ETH3D
TABLES = ("rms", "a50", "a90", "a95", "a99")
THINGS_TEST = 4370  # pairs in the TEST split of FlyingThings3D

DEFAULT = Protocol(
    "default",
    "every pixel with ground truth, no disparity limit; means of per-image values",
    "ours",
    ("epe_noc", "bad1_noc", "bad2_noc", "bad3_noc", "d1_noc", "epe_all", "bad3_all", "iou_occluded"),
)

PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        DEFAULT,
        Protocol(
            "sttr-noc",
            "FlyingThings3D TEST without the unused files: visible pixels, no limit but the width; the 3-px error is pooled",
            "the public STTR code, whose loader sets occluded disparities to 0 and scores d > 0; there the true occlusion "
            "enters the network, here never",
            ("epe_noc", "bad3_noc_pooled", "iou_pooled"),
            above=0,
            within_width=True,
            published=4248,
        ),
        Protocol(
            "sf192-all",
            "all of FlyingThings3D TEST: pixels with 0 < d < 192, occluded ones included",
            "cost-volume networks, IGEV, Selective-IGEV, MonSter; an image without such a pixel is left out",
            _quoted("all", THRESHOLDS, "d1"),
            above=0,
            below=192,
            published=THINGS_TEST,
        ),
        Protocol(
            "sf192-raft400",
            "400 images of FlyingThings3D TEST drawn with seed 1000: pixels with -192 < d < 192; bad-1 is pooled",
            "the public RAFT-Stereo code (finalpass; its figure called D1 is bad-1), also DLNR, DEFOM-Stereo",
            ("epe_all", "bad1_all_pooled"),
            above=-192,
            below=192,
            draw=400,
            seed=1000,
            published=THINGS_TEST,
        ),
        Protocol(
            "sf768-all",
            "all of FlyingThings3D TEST: pixels with 0 < d < 768, occluded ones included",
            "IGEV++, which averages over batches of 8 first; a mean over images is what does not depend on the batch",
            _quoted("all", THRESHOLDS, "d1"),
            above=0,
            below=768,
            published=THINGS_TEST,
        ),
        Protocol(
            "unimatch400",
            "all of FlyingThings3D TEST: pixels with 0 < d < 400, occluded ones included",
            "the public UniMatch code; an image without such a pixel is left out",
            ("epe_all", "d1_all"),
            above=0,
            below=400,
            published=THINGS_TEST,
        ),
        Protocol(
            "kitti",
            "KITTI 2012 and 2015: outliers over all pixels at once, visible and all",
            "the KITTI benchmarks: D1 is the outlier rate of 2015, bad-2 to bad-5 are Out-Noc and Out-All of 2012",
            ("d1_all_pooled", "d1_noc_pooled", "bad3_noc_pooled", "bad3_all_pooled", "epe_noc", "epe_all"),
            above=0,
            thresholds=(2.0, 3.0, 4.0, 5.0),
        ),
        Protocol(
            "middlebury",
            "Middlebury version 3: visible pixels first, five hard scenes count half; at the size of the truth that is given",
            "the Middlebury evaluation, version 3, which scales H and Q up to F before it scores",
            (*_quoted("noc", SHARP, *TABLES), "bad2_all", "epe_all"),
            thresholds=SHARP,
            distribution=True,
            published=15,
            weights=tuple((scene, 0.5) for scene in ("PianoL", "Playroom", "Playtable", "Shelves", "Vintage")),
        ),
        Protocol(
            "eth3d",
            "ETH3D two-view: visible pixels first, and all",
            "the ETH3D low-resolution two-view benchmark",
            (*_quoted("noc", SHARP, *TABLES), "bad1_all", "epe_all"),
            thresholds=SHARP,
            distribution=True,
            published=27,
        ),
    )
}


@dataclass(frozen=True)
class CustomProtocol:
    """A protocol of one's own, as a TOML file or the flags of ``evaluate`` give it. Fields as in Protocol.

    region, mean: of the figures that are quoted; mean is "image" (of per-image values) or "pixel" (over all pixels at once).
    Raises InputError for a value that is not allowed.
    """

    name: str = "custom"
    above: float = -math.inf
    below: float = math.inf
    crop: tuple[int, int, int, int] = (0, 0, 0, 0)
    region: str = "all"
    mean: str = "image"
    thresholds: tuple[float, ...] = THRESHOLDS
    distribution: bool = False

    def __post_init__(self) -> None:
        def check(name: str, fine: bool, expected: str) -> None:
            if not fine:
                raise InputError(f"protocol, {name}: got {getattr(self, name)!r}, expected {expected}")

        check("above", self.above < self.below, f"a number below the upper limit, {self.below:g}")
        check("crop", min(self.crop) >= 0, "four numbers of px, 0 or more: top, bottom, left, right")
        check("region", self.region in REGIONS, f"one of {', '.join(REGIONS)}")
        check("mean", self.mean in ("image", "pixel"), "image or pixel")
        fine = bool(self.thresholds) and all(0 < limit < math.inf for limit in self.thresholds)
        check("thresholds", fine and len(set(self.thresholds)) == len(self.thresholds), "different numbers of px above 0")

    def protocol(self) -> Protocol:
        more = ("d1", *(("rms",) if self.distribution else ()))
        figures = _quoted(self.region, self.thresholds, *more, mean=self.mean)
        limits = {"above": self.above, "below": self.below, "crop": self.crop}
        text = f"region {self.region}, mean over {self.mean}s"
        settings = {"thresholds": self.thresholds, "distribution": self.distribution}
        return Protocol(self.name, text, "given by the user", figures, **limits, **settings)  # type: ignore[arg-type]


def open_protocol(name: str | None, settings: dict[str, Any] | None = None) -> Protocol:
    """The protocol called ``name``, that of a TOML file, or one's own: ``settings`` are fields of CustomProtocol.

    None without settings is DEFAULT; "custom" and a file take settings, which go before the file's; a named one takes none.
    Raises InputError for an unknown name, a file that cannot be read, an unknown key, or a value that is not allowed.
    """
    settings = settings or {}
    if name in (None, "custom"):
        return from_dict(CustomProtocol, settings, "protocol").protocol() if settings or name else DEFAULT
    assert name is not None
    if name.endswith(".toml"):
        return from_dict(CustomProtocol, {"name": Path(name).stem} | _read_toml(Path(name)) | settings, name).protocol()
    if name not in PROTOCOLS:
        raise InputError(f"unknown protocol '{name}': {near_matches(name, [*PROTOCOLS, 'custom'])}; or a .toml file")
    if settings:
        raise InputError(f"protocol '{name}' is fixed, and {', '.join(settings)} would change it; use --protocol custom")
    return PROTOCOLS[name]


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read protocol '{path}': {error.strerror}; check the path") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"protocol '{path}' is not valid TOML: {error}") from None


def exclusions(protocol: Protocol, sample: Sample) -> tuple[np.ndarray, np.ndarray, dict[str, int]]:
    """What the protocol leaves of a sample with ground truth: two (H, W) bool masks, and counts for the row.

    The first is what the crop leaves, which also holds for pixels of known occlusion without ground truth; the second what the
    limits of the disparity leave of it. ``count_truth`` is the number of pixels with ground truth, ``count_excluded_crop`` and
    ``count_excluded_range`` how many of them each of the two takes away.
    """
    assert sample.disp is not None and sample.valid is not None
    inside = protocol.inside(sample.disp.shape)
    kept = inside & protocol.in_range(sample.disp)
    truth, cropped, scored = (int(np.count_nonzero(sample.valid & mask)) for mask in (True, inside, kept))
    return inside, kept, {
        "count_truth": truth,
        "count_excluded_crop": truth - cropped,
        "count_excluded_range": cropped - scored,
    }  # fmt: skip
