"""Settings: from DSPEX_* environment variables, then ``dspex.toml`` in the working directory, then defaults.

Every wrong setting is reported at once, as one ConfigurationError. URLs may carry passwords, so a setting's
value is never put into a message as it is: see :func:`without_password`.
"""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit, urlunsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, FilePath
from pydantic import ValidationError as PydanticValidationError
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from dspex import failpoints
from dspex.errors import BackendUnavailable, ConfigurationError

__all__ = ["PREFIX", "Backends", "ModelLimits", "Settings", "unknown_variables", "without_password"]

PREFIX = "DSPEX_"
TOML = "dspex.toml"


def _database_url(url: str) -> str:
    if not url.startswith(("postgresql://", "postgres://", "postgresql+psycopg://")):
        raise ValueError("must begin with postgresql://")
    return "postgresql://" + url.split("://", 1)[1]


def _broker_url(url: str) -> str:
    if not url.startswith(("redis://", "rediss://")):
        raise ValueError("must begin with redis:// or rediss://")
    return url


def _failpoints(spec: str) -> str:
    failpoints.parse(spec)
    return spec


def _names(given: Any) -> Any:
    return [name.strip() for name in given.split(",") if name.strip()] if isinstance(given, str) else given


def _packages(names: tuple[str, ...]) -> tuple[str, ...]:
    if wrong := [name for name in names if not all(part.isidentifier() for part in name.split("."))]:
        raise ValueError(f"not the name of a package: {', '.join(map(repr, wrong))}")
    return names


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


class ModelLimits(BaseModel):
    """What all workers together may ask of a model: calls at once, and calls and tokens within any minute."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    concurrency: int | None = Field(default=None, ge=1)
    per_minute: int | None = Field(default=None, ge=1)
    tokens_per_minute: int | None = Field(default=None, ge=1)


class Settings(BaseSettings):
    """The settings in force. Use :meth:`load`, which reports all mistakes together."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, toml_file=TOML, extra="forbid", frozen=True, env_ignore_empty=True
    )

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
    lease_seconds: float = Field(5.0, ge=1, le=300, description="A worker silent for so long is taken for dead.")
    worker_concurrency: int = Field(200, ge=1, le=10_000, description="Executions in flight in one worker process.")
    worker_threads: int = Field(
        64, ge=1, le=1000, description="Threads of a worker process for synchronous programs and tools."
    )
    worker_processes: int = Field(
        1, ge=1, le=256, description="Processes of `dspex worker`, each with its own executions in flight."
    )
    worker_max_memory_mb: int | None = Field(
        None, ge=100, description="A worker process that holds so much finishes what it runs and is replaced."
    )
    worker_max_executions: int | None = Field(
        None, ge=1, description="A worker process that received so many finishes what it runs and is replaced."
    )
    program_packages: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_names), AfterValidator(_packages)] = Field(
        (), description="The packages that programs may bring code from, with commas between them: acme.programs,tools."
    )
    model_limits: dict[str, ModelLimits] = Field(
        default_factory=dict,
        description="What all workers may ask of a model, or of an address, as JSON: "
        '{"openai/gpt-4o-mini": {"concurrency": 50, "per_minute": 500, "tokens_per_minute": 200000}}.',
    )
    grace_seconds: float = Field(
        30.0, ge=0, le=3600, description="What a stopping worker gives its executions to finish."
    )
    watchdog_seconds: float = Field(
        30.0, ge=1, le=3600, description="A worker that does nothing for so long while work waits ends itself."
    )
    max_input_bytes: int = Field(
        10 * 1024 * 1024, ge=1024, le=256 * 1024 * 1024, description="The largest inputs of one execution, as JSON."
    )
    health_interval_seconds: float = Field(15.0, ge=1, le=3600, description="How often beat has the health checked.")
    ca_file: FilePath | None = Field(
        None, description="Certificates (PEM) of authorities to trust for model servers, besides the system's."
    )
    local_model_url: str | None = Field(
        None, description="Where smollm2 is served, outside the embedded stack: http://host:port/v1."
    )
    failpoints: Annotated[str, AfterValidator(_failpoints)] = Field(
        "", description="For crash tests: where this process dies (dspex/failpoints.py). Refused in production."
    )
    demo_model: str | None = Field(None, description="The model of `dspex demo`, instead of the one it chooses.")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)

    @classmethod
    def load(cls, **overrides: Any) -> Settings:
        """The settings, with ``overrides`` (by field name) on top. Raises ConfigurationError with every mistake."""
        try:
            settings = cls(**overrides)
        except PydanticValidationError as error:
            raise _configuration_error([_describe(e, overrides) for e in error.errors()]) from None
        except (SettingsError, ValueError, OSError) as error:
            raise _configuration_error([f"{TOML} or a {PREFIX}* variable cannot be read: {error}"]) from None
        if faults := list(settings._missing()):
            raise _configuration_error(faults)
        return settings

    def _missing(self) -> list[str]:
        urls = {f"{PREFIX}DATABASE_URL": self.database_url, f"{PREFIX}BROKER_URL": self.broker_url}
        missing = [name for name, url in urls.items() if url is None]
        if self.env == "production":
            faults = [f"{name} is not set, and production has no default" for name in missing]
            if self.failpoints:
                faults.append(f"{PREFIX}FAILPOINTS is set, and production has no failpoints: they are for crash tests")
            return faults
        if len(missing) == 1:
            return [f"{missing[0]} is not set, but the other URL is: set both, or neither for the embedded stack"]
        return []

    def backends(self) -> Backends:
        """The URLs set, or those of the embedded stack running at ``home``.

        Raises BackendUnavailable when neither is there.
        """
        if self.database_url and self.broker_url:
            return Backends((self.database_url, self.broker_url))
        from dspex.embedded import read_stack

        stack = read_stack(self.home)
        if stack is None:
            raise BackendUnavailable(
                f"no {PREFIX}DATABASE_URL and {PREFIX}BROKER_URL are set, and no embedded stack is running at "
                f"{self.home}: start one with `dspex up`, or set both URLs",
                backend="embedded stack",
                home=str(self.home),
            )
        return Backends((stack.database_url, stack.broker_url))


