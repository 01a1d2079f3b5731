"""The source texts of every module of the producer and the workers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

__all__ = ["sources"]

_ROOT = Path(__file__).parents[2]


def sources() -> Iterator[str]:
    """The text of each module of ``dspex/`` and ``workers/``, except the suites that test them."""
    for package in ("dspex", "workers"):
        for file in sorted((_ROOT / package).rglob("*.py")):
            if not {"migrations", "conformance", "doctor"} & set(file.parts):
                yield file.read_text()
