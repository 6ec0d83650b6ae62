"""What a camera does to light: each part of a look by itself, and two looks in one."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from datasets.camera import Look, develop


def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


LOOKS = {
    "nothing": (Look(), lambda x: x),
    "gain": (Look(gain=(0.5, 1.0, 2.0)), lambda x: x * [0.5, 1.0, 2.0]),
    "gamma": (Look(gamma=2.0), lambda x: x**2),
    "grey": (Look(saturation=0.0), lambda x: np.repeat(x.mean(axis=2, keepdims=True), 3, axis=2)),
    "contrast": (Look(contrast=0.5), lambda x: x.mean() + 0.5 * (x - x.mean())),
}


@pytest.mark.parametrize(("look", "expected"), LOOKS.values(), ids=LOOKS.keys())
def test_each_part_of_a_look_does_what_it_says(look, expected):
    image = rng(13).random((20, 30, 3)).astype(np.float32) * 0.5
    assert np.abs(develop(image, look) - 255 * expected(image.astype(float))).max() <= 0.51


def test_two_looks_in_one():
    a = Look(saturation=0.5, blur=3.0, gamma=2.0, gain=(1.0, 2.0, 3.0), contrast=0.5, noise=0.03, jpeg=50)
    b = Look(saturation=0.5, blur=4.0, gamma=3.0, gain=(2.0, 2.0, 2.0), contrast=4.0, noise=0.04)
    assert a.then(b) == Look(0.25, 5.0, 6.0, (2.0, 4.0, 6.0), 2.0, pytest.approx(0.05), 50)
    assert a.then(Look()) == Look().then(a) == a
    assert b.then(a).jpeg == 50 and a.then(dataclasses.replace(b, jpeg=60)).jpeg == 60


def test_jpeg_and_blur_reach_the_image():
    noise = rng(14).random((64, 64, 3)).astype(np.float32)
    plain = develop(noise, Look())
    assert develop(noise, Look(blur=2.0)).std() < 0.5 * plain.std()
    ramp = np.repeat(np.linspace(0, 1, 64 * 64, dtype=np.float32).reshape(64, 64, 1), 3, axis=2)
    plain = develop(ramp, Look())
    coarse, fine = (np.abs(develop(ramp, Look(jpeg=quality)).astype(int) - plain).mean() for quality in (10, 95))
    assert coarse > 2 * fine > 0


def test_grain_is_scaled_by_the_noise():
    flat = np.full((40, 50, 3), 0.5, np.float32)
    grain = rng(15).standard_normal(flat.shape, dtype=np.float32)
    noisy = develop(flat, Look(noise=0.05), grain)
    assert np.abs(noisy - 255 * np.clip(0.5 + 0.05 * grain, 0, 1)).max() <= 0.51
