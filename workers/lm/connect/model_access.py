"""The address of a provider's model and the keys it takes, found without any request."""

from __future__ import annotations

from typing import Any

from lm15 import LM15Error

from dspex.errors import ConfigurationError
from workers.lm.connect import providers

__all__ = ["address", "key_names"]


def key_names(model: str) -> tuple[str, ...]:
    """The variables of which one must hold a key; none where none is needed. Raises ConfigurationError."""
    try:
        return providers.key_names(model)
    except LM15Error as error:
        raise _nowhere(model) from error


def address(model: str) -> str | None:
    """The provider's own address, if it has one for all. Raises ConfigurationError."""
    try:
        client = providers.provided(model, "not sent", _Unused()).client
    except LM15Error as error:
        raise _nowhere(model) from error
    base_url = getattr(client, "base_url", None)
    return str(base_url) if base_url else None


def _nowhere(model: str) -> ConfigurationError:
    return ConfigurationError(f"model {model!r} belongs to no known provider")


class _Unused:
    """The transport of a client that is only used for its address."""

    def stream(self, request: Any) -> Any:
        raise NotImplementedError
