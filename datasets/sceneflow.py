"""The Scene Flow family as data sets: which frames, in which pass, with which sign. Where they lie: sceneflow_layouts.

Our own generator writes FlyingThings3D's layout (datasets.procedural.write), so that this reads it too.
"""

from __future__ import annotations

import logging
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from datasets.frames import Frame, FrameDataset, choose
from datasets.sceneflow_layouts import (
    DRIVING,
    EXPECTED_TREE,
    FULL,
    IMAGES,
    KINDS,
    LEVELS,
    MONKAA,
    SPLIT_OF,
    SUBSET,
    VIEWS,
    Found,
    find_trees,
    kind_of,
    scan,
)
from datasets.truth import SignError, read_truth
from stereo.config import near_matches
from stereo.image_io import read_disparity
from stereo.types import InputError

log = logging.getLogger(__name__)

UNUSED = "all_unused_files.txt"
COUNTS = {  # frames as published, before any list of unused ones
    (FULL, "TRAIN"): 22390,
    (FULL, "TEST"): 4370,
    (SUBSET, "TRAIN"): 21818,
    (SUBSET, "TEST"): 4248,
    (MONKAA, "TRAIN"): 8664,
    (DRIVING, "TRAIN"): 4400,
}
SIGN_TRIES = 5  # maps on each side of one that cannot be read
_UNUSED_LINE = re.compile(r"(.+)/(?:left|right)/([^/]+)\.\w+")


@dataclass(frozen=True)
class Sign:
    """Whether the maps of one view are stored as -disp, and the map that says so (None: the caller said so)."""

    flip: bool
    like: Path | None = None