def without_password(url: str) -> str:
    """The URL with its password replaced by ``***``."""
    parts = urlsplit(url)
    if parts.password is None:
        return url
    user_and_host = f"{parts.username or ''}:***@{parts.netloc.rsplit('@', 1)[1]}"
    return urlunsplit(parts._replace(netloc=user_and_host))


def unknown_variables() -> list[str]:
    """Variables that look like settings but are none, each with the nearest known name.

    They are not errors: an orchestrator may put its own ``DSPEX_*`` variables there.
    """
    known = [PREFIX + name.upper() for name in Settings.model_fields]
    found = []
    for name in sorted(os.environ):
        if name.startswith(PREFIX) and name not in known:
            near = difflib.get_close_matches(name, known, 1, 0.8)
            found.append(f"{name} is not a setting" + (f"; did you mean {near[0]}?" if near else ""))
    return found


def _configuration_error(faults: list[str]) -> ConfigurationError:
    return ConfigurationError("wrong settings:\n" + "\n".join(f"  - {fault}" for fault in faults), errors=faults)


def _describe(error: Any, overrides: dict[str, Any]) -> str:
    name = ".".join(str(part) for part in error["loc"])
    variable = PREFIX + name.upper()
    if error["type"] == "extra_forbidden":
        near = difflib.get_close_matches(name, Settings.model_fields, 1, 0.6)
        return f"{name!r} is not a setting" + (f"; did you mean {near[0]!r}?" if near else "")
    source = "the call" if name in overrides else variable if variable in os.environ else TOML
    got = "" if name.endswith("_url") else f", got {error['input']!r}"
    return f"{variable} (from {source}): {error['msg']}{got}"
