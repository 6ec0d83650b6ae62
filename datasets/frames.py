"""Data sets that lie in files: a list of frames, and one way of reading a frame.

A reader says where files lie and how they decode; everything else is common.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from datasets.truth import read_mask, read_numbers, read_truth, wxh
from stereo.geometry import left_right_check
from stereo.image_io import read_image
from stereo.types import InputError, Sample

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Frame:
    """The files of one pair; None where there is none. name: what log lines call it, unique within its data set.

    calib: a calib.txt that stereo.calibration.middlebury.read_middlebury_calib reads.
    scale: px per stored unit of disp and disp_right (see read_truth); None: their reader knows.
    also: other files that its reader opens.
    """

    name: str
    left: Path
    right: Path
    disp: Path | None = None
    disp_right: Path | None = None
    occluded: Path | None = None
    occluded_right: Path | None = None
    calib: Path | None = None
    scale: float | None = None
    also: tuple[Path, ...] = ()

    def files(self) -> list[Path]:
        """All of them."""
        values = (getattr(self, field.name) for field in fields(self))
        return [*(value for value in values if isinstance(value, Path)), *self.also]


class MissingFilesError(InputError):
    """Frames of a data set name files that are not there: ``files``, pairs of a frame's name and a path, at least one.

    rest: the same data set without these frames, for whoever wants to go on.
    """

    def __init__(self, files: Sequence[tuple[str, Path]], rest: FrameDataset) -> None:
        name, path = files[0]
        more = f" ({len(files)} such files are missing, the verb check lists them)" if len(files) > 1 else ""
        super().__init__(f"'{path}' is missing; {name} needs it, {rest.repair}{more}")
        self.files, self.rest = tuple(files), rest


class FrameDataset:
    """A sequence of Samples that are read when they are asked for: ``names``, ``len(dataset)``, ``dataset[i]``.

    A reader hands its sorted frames to ``__init__`` and, where its files are not PFM in px and masks of 0 and 255, overrides
    ``read_disparity`` or ``read_occluded``, or ``truth`` where one file says more than one thing.
    An occlusion mask that has no file is derived from the disparities of both views where they exist (geometry's left-right
    check), and the log says so once, as it does when there are not ``published`` frames (one alone was asked for by its path).
    listed: the files that listings have found, where the paths come out of them: asking tens of thousands of times again takes
    long on a network.
    Raises MissingFilesError, an InputError, when a file of a frame is missing, and nothing else decides that: so a reader calls
    ``__init__`` last, and names the files that a frame needs whether they are there or not. Reading raises InputError for
    whatever is damaged.
    """

    repair = "copy or download it again"  # what to do about a missing file

    def __init__(self, frames: Sequence[Frame], published: int | None = None, listed: Collection[Path] | None = None) -> None:
        bar = tqdm(frames, desc="look for files", unit="frame", delay=2, disable=None)
        # os.path.isfile is False for every name that cannot be, Path.is_file raises for some.
        missing = [(f, p) for f in bar for p in f.files() if not (os.path.isfile(p) if listed is None else p in listed)]
        incomplete = {frame for frame, _ in missing}
        self.frames = tuple(frame for frame in frames if frame not in incomplete) if missing else tuple(frames)
        if published is not None and len(frames) not in (1, published):
            log.info("%s: %d frames are here, %d were published", type(self).__name__, len(frames), published)
        self.names = tuple(frame.name for frame in self.frames)
        self._derived = False
        if missing:
            raise MissingFilesError([(frame.name, path) for frame, path in missing], self)

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> Sample:
        frame = self.frames[index]
        left, right = read_image(frame.left), read_image(frame.right)
        size = left.shape[:2]
        if right.shape[:2] != size:
            raise InputError(f"'{frame.left}' is {wxh(size)}, '{frame.right}' is {wxh(right.shape)}; expected equal sizes")
        return Sample(left=left, right=right, name=frame.name, **self.truth(frame, size))

    def truth(self, frame: Frame, size: tuple[int, int]) -> dict[str, Any]:
        """What is known of a frame whose images are ``size`` (H, W): fields of Sample; those left out are not known."""
        known: dict[str, Any] = {}
        read = self.read_disparity if frame.scale is None else partial(read_truth, scale=frame.scale)
        for view in ("", "_right"):
            path, mask = getattr(frame, f"disp{view}"), getattr(frame, f"occluded{view}")
            if path is not None:
                known[f"disp{view}"], known[f"valid{view}"] = read(path, size)
            if mask is not None:
                known[f"occluded{view}"] = self.read_occluded(mask, size)
        if {"disp", "disp_right"} <= known.keys() and not {"occluded", "occluded_right"} <= known.keys():
            known = self._with_derived_masks(known)
        return known

    def read_disparity(self, path: Path, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        """disp (H, W) float32 px, 0 where unknown, and valid (H, W) bool."""
        return read_truth(path, size)

    def read_occluded(self, path: Path, size: tuple[int, int]) -> np.ndarray:
        """(H, W) bool, True where the other camera does not see the pixel."""
        return read_mask(path, size)

    def _with_derived_masks(self, known: dict[str, Any]) -> dict[str, Any]:
        if not self._derived:
            self._derived = True
            log.info("%s: no occlusion files for %s; masks come from the left-right check", type(self).__name__, self.names[0])
        masks = derived_masks(*(known[name] for name in ("disp", "disp_right", "valid", "valid_right")))
        return masks | known  # a file goes before the check


class NonOccludedMasks(FrameDataset):
    """Frames whose mask files mark what both cameras see: a pixel of known disparity that is not marked is occluded.

    Marked is 255; 0 and 128 are not, which Middlebury writes where the disparity is not known and where it is. Reading raises
    InputError for another value.
    """

    def truth(self, frame: Frame, size: tuple[int, int]) -> dict[str, Any]:
        known = super().truth(frame, size)
        for view in ("", "_right"):
            if getattr(frame, f"occluded{view}") is not None:
                known[f"occluded{view}"] &= known[f"valid{view}"]
        return known

    def read_occluded(self, path: Path, size: tuple[int, int]) -> np.ndarray:
        mask = read_numbers(path, size, np.uint8)
        other = mask[(mask != 0) & (mask != 128) & (mask != 255)]
        if other.size:
            raise InputError(f"'{path}' holds the value {other.min()}; expected 255 (seen by both cameras), 128 and 0 (not)")
        return mask != 255


def derived_masks(
    disp: np.ndarray, disp_right: np.ndarray, valid: np.ndarray, valid_right: np.ndarray
) -> dict[str, np.ndarray]:
    """``occluded`` and ``occluded_right``, (H, W) bool, by geometry's left-right check at 1 px. All arrays as in Sample."""
    # The check speaks of a left view; the right view is one when everything is mirrored.
    mirrored = [x[:, ::-1] for x in (disp_right, disp, valid_right, valid)]
    return {
        "occluded": left_right_check(disp, disp_right, 1.0, valid, valid_right),
        "occluded_right": left_right_check(mirrored[0], mirrored[1], 1.0, mirrored[2], mirrored[3])[:, ::-1].copy(),
    }


