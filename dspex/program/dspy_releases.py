"""Releases of DSPy: which one is installed, which ones DSPex was tested with, and which modules a release lacks."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version

__all__ = ["TESTED", "installed", "lacks"]

#: The releases with which `make test-dspy` passes.
TESTED = ("3.4.0", "3.4.1")
#: The release from which on DSPy lacks what a module of DSPex is made from.
_REMOVED: Mapping[str, tuple[int, int]] = {"code_act": (3, 5), "program_of_thought": (3, 5)}
_NUMBERS = re.compile(r"(\d+)\.(\d+)")


def installed() -> str | None:
    """The release that is installed here, which is not imported to find out; None without any."""
    try:
        return version("dspy")
    except PackageNotFoundError:
        return None


def lacks(release: str, module: str) -> bool:
    """Whether a release, or a pre-release of it, cannot run programs with this module."""
    removed, numbers = _REMOVED.get(module), _NUMBERS.match(release)
    return removed is not None and numbers is not None and (int(numbers[1]), int(numbers[2])) >= removed
