"""The data doctor: does a data set say the truth? It looks at Samples only, so it works for every reader in the registry.

The images are the witness: a left image and the right one, fetched by the true disparity, show the same texture; by a turned
sign, another scale or the truth of another frame they do not. A truth that is one frame off in a slow film looks nearly right,
and is not noticed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from tqdm import tqdm

from datasets.base import DATASETS, StereoDataset
from datasets.frames import FrameDataset, MissingFilesError
from datasets.truth import wxh
from stereo.geometry import left_right_check, warp_right_to_left
from stereo.types import InputError, Sample

MASKS = ("occluded", "occluded_right")
TRUTHS = ("disp", "disp_right", *MASKS)

# Ways of reading a truth. The scales are those that formats multiply by.
AS_STATED, ZERO, TURNED, SWAPPED, OTHER_VIEW = "as stated", "0 px", "sign turned", "images swapped", "truth of the other view"
SCALES = {f"1/{n}": 1 / n for n in (256, 100, 32, 8, 4, 3, 2)} | {f"{n}": float(n) for n in (2, 3, 4, 8, 32, 100, 256)}

PIXELS = 100_000  # of a frame, in whole rows, are compared
LEAST_PIXELS = 100  # make a share worth reading
LEAST_TEXTURE = 0.1  # image error of chance, below which there is nothing to compare

# Measured on the public pairs and on 80 generated ones with exposure, noise and tilt: as stated, the image error is up to 0.7
# of what ZERO and TURNED give, once 0.89; no other reading comes below 0.99 of it.
MISPAIRED = 0.92  # share of ZERO and TURNED from which the truth does not belong to the images,
UNLIKE = 0.7  # if they are that unlike: a truth below 1 px cannot be told from ZERO
BETTER = 0.75  # share of AS_STATED and ZERO below which another reading is the right one, in the mean over frames
BETTER_VIEW = 0.95  # the same for OTHER_VIEW, which shows the same surfaces with their edges elsewhere
AGREEING = 0.5  # share of the matches; a wrong partner gives a third at most
LIKE_MASK = 0.5  # intersection over union; a wrong partner gives 0.3 at most

PairJudge = Callable[[np.ndarray, np.ndarray], dict[str, str]]  # two images -> what is wrong with them, kind -> one line


@dataclass(frozen=True)
class FrameFacts:
    """What one frame holds. Shares are 0 .. 1 of pixels; without the truth it needs, an entry is missing or a number None.

    size: "960x540". truths: those of TRUTHS that are there. unknown: disp, disp_right -> share that is not valid.
    lowest: px, the least known disparity of both views, NaN when one is not a number. occluded: masks -> share.
    agreement: share of the matches in frame that disp_right confirms within 1 px. mask_iou: ``occluded`` against that check.
    marked: share of the pixels matched out of frame that ``occluded`` contains. errors: disp, disp_right ->
    ``image_errors``.
    """

    name: str
    size: str
    truths: tuple[str, ...]
    unknown: dict[str, float]
    lowest: float | None
    occluded: dict[str, float]
    agreement: float | None
    mask_iou: float | None
    marked: float | None
    errors: dict[str, dict[str, float]]


@dataclass(frozen=True)
class Diagnosis:
    """A data set of so many ``frames``, of which ``facts`` were read and ``corrupt`` (name -> why) could not be.

    counts: whole px of disp -> pixels, over all frames read. problems: one line each, with the number and the fix.
    """

    frames: int
    facts: tuple[FrameFacts, ...]
    corrupt: dict[str, str]
    counts: Counter[int]
    problems: tuple[str, ...]


class Opened(NamedTuple):
    """A data set, without the frames of which files are missing, and these: pairs of a frame's name and a path."""

    dataset: StereoDataset
    missing: tuple[tuple[str, Path], ...] = ()

    def files(self) -> frozenset[tuple[Path, ...]]:
        """Those of every frame, where it is a data set that lists them."""
        frames = self.dataset.frames if isinstance(self.dataset, FrameDataset) else ()
        return frozenset(tuple(frame.files()) for frame in frames)


def open_what_is_there(build: Callable[[], StereoDataset]) -> Opened:
    """What ``build`` opens, or would if it did not refuse missing files. Raises InputError for whatever else it refuses."""
    try:
        return Opened(build())
    except MissingFilesError as error:
        return Opened(error.rest, error.files)


def recognise(folder: Path) -> tuple[dict[str, Opened], dict[str, str]]:
    """As which registered data sets a folder can be opened, and of the others name -> what they missed.

    A folder of which no frame is complete is none of that kind.
    """
    fits: dict[str, Opened] = {}
    missed: dict[str, str] = {}
    for name, builder in DATASETS.items():
        if name == "generated":  # the one that reads no folder
            continue
        try:
            opened = open_what_is_there(partial(builder, str(folder.resolve())))
        except InputError as error:
            missed[name] = str(error)
            continue
        if len(opened.dataset):
            fits[name] = opened
        else:
            missed[name] = f"'{opened.missing[0][1]}' is missing, and no frame is complete"
    return fits, missed


