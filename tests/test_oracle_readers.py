"""Our readers against what the public code read from the same genuine files (io_readers.npz and .json in ../shared/oracles)."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from oracle_record import FOLDER, compare, needs_oracles, open_arrays, open_json

from datasets.frames import Frame, FrameDataset
from datasets.truth import read_mask
from stereo.geometry import left_right_check
from stereo.image_io import read_disparity, read_image, read_pfm, read_stored
from stereo.model.sttr.network import DEVIATION, MEAN
from stereo.types import Sample

pytestmark = needs_oracles

# Where the files lie of which the public code's authors hand out samples.
GENUINE = {
    "SCENE_FLOW": "sceneflow/sttr_sample_layout",
    "MIDDLEBURY_2014": "middlebury/MiddEval3",
    "KITTI_2015": "kitti2015",
}
CORNERS = ([0, 0, -1, -1], [0, -1, 0, -1])  # the four, as they are stored


def genuine(name: str) -> Path:
    top, _, rest = name.partition("/")
    return FOLDER.parent / "layouts" / GENUINE[top] / rest


def kitti_px(path: Path) -> np.ndarray:
    """px, 0 = unknown, in the public code's float64."""
    return read_disparity(path)[0].astype(np.float64)


def occluded_as_numbers(path: Path) -> np.ndarray:
    return read_mask(path, read_image(path).shape[:2]).astype(np.uint8)


READERS = {
    **{f"pfm.{name}": read_pfm for name in ("sf_left", "sf_right", "mb_disp0", "mb_disp1", "mb_disp0y", "mb_disp1y")},
    **{f"{name}.img_left": read_image for name in ("sf", "kitti", "mb")},
    **{f"mb.mask{view}": read_stored for view in (0, 1)},
    **{f"sf.occ_{view}": occluded_as_numbers for view in ("left", "right")},
    "kitti.disp_raw_uint16": lambda path: read_stored(path).astype(np.int32),
    "kitti.disp": kitti_px,
}


def test_every_file_that_was_read_is_read_here():
    entries = open_json("io_readers")
    assert {key for key, facts in entries.items() if isinstance(facts, dict) and "file" in facts} == set(READERS)


@pytest.mark.parametrize("key", READERS)
def test_oracle_genuine_file(key: str):
    facts, arrays = open_json("io_readers")[key], open_arrays("io_readers")
    path = genuine(facts["file"])
    assert hashlib.sha256(path.read_bytes()).hexdigest() == facts["file_sha256"]
    ours = READERS[key](path)
    columns = slice(700, 740) if key.startswith("kitti.disp") else slice(300, 324)
    compare("io_readers.npz", f"{key}.crop", ours[200:216, columns], arrays[f"{key}.crop"])
    compare("io_readers.npz", f"{key}.corners", ours[CORNERS], arrays[f"{key}.corners"])
    check_bytes(key, ours, facts)


def check_bytes(key: str, ours: np.ndarray, facts: dict) -> None:
    assert (str(ours.dtype), list(ours.shape)) == (facts["dtype"], facts["shape"])
    same = hashlib.sha256(np.ascontiguousarray(ours).tobytes()).hexdigest() == facts["array_sha256"]
    compare("io_readers.json", f"{key} (bytes)", int(same), 1)


@pytest.mark.parametrize("name", ["gray_le", "gray_be", "color_le"])
def test_oracle_tiny_pfm(name: str, tmp_path: Path):
    arrays = open_arrays("io_readers")
    path = tmp_path / "a.pfm"
    path.write_bytes(arrays[f"pfm.synth_{name}.file_bytes"].tobytes())
    ours = read_pfm(path)
    np.testing.assert_array_equal(ours, arrays[f"pfm.synth_{name}.array"], strict=True)
    compare("io_readers.npz", f"pfm.synth_{name}.array", ours, arrays[f"pfm.synth_{name}.array"])


# ---------------------------------------------------------------------------------------------------------------------
# Whole samples. The public code takes what leaves the frame for occluded, and sets what is unknown or occluded to 0.


class PublicItems(FrameDataset):
    """Middlebury's masks say 128 for occluded (0 is unknown); the others are ours."""

    def read_occluded(self, path: Path, size: tuple[int, int]) -> np.ndarray:
        return read_stored(path) == 128 if "nocc" in path.name else super().read_occluded(path, size)


def item_frame(name: str) -> Frame:
    if name == "sceneflow_sample":
        folders = {"left": "RGB_cleanpass/left", "right": "RGB_cleanpass/right"}
        folders |= {"disp": "disparity/left", "disp_right": "disparity/right"}
        folders |= {"occluded": "occlusion/left", "occluded_right": "occlusion/right"}
        files = {key: f"SCENE_FLOW/{x}/A-0032-0006.{'pfm' if 'disp' in key else 'png'}" for key, x in folders.items()}
    elif name == "kitti2015_validation":
        folders = {"left": "image_2", "right": "image_3", "disp": "disp_occ_0"}
        files = {key: f"KITTI_2015/training/{x}/000046_10.png" for key, x in folders.items()}
    else:
        names = {"left": "im0.png", "right": "im1.png", "disp": "disp0GT.pfm", "disp_right": "disp1GT.pfm"}
        names |= {"occluded": "mask0nocc.png", "occluded_right": "mask1nocc.png"}
        files = {key: f"MIDDLEBURY_2014/trainingQ/Motorcycle/{x}" for key, x in names.items()}
    return Frame(name, **{key: genuine(file) for key, file in files.items()})


