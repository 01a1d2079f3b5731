"""Settings of what is kept in Postgres, and for how long."""

from __future__ import annotations

from pydantic import BaseModel

__all__ = ["StorageSettings"]


class StorageSettings(BaseModel):
    """Retention."""
