"""Dense disparity, occlusion and confidence from a rectified pair, by quadtree attention along epipolar lines.

The names of ``__all__`` are the Python interface (docs/python.md). Each is imported when it is first used, so that
``import stereo`` costs nothing: PyTorch, which takes seconds, comes in with the first of them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from stereo.version import __version__

if TYPE_CHECKING:
    from stereo import attention, image_io, losses, metrics
    from stereo.calibration.fit import fit_to_size
    from stereo.calibration.read import read_calibration
    from stereo.checkpoint import load_model
    from stereo.geometry import Calibration, disparity_to_depth, points_from_disparity
    from stereo.image_io import read_disparity, read_image, write_image
    from stereo.inference.outputs import write_maps
    from stereo.inference.predictor import StereoPredictor
    from stereo.model.build import build_model
    from stereo.raw_files import read_ply, write_ply
    from stereo.sources.frame import StereoFrame
    from stereo.sources.opening import open_source
    from stereo.types import DisparityMap, InputError

__all__ = [
    "Calibration",
    "DisparityMap",
    "InputError",
    "StereoFrame",
    "StereoPredictor",
    "__version__",
    "attention",
    "build_model",
    "disparity_to_depth",
    "fit_to_size",
    "image_io",
    "load_model",
    "losses",
    "metrics",
    "open_source",
    "points_from_disparity",
    "read_calibration",
    "read_disparity",
    "read_image",
    "read_ply",
    "write_image",
    "write_maps",
    "write_ply",
]

_ROOMS = ("attention", "image_io", "losses", "metrics")
_HOME = {  # module -> what of it is public
    "calibration.fit": ("fit_to_size",),
    "calibration.read": ("read_calibration",),
    "checkpoint": ("load_model",),
    "geometry": ("Calibration", "disparity_to_depth", "points_from_disparity"),
    "image_io": ("read_disparity", "read_image", "write_image"),
    "inference.outputs": ("write_maps",),
    "inference.predictor": ("StereoPredictor",),
    "model.build": ("build_model",),
    "raw_files": ("read_ply", "write_ply"),
    "sources.frame": ("StereoFrame",),
    "sources.opening": ("open_source",),
    "types": ("DisparityMap", "InputError"),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import a public name on first use; it then stands in the module like any other."""
    if name in _ROOMS:
        value: Any = import_module(f"stereo.{name}")
    elif name in _MODULE_OF:
        value = getattr(import_module(f"stereo.{_MODULE_OF[name]}"), name)
    else:
        raise AttributeError(f"module 'stereo' has no attribute '{name}'")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
