"""A scene: a small bag of numbers drawn from (seed, index). Geometry as pure functions of those numbers.

Coordinates: (u, y) is a point of the scene by its column and row in the left image (real-valued). A surface is a disparity
function d(u, y) and a shape mask over (u, y); the right camera sees the point at column u - d(u, y).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stereo.config import ContentConfig

# Shapes of objects and how often each is drawn.
OBJECTS = (
    ("ellipse", 0.15), ("box", 0.17), ("blob", 0.14), ("polygon", 0.17), ("bar", 0.12), ("ring", 0.05), ("lattice", 0.06),
    ("fence", 0.06), ("wire", 0.08),
)  # fmt: skip
SHAPES = ("everywhere", *(shape for shape, _ in OBJECTS))
THIN = ("bar", "ring", "lattice", "fence", "wire")
SLOPES = (-0.8, 0.35)  # along u; with the relief on top it stays below 0.75, see Surface.from_right
CASTERS = 3  # sheets that cast a shadow, at most
NEWTON_STEPS, NEWTON_TOLERANCE = 7, 0.01  # px; convergence is quadratic: after such a step the rest is rounding
BULGE_REACH = 1.5  # a bulge is flat beyond this many radii, which bounds its slope everywhere


@dataclass(frozen=True)
class Surface:
    """One sheet. Lengths in px; slopes in px of disparity per px."""

    shape: str
    centre: tuple[float, float]  # (u, y)
    radius: tuple[float, float]  # half sizes along the rotated axes
    angle: float
    disp: float  # at the centre
    slope: tuple[float, float]  # along u, along y
    bulge: float  # disparity lost one radius away from the centre
    ripple: float  # amplitude of a wave on the sheet
    wave: tuple[float, float, float]  # angular frequency along u and y, phase
    details: tuple[float, ...]  # numbers that the shape interprets
    texture: int
    texel: tuple[float, float, float, float]  # rotation, scale (texels per px), offsets
    gain: tuple[float, float, float]  # recolouring, per channel
    offset: tuple[float, float, float]
    light: tuple[float, float]

    @property
    def reach(self) -> float:
        """Half the diagonal: the shape lies within this distance of its centre along u and y."""
        thickness = self.details[2] if self.shape == "wire" else 0.0  # px, on top of the wire's path
        return float(np.hypot(*self.radius)) * (1.4 if self.shape == "blob" else 1.0) + thickness

    @property
    def flat(self) -> bool:
        return self.bulge == 0 and self.ripple == 0

    def disparity(self, u: Tensor, y: Tensor) -> Tensor:
        """d at points (u, y)."""
        du, dy = u - self.centre[0], y - self.centre[1]
        disp = self.slope[0] * du + self.slope[1] * dy + self.disp
        if self.bulge:
            for delta, radius in ((du, self.radius[0]), (dy, self.radius[1])):
                disp = disp - self.bulge * (delta / radius).clamp(-BULGE_REACH, BULGE_REACH).square()
        if self.ripple:
            disp = disp + self.ripple * (self.wave[0] * u + self.wave[1] * y + self.wave[2]).sin()
        return disp

    def slopes(self, u: Tensor, y: Tensor) -> tuple[Tensor | float, Tensor | float]:
        """Derivatives of d along u and along y (plain numbers on a plane)."""
        along: list[Tensor | float] = list(self.slope)
        if self.bulge:
            for axis, x in enumerate((u, y)):
                near = (x - self.centre[axis]) / self.radius[axis]
                steep = (2 * self.bulge / self.radius[axis]) * near
                along[axis] = along[axis] - steep * (near.abs() < BULGE_REACH)
        if self.ripple:
            swing = self.ripple * (self.wave[0] * u + self.wave[1] * y + self.wave[2]).cos()
            along = [slope + wave * swing for slope, wave in zip(along, self.wave, strict=False)]
        return along[0], along[1]

    def from_right(self, x_right: Tensor, y: Tensor) -> Tensor:
        """The u whose point the right camera sees at column x_right: solves u - d(u, y) = x_right.

        On a plane in closed form, elsewhere by Newton's method: slopes stay below 0.75 along u, so the function is increasing.
        The steepest relief that can be drawn takes seven steps to the limit of float32, an ordinary one three or four.
        """
        slope, (centre_u, centre_y) = self.slope[0], self.centre
        along_y = self.slope[1] * (y - centre_y) + (self.disp - slope * centre_u)  # what does not change with u
        if self.flat:
            return (x_right + along_y) / (1 - slope)
        if self.bulge:
            near_y = (y - centre_y) / self.radius[1]
            along_y = along_y - self.bulge * near_y.clamp(-BULGE_REACH, BULGE_REACH).square()
        phase_y = self.wave[1] * y + self.wave[2]
        u = (x_right + along_y) / (1 - slope)  # the plane's answer is a good start
        moving = torch.ones_like(x_right, dtype=torch.bool)
        for _ in range(NEWTON_STEPS):
            disp = along_y + slope * u
            steep: Tensor | float = slope
            if self.bulge:
                near = (u - centre_u) / self.radius[0]
                inside = near.clamp(-BULGE_REACH, BULGE_REACH)
                disp = disp - self.bulge * inside.square()
                steep = steep - (2 * self.bulge / self.radius[0]) * torch.where(inside == near, near, 0)
            if self.ripple:
                phase = self.wave[0] * u + phase_y
                disp = disp + self.ripple * phase.sin()
                steep = steep + (self.ripple * self.wave[0]) * phase.cos()
            # A point that has arrived stays, so that its u does not depend on which other points are asked for with it.
            step = ((u - disp - x_right) / (1 - steep)).masked_fill(~moving, 0)
            u, moving = u - step, step.abs() >= NEWTON_TOLERANCE
            if not moving.any():
                break
        return u

    def covers(self, u: Tensor, y: Tensor) -> Tensor:
        """True where the point belongs to the sheet."""
        if self.shape == "everywhere":
            return torch.ones_like(u, dtype=torch.bool)
        du, dy = u - self.centre[0], y - self.centre[1]
        cos, sin = float(np.cos(self.angle)), float(np.sin(self.angle))
        p, q = (du * cos + dy * sin) / self.radius[0], (dy * cos - du * sin) / self.radius[1]
        if self.shape in ("box", "bar"):
            return torch.maximum(p.abs(), q.abs()) < 1
        if self.shape in ("lattice", "fence"):
            inside = torch.maximum(p.abs(), q.abs()) < 1
            bars = (p * self.details[0]) % 1 < self.details[2]
            return inside & (bars if self.shape == "fence" else bars | ((q * self.details[1]) % 1 < self.details[2]))
        if self.shape == "wire":
            path = 0.8 * torch.sin(p * self.details[0] + self.details[1])
            return (p.abs() < 1) & ((q - path).abs() * self.radius[1] < self.details[2])
        if self.shape == "polygon":
            edges = [p * float(np.cos(a)) + q * float(np.sin(a)) for a in self.details]
            # Two edges far apart meet in a tip that may leave the square; cut it off, or it would exceed ``reach``.
            return (torch.stack(edges).amax(dim=0) < 0.75) & (torch.maximum(p.abs(), q.abs()) < 1)
        r2 = p * p + q * q
        if self.shape == "ring":
            return (r2 < 1) & (r2 > self.details[0] ** 2)
        if self.shape == "blob":
            waves, phase, depth = self.details
            return r2.sqrt() < 1 + depth * torch.sin(torch.atan2(q, p) * round(waves) + phase)
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


@dataclass(frozen=True)
class Scene:
    """Surfaces (the first one covers everything), shadows, and the size in px of the frame that they were composed for."""

    surfaces: tuple[Surface, ...]
    height: int
    width: int
    shadows: tuple[Shadow, ...] = ()


def _shape_details(rng: np.random.Generator, shape: str, radius: tuple[float, float]) -> tuple[float, ...]:
    if shape in ("lattice", "fence"):
        return (max(radius[0] / rng.uniform(8, 40), 1.0), max(radius[1] / rng.uniform(8, 40), 1.0), rng.uniform(0.15, 0.6))
    if shape == "wire":
        return (rng.uniform(1, 6), rng.uniform(0, 6.28), rng.uniform(0.8, 3.0))
    if shape == "polygon":
        return tuple((np.sort(rng.uniform(0, 0.9, 5)) + np.arange(5)) * 2 * np.pi / 5)
    if shape == "ring":
        return (rng.uniform(0.4, 0.8),)
    if shape == "blob":
        return (float(rng.integers(2, 7)), rng.uniform(0, 6.28), rng.uniform(0.1, 0.35))
    return ()


def _appearance(rng: np.random.Generator, textures: int) -> dict:
    contrast = np.exp(rng.uniform(np.log(0.3), 0.0))
    gain = contrast * rng.uniform(0.7, 1.0, 3) * (1 if rng.random() < 0.7 else -1)
    # Dark and bright as a whole, with a cast: colours drawn one by one would all be a medium grey.
    brightness = np.clip(rng.uniform(-0.1, 1.1) + rng.normal(0, 0.15, 3), 0, 1)
    offset = brightness * (1 - np.abs(gain)) + np.where(gain > 0, 0, -gain)
    texel = (rng.uniform(0, 6.28), np.exp(rng.uniform(np.log(0.3), np.log(2.5))), *rng.uniform(0, 512, 2))
    return {
        "texture": int(rng.integers(textures)),
        "texel": tuple(map(float, texel)),
        "gain": tuple(gain.tolist()),
        "offset": tuple(offset.tolist()),
        "light": tuple(rng.uniform(-0.6, 0.6, 2).tolist()),
    }


def _relief(rng: np.random.Generator, radius: tuple[float, float], share: float, tilt: float) -> dict:
    """Bulge and ripple whose slopes along u stay small enough for one u per right column (see Surface.from_right).

    tilt: disparity over focal length, to which the relief of a thing of given proportions is proportional.
    """
    bulge = ripple = 0.0
    wave = (0.0, 0.0, 0.0)
    if rng.random() < share:
        bulge = rng.uniform(-0.05, 0.08) * min(radius) * min(10 * tilt, 1.0)
    if rng.random() < share / 2:
        periods = rng.uniform(20, 200, 2)
        wave = (2 * np.pi / periods[0], 2 * np.pi / periods[1], rng.uniform(0, 6.28))
        ripple = rng.uniform(0, 0.15) / max(wave[0], wave[1]) * min(10 * tilt, 1.0)
    return {"bulge": float(bulge), "ripple": float(ripple), "wave": tuple(map(float, wave))}


NO_RELIEF: dict[str, Any] = {"bulge": 0.0, "ripple": 0.0, "wave": (0.0, 0.0, 0.0)}


@dataclass(frozen=True)
class _Room:
    """What all sheets of a scene have in common: the frame in px, the nearest and the farthest disparity, what is wanted."""

    height: int
    width: int
    near: float
    far: float
    textures: int
    content: ContentConfig

    def background(self, rng: np.random.Generator) -> Surface:
        """A wall, a slanted wall or a curved one; its disparity is >= 0 on every point that either camera can see."""
        radius = (self.width / 2.0, self.height / 2.0)
        slope = rng.normal(0, 0.6, 2) * self.far / radius * (rng.random() < 0.6) * self.content.slants
        slope[0] = np.clip(slope[0], *SLOPES)
        relief = _relief(rng, radius, 0.3 * self.content.relief, self.far / self.width)
        reach = self.width / 2 + self.far * 2  # the right camera also sees points beyond the left image's right edge
        swing = abs(relief["bulge"]) * 2 * BULGE_REACH**2 + relief["ripple"]
        least = abs(slope[0]) * reach + abs(slope[1]) * self.height / 2 + swing
        return Surface(
            "everywhere", (self.width / 2, self.height / 2), radius, 0.0, float(max(self.far, least)), tuple(slope.tolist()),
            details=(), **relief, **_appearance(rng, self.textures),
        )  # fmt: skip

    def _plane(self, rng: np.random.Generator, centre: tuple[float, float], slope: tuple[float, float]) -> Surface:
        """A sheet without edges that is as far as the background at ``centre`` and hides behind it on one side."""
        return Surface(
            "everywhere", centre, (self.width, self.height), 0.0, self.far, slope, details=(),
            **NO_RELIEF, **_appearance(rng, self.textures),
        )  # fmt: skip

    def floor(self, rng: np.random.Generator) -> Surface:
        """A ground plane: disparity grows downwards from its horizon."""
        horizon, near = rng.uniform(0.2, 0.7) * self.height, self._between(rng, 0.3, 0.9)
        slope = float(rng.normal(0, 0.03)) * self.content.slants, float((near - self.far) / (self.height - horizon))
        return self._plane(rng, (self.width / 2, float(horizon)), slope)

    def ceiling(self, rng: np.random.Generator) -> Surface:
        """The same upside down."""
        horizon, near = rng.uniform(0.1, 0.5) * self.height, self._between(rng, 0.1, 0.6)
        return self._plane(rng, (self.width / 2, float(horizon)), (0.0, float((self.far - near) / horizon)))

    def side_wall(self, rng: np.random.Generator, right: bool) -> Surface:
        """Disparity grows from a corner towards the left or the right edge of the frame."""
        depth, near = rng.uniform(0.1, 0.45) * self.width, self._between(rng, 0.2, 0.9)
        steep = float(np.clip((near - self.far) / depth * (1 if right else -1), *SLOPES))
        return self._plane(rng, (float(self.width - depth if right else depth), self.height / 2), (steep, 0.0))

    def _between(self, rng: np.random.Generator, low: float, high: float) -> float:
        return self.far + (self.near - self.far) * float(rng.uniform(low, high))

    def object(self, rng: np.random.Generator, floor: Surface | None) -> Surface:
        shares = np.array([share * (self.content.thin if shape in THIN else 1.0) for shape, share in OBJECTS])
        shape = OBJECTS[rng.choice(len(OBJECTS), p=shares / shares.sum())][0]
        size = np.exp(rng.uniform(np.log(0.03), np.log(0.35))) * self.width
        radius = (size, size * rng.uniform(0.4, 1.6))
        if shape == "bar":
            radius = (size * 1.5, rng.uniform(1.0, 6.0))
        elif shape == "wire":
            radius = (size * 1.5, size * rng.uniform(0.05, 0.4))
        centre = rng.uniform(-0.05, 1.05, 2) * (self.width, self.height)
        disp = self.far + (self.near - self.far) * rng.random() ** 1.2
        if floor is not None and rng.random() < self.content.standing:
            # As near as the floor at its foot; where there is no floor yet it stays where it is, as if it hung.
            foot = float(floor.slope[1] * (centre[1] + radius[1] - floor.centre[1]) + floor.disp)
            disp = min(foot, self.near) if foot > self.far else disp
        steep = rng.random() < 0.15  # grazing: the right view sees it much narrower or wider
        # The slope of a plane is its disparity over the focal length, here the width, times the tangent of its angle.
        tilt = disp / self.width
        slope = rng.normal(0, 3.0 if steep else 0.6, 2) * tilt * (rng.random() < 0.75) * self.content.slants
        slope = np.clip(slope, *SLOPES)
        relief = _relief(rng, radius, 0.0 if shape in ("bar", "wire") else 0.5 * self.content.relief, tilt)
        return Surface(
            shape, tuple(centre.tolist()), (float(radius[0]), float(radius[1])),
            float(rng.choice([0.0, np.pi / 2, rng.uniform(0, np.pi)], p=[0.2, 0.2, 0.6])),
            float(disp), tuple(slope.tolist()), details=tuple(map(float, _shape_details(rng, shape, radius))),
            **relief, **_appearance(rng, self.textures),
        )  # fmt: skip


def _shadows(rng: np.random.Generator, surfaces: list[Surface]) -> tuple[Shadow, ...]:
    """One lamp for the scene; its largest objects cast."""
    offset, light = (float(rng.uniform(-0.8, 0.8)), float(rng.uniform(-0.3, 1.0))), float(rng.uniform(0.35, 0.8))
    objects = [number for number, surface in enumerate(surfaces) if surface.shape != "everywhere"]
    largest = sorted(objects, key=lambda number: -surfaces[number].reach)[:CASTERS]
    return tuple(Shadow(number, offset, light) for number in sorted(largest))


def draw_scene(
    rng: np.random.Generator, height: int, width: int, max_disparity: float, textures: int, content: ContentConfig | None = None
) -> Scene:
    """Compose a scene for a frame of height x width px.

    max_disparity: upper end, as a share of the width, of the log-uniform nearest disparity (the lower end is 6 px).
    textures: how many there are to choose from.
    """
    content = content or ContentConfig()
    near = float(np.exp(rng.uniform(np.log(6.0), np.log(max(max_disparity * width, 7.0)))))
    far = near * float(rng.uniform(0.02, 0.45))
    room = _Room(height, width, near, far, textures, content)
    surfaces = [room.background(rng)]
    far = surfaces[0].disp
    room = replace(room, far=far, near=max(near, far * 1.2))
    floor = room.floor(rng) if rng.random() < content.floors else None
    surfaces += [floor] if floor else []
    if rng.random() < content.walls:
        built = rng.random(3) < 0.6
        surfaces += [wall for wall, wanted in ((room.ceiling(rng), built[0]), (room.side_wall(rng, False), built[1]),
                                               (room.side_wall(rng, True), built[2])) if wanted]  # fmt: skip
    surfaces += [room.object(rng, floor) for _ in range(int(rng.integers(4, 26)))]
    shadows = _shadows(rng, surfaces) if rng.random() < content.shadows else ()
    return Scene(tuple(surfaces), height, width, shadows)
