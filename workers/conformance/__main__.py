"""``python -m workers.conformance``: the suite on the scripted adapter, which shows that the suite itself runs here."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest


def main() -> int:
    """Run it without any pytest configuration. Returns pytest's exit code."""
    here = Path(__file__).parent
    own = ["--quiet", "--import-mode=importlib", "-c", os.devnull, "--rootdir", str(here)]
    without = [part for plugin in ("cacheprovider", "asyncio", "xdist") for part in ("-p", f"no:{plugin}")]
    return int(pytest.main([*own, *without, str(here / "scripted.py"), *sys.argv[1:]]))


if __name__ == "__main__":
    sys.exit(main())
