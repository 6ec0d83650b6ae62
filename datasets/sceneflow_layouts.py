"""Where the files of the Scene Flow family lie: FlyingThings3D, its DispNet/FlowNet2 subset, Monkaa and Driving.

Every layout in use is BASE/KIND/GROUP/VIEW/STEM.EXT, with the same GROUP and STEM under each kind. They differ in what a kind
is called, in what else shares the base, and in GROUP, which tells the members of the family apart. So there is one finder and
one scanner, and files are partners because GROUP and STEM are equal: never by their rank, and never by replacing "left" in a
path, which may well contain that word further up.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from tqdm import tqdm

from stereo.types import InputError

SPLITS = ("TEST", "TRAIN")
PASSES = ("frames_cleanpass", "frames_finalpass")  # as the official archives call them
LETTERS = "ABC"
VIEWS = ("left", "right")

FULL, SUBSET, MONKAA, DRIVING = "flyingthings3d", "flyingthings3d-subset", "monkaa", "driving"
IMAGES = ("clean", "final")  # the first one that is there is read unless the caller names one
KINDS = {
    "clean": (PASSES[0], "frame_cleanpass", "RGB_cleanpass", "image_clean"),
    "final": (PASSES[1], "frame_finalpass", "RGB_finalpass", "image_final"),
    "disparity": ("disparity", "frames_disparity"),
    "occlusion": ("occlusion", "disparity_occlusions"),
}
SPLIT_OF = {"train": "TRAIN", "test": "TEST", "val": "TEST"}  # the subset's archive says val, some mirrors of it test
LEVELS = 3  # folders between what the caller names and the base below it

EXPECTED_TREE = """\
FlyingThings3D/                                           or any other name; Monkaa/ and Driving/ beside it
  frames_cleanpass/   also frame_*, RGB_*, *_webp         8-bit RGB or RGBA, PNG or WebP
    {TRAIN,TEST}/{A,B,C}/NNNN/{left,right}/FFFF.png       FlyingThings3D: 22390 + 4370 frames
    SCENE/{left,right}/FFFF.png                           Monkaa: 8664
    {15,35}mm_focallength/scene_{forwards,backwards}/{fast,slow}/{left,right}/FFFF.png    Driving: 4400
    {left,right}/A-NNNN-FFFF.png                          STTR's sample
  frames_finalpass/                                       the same, optional when the clean pass is there
  disparity/                                              the same folders and names, .pfm; right/ is optional
  occlusion/                                              the same, .png, 255 = occluded; optional, not part of the release
  all_unused_files.txt                                    optional: frames to leave out
Merged into one folder:
  frames_*/TRAIN/{A,B,C,SCENE,15mm_focallength,35mm_focallength}/..., disparity/TRAIN/..., or
  {,flying_,monkaa_,driving_}frames_cleanpass/, {,flying_,monkaa_,driving_}disparity/
FlyingThings3D_subset/                                    DispNet/FlowNet2 subset: 21818 + 4248 frames
  {train,val}/                                            or test
    image_clean/{left,right}/NNNNNNN.png                  also image_final, frames_cleanpass
    disparity/{left,right}/NNNNNNN.pfm                    the left ones are stored below zero
    disparity_occlusions/{left,right}/NNNNNNN.png         1 bit, optional
"""

_NAMES = {name.lower(): kind for kind, names in KINDS.items() for name in names}
_FOLDER = re.compile(rf"(?:(flyingthings3d|flying|monkaa|driving)__?)?({'|'.join(_NAMES)})(_webp)?", re.IGNORECASE)
_GROUPS = {FULL: rf"[{LETTERS}]/\d+", DRIVING: r"\w+_focallength/\w+/\w+", MONKAA: r"[^/]+"}


def frame_path(base: Path, kind: str, split: str, sequence: str, view: str, frame: str) -> Path:
    """The official file of one frame, ``sequence`` being "A/0000". kind: one of PASSES, "disparity" or "occlusion"."""
    return base / kind / split / sequence / view / f"{frame}{'.pfm' if kind == 'disparity' else '.png'}"


def kind_of(folder: str) -> str | None:
    """The key of KINDS that a folder's name stands for; None for the name of something else."""
    match = _FOLDER.fullmatch(folder)
    return _NAMES[match[2].lower()] if match else None


