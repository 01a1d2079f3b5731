"""The flex tier: a provider's slower and cheaper tier of its ordinary API, for ``route="flex"``.

Without capacity for it, a provider refuses the call, which then costs nothing. OpenAI answers 429 "resource
unavailable" (https://platform.openai.com/docs/guides/flex-processing), Gemini 503
(https://ai.google.dev/gemini-api/docs/flex-inference). Both name two ways on: another try later, or the standard tier.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from dspex.errors import ModelError
from dspex.program.calls.routes import CallsRoute
from workers.adapters.contract import Answer
from workers.lm.bundles.batch_target import format_of
from workers.lm.connect.endpoint import Endpoint

__all__ = ["ask_at_tier", "has_flex_tier", "is_short_of_capacity"]

_WITH_FLEX = frozenset({"openai", "gemini"})
_TOO_MANY, _UNAVAILABLE = 429, 503
#: Provider's codes of a 429 that is about the caller's own limits.
_OWN_LIMITS = frozenset({"rate_limit_exceeded", "insufficient_quota", "requests", "tokens", "RESOURCE_EXHAUSTED"})

#: Asks once: a request, and what is recorded with its answer.
Ask = Callable[[Mapping[str, Any], Mapping[str, Any]], Awaitable[Answer]]


def has_flex_tier(endpoint: Endpoint) -> bool:
    """Whether DSPex knows a flex tier of the provider. Elsewhere calls are ordinary ones."""
    return format_of(endpoint.route) in _WITH_FLEX


async def ask_at_tier(request: Mapping[str, Any], ask: Ask, route: CallsRoute, endpoint: Endpoint) -> Answer:
    """The answer by the tier of the route. A program that names a ``service_tier`` itself gets that one.

    Short of capacity, the standard tier is asked if ``otherwise`` is so; else raises the provider's error, after which
    the call is tried again as after others.
    """
    config = request.get("config", {})
    if route.kind != "flex" or "service_tier" in config or not has_flex_tier(endpoint):
        return await ask(request, {})
    try:
        return await ask({**request, "config": {**config, "service_tier": "flex"}}, {"tier": "flex"})
    except ModelError as error:
        if route.otherwise != "standard" or not is_short_of_capacity(error):
            raise
        because = error.code
    return await ask(request, {"tier": "standard", "because": because})


def is_short_of_capacity(error: ModelError) -> bool:
    """Whether the provider refused a call for want of capacity, rather than for a limit of the caller."""
    status, code = error.details.get("status"), error.details.get("provider_code")
    return status == _UNAVAILABLE or (status == _TOO_MANY and code not in _OWN_LIMITS)
