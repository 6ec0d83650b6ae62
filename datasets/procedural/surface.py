"""The geometry of a scene as pure functions of a few numbers, the same for one sheet and for points of many.

Coordinates: (u, y) is a point of the scene by its column and row in the left image (real-valued). A surface is a disparity
function d(u, y) and a shape mask over (u, y); the right camera sees the point at column u - d(u, y).
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

# Shapes of objects and how often each is drawn.
OBJECTS = (
    ("ellipse", 0.15), ("box", 0.17), ("blob", 0.14), ("polygon", 0.17), ("bar", 0.12), ("ring", 0.05), ("lattice", 0.06),
    ("fence", 0.06), ("wire", 0.08),
)  # fmt: skip
SHAPES = ("everywhere", *(shape for shape, _ in OBJECTS))
THIN = ("bar", "ring", "lattice", "fence", "wire")
SLOPES = (-0.8, 0.35)  # along u; with the relief on top it stays below 0.75, see Surface.from_right
NEWTON_STEPS, NEWTON_TOLERANCE = 7, 0.01  # px; convergence is quadratic: after such a step the rest is rounding
WIRE_SWING = 0.8  # of a wire's path, in half sizes
BULGE_REACH = 1.5  # a bulge is flat beyond this many radii, which bounds its slope everywhere

Number = float | Tensor  # a tensor holds the number of every point's own sheet, or of sheets along its first axis


def _present(amount: Number) -> bool:
    """Whether a relief is there. A tensor stands for sheets of which some have it, and 0 changes nothing for the others."""
    return isinstance(amount, Tensor) or amount != 0


def all_arrived(moving: Tensor) -> bool:
    """Whether further steps are vain. Not asked of a device: the host would wait for the answer longer than for the steps."""
    return moving.device.type == "cpu" and not moving.any()


@dataclass(frozen=True)
class Surface:
    """One sheet, or sheets of one shape side by side. Lengths in px; slopes in px of disparity per px."""

    shape: str
    centre: tuple[Number, Number]  # (u, y)
    radius: tuple[Number, Number]  # half sizes along the rotated axes
    axis: tuple[Number, Number]  # cosine and sine of the rotation
    disp: Number  # at the centre
    slope: tuple[Number, Number]  # along u, along y
    bulge: Number  # disparity lost one radius away from the centre
    ripple: Number  # amplitude of a wave on the sheet
    wave: tuple[Number, Number, Number]  # angular frequency along u and y, phase
    details: tuple[Number, ...]  # numbers that the shape interprets
    texture: int | Tensor
    texel: tuple[Number, Number, Number, Number]  # texels per px along and across the texture's axis; offsets in texels
    gain: tuple[Number, Number, Number]  # recolouring, per channel
    offset: tuple[Number, Number, Number]
    light: tuple[Number, Number]

    @property
    def extent(self) -> tuple[float, float]:
        """Half the size of a box around the centre, along u and y, that holds the shape (plain numbers only)."""
        if self.shape == "everywhere":
            return math.inf, math.inf
        (p, q), cos, sin = map(float, self.radius), abs(float(self.axis[0])), abs(float(self.axis[1]))
        if self.shape == "wire":
            q = WIRE_SWING * q + float(self.details[2])
        if self.shape in ("ellipse", "ring", "blob"):
            grown = 1 + float(self.details[2]) if self.shape == "blob" else 1.0
            return grown * math.hypot(p * cos, q * sin), grown * math.hypot(p * sin, q * cos)
        return p * cos + q * sin, p * sin + q * cos

    def bounds(self, right: bool) -> tuple[float, float, float, float]:
        """(x0, x1, y0, y1): columns and rows of one camera's image between which the sheet must lie (plain numbers only)."""
        (u, y), (reach_u, reach_y) = map(float, self.centre), self.extent
        if not right or self.shape == "everywhere":
            return u - reach_u, u + reach_u, y - reach_y, y + reach_y
        tilt = abs(float(self.slope[0])) * reach_u + abs(float(self.slope[1])) * reach_y
        swing = tilt + float(self.ripple) + 2 * BULGE_REACH**2 * abs(float(self.bulge))
        x = u - float(self.disp)
        return x - reach_u - swing, x + reach_u + swing, y - reach_y, y + reach_y

    @property
    def flat(self) -> bool:
        return not _present(self.bulge) and not _present(self.ripple)

    def disparity(self, u: Tensor, y: Tensor) -> Tensor:
        """d at points (u, y)."""
        du, dy = u - self.centre[0], y - self.centre[1]
        disp = self.slope[0] * du + self.slope[1] * dy + self.disp
        if _present(self.bulge):
            for delta, radius in ((du, self.radius[0]), (dy, self.radius[1])):
                disp = disp - self.bulge * (delta / radius).clamp(-BULGE_REACH, BULGE_REACH).square()
        if _present(self.ripple):
            disp = disp + self.ripple * (self.wave[0] * u + self.wave[1] * y + self.wave[2]).sin()
        return disp

    def slopes(self, u: Tensor, y: Tensor) -> tuple[Number, Number]:
        """Derivatives of d along u and along y (the slopes themselves on a plane)."""
        along: list[Number] = list(self.slope)
        if _present(self.bulge):
            for axis, x in enumerate((u, y)):
                near = (x - self.centre[axis]) / self.radius[axis]
                steep = (2 * self.bulge / self.radius[axis]) * near
                along[axis] = along[axis] - steep * (near.abs() < BULGE_REACH)
        if _present(self.ripple):
            swing = self.ripple * (self.wave[0] * u + self.wave[1] * y + self.wave[2]).cos()
            along = [slope + wave * swing for slope, wave in zip(along, self.wave, strict=False)]
        return along[0], along[1]

    def shading(self, u: Tensor, y: Tensor) -> Tensor:
        """By how much the lamp brightens the points: a matter of their slopes."""
        along_u, along_y = self.slopes(u, y)
        return torch.as_tensor(1 + self.light[0] * along_u + self.light[1] * along_y).clamp(0.4, 1.6)

    @property
    def shrinks(self) -> bool:
        """Whether the texture is shown so small that the one of half the size serves better (plain numbers only)."""
        return math.hypot(float(self.texel[0]), float(self.texel[1])) > 1.2

    def texel_at(self, u: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Column and row in the texture, in texels of the full size, that the points show."""
        du, dy, (cos, sin, along, across) = u - self.centre[0], y - self.centre[1], self.texel
        return du * cos + dy * sin + along, dy * cos - du * sin + across

    def from_right(self, x_right: Tensor, y: Tensor) -> Tensor:
        """The u whose point the right camera sees at column x_right: solves u - d(u, y) = x_right.

        On a plane in closed form, elsewhere by Newton's method: slopes stay below 0.75 along u, so the function is increasing.
        The steepest relief that can be drawn takes seven steps to the limit of float32, an ordinary one three or four.
        """
        slope, (centre_u, centre_y) = self.slope[0], self.centre
        along_y = self.slope[1] * (y - centre_y) + (self.disp - slope * centre_u)  # what does not change with u
        if self.flat:
            return (x_right + along_y) / (1 - slope)
        if _present(self.bulge):
            near_y = (y - centre_y) / self.radius[1]
            along_y = along_y - self.bulge * near_y.clamp(-BULGE_REACH, BULGE_REACH).square()
        phase_y = self.wave[1] * y + self.wave[2]
        u = (x_right + along_y) / (1 - slope)  # the plane's answer is a good start
        moving = torch.ones_like(u, dtype=torch.bool)
        for _ in range(NEWTON_STEPS):
            disp = along_y + slope * u
            steep: Number = slope
            if _present(self.bulge):
                near = (u - centre_u) / self.radius[0]
                inside = near.clamp(-BULGE_REACH, BULGE_REACH)
                disp = disp - self.bulge * inside.square()
                steep = steep - (2 * self.bulge / self.radius[0]) * torch.where(inside == near, near, 0)
            if _present(self.ripple):
                phase = self.wave[0] * u + phase_y
                disp = disp + self.ripple * phase.sin()
                steep = steep + (self.ripple * self.wave[0]) * phase.cos()
            # A point that has arrived stays, so that its u does not depend on which other points are asked for with it.
            step = ((u - disp - x_right) / (1 - steep)).masked_fill(~moving, 0)
            u, moving = u - step, step.abs() >= NEWTON_TOLERANCE
            if all_arrived(moving):
                break
        return u

    def covers(self, u: Tensor, y: Tensor) -> Tensor:
        """True where the point belongs to the sheet."""
        if self.shape == "everywhere":
            return torch.ones_like(u, dtype=torch.bool)
        du, dy = u - self.centre[0], y - self.centre[1]
        cos, sin = self.axis
        p, q = (du * cos + dy * sin) / self.radius[0], (dy * cos - du * sin) / self.radius[1]
        if self.shape in ("box", "bar"):
            return torch.maximum(p.abs(), q.abs()) < 1
        if self.shape in ("lattice", "fence"):
            inside = torch.maximum(p.abs(), q.abs()) < 1
            bars = (p * self.details[0]) % 1 < self.details[2]
            return inside & (bars if self.shape == "fence" else bars | ((q * self.details[1]) % 1 < self.details[2]))
        if self.shape == "wire":
            path = WIRE_SWING * torch.sin(p * self.details[0] + self.details[1])
            return (p.abs() < 1) & ((q - path).abs() * self.radius[1] < self.details[2])
        if self.shape == "polygon":
            edges = (p * cos + q * sin for cos, sin in zip(self.details[::2], self.details[1::2], strict=True))
            # Two edges far apart meet in a tip that may leave the square; cut it off, or it would exceed ``extent``.
            return (functools.reduce(torch.maximum, edges) < 0.75) & (torch.maximum(p.abs(), q.abs()) < 1)
        r2 = p * p + q * q
        if self.shape == "ring":
            return (r2 < 1) & (r2 > self.details[0] ** 2)
        if self.shape == "blob":
            waves, phase, depth = self.details
            return r2.sqrt() < 1 + depth * torch.sin(torch.atan2(q, p) * waves + phase)
        return r2 < 1


@dataclass(frozen=True)
class Shadow:
    """What a sheet does to those behind it, as a function of their points, so that both views agree.

    A point is dimmed to ``light`` if its place, moved by ``offset`` px for every px of disparity by which the sheet is nearer,
    lies on the sheet.
    """

    caster: int  # number of the sheet
    offset: tuple[float, float]  # along u and y
    light: float  # in (0, 1)


def lightness(caster: Surface, offset: tuple[Number, Number], light: Number, u: Tensor, y: Tensor, disp: Tensor) -> Tensor:
    """1 or the shadow's light, for points (u, y) of other sheets, of disparity ``disp``."""
    gap = caster.disp - disp  # to the caster's centre: a shadow need not be exact, only the same in both views
    inside = caster.covers(u + offset[0] * gap, y + offset[1] * gap)
    return torch.where(inside & (gap > 0), light, 1.0)


@dataclass(frozen=True)
class Scene:
    """Surfaces (the first one covers everything), shadows, and the size in px of the frame that they were composed for."""

    surfaces: tuple[Surface, ...]
    height: int
    width: int
    shadows: tuple[Shadow, ...] = ()
