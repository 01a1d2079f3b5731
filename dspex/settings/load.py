"""All settings together: where they are read from, and every mistake in them at once.

URLs may carry passwords, so a setting's value is never put into a message as it is: see
:func:`dspex.settings.without_password`.
"""

from __future__ import annotations

import difflib
import os
from typing import Any

from pydantic import ValidationError as PydanticValidationError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from dspex.errors import BackendUnavailable, ConfigurationError
from dspex.settings.alerts import AlertSettings, alert_faults
from dspex.settings.connections import Backends, ConnectionSettings
from dspex.settings.models import ModelSettings
from dspex.settings.monitoring import MonitoringSettings
from dspex.settings.names import PREFIX, TOML, variable
from dspex.settings.security import SecuritySettings
from dspex.settings.storage import StorageSettings
from dspex.settings.trials import TrialSettings
from dspex.settings.worker import WorkerSettings

__all__ = ["SECTIONS", "Settings", "unknown_variables"]

#: In the order of the reference page.
SECTIONS = (
    ConnectionSettings,
    WorkerSettings,
    ModelSettings,
    SecuritySettings,
    MonitoringSettings,
    AlertSettings,
    StorageSettings,
    TrialSettings,
)


class Settings(
    ConnectionSettings,
    WorkerSettings,
    ModelSettings,
    SecuritySettings,
    MonitoringSettings,
    AlertSettings,
    StorageSettings,
    TrialSettings,
    BaseSettings,
):
    """The settings in force. Use :meth:`load`, which reports all mistakes together."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, toml_file=TOML, extra="forbid", frozen=True, env_ignore_empty=True
    )

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
        if faults := [*settings._missing(), *alert_faults(settings)]:
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


def unknown_variables() -> list[str]:
    """Variables that look like settings but are none, each with the nearest known name.

    They are not errors: an orchestrator may put its own ``DSPEX_*`` variables there.
    """
    known = [variable(name) for name in Settings.model_fields]
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
    if error["type"] == "extra_forbidden":
        near = difflib.get_close_matches(name, Settings.model_fields, 1, 0.6)
        return f"{name!r} is not a setting" + (f"; did you mean {near[0]!r}?" if near else "")
    source = "the call" if name in overrides else variable(name) if variable(name) in os.environ else TOML
    got = "" if name.endswith("_url") else f", got {error['input']!r}"
    return f"{variable(name)} (from {source}): {error['msg']}{got}"
