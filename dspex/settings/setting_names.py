"""How settings are named."""

from __future__ import annotations

from typing import Any

__all__ = ["PREFIX", "TOML", "listed", "variable"]

PREFIX = "DSPEX_"
TOML = "dspex.toml"


def variable(setting: str) -> str:
    """The environment variable of a setting: ``lease_seconds`` is ``DSPEX_LEASE_SECONDS``."""
    return PREFIX + setting.upper()


def listed(given: Any) -> Any:
    """Names with commas between them as a list; anything else as it is."""
    return [name.strip() for name in given.split(",") if name.strip()] if isinstance(given, str) else given
