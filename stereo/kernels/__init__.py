"""Sparse gather arithmetic. One signature, several backends; `auto` chooses and says so once."""

from __future__ import annotations

import functools
import logging
from types import ModuleType

from stereo.config import near_matches
from stereo.kernels import cpp, matmul, reference
from stereo.types import InputError

BACKENDS: dict[str, ModuleType] = {"reference": reference, "matmul": matmul, "cpp": cpp}

# Above this many key columns the dense product of `matmul` costs more than gathering a dozen keys per query.
MATMUL_MAX_WIDTH = 512


@functools.cache
def _announce(choice: str, reason: str) -> None:
    logging.getLogger(__name__).info("kernel backend: %s (%s)", choice, reason)


def select(name: str, key_width: int) -> ModuleType:
    """The backend module for rows of ``key_width`` keys. Raises InputError for an unknown name."""
    if name == "auto":
        short = key_width <= MATMUL_MAX_WIDTH
        _announce("matmul" if short else "reference", f"auto: rows of {'<=' if short else '>'} {MATMUL_MAX_WIDTH} keys")
        return matmul if short else reference
    if name not in BACKENDS:
        raise InputError(f"unknown kernel backend '{name}': {near_matches(name, ['auto', *BACKENDS])}")
    return BACKENDS[name]
