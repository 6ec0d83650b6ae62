"""Pairs of any size through the predictor: types, sizes, padding, refusals, the mirrored right view."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import stereo
from stereo.inference import predictor as inference
from stereo.types import InputError


@pytest.fixture(scope="module")
def predictor() -> stereo.StereoPredictor:
    torch.manual_seed(0)
    return stereo.StereoPredictor(stereo.build_model("tiny"), precision="fp32")


def pair(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng((height, width))
    return tuple(rng.integers(0, 256, (height, width, 3), dtype=np.uint8) for _ in range(2))


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (48, 64), (65, 97), (49, 200), (131, 32)])
def test_any_size_from_32_px_on(predictor, size):
    result = predictor.predict(*pair(*size))
    for name in ("disp", "occlusion", "confidence"):
        values = getattr(result, name)
        assert values.shape == size
        assert values.dtype == np.float32
        assert values.flags.c_contiguous
        assert np.isfinite(values).all()
    assert result.disp.min() >= 0
    assert 0 <= result.occlusion.min() <= result.occlusion.max() <= 1
    assert 0 <= result.confidence.min() <= result.confidence.max() <= 1


def test_a_size_that_needs_no_padding_is_what_the_network_says(predictor):
    left, right = pair(48, 64)
    tensors = [torch.from_numpy(x).permute(2, 0, 1)[None].float() / 255 for x in (left, right)]
    with torch.no_grad():
        expected = predictor.model(*tensors)
    result = predictor.predict(left, right)
    np.testing.assert_allclose(result.disp, expected.disp[0].numpy(), atol=1e-5)
    np.testing.assert_allclose(result.occlusion, expected.occlusion[0].numpy(), atol=1e-6)


@pytest.mark.slow
def test_compiled_equals_plain(predictor):
    """Also at a second size, for which it is compiled once more."""
    compiled = stereo.StereoPredictor(predictor.model, precision="fp32", compiled=True)
    for size in ((48, 64), (64, 112)):
        expected, result = (x.predict(*pair(*size)) for x in (predictor, compiled))
        for name in ("disp", "occlusion", "confidence"):
            np.testing.assert_allclose(getattr(result, name), getattr(expected, name), atol=1e-3)


def test_the_network_compiles_in_one_piece(predictor):
    """No operator, and nothing that chooses or announces one, breaks the graph."""
    left, right = (torch.rand(1, 3, 48, 64, generator=torch.Generator().manual_seed(i)) for i in range(2))
    with torch.inference_mode():
        images = predictor.model.normalise(left, right)
        found = torch._dynamo.explain(predictor.model.predict_normalised)(images)
    assert found.graph_break_count == 0, found.break_reasons


def test_both_views_are_mirror_images(predictor):
    """Swapping and mirroring the pair must swap and mirror the two results."""
    left, right = pair(48, 80)
    of_left, of_right = predictor.predict_both(left, right)
    mirrored_right, mirrored_left = predictor.predict_both(right[:, ::-1], left[:, ::-1])
    np.testing.assert_array_equal(of_right.disp, mirrored_right.disp[:, ::-1])
    np.testing.assert_array_equal(of_left.disp, mirrored_left.disp[:, ::-1])
    np.testing.assert_array_equal(of_left.disp, predictor.predict(left, right).disp)


@pytest.mark.parametrize(
    ("left", "right", "message"),
    [
        (np.zeros((40, 40, 3), np.uint8), np.zeros((40, 41, 3), np.uint8), "40x40 px and the right one 41x40 px"),
        (np.zeros((31, 40, 3), np.uint8), np.zeros((31, 40, 3), np.uint8), "at least 32 px"),
        (np.zeros((40, 40, 3), np.float32), np.zeros((40, 40, 3), np.float32), "left image is float32"),
        (np.zeros((40, 40), np.uint8), np.zeros((40, 40), np.uint8), r"expected uint8 RGB of shape \(H, W, 3\)"),
    ],
)
def test_refuses_other_input(predictor, left, right, message):
    with pytest.raises(InputError, match=message):
        predictor.predict(left, right)


def test_precision_is_a_choice(monkeypatch):
    """bf16 where the device computes in it and the network bears it; the maps stay close, and float32."""
    torch.manual_seed(0)
    model = stereo.build_model("tiny")
    for able, expected in ((True, "bf16"), (False, "fp32")):
        monkeypatch.setattr(inference, "computes_bf16", lambda device, able=able: able)
        assert stereo.StereoPredictor(model).precision == expected
        assert stereo.StereoPredictor(stereo.build_model("sttr-light")).precision == "fp32"
    plain, low = (stereo.StereoPredictor(model, precision=name).predict(*pair(48, 96)) for name in ("fp32", "bf16"))
    assert low.disp.dtype == low.occlusion.dtype == low.confidence.dtype == np.float32
    assert 0 < np.abs(low.disp - plain.disp).mean() < 1
    with pytest.raises(InputError, match="got precision 'fp16', expected one of auto, bf16, fp32"):
        stereo.StereoPredictor(model, precision="fp16")
