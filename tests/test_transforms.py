"""Augmentation: after every transform of the geometry the truth still says where the right image shows the left one."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import datasets.procedural.dataset as generator
from datasets.procedural.textures import COUNT
from datasets.transforms import (
    TRUTH,
    UNCHANGED,
    Augmentation,
    augment,
    cover,
    cropped,
    flip_rows,
    flip_views,
    misalign,
    recolour,
    resized,
    scale_and_crop,
    tilted,
)
from stereo.config import ContentConfig, from_dict, to_dict
from stereo.geometry import left_right_check, warp_right_to_left
from stereo.types import InputError, Sample

H, W = 120, 220
FIELDS = ("left", "right", *TRUTH)
ALWAYS = dataclasses.replace(
    Augmentation(), **{f.name: 1.0 for f in dataclasses.fields(Augmentation) if f.name.endswith("_probability")}
)


def rng(*seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def only(**settings) -> Augmentation:
    return dataclasses.replace(UNCHANGED, crop="random", **settings)


def same(a: Sample, b: Sample) -> bool:
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in FIELDS if getattr(a, name) is not None)


@pytest.fixture(scope="module")
def scenes() -> list[Sample]:
    """Clean scenes without shadows whose textures are waves of 48 texels: linear interpolation gets them right."""
    wave = torch.cos(math.pi * (torch.arange(generator.texture_bank(1, 0)[0].shape[-1]) + 0.5) / 24)
    bank = 0.5 + 0.25 * torch.stack([wave[:, None] + wave, wave[:, None] - wave, wave[:, None] * wave * 2]).clamp(-2, 2)
    bank = bank.expand(COUNT, 3, *bank.shape[1:]).contiguous()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generator, "texture_bank", lambda seed, block, content: (bank, F.avg_pool2d(bank, 2)))
        smooth = ContentConfig(shadows=0)
        return [generator.render_sample(1, index, H, W, augment=False, content=smooth) for index in range(8)]


@pytest.fixture(scope="module")
def sparse() -> Sample:
    """Noise images and random truth in both views, with holes that hold 1000; every known disparity is another number."""
    draw = rng(5)

    def view(sign: int) -> dict[str, np.ndarray]:
        valid = draw.random((H, W)) < 0.3
        disp = draw.permutation(H * W).reshape(H, W).astype(np.float32) * np.float32(60 / (H * W))
        match = np.arange(W) + sign * disp
        occluded = (draw.random((H, W)) < 0.1) | (valid & ((match < 0) | (match > W - 1)))
        return {"disp": np.where(valid, disp, np.float32(1000)), "valid": valid, "occluded": occluded}

    left, right = (draw.integers(0, 256, (H, W, 3), np.uint8) for _ in range(2))
    return Sample(left=left, right=right, **view(-1), **{f"{name}_right": x for name, x in view(1).items()}, name="sparse")


GEOMETRY = {
    "nothing": lambda sample, draw: sample,
    "enlarge": lambda sample, draw: resized(sample, (150, 330)),
    "shrink": lambda sample, draw: resized(sample, (90, 150)),
    "stretch": lambda sample, draw: resized(sample, (H, 260)),
    "squeeze": lambda sample, draw: resized(sample, (140, 200)),
    "crop": lambda sample, draw: cropped(sample, 13, 40, (70, 150)),
    "flip views": lambda sample, draw: flip_views(sample, draw, only(flip_probability=1.0)),
    "flip rows": lambda sample, draw: flip_rows(sample, draw, only(vertical_flip_probability=1.0)),
    "scale and crop": lambda sample, draw: scale_and_crop(sample, draw, only(scale_probability=1.0), (80, 160)),
    "all": lambda sample, draw: augment(
        sample, draw, only(scale_probability=1.0, flip_probability=0.5, vertical_flip_probability=0.5), (80, 160)
    ),
}
each_geometry = pytest.mark.parametrize("change", GEOMETRY.values(), ids=GEOMETRY.keys())


def inner(sample: Sample) -> np.ndarray:
    """Visible pixels of whose neighbours, in either view, none shows another surface."""

    def level(disp: np.ndarray) -> np.ndarray:
        steps = [np.abs(disp - np.roll(disp, move, axis)) < 2 for axis in (0, 1) for move in (-2, -1, 1, 2)]
        return np.logical_and.reduce(steps)

    columns = np.rint(np.arange(sample.disp.shape[1]) - sample.disp).clip(0).astype(int)
    partner = np.take_along_axis(sample.disp_right, columns, axis=1)
    partner_level = np.take_along_axis(level(sample.disp_right), columns, axis=1)
    return sample.valid & ~sample.occluded & level(sample.disp) & partner_level & (np.abs(partner - sample.disp) < 1)


@each_geometry
def test_the_right_image_warped_by_the_truth_is_the_left_one(scenes, change):
    """93 % of the pixels within 3 of 255 grey levels, the median below 1; the rest is where a thin surface hides.

    A truth that is a quarter of a pixel off is noticed: the median grows by half.
    """
    errors, shifted = [], []
    for index, scene in enumerate(scenes):
        sample = change(scene, rng(2, index))
        for offset, kept in ((0.0, errors), (0.25, shifted), (-0.25, shifted)):
            warped, inside = warp_right_to_left(sample.right, sample.disp + np.float32(offset))
            kept.append(np.abs(warped - sample.left).max(axis=2)[inner(sample) & inside])
    exact, off = np.concatenate(errors), np.concatenate(shifted)
    assert len(exact) > 30_000
    assert np.median(exact) < 1
    assert np.quantile(exact, 0.93) < 3
    assert np.median(off) > 1.5 * np.median(exact)


@each_geometry
def test_masks_agree_with_the_left_right_check(scenes, change):
    """In both views, but for 1.5 % of the pixels: nearest sampling moves an edge by half a pixel."""
    differ = total = 0
    for index, scene in enumerate(scenes):
        sample = change(scene, rng(3, index))
        right, left = sample.disp_right[:, ::-1], sample.disp[:, ::-1]
        checks = left_right_check(sample.disp, sample.disp_right), left_right_check(right, left)[:, ::-1]
        for mask, check in zip((sample.occluded, sample.occluded_right), checks, strict=True):
            differ, total = differ + int((mask != check).sum()), total + mask.size
    assert differ < 0.015 * total


@each_geometry
def test_sparse_truth_keeps_exact_values_and_loses_no_match_unnoticed(sparse, change):
    sample = change(sparse, rng(4))
    height, width = sample.left.shape[:2]
    assert {getattr(sample, name).shape[:2] for name in FIELDS} == {(height, width)}
    source = np.concatenate([sparse.disp[sparse.valid], sparse.disp_right[sparse.valid_right]])
    for view, sign in (("", -1), ("_right", 1)):
        disp, valid, occluded = (getattr(sample, name + view) for name in ("disp", "valid", "occluded"))
        assert disp.dtype == np.float32
        assert (disp[~valid] > 300).all()
        match = np.arange(width, dtype=np.float32) + sign * disp
        assert occluded[valid & ((match < 0) | (match > width - 1))].all()
        # Every value is a value of the source times the one factor, which has a whole number of columns below.
        factors = (np.float32(width / window) for window in range(1, W + 1) if width / window <= 2.5)
        assert any(np.isin(disp[valid], source * factor).all() for factor in factors)


@pytest.mark.parametrize("size", [(H, 2 * W), (60, 110), (100, 257), (7, 5), (240, 217), (H, W)])
def test_resizing_takes_the_pixel_that_holds_the_new_centre(sparse, size):
    """Every pixel by hand, with exact fractions."""
    sample = resized(sparse, size)
    factor = np.float32(size[1] / W)
    for y in range(0, size[0], 3):
        for x in range(size[1]):
            row, column = (2 * y + 1) * H // (2 * size[0]), (2 * x + 1) * W // (2 * size[1])
            for view in ("", "_right"):
                disp, valid, hidden = (getattr(sparse, name + view)[row, column] for name in ("disp", "valid", "occluded"))
                match = np.float32(x) + (disp if view else -disp) * factor
                assert getattr(sample, f"disp{view}")[y, x] == disp * factor
                assert getattr(sample, f"valid{view}")[y, x] == valid
                assert getattr(sample, f"occluded{view}")[y, x] == (hidden or (valid and not 0 <= match <= size[1] - 1))


def test_cropping_occludes_what_it_separates_from_its_match(sparse):
    top, start, size = 11, 30, (50, 90)
    sample = cropped(sparse, top, start, size)
    for view, sign in (("", -1), ("_right", 1)):
        lost = 0
        for y in range(size[0]):
            for x in range(size[1]):
                disp, valid, hidden = (
                    getattr(sparse, name + view)[top + y, start + x] for name in ("disp", "valid", "occluded")
                )
                leaves = bool(valid and not start <= start + x + sign * float(disp) <= start + size[1] - 1)
                assert getattr(sample, f"occluded{view}")[y, x] == (hidden or leaves)
                lost += leaves and not hidden
        assert lost > 100
    assert np.array_equal(sample.right, sparse.right[top : top + 50, start : start + 90])
    assert not np.shares_memory(sample.occluded, sparse.occluded)


def test_cutting_before_resizing_is_resizing_before_cutting(scenes):
    """Twice the size, window (20, 30) .. (60, 100): but for the rim, whose neighbours were cut off."""
    quick = resized(cropped(scenes[0], 20, 30, (40, 70)), (80, 140))
    slow = cropped(resized(scenes[0], (2 * H, 2 * W)), 40, 60, (80, 140))
    for name in ("disp", "valid", "disp_right"):
        assert np.array_equal(getattr(quick, name), getattr(slow, name))
    assert (quick.occluded != slow.occluded).mean() < 0.005
    assert np.abs(quick.left[1:-1, 1:-1].astype(int) - slow.left[1:-1, 1:-1]).max() <= 1


def test_the_window_is_what_was_asked_for(sparse):
    for index in range(60):
        size = (int(rng(6, index).integers(8, 300)), int(rng(7, index).integers(8, 400)))  # also larger than the image
        sample = scale_and_crop(sparse, rng(8, index), only(scale_probability=0.5, scale=(0.5, 2.0)), size)
        assert {getattr(sample, name).shape[:2] for name in FIELDS} == {size}
    tops = {scale_and_crop(sparse, rng(9, i), only(), (H - 1, W)).disp.tobytes() for i in range(20)}
    assert tops == {sparse.disp[row : row + H - 1].tobytes() for row in (0, 1)}  # both ends are reached
    centre = scale_and_crop(sparse, rng(0), UNCHANGED, (60, 100))
    assert np.array_equal(centre.left, sparse.left[30:90, 60:160])


def test_a_small_image_is_enlarged_by_one_factor(sparse):
    sample = scale_and_crop(sparse, rng(1), UNCHANGED, (H, 2 * W))
    rows = slice(30, 90)  # half of the rows, twice as large
    assert np.array_equal(sample.disp, np.repeat(np.repeat(sparse.disp[rows] * 2, 2, axis=0), 2, axis=1))


def test_scaling_without_a_crop_covers_its_range(sparse):
    factors = []
    for index in range(50):
        sample = scale_and_crop(sparse, rng(10, index), only(scale_probability=1.0, scale=(0.8, 1.5), stretch=0.25))
        factors.append((sample.disp.shape[0] / H, sample.disp.shape[1] / W))
    y, x = np.array(factors).T
    assert 0.79 < y.min() < 0.85 and 1.4 < y.max() < 1.51
    assert 0.79 < (x / y).min() < 0.85 and 1.19 < (x / y).max() < 1.26


def test_flipping_the_views_twice_is_nothing(sparse):
    once = flip_views(sparse, rng(0), only(flip_probability=1.0))
    assert np.array_equal(once.left, sparse.right[:, ::-1])
    assert np.array_equal(once.disp, sparse.disp_right[:, ::-1])
    assert np.array_equal(once.occluded_right, sparse.occluded[:, ::-1])
    assert same(flip_views(once, rng(0), only(flip_probability=1.0)), sparse)


def test_flipping_needs_the_right_views_truth(sparse):
    always = only(flip_probability=1.0)
    for lacking in ({"disp_right": None, "valid_right": None}, {"occluded_right": None}):
        poorer = dataclasses.replace(sparse, **lacking)
        assert same(flip_views(poorer, rng(0), always), poorer)
    unknown = flip_views(dataclasses.replace(sparse, occluded=None, occluded_right=None), rng(0), always)
    assert unknown.occluded is None
    assert np.array_equal(unknown.left, sparse.right[:, ::-1])


def test_a_sample_without_truth_keeps_having_none(sparse):
    bare = Sample(sparse.left, sparse.right)
    sample = augment(bare, rng(1), ALWAYS, (64, 96))
    assert sample.left.shape == (64, 96, 3)
    assert all(getattr(sample, name) is None for name in TRUTH)


def test_misalignment_moves_the_right_image_and_nothing_else(scenes):
    sample = misalign(scenes[0], rng(3), only(misalign_probability=1.0))
    assert (sample.right != scenes[0].right).any()
    assert same(dataclasses.replace(sample, right=scenes[0].right), scenes[0])


def test_a_tilt_is_sub_pixel_and_of_the_stated_size():
    """On a ramp along y, value = 10 y: shift by s lowers it by 10 s; a turn by a adds 10 tan(a) (x - centre)."""
    ramp = np.repeat(np.arange(25, dtype=np.uint8)[:, None] * 10, 81, axis=1)
    image = np.repeat(ramp[..., None], 3, axis=2)
    inner_rows = slice(4, -4)
    for shift in (-1.5, -0.3, 0.0, 0.7):
        moved = tilted(image, shift, 0.0)[inner_rows].astype(float)
        assert np.abs(moved - (image[inner_rows] - 10.0 * shift)).max() <= 0.8  # rounding, and 1/64 px
    turned = tilted(image, 0.0, 0.5)[inner_rows].astype(float) - image[inner_rows]
    expected = 10 * math.tan(math.radians(0.5)) * (np.arange(81) - 40)
    assert np.abs(turned[..., 0] - expected).max() <= 1


def test_colour_leaves_the_truth_and_the_geometry_alone(scenes):
    settings = dataclasses.replace(ALWAYS, blur=0.0)
    for index in range(10):
        sample = recolour(scenes[0], rng(11, index), settings)
        assert all(getattr(sample, name) is getattr(scenes[0], name) for name in TRUTH)
        assert sample.left.dtype == sample.right.dtype == np.uint8
        assert (sample.left != scenes[0].left).any()


def test_without_asymmetry_both_views_look_the_same(scenes):
    grey = dataclasses.replace(scenes[0], right=scenes[0].left)
    common, own = only(colour_probability=1.0, asymmetry=0.0), only(colour_probability=1.0, asymmetry=1.0)
    for index in range(5):
        symmetric, asymmetric = (recolour(grey, rng(12, index), settings) for settings in (common, own))
        assert np.array_equal(symmetric.left, symmetric.right)
        assert (asymmetric.left != asymmetric.right).mean() > 0.5


def test_the_two_views_have_noise_of_their_own():
    flat = np.full((100, 100, 3), 128, np.uint8)
    sample = recolour(Sample(flat, flat), rng(2), only(noise_probability=1.0, noise=8.0))
    left, right = (image.astype(float) - 128 for image in (sample.left, sample.right))
    assert 0 < left.std() <= 8.5 and 0 < right.std() <= 8.5
    assert abs(np.corrcoef(left.ravel(), right.ravel())[0, 1]) < 0.05


def test_patches_cover_the_right_view_only(sparse):
    kinds = set()
    for index in range(30):
        sample = cover(sparse, rng(15, index), only(patch_probability=1.0, patches=1, patch_size=(10, 20)))
        assert same(dataclasses.replace(sample, right=sparse.right), sparse)
        changed = (sample.right != sparse.right).any(axis=2)
        rows, columns = changed.any(axis=1).nonzero()[0], changed.any(axis=0).nonzero()[0]
        box = sample.right[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert 5 <= box.shape[0] <= 20 and 5 <= box.shape[1] <= 20
        flat = (box == box[0, 0]).all()
        assert not flat or np.abs(box[0, 0] - sparse.right.mean(axis=(0, 1))).max() <= 0.5
        kinds.add(bool(flat))
    assert kinds == {True, False}


EACH = [name.removesuffix("_probability") for name in to_dict(UNCHANGED) if name.endswith("_probability")]


@pytest.mark.parametrize("name", EACH)
def test_every_transform_is_part_of_the_whole(sparse, name):
    assert not same(augment(sparse, rng(17), only(**{f"{name}_probability": 1.0})), sparse)


def test_the_order_shows(scenes):
    """The view that is misaligned is the right one after the flip; patches are flat though the image is noisy."""
    scene = scenes[0]
    tilted_pair = augment(scene, rng(18), only(flip_probability=1.0, misalign_probability=1.0))
    assert np.array_equal(tilted_pair.left, scene.right[:, ::-1])
    assert not np.array_equal(tilted_pair.right, scene.left[:, ::-1])
    means = []
    for index in range(10):
        settings = only(noise_probability=1.0, noise=50.0, patch_probability=1.0, patches=1, patch_size=(20, 30))
        right = augment(scene, rng(19, index), settings).right
        colours, counts = np.unique(right.reshape(-1, 3), axis=0, return_counts=True)
        means.append(counts.max() >= 100 and np.abs(colours[counts.argmax()] - right.mean(axis=(0, 1))).max() < 10)
    assert 2 <= sum(means) <= 9  # the other half are filled with noise


def test_probability_zero_is_the_identity(sparse, scenes):
    for sample in (sparse, scenes[0]):
        assert same(augment(sample, rng(1), UNCHANGED), sample)
        assert same(augment(sample, rng(1), UNCHANGED, (H, W)), sample)


def test_the_same_generator_gives_the_same_bytes_and_the_source_is_not_written(sparse):
    frozen = dataclasses.replace(sparse, **{name: getattr(sparse, name).copy() for name in FIELDS})
    for name in FIELDS:
        getattr(frozen, name).flags.writeable = False
    for index in range(10):
        first, second = (augment(frozen, rng(16, index), Augmentation(), (64, 96)) for _ in range(2))
        assert same(first, second)
    assert same(frozen, sparse)
    assert not same(augment(frozen, rng(16, 0), ALWAYS, (64, 96)), augment(frozen, rng(16, 1), ALWAYS, (64, 96)))


def test_settings_survive_a_recipe_and_are_strict():
    settings = Augmentation(scale=(0.5, 1.0), crop="centre")
    assert from_dict(Augmentation, to_dict(settings)) == settings
    assert from_dict(Augmentation, {"scale": [1, 2], "noise": 3}).scale == (1.0, 2.0)
    with pytest.raises(InputError, match=r"unknown setting 'augmentation.flip': .*flip_probability"):
        from_dict(Augmentation, {"flip": 0.5}, "augmentation")


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("flip_probability", 1.5, "from 0 to 1"),
        ("jpeg_probability", float("nan"), "from 0 to 1"),
        ("scale", (2.0, 1.0), "smaller one first"),
        ("scale", (0.0, 1.0), "from 0.05"),
        ("crop", "middle", "one of random, centre"),
        ("noise", -1.0, "0 or more"),
        ("shift", float("inf"), "finite"),
        ("jpeg", (0, 50), "from 1 to 100"),
        ("patches", 0, "1 or more"),
        ("patch_size", (0, 5), "from 1"),
    ],
)
def test_settings_out_of_range(name, value, expected):
    with pytest.raises(InputError, match=rf"augmentation\.{name}: got .*{expected}"):
        Augmentation(**{name: value})
