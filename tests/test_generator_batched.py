"""Batches of shots, rendered at once, against shots rendered one by one; and the truth of such a batch by itself.

Both renderers use the same formulas, but one gets a sheet's numbers as doubles and the other as float32, so that a point may
move by rounding: sheets may change places at their edges (in none of the 1.7 million pixels below), and a grey level
where a colour lies between two.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from datasets.batches import training_batches
from datasets.loading import collate
from datasets.procedural import surface
from datasets.procedural.batched import Renderer, flat_texels, render, render_shots
from datasets.procedural.dataset import render_shot
from datasets.procedural.photometric import photometric_batch
from datasets.procedural.render import TOLERANCE, trace
from datasets.procedural.shots import SCENES_PER_BANK, Development, Shot, draw_shot
from datasets.procedural.stack import BANK_TEXELS, stack_shots
from datasets.procedural.surface import SHAPES, Scene
from datasets.procedural.textures import COUNT, SIZE, texture_bank
from stereo.config import ContentConfig, DataConfig, from_dict
from stereo.image_io import write_image
from stereo.types import Batch, InputError

CONTENTS = {
    "usual": ContentConfig(),
    "relief": ContentConfig(relief=3.0, slants=1.5),
    "rooms": ContentConfig(floors=1.0, walls=1.0, shadows=1.0, standing=1.0),
    "thin": ContentConfig(thin=4.0),
    "bare": ContentConfig(slants=0, relief=0, thin=0, floors=0, walls=0, shadows=0),
}
SIZES = {"plain": (160, 288), "odd": (97, 141), "band": (64, 400)}
ROUNDING = 1e-5  # share of pixels that may lie so close to a sheet's edge that float32 decides
MAPS = ("left", "right", "disp", "valid", "occluded", "occluded_right")


@pytest.fixture(autouse=True)
def one_thread():
    """As in the workers of a training."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def shots_of(count: int, size: tuple[int, int], content: ContentConfig = CONTENTS["usual"], **options) -> list[Shot]:
    """Of two texture banks."""
    start = SCENES_PER_BANK - count // 2
    return [draw_shot(5, index, *size, content=content, **options) for index in range(start, start + count)]


def renderer_of(shots: list[Shot], device: str = "cpu") -> Renderer:
    stack = stack_shots(shots)
    return Renderer(stack, {key: flat_texels(texture_bank(*key)).to(device) for key in stack.banks}, device)


def levels_apart(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """(B, H, W): the largest difference of the channels, in grey levels of 255."""
    return (255 * (a - b).abs().amax(dim=1)).round()


def assert_like_single_shots(found: Batch, shots: list[Shot]) -> None:
    expected = collate([render_shot(shot) for shot in shots])
    assert found.names == expected.names
    assert found.valid.all() and found.valid.dtype == torch.bool
    pixels = expected.disp.numel()
    assert ((found.disp - expected.disp).abs() > 1e-3).sum() <= ROUNDING * pixels
    for name in ("occluded", "occluded_right"):
        assert getattr(expected, name).any()
        assert (getattr(found, name) != getattr(expected, name)).sum() <= ROUNDING * pixels, name
    for name in ("left", "right"):
        apart = levels_apart(getattr(found, name), getattr(expected, name))
        assert (apart > 1).sum() <= ROUNDING * pixels, name
        assert (apart > 0).float().mean() < 2e-4, name


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES.keys())
@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS.keys())
def test_a_batch_is_what_its_shots_are(content: ContentConfig, size: tuple[int, int]):
    shots = shots_of(8, size, content, augment=False)
    assert len({shot.bank for shot in shots}) == 2
    batch = render_shots(shots)
    assert_like_single_shots(batch, shots)
    right = renderer_of(shots).trace(np.arange(8), right=True).disp  # which no Batch has
    apart = (right - torch.from_numpy(np.stack([render_shot(shot).disp_right for shot in shots]))).abs()
    assert (apart > 1e-3).sum() <= ROUNDING * apart.numel()


