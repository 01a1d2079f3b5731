"""Settings: the profile, and where Postgres and Redis are."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, Field

__all__ = ["Backends", "ConnectionSettings"]


def _database_url(url: str) -> str:
    if not url.startswith(("postgresql://", "postgres://", "postgresql+psycopg://")):
        raise ValueError("must begin with postgresql://")
    return "postgresql://" + url.split("://", 1)[1]


def _broker_url(url: str) -> str:
    if not url.startswith(("redis://", "rediss://")):
        raise ValueError("must begin with redis:// or rediss://")
    return url


def _default_home() -> Path:
    # A service account's home may not be traversable for the user that Postgres must run as.
    return Path("/var/lib/dspex") if hasattr(os, "geteuid") and os.geteuid() == 0 else Path.home() / ".dspex"


class Backends(tuple[str, str]):
    """Where the database and the broker are: ``(database_url, broker_url)``."""

    __slots__ = ()

    @property
    def database_url(self) -> str:
        return self[0]

    @property
    def broker_url(self) -> str:
        return self[1]


class ConnectionSettings(BaseModel):
    """Profile and connections."""

    env: Literal["development", "test", "production"] = Field(
        "development", description="The profile; production has no defaults for URLs."
    )
    database_url: Annotated[str, AfterValidator(_database_url)] | None = Field(
        None, description="Postgres 15 or newer: postgresql://user:password@host:5432/database."
    )
    broker_url: Annotated[str, AfterValidator(_broker_url)] | None = Field(
        None, description="Redis 6.2 or newer: redis://:password@host:6379/0, or rediss:// for TLS."
    )
    home: Path = Field(default_factory=_default_home, description="Where the embedded stack keeps its data.")