class SceneFlow(FrameDataset):
    """All of the family that is there: FlyingThings3D, Monkaa and Driving, in any layout of EXPECTED_TREE.

    root: any folder of a tree (its base, the pass, TRAIN, a letter, a sequence, a view, the disparity folder), which then
    restricts what is read, or one up to three levels above the bases. The subset shows scenes of the full release, so it is
    read only where that is not found.

    split: TRAIN or TEST (val, as the subset says, is TEST); None for all. Monkaa and Driving are TRAIN, their published use.
    images: clean, final, or a folder's name such as frames_finalpass_webp, to be preferred where a pass is there twice. None
    takes the folder that ``root`` lies in, else the clean pass where there is one.
    sign: the program's is x_right = x_left - disp, disp >= 0. auto: a view whose maps have a median below 0 is negated, which
    the log says; every tree and view is judged on its own, by its first, middle and last map, as far as these can be read.
    keep, flip: as stored, negated.
    unused: what to do with all_unused_files.txt, the list of frames that DispNet was not trained on. None honours it where it
    lies in the image folder, the base or its parent; skip insists on it; keep reads all frames; else the path of such a list.

    A frame has both images and the left disparity. The right disparity and both occlusion masks are optional, file by file;
    masks without a file are derived (FrameDataset). Files that belong to no image of their name are left alone and counted in
    the log: among them STTR's occlusion files, whose numbers are the subset's and fit the full release by rank only.
    A frame is called "flyingthings3d/TEST/A/0000/0006", "monkaa/SCENE/0048", "flyingthings3d-subset/val/0000108" or
    "driving/15mm_focallength/scene_forwards/fast/0001", in whichever layout; frames are sorted by name. Another number of
    frames than the published one is a line in the log.
    Raises InputError for an unknown option, when nothing is found, and for a frame that lacks a file or is there twice, a pass
    that is not there, a damaged list, or maps of different signs; reading a frame raises it for a damaged file, unequal sizes,
    another sign, or a mask with a third value.
    """

    title = "Scene Flow"
    members: tuple[str, ...] = (FULL, MONKAA, DRIVING)
    expected_tree = EXPECTED_TREE

    def __init__(
        self,
        root: str | Path,
        split: str | None = None,
        images: str | None = None,
        sign: str = "auto",
        unused: str | None = None,
    ) -> None:
        choose("split", split and split.upper(), [name.upper() for name in SPLIT_OF], self.title)
        choose("sign", sign, ("auto", "keep", "flip"), self.title)
        if images is not None and images not in IMAGES and kind_of(images) not in IMAGES:
            known = (*IMAGES, *(name for kind in IMAGES for name in KINDS[kind]))
            raise InputError(f"unknown images '{images}' of {self.title}: {near_matches(images, known)}")
        frames = self._find(root, images)
        if split is not None:
            frames = self._of_split(frames, SPLIT_OF[split.lower()])
        self._compare_counts(frames, {SPLIT_OF[split.lower()]} if split else set(SPLIT_OF.values()))
        frames = self._without_unused(frames, unused)
        alone = sum(("disparity", "right") not in frame.files for frame in frames)
        if 0 < alone < len(frames):
            log.info("%s: %d of %d frames have no right disparity", self.title, alone, len(frames))
        self._signs = _signs(frames, sign)
        listed = {file for frame in frames for file in frame.files.values()}
        super().__init__([_frame(frame) for frame in frames], listed=listed)

    def read_disparity(self, path: Path, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        sign = self._signs[path]
        try:
            return read_truth(path, size, -1 if sign.flip else None)
        except SignError as error:
            reason = f"compare '{sign.like}', whose sign was taken for all" if sign.like else "the option sign says otherwise"
            raise InputError(f"{error}; {reason}") from error

    def _find(self, root: str | Path, images: str | None) -> list[Found]:
        """All frames of this data set's members at ``root``, sorted; no name twice."""
        found: list[Found] = []
        strays: list[tuple[str, Path]] = []
        for tree in find_trees(root):
            more, others = scan(tree, images)
            found += more
            strays += others
        members = self._members_to_read({frame.member for frame in found})
        frames = sorted((frame for frame in found if frame.member in members), key=lambda frame: frame.name)
        if not frames:
            there = f", only {', '.join(sorted({frame.member for frame in found}))}" if found else ""
            raise InputError(
                f"no {self.title} found in '{root}'{there}; looked there and {LEVELS} levels below for an image folder such as "
                "frames_cleanpass with .../left/FFFF.png and, beside it, disparity with .../left/FFFF.pfm"
            )
        for a, b in pairwise(frames):
            if a.name == b.name:
                raise InputError(f"frame {a.name} is there twice, in '{a.images}' and in '{b.images}'; name one folder only")
        folders = {frame.images: None for frame in frames}  # in order
        for folder in folders:
            if images is not None and kind_of(folder.name) != (images if images in IMAGES else kind_of(images)):
                raise InputError(f"got images '{images}', but there is only '{folder}'; leave the option out, or get that pass")
        log.info("%s: reading %s", self.title, ", ".join(f"'{folder}'" for folder in folders))
        if strays:
            kinds = ", ".join(f"{count} of {kind}" for kind, count in Counter(kind for kind, _ in strays).items())
            log.info("%s: files without an image of their name: %s, for example '%s'", self.title, kinds, strays[0][1])
        return frames

    def _members_to_read(self, there: set[str]) -> tuple[str, ...]:
        return (*self.members, SUBSET) if FULL in self.members and FULL not in there else self.members

    def _of_split(self, frames: Sequence[Found], split: str) -> list[Found]:
        kept = [frame for frame in frames if frame.split == split]
        if not kept:
            there = ", ".join(sorted({f"{frame.member} {frame.split or 'without a split'}" for frame in frames}))
            raise InputError(f"no {split} frame of {self.title} in '{frames[0].tree.base}', only {there}; choose another split")
        return kept

    def _compare_counts(self, frames: Sequence[Found], splits: set[str]) -> None:
        found = Counter((frame.member, frame.split) for frame in frames)
        # No frame at all is worth a line where all were asked for: not inside a tree, and not of a sample, which has no split.
        whole = {frame.member for frame in frames if frame.split and not frame.tree.within}
        differ = [
            f"{found[member, split]} of {known} {split} frames of {member}"
            for (member, split), known in COUNTS.items()
            if split in splits and found[member, split] != known and (found[member, split] or member in whole)
        ]
        if differ:
            log.info("%s: found %s", self.title, ", ".join(differ))

    def _without_unused(self, frames: list[Found], unused: str | None) -> list[Found]:
        if unused == "keep":
            return frames
        places = {place: None for frame in frames for place in (frame.images, frame.tree.base, frame.tree.base.parent)}
        lists = [place / UNUSED for place in places if (place / UNUSED).is_file()]
        if unused == "skip" and not lists:
            listed = ", ".join(f"'{place}'" for place in places)
            raise InputError(f"got unused=skip, but no {UNUSED} lies in {listed}; put it there or give its path, unused=FILE")
        if unused not in (None, "skip"):
            lists = [Path(unused)]
        if not lists:
            return frames
        leave_out = set().union(*(_read_unused(path) for path in lists))
        kept = [frame for frame in frames if (frame.group, frame.stem) not in leave_out]
        listed = " and ".join(f"'{path}'" for path in lists)
        if not kept:
            raise InputError(f"{listed} leaves out all {len(frames)} frames of {self.title}; unused=keep reads them")
        log.info("%s: %s leaves out %d of %d frames", self.title, listed, len(frames) - len(kept), len(frames))
        return kept


class FlyingThings3D(SceneFlow):
    """FlyingThings3D in its full release, or where that is not found, the DispNet/FlowNet2 subset; all else as in SceneFlow."""

    title = "FlyingThings3D"
    members = (FULL,)


class FlyingThings3DSubset(SceneFlow):
    """FlyingThings3D as DispNet and FlowNet2 were trained on it, with occlusion masks; all else as in SceneFlow."""

    title = "FlyingThings3D subset"
    members = (SUBSET,)


class Monkaa(SceneFlow):
    """Monkaa, which has no test split; all else as in SceneFlow."""

    title = "Monkaa"
    members = (MONKAA,)


class Driving(SceneFlow):
    """Driving, which has no test split; all else as in SceneFlow."""

    title = "Driving"
    members = (DRIVING,)


def _frame(found: Found) -> Frame:
    return Frame(
        name=found.name,
        left=found.file("images", "left"),
        right=found.file("images", "right"),
        disp=found.file("disparity", "left"),
        disp_right=found.files.get(("disparity", "right")),
        occluded=found.files.get(("occlusion", "left")),
        occluded_right=found.files.get(("occlusion", "right")),
    )


def _read_unused(path: Path) -> set[tuple[str, str]]:
    """(group, stem) of each line such as TRAIN/A/0000/left/0006.png; one view stands for the frame."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or "not a text file"
        raise InputError(f"cannot read unused='{path}': {reason}; expected skip, keep or the path of a list") from error
    found = set()
    for number, line in enumerate(lines, 1):
        match = _UNUSED_LINE.fullmatch(line.strip())
        if match:
            found.add((match[1], match[2]))
        elif line.strip():
            raise InputError(f"line {number} of '{path}' is '{line[:80]}', expected the form TRAIN/A/0000/left/0006.png")
    return found


def _signs(frames: Sequence[Found], option: str) -> dict[Path, Sign]:
    """The sign of every disparity file; the same object for all files of one tree and view."""
    stored: dict[tuple[Path, str], list[Path]] = defaultdict(list)
    for frame in frames:
        for view in VIEWS:
            if ("disparity", view) in frame.files:
                stored[frame.tree.folder("disparity"), view].append(frame.files["disparity", view])
    signs = {key: _sign(paths) if option == "auto" else Sign(option == "flip") for key, paths in stored.items()}
    negated = [f"{view} of '{folder}'" for (folder, view), sign in signs.items() if sign.flip and sign.like]
    if negated:
        log.info("disparities are stored below 0 and negated: %s (sign=keep leaves them)", ", ".join(negated))
    return {path: signs[key] for key, paths in stored.items() for path in paths}


def _sign(paths: Sequence[Path]) -> Sign:
    """The sign that three maps agree on: the first, middle and last, or their neighbours where these cannot be read.

    What is wrong with those, reading their frames will tell. Raises InputError for different signs.
    """
    below: dict[bool, Path] = {}
    for start in (0, len(paths) // 2, len(paths) - 1):
        for path in (*paths[start : start + SIGN_TRIES], *paths[max(0, start - SIGN_TRIES) : start]):
            with suppress(InputError):
                disp, valid = read_disparity(path)
                below.setdefault(bool(np.median(disp[valid]) < 0), path)
                break
    if len(below) == 2:
        expected = "expected one sign in all maps of a view: convert some"
        raise InputError(f"'{below[True]}' holds disparities below 0, '{below[False]}' above; {expected}")
    return Sign(True in below, next(iter(below.values()), None))
