"""Your own pairs in two folders (or two globs), matched by their names alone."""

from __future__ import annotations

import logging
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path

from datasets.frames import Frame, FrameDataset, find_files
from datasets.truth import DISPARITY_FILES
from stereo.image_io import WRITABLE
from stereo.types import InputError

log = logging.getLogger(__name__)

LAYOUTS = (
    ("left", "right"),
    ("Left", "Right"),
    ("left_images", "right_images"),
    ("image_left", "image_right"),
    ("img_left", "img_right"),
    ("image_2", "image_3"),
    ("image_0", "image_1"),
    ("im0", "im1"),
    ("cam0", "cam1"),
    ("l", "r"),
    ("L", "R"),
)
SIDES = {"left": "right", "Left": "Right", "LEFT": "RIGHT", "l": "r", "L": "R", "0": "1"}
_WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|[0-9]+|[^A-Za-z0-9]+")  # "imgL_0001" -> img L _ 0001
_WILDCARDS = re.compile(r"\*\*/|\*|\?|\[[^\]]+\]")
_EXPRESSIONS = {"**/": "(?:(.*)/)?", "*": "([^/]*)", "?": "([^/])"}


class Folders(FrameDataset):
    """Pairs in the layout::

        ROOT/
          left/NAME.png  right/NAME.png     images of equal size; or another pair of LAYOUTS, where only one is there

    left, right:    other folders, or globs, relative to ROOT: "left=*/im0.png", "right=*/im1.png".
    disp, occluded: folder or glob of what is known of the left images, one file for each: disparity, x_right = x_left - disp
                    (.pfm and .npy in px, 16-bit .png in px * 256), and masks (255 = occluded, 0 = visible).

    The name of a file in a folder is its stem; that of a file of a glob is what the wildcards stand for. Left and right names
    are all equal, or each differs from its partner in one word that says left or right (SIDES): "a_l" and "a_r", "imL7" and
    "imR7", "0007_0" and "0007_1". Disparities and masks have the name of their left image, which is also that of the frame.
    In folders with equal names a name that one of them lacks is a missing file, of which MissingFilesError tells.
    Raises InputError when no pair of folders is found or more than one, for other names without a partner or with two, and when
    a file is selected as left and as right; reading a frame raises it for a damaged file, unequal sizes, a negative disparity,
    or a mask with a third value.
    """

    repair = "copy it again, or take its partner away"

    def __init__(
        self,
        root: str | Path,
        left: str | None = None,
        right: str | None = None,
        disp: str | None = None,
        occluded: str | None = None,
    ) -> None:
        root = Path(root)
        if left is None or right is None:
            if left is not None or right is not None:
                raise InputError(f"got left={left} and right={right} for the folders of '{root}', expected both or neither")
            left, right = _known_layout(root)
        lefts, rights = (select_files(root, choice, WRITABLE) for choice in (left, right))
        if twice := set(lefts.values()) & set(rights.values()):
            raise InputError(f"'{min(twice)}' is selected by left={left} and by right={right}; expected different files")
        if lefts.keys() & rights.keys() and (root / left).is_dir() and (root / right).is_dir():
            lefts, rights = _filled(lefts, rights, root / left), _filled(rights, lefts, root / right)
        partners = pair_names(lefts, rights)
        disps = {} if disp is None else _of_each(lefts, root, disp, DISPARITY_FILES, f"disp={disp}")
        masks = {} if occluded is None else _of_each(lefts, root, occluded, WRITABLE, f"occluded={occluded}")
        super().__init__(
            [
                Frame(name or path.stem, path, rights[partners[name]], disps.get(name), occluded=masks.get(name))
                for name, path in sorted(lefts.items())
            ]
        )


def pair_names(left: Iterable[str], right: Iterable[str]) -> dict[str, str]:
    """The right name of every left name: all are equal, or each pair differs in one word that says left or right (SIDES).

    Raises InputError, which lists the first few, for names without a partner or with two.
    """
    lefts, rights = set(left), set(right)
    partners: dict[str, list[str]] = {name: [name] for name in lefts & rights}
    if not partners:
        with_blank = defaultdict(list)
        for name in rights:
            for blank in _blanks(name, {other: side for side, other in SIDES.items()}):
                with_blank[blank].append(name)
        for name in lefts:
            partners[name] = [other for blank in _blanks(name, {side: side for side in SIDES}) for other in with_blank[blank]]
    claims = Counter(other for others in partners.values() for other in others)
    expected = "expected equal names on both sides, or names that differ in one word such as left/right, l/r or 0/1"
    if alone := [name for name in lefts if not partners.get(name)] + list(rights - claims.keys()):
        raise InputError(f"{len(alone)} of {len(lefts) + len(rights)} images have no partner: {_first_few(alone)}; {expected}")
    if double := [name for name in lefts if len(partners[name]) > 1] + [name for name in rights if claims[name] > 1]:
        raise InputError(f"{len(double)} images have two partners or more: {_first_few(double)}; {expected}")
    return {name: others[0] for name, others in partners.items()}


