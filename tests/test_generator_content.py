"""What the generator can be told to put into its scenes, or to leave out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from datasets.procedural import textures
from datasets.procedural.dataset import render_sample
from datasets.procedural.render import View, shade, trace
from datasets.procedural.scene import CASTERS, draw_scene
from datasets.procedural.surface import SLOPES, THIN, Scene, Shadow, Surface
from datasets.procedural.textures import COUNT, texture_bank
from stereo.config import ContentConfig
from stereo.image_io import write_image
from stereo.types import InputError

H, W = 120, 200


def scenes(content: ContentConfig, count: int = 40) -> list[Scene]:
    return [draw_scene(np.random.default_rng((3, index)), H, W, 0.4, COUNT, content) for index in range(count)]


def planes(scene: Scene) -> list[Surface]:
    """Sheets without edges but the background."""
    return [surface for surface in scene.surfaces[1:] if surface.shape == "everywhere"]


def objects(scene: Scene) -> list[Surface]:
    return [surface for surface in scene.surfaces if surface.shape != "everywhere"]


def test_what_is_switched_off_is_not_there():
    everything = scenes(ContentConfig())
    upright = scenes(ContentConfig(slants=0, floors=0, walls=0))
    assert not any(s.slope != (0.0, 0.0) for scene in upright for s in scene.surfaces)
    assert all(s.flat for scene in scenes(ContentConfig(relief=0)) for s in scene.surfaces)
    assert not any(s.shape in THIN for scene in scenes(ContentConfig(thin=0)) for s in scene.surfaces)
    assert not any(planes(scene) for scene in scenes(ContentConfig(floors=0, walls=0)))
    assert not any(scene.shadows for scene in scenes(ContentConfig(shadows=0)))
    # And all of it is there by default, else the lines above prove nothing.
    assert any(s.slope != (0.0, 0.0) for scene in everything for s in objects(scene))
    assert any(not s.flat for scene in everything for s in scene.surfaces)
    assert any(s.shape in THIN for scene in everything for s in scene.surfaces)
    assert 5 < sum(bool(planes(scene)) for scene in everything) < 40
    assert 8 < sum(bool(scene.shadows) for scene in everything) < 26


def test_rooms_have_floors_ceilings_and_side_walls():
    always = scenes(ContentConfig(floors=1.0, walls=1.0))
    floors = [s for scene in always for s in planes(scene) if s.slope[1] > 0]
    ceilings = [s for scene in always for s in planes(scene) if s.slope[1] < 0]
    left = [s for scene in always for s in planes(scene) if s.slope[0] < -0.05 and s.slope[1] == 0]
    right = [s for scene in always for s in planes(scene) if s.slope[0] > 0.05 and s.slope[1] == 0]
    assert len(floors) == len(always)
    assert min(map(len, (ceilings, left, right))) > 5
    for surface in (*floors, *ceilings, *left, *right):
        assert SLOPES[0] <= surface.slope[0] <= SLOPES[1]


def test_objects_stand_on_the_floor():
    """At its foot such an object is as near as the floor below it, or as near as the scene allows."""
    standing = floating = 0
    for scene in scenes(ContentConfig(floors=1.0, walls=0, standing=1.0)):
        floor = planes(scene)[0]
        nearest = max(s.disp for s in objects(scene))
        for s in objects(scene):
            foot = floor.slope[1] * (s.centre[1] + s.radius[1] - floor.centre[1]) + floor.disp
            if foot > floor.disp:
                standing += abs(s.disp - min(foot, nearest)) < 1e-3 or s.disp < foot
                floating += s.disp > foot + 1e-3
    assert standing > 200
    assert floating == 0


def by_hand(shape: str, disp: float, centre: tuple[float, float], radius: tuple[float, float]) -> Surface:
    return Surface(
        shape, centre, radius, (1.0, 0.0), disp, (0.0, 0.0), 0.0, 0.0, (0.0, 0.0, 0.0), (), 0, (1.0, 0.0, 0.0, 0.0),
        (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), (0.0, 0.0),
    )  # fmt: skip


def test_a_shadow_worked_out_by_hand():
    """A box 10 px nearer than the wall and a lamp that moves the shadow by -2 px for each: it falls 20 columns to the right."""
    wall, box = by_hand("everywhere", 5.0, (W / 2, H / 2), (W / 2, H / 2)), by_hand("box", 15.0, (60.0, 50.0), (10.0, 8.0))
    scene = Scene((wall, box), H, W, (Shadow(1, (-2.0, 0.5), 0.25),))
    y, x = torch.meshgrid(torch.arange(H).float(), torch.arange(W).float(), indexing="ij")
    white = torch.ones(COUNT, 3, 4, 4)
    for right in (False, True):
        view = trace(scene, x, y, right)
        colour = shade(scene, view, y, (white, white))
        own = view.sheet == 1
        dark = ((view.u - 80).abs() < 10) & ((y - 45).abs() < 8) & ~own
        assert dark.any()
        expected = torch.where(dark, 0.25, 1.0).expand(3, -1, -1)
        torch.testing.assert_close(colour, expected)


def test_only_sheets_behind_are_in_the_shadow():
    wall, box = by_hand("everywhere", 20.0, (W / 2, H / 2), (W / 2, H / 2)), by_hand("box", 15.0, (60.0, 50.0), (10.0, 8.0))
    scene = Scene((wall, box), H, W, (Shadow(1, (0.0, 0.0), 0.25),))
    y, x = torch.meshgrid(torch.arange(H).float(), torch.arange(W).float(), indexing="ij")
    view: View = trace(scene, x, y, right=False)
    white = torch.ones(COUNT, 3, 4, 4)
    assert (shade(scene, view, y, (white, white)) == 1).all()


def test_few_objects_cast():
    assert max(len(scene.shadows) for scene in scenes(ContentConfig(shadows=1.0))) == CASTERS


def test_textures_follow_the_factors(monkeypatch: pytest.MonkeyPatch):
    used: list[str] = []

    def recorded(draw):
        def call(rng):
            used.append(draw.__name__)
            return np.zeros((4, 4, 3), np.float32)

        return call

    for content, absent in (
        (ContentConfig(repetition=0), {"_stripes", "_tiles"}),
        (ContentConfig(plain=0), {"_gradient", "_plain"}),
    ):
        with monkeypatch.context() as patch:
            used.clear()
            kinds = tuple((recorded(draw), share) for draw, share in textures.KINDS)
            lookup = dict(zip((draw for draw, _ in textures.KINDS), (draw for draw, _ in kinds), strict=True))
            patch.setattr(textures, "KINDS", kinds)
            patch.setattr(textures, "REPEATED", tuple(lookup[draw] for draw in textures.REPEATED))
            patch.setattr(textures, "PLAIN", tuple(lookup[draw] for draw in textures.PLAIN))
            for block in range(6):
                texture_bank.__wrapped__(1, block, content)
        assert not absent & set(used)
        assert len(set(used)) == len(textures.KINDS) - len(absent)


def test_photographs_make_up_half_of_the_textures(tmp_path):
    for number, colour in enumerate(((255, 0, 0), (0, 255, 0))):
        write_image(tmp_path / f"{number}.png", np.full((60, 80, 3), colour, np.uint8))
    (tmp_path / "notes.txt").write_text("no photograph")
    content = ContentConfig(textures=str(tmp_path))
    bank, half = texture_bank(1, 0, content)
    pure = [t for t in bank if t.flatten(1).std(dim=1).max() < 1e-3 and sorted(t[:, 0, 0].tolist()) == [0, 0, 1]]
    assert len(pure) == COUNT // 2
    assert half.shape[-1] * 2 == bank.shape[-1]
    sample = render_sample(1, 0, 64, 96, content=content)
    again = render_sample(1, 0, 64, 96, content=content)
    assert np.array_equal(sample.left, again.left)
    assert not np.array_equal(sample.left, render_sample(1, 0, 64, 96).left)


def test_a_folder_without_photographs_gets_one_line(tmp_path):
    with pytest.raises(InputError, match=r"no photograph in the folder of textures"):
        render_sample(1, 0, 64, 96, content=ContentConfig(textures=str(tmp_path)))


def test_without_photometric_differences_both_cameras_see_the_same():
    plain = replace(ContentConfig(), photometric=0.0, misalignment=0.0)
    sample, clean = render_sample(5, 2, 64, 96, content=plain), render_sample(5, 2, 64, 96, augment=False)
    assert np.array_equal(sample.left, clean.left)
    assert np.array_equal(sample.right, clean.right)
    usual = render_sample(5, 2, 64, 96)
    assert np.array_equal(usual.disp, sample.disp)
    assert not np.array_equal(usual.left, sample.left)
