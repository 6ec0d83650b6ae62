"""The procedural generator proves its own truth: both views are traced exactly, so every claim is checked to rounding."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from datasets.batches import training_batches
from datasets.procedural import textures
from datasets.procedural.dataset import GeneratedDataset, render_sample
from datasets.procedural.render import TOLERANCE, View, hidden, shade, trace
from datasets.procedural.scene import draw_scene
from datasets.procedural.surface import SHAPES, Scene, Surface
from datasets.procedural.textures import COUNT, KINDS, SIZE, texture_bank
from stereo.config import DataConfig
from stereo.types import Sample

ARRAYS = [field.name for field in dataclasses.fields(Sample) if field.name != "name"]
ROUNDING = 1e-5  # share of pixels that may lie so close to a sheet's edge that float32 decides
STEEPEST = 0.75  # what Surface.from_right relies on


def grid(height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    y, x = torch.meshgrid(torch.arange(height).float(), torch.arange(width).float(), indexing="ij")
    return x, y


def drawn(index: int, height: int, width: int) -> Scene:
    return draw_scene(np.random.default_rng((11, index)), height, width, 0.4, COUNT)


def see(scene: Scene, right: bool) -> tuple[View, torch.Tensor, torch.Tensor, View]:
    """One whole view, its points' columns in the other image, what is occluded, and what the other camera sees there."""
    x, y = grid(scene.height, scene.width)
    view = trace(scene, x, y, right)
    x_other = x + view.disp if right else x - view.disp
    # The two spellings of "where this point lies in the left image" must agree before one may stand for the other.
    if right:
        assert (x_other - view.u).abs().max() < 1e-3
    occluded = hidden(scene, view, trace(scene, x, y, not right), y, x_other, other_is_right=not right)
    return view, x_other, occluded, trace(scene, x_other, y, not right)


def beside(scene: Scene, x_other: torch.Tensor, right: bool) -> list[torch.Tensor]:
    """The sheets that the other image's pixels show in the columns left and right of x_other."""
    shown = trace(scene, *grid(scene.height, scene.width), not right).sheet
    low = x_other.floor().long()
    return [shown.gather(1, column.clamp(0, scene.width - 1)) for column in (low, low + 1)]


def sheet(shape: str, disp: float, **changes) -> Surface:
    """A plain fronto-parallel sheet for scenes made by hand."""
    given = {
        "centre": (0.0, 0.0), "radius": (1.0, 1.0), "axis": (1.0, 0.0), "slope": (0.0, 0.0), "bulge": 0.0, "ripple": 0.0,
        "wave": (0.0, 0.0, 0.0), "details": (), "texture": 0, "texel": (1.0, 0.0, 0.0, 0.0), "gain": (1.0, 1.0, 1.0),
        "offset": (0.0, 0.0, 0.0), "light": (0.0, 0.0),
    } | changes  # fmt: skip
    return Surface(shape=shape, disp=disp, **given)


def same(a: Sample, b: Sample) -> bool:
    return all(getattr(a, name).tobytes() == getattr(b, name).tobytes() for name in ARRAYS)


def test_same_seed_and_index_same_bytes_in_any_order():
    dataset = GeneratedDataset(5, 3, 64, 96)
    forwards = [dataset[i] for i in (0, 1, 2)]
    texture_bank.cache_clear()
    backwards = [dataset[i] for i in (2, 1, 0)][::-1]
    assert all(same(a, b) for a, b in zip(forwards, backwards, strict=True))
    assert [sample.name for sample in forwards] == list(dataset.names)
    others = [forwards[1], forwards[2], render_sample(6, 0, 64, 96)]
    for name in ("left", "right", "disp", "disp_right", "occluded", "occluded_right"):
        assert all((getattr(forwards[0], name) != getattr(other, name)).any() for other in others)