def spread(frames: int, wanted: int) -> list[int]:
    """At most ``wanted`` of the indices 0 .. frames-1, evenly, the first among them (and the last, if more than one)."""
    return sorted({round(i) for i in np.linspace(0, frames - 1, min(wanted, frames)).tolist()})


def examine(
    dataset: StereoDataset, indices: Sequence[int], judge: PairJudge | None = None, progress: bool = False
) -> Diagnosis:
    """Read the frames ``indices`` and judge them. A frame whose reading raises InputError is named, and the rest goes on.

    judge: asked about the images of frames without any truth. progress: show a bar.
    """
    facts: list[FrameFacts] = []
    corrupt: dict[str, str] = {}
    counts: Counter[int] = Counter()
    unfit: dict[str, dict[str, str]] = {}
    for index in tqdm(indices, unit="frame", disable=None if progress else True):
        try:
            sample = dataset[index]
            found = judge(sample.left, sample.right) if judge and sample.disp is sample.disp_right is None else {}
        except InputError as error:
            corrupt[dataset.names[index]] = str(error)
            continue
        for kind, line in found.items():
            unfit.setdefault(kind, {})[sample.name] = line
        facts.append(facts_of(sample))
        if sample.disp is not None:
            known = sample.disp[sample.valid]
            whole, pixels = np.unique(np.floor(known[np.isfinite(known)]).astype(int), return_counts=True)
            counts.update(dict(zip(whole.tolist(), pixels.tolist(), strict=True)))
    problems = [f"{some(corrupt, len(indices))} cannot be read: {next(iter(corrupt.values()))}"] if corrupt else []
    problems += find_problems(facts)
    problems += [f"{some(lines, len(facts))}: {next(iter(lines.values()))}" for lines in unfit.values()]
    return Diagnosis(len(dataset), tuple(facts), corrupt, counts, tuple(problems))


# ---------------------------------------------------------------------------------------------------------------------
# Measuring


def facts_of(sample: Sample) -> FrameFacts:
    """Measure one frame."""
    unknown, lowest, errors = {}, [], {}
    left = (sample.left, sample.right, sample.disp, sample.valid)
    right = (sample.right, sample.left, sample.disp_right, sample.valid_right)
    for name, (own, other, disp, valid) in (("disp", left), ("disp_right", right)):
        if disp is None or valid is None:
            continue
        unknown[name] = float(1 - valid.mean())
        lowest.append(float(disp[valid].min(initial=np.inf)))
        # In a mirror the right view is a left one.
        errors[name] = image_errors(*(x if name == "disp" else x[:, ::-1] for x in (own, other, disp, valid)))
    masks = {name: getattr(sample, name) for name in MASKS}
    return FrameFacts(
        name=sample.name,
        size=wxh(sample.left.shape),
        truths=tuple(name for name in TRUTHS if getattr(sample, name) is not None),
        unknown=unknown,
        lowest=float(np.min(lowest)) if lowest else None,
        occluded={name: float(mask.mean()) for name, mask in masks.items() if mask is not None},
        errors={name: found for name, found in errors.items() if found},
        **_consistency(sample),
    )


def _consistency(sample: Sample) -> dict[str, Any]:
    """The numbers of FrameFacts that compare the left view's truth with its mask and with the right view's truth."""
    found: dict[str, Any] = dict.fromkeys(("agreement", "mask_iou", "marked"))
    disp, valid, occluded = sample.disp, sample.valid, sample.occluded
    if disp is None or valid is None:
        return found
    beyond = valid & (np.arange(disp.shape[1]) - disp < 0)
    if occluded is not None and beyond.sum() >= LEAST_PIXELS:
        found["marked"] = float(occluded[beyond].mean())
    inside = valid & ~beyond
    if sample.disp_right is None or inside.sum() < LEAST_PIXELS:
        return found
    hidden = left_right_check(disp, sample.disp_right, 1.0, valid, sample.valid_right)
    found["agreement"] = float(1 - hidden[inside].mean())
    if occluded is not None:
        either = (hidden | occluded) & valid
        found["mask_iou"] = float((hidden & occluded & valid).sum() / either.sum()) if either.any() else 1.0
    return found