def _blanks(name: str, words: dict[str, str]) -> Iterator[tuple[str, str, str]]:
    """For each word of the name that is in ``words``: what is before it, what ``words`` has for it, what is after it."""
    for match in _WORDS.finditer(name):
        if match[0] in words:
            yield name[: match.start()], words[match[0]], name[match.end() :]


def _known_layout(root: Path) -> tuple[str, str]:
    if not root.is_dir():
        raise InputError(f"'{root}' is not a folder; expected one that holds the folders left and right")
    # The names as they are: asking for each would find "left" as "Left" where a disk does not tell them apart.
    folders = {path.name for path in root.iterdir() if path.is_dir()}
    found = [pair for pair in LAYOUTS if folders.issuperset(pair)]
    if len(found) != 1:
        listed = ", ".join("/".join(pair) for pair in found or LAYOUTS)
        wanted = f"expected one of {listed}" if not found else f"found {listed}"
        raise InputError(f"'{root}' does not tell left from right: {wanted}; say which with left=FOLDER and right=FOLDER")
    log.info("%s: left is '%s', right is '%s'", root, *found[0])
    return found[0]


def select_files(root: Path, choice: str, kinds: Sequence[str]) -> dict[str, Path]:
    """Name -> file, of all files of ``kinds`` in a folder or of a glob, both relative to ``root``.

    The name of a file in a folder is its stem; that of a file of a glob is what the wildcards stand for.
    Raises InputError when there is none, and for two of one name.
    """
    folder = root / choice
    if folder.is_dir():
        names = {path: path.stem for path in find_files(folder, ["*"], "file")}
    else:
        names = _names_in_glob(root, Path(choice).as_posix())
    files: dict[str, Path] = {}
    for path, name in names.items():
        if path.suffix.lower() in kinds:
            if name in files:
                raise InputError(f"'{files[name]}' and '{path}' are both called '{name}'; keep one, or use a glob")
            files[name] = path
    if not files:
        raise InputError(f"'{folder}' has no file of a kind that is read here; expected {', '.join(kinds)}")
    return files


def _names_in_glob(root: Path, glob: str) -> dict[Path, str]:
    """File -> what the wildcards of ``glob`` stand for, without the extension: "a" for "a/im0.png" of "*/im0.*"."""
    expression, end = "", 0
    for wildcard in _WILDCARDS.finditer(glob):
        characters = f"({wildcard[0].replace('[!', '[^')})"  # of [abc] and [!abc]
        expression += re.escape(glob[end : wildcard.start()]) + _EXPRESSIONS.get(wildcard[0], characters)
        end = wildcard.end()
    try:
        pattern = re.compile(expression + re.escape(glob[end:]), re.IGNORECASE)  # a disk may not tell cases apart
        paths = find_files(root, [glob], "folder or file")
    except InputError:
        raise
    except (ValueError, NotImplementedError, re.error) as error:
        raise InputError(f"got '{glob}', expected a folder or a glob below '{root}': {error}") from error
    names = {}
    for path in paths:
        text = path.relative_to(root).as_posix()
        match = pattern.fullmatch(text)
        if match is None:
            raise InputError(f"cannot tell what '{glob}' stands for in '{text}'; expected the wildcards *, ?, [abc] and **/")
        until = len(text) - len(path.suffix)
        parts = [text[start : min(end, until)] for start, end in (match.span(i + 1) for i in range(pattern.groups))]
        names[path] = "/".join(filter(None, parts))
    return names


def _filled(files: dict[str, Path], others: dict[str, Path], folder: Path) -> dict[str, Path]:
    """``files`` of a folder and, for each name that only ``others`` have, where its file would lie."""
    suffix = next(iter(files.values())).suffix
    return files | {name: folder / f"{name}{suffix}" for name in others if name not in files}


def _of_each(lefts: dict[str, Path], root: Path, choice: str, kinds: Sequence[str], option: str) -> dict[str, Path]:
    """The files that ``choice`` selects, by name. Raises InputError unless their names are those of the left images."""
    files = select_files(root, choice, kinds)
    if (root / choice).is_dir() and files.keys() <= lefts.keys():
        files = _filled(files, lefts, root / choice)
    if different := lefts.keys() ^ files.keys():
        found = f"{len(different)} names are of left images only or of {option} only: {_first_few(different)}"
        raise InputError(f"{found}; expected one file for each left image, of its name, or globs whose wildcards say the same")
    return files


def _first_few(names: Collection[str]) -> str:
    more = ", ..." if len(names) > 3 else ""
    return ", ".join(f"'{name}'" for name in sorted(names)[:3]) + more