def test_the_contents_above_have_every_kind_of_sheet():
    """Else the comparison would say nothing about the missing one."""
    kinds = {
        (s.shape, s.flat)
        for content in CONTENTS.values() for size in SIZES.values()
        for shot in shots_of(8, size, content) for s in shot.scene.surfaces
    }  # fmt: skip
    assert kinds >= {(shape, flat) for shape in SHAPES for flat in (True, False) if flat or shape not in ("bar", "wire")}


def test_a_tilted_camera_and_a_development_are_those_of_the_single_shot():
    """Not one bit of the noise, but its seed, decides; JPEG is a matter of test_developing, so it is left out."""
    drawn = [shot for shot in shots_of(30, (96, 160)) if shot.tilt]
    shots = []
    for shot in drawn:
        assert shot.development is not None
        left, right = (dataclasses.replace(look, jpeg=0) for look in shot.development.looks)
        shots.append(dataclasses.replace(shot, development=dataclasses.replace(shot.development, looks=(left, right))))
    assert len(shots) > 5
    found, expected = render_shots(shots), collate([render_shot(shot) for shot in shots])
    for name in ("left", "right"):
        apart = levels_apart(getattr(found, name), getattr(expected, name))
        assert (apart > 1).sum() <= ROUNDING * apart.numel()
        assert (apart > 0).float().mean() < 1e-3
    aligned = render_shots([dataclasses.replace(shot, tilt=None) for shot in shots])
    assert (levels_apart(found.right, aligned.right) > 2).float().mean() > 0.05
    assert torch.equal(found.disp, aligned.disp)
    assert torch.equal(found.occluded_right, aligned.occluded_right)


def test_a_shot_is_the_same_alone_and_among_others():
    shots = shots_of(7, (97, 141))
    assert any(shot.tilt for shot in shots) and not all(shot.tilt for shot in shots)
    together, reversed_ = render_shots(shots), render_shots(shots[::-1])
    for number, shot in enumerate(shots):
        alone = render_shots([shot])
        for name in MAPS:
            assert torch.equal(getattr(alone, name)[0], getattr(together, name)[number]), name
            assert torch.equal(getattr(alone, name)[0], getattr(reversed_, name)[-1 - number]), name


def test_the_same_shots_give_the_same_bits():
    shots = shots_of(5, (64, 400))
    first, second = render_shots(shots), render_shots([draw_shot(5, shot.index, 64, 400) for shot in shots])
    assert all(torch.equal(getattr(first, name), getattr(second, name)) for name in MAPS)


def test_equal_disparities_go_to_the_first_sheet():
    """Two copies of one box, and of the background: only a strictly nearer one may hide another."""
    shot = draw_shot(5, 3, 96, 160, augment=False, content=CONTENTS["bare"])
    background, box = shot.scene.surfaces[0], shot.scene.surfaces[-1]
    scene = Scene((background, background, box, box), shot.scene.height, 160)
    sheet = renderer_of([dataclasses.replace(shot, scene=scene)]).trace(np.array([0]), right=True).sheet
    assert set(sheet.unique().tolist()) == {0, 2}


def test_nothing_waits_for_the_device_but_the_search_for_occluders():
    """Tensors without values stand in for a device: to read one on the host, or to mix them with the host's, is an error."""
    shots = shots_of(16, (64, 96))
    assert any(shot.tilt for shot in shots) and any(shot.scene.shadows for shot in shots)
    assert any(look.jpeg for shot in shots if shot.development for look in shot.development.looks)
    stack = stack_shots(shots)
    renderer = Renderer(stack, {key: torch.empty(BANK_TEXELS, 3, device="meta") for key in stack.banks}, "meta")
    views = [renderer.trace(np.arange(16), right) for right in (False, True)]
    tilted = renderer.trace(stack.tilted, right=True, tilt=stack.tilt)
    assert renderer.shade(tilted).shape == (len(stack.tilted), 3, 64, 96)
    images = photometric_batch(renderer.shade(views[0]), renderer.shade(views[1]), stack.developments)
    assert images[0].shape == images[1].shape == (16, 3, 64, 96)


# ---------------------------------------------------------------------------------------------------------------------
# The truth of a batch, without the other renderer's opinion


