"""Providers: the protocol that a model string and an address mean, and the abilities of the model.

``provider/model`` is asked at the provider's own address with the worker's own key. With the program's own address
(``api_base``) the prefix chooses the protocol: ``anthropic/``, ``gemini/`` and ``azure/`` use theirs, all others use
OpenAI's chat API, which vLLM, Ollama, llama.cpp and most gateways serve. A query in the address goes with every
request (Azure's ``?api-version=``). Only a key that the program names is sent to such an address, never the worker's
own.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal
from urllib.parse import urlsplit

from lm15 import AccessPolicy, AsyncLMRouter, LMRouter, Resolution, RouterConfig
from lm15.compat import AnthropicCompat, OpenAIChatCompat, resolve_anthropic_compat, resolve_openai_chat_compat
from lm15.registry import PROVIDERS, ProviderDefinition
from lm15.transports import TransportRequest

from workers.lm.model_catalogue import ModelFacts, facts
from workers.lm.replies.checked_transport import CheckedTransport, RawReply, Transport
from workers.lm.replies.reply_forms import FORMS

__all__ = [
    "DECLARED",
    "Abilities",
    "Route",
    "SchemaDialect",
    "abilities",
    "at_address",
    "key_names",
    "provided",
    "schema_dialect",
]

SchemaDialect = Literal["json-schema", "openai", "anthropic", "gemini"]

#: The provider id of a server that a program names by its address.
DECLARED = "declared"
# Sent to a server that needs no key: lm15 requires one.
_NO_KEY = "none"
# The settings that all servers with OpenAI's chat API support: all of them know the older name of max_tokens.
_COMPATIBLE = OpenAIChatCompat(max_tokens_field="max_tokens", cache_control="none")
# A gateway to a model that OpenAI lists: its reasoning models refuse the older name.
_OPENAI_MODEL = replace(_COMPATIBLE, max_tokens_field="max_completion_tokens")
#: By prefix: the provider whose protocol is used at an address, and the version for an address without a path.
_PROTOCOLS = {"anthropic": ("anthropic", "/v1"), "gemini": ("gemini", "/v1beta"), "azure": ("azure-chat", "")}
_SCHEMA_DIALECTS: dict[str, SchemaDialect] = {
    "openai": "openai",
    "azure": "openai",
    "anthropic": "anthropic",
    "gemini": "gemini",
}


@dataclass(frozen=True, slots=True)
class Route:
    """The way to a model: lm15's client for it, and its protocol.

    ``namespace`` is the provider's prefix in the list of models; ``None`` for a server at the program's own
    address, whose prices are not in the list.
    """

    provider: str
    wire_model: str
    client: Any
    definition: ProviderDefinition
    namespace: str | None = None
    address: str | None = None


@dataclass(frozen=True, slots=True)
class Abilities:
    """What a model supports: ``params`` by OpenAI's names."""

    params: frozenset[str]
    response_schema: bool
    function_calling: bool
    reasoning: bool


def schema_dialect(model: str, *, has_address: bool) -> SchemaDialect:
    """The dialect of JSON Schema that a model's provider enforces; an OpenAI-compatible server takes the standard."""
    prefix = model.removeprefix("litellm/").partition("/")[0]
    if has_address and prefix not in _PROTOCOLS:
        return "json-schema"
    return _SCHEMA_DIALECTS.get(prefix, "json-schema")


def key_names(model: str) -> tuple[str, ...]:
    """The variables that may hold the worker's own key for a provider's model."""
    return tuple(PROVIDERS[_resolved(model).provider].env_keys)


def provided(model: str, key: str | None, transport: Transport) -> Route:
    """The route to a provider that lm15 knows. Raises LM15Error when there is none, or no credential."""
    found = _resolved(model)
    definition = PROVIDERS[found.provider]
    config = RouterConfig(api_keys={found.provider: key} if key else None, transport=_checked(transport, definition))
    return Route(
        provider=found.provider,
        wire_model=found.model,
        client=AsyncLMRouter(config).lm(f"{found.provider}:{found.model}"),
        definition=definition,
        namespace=model.partition("/")[0],
    )


