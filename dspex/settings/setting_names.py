"""Names of settings."""

from __future__ import annotations

from typing import Any

__all__ = ["PREFIX", "TOML", "listed", "variable"]

PREFIX = "DSPEX_"
TOML = "dspex.toml"


def variable(setting: str) -> str:
    """The environment variable of a setting: ``lease_seconds`` is ``DSPEX_LEASE_SECONDS``."""
    return PREFIX + setting.upper()


def listed(given: Any) -> Any:
    """Split text at commas; return any other value unchanged."""
    return [name.strip() for name in given.split(",") if name.strip()] if isinstance(given, str) else given
