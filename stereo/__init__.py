"""Dense disparity, occlusion and confidence from a rectified pair, by quadtree attention along epipolar lines."""

from stereo import attention, image_io, losses, metrics
from stereo.checkpoint import load_model
from stereo.inference.predictor import StereoPredictor
from stereo.model.build import build_model
from stereo.version import __version__

__all__ = [
    "StereoPredictor",
    "__version__",
    "attention",
    "build_model",
    "image_io",
    "load_model",
    "losses",
    "metrics",
]