def existing(path: Path) -> Path | None:
    """The path if there is such a file."""
    return path if path.is_file() else None


def find_files(root: Path, patterns: Sequence[str], what: str) -> list[Path]:
    """The files below ``root`` that match one of the globs, sorted. Raises InputError that names the globs when there is none.

    A name that begins with a dot is none of them: macOS leaves "._0006.png" beside a copy.
    """
    found = {path for pattern in patterns for path in root.glob(pattern) if not path.name.startswith(".")}
    if not found:
        listed = ", ".join(f"'{root / pattern}'" for pattern in patterns)
        raise InputError(f"no {what} found; looked for {listed}")
    return sorted(found)


def find_left_images(root: Path, patterns: Sequence[str], what: str) -> list[Path]:
    """``find_files``, and the left images that are missing while their right image is there: frames that lack a file.

    Each pattern says "left", and has no wildcard behind it in that part of the path.
    """
    found = set(find_files(root, patterns, what))
    for pattern in patterns:
        parts = pattern.split("/")
        for right in root.glob(pattern.replace("left", "right")):
            names = list(right.relative_to(root).parts)
            for place in range(-1, -len(parts) - 1, -1):
                if count := parts[place].count("left"):
                    names[place] = "left".join(names[place].rsplit("right", count))
            if not right.name.startswith("."):
                found.add(root.joinpath(*names))
    return sorted(found)


def first_folder(root: Path, candidates: Sequence[str], what: str) -> Path:
    """The first of the folders ``root / candidate`` that exists ("." is root itself). Raises InputError that names them all."""
    for candidate in candidates:
        if (root / candidate).is_dir():
            return root / candidate
    listed = ", ".join(f"'{root / candidate}'" for candidate in candidates)
    raise InputError(f"no {what} found; looked for the folders {listed}")


def scene_folders(root: Path, homes: Sequence[str], holders: Sequence[str], anchors: Sequence[str]) -> list[Path]:
    """The scenes HOLDER/SCENE of a data set, sorted: folders with a file that one of the patterns ``anchors`` fits.

    HOLDER is one of ``holders`` ("" for any folder) in ``root`` or in one of its subfolders ``homes``: the first of them that
    has a scene; if more have, the log says so. ``root`` may also be the holder or one scene.
    Raises InputError, which names what was looked for, when there is none.
    """
    root = root.resolve()  # "." has no name of its own
    if {"", root.parent.name} & set(holders) and any(path.is_file() for anchor in anchors for path in root.glob(anchor)):
        return [root]
    places = [root] if root.name in holders else []
    places += [root / home / holder for home in ("", *homes) for holder in holders]
    scenes = {place: sorted({path.parent for anchor in anchors for path in place.glob(f"*/{anchor}")}) for place in places}
    found = [place for place, folders in scenes.items() if folders]
    if not found:
        above = f"[{'|'.join(homes)}/]" + (f"[{'|'.join(filter(None, holders))}/]" if any(holders) else "")
        raise InputError(f"no scene found; looked for '{root}/{above}SCENE/{' or '.join(anchors)}'")
    if len(found) > 1:
        log.info("reading the scenes of %s; there are more in %s", found[0], ", ".join(map(str, found[1:])))
    return scenes[found[0]]


def choose(name: str, given: str | None, allowed: Sequence[str], what: str) -> None:
    """Raise InputError unless ``given`` is one of ``allowed`` or None; ``name`` is the option's name."""
    if given is not None and given not in allowed:
        raise InputError(f"got {name} '{given}' for {what}, expected one of {', '.join(allowed)}")
