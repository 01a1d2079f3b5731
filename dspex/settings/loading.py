"""Loading of all settings. Invalid settings are reported together.

A secret is a ``pydantic.SecretStr``: no message contains its value, and :meth:`Settings.load` also reads it from files
and from the provider (secrets.py).
"""

from __future__ import annotations

import os
import stat
import tomllib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, PrivateAttr
from pydantic import ValidationError as PydanticValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from dspex.errors import BackendUnavailable, ConfigurationError
from dspex.settings.connection_settings import Backends, ConnectionSettings, connection_warnings
from dspex.settings.model_settings import ModelSettings
from dspex.settings.monitoring_settings import AlertSettings, MonitoringSettings, alert_faults
from dspex.settings.secrets import FoundSecret, Secrets, is_secret, provider
from dspex.settings.security_settings import SecuritySettings, security_faults
from dspex.settings.setting_faults import configuration_error, describe, profile_faults, unknown
from dspex.settings.setting_names import PREFIX, TOML, variable
from dspex.settings.storage_settings import StorageSettings, storage_faults
from dspex.settings.web_settings import FlowerSettings, ServeSettings, serve_faults
from dspex.settings.worker_settings import TrialSettings, WorkerSettings

__all__ = ["Sections", "Settings", "unknown_variables"]


class Sections(
    ConnectionSettings,
    WorkerSettings,
    ModelSettings,
    SecuritySettings,
    MonitoringSettings,
    AlertSettings,
    FlowerSettings,
    ServeSettings,
    StorageSettings,
    TrialSettings,
):
    """All settings. Each base class is a section, in the order of the reference page."""


class _SetVariables(EnvSettingsSource):
    """The environment. It looks at no setting whose variable is not set, which is most of them: that takes most of the
    time of a load otherwise."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        if variable(field_name).lower() not in self.env_vars:
            return None, field_name, True  # as for a complex value: its name is not looked up again
        return super().get_field_value(field, field_name)

    def prepare_field_value(self, field_name: str, field: FieldInfo, value: Any, value_is_complex: bool) -> Any:
        return None if value is None else super().prepare_field_value(field_name, field, value, value_is_complex)


class Settings(Sections, BaseSettings):
    """The settings in force. Use :meth:`load`, which reports all invalid settings together."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True, env_ignore_empty=True)
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
        return init_settings, _SetVariables(settings_cls), InitSettingsSource(settings_cls, _in_file())

    @classmethod
    def load(cls, **overrides: Any) -> Settings:
        """Load the settings; ``overrides`` (by field name) replace values.

        Raises ConfigurationError with every fault.
        """
        try:
            in_file = _in_file()
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
        # An invalid setting is not reported as missing, too.
        wrong = {variable(name) for name in (*unreadable, *(str(each["loc"][0]) for each in errors))}
        together = (
            *profile_faults(settings),
            *alert_faults(settings),
            *storage_faults(settings),
            *security_faults(settings),
            *serve_faults(settings),
        )
        faults += [fault for fault in together if not any(name in fault for name in wrong)]
        if faults or not isinstance(settings, cls):
            raise configuration_error(faults)
        settings._origins = origins
        return settings

    @property
    def origins(self) -> dict[str, str]:
        """The source of each setting: ``default``, ``environment``, ``dspex.toml``, ``file /run/…``, ``the call``."""
        return dict(self._origins)

    @classmethod
    def sections(cls) -> Iterator[tuple[type[BaseModel], list[str]]]:
        """The sections, each with the names of its settings, in the order of the reference page."""
        for section in Sections.__bases__:
            yield section, list(section.__annotations__)

    def warnings(self) -> list[str]:
        """Warnings: unknown variables, and insecure connections."""
        connections = connection_warnings(*self.backends()) if self.database_url and self.broker_url else []
        return [*unknown_variables(), *connections]

    def backends(self) -> Backends:
        """The configured URLs, or the URLs of the embedded stack running at ``home``.

        Raises BackendUnavailable if there are neither.
        """
        if self.database_url and self.broker_url:
            return Backends((self.database_url.get_secret_value(), self.broker_url.get_secret_value()))
        from dspex.embedded import read_stack

        stack = read_stack(self.home)
        if stack is None:
            raise BackendUnavailable(
                f"{PREFIX}DATABASE_URL and {PREFIX}BROKER_URL are not set, and no embedded stack is running at "
                f"{self.home}: start one with `dspex up`, or set both URLs",
                backend="embedded stack",
                home=str(self.home),
            )
        return Backends((stack.database_url, stack.broker_url))


def unknown_variables() -> list[str]:
    """Warnings for DSPEX_* variables that are not settings, each with the nearest known name.

    They are not errors: an orchestrator may set its own ``DSPEX_*`` variables.
    """
    return unknown(Settings.model_fields)


def _find_secrets(
    cls: type[Settings], overrides: Mapping[str, Any], in_file: Mapping[str, Any]
) -> tuple[dict[str, FoundSecret], dict[str, str]]:
    """The secrets from the environment, files and the provider, and the errors; both by setting."""
    found: dict[str, FoundSecret] = {}
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


def _in_file() -> dict[str, Any]:
    """The settings in the file, with or without a byte-order mark; none if there is no file.

    Raises OSError and ValueError for anything else of its name.
    """
    path = Path(TOML)
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        if path.is_symlink():
            raise
        return {}
    if stat.S_ISDIR(mode):
        raise ValueError(
            "it is a directory: remove it, or put the file in its place (Docker makes a directory where the file of a "
            "bind mount is missing)"
        )
    if not stat.S_ISREG(mode):
        raise ValueError("it is not a regular file: remove it, or put the file in its place")
    return tomllib.loads(path.read_bytes().decode("utf-8-sig"))


def _origin(
    name: str, overrides: Mapping[str, Any], found: Mapping[str, FoundSecret], in_file: Mapping[str, Any]
) -> str:
    if name in overrides:
        return "the call"
    if name in found:
        return found[name].origin
    if os.environ.get(variable(name)):
        return "environment"
    return TOML if name in in_file else "default"


def _without(wrong: Collection[str], cls: type[Settings], given: Mapping[str, Any]) -> Sections:
    """The valid settings, to check them in combination."""
    raw = {**_in_file(), **_SetVariables(cls)(), **given}
    return Sections(**{name: raw[name] for name in cls.model_fields if name in raw and name not in wrong})
