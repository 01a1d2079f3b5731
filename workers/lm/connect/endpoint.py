"""Endpoints: one model at one address with one credential, over the process's shared connections."""

from __future__ import annotations

import asyncio
import inspect
import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakValueDictionary

from lm15 import LM15Error, Request, Response
from lm15.serde import request_from_dict

from dspex.errors import ModelError
from dspex.program.models import LOCAL_MODEL, OTHER_ENTRIES, Model
from dspex.program.program import Program
from dspex.settings import Settings
from workers.lm.connect import chat_media, litellm, providers
from workers.lm.connect.http_transport import HttpTransport
from workers.lm.connect.provider_keys import AskedModel, Keys
from workers.lm.connect.providers import Route
from workers.lm.model_catalogue import facts
from workers.lm.model_errors import model_error
from workers.lm.replies.schema_keywords import RefusedKeywords

__all__ = ["Endpoint", "Endpoints", "LocalModelUrl", "NamedModel"]

#: Where the bundled model is served: a function, or a coroutine function that first starts the server.
LocalModelUrl = Callable[[], str | Awaitable[str]]

_ENDPOINTS_KEPT = 256
#: In place of a key that is missing, and of the address of the bundled model while it cannot be served.
_NO_KEY, _NOWHERE = "none", "http://localhost"
#: The prices of the bundled model, which this machine serves.
_FREE = {"input_cost_per_token": 0.0, "output_cost_per_token": 0.0}


@dataclass(frozen=True, slots=True)
class NamedModel:
    """A model as a program's code names it, at an address of its own or at its provider's; or, by its name, one of the
    program's ``models``."""

    model: str
    api_base: str | None = None
    api_key: str | None = field(default=None, repr=False)
    headers: tuple[tuple[str, str], ...] = ()
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A model at one address. ``model`` is the program's spelling; ``rates`` are its prices, empty if not listed.

    ``supported_params`` are the request settings it takes, by OpenAI's names. ``longest_wait`` is the longest delay in
    seconds that it may ask for, ``refused_keywords`` the keywords of the schemas that it refused.
    """

    model: str
    route: Route
    rates: Mapping[str, float]
    supported_params: frozenset[str]
    supports_response_schema: bool
    supports_function_calling: bool
    supports_reasoning: bool
    longest_wait: float
    refused_keywords: RefusedKeywords

    @property
    def address(self) -> str | None:
        """The program's own address of its model, without the query; ``None`` at a provider's address."""
        return self.route.address and self.route.address.partition("?")[0]

    @property
    def client(self) -> Any:
        """lm15's client: ``complete(request)``, ``stream(request)``, of a request that names the ``wire_model``."""
        return self.route.client

    @property
    def wire_model(self) -> str:
        """The server's name for the model."""
        return self.route.wire_model

    async def complete(self, request: Mapping[str, Any]) -> Response:
        """Ask once. Raises upstream errors, which the engine turns into ModelErrors."""
        answer: Response = await self.route.client.complete(self.sent(request))
        return answer

    def sent(self, request: Mapping[str, Any]) -> Request:
        """The request as lm15's clients take it, with the server's name for the model."""
        return request_from_dict({**chat_media.without_names(request), "model": self.wire_model})

    async def rates_of(self, answered_by: str) -> Mapping[str, float]:
        """The prices of the model that answered, which may be named more closely than the one that was asked."""
        namespace = self.route.namespace
        if namespace is None or answered_by == self.wire_model:
            return self.rates
        return (await asyncio.to_thread(facts, namespace, answered_by)).rates or self.rates