def test_worker_count_does_not_matter():
    runs = []
    for workers in (0, 2):
        config = DataConfig(seed=4, crops=((32, 64), (40, 48)), workers=workers)
        runs.append(list(training_batches(config, batch_size=2, first=1, last=6)))
    assert len(runs[0]) == 5
    for a, b in zip(*runs, strict=True):
        assert a.names == b.names
        for field in dataclasses.fields(a):
            if field.name != "names":
                assert torch.equal(getattr(a, field.name), getattr(b, field.name)), field.name
    assert {tuple(batch.disp.shape) for batch in runs[0]} == {(2, 32, 64), (2, 40, 48)}
    assert [batch.names[0] for batch in runs[0]] == [f"generated:4/{2 * number:06d}" for number in range(1, 6)]


@pytest.mark.parametrize("right", [False, True], ids=["left", "right"])
def test_the_other_view_agrees_point_by_point(right: bool):
    bank = texture_bank(11, 0)
    visible_pixels = hidden_pixels = astray = miscoloured = unexplained = slivers = 0
    for index in range(40):
        scene = drawn(index, 160, 288)
        view, x_other, occluded, other = see(scene, right)
        outside = (x_other < 0) | (x_other > scene.width - 1)
        assert occluded[outside].all()
        visible, behind = ~occluded, occluded & ~outside
        found = (other.sheet == view.sheet) & ((other.disp - view.disp).abs() < 1e-3)
        # Not the same sheet, and yet visible: only where another one is less than TOLERANCE in front.
        close = ((other.disp - view.disp) > 0) & ((other.disp - view.disp) < TOLERANCE + 1e-3)
        # Or one so narrow there that it slips between two pixels of the other image, which then cannot show what it hides.
        left, after = beside(scene, x_other, right)
        sliver = (other.sheet != left) & (other.sheet != after)
        astray += int((visible & ~found & ~close & ~sliver).sum())
        slivers += int((visible & ~found & sliver).sum())
        y = grid(scene.height, scene.width)[1]
        off = (shade(scene, view, y, bank) - shade(scene, other, y, bank)).abs().amax(dim=0)
        miscoloured += int((visible & found & (off > 1 / 255)).sum())
        unexplained += int((behind & ~((other.sheet != view.sheet) & (other.disp > view.disp + TOLERANCE))).sum())
        visible_pixels, hidden_pixels = visible_pixels + int(visible.sum()), hidden_pixels + int(behind.sum())
    assert TOLERANCE <= 0.01  # px; it must not swallow what a loss or a metric can feel
    assert visible_pixels > 1_000_000
    assert hidden_pixels > 30_000
    assert slivers < 1e-3 * visible_pixels
    assert max(astray, miscoloured) <= ROUNDING * visible_pixels
    assert unexplained <= ROUNDING * hidden_pixels


def test_a_sample_holds_what_was_traced():
    """Ties the exactness above, shown on scenes, to the arrays that a Sample carries."""
    sample = render_sample(11, 4, 168, 288, augment=False)
    scene = drawn(4, 168, 288)
    for right, suffix, image in ((False, "", sample.left), (True, "_right", sample.right)):
        view, _, occluded, _ = see(scene, right)
        assert (getattr(sample, f"disp{suffix}") == view.disp.numpy()).all()
        # hidden() got x_right's u, not x + disp, here: the two differ by rounding
        assert (getattr(sample, f"occluded{suffix}") != occluded.numpy()).mean() < 1e-4
        colour = shade(scene, view, grid(168, 288)[1], texture_bank(11, 0)).permute(1, 2, 0).numpy()
        assert np.abs(image / 255 - colour).max() < 0.51 / 255


def smooth_bank() -> tuple[torch.Tensor, torch.Tensor]:
    """Waves of 32 texels that stay smooth where the texture is mirrored; what bilinear interpolation gets right."""
    wave = torch.cos(math.pi * (torch.arange(SIZE) + 0.5) / 16)
    bank = 0.5 + 0.25 * torch.stack([wave[:, None] + wave, wave[:, None] - wave, wave[:, None] * wave * 2]).clamp(-2, 2)
    bank = bank.expand(COUNT, 3, SIZE, SIZE).contiguous()
    return bank, F.avg_pool2d(bank, 2)


