"""Rendering: a pure function of (scene, view, window). Disparity and occlusion are exact by construction, for both views."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from datasets.procedural.scene import BULGE_REACH, Scene, Surface
from datasets.procedural.textures import SIZE

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


def _extent(surface: Surface) -> tuple[float, float, float, float]:
    """Bounds (u0, u1, y0, y1) of the sheet and, by its steepest slope, of the disparities inside them."""
    if surface.shape == "everywhere":
        return -math.inf, math.inf, -math.inf, math.inf
    (u, y), reach = surface.centre, surface.reach
    return u - reach, u + reach, y - reach, y + reach


def _columns_seen(surface: Surface, right: bool) -> tuple[float, float]:
    """Columns of an image between which the sheet must lie."""
    u0, u1, _, _ = _extent(surface)
    if not right or math.isinf(u0):
        return u0, u1
    tilt = (abs(surface.slope[0]) + abs(surface.slope[1])) * surface.reach
    swing = tilt + surface.ripple + 2 * BULGE_REACH**2 * abs(surface.bulge)
    return u0 - surface.disp - swing, u1 - surface.disp + swing


def trace(scene: Scene, x: Tensor, y: Tensor, right: bool) -> View:
    """The nearest sheet at every point of a grid. x, y: (h, w) image columns and rows, increasing along their axis.

    Ordinary pixels have integer x and y; a misaligned camera hands in displaced ones.
    """
    u, disp, _ = _solve(scene.surfaces[0], x.clone(), y, right)
    sheet = torch.zeros_like(x, dtype=torch.int64)
    row_low, row_high = y.amin(dim=1), y.amax(dim=1)
    column_low, column_high = x.amin(dim=0), x.amax(dim=0)
    for number, surface in enumerate(scene.surfaces[1:], start=1):
        _, _, y0, y1 = _extent(surface)
        x0, x1 = _columns_seen(surface, right)
        rows = _span((row_high >= y0) & (row_low <= y1))
        columns = _span((column_high >= x0) & (column_low <= x1))
        if rows is None or columns is None:
            continue
        part = (rows, columns)
        u_here, disp_here, inside = _solve(surface, x[part], y[part], right)
        nearer = inside & (disp_here > disp[part])
        u[part] = torch.where(nearer, u_here, u[part])
        disp[part] = torch.where(nearer, disp_here, disp[part])
        sheet[part] = sheet[part].masked_fill(nearer, number)
    return View(sheet, u, disp)


def _span(wanted: Tensor) -> slice | None:
    """The smallest slice that holds every True."""
    found = wanted.nonzero()
    return slice(int(found[0]), int(found[-1]) + 1) if len(found) else None


def hidden(scene: Scene, view: View, y: Tensor, x_other: Tensor, width: int, other_is_right: bool) -> Tensor:
    """True where the other camera does not see the point: outside its frame, or behind another sheet.

    x_other: (h, w) real-valued column of the point in the other image. The other sheets are solved exactly there, so no
    image is resampled and there is no threshold but TOLERANCE.
    """
    lost = (x_other < 0) | (x_other > width - 1)
    lost_flat, x_flat, y_flat = lost.view(-1), x_other.reshape(-1), y.reshape(-1)
    disp_flat, sheet_flat = view.disp.reshape(-1), view.sheet.reshape(-1)
    w = lost.shape[1]
    for number, surface in enumerate(scene.surfaces):
        _, _, y0, y1 = _extent(surface)
        x0, x1 = _columns_seen(surface, other_is_right)
        rows = _span((y[:, 0] >= y0) & (y[:, 0] <= y1))
        if rows is None:
            continue
        flat = slice(rows.start * w, rows.stop * w)
        reach = (x_flat[flat] >= x0) & (x_flat[flat] <= x1) & (sheet_flat[flat] != number) & ~lost_flat[flat]
        where = reach.nonzero()[:, 0] + flat.start
        if not len(where):
            continue
        _, disp_here, inside = _solve(surface, x_flat[where], y_flat[where], other_is_right)
        lost_flat[where] = inside & (disp_here > disp_flat[where] + TOLERANCE)
    return lost


def shade(scene: Scene, view: View, y: Tensor, bank: tuple[Tensor, Tensor]) -> Tensor:
    """Colour of every traced point -> (3, h, w) in [0, 1]. A point has the same colour in both views."""
    colour = torch.empty(3, view.u.numel())
    sheet, u_all, y_all = view.sheet.reshape(-1), view.u.reshape(-1), y.reshape(-1)
    order = torch.argsort(sheet, stable=True)
    counts = torch.bincount(sheet, minlength=len(scene.surfaces)).tolist()
    start = 0
    for surface, count in zip(scene.surfaces, counts, strict=True):
        if count:
            where = order[start : start + count]
            colour[:, where] = _surface_colour(surface, u_all[where], y_all[where], bank)
            start += count
    return colour.view(3, *view.u.shape)


def _surface_colour(surface: Surface, u: Tensor, y: Tensor, bank: tuple[Tensor, Tensor]) -> Tensor:
    """(N,) points of one sheet -> (3, N)."""
    angle, scale, offset_u, offset_y = surface.texel
    du, dy = (u - surface.centre[0]) * scale, (y - surface.centre[1]) * scale
    s = du * math.cos(angle) + dy * math.sin(angle) + offset_u
    t = dy * math.cos(angle) - du * math.sin(angle) + offset_y
    texture = bank[1 if scale > 1.2 else 0][surface.texture]
    grid = torch.stack([s, t], dim=-1) * (2 / SIZE) - 1
    texels = F.grid_sample(texture[None], grid[None, None], padding_mode="reflection", align_corners=False)[0, :, 0]
    along_u, along_y = surface.slopes(u, y)
    light = torch.as_tensor(1 + surface.light[0] * along_u + surface.light[1] * along_y).clamp(0.4, 1.6)
    gain, offset = (torch.tensor(x)[:, None] for x in (surface.gain, surface.offset))
    return ((texels * gain + offset) * light).clamp(0, 1)
