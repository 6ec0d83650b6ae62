"""The pair doctor: what is wrong with two photographs before any network sees them. Pure functions on arrays.

Points that both pictures show (SIFT) are matched wherever they lie. In a rectified pair they agree in their rows, and column x
of the left picture is column x - disp, disp >= 0, of the right one. The same pair always gets the same answer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from stereo.inference.predictor import MIN_SIDE
from stereo.types import InputError

WORKING_PIXELS = 800_000  # larger pictures are matched at a reduced size; answers are px of the size given
FEATURES = 2000
CONTRAST = 0.015  # of SIFT; its own 0.04 leaves smooth scenes with a handful of points
AMBIGUOUS = 0.8  # a match counts when its descriptor is nearer than this share of the distance to the second nearest
LEAST_MATCHES = 25
LOW = 2  # percentile of the matches' disparities that is called the least one; below it are wrong matches
LEAST_AGREEING = 0.4  # share of the matches that lie on common rows; chance gives a tenth

# Beyond these a number becomes a finding.
ROWS_LIMIT = 0.75  # px: the offset; what rotation and stretch make of it at the border
RESIDUAL_LIMIT = 0.5  # px, median that no offset, rotation and stretch can remove,
COHERENCE_LIMIT = 0.2  # if neighbours share it: matches in soft pictures are as far off, each for itself
NEGATIVE_LIMIT = 2.0  # px of negative disparity
STILL_LIMIT = 0.3  # px: no point is elsewhere in the other picture
SWAPPED_SHARE = 0.9  # of the points that are elsewhere, those on the wrong side
EXPOSURE_LIMIT = 0.2  # of the grey value, at a quarter, a half or three quarters of the range
BLUR_LIMIT = 0.8  # px, standard deviation of the Gaussian that makes one as soft as the other
FLAT_LIMIT = 0.9  # share of the pixels
CERTAIN = 3  # standard errors by which all that concerns rows must be beyond its limit


@dataclass(frozen=True)
class Finding:
    """One thing to know. kind: see ``examine_pair``. text: one line, the number and the fix. wrong: it needs a repair."""

    kind: str
    text: str
    wrong: bool = True


@dataclass(frozen=True)
class PairReport:
    """What ``examine_pair`` measured (name -> value, the unit in the name; what has no answer is left out) and found."""

    numbers: dict[str, float]
    findings: tuple[Finding, ...]


@dataclass(frozen=True)
class Rows:
    """How the right picture's rows lie against the left's: y_right - y_left = offset + rotation * x_right + stretch * y_left.

    x, y count px from the centre. offset: px, positive = the right picture is lower. rotation: radians, positive = clockwise.
    stretch: relative, positive = the right picture is taller. errors: the standard errors of these three. residual: px, the
    median that remains; coherence: -1 .. 1, how often it has its neighbour's sign, 0 = by chance. agree: (N,) bool, the matches
    that these rows explain.
    """

    offset: float
    rotation: float
    stretch: float
    errors: tuple[float, ...]
    residual: float
    coherence: float
    agree: np.ndarray


def examine_pair(left: np.ndarray, right: np.ndarray) -> PairReport:
    """Examine two (H, W, 3) uint8 RGB pictures of at least 32 px on each side.

    Kinds of findings: "size", "identical", "texture" (there is almost none), "unmatched" (two scenes, or nothing to match),
    "swapped", "negative" (some disparities are below 0, a toed-in rig: not wrong), "offset", "rotation", "stretch", "rows"
    (not rectified: none of the three makes rows agree), "exposure" (gain and gamma), "blur".
    Raises InputError for arrays of another type or shape.
    """
    for side, image in (("left", left), ("right", right)):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or min(image.shape[:2]) < MIN_SIDE:
            expected = f"expected uint8 RGB (H, W, 3) of at least {MIN_SIDE} px on each side"
            raise InputError(f"the {side} image is {image.dtype} {image.shape}, {expected}")
    if left.shape != right.shape:
        sizes = [f"{image.shape[1]}x{image.shape[0]} px" for image in (left, right)]
        text = f"left image is {sizes[0]}, right image {sizes[1]}: rectify both to one size"
        return PairReport({}, (Finding("size", text),))
    if np.array_equal(left, right):
        text = "both images are the same in every pixel (difference 0): give the other camera's image"
        return PairReport({}, (Finding("identical", text),))
    greys = [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in (left, right)]
    points = match_points(*greys)
    rows = fit_rows(*points, greys[0].shape)
    flat = max(flat_share(grey) for grey in greys)
    numbers: dict[str, float] = {"flat_share": flat, "matches": len(rows.agree), "agreeing": int(rows.agree.sum())}
    findings: list[Finding] = []
    if flat > FLAT_LIMIT:
        findings.append(Finding("texture", f"{flat:.0%} of the picture has no texture: light the scene, or project a pattern"))
    if numbers["agreeing"] < max(LEAST_MATCHES, LEAST_AGREEING * numbers["matches"]):
        text = f"only {numbers['agreeing']} of {numbers['matches']} matches lie on common rows, so nothing else can be judged"
        findings.append(Finding("unmatched", f"{text}: check that both images show one scene at one moment"))
        return PairReport(numbers, tuple(findings))
    matched = [places[rows.agree] for places in points]
    disparity = matched[0][:, 0] - matched[1][:, 0]
    gain, gamma = relative_exposure(*(_at(cv2.blur(g, (7, 7)), p) / 255 for g, p in zip(greys, matched, strict=True)))
    blur = relative_blur(*greys, *matched)
    numbers |= {
        "disparity_low_px": float(np.percentile(disparity, LOW)),
        "disparity_median_px": float(np.median(disparity)),
        "disparity_high_px": float(np.percentile(disparity, 100 - LOW)),
        "offset_px": rows.offset,
        "rotation_degrees": math.degrees(rows.rotation),
        "stretch_percent": 100 * rows.stretch,
        "residual_px": rows.residual,
        "gain": gain,
        "gamma": gamma,
        "blur_px": blur,
    }
    findings += _judge_columns(disparity, matched[1][:, 1] - matched[0][:, 1])
    findings += _judge_rows(rows, greys[0].shape)
    findings += _judge_light(gain, gamma, blur)
    return PairReport(numbers, tuple(findings))


# ---------------------------------------------------------------------------------------------------------------------
# Judging


def _judge_columns(disparity: np.ndarray, vertical: np.ndarray) -> list[Finding]:
    """From x_left - x_right and y_right - y_left (N,) px of matches on common rows."""
    low, high = np.percentile(disparity, (LOW, 100 - LOW)).tolist()
    if np.percentile(np.hypot(disparity, vertical), 95) < STILL_LIMIT:
        text = f"95 % of the points are within {STILL_LIMIT} px of the same place: one picture twice, or no baseline"
        return [Finding("identical", text)]
    elsewhere = np.abs(disparity) > 0.5
    negative = float((disparity[elsewhere] < 0).mean()) if elsewhere.any() else 0.0
    if negative > SWAPPED_SHARE:
        text = f"{negative:.0%} of the points lie further right in the right image ({-high:.1f} to {-low:.1f} px)"
        return [Finding("swapped", f"{text}: left and right are swapped, exchange them")]
    if np.percentile(disparity, 5) < -NEGATIVE_LIMIT:
        fix = f"a toed-in rig? shift the right image {-low:.0f} px to the left, and subtract {-low:.0f} px from the result"
        return [Finding("negative", f"min disparity about {low:.0f} px: {fix}", wrong=False)]
    return []


def _judge_rows(rows: Rows, size: tuple[int, ...]) -> list[Finding]:
    findings = []
    # What each makes of the rows at the border of the picture, px.
    reach = np.array([1, size[1] / 2, size[0] / 2])
    effect = np.abs((rows.offset, rows.rotation, rows.stretch)) * reach
    beyond = effect - CERTAIN * np.array(rows.errors) * reach > ROWS_LIMIT
    if beyond[0]:
        where, fix = ("lower", "up") if rows.offset > 0 else ("higher", "down")
        text = f"right image is {abs(rows.offset):.1f} px {where} than left: rectify again, or shift it {fix}"
        findings.append(Finding("offset", f"{text} by {abs(rows.offset):.0f} px"))
    if beyond[1]:
        way, back = ("clockwise", "anticlockwise") if rows.rotation > 0 else ("anticlockwise", "clockwise")
        degrees = abs(math.degrees(rows.rotation))
        text = f"right image is turned {way} by {degrees:.2f} degrees, {effect[1]:.1f} px at its sides"
        fix = f"rectify again, or turn it {back} by {degrees:.2f} degrees about its centre"
        findings.append(Finding("rotation", f"{text}: {fix}"))
    if beyond[2]:
        text = f"right image is {abs(rows.stretch):.2%} {'taller' if rows.stretch > 0 else 'less tall'} than left"
        fix = f"rectify again, or scale it by {1 / (1 + rows.stretch):.4f} about its centre"
        findings.append(Finding("stretch", f"{text}, {effect[2]:.1f} px at its top and bottom: {fix}"))
    coherent = rows.coherence - CERTAIN / math.sqrt(rows.agree.sum()) > COHERENCE_LIMIT
    if rows.residual > RESIDUAL_LIMIT and coherent:
        text = f"rows still differ by {rows.residual:.1f} px (median) after the best shift, rotation and scale"
        findings.append(Finding("rows", f"{text}: the pair is not rectified, calibrate and rectify it"))
    return findings


def _judge_light(gain: float, gamma: float, blur: float) -> list[Finding]:
    findings = []
    levels = np.array([0.25, 0.5, 0.75])
    change = gain * levels ** (gamma - 1) - 1
    if np.abs(change).max() > EXPOSURE_LIMIT:
        most = change[np.abs(change).argmax()]
        text = f"right image is up to {abs(most):.0%} {'brighter' if most > 0 else 'darker'} than left"
        law = f"right = {gain:.2f} * left^{gamma:.2f} of 0 .. 1"
        fix = f"expose both alike, or replace right by (right / {gain:.2f})^{1 / gamma:.2f}"
        findings.append(Finding("exposure", f"{text} ({law}): {fix}"))
    if abs(blur) > BLUR_LIMIT:
        soft, sharp = ("right", "left") if blur > 0 else ("left", "right")
        text = f"{soft} image is blurred by {abs(blur):.1f} px (Gaussian) against {sharp}"
        findings.append(Finding("blur", f"{text}: focus or clean its lens, or blur the {sharp} image by as much"))
    return findings


# ---------------------------------------------------------------------------------------------------------------------
# Measuring


def flat_share(grey: np.ndarray) -> float:
    """Share of the pixels of (H, W) uint8 whose 9x9 neighbourhood has a standard deviation below 2 grey levels."""
    x = grey.astype(np.float32)
    return float((cv2.blur(x * x, (9, 9)) - cv2.blur(x, (9, 9)) ** 2 < 4).mean())


def match_points(left: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two (N, 2) float64 arrays of (x, y) px where (H, W) uint8 pictures show the same points; a part of them is wrong.

    Matches are mutual and clearly better than the second best.
    """
    scale = min(1.0, math.sqrt(WORKING_PIXELS / left.size))
    places, descriptors = [], []
    for grey in (left, right):
        small = grey if scale == 1 else cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        keypoints, described = cv2.SIFT.create(FEATURES, contrastThreshold=CONTRAST).detectAndCompute(small, None)
        if len(keypoints) < 2:
            return np.zeros((0, 2)), np.zeros((0, 2))
        factor = np.array(grey.shape[::-1]) / small.shape[::-1]
        places.append((np.array([k.pt for k in keypoints]) + 0.5) * factor - 0.5)
        descriptors.append(described / np.linalg.norm(described, axis=1, keepdims=True))
    cosines = descriptors[0] @ descriptors[1].T
    nearest = cosines.argmax(1)
    mutual = cosines.argmax(0)[nearest] == np.arange(len(nearest))
    second, first = np.partition(cosines, -2, axis=1)[:, -2:].T
    clear = 1 - first < AMBIGUOUS**2 * (1 - second)  # of unit vectors |a - b|^2 = 2 - 2 cos
    chosen = np.flatnonzero(mutual & clear)
    # A point has a descriptor for each of its orientations; it counts once.
    pairs = np.unique(np.hstack([places[0][chosen], places[1][nearest[chosen]]]), axis=0)
    return pairs[:, :2], pairs[:, 2:]


