"""A calibration made to fit the images at hand: numbers given by hand, another size, and what looks wrong about the result."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import TypeVar

from stereo.calibration.rig import METRES, RawRig, Size
from stereo.geometry import Calibration
from stereo.types import InputError

# Between these lie the baselines of what is in use, from a stomach's to a locomotive's. Outside, a unit was mistaken.
LEAST_BASELINE, LARGEST_BASELINE = 0.002, 3.0  # m
MIDDLE = (0.2, 0.8)  # of the image's sides: where a principal point lies unless the calibration is of another size
VIEWS = (10.0, 150.0)  # degrees: fields of view of lenses in use
Rig = TypeVar("Rig", Calibration, RawRig)


@dataclass(frozen=True)
class Numbers:
    """A rectified rig by hand, as options of a command: px, and ``baseline`` in ``unit``. None = not given."""

    fx: float | None = None
    fy: float | None = None
    cx: float | None = None
    cy: float | None = None
    baseline: float | None = None
    doffs: float | None = None
    unit: str = "m"

    @property
    def given(self) -> dict[str, float]:
        """Name -> number of those that are given."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "unit"}
        return {name: value for name, value in values.items() if value is not None}

    def alone(self, size: Size) -> tuple[Calibration, list[str]]:
        """The rig of these numbers alone, for images of ``size``, and lines that say what was assumed.

        Raises InputError when fx or baseline is missing, or a number is impossible.
        """
        if self.fx is None or self.baseline is None:
            missing = " and ".join(f"--{name}" for name in ("fx", "baseline") if getattr(self, name) is None)
            known = ", ".join(f"--{name}" for name in self.given)
            raise InputError(f"got {known} without {missing}; a rig needs --fx and --baseline, or a file with --calib")
        middle = ((size[0] - 1) / 2, (size[1] - 1) / 2)
        cx, cy = (middle[i] if value is None else value for i, value in enumerate((self.cx, self.cy)))
        aspect = 1.0 if self.fy is None or not self.fx else self.fy / self.fx
        rig = Calibration(self.fx, cx, cy, self.baseline * METRES[self.unit], self.doffs or 0.0, aspect)
        absent = [name for name in ("cx", "cy") if getattr(self, name) is None]
        notes = [f"{' and '.join(absent)} not given: taken in the middle of the image"] if absent else []
        return rig, notes

    def over(self, rig: Calibration) -> tuple[Calibration, list[str]]:
        """``rig`` with these numbers in place of its own, and a line that says so. fx keeps the rig's fy / fx."""
        if not self.given:
            return rig, []
        focal = rig.focal_px if self.fx is None else self.fx
        changes = {"focal_px": focal, "cx": self.cx, "cy": self.cy, "doffs_px": self.doffs}
        changes["baseline_m"] = None if self.baseline is None else self.baseline * METRES[self.unit]
        changes["aspect"] = None if self.fy is None else self.fy / focal if focal else 0.0
        own = {"fx": rig.focal_px, "fy": rig.focal_px * rig.aspect, "cx": rig.cx, "cy": rig.cy, "doffs": rig.doffs_px}
        own["baseline"] = rig.baseline_m / METRES[self.unit]
        told = ", ".join(f"--{name} {value:g} (the file has {own[name]:g})" for name, value in self.given.items())
        changed = {name: value for name, value in changes.items() if value is not None}
        return replace(rig, **changed), [f"numbers given by hand win: {told}"]


def fit_to_size(rig: Rig, own: Size | None, size: Size) -> tuple[Rig, list[str]]:
    """``rig``, of images of ``own`` (None: not known, taken to be ``size``), for images of ``size``, and a line about it.

    Raises InputError when the two have different shapes: resizing does not turn one into the other.
    """
    if own is None or own == size:
        return rig, []
    told = f"the calibration is of {own[0]}x{own[1]} px, the images are {size[0]}x{size[1]} px"
    factors = size[0] / own[0], size[1] / own[1]
    if min(abs(own[1] * factors[0] - size[1]), abs(own[0] * factors[1] - size[0])) > 1:  # px; sides are rounded
        raise InputError(f"{told}, another shape: a crop? give the calibration of these images, or its size with --calib-size")
    return rig.scaled(*factors), [f"{told}: scaled by {factors[0]:.4g}"]


def field_of_view(rig: Calibration, size: Size) -> tuple[float, float]:
    """Degrees that images of ``size`` (width, height) see horizontally and vertically, from border to border."""
    views = []
    for focal, centre, side in ((rig.focal_px, rig.cx, size[0]), (rig.focal_px * rig.aspect, rig.cy, size[1])):
        views.append(math.degrees(math.atan((side - 0.5 - centre) / focal) + math.atan((centre + 0.5) / focal)))
    return views[0], views[1]


def doubts(rig: Calibration, size: Size) -> list[str]:
    """One line, with the fix, for whatever is unlikely about a rig of images of ``size``."""
    found = []
    if rig.baseline_m > LARGEST_BASELINE:
        found.append(f"a baseline of {rig.baseline_m:g} m looks like millimetres taken for metres: if so, give --unit mm")
    if rig.baseline_m < LEAST_BASELINE:
        found.append(f"a baseline of {rig.baseline_m:g} m looks like metres taken for millimetres: if so, give --unit m")
    places = rig.cx / size[0], rig.cy / size[1]
    if not all(MIDDLE[0] < place < MIDDLE[1] for place in places):
        where = f"the principal point ({rig.cx:g}, {rig.cy:g}) is far from the middle of {size[0]}x{size[1]} px"
        found.append(f"{where}: a calibration of another size? then give that with --calib-size WxH")
    view = field_of_view(rig, size)[0]
    if not VIEWS[0] < view < VIEWS[1]:
        found.append(f"a focal length of {rig.focal_px:g} px is a view of {view:.3g} degrees: is it in px of these images?")
    return found