class Endpoints:
    """The endpoints of a worker process. One connection pool serves them all; each is built once per credential."""

    def __init__(self, local_model_url: LocalModelUrl) -> None:
        self._local_model_url = local_model_url
        chat_media.install()
        self._transport = HttpTransport()
        self._keys = Keys()
        self._longest_wait = Settings.load().max_retry_after_seconds
        self._built: dict[tuple[str, str | None, str | None], Endpoint] = {}
        #: By model and address: endpoints that differ in their keys share them.
        self._refused: WeakValueDictionary[tuple[str, str | None], RefusedKeywords] = WeakValueDictionary()

    async def prepare(self, program: Program) -> None:
        """Begin to load what only this program's model needs. Raises ModelError when it is not installed."""
        if str(program.model).startswith(litellm.PREFIX):
            litellm.route(str(program.model), program.api_base, None)
            litellm.begin_loading()

    async def of(self, program: AskedModel) -> Endpoint:
        """The endpoint of the model of a program, or of one of its ``models``, with the credential that is set now.

        Raises ModelError: ``authentication`` when the key that it names is missing, ``invalid_request`` for a model
        string that leads nowhere, ``provider_unavailable`` when the local model cannot be served.
        """
        model = str(program.model)
        address = await self._address(program)
        key = await self._keys.named(program) if program.api_key_env else None
        return await self._at(model, address, key, bundled=_is_bundled(program))

    async def without_key(self, program: AskedModel) -> Endpoint:
        """The endpoint of a model whose key is missing: for what it supports, and never to be asked.

        Raises ModelError ``invalid_request`` for a model string that leads nowhere.
        """
        bundled = _is_bundled(program)
        return await self._at(str(program.model), _NOWHERE if bundled else program.api_base, _NO_KEY, bundled=bundled)

    async def headers(self, model: Model) -> tuple[tuple[str, str], ...]:
        """The extra headers of a model, with the secrets that they name. Raises ModelError ``authentication``."""
        return await self._keys.headers(model.model, model.options.get("extra_headers", {}))

    async def headers_of_code(self, named: NamedModel) -> tuple[tuple[str, str], ...]:
        """The extra headers of a model that the program's own code names. Raises as :meth:`headers` does."""
        return await self._keys.headers(named.model, dict(named.headers))

    async def of_code(self, program: Program, named: NamedModel) -> Endpoint:
        """The endpoint of a model that the program's own code names.

        Raises ModelError ``model_not_allowed`` for an address that is not the program's, and for a key that is not in
        this worker's environment: the program would not show these settings.
        """
        if named.name is not None:
            return await self.of(program.named_models[named.name])
        if named.model.startswith(OTHER_ENTRIES):
            raise _not_allowed(program, named, "a name that marks another entry of the journal")
        if named.api_base is not None and named.api_base != program.api_base:
            raise _not_allowed(program, named, "an address that the program does not: give it as api_base")
        if named.api_key is not None and named.api_key not in os.environ.values():
            raise _not_allowed(program, named, "a key that is not in the worker's environment: read it from there")
        if named.model == program.model and named.api_base == program.api_base and named.api_key is None:
            return await self.of(program)
        key = named.api_key
        if key is None and named.api_base is not None and program.api_key_env:
            key = await self._keys.named(program)
        return await self._at(named.model, named.api_base, key)

    async def _at(self, model: str, address: str | None, key: str | None, *, bundled: bool = False) -> Endpoint:
        try:
            if address is None and key is None and not model.startswith(litellm.PREFIX):
                key = await self._keys.own(model)
            known = self._built.get((model, address, key))
            if known is None:
                # Finding credentials may read files or ask a cloud's metadata service; so may finding prices.
                known = await asyncio.to_thread(self._build, model, address, key, bundled=bundled)
                self._built[model, address, key] = known
                if len(self._built) > _ENDPOINTS_KEPT:  # keys rotate, and the local model moves
                    del self._built[next(iter(self._built))]
        except LM15Error as error:
            raise model_error(error, model=model, address=address) from None
        return known

    async def aclose(self) -> None:
        self._built.clear()
        await self._transport.aclose()

    async def _address(self, program: AskedModel) -> str | None:
        if _is_bundled(program):
            url = self._local_model_url()
            return await url if inspect.isawaitable(url) else url
        return program.api_base

    def _build(self, model: str, address: str | None, key: str | None, *, bundled: bool) -> Endpoint:
        if model.startswith(litellm.PREFIX):
            route = litellm.route(model, address, key)
        elif address is None:
            route = providers.provided(model, key, self._transport)
        else:
            route = providers.at_address(model, address, key, self._transport)
        able = providers.abilities(route)
        listed = {} if route.namespace is None else facts(route.namespace, route.wire_model).rates
        return Endpoint(
            model=model,
            route=route,
            rates=_FREE if bundled else listed,
            supported_params=able.params,
            supports_response_schema=able.response_schema,
            supports_function_calling=able.function_calling,
            supports_reasoning=able.reasoning,
            longest_wait=self._longest_wait,
            refused_keywords=self._refused.setdefault((model, address), RefusedKeywords()),
        )


def _is_bundled(program: AskedModel) -> bool:
    return program.model == LOCAL_MODEL and program.api_base is None


def _not_allowed(program: Program, named: NamedModel, why: str) -> ModelError:
    return ModelError(
        f"program {program.name!r}: its code makes a dspy.LM({named.model!r}) with {why}",
        code="model_not_allowed",
        retryable=False,
        model=named.model,
    )
