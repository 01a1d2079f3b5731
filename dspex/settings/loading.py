"""All settings together: where they are read from, and every mistake in them at once.

A secret is a ``pydantic.SecretStr``: its value is in no message, and :meth:`Settings.load` also looks for it in files
and asks the provider (secrets.py).
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from pydantic import BaseModel, PrivateAttr
from pydantic import ValidationError as PydanticValidationError
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from dspex.errors import BackendUnavailable, ConfigurationError
from dspex.settings.alert_settings import AlertSettings, alert_faults
from dspex.settings.connection_settings import Backends, ConnectionSettings, connection_warnings
from dspex.settings.flower_settings import FlowerSettings
from dspex.settings.model_settings import ModelSettings
from dspex.settings.monitoring_settings import MonitoringSettings
from dspex.settings.secrets import Found, Secrets, is_secret, provider
from dspex.settings.security_settings import SecuritySettings, security_faults
from dspex.settings.setting_faults import configuration_error, describe, profile_faults, unknown
from dspex.settings.setting_names import PREFIX, TOML, variable
from dspex.settings.storage_settings import StorageSettings, storage_faults
from dspex.settings.trial_settings import TrialSettings
from dspex.settings.worker_settings import WorkerSettings

__all__ = ["Sections", "Settings", "unknown_variables"]


class Sections(
    ConnectionSettings,
    WorkerSettings,
    ModelSettings,
    SecuritySettings,
    MonitoringSettings,
    AlertSettings,
    FlowerSettings,
    StorageSettings,
    TrialSettings,
):
    """All settings, wherever they were read: one base for each section, in the order of the reference page."""


class Settings(Sections, BaseSettings):
    """The settings in force. Use :meth:`load`, which reports all mistakes together."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, toml_file=TOML, extra="forbid", frozen=True, env_ignore_empty=True
    )
    _origins: dict[str, str] = PrivateAttr(default_factory=dict)

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
            in_file = TomlConfigSettingsSource(cls).toml_data
        except (ValueError, OSError) as error:
            raise configuration_error([f"{TOML} cannot be read: {error}"]) from None
        found, unreadable = _find_secrets(cls, overrides, in_file)
        given = {**{name: secret.value for name, secret in found.items()}, **overrides}
        origins = {name: _origin(name, overrides, found, in_file) for name in cls.model_fields}
        try:
            settings: Sections = cls(**given)
            errors = []
        except SettingsError as error:
            raise configuration_error([f"a {PREFIX}* variable cannot be read: {error}"]) from None
        except PydanticValidationError as error:
            errors = error.errors()
            settings = _without({str(each["loc"][0]) for each in errors}, cls, given)
        faults = [*unreadable.values(), *(describe(each, cls.model_fields, origins) for each in errors)]
        # Not, once more, that something is missing which is there and wrong.
        wrong = {variable(name) for name in (*unreadable, *(str(each["loc"][0]) for each in errors))}
        together = (
            *profile_faults(settings),
            *alert_faults(settings),
            *storage_faults(settings),
            *security_faults(settings),
        )
        faults += [fault for fault in together if not any(name in fault for name in wrong)]
        if faults or not isinstance(settings, cls):
            raise configuration_error(faults)
        settings._origins = origins
        return settings

    @property
    def origins(self) -> dict[str, str]:
        """Where each setting comes from, in words: ``default``, ``environment``, ``dspex.toml``, ``file /run/…``."""
        return dict(self._origins)

    @classmethod
    def sections(cls) -> Iterator[tuple[type[BaseModel], list[str]]]:
        """The sections, each with the names of its settings, in the order of the reference page."""
        for section in Sections.__bases__:
            yield section, list(section.__annotations__)

    def warnings(self) -> list[str]:
        """What is not wrong, but should be looked at: unknown variables, and connections that are not safe."""
        connections = connection_warnings(*self.backends()) if self.database_url and self.broker_url else []
        return [*unknown_variables(), *connections]

    def backends(self) -> Backends:
        """The URLs set, or those of the embedded stack running at ``home``.

        Raises BackendUnavailable when neither is there.
        """
        if self.database_url and self.broker_url:
            return Backends((self.database_url.get_secret_value(), self.broker_url.get_secret_value()))
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
    return unknown(Settings.model_fields)


def _find_secrets(
    cls: type[Settings], overrides: Mapping[str, Any], in_file: Mapping[str, Any]
) -> tuple[dict[str, Found], dict[str, str]]:
    """The secret settings of the environment, its files and the provider, and what is wrong with them, by setting."""
    found: dict[str, Found] = {}
    unreadable: dict[str, str] = {}
    spec = overrides.get("secrets") or os.environ.get(variable("secrets")) or in_file.get("secrets")
    if spec:
        try:
            provider(spec)
        except ConfigurationError as error:
            unreadable["secrets"] = str(error)
    secrets = Secrets(None if unreadable else spec)
    names = (name for name, field in cls.model_fields.items() if is_secret(field.annotation))
    for name in (name for name in names if name not in overrides):
        try:
            secret = secrets.find(variable(name))
        except ConfigurationError as error:
            unreadable[name] = str(error)
        else:
            found |= {} if secret is None else {name: secret}
    return found, unreadable


def _origin(name: str, overrides: Mapping[str, Any], found: Mapping[str, Found], in_file: Mapping[str, Any]) -> str:
    if name in overrides:
        return "the call"
    if name in found:
        return found[name].origin
    if os.environ.get(variable(name)):
        return "environment"
    return TOML if name in in_file else "default"


def _without(wrong: Collection[str], cls: type[Settings], given: Mapping[str, Any]) -> Sections:
    """The settings but for those that are wrong: for the faults that only all of them together show."""
    raw = {**TomlConfigSettingsSource(cls).toml_data, **EnvSettingsSource(cls)(), **given}
    return Sections(**{name: raw[name] for name in cls.model_fields if name in raw and name not in wrong})
