"""Whether output is coloured: on a terminal, unless NO_COLOR is set; everywhere if FORCE_COLOR is set."""

from __future__ import annotations

import os

__all__ = ["coloured"]


def coloured() -> bool | None:
    """The value for click's ``color``. None lets click look at the stream; rich reads the same variables."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    return True if os.environ.get("FORCE_COLOR") else None
