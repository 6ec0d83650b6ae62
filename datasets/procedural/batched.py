"""Rendering whole batches on any device: the formulas of ``surface`` on the sheets of all scenes at once.

What the scenes have in common is their formulas, not their numbers. So the sheets' fields become a table, and every step
works on a flat list of points that each name their sheet: the pixels of the windows in which objects can lie, the places where
an occluder is looked for, the pixels to be coloured. The list is sorted by kind of sheet, which leaves a handful of calls for
a batch of any size. The host decides all sizes but two: which pixels have another sheet beside their match, and of what kind.

Nothing depends on what else is in a batch: on a CPU a shot has the same bits alone and among others. (On a graphics card the
sums of blur and JPEG are in the hands of libraries, which may order them by the size of the batch.) Nor does a result change
from run to run: the only operations that race are maxima of whole numbers.

Memory: while they are rendered, 64 shots of 256 x 512 px take about 2.2 GB (33 MiB each, measured on a CPU) besides 32 MB for
each texture bank. The need is in proportion to the pixels; datasets.batches renders no more than 64 at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datasets.procedural.photometric import photometric_batch
from datasets.procedural.render import TOLERANCE
from datasets.procedural.shots import Shot, tilted
from datasets.procedural.stack import (
    COLOUR,
    DETAILS,
    KINDS,
    LIGHT,
    OUTLINE,
    PLANE,
    RELIEF,
    TEXEL,
    BankKey,
    Stack,
    sheets_of,
    stack_shots,
    windows_of,
)  # fmt: skip
from datasets.procedural.surface import SHAPES, Number, Surface, lightness
from datasets.procedural.textures import SIZE, Bank, texture_bank
from stereo.types import Batch

DETAILS_OF = {"lattice": 3, "fence": 3, "wire": 3, "polygon": 10, "ring": 1, "blob": 3}


@dataclass(frozen=True)
class Views:
    """What V cameras see of V scenes, per pixel: the sheet (int32, by its place in the stack), the point (u, y), its disparity.

    All (V, h, w). shot: (V,) on the host, whose scene it is.
    """

    shot: np.ndarray
    sheet: Tensor
    u: Tensor
    y: Tensor
    disp: Tensor


def flat_texels(bank: Bank) -> Tensor:
    """All textures of a bank, large ones first, as rows of three: (BANK_TEXELS, 3)."""
    return torch.cat([textures.permute(0, 2, 3, 1).reshape(-1, 3) for textures in bank])


class Renderer:
    """A stack of shots on a device."""

    def __init__(self, stack: Stack, banks: Mapping[BankKey, Tensor], device: torch.device | str):
        """banks: flat_texels of all that the stack names, on the device."""
        self.stack, self.device = stack, torch.device(device)
        self.numbers = self._sent(stack.numbers)
        self.colours = self.numbers[COLOUR].T.contiguous()  # (S, 6): read as rows
        self.texture = self._sent(stack.texture.astype(np.int32))
        self.texels = torch.cat([banks[key] for key in stack.banks])

    def _sent(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device, non_blocking=True)

    # -----------------------------------------------------------------------------------------------------------------
    # Sheets at points

    def _rows(self, rows: slice, sheet: Tensor) -> list[Tensor]:
        """Some fields of the sheets named by ``sheet``, each in its shape."""
        flat = sheet.reshape(-1)
        return [row.index_select(0, flat).view(sheet.shape) for row in self.numbers[rows]]

    def _surface(self, sheet: Tensor, relief: bool, shape: str = "everywhere") -> Surface:
        """Sheets as a Surface whose fields have the shape of ``sheet``; without what colouring wants to know."""
        centre_u, centre_y, slope_u, slope_y, disp = self._rows(PLANE, sheet)
        p, q, cos, sin = self._rows(OUTLINE, sheet)
        numbers: Sequence[Number] = self._rows(RELIEF, sheet) if relief else [0.0] * 5
        bulge, ripple, along, across, phase = numbers
        return Surface(
            shape, (centre_u, centre_y), (p, q), (cos, sin), disp, (slope_u, slope_y), bulge, ripple, (along, across, phase),
            tuple(self._details(sheet, shape)), 0, (0.0,) * 4, (0.0,) * 3, (0.0,) * 3, (0.0,) * 2,
        )  # fmt: skip

    def _details(self, sheet: Tensor, shape: str) -> list[Tensor]:
        return self._rows(slice(DETAILS.start, DETAILS.start + DETAILS_OF.get(shape, 0)), sheet)

    def _ask(self, sheet: Tensor, x: Tensor, y: Tensor, counts: list[int], right: bool) -> tuple[Tensor, Tensor]:
        """Disparity and membership of the point of ``sheet`` that a camera sees at (x, y). All (N,), sorted by kind.

        counts: of points of every kind.
        """
        disp, inside = torch.empty_like(x), torch.ones_like(x, dtype=torch.bool)
        start = 0
        for relief in (False, True):
            mine = counts[relief * len(SHAPES) :][: len(SHAPES)]
            part = slice(start, start + sum(mine))
            if part.stop > start:
                surface = self._surface(sheet[part], relief)
                u = surface.from_right(x[part], y[part]) if right else x[part]
                disp[part] = surface.disparity(u, y[part])
                self._mark(surface, sheet[part], u, y[part], mine, inside[part])
            start = part.stop
        return disp, inside

    def _mark(self, surface: Surface, sheet: Tensor, u: Tensor, y: Tensor, counts: list[int], inside: Tensor) -> None:
        """Write the points' membership, shape by shape, to ``inside``."""
        start = 0
        for shape, count in zip(SHAPES, counts, strict=True):
            part = slice(start, start + count)
            if count and shape != "everywhere":
                outline: dict[str, Any] = {
                    name: tuple(x[part] for x in getattr(surface, name)) for name in ("centre", "radius", "axis")
                }
                few = replace(surface, shape=shape, details=tuple(self._details(sheet[part], shape)), **outline)
                inside[part] = few.covers(u[part], y[part])
            start = part.stop

    # -----------------------------------------------------------------------------------------------------------------
    # Geometry

    def trace(self, shots: np.ndarray, right: bool, tilt: np.ndarray | None = None) -> Views:
        """The nearest sheet at every pixel of one camera of each of the shots (V,).

        tilt: (V, 2) float32 shift and roll of the cameras; None for aligned ones.
        Candidates meet in one whole number per pixel: the bits of a disparity that is not negative are in its order, and below
        them stands the sheet's number, such that of equal ones the first wins. A maximum does not depend on an order.
        """
        height, width = self.stack.height, self.stack.width
        top = self._sent(self.stack.top[shots].astype(np.float32))[:, None, None]
        y = torch.arange(height, device=self.device)[:, None] + top
        x = torch.arange(width, device=self.device, dtype=torch.float32).expand(len(shots), height, width)
        if tilt is not None:
            shift, roll = self._sent(tilt).T[:, :, None, None]
            x, y = tilted(x, y, ((width - 1) / 2, top + (height - 1) / 2), shift, roll)
        x, y = x.contiguous(), y.expand_as(x).contiguous()
        nearest = torch.full(x.shape, -1, dtype=torch.int64, device=self.device)
        self._planes(nearest, shots, x, y, right)
        self._objects(nearest, shots, x, y, right, tilt)
        disp = (nearest >> 8).int().view(torch.float32)
        first = self._sent(self.stack.first[shots].astype(np.int32))[:, None, None]
        sheet = first + (255 - (nearest & 255).int())
        return Views(shots, sheet, x + disp if right else x, y, disp)

    def _keys(self, disp: Tensor, number: Tensor) -> Tensor:
        """A disparity below 0 counts as 0: only rounding and a tilted camera meet one, on a background."""
        return (disp.view(torch.int32).clamp(min=0).long() << 8) | (255 - number)

    def _planes(self, nearest: Tensor, shots: np.ndarray, x: Tensor, y: Tensor, right: bool) -> None:
        """Sheets without edges: they need no list of points, their fields are broadcast over the frame."""
        for relief in (False, True):
            view, sheet = sheets_of(self.stack, shots, self.stack.kind == relief * len(SHAPES))
            if len(view):
                here, surface = self._sent(view), self._surface(self._sent(sheet)[:, None, None], relief)
                x_here, y_here = x[here], y[here]
                u = surface.from_right(x_here, y_here) if right else x_here
                keys = self._keys(surface.disparity(u, y_here), self._sent(self.stack.number[sheet])[:, None, None])
                self._fold(nearest, torch.maximum, view, keys)

    def _fold(self, into: Tensor, combine: Callable[[Tensor, Tensor], Tensor], view: np.ndarray, frames: Tensor) -> None:
        """into[view[i]] = combine(into[view[i]], frames[i]), where views come up several times, for one round of them each."""
        for chosen in _rounds(view):
            where = self._sent(view[chosen])
            into[where] = combine(into[where], frames[self._sent(chosen)])

    def _objects(self, nearest: Tensor, shots: np.ndarray, x: Tensor, y: Tensor, right: bool, tilt: np.ndarray | None) -> None:
        """Sheets with edges, each in its window."""
        windows = windows_of(self.stack, shots, right, tilt)
        if not len(windows.sheet):
            return
        counts = windows.rows * windows.columns
        starts = np.cumsum(counts) - counts
        window = torch.arange(len(counts), device=self.device, dtype=torch.int32)
        window = window.repeat_interleave(self._sent(counts), output_size=int(counts.sum()))  # (N,), of every point
        place = torch.arange(len(window), device=self.device) - self._at(starts, window)
        row = place // self._at(windows.columns, window)
        pixel = self._at(windows.corner, window) + place + row * self._at(self.stack.width - windows.columns, window)
        kinds = np.bincount(self.stack.kind[windows.sheet], weights=counts, minlength=KINDS).astype(int).tolist()
        sheet = self._at(windows.sheet.astype(np.int32), window)
        disp, inside = self._ask(sheet, x.view(-1)[pixel], y.view(-1)[pixel], kinds, right)
        keys = self._keys(disp, self._at(self.stack.number[windows.sheet], window)).masked_fill_(~inside, -1)
        nearest.view(-1).scatter_reduce_(0, pixel, keys, "amax")

    def _at(self, values: np.ndarray, index: Tensor) -> Tensor:
        return self._sent(values).index_select(0, index)

    def hidden(self, view: Views, other: Views, x_other: Tensor, other_is_right: bool) -> Tensor:
        """As datasets.procedural.render.hidden, for all views."""
        width = self.stack.width
        lost = (x_other < 0) | (x_other > width - 1)
        left = x_other.floor().clamp(0, width - 1).long()
        beside = [other.sheet.gather(2, left), other.sheet.gather(2, (left + 1).clamp(max=width - 1))]
        asked = [(beside[0] != view.sheet) & ~lost, (beside[1] != view.sheet) & (beside[1] != beside[0]) & ~lost]
        where = [mask.view(-1).nonzero()[:, 0] for mask in asked]
        pixel = torch.cat(where)
        sheet = torch.cat([sheets.view(-1)[some] for sheets, some in zip(beside, where, strict=True)])
        kind = self._at(self.stack.kind, sheet)
        order = kind.argsort(stable=True)
        pixel, sheet = pixel[order], sheet[order]
        kinds = torch.bincount(kind, minlength=KINDS).tolist()
        disp, inside = self._ask(sheet, x_other.view(-1)[pixel], view.y.view(-1)[pixel], kinds, other_is_right)
        behind = inside & (disp > view.disp.view(-1)[pixel] + TOLERANCE)
        found = torch.zeros_like(lost, dtype=torch.uint8)
        found.view(-1).scatter_reduce_(0, pixel, behind.to(torch.uint8), "amax")
        return lost | found.bool()

    # -----------------------------------------------------------------------------------------------------------------
    # Colour

    def shade(self, views: Views) -> Tensor:
        """Colour of every traced point -> (V, 3, h, w) in [0, 1]."""
        colour = self._colour(views.sheet.view(-1), views.u.view(-1), views.y.view(-1))
        return colour.view(*views.sheet.shape, 3).permute(0, 3, 1, 2) * self._lightness(views)[:, None]

    def _colour(self, sheet: Tensor, u: Tensor, y: Tensor) -> Tensor:
        """(N,) points -> (N, 3)."""
        looks: dict[str, Any] = {"light": tuple(self._rows(LIGHT, sheet)), "texel": tuple(self._rows(TEXEL, sheet))}
        surface = replace(self._surface(sheet, relief=True), **looks)
        along, across = surface.texel_at(u, y)
        light = surface.shading(u, y)
        gain, offset = self.colours.index_select(0, sheet).split(3, dim=1)
        return ((self._texel(sheet, along, across) * gain + offset) * light[:, None]).clamp(0, 1)

    def _texel(self, sheet: Tensor, along: Tensor, across: Tensor) -> Tensor:
        """Textures, mirrored without end, between their texels -> (N, 3)."""
        origin, side = (row.index_select(0, sheet) for row in self.texture)
        low, high, share = [], [], []
        for place in (along, across):
            period = 2.0 * side
            place = (place * (side / SIZE)) % period
            place = (torch.minimum(place, period - place) - 0.5).clamp(min=0)
            place = torch.minimum(place, (side - 1).float())
            share.append((place - place.floor())[:, None])
            low.append(place.int())
            high.append(torch.minimum(low[-1] + 1, side - 1))
        rows = []
        for row in (low[1], high[1]):
            before, after = (self.texels.index_select(0, origin + row * side + column) for column in (low[0], high[0]))
            rows.append(torch.lerp(before, after, share[0]))
        return torch.lerp(rows[0], rows[1], share[1])

    def _lightness(self, views: Views) -> Tensor:
        """(V, h, w): the product of what all shadows leave."""
        left = torch.ones_like(views.disp)
        casters, kinds = self.stack.casters, self.stack.kind[self.stack.casters] % len(SHAPES)
        view, shadow = np.nonzero(self.stack.shot[casters] == views.shot[:, None])
        order = np.argsort(kinds[shadow], kind="stable")
        view, shadow = view[order], shadow[order]
        frames = []
        for shape, part in _runs(kinds[shadow]):
            here, sheet = self._sent(view[part]), self._sent(casters[shadow[part]])[:, None, None]
            surface = self._surface(sheet, False, SHAPES[shape])  # a relief has no part in a shadow's outline
            offset_u, offset_y, light = self._sent(self.stack.shadows[:, shadow[part]])[:, :, None, None]
            lit = lightness(surface, (offset_u, offset_y), light, views.u[here], views.y[here], views.disp[here])
            frames.append(lit.masked_fill_(views.sheet[here] == sheet, 1.0))
        if frames:
            self._fold(left, torch.mul, view, torch.cat(frames))
        return left


