"""Settings for the profile, and the URLs of Postgres and Redis."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, DirectoryPath, Field, FilePath

from dspex.settings.profiles import PROFILES, Profile, ProfileName
from dspex.settings.urls import (
    SecretUrl,
    check_broker_url,
    check_database_url,
    is_plain_text,
    is_unverified,
    without_password,
)

__all__ = ["Backends", "ConnectionSettings", "connection_warnings"]


def _default_home() -> Path:
    # Postgres runs as another user, who may have no access to root's home.
    return Path("/var/lib/dspex") if hasattr(os, "geteuid") and os.geteuid() == 0 else Path.home() / ".dspex"


class Backends(tuple[str, str]):
    """The URLs of the database and the broker: ``(database_url, broker_url)``."""

    __slots__ = ()

    @property
    def database_url(self) -> str:
        return self[0]

    @property
    def broker_url(self) -> str:
        return self[1]

    def __repr__(self) -> str:
        return f"Backends{tuple(map(without_password, self))}"


class ConnectionSettings(BaseModel):
    """Profile and connections."""

    env: ProfileName = Field("development", description="The profile: development, test or production.")
    database_url: Annotated[SecretUrl, AfterValidator(check_database_url)] | None = Field(
        None,
        description="Postgres 15 or newer: postgresql://user:password@host:5432/database, and for TLS "
        "?sslmode=verify-full&sslrootcert=FILE.",
    )
    broker_url: Annotated[SecretUrl, AfterValidator(check_broker_url)] | None = Field(
        None,
        description="Redis 6.2 or newer: redis://user:password@host:6379/0, or rediss://…?ssl_ca_certs=FILE for TLS, "
        "or redis+sentinel://user:password@host:26379,host:26379/name-of-the-primary/0.",
    )
    allow_plain_text: bool = Field(
        False,
        description="In production, allow connections to Postgres and Redis on other hosts without TLS, in a trusted "
        "network.",
    )
    client_connections: int = Field(
        5,
        ge=1,
        le=1000,
        description="How many connections to Postgres, and how many to Redis, a client opens at most in a process. "
        "They stay open; calls share them, and wait for one.",
    )
    home: Path = Field(default_factory=_default_home, description="The directory of the embedded stack's data.")
    embedded_postgres_bin: DirectoryPath | None = Field(
        None,
        description="A directory with Postgres 15 or newer (initdb, postgres) for the embedded stack, instead of the "
        "one in "
        "the wheel.",
    )
    embedded_redis_server: FilePath | None = Field(
        None, description="A redis-server or valkey-server for the embedded stack, instead of the one in the wheel."
    )

    @property
    def profile(self) -> Profile:
        """The profile of this environment."""
        return PROFILES[self.env]


def connection_warnings(database_url: str, broker_url: str) -> list[str]:
    """Warnings about connections without TLS, or with TLS that does not verify the server, and how to fix them."""
    found = []
    for url, tls in ((database_url, "?sslmode=verify-full&sslrootcert=FILE"), (broker_url, "rediss://")):
        shown = without_password(url)
        if is_plain_text(url):
            found.append(f"{shown} is another host, and the connection may be unencrypted: use {tls}")
        elif is_unverified(url):
            found.append(f"{shown}: these parameters do not verify the identity of the server: use {tls}")
    return found
