"""Tests that the bundled model answers are skipped where it cannot run."""

from __future__ import annotations

import pytest

from dspex.embedded.bundled_model import model_path
from dspex.errors import ConfigurationError

__all__ = ["needs_model"]


def _lack() -> str:
    """Why the model cannot run here; empty if it can."""
    try:
        model_path()
    except ConfigurationError as error:
        return str(error)
    return ""


needs_model = pytest.mark.skipif(bool(_lack()), reason=_lack())
