"""Messages for invalid settings. They contain no secrets."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic.fields import FieldInfo

from dspex.errors import ConfigurationError
from dspex.settings.secrets import is_secret
from dspex.settings.setting_names import PREFIX, TOML, variable
from dspex.settings.urls import is_plain_text, without_password

if TYPE_CHECKING:
    from dspex.settings.loading import Sections

__all__ = ["configuration_error", "describe", "profile_faults", "unknown"]


def configuration_error(faults: list[str]) -> ConfigurationError:
    """One error for all faults."""
    return ConfigurationError("invalid settings:\n" + "\n".join(f"  - {fault}" for fault in faults), errors=faults)


def describe(error: Mapping[str, Any], fields: Mapping[str, FieldInfo], origins: Mapping[str, str]) -> str:
    """The message for a fault that pydantic found."""
    name = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden" and len(error["loc"]) == 1:
        return f"{name!r} in {TOML} is not a setting{_nearest(name, list(fields), 0.6)}"
    field = fields.get(str(error["loc"][0]))
    got = "" if field is None or is_secret(field.annotation) else f", got {error['input']!r}"
    origin = origins.get(str(error["loc"][0]), TOML)
    return f"{variable(name)} (from {origin}): {error['msg'].removeprefix('Value error, ')}{got}"


def profile_faults(settings: Sections) -> list[str]:
    """Settings that the profile requires and that are missing, or that it forbids and that are set."""
    profile = settings.profile
    urls = {variable("database_url"): settings.database_url, variable("broker_url"): settings.broker_url}
    missing = [name for name, url in urls.items() if url is None]
    if not profile.embedded_stack:
        faults = [f"{name} is not set, and {settings.env} has no default" for name in missing]
    elif len(missing) == 1:
        faults = [f"{missing[0]} is not set, but the other URL is: set both, or neither for the embedded stack"]
    else:
        faults = []
    if settings.failpoints and not profile.failpoints:
        faults.append(
            f"{variable('failpoints')} is set, but failpoints cannot be used in {settings.env}: they are for crash "
            "tests"
        )
    if not profile.plain_text and not settings.allow_plain_text:
        faults += [
            f"{name}: {without_password(url.get_secret_value())} is another host, and the connection may be "
            f"unencrypted: use {_WITH_TLS[name]}, or set {variable('allow_plain_text')}=true if the network can be "
            "trusted"
            for name, url in urls.items()
            if url is not None and is_plain_text(url.get_secret_value())
        ]
    return faults


_WITH_TLS = {variable("database_url"): "?sslmode=verify-full", variable("broker_url"): "rediss://"}


def unknown(fields: Mapping[str, FieldInfo]) -> list[str]:
    """Warnings for DSPEX_* variables that are not settings, each with the nearest known name."""
    known = [variable(name) for name in fields]
    files = {f"{variable(name)}_FILE" for name, field in fields.items() if is_secret(field.annotation)}
    names = (name for name in sorted(os.environ) if name.startswith(PREFIX))
    return [f"{name} is not a setting{_nearest(name, known, 0.8)}" for name in names if name not in {*known, *files}]


def _nearest(name: str, known: list[str], cutoff: float) -> str:
    near = difflib.get_close_matches(name, known, 1, cutoff)
    if not near:
        return ""
    return f"; did you mean {near[0]}?" if name.startswith(PREFIX) else f"; did you mean {near[0]!r}?"
