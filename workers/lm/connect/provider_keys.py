"""API keys of models: those that programs name, and the worker's own for a provider."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from dspex.errors import ConfigurationError, ModelError
from dspex.program.models import ENVIRONMENT
from dspex.settings import Secrets, Settings, variable
from dspex.settings.secrets import FILE_SUFFIX
from workers.lm.connect.providers import key_names

__all__ = ["AskedModel", "Keys"]


class AskedModel(Protocol):
    """What a program, or one of its models, says about where a model is."""

    @property
    def model(self) -> Any: ...

    @property
    def api_base(self) -> str | None: ...

    @property
    def api_key_env(self) -> str | None: ...


_SENDABLE = re.compile(r"[\x20-\x7e]+")


class Keys:
    """The present keys, from a variable, the file of ``<variable>_FILE``, or the secrets provider."""

    def __init__(self) -> None:
        spec = Settings.load().secrets
        self._secrets = Secrets(spec)
        self._has_provider = spec is not None
        self._own_settings = frozenset(map(variable, Settings.model_fields))

    async def named(self, program: AskedModel) -> str:
        """The key that a program names. Raises ModelError ``authentication`` when there is none, or when the name is
        a setting of DSPex: a program must not send those to its own address."""
        return await self._named(str(program.api_key_env), program.model, "for its API key")

    async def headers(self, model: Any, given: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
        """The headers of a model, with the values of the variables that they name. Raises as :meth:`named` does."""
        names = {name for text in given.values() for name in ENVIRONMENT.findall(text)}
        values = {name: await self._named(name, model, "in a header") for name in sorted(names)}
        return tuple((header, ENVIRONMENT.sub(lambda found: values[found[1]], text)) for header, text in given.items())

    async def _named(self, name: str, model: Any, use: str) -> str:
        if name.removesuffix(FILE_SUFFIX) in self._own_settings:
            raise _no_key(name, model, use, f"{name} is a setting of DSPex, not an API key")
        try:
            value = await self._first([name])
        except ConfigurationError as error:
            raise _no_key(name, model, use, str(error)) from error
        if value is None:
            missing = f"the worker has no environment variable {name} and no {name}_FILE; set one and restart it"
            raise _no_key(name, model, use, missing)
        return value

    async def own(self, model: str) -> str | None:
        """The worker's own key for a provider's model. Raises ModelError ``authentication`` when it cannot be read."""
        try:
            return await self._first(key_names(model))
        except ConfigurationError as error:
            raise ModelError(f"model {model!r}: {error}", code="authentication", retryable=False) from error

    async def _first(self, names: Sequence[str]) -> str | None:
        # A variable or a file takes no time worth a thread; a provider may be a service.
        return await asyncio.to_thread(self._look, names) if self._has_provider else self._look(names)

    def _look(self, names: Sequence[str]) -> str | None:
        return next((_sendable(name, value) for name in names if (value := self._secrets.get(name))), None)


def _sendable(name: str, value: str) -> str:
    """The key without the blanks and line breaks around it. Raises ConfigurationError for one that cannot be sent."""
    key = value.strip()
    if not key:
        raise ConfigurationError(f"{name} is empty")
    if not _SENDABLE.fullmatch(key):
        raise ConfigurationError(
            f"{name} has a line break, a typographic quotation mark or another character that cannot be sent in an "
            "HTTP header: copy the key again"
        )
    return key


def _no_key(name: str, model: Any, use: str, reason: str) -> ModelError:
    return ModelError(
        f"model {model!r} names {name} {use}: {reason}",
        code="authentication",
        retryable=False,
        variable=name,
    )