def fit_rows(left: np.ndarray, right: np.ndarray, size: tuple[int, ...]) -> Rows:
    """Fit Rows to matched points (N, 2) of pictures of ``size`` (H, W); more than half of the matches may be wrong.

    With fewer than LEAST_MATCHES near one answer no match agrees and the errors are infinite.
    """
    height, width = size
    difference = right[:, 1] - left[:, 1]
    terms = np.stack([np.ones(len(left)), right[:, 0] - (width - 1) / 2, left[:, 1] - (height - 1) / 2], axis=1)
    unknown = Rows(0, 0, 0, (math.inf,) * 3, math.inf, 0, np.zeros(len(left), bool))
    if len(left) < LEAST_MATCHES:
        return unknown
    # Of a thousand answers that follow from three matches each, the one most agree on; then the best answer to all near it.
    triples = np.random.default_rng(0).integers(0, len(left), (1000, 3))
    candidates = np.einsum("nij,nj->ni", np.linalg.pinv(terms[triples], rcond=1e-3), difference[triples])
    votes = (np.abs(difference - candidates @ terms.T) < 2).sum(1)
    start = candidates[votes.argmax()]
    near = np.abs(difference - terms @ start) < max(4, 0.05 * height)
    if near.sum() < LEAST_MATCHES:
        return unknown
    solution, errors = _robust_fit(terms[near], difference[near], start, 0.05)
    rest = difference - terms @ solution
    residual = float(np.median(np.abs(rest[near])))
    agree = near & (np.abs(rest) < max(2, 4 * residual))
    offset, rotation, stretch = solution.tolist()
    return Rows(offset, rotation, stretch, tuple(errors.tolist()), residual, _coherence(left[agree], rest[agree]), agree)