def at_address(model: str, address: str, key: str | None, transport: Transport) -> Route:
    """The route to a server that a program names by its address."""
    prefix, _, rest = model.partition("/") if "/" in model else ("", "", model)
    base, _, query = address.partition("?")
    if query:
        transport = _WithQuery(transport, query)
    protocol, version = _PROTOCOLS.get(prefix, (DECLARED, "/v1"))
    if protocol == "azure-chat" and "/deployments/" in base:
        protocol = DECLARED  # the older form names the deployment in the path, and is used as it stands
        definition = _declared(base, _COMPATIBLE, auth_scheme=("api-key",))
    elif protocol == DECLARED:
        definition = _declared(_with_version(base, version), _compat_of(prefix, rest))
    else:
        definition = PROVIDERS[protocol]
    own = definition.id == DECLARED
    config = RouterConfig(
        api_keys={definition.id: key or _NO_KEY},
        base_urls=None if own else {definition.id: _with_version(base, version)},
        providers=(definition,) if own else (),
        transport=_checked(transport, definition),
    )
    return Route(
        provider=definition.id,
        wire_model=rest,
        client=AsyncLMRouter(config).lm(f"{definition.id}:{rest}"),
        definition=definition,
        address=address,
    )


def abilities(route: Route) -> Abilities:
    """The model's abilities in the list of models, as far as lm15 supports them over this protocol.

    A server at the program's own address is assumed to support its whole protocol, except reasoning.
    """
    if route.namespace is None:
        known = ModelFacts(function_calling=True, response_schema=True)
    else:
        known = facts(route.namespace, route.wire_model)
    params, schema, reasoning = _carried(route, known)
    if known.function_calling:
        params |= {"tools", "tool_choice"}
    return Abilities(params, schema, known.function_calling, reasoning)


def _carried(route: Route, known: ModelFacts) -> tuple[frozenset[str], bool, bool]:
    params = frozenset({"temperature", "max_tokens", "top_p", "stop", "response_format"})
    match route.definition.dialect:
        case "openai-chat":
            chat = resolve_openai_chat_compat(_chat_compat(route).for_model(route.wire_model))
            schema = known.response_schema and chat.json_schema != "reject"
            reasoning = known.reasoning and chat.thinking_format != "none"
            params |= {"max_completion_tokens", "seed"}
            if not (known.response_schema or known.function_calling):
                params -= {"response_format"}
        case "anthropic":
            given = route.definition.compat
            claude = resolve_anthropic_compat(AnthropicCompat.preset(given if isinstance(given, str) else "anthropic"))
            schema = known.response_schema and claude.structured_output != "reject"
            reasoning = known.reasoning
            if claude.sampling_params == "reject":
                params -= {"temperature", "top_p"}
            if not schema:
                params -= {"response_format"}
        case _:
            schema, reasoning = known.response_schema, known.reasoning
    return params | ({"reasoning_effort"} if reasoning else frozenset()), schema, reasoning


def _chat_compat(route: Route) -> OpenAIChatCompat:
    given = route.definition.compat
    if isinstance(given, OpenAIChatCompat):
        return given
    return OpenAIChatCompat.preset(given if isinstance(given, str) else "xai" if route.provider == "xai" else "openai")


def _compat_of(prefix: str, model: str) -> OpenAIChatCompat:
    return _OPENAI_MODEL if prefix == "openai" and facts("openai", model).rates else _COMPATIBLE


def _declared(base_url: str, compat: OpenAIChatCompat, **access: Any) -> ProviderDefinition:
    policy = AccessPolicy(provider=DECLARED, env_keys=(), base_url=base_url, **access)
    return ProviderDefinition.chat(policy, compat=compat)


@lru_cache(maxsize=1024)
def _resolved(model: str) -> Resolution:
    return LMRouter(RouterConfig(env={})).resolve_openai_chat(model)


def _checked(transport: Transport, definition: ProviderDefinition) -> CheckedTransport:
    """The transport, with replies checked."""
    return CheckedTransport(transport, FORMS[definition.dialect], provider=definition.id, env_keys=definition.env_keys)


def _with_version(address: str, version: str) -> str:
    """``http://host`` and ``http://host/`` mean the protocol's usual version; a path is taken as it is."""
    trimmed = address.rstrip("/")
    return trimmed if urlsplit(trimmed).path else trimmed + version


class _WithQuery:
    """A transport that adds a query to every request."""

    def __init__(self, transport: Transport, query: str) -> None:
        self._transport = transport
        self._query = query

    def stream(self, request: TransportRequest) -> AbstractAsyncContextManager[RawReply]:
        joint = "&" if "?" in request.url else "?"
        return self._transport.stream(replace(request, url=f"{request.url}{joint}{self._query}"))