def leaves_on_the_left(disp: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Our left-right check with nothing known of the right view."""
    return left_right_check(disp, np.zeros_like(disp), 1.0, known, np.zeros_like(known))


def leaves_on_the_right(disp_right: np.ndarray, known: np.ndarray) -> np.ndarray:
    """The mirror image, but that matches of the public code may go one column too far, and +inf (unknown) goes too far."""
    width = disp_right.shape[1]
    column = np.arange(width) + disp_right
    return (leaves_on_the_left(disp_right[:, ::-1], known[:, ::-1])[:, ::-1] & (column > width)) | ~known


def public_item(sample: Sample) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The public disp and masks out of ours, and what of the masks is only outside of the frame."""
    known = sample.valid & (sample.disp >= 0) & (sample.disp <= sample.disp.shape[1])
    nothing = np.zeros_like(known)
    left = {"occ_mask": leaves_on_the_left(sample.disp, known), "occ_mask_right": nothing}
    if sample.disp_right is not None:
        left["occ_mask_right"] = leaves_on_the_right(sample.disp_right, sample.valid_right)
    given = {"occ_mask": sample.occluded, "occ_mask_right": sample.occluded_right}
    masks = {key: mask if given[key] is None else mask | given[key] for key, mask in left.items()}
    disp = np.where(known & ~masks["occ_mask"], sample.disp, np.float32(0))
    return {"disp": disp} | masks, left


def normalised(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 -> (3, H, W) float32 as our STTR hands it on."""
    return ((image / np.float32(255) - np.float32(MEAN)) / np.float32(DEVIATION)).transpose(2, 0, 1)


@pytest.mark.parametrize("name", ["sceneflow_sample", "kitti2015_validation", "middlebury_validation"])
def test_oracle_item_of_a_data_set(name: str):
    facts, arrays = open_json("io_readers"), open_arrays("io_readers")
    sample = PublicItems([item_frame(name)])[0]
    ours, left_the_frame = public_item(sample)
    for key, array in ours.items():
        compare_places(f"item.{name}.{key}", array, arrays)
        if name == "sceneflow_sample" and key in left_the_frame:
            # Pillow gave the public code bools of the bytes 0 and 255; what the code marked itself has the byte 1.
            array = np.where(left_the_frame[key], 1, array * np.uint8(255)).astype(np.uint8).view(bool)
        check_bytes(f"item.{name}.{key}", array, facts[f"item.{name}.{key}"])
    for key in ("left", "right"):
        compare_places(f"item.{name}.{key}", normalised(getattr(sample, key)), arrays, allowed=1e-6)


def compare_places(key: str, ours: np.ndarray, arrays: dict[str, np.ndarray], allowed: float = 0.0) -> None:
    """What is stored of a large array."""
    compare("io_readers.npz", f"{key}.crop", ours[..., 200:216, 300:340], arrays[f"{key}.crop"], allowed)
    compare("io_readers.npz", f"{key}.border", ours[..., 200, :40], arrays[f"{key}.border"], allowed)


def test_oracle_what_leaves_the_frame():
    arrays = open_arrays("io_readers")
    for view, rule in (("left", leaves_on_the_left), ("right", leaves_on_the_right)):
        disp = arrays[f"fn.{view}_occ.disp"]
        compare("io_readers.npz", f"fn.{view}_occ.out", rule(disp, disp >= 0), arrays[f"fn.{view}_occ.out"])


def test_oracle_preprocessing():
    arrays = open_arrays("io_readers")
    given = {key.removeprefix("augment.in."): array for key, array in arrays.items() if key.startswith("augment.in.")}
    for view in ("left", "right"):
        compare("io_readers.npz", f"augment.out.{view}", normalised(given[view]), arrays[f"augment.out.{view}"], 1e-6)
    compare("io_readers.npz", "normalize.out.left", normalised(given["left"]), arrays["normalize.out.left"], 1e-6)
    valid, valid_right = (np.isfinite(given[key]) for key in ("disp", "disp_right"))
    sample = Sample(
        given["left"],
        given["right"],
        disp=np.where(valid, given["disp"], 0),
        valid=valid,
        occluded=given["occ_mask"],
        disp_right=np.where(valid_right, given["disp_right"], 0),
        valid_right=valid_right,
        occluded_right=given["occ_mask_right"],
    )
    for key, array in public_item(sample)[0].items():
        compare("io_readers.npz", f"augment.out.{key}", array, arrays[f"augment.out.{key}"])