def _archive_of(folder: str) -> str:
    """Which archive the name of a folder of some kind is marked with: "monkaa", "driving", or "" for FlyingThings3D's own."""
    match = _FOLDER.fullmatch(folder)
    marked = (match[1] or "").lower() if match else ""
    return "" if marked.startswith("flying") else marked


@dataclass(frozen=True)
class Tree:
    """Parallel folders in one base. kinds: key of KINDS -> the folders of that kind, the one to prefer first.

    within: the beginning of GROUP below which to look, where the caller named a folder inside. images: the name of the image
    folder that the caller named, or "".
    """

    base: Path
    kinds: dict[str, list[Path]]
    within: tuple[str, ...] = ()
    images: str = ""

    def image_folder(self, wanted: str | None) -> Path:
        """The images to read. wanted: one of IMAGES, or a folder's name. Where that pass is absent it is another one."""
        wanted = wanted or self.images or IMAGES[0]
        first = wanted if wanted in IMAGES else kind_of(wanted)
        folders = [folder for kind in sorted(IMAGES, key=lambda kind: kind != first) for folder in self.kinds.get(kind, ())]
        return min(folders, key=lambda folder: folder.name != wanted)

    def folder(self, kind: str) -> Path:
        """The folder of "disparity" or "occlusion", which need not exist."""
        return self.kinds.get(kind, [self.base / KINDS[kind][0]])[0]


@dataclass(frozen=True)
class Found:
    """One frame, as far as its files are there.

    name: unique, begins with ``member`` (FULL, SUBSET, MONKAA or DRIVING). split: one of SPLITS, None when nothing says which.
    images: the folder that its pictures lie in. files: ("images" | "disparity" | "occlusion", view) -> file.
    """

    name: str
    member: str
    split: str | None
    group: str
    stem: str
    tree: Tree
    images: Path
    files: dict[tuple[str, str], Path]

    def file(self, kind: str, view: str) -> Path:
        """The image or disparity of a view, or where it would lie."""
        folder, extension = (self.images, ".png") if kind == "images" else (self.tree.folder(kind), ".pfm")
        return self.files.get((kind, view), folder / self.group / view / f"{self.stem}{extension}")


def find_trees(root: str | Path) -> list[Tree]:
    """The trees at and below ``root``, else the one that it lies in (an image or disparity folder, or anything below it).

    Folders that cannot be listed are passed over. The list is empty when there is none.
    """
    path = Path(os.path.abspath(root))  # not resolve(): the neighbours of a link count, not those of its target
    if below := list(_trees_below(path, LEVELS)):
        return below
    for folder in (path, *path.parents):
        trees = _trees_in(folder.parent) if kind_of(folder.name) else {}
        if tree := trees.get(_archive_of(folder.name)):
            within = path.relative_to(folder).parts
            within = within[:-1] if within and within[-1] in VIEWS else within
            return [replace(tree, within=within, images=folder.name if kind_of(folder.name) in IMAGES else "")]
    return []


