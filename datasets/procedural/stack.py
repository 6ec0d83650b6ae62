"""Shots -> arrays: what rendering a batch needs to know, in a form that is cheap to hand over from process to process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from datasets.procedural.shots import Development, Shot
from datasets.procedural.surface import SHAPES, Surface
from datasets.procedural.textures import COUNT, SIZE
from stereo.config import ContentConfig

# Rows of Stack.numbers.
PLANE = slice(0, 5)  # centre, slope, disparity
OUTLINE = slice(5, 9)  # radius, axis
RELIEF = slice(9, 14)  # bulge, ripple, wave
DETAILS = slice(14, 24)
LIGHT = slice(24, 26)
TEXEL = slice(26, 30)
COLOUR = slice(30, 36)  # gain, offset

KINDS = 2 * len(SHAPES)  # of sheets: every shape without and with a relief
BANK_TEXELS = COUNT * (SIZE**2 + (SIZE // 2) ** 2)

WIDER = 0.01  # px by which windows reach beyond the bounds of their sheets: what rounding may add

BankKey = tuple[int, int, ContentConfig]


@dataclass(frozen=True)
class Stack:
    """The sheets of B shots side by side, S in all, those of a shot in order. All shots have one size.

    banks:   the texture banks in use, as texture_bank wants to know them.
    numbers: (36, S) float32, the fields of the sheets in the rows named above.
    kind:    (S,) place in SHAPES, plus len(SHAPES) for a sheet with a relief.
    shot, number: (S,) where the sheet comes from, and which one of its scene it is.
    texture: (2, S) the first texel in the banks laid end to end, and the side, in texels, of what the sheet shows.
    bounds:  (2, 4, S) px, Surface.bounds for the left and the right camera.
    first:   (B,) each shot's first sheet. top: (B,) the first row of its window.
    tilted:  (T,) shots whose right camera is not aligned; tilt: (T, 2) float32, how.
    casters: (K,) sheets that cast shadows; shadows: (3, K) float32, their offsets and their light.
    """

    names: tuple[str, ...]
    height: int
    width: int
    banks: tuple[BankKey, ...]
    numbers: np.ndarray
    kind: np.ndarray
    shot: np.ndarray
    number: np.ndarray
    texture: np.ndarray
    bounds: np.ndarray
    first: np.ndarray
    top: np.ndarray
    tilted: np.ndarray
    tilt: np.ndarray
    casters: np.ndarray
    shadows: np.ndarray
    developments: tuple[Development | None, ...]


def stack_shots(shots: Sequence[Shot]) -> Stack:
    """Shots of one size (asserted), one or more."""
    size = shots[0].height, shots[0].width
    assert all((shot.height, shot.width) == size for shot in shots)
    banks = tuple(dict.fromkeys(shot.bank for shot in shots))
    counts = [len(shot.scene.surfaces) for shot in shots]
    assert max(counts) <= 256, "the renderer has one byte for a sheet's number"
    first = np.cumsum([0, *counts[:-1]])
    surfaces = [surface for shot in shots for surface in shot.scene.surfaces]
    bank_of = [banks.index(shot.bank) for shot in shots]
    shadows = [(start, shadow) for start, shot in zip(first, shots, strict=True) for shadow in shot.scene.shadows]
    tilts = [(number, shot.tilt) for number, shot in enumerate(shots) if shot.tilt]
    return Stack(
        names=tuple(shot.name for shot in shots),
        height=size[0],
        width=size[1],
        banks=banks,
        numbers=np.array([_numbers(surface) for surface in surfaces], np.float32).T.copy(),
        kind=np.array([SHAPES.index(s.shape) + (0 if s.flat else len(SHAPES)) for s in surfaces]),
        shot=np.repeat(np.arange(len(shots)), counts),
        number=np.concatenate([np.arange(count) for count in counts]),
        texture=np.array([_texture(s, bank) for s, bank in zip(surfaces, np.repeat(bank_of, counts), strict=True)]).T.copy(),
        bounds=np.array([[surface.bounds(right) for surface in surfaces] for right in (False, True)]).transpose(0, 2, 1),
        first=first,
        top=np.array([shot.top for shot in shots]),
        tilted=np.array([number for number, _ in tilts], int),
        tilt=np.array([tilt for _, tilt in tilts], np.float32).reshape(-1, 2),
        casters=np.array([start + shadow.caster for start, shadow in shadows], int),
        shadows=np.array([(*shadow.offset, shadow.light) for _, shadow in shadows], np.float32).reshape(-1, 3).T.copy(),
        developments=tuple(shot.development for shot in shots),
    )


def _numbers(s: Surface) -> tuple:
    unused = (0.0,) * (DETAILS.stop - DETAILS.start - len(s.details))
    return (
        *s.centre, *s.slope, s.disp, *s.radius, *s.axis, s.bulge, s.ripple, *s.wave, *s.details, *unused,
        *s.light, *s.texel, *s.gain, *s.offset,
    )  # fmt: skip


def _texture(surface: Surface, bank: int) -> tuple[int, int]:
    side = SIZE // 2 if surface.shrinks else SIZE
    small_ones = COUNT * SIZE**2 if surface.shrinks else 0  # they follow the large ones of their bank
    return bank * BANK_TEXELS + small_ones + int(surface.texture) * side**2, side


@dataclass(frozen=True)
class Windows:
    """Of every sheet in every view where it may be seen, sorted by kind: the sheet, first pixel (of all views), size in px."""

    sheet: np.ndarray
    corner: np.ndarray
    rows: np.ndarray
    columns: np.ndarray


def windows_of(stack: Stack, shots: np.ndarray, right: bool, tilt: np.ndarray | None) -> Windows:
    view, sheet = sheets_of(stack, shots, stack.kind % len(SHAPES) != SHAPES.index("everywhere"))
    x0, x1, y0, y1 = stack.bounds[int(right)][:, sheet]
    shift, roll = (np.zeros((2, len(shots))) if tilt is None else tilt.T.astype(float))[:, view]
    # A pixel of a rolled camera lies at most so far from where it would lie without.
    slack_x, slack_y = WIDER + np.abs(roll) * stack.height / 2, WIDER + np.abs(roll) * stack.width / 2
    above = stack.top[shots][view] + shift
    left, after = _whole(x0 - slack_x, x1 + slack_x, stack.width)
    top, below = _whole(y0 - above - slack_y, y1 - above + slack_y, stack.height)
    seen = np.flatnonzero((left < after) & (top < below))
    seen = seen[np.argsort(stack.kind[sheet[seen]], kind="stable")]
    corner = (view * stack.height + top) * stack.width + left
    return Windows(sheet[seen], corner[seen], (below - top)[seen], (after - left)[seen])


def _whole(low: np.ndarray, high: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The whole numbers of 0 .. count-1 from low to high: the first one, and the one after the last."""
    return np.ceil(np.clip(low, 0, count)).astype(int), np.floor(np.clip(high, -1, count - 1)).astype(int) + 1


def sheets_of(stack: Stack, shots: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All (view, sheet) where the sheet is of the view's shot (V,) and ``wanted`` (S,)."""
    view, sheet = np.nonzero((stack.shot == shots[:, None]) & wanted)
    return view, sheet
