"""From what a user writes to the source that it means."""

from __future__ import annotations

import os
from pathlib import Path

from stereo.files import reading
from stereo.sources.camera import PREFIX, CameraSource, camera_number
from stereo.sources.frame import Selection, Source
from stereo.sources.pictures import BOTH_VIEWS, PairFiles, PictureSource, is_glob, list_files, list_pairs, one_file
from stereo.sources.stereo_jpeg import is_stereo_mpo
from stereo.sources.video import VIDEOS, VideoSource
from stereo.types import InputError

STILL = ("image", "folder", "glob")
PLURALS = {"image": "images", "folder": "folders", "glob": "globs", "video": "videos", "camera": "cameras"}


def kind_of(text: str) -> str:
    """One of PLURALS: what a LEFT or RIGHT is, by its spelling and by what is on the disk."""
    if text.startswith(PREFIX):
        return "camera"
    if os.path.isdir(text):  # False, too, of a name longer than names can be: opening the file says so
        return "folder"
    if is_glob(text):
        return "glob"
    return "video" if Path(text).suffix.lower() in VIDEOS else "image"


def open_source(
    left: str, right: str | None = None, layout: str | None = None, swap: bool = False, selection: Selection | None = None
) -> Source:
    """The pairs of two images, folders, globs, videos or cameras, or of one that holds both views.

    layout: how one picture holds both, "sbs" side by side or "ou" one above the other, left or upper half = left view; MPO and
    JPS files say that themselves. swap: exchange left and right. selection: which frames.
    Raises InputError for what does not exist, does not pair, holds nothing, or leaves open how it is meant.
    """
    selection = selection or Selection()
    kind = kind_of(left)
    if right is None:
        return _of_one(kind, left, layout, swap, selection)
    if layout is not None:
        raise InputError(f"got --layout {layout} and two {PLURALS[kind]}; it is for one that holds both views")
    if kind_of(right) != kind:
        raise InputError(f"{_unlike(left, right, tuple(PLURALS))}, or one that holds both views")
    if kind == "camera":
        numbers = [camera_number(left), camera_number(right)]
        if numbers[0] == numbers[1]:
            raise InputError(f"got {left} twice; give two different cameras, or one with --layout when it delivers both views")
        return CameraSource(numbers, None, swap, selection)
    if kind == "video":
        return VideoSource([left, right], None, swap, selection)
    pairs = [PairFiles(*pair) for pair in paired_files(left, right)]
    return PictureSource(f"'{left}' and '{right}'", pairs, None, swap, selection)


def paired_files(left: str, right: str) -> list[tuple[str, Path, Path]]:
    """(stem, left file, right file) of two images, folders or globs.

    Raises InputError for anything else, and for files that do not pair.
    """
    kind = kind_of(left)
    if kind_of(right) != kind or kind not in STILL:
        raise InputError(_unlike(left, right, STILL))
    if kind == "image":
        return [(Path(left).stem, Path(left), Path(right))]
    return [(pair.stem, pair.left, pair.right) for pair in list_pairs(left, right) if pair.right is not None]


def _unlike(left: str, right: str, kinds: tuple[str, ...]) -> str:
    listed = ", ".join(f"two {PLURALS[kind]}" for kind in kinds)
    return f"got '{left}' ({kind_of(left)}) and '{right}' ({kind_of(right)}); expected {listed}"


def _of_one(kind: str, given: str, layout: str | None, swap: bool, selection: Selection) -> Source:
    if layout is None and (kind in ("camera", "video") or (kind == "image" and not _says_itself(Path(given)))):
        raise InputError(one_file(given))
    if kind == "camera":
        return CameraSource([camera_number(given)], layout, swap, selection)
    if kind == "video":
        return VideoSource([given], layout, swap, selection)
    pairs = [PairFiles(Path(given).stem, Path(given))] if kind == "image" else _files_of_both(given, layout)
    return PictureSource(f"'{given}'", pairs, layout, swap, selection)


def _files_of_both(given: str, layout: str | None) -> list[PairFiles]:
    try:
        return list_files(given, layout)
    except InputError as error:
        raise InputError(f"{error}; {one_file(given)}" if layout is None else str(error)) from None


def _says_itself(path: Path) -> bool:
    """Whether a picture file holds both views by its own account; also True of one that is missing: reading it says so.

    Raises InputError for one that cannot be read.
    """
    if path.suffix.lower() in BOTH_VIEWS or not os.path.isfile(path):
        return True
    if path.suffix.lower() not in (".jpg", ".jpeg"):
        return False
    with reading(path, "image") as (file, _):
        return is_stereo_mpo(file.read())
