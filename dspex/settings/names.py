"""How settings are named."""

from __future__ import annotations

__all__ = ["PREFIX", "TOML", "variable"]

PREFIX = "DSPEX_"
TOML = "dspex.toml"


def variable(setting: str) -> str:
    """The environment variable of a setting: ``lease_seconds`` is ``DSPEX_LEASE_SECONDS``."""
    return PREFIX + setting.upper()