def smooth_texels() -> torch.Tensor:
    """Waves of 32 texels that stay smooth where the texture is mirrored; what bilinear interpolation gets right."""
    wave = torch.cos(math.pi * (torch.arange(SIZE) + 0.5) / 16)
    bank = 0.5 + 0.25 * torch.stack([wave[:, None] + wave, wave[:, None] - wave, wave[:, None] * wave * 2]).clamp(-2, 2)
    bank = bank.expand(COUNT, 3, SIZE, SIZE).contiguous()
    return flat_texels((bank, F.avg_pool2d(bank, 2)))


def warp(images: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """Sample images (B, 3, H, W) bilinearly along their rows at real-valued columns (B, H, W)."""
    low = columns.floor().clamp(0, images.shape[3] - 2)
    share = (columns - low)[:, None]
    low = low.long()[:, None].expand(-1, 3, -1, -1)
    return images.gather(3, low) * (1 - share) + images.gather(3, low + 1) * share


def test_warping_the_right_images_reproduces_the_left_ones():
    """Only images and truth. Texels are smooth so that interpolation is not the error."""
    shots = [draw_shot(11, index, 160, 288, augment=False) for index in range(20)]
    stack = stack_shots(shots)
    renderer = Renderer(stack, dict.fromkeys(stack.banks, smooth_texels()), "cpu")
    left, right = (renderer.trace(np.arange(20), side) for side in (False, True))
    images = [renderer.shade(view) for view in (left, right)]
    batch = render(stack, dict.fromkeys(stack.banks, smooth_texels()))
    for image, shown in zip(images, (batch.left, batch.right), strict=True):
        assert (image - shown).abs().max() < 0.51 / 255
    columns = torch.arange(288) - batch.disp
    low = columns.floor().clamp(0, 286).long()
    # Away from borders: both right pixels that are blended show the sheet that the left pixel shows.
    inner = (right.sheet.gather(2, low) == left.sheet) & (right.sheet.gather(2, low + 1) == left.sheet) & ~batch.occluded
    exact, off = (255 * (warp(images[1], columns + shift) - images[0]).abs().amax(dim=1)[inner] for shift in (0.0, 0.5))
    assert len(exact) > 500_000
    assert exact.mean() < 0.5  # grey levels of 255
    assert exact.sort().values[int(0.99 * len(exact))] < 4
    assert off.mean() > 10 * exact.mean()  # and half a pixel is noticed


@pytest.mark.parametrize("right", [False, True], ids=["left", "right"])
def test_what_is_occluded_is_hidden_behind_something(right: bool):
    """Per pixel, from the scene's formulas at the exact place in the other view, which no pixel centre has to be."""
    shots = [draw_shot(11, index, 160, 288, augment=False) for index in range(10)]
    views, batch = renderer_of(shots).trace(np.arange(10), right), render_shots(shots)
    occluded = batch.occluded_right if right else batch.occluded
    astray = visible_pixels = unexplained = hidden_pixels = 0
    for number, shot in enumerate(shots):
        x_other = views.u[number] if right else views.u[number] - views.disp[number]
        other = trace(shot.scene, x_other, views.y[number], not right)
        outside = (x_other < 0) | (x_other > 287)
        assert occluded[number][outside].all()
        nearer = other.disp - views.disp[number]
        visible, behind = ~occluded[number], occluded[number] & ~outside
        astray += int((visible & (nearer > TOLERANCE + 1e-3)).sum())
        unexplained += int((behind & (nearer <= TOLERANCE - 1e-3)).sum())
        visible_pixels, hidden_pixels = visible_pixels + int(visible.sum()), hidden_pixels + int(behind.sum())
    assert visible_pixels > 300_000 and hidden_pixels > 5_000
    assert astray < 1e-3 * visible_pixels  # slivers between two columns, which hide nothing
    assert unexplained <= ROUNDING * hidden_pixels


# ---------------------------------------------------------------------------------------------------------------------
# Grain and training


def test_the_views_have_grain_of_their_own():
    shot = draw_shot(5, 2, 96, 160)
    assert shot.development is not None
    noise = 0.02
    looks = [dataclasses.replace(look, noise=noise, blur=0.0, jpeg=0) for look in shot.development.looks]
    flat = torch.full((2, 3, 96, 160), 0.5)

    def shown(*pair) -> tuple[torch.Tensor, torch.Tensor]:
        how = [Development(0.4, 0.6, pair, grain) for grain in (7, 8)]
        return photometric_batch(flat, flat, how)

    silent = [dataclasses.replace(look, noise=0.0) for look in looks]
    fields = [(noisy - plain).flatten(1) / 255 for noisy, plain in zip(shown(*looks), shown(*silent), strict=True)]
    for field in fields:
        assert (field.std(dim=1) - noise).abs().max() < 0.03 * noise  # rounding to grey levels included
    four = torch.corrcoef(torch.cat(fields))
    assert (four - torch.eye(4)).abs().max() < 5 / math.sqrt(fields[0].shape[1])


def test_any_number_of_workers_draws_the_same_shots():
    """Batches 20 .. 24 of 12 straddle the first two texture banks; two of the sizes make shots differ in shape."""
    runs = []
    for workers in (0, 2):
        config = DataConfig(seed=4, crops=((32, 64), (40, 48)), workers=workers, renderer="device")
        runs.append(list(training_batches(config, 12, 19, 24)))
    assert len(runs[0]) == 5
    for a, b in zip(*runs, strict=True):
        assert a.names == b.names
        assert all(torch.equal(getattr(a, name), getattr(b, name)) for name in MAPS)
    assert {tuple(batch.disp.shape) for batch in runs[0]} == {(12, 32, 64), (12, 40, 48)}
    later = list(training_batches(config, 12, 22, 24))
    assert all(torch.equal(a.left, b.left) for a, b in zip(later, runs[0][3:], strict=True))


def test_both_renderers_feed_the_same_training(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("datasets.batches.SHOTS_AT_ONCE", 3)  # a batch in two parts
    config = DataConfig(seed=4, crops=((40, 64),), workers=0)
    one, other = (
        list(training_batches(dataclasses.replace(config, renderer=renderer), 5, 50, 53, device="cpu"))
        for renderer in ("workers", "device")
    )
    for a, b in zip(one, other, strict=True):
        assert a.names == b.names
        assert torch.allclose(a.disp, b.disp, atol=1e-3)
        assert torch.equal(a.occluded, b.occluded)
        assert levels_apart(a.left, b.left).mean() < 0.5  # JPEG among them


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"renderer": "gpu"}, "data.renderer: got 'gpu', expected one of workers, device"),
        ({"renderer": "device", "sets": [["generated:7:10", 1.0]]}, "data.renderer: 'device' is for generated scenes"),
    ],
)
def test_impossible_renderers_are_refused(settings: dict, said: str):
    with pytest.raises(InputError, match=said):
        from_dict(DataConfig, settings, "data")