def _coherence(places: np.ndarray, values: np.ndarray) -> float:
    """Mean product of the signs of ``values`` (N,) at ``places`` (N, 2) px and at their nearest neighbours."""
    if len(places) < 2:
        return 0.0
    x, y = places.T
    distance = np.hypot(x[:, None] - x, y[:, None] - y)
    distance[distance < 3] = np.inf  # the same point, found at two sizes
    return float((np.sign(values) * np.sign(values[distance.argmin(1)])).mean())


def relative_exposure(left: np.ndarray, right: np.ndarray) -> tuple[float, float]:
    """(gain, gamma) with right = gain * left^gamma, from matched grey values (N,) in 0 .. 1, a part of which may be wrong."""
    usable = (np.minimum(left, right) > 0.03) & (np.maximum(left, right) < 0.97)
    if usable.sum() < LEAST_MATCHES:
        return 1.0, 1.0
    x, y = np.log(left[usable]), np.log(right[usable])
    centred = x - x.mean()
    start = np.array([np.median(y - x), 0])
    (offset, slope), _ = _robust_fit(np.stack([np.ones_like(x), centred], axis=1), y - x, start, 0.01)
    return math.exp(offset - slope * x.mean()), 1 + slope


def relative_blur(left: np.ndarray, right: np.ndarray, left_points: np.ndarray, right_points: np.ndarray) -> float:
    """Standard deviation, px, of the Gaussian that makes one (H, W) uint8 picture as soft as the other at matched points.

    Positive: the right picture is the softer one. At most 4 in size.
    """
    pictures = [left.astype(np.float32), right.astype(np.float32)]
    points = [left_points, right_points]
    sharpness = [_sharpness(picture, p) for picture, p in zip(pictures, points, strict=True)]
    sharper = int(sharpness[1] > sharpness[0])
    target, sigmas = sharpness[1 - sharper], np.arange(0.4, 4.01, 0.4)
    softened = [sharpness[sharper]]
    for sigma in sigmas:
        if softened[-1] <= target:
            break
        softened.append(_sharpness(cv2.GaussianBlur(pictures[sharper], (0, 0), float(sigma)), points[sharper]))
    found = np.interp(-target, -np.array(softened), np.concatenate([[0], sigmas])[: len(softened)])
    return float(-found if sharper else found)


