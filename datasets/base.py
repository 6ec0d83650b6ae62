"""The registry of data sets: a name on the command line -> a builder of something that yields Samples."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Protocol

from datasets.crestereo import CREStereo
from datasets.eth3d import Eth3d
from datasets.fallingthings import FallingThings
from datasets.folders import Folders
from datasets.fsd import FSD
from datasets.instereo2k import InStereo2K
from datasets.kitti import Kitti2012, Kitti2015, VirtualKitti2
from datasets.manifest import Manifest
from datasets.middlebury import (
    Middlebury,
    Middlebury2001,
    Middlebury2003,
    Middlebury2005,
    Middlebury2006,
    Middlebury2014,
    Middlebury2021,
    MiddleburyV2,
)
from datasets.pairs import PairsDataset
from datasets.procedural.dataset import GeneratedDataset
from datasets.scared import Scared
from datasets.sceneflow import Driving, FlyingThings3D, FlyingThings3DSubset, Monkaa, SceneFlow
from datasets.sintel import Sintel
from datasets.tartanair import TartanAir
from stereo.config import near_matches
from stereo.types import InputError, Sample


class StereoDataset(Protocol):
    """A sequence of Samples: ``len(dataset)``, ``dataset[i]`` (IndexError past the end) and what log lines call each."""

    @property
    def names(self) -> tuple[str, ...]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...


# Few enough digits for whatever they are given to: a seed below 10^18, a side below 10^5 px.
_GENERATED = re.compile(r"(?P<seed>[0-9]{1,18})(:(?P<count>[0-9]{1,9})(:(?P<height>[0-9]{1,5})x(?P<width>[0-9]{1,5}))?)?")


def open_generated(text: str) -> GeneratedDataset:
    """Open ``SEED``, ``SEED:COUNT`` or ``SEED:COUNT:HEIGHTxWIDTH``: COUNT (50) procedural scenes of HEIGHTxWIDTH (288x576) px.

    Raises InputError for other text, and for numbers that GeneratedDataset refuses.
    """
    match = _GENERATED.fullmatch(text)
    if match is None:
        expected = "SEED, SEED:COUNT or SEED:COUNT:HEIGHTxWIDTH (whole numbers), for example generated:7:50:288x576"
        raise InputError(f"got generated data '{text}', expected {expected}")
    defaults = {"count": 50, "height": 288, "width": 576}
    given = defaults | {name: int(number) for name, number in match.groupdict().items() if number is not None}
    return GeneratedDataset(given["seed"], given["count"], given["height"], given["width"])


# A builder gets what follows the first colon of NAME:REST without its options, and those as keywords.
DATASETS: dict[str, Callable[..., StereoDataset]] = {
    "crestereo": CREStereo,
    "driving": Driving,
    "eth3d": Eth3d,
    "fallingthings": FallingThings,
    "flyingthings3d": FlyingThings3D,
    "flyingthings3d-subset": FlyingThings3DSubset,
    "folders": Folders,
    "fsd": FSD,
    "generated": open_generated,
    "instereo2k": InStereo2K,
    "kitti2012": Kitti2012,
    "kitti2015": Kitti2015,
    "manifest": Manifest,
    "middlebury": Middlebury,  # version 3 of the evaluation
    "middlebury2001": Middlebury2001,
    "middlebury2003": Middlebury2003,
    "middlebury2005": Middlebury2005,
    "middlebury2006": Middlebury2006,
    "middlebury2014": Middlebury2014,
    "middlebury2021": Middlebury2021,
    "middlebury_v2": MiddleburyV2,
    "monkaa": Monkaa,
    "pairs": PairsDataset,
    "scared": Scared,
    "sceneflow": SceneFlow,
    "sintel": Sintel,
    "tartanair": TartanAir,
    "vkitti2": VirtualKitti2,
}


def open_dataset(spec: str) -> StereoDataset:
    """Open ``NAME:REST`` or ``NAME:REST?option=value&option=value``, for example "flyingthings3d:data?split=TEST".

    REST is mostly a folder and may hold colons itself; the options are the builder's keywords, all of them text.
    Raises InputError for a missing part, an unknown name or option, and whatever the builder of that data set raises.
    """
    name, colon, rest = spec.partition(":")
    if not colon or not rest:
        raise InputError(f"got data set '{spec}', expected NAME:PATH, for example pairs:{spec.rstrip(':') or 'FOLDER'}")
    if name not in DATASETS:
        raise InputError(f"unknown data set '{name}': {near_matches(name, DATASETS)}")
    rest, _, text = rest.partition("?")
    builder, options = DATASETS[name], dict(part.partition("=")[::2] for part in text.split("&") if part)
    allowed = list(inspect.signature(builder).parameters)[1:]  # after the path
    for option in options:
        if option not in allowed:
            expected = near_matches(option, allowed) if allowed else "it has none"
            raise InputError(f"unknown option '{option}' of data set '{name}': {expected}")
    return builder(rest, **options)
