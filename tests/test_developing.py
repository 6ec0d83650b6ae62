"""Developing on tensors against the camera on arrays; JPEG against OpenCV's encoder; grain against what noise should be."""

from __future__ import annotations

import dataclasses
import math

import cv2
import numpy as np
import pytest
import torch

from datasets.camera import Look, develop
from datasets.developing import develop_batch
from datasets.grain import grain
from datasets.jpeg import CHROMINANCE, LUMINANCE, _steps, jpeg
from datasets.procedural.dataset import render_sample
from datasets.procedural.photometric import photometric, photometric_batch
from datasets.procedural.shots import Development

LOOKS = {
    "nothing": Look(),
    "gain": Look(gain=(0.5, 1.0, 2.0)),
    "gamma": Look(gamma=1.7),
    "grey": Look(saturation=0.3),
    "contrast": Look(contrast=0.5),
    "slight blur": Look(blur=0.26),
    "blur": Look(blur=1.3),
    "blur wider than the image": Look(blur=15.0),
    "all": Look(saturation=0.6, blur=0.9, gamma=0.8, gain=(0.9, 1.0, 1.1), contrast=1.2),
}


def planar(images: list[np.ndarray]) -> torch.Tensor:
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float()


def arrays(images: torch.Tensor) -> list[np.ndarray]:
    return list(images.permute(0, 2, 3, 1).numpy())


@pytest.fixture(scope="module")
def pictures() -> list[np.ndarray]:
    """(97, 141, 3) uint8: neither side a multiple of the 16 px of a JPEG block."""
    return [render_sample(1, index, 97, 141, augment=False).left for index in range(4)]


def test_a_batch_of_looks_is_each_look_by_itself():
    """All in one batch, so that a look that strays to its neighbour is found."""
    rng = np.random.default_rng(3)
    images = [rng.random((41, 53, 3), dtype=np.float32) for _ in LOOKS]
    found = arrays(develop_batch(planar(images), list(LOOKS.values())))
    for image, (name, look), developed in zip(images, LOOKS.items(), found, strict=True):
        apart = np.abs(developed - develop(image, look).astype(float))
        assert (developed == np.rint(developed)).all()
        assert apart.max() <= 1, name
        assert (apart > 0).mean() < 1e-3, name  # values on the border between two levels


def test_noise_is_the_grain_times_its_strength():
    noise = grain([5, 6], 20, 30)
    images, looks = torch.full((2, 3, 20, 30), 0.5), [Look(noise=0.03), Look(noise=0.06)]
    found = develop_batch(images, looks, noise)
    for strength, field, shown in zip((0.03, 0.06), noise, found, strict=True):
        assert (shown - 255 * (0.5 + strength * field).clamp(0, 1)).abs().max() <= 0.51