def warp(image: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """Sample an image (C, H, W) bilinearly along its rows at real-valued columns (H, W)."""
    low = columns.floor().clamp(0, image.shape[2] - 2)
    share = columns - low
    low = low.long().expand(image.shape[0], -1, -1)
    return image.gather(2, low) * (1 - share) + image.gather(2, low + 1) * share


def test_warping_the_right_image_reproduces_the_left_one():
    """Independent of trace at real-valued columns: only the two images as rendered, and disp."""
    bank, errors, shifted = smooth_bank(), [], []
    for index in range(20):
        scene = drawn(index, 160, 288)
        x, y = grid(160, 288)
        view, x_other, occluded, _ = see(scene, right=False)
        right = trace(scene, x, y, right=True)
        left_image, right_image = shade(scene, view, y, bank), shade(scene, right, y, bank)
        # Away from borders: both right pixels that are blended show the sheet that the left pixel shows.
        low = x_other.floor().clamp(0, 286).long()
        inner = (right.sheet.gather(1, low) == view.sheet) & (right.sheet.gather(1, low + 1) == view.sheet) & ~occluded
        for offset, kept in ((0.0, errors), (0.5, shifted), (-0.5, shifted)):
            difference = (warp(right_image, x_other + offset) - left_image).abs().amax(dim=0)
            kept.append(255 * difference[inner])
    exact, off = torch.cat(errors), torch.cat(shifted)
    assert len(exact) > 500_000
    assert exact.mean() < 0.5  # grey levels of 255
    assert exact.sort().values[int(0.99 * len(exact))] < 4
    assert off.mean() > 10 * exact.mean()  # and half a pixel is noticed


def test_a_scene_worked_out_by_hand():
    """A wall at 10 px behind a box at 30 px that covers columns 81..120 and rows 21..60 of the left image.

    The right camera sees the box at 51..90. It hides the wall points that land there, columns 61..100 of the left image, of
    which the box itself covers 81..100: what is left is the band 61..80, as wide as the disparities differ. The first 10
    columns of the left image leave the right frame. The right view is the mirror image: the box hides left columns 81..120,
    which the wall would send to 71..110, so the band is 91..110, and the last 10 columns leave the left frame.
    """
    box = sheet("box", 30.0, centre=(100.5, 40.5), radius=(20.0, 20.0))
    scene = Scene((sheet("everywhere", 10.0, centre=(100.0, 40.0)), box), height=80, width=200)
    for right, columns, band, border in (
        (False, slice(81, 121), slice(61, 81), slice(0, 10)),
        (True, slice(51, 91), slice(91, 111), slice(190, 200)),
    ):
        disp, occluded = np.full((80, 200), 10.0), np.zeros((80, 200), bool)
        disp[21:61, columns] = 30
        occluded[21:61, band] = True
        occluded[:, border] = True
        view, _, found, _ = see(scene, right)
        assert (view.disp.numpy() == disp).all()
        assert (found.numpy() == occluded).all()
        assert occluded[40].sum() == 20 + 10


def points(surface: Surface, scale: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """A 80 x 80 grid over the sheet; of one that is everywhere, over what either camera can see."""
    reach = [2.0 * surface.radius[0]] * 2 if surface.shape == "everywhere" else surface.extent
    u, y = (torch.linspace(-scale * x, scale * x, 80) for x in reach)
    y, u = torch.meshgrid(y, u, indexing="ij")
    return u + surface.centre[0], y + surface.centre[1]


def test_drawn_surfaces_can_be_inverted_and_stay_inside_their_extent():
    shapes = set()
    for surface in (surface for index in range(60) for surface in drawn(index, 288, 512).surfaces):
        shapes.add(surface.shape)
        u, y = points(surface)
        assert torch.as_tensor(surface.slopes(u, y)[0]).max() < STEEPEST
        assert (surface.from_right(u - surface.disparity(u, y), y) - u).abs().max() < 1e-3, surface
        if surface.shape != "everywhere":
            u, y = points(surface, 2.0)
            reach_u, reach_y = surface.extent
            outside = ((u - surface.centre[0]).abs() > reach_u) | ((y - surface.centre[1]).abs() > reach_y)
            assert not surface.covers(u[outside], y[outside]).any(), surface
    assert shapes == set(SHAPES)


class Extremes(np.random.Generator):
    """Every draw at an end of its range, or at +-4 sigma, and whatever happens with some probability happens."""

    def normal(self, loc=0.0, scale=1.0, size=None):
        return loc + 4 * scale * self.choice([-1, 1], size)

    def uniform(self, low=0.0, high=1.0, size=None):
        return low + (high - low) * self.choice([0, 1], size)

    def random(self, size=None):
        return np.zeros(size or ())


def test_no_draw_is_too_steep():
    for index in range(100):
        for surface in draw_scene(Extremes(np.random.PCG64(index)), 288, 512, 0.4, COUNT).surfaces:
            assert torch.as_tensor(surface.slopes(*points(surface))[0]).max() < STEEPEST


def test_slopes_are_the_derivatives_of_the_disparity():
    surface = sheet("box", 40.0, centre=(50.0, 30.0), radius=(60.0, 40.0), slope=(0.2, -0.3), bulge=3.0, ripple=0.7,
                    wave=(0.15, 0.1, 1.0))  # fmt: skip
    u, y = (x.double().requires_grad_() for x in points(surface, 1.7))  # beyond the bulge too
    for analytic, exact in zip(surface.slopes(u, y), torch.autograd.grad(surface.disparity(u, y).sum(), (u, y)), strict=True):
        assert torch.allclose(analytic, exact, atol=1e-12)


def test_the_steepest_relief_can_be_inverted():
    """The corners of what _relief, _object and _background can draw; on these, Newton's method needs its seven steps."""
    rng = np.random.default_rng(0)
    for slope in (0.35, -0.8, 0.0):
        for period in (20.0, 25.0, 80.0):
            for _ in range(12):
                radius = float(rng.uniform(15, 500))
                wave = (2 * math.pi / period, 2 * math.pi / 200, float(rng.uniform(0, 6.28)))
                surface = sheet("everywhere", 50.0, radius=(radius, radius), slope=(slope, 0.3), wave=wave,
                                bulge=float(rng.choice([-0.05, 0.08])) * radius, ripple=0.15 / wave[0])  # fmt: skip
                u = torch.linspace(-2 * radius, 2 * radius, 1000)
                y = torch.zeros_like(u)
                assert torch.as_tensor(surface.slopes(u, y)[0]).max() < STEEPEST
                assert (surface.from_right(u - surface.disparity(u, y), y) - u).abs().max() < 1e-3


def test_a_polygon_with_a_long_tip_looks_the_same_from_both_sides():
    """Two edges 137 degrees apart meet two radii away from the centre, beyond the extent that trace and hidden rely on."""
    angles = (np.arange(5) + np.array([0, 0.9, 0.9, 0.9, 0.9])) * 2 * np.pi / 5
    turn, normals = -0.95 * np.pi * 0.4, np.stack([np.cos(angles), np.sin(angles)], axis=1)
    tip = sheet("polygon", 30.0, centre=(90.0, 60.0), radius=(25.0, 25.0), axis=(math.cos(turn), math.sin(turn)),
                slope=(0.3, 0.2), details=tuple(normals.ravel().tolist()))  # fmt: skip
    scene = Scene((sheet("everywhere", 4.0), tip), height=120, width=200)
    x, y = grid(120, 200)
    assert torch.equal(trace(scene, x, y, right=False).sheet == 1, tip.covers(x, y))
    assert torch.equal(trace(scene, x, y, right=True).sheet == 1, tip.covers(tip.from_right(x, y), y))


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    dataset = GeneratedDataset(11, 60, 288, 512)
    return [dataset[index] for index in range(60)]


def test_every_sample_keeps_the_contract(samples: list[Sample]):
    for sample in samples:
        for view in ("", "_right"):
            disp, valid, occluded = (getattr(sample, name + view) for name in ("disp", "valid", "occluded"))
            assert (disp.dtype, valid.dtype, occluded.dtype) == (np.float32, bool, bool)
            assert disp.shape == valid.shape == occluded.shape == (288, 512)
            assert np.isfinite(disp).all()
            assert disp.min() >= 0
            assert valid.all()
        for image in (sample.left, sample.right):
            assert (image.shape, image.dtype) == ((288, 512, 3), np.uint8)


def test_content_is_diverse(samples: list[Sample]):
    nearest = np.array([sample.disp.max() for sample in samples])
    assert nearest.min() < 10
    assert nearest.max() > 0.3 * 512
    occluded = np.array([sample.occluded.mean() for sample in samples])
    assert ((occluded > 0.01) & (occluded < 0.4)).mean() > 0.75
    surfaces = [surface for index in range(60) for surface in drawn(index, 288, 512).surfaces]
    assert {surface.shape for surface in surfaces} == set(SHAPES)
    assert {surface.texture for surface in surfaces} == set(range(COUNT))
    assert any(surface.bulge for surface in surfaces)
    assert any(surface.ripple for surface in surfaces)


def test_texture_banks_hold_every_kind_in_range(monkeypatch: pytest.MonkeyPatch):
    used = []

    def recording(kind):
        return lambda rng: used.append(kind.__name__) or kind(rng)

    monkeypatch.setattr(textures, "KINDS", tuple((recording(kind), share) for kind, share in KINDS))
    banks = [texture_bank.__wrapped__(11, block) for block in range(3)]  # past the cache, which others rely on
    assert set(used) == {kind.__name__ for kind, _ in KINDS}
    assert len(used) == 3 * COUNT
    for full, half in banks:
        assert (full.shape, half.shape) == ((COUNT, 3, SIZE, SIZE), (COUNT, 3, SIZE // 2, SIZE // 2))
        assert full.dtype == half.dtype == torch.float32
        assert full.min() >= 0
        assert full.max() <= 1
    assert not torch.equal(banks[0][0], banks[1][0])


def test_augmentation_changes_the_pictures_and_never_the_truth():
    """Per scene: the difference of mean brightness between the left pixels that both see and their partners on the right."""
    gaps = {True: [], False: []}
    for index in range(12):
        pair = {augment: render_sample(11, index, 128, 224, augment=augment) for augment in (True, False)}
        for name in ("disp", "occluded", "disp_right", "occluded_right"):
            assert (getattr(pair[True], name) == getattr(pair[False], name)).all()
        for augment, sample in pair.items():
            columns = torch.from_numpy(np.arange(224, dtype=np.float32) - sample.disp)
            right = warp(torch.from_numpy(sample.right).float().permute(2, 0, 1), columns).mean(dim=0).numpy()
            gaps[augment].append(abs(float((sample.left.mean(axis=2) - right)[~sample.occluded].mean())))
    assert max(gaps[False]) < 0.5  # grey levels of 255
    assert sum(gap > 2 for gap in gaps[True]) >= 6


def test_a_wide_crop_is_a_band_of_a_frame():
    """A window of 32 x 240 px comes out of a frame of 134 x 240 px, from a row that differs from scene to scene."""
    tops = []
    for index in range(5):
        band, frame = (render_sample(11, index, height, 240, augment=False) for height in (32, 134))
        fits = [top for top in range(134 - 32 + 1) if (frame.disp[top : top + 32] == band.disp).all()]
        tops.append(fits[0])
        rows = slice(fits[0], fits[0] + 32)
        for name in ("left", "right", "disp_right", "occluded", "occluded_right"):
            assert (getattr(frame, name)[rows] == getattr(band, name)).all(), name
    assert len(set(tops)) > 2
    wide = render_sample(11, 0, 96, 640)
    assert wide.left.shape == wide.right.shape == (96, 640, 3)
    assert wide.disp.shape == wide.occluded_right.shape == (96, 640)
