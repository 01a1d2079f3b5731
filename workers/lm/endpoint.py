"""Endpoints: one model at one address with one credential, over the process's shared connections."""

from __future__ import annotations

import asyncio
import inspect
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

from dspy.clients.engines.lm15_engine import AsyncLM15Engine
from dspy.clients.lm import LM
from dspy.lm15 import (
    AccessPolicy,
    LM15Error,
    OpenAIChatCompat,
    ProviderDefinition,
    Request,
    Response,
    RouterConfig,
)

from dspex.errors import ModelError
from dspex.program import LOCAL_MODEL, Program
from workers.lm.cost import use_packaged_prices
from workers.lm.errors import model_error
from workers.lm.transport import HttpTransport

__all__ = ["Endpoint", "Endpoints", "LocalModelUrl"]

#: Where the bundled model is served: a function, or a coroutine function that first starts the server.
LocalModelUrl = Callable[[], str | Awaitable[str]]

_ENDPOINTS_KEPT = 256
#: The provider id of a server that a program names by its address.
DECLARED = "declared"
# What servers that speak OpenAI's chat API agree on; the older name of max_tokens is understood by all of them.
_COMPATIBLE = OpenAIChatCompat(max_tokens_field="max_tokens", cache_control="none")
_COMPATIBLE_PARAMS = frozenset(
    {"temperature", "max_tokens", "max_completion_tokens", "top_p", "stop", "seed"}
    | {"response_format", "tools", "tool_choice"}
)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a program's model answers.

    ``model`` is the program's spelling, ``wire_model`` the server's; ``address`` is ``None`` for a provider's own.
    ``supported_params`` are the request settings it takes, by OpenAI's names.
    """

    model: str
    wire_model: str
    provider: str
    address: str | None
    supported_params: frozenset[str]
    supports_response_schema: bool
    supports_function_calling: bool
    supports_reasoning: bool
    client: Any

    @property
    def is_priced(self) -> bool:
        """Whether DSPy's price list can speak of it: a server named by its address is nobody's list price."""
        return self.provider != DECLARED

    async def complete(self, request: Request) -> Response:
        """Ask once. Raises upstream errors; the engine tells them in our words."""
        answer: Response = await self.client.complete(replace(request, model=self.wire_model))
        return answer


class Endpoints:
    """The endpoints of a worker process. One connection pool serves them all; each is built once per credential."""

    def __init__(self, local_model_url: LocalModelUrl) -> None:
        self._local_model_url = local_model_url
        self._transport = HttpTransport()
        self._built: dict[tuple[str, str | None, str | None], Endpoint] = {}

    async def of(self, program: Program) -> Endpoint:
        """The endpoint of a program's model, with the credential that the environment holds now.

        Raises ModelError: ``authentication`` when the named variable is not set, ``invalid_request`` for a model
        string that leads nowhere, ``provider_unavailable`` when the local model cannot be served.
        """
        model = str(program.model)
        address = await self._address(program)
        key = _named_key(program) if program.api_key_env else None
        try:
            if address is None and key is None:
                key = os.environ.get(_resolve(model).env_key or "")
            known = self._built.get((model, address, key))
            if known is None:
                known = await self._build(model, address, key)
                self._built[model, address, key] = known
                if len(self._built) > _ENDPOINTS_KEPT:  # keys rotate, and the local model moves
                    del self._built[next(iter(self._built))]
        except LM15Error as error:
            raise model_error(error, model=model, address=address) from None
        return known

    async def aclose(self) -> None:
        self._built.clear()
        await self._transport.aclose()

    async def _address(self, program: Program) -> str | None:
        if program.model == LOCAL_MODEL and program.api_base is None:
            url = self._local_model_url()
            return _with_version(await url if inspect.isawaitable(url) else url)
        return None if program.api_base is None else _with_version(program.api_base)

    async def _build(self, model: str, address: str | None, key: str | None) -> Endpoint:
        if address is not None:
            return _declared(model, address, key, self._transport)
        use_packaged_prices()
        # Finding credentials may read files or ask a cloud's metadata service.
        return await asyncio.to_thread(_provided, model, key, self._transport)


def _provided(model: str, key: str | None, transport: HttpTransport) -> Endpoint:
    """The endpoint of a provider that DSPy knows."""
    resolution = _resolve(model)
    config = RouterConfig(api_keys={resolution.provider: key} if key else None, transport=transport)
    spelled = LM(model, engine="lm15", cache=False)
    return Endpoint(
        model=model,
        wire_model=resolution.model,
        provider=resolution.provider,
        address=None,
        supported_params=frozenset(spelled.supported_params),
        supports_response_schema=spelled.supports_response_schema,
        supports_function_calling=spelled.supports_function_calling,
        supports_reasoning=spelled.supports_reasoning,
        client=AsyncLM15Engine(config).router.lm(f"{resolution.provider}:{resolution.model}"),
    )


def _declared(model: str, address: str, key: str | None, transport: HttpTransport) -> Endpoint:
    """The endpoint of an OpenAI-compatible server at an address. Without a key it gets none: a provider's key from
    the environment is never sent to an address that a program names."""
    wire_model = model if "/" not in model else model.partition("/")[2]
    definition = ProviderDefinition.chat(
        AccessPolicy(provider=DECLARED, env_keys=(), base_url=address), compat=_COMPATIBLE, placeholder_key="none"
    )
    config = RouterConfig(api_keys={DECLARED: key} if key else None, transport=transport, providers=(definition,))
    return Endpoint(
        model=model,
        wire_model=wire_model,
        provider=DECLARED,
        address=address,
        supported_params=_COMPATIBLE_PARAMS,
        supports_response_schema=True,
        supports_function_calling=True,
        supports_reasoning=False,
        client=AsyncLM15Engine(config).router.lm(f"{DECLARED}:{wire_model}"),
    )


def _resolve(model: str) -> Any:
    return AsyncLM15Engine(RouterConfig()).resolve(model)


def _named_key(program: Program) -> str:
    name = str(program.api_key_env)
    value = os.environ.get(name)
    if not value:
        raise ModelError(
            f"model {program.model!r}: the worker has no environment variable {name}, which program "
            f"{program.name!r} names for its API key; set it and restart the worker",
            code="authentication",
            retryable=False,
            variable=name,
        )
    return value


def _with_version(address: str) -> str:
    """``http://host`` and ``http://host/`` mean ``http://host/v1``; a path is taken as it is."""
    trimmed = address.rstrip("/")
    return trimmed if urlsplit(trimmed).path else f"{trimmed}/v1"
