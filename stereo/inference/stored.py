"""Finished maps as files, ours or anybody's: which file belongs to which image, and what is in it."""

from __future__ import annotations

import glob
import zipfile
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from stereo.image_io import atomic_write, read_disparity, write_pfm
from stereo.inference.sgbm import fill_from_background
from stereo.types import DisparityMap, InputError

OURS, BESIDE = ".disp.pfm", ".maps.npz"  # write_stored_map's: disparity; occlusion and confidence
# Where the map of the image called "set/.../scene" may lie below the folder: the first pattern that finds most files is used
# for all images. name: the whole name; rest: without the set; scene: the last part; flat: rest with "-" for "/". The folders
# are those of submissions to KITTI 2015, ETH3D and Middlebury, whose file is called after the method.
PATTERNS = (
    "{name}", "{rest}", "{scene}", "{flat}", "disp_0/{scene}", "low_res_two_view/{scene}", "{rest}/disp0*", "{scene}/disp0*",
)  # fmt: skip
SUFFIXES = (OURS, ".pfm", ".npy", ".disp16.png", ".png")
UNITS = ".pfm and .npy hold px (unknown: inf or NaN), 16-bit .png px * 256 (KITTI; unknown: 0) or what its tEXt Scale says"


@dataclass(frozen=True)
class StoredMap:
    """What a file says about a pair: the DisparityMap of a method that may have told nothing but disparities.

    disp: (H, W) float32 px, dense: what the file does not know is filled from the background along its row, as KITTI's own
    evaluation does, so that every method is scored on the same pixels. occlusion, confidence: (H, W) in [0, 1], or None.
    counts: what was filled, entries of the image's row: ``count_pred_unknown`` (0 in a PNG, NaN, inf), ``count_pred_negative``.
    """

    disp: np.ndarray
    occlusion: np.ndarray | None = None
    confidence: np.ndarray | None = None
    counts: dict[str, int] = field(default_factory=dict)


def read_stored_map(path: Path) -> StoredMap:
    """Read one file; see UNITS. Disparities below 0 cannot be and count as unknown.

    Beside a file of ``write_stored_map`` the other two maps are read as well.
    Raises InputError for an unreadable file, and where most disparities are below 0: that is another sign convention.
    """
    disp, valid = read_disparity(path)
    negative = valid & (disp < 0)
    counts = {"count_pred_unknown": int(np.count_nonzero(~valid)), "count_pred_negative": int(np.count_nonzero(negative))}
    if 2 * counts["count_pred_negative"] > np.count_nonzero(valid):
        found = f"{counts['count_pred_negative']} of {np.count_nonzero(valid)} disparities below 0"
        raise InputError(f"'{path}' holds {found}; expected x_left - x_right, which is above 0: change its sign")
    beside = path.with_name(path.name.removesuffix(OURS) + BESIDE)
    occlusion, confidence = _read_beside(beside, disp.shape) if path.name.endswith(OURS) and beside.is_file() else (None, None)
    return StoredMap(fill_from_background(disp, valid & ~negative), occlusion, confidence, counts)


def _read_beside(path: Path, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            maps = archive["occlusion"], archive["confidence"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        expected = "expected occlusion and confidence in a .npz, or no such file"
        raise InputError(f"'{path}' is damaged or not ours; {expected}") from None
    if any(x.shape != shape or x.dtype != np.float32 for x in maps):
        raise InputError(f"'{path}' holds {[(x.shape, str(x.dtype)) for x in maps]}, expected two float32 maps of {shape}")
    return maps


def write_stored_map(folder: Path, name: str, result: DisparityMap | StoredMap) -> None:
    """Write NAME.disp.pfm (px) and, where known, NAME.maps.npz (occlusion and confidence, float32, 0 to 1) into ``folder``.

    ``read_stored_map`` gives back the same numbers. Raises InputError when a file cannot be written.
    """
    path = folder / f"{name}{OURS}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot create the folder '{path.parent}': {error.strerror}; choose another with -o") from None
    write_pfm(path, result.disp)
    if result.occlusion is not None and result.confidence is not None:
        with atomic_write(folder / f"{name}{BESIDE}") as temporary:
            np.savez_compressed(temporary, occlusion=result.occlusion, confidence=result.confidence)


def find_stored(folder: Path, names: Sequence[str]) -> tuple[dict[str, Path], list[str]]:
    """The file of each image, and the names of those that have none, both in the order of ``names``.

    Raises InputError where the folder or all files are missing, or one file would stand for several images.
    """
    if not folder.is_dir():
        raise InputError(f"'{folder}' is not a folder; expected the predictions, files of the kinds {', '.join(SUFFIXES)}")
    tried = [_files(folder, names, pattern) for pattern in PATTERNS]
    found = max(tried, key=lambda files: len(set(files.values())))  # the first of those with most
    if not found:
        example = ", ".join(f"'{_fill(pattern, names[0])}.pfm'" for pattern in PATTERNS[:4])
        raise InputError(f"no prediction found in '{folder}'; looked for {example} and so on; {UNITS}")
    path, times = Counter(found.values()).most_common(1)[0]
    if times > 1:
        expected = "expected one file for each: put them into folders that are called like the data's"
        raise InputError(f"'{path}' would stand for {times} images; {expected}")
    return found, [name for name in names if name not in found]


def _fill(pattern: str, name: str) -> str:
    rest = name.partition("/")[2] or name
    return pattern.format(name=name, rest=rest, scene=name.rpartition("/")[2], flat=rest.replace("/", "-"))


def _files(folder: Path, names: Sequence[str], pattern: str) -> dict[str, Path]:
    found = {}
    for name in names:
        stem = _fill(pattern, name)
        if stem.endswith("*"):  # the name of a method, in the image's own folder
            paths = [path for suffix in SUFFIXES for path in sorted(folder.glob(f"{glob.escape(stem[:-1])}*{suffix}"))]
        else:
            paths = [folder / (stem + suffix) for suffix in SUFFIXES]
        path = next((path for path in paths if path.is_file()), None)
        if path is not None:
            found[name] = path
    return found