def opencv(image: np.ndarray, quality: int) -> tuple[np.ndarray, bytes]:
    coded = cv2.imencode(".jpg", np.ascontiguousarray(image[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR))[..., ::-1], coded.tobytes()


@pytest.mark.parametrize("quality", [1, 10, 35, 50, 75, 95, 100])
def test_jpeg_is_what_an_encoder_makes_of_a_picture(pictures: list[np.ndarray], quality: int):
    """Numbers next to a rounding border fall on the other side here and there; the loss itself is the same to 0.1 dB."""

    def psnr(image: np.ndarray, original: np.ndarray) -> float:
        return 10 * math.log10(255**2 / np.square(image.astype(float) - original).mean())

    qualities = [quality, 60, quality, 90]  # each its own
    found = arrays(jpeg(planar(pictures), qualities))
    for picture, its_quality, coded in zip(pictures, qualities, found, strict=True):
        expected, _ = opencv(picture, its_quality)
        lost = np.abs(expected - picture.astype(float)).mean()
        assert np.abs(coded - expected).mean() < min(1.0, 0.25 * lost)  # grey levels
        assert abs(psnr(coded, picture) - psnr(expected, picture)) < 0.1
        assert coded.min() >= 0 and coded.max() <= 255 and (coded == np.rint(coded)).all()


def test_jpeg_of_a_grey_picture_agrees_nearly_everywhere(pictures: list[np.ndarray]):
    """Without colour there is only the cosine transform and the steps."""
    grey = [np.repeat(picture[..., 1:2], 3, axis=2) for picture in pictures]
    for picture, coded in zip(grey, arrays(jpeg(planar(grey), [75] * len(grey))), strict=True):
        assert (np.abs(coded - opencv(picture, 75)[0]) > 1).mean() < 0.02


@pytest.mark.parametrize("quality", [1, 10, 49, 50, 51, 88, 100])
def test_steps_are_those_in_an_encoders_file(pictures: list[np.ndarray], quality: int):
    data = opencv(pictures[0], quality)[1]
    # The order in which a file lists frequencies: along anti-diagonals, to and fro.
    places = sorted(((y, x) for y in range(8) for x in range(8)), key=lambda p: (sum(p), p[0] if sum(p) % 2 else p[1]))
    tables, at = {}, 2
    while data[at + 1] != 0xDA:  # segments up to the scan
        length = int.from_bytes(data[at + 2 : at + 4])
        if data[at + 1] == 0xDB:
            body = data[at + 4 : at + 2 + length]
            for start in range(0, len(body), 65):
                tables[body[start]] = list(body[start + 1 : start + 65])
        at += 2 + length
    for number, table in enumerate((LUMINANCE, CHROMINANCE)):
        steps = _steps(table, quality)
        assert tables[number] == [steps[8 * y + x] for y, x in places]


def test_grain_is_standard_normal_and_independent():
    fields = grain([0, 1, 2, 2**31 - 1], 128, 192)
    flat, count = fields.flatten(1).double(), fields[0].numel()
    assert (flat.mean(dim=1).abs() < 4 / math.sqrt(count)).all()
    assert ((flat.std(dim=1) - 1).abs() < 4 / math.sqrt(2 * count)).all()
    normal = torch.distributions.Normal(0.0, 1.0)
    for low, high in ((-9, -2), (-2, -1), (-1, 0), (0, 1), (1, 2), (2, 3), (3, 9)):
        expected = float(normal.cdf(torch.tensor(float(high))) - normal.cdf(torch.tensor(float(low))))
        share = ((flat > low) & (flat <= high)).double().mean(dim=1)
        assert ((share - expected).abs() < 5 * math.sqrt(expected / count)).all(), (low, high)
    # Neither with other seeds, nor with neighbours along x and y, nor between colours, nor between the halves of the hash.
    noise = 5 / math.sqrt(count)
    assert (torch.corrcoef(flat) - torch.eye(4)).abs().max() < noise
    for shift in (1, 192, 128 * 192, count // 2):
        assert ((flat * flat.roll(shift, 1)).mean(dim=1).abs() < noise).all(), shift


def test_grain_does_not_depend_on_the_batch():
    together = grain([3, 9], 31, 45)  # an odd number of values
    assert torch.equal(grain([9], 31, 45)[0], together[1])
    assert together.shape == (2, 3, 31, 45)
    assert not torch.equal(together[0], together[1])


def test_pairs_are_exposed_and_developed_as_arrays_are(pictures: list[np.ndarray]):
    looks = [dataclasses.replace(look, noise=0.02) for look in LOOKS.values()][-3:]
    how = [Development(0.02 * n, 0.8 + 0.1 * n, (looks[n % 3], looks[(n + 1) % 3]), 40 + n) for n in range(3)]
    light = [picture.astype(np.float32) / 255 for picture in pictures]
    found = photometric_batch(planar(light[:3]), planar(light[1:]), [*how[:2], None])
    for number in range(2):
        for view, expected in zip(found, photometric(light[number], light[number + 1], how[number]), strict=True):
            apart = np.abs(arrays(view)[number] - expected.astype(float))
            assert apart.max() <= 1
            assert (apart > 0).mean() < 2e-3
    assert (arrays(found[0])[2] == pictures[2]).all()  # no development: as it was
