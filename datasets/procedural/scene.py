"""Drawing a scene: a small bag of numbers from (seed, index)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from datasets.procedural.surface import BULGE_REACH, OBJECTS, SLOPES, THIN, Scene, Shadow, Surface
from stereo.config import ContentConfig

CASTERS = 3  # sheets that cast a shadow, at most


def _shape_details(rng: np.random.Generator, shape: str, radius: tuple[float, float]) -> tuple[float, ...]:
    if shape in ("lattice", "fence"):
        return (max(radius[0] / rng.uniform(8, 40), 1.0), max(radius[1] / rng.uniform(8, 40), 1.0), rng.uniform(0.15, 0.6))
    if shape == "wire":
        return (rng.uniform(1, 6), rng.uniform(0, 6.28), rng.uniform(0.8, 3.0))
    if shape == "polygon":
        angles = (np.sort(rng.uniform(0, 0.9, 5)) + np.arange(5)) * 2 * np.pi / 5
        return tuple(np.stack([np.cos(angles), np.sin(angles)], axis=1).ravel())  # the normals of its edges
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
    angle, scale = rng.uniform(0, 6.28), np.exp(rng.uniform(np.log(0.3), np.log(2.5)))
    texel = (scale * np.cos(angle), scale * np.sin(angle), *rng.uniform(0, 512, 2))
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
            "everywhere", (self.width / 2, self.height / 2), radius, (1.0, 0.0), float(max(self.far, least)),
            tuple(slope.tolist()), details=(), **relief, **_appearance(rng, self.textures),
        )  # fmt: skip

    def _plane(self, rng: np.random.Generator, centre: tuple[float, float], slope: tuple[float, float]) -> Surface:
        """A sheet without edges that is as far as the background at ``centre`` and hides behind it on one side."""
        return Surface(
            "everywhere", centre, (self.width, self.height), (1.0, 0.0), self.far, slope, details=(),
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
        angle = rng.choice([0.0, np.pi / 2, rng.uniform(0, np.pi)], p=[0.2, 0.2, 0.6])
        return Surface(
            shape, tuple(centre.tolist()), (float(radius[0]), float(radius[1])),
            (float(np.cos(angle)), float(np.sin(angle))), float(disp), tuple(slope.tolist()),
            details=tuple(map(float, _shape_details(rng, shape, radius))),
            **relief, **_appearance(rng, self.textures),
        )  # fmt: skip


def _shadows(rng: np.random.Generator, surfaces: list[Surface]) -> tuple[Shadow, ...]:
    """One lamp for the scene; its largest objects cast."""
    offset, light = (float(rng.uniform(-0.8, 0.8)), float(rng.uniform(-0.3, 1.0))), float(rng.uniform(0.35, 0.8))
    objects = [number for number, surface in enumerate(surfaces) if surface.shape != "everywhere"]
    largest = sorted(objects, key=lambda number: -sum(surfaces[number].extent))[:CASTERS]
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
    far = float(surfaces[0].disp)
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