def image_errors(left: np.ndarray, right: np.ndarray, disp: np.ndarray, valid: np.ndarray) -> dict[str, float]:
    """How badly the truth of a left view, read in each way, explains its images: way -> error, 0 = exact, 1 = chance.

    left, right (H, W, 3) uint8 RGB; disp, valid (H, W). A match out of frame counts as chance. Occluded pixels take part, for a
    mask that is in question itself must not choose the witnesses. Empty where there is nothing to compare.
    """
    step = max(1, valid.size // PIXELS)
    first, second, disp, use = (x[::step] for x in (_texture(left), _texture(right), disp, valid))
    if use.sum() < LEAST_PIXELS:
        return {}
    chance = float(np.abs(first - np.roll(second, second.shape[1] // 2, axis=1))[use].mean())
    if chance < LEAST_TEXTURE:
        return {}

    def error(target: np.ndarray, source: np.ndarray, factor: float) -> float:
        warped, inside = warp_right_to_left(source, disp * factor)
        return float(np.where(inside, np.abs(target - warped), chance)[use].mean()) / chance

    factors = {AS_STATED: 1.0, ZERO: 0.0, TURNED: -1.0} | SCALES
    found = {way: error(first, second, factor) for way, factor in factors.items()}
    return found | {SWAPPED: error(second, first, 1.0), OTHER_VIEW: error(second, first, -1.0)}


def _texture(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 -> (H, W) float32: grey less its mean over 15x15 px, per deviation, so that exposure does not count."""
    grey = cv2.GaussianBlur(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32), (0, 0), 1.5)
    mean = cv2.blur(grey, (15, 15))
    variance = np.maximum(cv2.blur(grey * grey, (15, 15)) - mean * mean, 0)
    return (grey - mean) / np.sqrt(variance + 4)  # of 2 grey levels: flat areas say little


# ---------------------------------------------------------------------------------------------------------------------
# Judging


def find_problems(facts: Sequence[FrameFacts]) -> list[str]:
    """What is wrong with the frames that could be read, one line each."""
    problems = []
    if nan := [f.name for f in facts if f.lowest is not None and np.isnan(f.lowest)]:
        problems.append(f"{some(nan, len(facts))}: NaN counts as known; its reader has to leave it out of valid")
    errors = {truth: {f.name: f.errors[truth] for f in facts if truth in f.errors} for truth in TRUTHS[:2]}
    if misread := [line for truth, found in errors.items() if (line := _misread(truth, found))]:
        return problems + misread  # of which all that could be said below would be a consequence
    problems += [line for truth, found in errors.items() if (line := _mispaired(truth, found))]
    if negative := {f.name: f.lowest for f in facts if f.lowest is not None and f.lowest < 0}:
        text = f"{some(negative, len(facts))}: negative disparities, down to {min(negative.values()):.1f} px"
        problems.append(f"{text}; expected disp >= 0: shift the right images to the left by as much")
    if strangers := {f.name: f.agreement for f in facts if f.agreement is not None and f.agreement < AGREEING}:
        text = f"{some(strangers, len(facts))}: only {min(strangers.values()):.0%} of the left truth is confirmed by the right"
        problems.append(f"{text}; pair the files of both views by name, and check the right view's sign and scale")
    # Where the views disagree, their check has no say about the mask. With one view, matches that leave the frame have.
    likeness = {f.name: f.marked if f.mask_iou is None else f.mask_iou for f in facts if f.name not in strangers}
    if unlike := {name: of for name, of in likeness.items() if of is not None and of < LIKE_MASK}:
        inverted = [f.name for f in facts if f.name in unlike and f.occluded["occluded"] > 0.5]
        fix = "they look inverted, exchange their values" if 2 * len(inverted) > len(unlike) else "pair masks and truth by name"
        text = f"{some(unlike, len(facts))}: occlusion masks share only {min(unlike.values()):.0%} with what the truth implies"
        problems.append(f"{text}; {fix}")
    return problems


def _misread(truth: str, errors: dict[str, dict[str, float]]) -> str | None:
    """What reading a truth in another way would mend. Of all frames at once: one alone may fit another way by accident."""
    if not errors:
        return None
    ways = next(iter(errors.values())).keys()
    mean = {way: float(np.mean([found[way] for found in errors.values()])) for way in ways}
    best = min(mean, key=mean.__getitem__)
    limit = BETTER_VIEW if best == OTHER_VIEW else BETTER
    if best == ZERO or mean[best] > limit * min(mean[AS_STATED], mean[ZERO]):
        return None
    return f"{truth} {_cure(best)} (image error of {len(errors)} frames {mean[best]:.2f} so, {mean[AS_STATED]:.2f} as stated)"


def _mispaired(truth: str, errors: dict[str, dict[str, float]]) -> str | None:
    """Which frames' images do not know their truth."""
    strange = {name: e for name, e in errors.items() if e[AS_STATED] > max(UNLIKE, MISPAIRED * min(e[ZERO], e[TURNED]))}
    if not strange:
        return None
    first = next(iter(strange.values()))
    evidence = f"image error {first[AS_STATED]:.2f}, {first[ZERO]:.2f} with 0 px, {first[TURNED]:.2f} with the sign turned"
    return f"{truth} of {some(strange, len(errors))} does not belong to its images ({evidence}): pair files by name"


def _cure(way: str) -> str:
    if way == TURNED:
        return f"has its {TURNED}: negate it"
    if way == SWAPPED:
        return f"fits with its {SWAPPED}: exchange left and right images"
    if way == OTHER_VIEW:
        return f"looks like the {way}: exchange the files of both views"
    factor = SCALES[way]
    if factor < 1:
        return f"looks {1 / factor:.0f}x too large: divide by {1 / factor:.0f}"
    return f"looks {factor:.0f}x too small: multiply by {factor:.0f}"


def some(names: Collection[str], total: int) -> str:
    """Such as "2 of 8 frames (a, b)", with three names at most."""
    listed = list(names)
    return f"{len(listed)} of {total} frames ({', '.join(listed[:3])}{', ...' if len(listed) > 3 else ''})"
