"""Rendering: a pure function of (scene, view, window). Disparity and occlusion are exact by construction, for both views."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from datasets.procedural.surface import Scene, Surface, lightness
from datasets.procedural.textures import SIZE, Bank

TOLERANCE = 0.01  # px of disparity by which another sheet must be nearer to hide a point


@dataclass(frozen=True)
class View:
    """What one camera sees: per pixel the sheet's number, the point's u, its disparity. All (h, w)."""

    sheet: Tensor
    u: Tensor
    disp: Tensor


def _solve(surface: Surface, x: Tensor, y: Tensor, right: bool) -> tuple[Tensor, Tensor, Tensor]:
    """u, disparity and membership of the sheet's point that a camera sees at (x, y)."""
    u = surface.from_right(x, y) if right else x
    disp = surface.disparity(u, y)
    return u, disp, surface.covers(u, y)


def trace(scene: Scene, x: Tensor, y: Tensor, right: bool) -> View:
    """The nearest sheet at every point of a grid. x, y: (h, w) image columns and rows, increasing along their axis.

    Ordinary pixels have integer x and y; a misaligned camera hands in displaced ones.
    """
    u, disp, _ = _solve(scene.surfaces[0], x.clone(), y, right)
    sheet = torch.zeros_like(x, dtype=torch.int64)
    row_bounds = y.amin(dim=1), y.amax(dim=1)
    for number, surface in enumerate(scene.surfaces[1:], start=1):
        part = _window(surface, x, row_bounds, right)
        if part is None:
            continue
        u_here, disp_here, inside = _solve(surface, x[part], y[part], right)
        nearer = inside & (disp_here > disp[part])
        u[part] = torch.where(nearer, u_here, u[part])
        disp[part] = torch.where(nearer, disp_here, disp[part])
        sheet[part] = sheet[part].masked_fill(nearer, number)
    return View(sheet, u, disp)


def _window(surface: Surface, x: Tensor, row_bounds: tuple[Tensor, Tensor], right: bool) -> tuple[slice, slice] | None:
    """Rows and columns of the grid x (h, w) outside which no point can lie on the sheet; None when none can.

    row_bounds: least and largest y of every row of the grid, (h,) each.
    """
    if surface.shape == "everywhere":
        return slice(None), slice(None)
    x0, x1, y0, y1 = surface.bounds(right)
    rows = _span((row_bounds[1] >= y0) & (row_bounds[0] <= y1))
    if rows is None:
        return None
    columns = _span((x[rows].amax(dim=0) >= x0) & (x[rows].amin(dim=0) <= x1))
    return None if columns is None else (rows, columns)


def _span(wanted: Tensor) -> slice | None:
    """The smallest slice that holds every True."""
    found = wanted.nonzero()
    return slice(int(found[0]), int(found[-1]) + 1) if len(found) else None


def hidden(scene: Scene, view: View, other: View, y: Tensor, x_other: Tensor, other_is_right: bool) -> Tensor:
    """True where the other camera does not see the point: outside its frame, or behind a sheet that its image shows there.

    other: what the other camera sees at its own pixels, columns 0 .. W-1. x_other: (h, w) real-valued column of the point in
    that image. A sheet that the image shows in one of the two columns beside the point is solved exactly at the point, so no
    image is resampled and there is no threshold but TOLERANCE. Slivers between two columns hide nothing: no pixel shows them.
    """
    width = other.sheet.shape[1]
    lost = (x_other < 0) | (x_other > width - 1)
    left = x_other.floor().clamp(0, width - 1).long()
    beside = [other.sheet.gather(1, left), other.sheet.gather(1, (left + 1).clamp(max=width - 1))]
    foreign = [(sheet != view.sheet) & ~lost for sheet in beside]
    where = (foreign[0] | foreign[1]).nonzero(as_tuple=True)
    own, disp, x, rows = (a[where] for a in (view.sheet, view.disp, x_other, y))
    here = [sheet[where] for sheet in beside]
    found = torch.zeros_like(own, dtype=torch.bool)
    for number in torch.unique(torch.cat(here)).tolist():
        asked = (((here[0] == number) | (here[1] == number)) & (own != number)).nonzero(as_tuple=True)
        _, disp_here, inside = _solve(scene.surfaces[number], x[asked], rows[asked], other_is_right)
        found[asked] |= inside & (disp_here > disp[asked] + TOLERANCE)
    lost[where] = found
    return lost


def shade(scene: Scene, view: View, y: Tensor, bank: Bank) -> Tensor:
    """Colour of every traced point -> (3, h, w) in [0, 1]. A point has the same colour in both views."""
    colour = torch.empty(3, view.u.numel())
    sheet, u_all, y_all, disp_all = (x.reshape(-1) for x in (view.sheet, view.u, y, view.disp))
    order = torch.argsort(sheet.to(torch.uint8), stable=True)  # a scene has fewer than 256 sheets; bytes sort faster
    counts = torch.bincount(sheet, minlength=len(scene.surfaces)).tolist()
    start = 0
    for number, (surface, count) in enumerate(zip(scene.surfaces, counts, strict=True)):
        if count:
            where = order[start : start + count]
            u_here, y_here = u_all[where], y_all[where]
            lit = _surface_colour(surface, u_here, y_here, bank)
            for shadow in scene.shadows:
                if shadow.caster != number:
                    caster = scene.surfaces[shadow.caster]
                    lit = lit * lightness(caster, shadow.offset, shadow.light, u_here, y_here, disp_all[where])
            colour[:, where] = lit
            start += count
    return colour.view(3, *view.u.shape)


def _surface_colour(surface: Surface, u: Tensor, y: Tensor, bank: Bank) -> Tensor:
    """(N,) points of one sheet -> (3, N)."""
    texture = bank[1 if surface.shrinks else 0][surface.texture]
    grid = torch.stack(surface.texel_at(u, y), dim=-1) * (2 / SIZE) - 1
    texels = F.grid_sample(texture[None], grid[None, None], padding_mode="reflection", align_corners=False)[0, :, 0]
    gain, offset = (torch.tensor(x)[:, None] for x in (surface.gain, surface.offset))
    return ((texels * gain + offset) * surface.shading(u, y)).clamp(0, 1)
