"""What a camera does to light: colour, blur, gamma, exposure, noise, JPEG. Geometry is never touched, so truth stays true."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

LEAST_BLUR = 0.25  # px of standard deviation; less is not seen


@dataclass(frozen=True)
class Look:
    """One camera's rendering of light; the defaults change nothing.

    saturation: 0 is grey (the mean of the channels), 1 is as it was.
    blur:       standard deviation of a Gaussian, px; up to LEAST_BLUR it is left out.
    gamma:      exponent of values in [0, 1].
    gain:       factor of each channel.
    contrast:   factor of the distance from the image's mean.
    noise:      standard deviation of the grain, of a full scale of 1.
    jpeg:       quality 1 .. 100; 0 leaves the image uncompressed.
    """

    saturation: float = 1.0
    blur: float = 0.0
    gamma: float = 1.0
    gain: tuple[float, float, float] = (1.0, 1.0, 1.0)
    contrast: float = 1.0
    noise: float = 0.0
    jpeg: int = 0

    def then(self, other: Look) -> Look:
        """Both in one: factors multiply, blur and noise add their variances, and the other's JPEG goes first."""
        r, g, b = (float(mine * theirs) for mine, theirs in zip(self.gain, other.gain, strict=True))
        return Look(
            saturation=self.saturation * other.saturation,
            blur=float(np.hypot(self.blur, other.blur)),
            gamma=self.gamma * other.gamma,
            gain=(r, g, b),
            contrast=self.contrast * other.contrast,
            noise=float(np.hypot(self.noise, other.noise)),
            jpeg=other.jpeg or self.jpeg,
        )


def develop(image: np.ndarray, look: Look, grain: np.ndarray | None = None) -> np.ndarray:
    """(H, W, 3) float32 in [0, 1] -> (H, W, 3) uint8, in the order of light: scene, lens, sensor, file.

    grain: (H, W, 3) float32 of unit variance, needed where ``look.noise`` is above 0.
    """
    keep = np.float32(look.saturation)
    image = image @ (keep * np.eye(3, dtype=np.float32) + (1 - keep) / 3)  # towards the mean of the channels
    if look.blur > LEAST_BLUR:
        side = 2 * blur_reach(look.blur) + 1
        image = cv2.GaussianBlur(image, (side, side), look.blur)
    image = np.clip(image, 0, 1) ** np.float32(look.gamma)
    image = image * np.array(look.gain, np.float32)
    if look.contrast != 1:
        mean = image.mean()
        image = mean + np.float32(look.contrast) * (image - mean)
    if grain is not None:
        image = image + grain * np.float32(look.noise)
    image = np.clip(image * 255 + 0.5, 0, 255).astype(np.uint8)
    if look.jpeg:
        coded = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, look.jpeg])[1]
        image = cv2.cvtColor(np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR)), cv2.COLOR_BGR2RGB)
    return image


def blur_reach(sigma: float) -> int:
    """How far a Gaussian of this standard deviation is followed, px."""
    return (round(8 * sigma + 1) | 1) // 2
