"""Compiles the C++ kernels on first use, for this very CPU, and keeps the library in a cache folder: one run pays."""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

FOLDER = Path(__file__).with_name("cpu")
FLAGS = ("-O3", "-march=native", "-std=c++20", "-fPIC", "-fopenmp", "-fno-math-errno", "-fno-trapping-math", "-Wno-psabi")
INSTALL = "install g++ or use kernel=reference"


@functools.cache
def load() -> str:
    """Register torch.ops.stereo_cpu, building it if the cache lacks it. Returns "", or why it fails and what to do.

    The name of the library carries all it depends on, so a stale one is never picked up. It is built in a folder of its own
    and moved into place: no lock that a killed build could leave behind, and of two builds at once the last one wins.
    """
    if sys.platform != "linux":
        return f"it is built on Linux only, this is {sys.platform}; use kernel=reference"
    try:
        library = _cache_folder() / f"stereo_cpu_{_key()}.so"
        if not library.exists():
            compiler = os.environ.get("CXX", "c++")
            if shutil.which(compiler) is None:
                return f"'{compiler}' not found; {INSTALL}"
            _build(compiler, library)
        torch.ops.load_library(str(library))
    except Exception as error:  # whatever a compiler, loader or file system can think of: the caller needs one line
        return f"building the C++ kernels failed ({_first_error(str(error))}); {INSTALL}"
    return ""


def _build(compiler: str, library: Path) -> None:
    """Raises RuntimeError with the compiler's words."""
    logging.getLogger(__name__).info("building the C++ kernels (once, about a minute): %s", library)
    library.parent.mkdir(parents=True, exist_ok=True)
    torch_home = Path(torch.__file__).parent
    includes = [f"-I{torch_home / 'include'}", f"-I{torch_home / 'include' / 'torch' / 'csrc' / 'api' / 'include'}"]
    abi = f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}"
    with tempfile.TemporaryDirectory(dir=library.parent, prefix="build_") as folder:
        objects = [Path(folder) / f"{source.stem}.o" for source in _sources()]
        commands = [
            [compiler, *FLAGS, abi, *includes, "-c", str(source), "-o", str(built)]
            for source, built in zip(_sources(), objects, strict=True)
        ]
        _run_all(commands)
        made = Path(folder) / library.name
        libraries = [f"-L{torch_home / 'lib'}", "-lc10", "-ltorch_cpu"]
        _run_all([[compiler, "-shared", "-fopenmp", *map(str, objects), *libraries, "-o", str(made)]])
        made.replace(library)


def _run_all(commands: list[list[str]]) -> None:
    """Side by side. Raises RuntimeError when one fails."""
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for command in commands]
    said = [process.communicate()[0] for process in running]
    for process, words in zip(running, said, strict=True):
        if process.returncode:
            raise RuntimeError(words or f"the compiler ended with {process.returncode}")


def _sources() -> list[Path]:
    return sorted(FOLDER.glob("*.cpp"))


def _cache_folder() -> Path:
    chosen = os.environ.get("STEREO_CACHE") or os.environ.get("TORCH_EXTENSIONS_DIR")
    if chosen:
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "torch_extensions"


def _key() -> str:
    """Sources, flags, torch and CPU: -march=native code from another machine on a shared home folder would crash here."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    cpu = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    texts = [path.read_text() for path in sorted(FOLDER.iterdir())]
    parts = (*texts, *FLAGS, torch.__version__, platform.machine(), " ".join(sorted(cpu.split())))
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _first_error(text: str) -> str:
    """The line of a build log that says what is wrong."""
    lines = [line.strip() for line in text.splitlines() if line.strip()] or ["no message"]
    return next((line for line in lines if "error:" in line), lines[0])
