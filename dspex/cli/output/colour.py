"""Whether output is coloured: on a terminal, unless NO_COLOR says no; FORCE_COLOR says yes anywhere."""

from __future__ import annotations

import os

__all__ = ["coloured"]


def coloured() -> bool | None:
    """What click is told: None leaves it to whether the stream is a terminal. rich asks the same variables."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    return True if os.environ.get("FORCE_COLOR") else None