def _sharpness(picture: np.ndarray, points: np.ndarray) -> float:
    """Gradient energy per energy of the gradient at 3 px: exposure cancels, and so does what the points happen to show."""
    energies = []
    for image in (picture, cv2.GaussianBlur(picture, (0, 0), 3)):
        x, y = cv2.Sobel(image, cv2.CV_32F, 1, 0), cv2.Sobel(image, cv2.CV_32F, 0, 1)
        energies.append(float(_at(cv2.blur(x * x + y * y, (15, 15)), points).mean()))
    return energies[0] / max(energies[1], 1e-6)


def _at(image: np.ndarray, points: np.ndarray) -> np.ndarray:
    """The values of (H, W) at the pixels nearest to (N, 2) points."""
    x, y = np.rint(points).astype(int).T
    return image[y.clip(0, image.shape[0] - 1), x.clip(0, image.shape[1] - 1)]


def _robust_fit(terms: np.ndarray, values: np.ndarray, start: np.ndarray, floor: float) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients (K,) of terms (N, K) for values (N,) and their standard errors, far values weighing little (Cauchy).

    floor: a spread below this is not believed, so that perfect data do not reduce it to three points.
    """
    solution = start
    for _ in range(20):
        rest = values - terms @ solution
        spread = max(1.4826 * float(np.median(np.abs(rest))), floor)
        weight = 1 / (1 + (rest / (2 * spread)) ** 2)
        inverse = np.linalg.pinv(terms.T @ (weight[:, None] * terms), rcond=1e-9)
        solution = inverse @ terms.T @ (weight * values)
    return solution, spread * np.sqrt(np.diag(inverse))
