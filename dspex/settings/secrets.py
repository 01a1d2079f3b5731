"""Secrets: from an environment variable, from the file that ``<variable>_FILE`` names, or from a provider.

Secrets of Docker and Kubernetes are files. A provider is a function of the deployment: it is called with the name of a
variable (``DSPEX_DATABASE_URL``, ``OPENAI_API_KEY``) and returns the value or None.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, get_args

from pydantic import SecretStr

from dspex.errors import ConfigurationError

__all__ = ["FILE_SUFFIX", "FoundSecret", "Provider", "Secrets", "is_secret", "provider", "without_model_keys"]

FILE_SUFFIX = "_FILE"
ENTRY_POINTS = "dspex.secrets"
#: How long values of a provider are cached: it may be a service, and every model call needs a key.
PROVIDED_SECONDS = 60.0

#: Variables of DSPex, Flower and Postgres' own library.
_OF_PROCESSES = ("DSPEX_", "FLOWER_", "PG")
_MODEL_KEY = re.compile(r"API_?KEY|BEARER_TOKEN")
_CREDENTIAL = re.compile(r"(?:^|_)(?:API_?KEY|KEY|TOKEN|SECRET|PASSWORD|CREDENTIALS?)(?:_|$)")

Provider = Callable[[str], str | None]


@dataclass(frozen=True, slots=True)
class FoundSecret:
    """A secret and its source."""

    value: str = field(repr=False)
    origin: str


class Secrets:
    """Looks up secrets by the names of their variables. ``spec`` names a provider (``DSPEX_SECRETS``), or is None.

    Every method raises ConfigurationError for a secret that cannot be read. The message contains no secret.
    """

    def __init__(self, spec: str | None = None) -> None:
        self._spec = spec
        self._provided: dict[str, tuple[float, str | None]] = {}

    def get(self, name: str) -> str | None:
        """The current value of a secret, or None."""
        found = self.find(name)
        return None if found is None else found.value

    def find(self, name: str) -> FoundSecret | None:
        """The secret of this name and its source, or None."""
        value, path = os.environ.get(name), os.environ.get(name + FILE_SUFFIX)
        if value and path:
            raise ConfigurationError(f"{name} and {name}{FILE_SUFFIX} are both set: unset one of them")
        if value:
            return FoundSecret(value, "environment")
        if path:
            return FoundSecret(_read(name + FILE_SUFFIX, Path(path)), f"file {path}")
        if self._spec and (value := self._ask(self._spec, name)):
            return FoundSecret(value, f"provider {self._spec}")
        return None

    def _ask(self, spec: str, name: str) -> str | None:
        at, value = self._provided.get(name, (0.0, None))
        now = time.monotonic()
        if name not in self._provided or now - at > PROVIDED_SECONDS:
            value = _answer(spec, name)
            self._provided[name] = (now, value)
        return value


def is_secret(annotation: Any) -> bool:
    """Whether a setting of this type is a secret: a ``pydantic.SecretStr``, or an optional one."""
    if isinstance(annotation, type):
        return issubclass(annotation, SecretStr)
    return any(map(is_secret, get_args(annotation)))


def without_model_keys(environment: Mapping[str, str], *, has_provider: bool = False) -> dict[str, str]:
    """The environment of a process that calls no model: without variables, and names of files, of credentials.

    Credentials are recognised by the names of their variables (``OPENAI_API_KEY``, ``TEAM_KEY_FILE``). Names in
    deployed programs do not count: a program could name ``PATH``. A secrets provider may need credentials of its own,
    so with one only API keys are left out.
    """
    left_out = _MODEL_KEY if has_provider else _CREDENTIAL
    return {
        name: value
        for name, value in environment.items()
        if name.startswith(_OF_PROCESSES) or not left_out.search(name.upper())
    }


@cache
def provider(spec: str) -> Provider:
    """Load a provider: ``package.module:function``, or the name of an entry point of the group ``dspex.secrets``.

    Raises ConfigurationError if it does not exist.
    """
    module, colon, name = spec.partition(":")
    try:
        if colon:
            found = getattr(import_module(module), name)
        else:
            (entry,) = entry_points(group=ENTRY_POINTS, name=spec)
            found = entry.load()
    except (ImportError, AttributeError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}" if colon else f"no installed package has an entry point {spec!r}"
        raise ConfigurationError(
            f"DSPEX_SECRETS names the provider {spec!r}, which cannot be loaded ({reason}): "
            f"use package.module:function, or an entry point of the group {ENTRY_POINTS}"
        ) from error
    if not callable(found):
        raise ConfigurationError(f"DSPEX_SECRETS names {spec!r}, which is a {type(found).__name__}, not a function")
    return found  # type: ignore[no-any-return]


def _answer(spec: str, name: str) -> str | None:
    try:
        value = provider(spec)(name)
    except ConfigurationError:
        raise
    except Exception as error:
        raise ConfigurationError(
            f"{name}: the secrets provider {spec!r} failed: {type(error).__name__}: {error}"
        ) from error
    if value is not None and not isinstance(value, str):
        raise ConfigurationError(f"{name}: the secrets provider {spec!r} returned a {type(value).__name__}, not a str")
    return value


def _read(variable: str, path: Path) -> str:
    try:
        value = path.read_text().rstrip("\r\n")  # the file may end with a line break
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise ConfigurationError(f"{variable}: {path} cannot be read: {reason}") from None
    if not value:
        raise ConfigurationError(f"{variable}: {path} is empty")
    return value