def _rounds(values: np.ndarray) -> Iterator[np.ndarray]:
    """Places of ``values``, in as few arrays as leave no value twice in one."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    again = np.arange(len(values)) - np.searchsorted(ordered, ordered)  # how often the value came before
    for number in range(int(again.max(initial=-1)) + 1):
        yield order[again == number]


def _runs(ordered: np.ndarray) -> Iterator[tuple[int, slice]]:
    """Each value of a sorted array and where it stands."""
    for value in np.unique(ordered):
        yield int(value), slice(*np.searchsorted(ordered, (value, value + 1)).tolist())


def _some(views: Views, which: np.ndarray) -> Views:
    here = torch.from_numpy(which).to(views.disp.device)
    return Views(views.shot[which], *(x[here] for x in (views.sheet, views.u, views.y, views.disp)))


@torch.no_grad()
def render(stack: Stack, banks: Mapping[BankKey, Tensor], device: torch.device | str = "cpu") -> Batch:
    """All shots of the stack as a batch on the device: what collate makes of their Samples.

    banks: flat_texels of all that the stack names, on the device.
    """
    renderer = Renderer(stack, banks, device)
    everything = np.arange(len(stack.names))
    left, right = renderer.trace(everything, right=False), renderer.trace(everything, right=True)
    occluded = renderer.hidden(left, right, left.u - left.disp, other_is_right=True)
    occluded_right = renderer.hidden(right, left, right.u, other_is_right=False)
    colours = renderer.shade(left), _right_colours(renderer, right)
    images = photometric_batch(*colours, stack.developments)
    return Batch(
        left=images[0] / 255,
        right=images[1] / 255,
        disp=left.disp,
        valid=torch.ones_like(occluded),
        occluded=occluded,
        occluded_right=occluded_right,
        names=stack.names,
    )


def _right_colours(renderer: Renderer, aligned: Views) -> Tensor:
    """The right images, where a shot says so through a camera that is a little shifted and rolled."""
    stack = renderer.stack
    if not len(stack.tilted):
        return renderer.shade(aligned)
    straight = np.setdiff1d(np.arange(len(stack.names)), stack.tilted)
    parts = [renderer.shade(renderer.trace(stack.tilted, right=True, tilt=stack.tilt))]
    if len(straight):
        parts.append(renderer.shade(_some(aligned, straight)))
    order = np.argsort(np.concatenate([stack.tilted, straight]))
    return torch.cat(parts)[torch.from_numpy(order).to(renderer.device)]


def render_shots(shots: Sequence[Shot], device: torch.device | str = "cpu") -> Batch:
    """Shots of one size, with banks drawn here where they are not at hand (see texture_bank)."""
    stack = stack_shots(shots)
    return render(stack, {key: flat_texels(texture_bank(*key)).to(device) for key in stack.banks}, device)