def _subfolders(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            return sorted(Path(entry.path) for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    except OSError:  # no folder, or lost+found and its like
        return []


def _preference(folder: Path) -> tuple[int, bool]:
    """Sort key among folders of one kind: the official name first, the lossy copy last."""
    match = _FOLDER.fullmatch(folder.name)
    assert match is not None
    return list(_NAMES).index(match[2].lower()), bool(match[3])


def _trees_in(base: Path) -> dict[str, Tree]:
    """The trees whose base is ``base``, by archive; a tree has images."""
    found: dict[str, dict[str, list[Path]]] = defaultdict(lambda: defaultdict(list))
    for folder in sorted((f for f in _subfolders(base) if kind_of(f.name)), key=_preference):
        kind = kind_of(folder.name)
        assert kind is not None
        # An archive that was unpacked into a folder of its own name: monkaa__disparity/disparity/SCENE.
        inside = [folder / name for name in KINDS[kind] if (folder / name).is_dir()]
        found[_archive_of(folder.name)][kind].append(inside[0] if inside else folder)
    return {archive: Tree(base, dict(kinds)) for archive, kinds in found.items() if kinds.keys() & set(IMAGES)}


def _trees_below(folder: Path, levels: int) -> Iterator[Tree]:
    yield from _trees_in(folder).values()
    if levels:
        for child in _subfolders(folder):
            if kind_of(child.name) is None:
                yield from _trees_below(child, levels - 1)


def scan(tree: Tree, wanted: str | None) -> tuple[list[Found], list[tuple[str, Path]]]:
    """The frames of which there is an image, in any order, and (kind, file) of the other files, which belong to none of them.

    wanted: see Tree.image_folder. Raises InputError for a folder that cannot be listed.
    """
    images = tree.image_folder(wanted)
    gathered: dict[tuple[str, str], dict[tuple[str, str], Path]] = defaultdict(dict)
    for kind, folder, extensions in (
        ("images", images, (".png", ".webp")),
        ("disparity", tree.folder("disparity"), (".pfm",)),
        ("occlusion", tree.folder("occlusion"), (".png",)),
    ):
        for group, view, path in _files(folder, tree.within, extensions):
            gathered[group, path.stem].setdefault((kind, view), path)
    found: list[Found] = []
    strays: list[tuple[str, Path]] = []
    for (group, stem), files in gathered.items():
        identity = _identify(tree.base.name, group, stem)
        if identity is not None and any(kind == "images" for kind, _ in files):
            found.append(Found(*identity, group, stem, tree, images, files))
        else:
            strays += [(kind, path) for (kind, _), path in files.items()]
    return found, strays


def _files(folder: Path, within: tuple[str, ...], extensions: tuple[str, ...]) -> Iterator[tuple[str, str, Path]]:
    """(group, view, file) of every file in a folder called left or right. One listing per folder, no look at any file."""
    top = folder.joinpath(*within)
    if not top.is_dir():
        return
    walk = os.walk(top, onerror=_unreadable, followlinks=True)  # a split may live on another disk
    for parent, _, names in tqdm(walk, desc=f"list {folder.name}", unit=" folders", leave=False, delay=1, disable=None):
        *group, view = Path(parent).relative_to(folder).parts or ("",)
        if view in VIEWS:
            for name in sorted(names):  # .png before .webp
                if name.endswith(extensions) and not name.startswith("."):  # macOS leaves ._0006.png beside a copy
                    yield "/".join(group), view, Path(parent, name)


def _unreadable(error: OSError) -> None:
    raise InputError(f"cannot list '{error.filename}': {error.strerror}; check its permissions") from error


def _identify(base: str, group: str, stem: str) -> tuple[str, str, str | None] | None:
    """(name, member, split) of the frame, where ``base`` is the name of its base; None when GROUP has no known shape."""
    parts = group.split("/") if group else []
    inside = bool(parts) and parts[0].lower() in SPLIT_OF
    folder, parts = (parts[0], parts[1:]) if inside else (base, parts)
    split = SPLIT_OF.get(folder.lower())
    if parts:
        member = next((member for member, shape in _GROUPS.items() if re.fullmatch(shape, "/".join(parts))), None)
    else:
        member = SUBSET if stem.isdigit() else FULL  # STTR's sample: A-0032-0006
    if member is None:
        return None
    if member in (MONKAA, DRIVING):  # published as one piece, for training; merged layouts put it under TRAIN
        return "/".join((member, *parts, stem)), member, "TRAIN"
    return "/".join((member, *((folder,) if split else ()), *parts, stem)), member, split