def test_photographs_are_textures_of_batches_too(tmp_path):
    write_image(tmp_path / "a.png", np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8))
    content = ContentConfig(textures=str(tmp_path))
    shots = [draw_shot(1, index, 64, 96, augment=False, content=content) for index in range(3)]
    assert_like_single_shots(render_shots(shots), shots)


def test_newton_on_a_device_takes_all_steps_to_the_same_place(monkeypatch: pytest.MonkeyPatch):
    """The host stops when all points have arrived, which a device is not asked for: further steps must not move them."""
    shots = shots_of(4, (96, 160), CONTENTS["relief"], augment=False)
    early = renderer_of(shots).trace(np.arange(4), right=True)

    def patient(self, *args):
        return False

    monkeypatch.setattr(surface, "all_arrived", patient, raising=True)
    late = renderer_of(shots).trace(np.arange(4), right=True)
    assert torch.equal(early.disp, late.disp) and torch.equal(early.u, late.u)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS.keys())
def test_a_graphics_card_renders_the_same_batch(content: ContentConfig):
    shots = shots_of(8, (97, 141), content, augment=False)
    batch = render_shots(shots, "cuda")
    assert batch.left.is_cuda
    assert_like_single_shots(batch.to("cpu"), shots)
    augmented = shots_of(8, (97, 141), content)
    here, there, again = render_shots(augmented), render_shots(augmented, "cuda"), render_shots(augmented, "cuda")
    assert all(torch.equal(getattr(there, name), getattr(again, name)) for name in MAPS)
    for name in ("left", "right"):
        assert levels_apart(getattr(here, name), getattr(there, name).cpu()).mean() < 0.5
