"""LiteLLM, for models that lm15 does not reach: the extra ``dspex[litellm]``, asked for by the prefix ``litellm/``.

It takes 10 s and 140 MB to import, so it is imported once, in a thread of its own, begun when a worker prepares a
program that needs it; a call that comes earlier waits for it without holding up the loop. It is a client like lm15's
own: journal, retries, limits, errors and costs are the engine's. It keeps its own connections and reads
``SSL_CERT_FILE``, not ``DSPEX_CA_FILE``. An answer is streamed in one piece.
"""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import AsyncIterator
from concurrent.futures import Future
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import lm15
from lm15.providers import OpenAIChatLM
from lm15.registry import PROVIDERS
from lm15.result import response_to_events

from dspex.errors import ModelError
from workers.lm.connect.http_transport import last_request_id
from workers.lm.connect.providers import Route
from workers.lm.replies.context_overflow import is_context_overflow
from workers.lm.replies.reply_forms import FORMS

__all__ = ["ERRORS", "PREFIX", "LiteLLMClient", "begin_loading", "route"]

PREFIX = "litellm/"

#: LiteLLM's errors, as the errors of lm15 with the same meaning; the nearest class in an error's MRO decides.
ERRORS: dict[str, type[lm15.LM15Error]] = {
    "APIConnectionError": lm15.TransportError,
    "APIError": lm15.ProviderError,
    "APIResponseValidationError": lm15.ServerError,
    "AuthenticationError": lm15.AuthError,
    "BadGatewayError": lm15.ServerError,
    "BadRequestError": lm15.InvalidRequestError,
    "BlockedPiiEntityError": lm15.InvalidRequestError,
    "BudgetExceededError": lm15.BillingError,
    "ContextWindowExceededError": lm15.ContextLengthError,
    "GuardrailRaisedException": lm15.InvalidRequestError,
    "InternalServerError": lm15.ServerError,
    "InvalidRequestError": lm15.InvalidRequestError,
    "LiteLLMUnknownProvider": lm15.UnknownModelError,
    "MockException": lm15.ProviderError,
    "ModelNotMappedError": lm15.UnsupportedModelError,
    "ModifyResponseException": lm15.InvalidRequestError,
    "NotFoundError": lm15.UnsupportedModelError,
    "OpenAIError": lm15.ProviderError,
    "PaymentRequiredError": lm15.BillingError,
    "PermissionDeniedError": lm15.AuthError,
    "RateLimitError": lm15.RateLimitError,
    "SensitiveDataRouteException": lm15.InvalidRequestError,
    "ServiceUnavailableError": lm15.ServerError,
    "Timeout": lm15.TimeoutError,
    "UnprocessableEntityError": lm15.InvalidRequestError,
    "UnsupportedParamsError": lm15.UnsupportedFeatureError,
}
#: Codes of providers that are more exact than LiteLLM's class.
_BY_CODE = {"insufficient_quota": lm15.BillingError, "context_length_exceeded": lm15.ContextLengthError}
_REQUEST_IDS = ("llm_provider-x-request-id", "llm_provider-request-id", "x-request-id", "request-id")


def route(model: str, address: str | None, key: str | None) -> Route:
    """The way to a model through LiteLLM. Raises ModelError ``unsupported`` when the extra is not installed."""
    if find_spec("litellm") is None:
        raise ModelError(
            f"model {model!r} is asked through LiteLLM, which this worker does not have: pip install 'dspex[litellm]'",
            code="unsupported",
            retryable=False,
            model=model,
        )
    wire_model = model.removeprefix(PREFIX)
    prefix, _, bare = wire_model.partition("/")
    return Route(
        provider="litellm",
        wire_model=bare,
        client=LiteLLMClient(wire_model, address, key or ("none" if address else None)),
        definition=PROVIDERS["openai-chat"],
        namespace=None if address else prefix,
        address=address,
    )


def begin_loading() -> None:
    """Import LiteLLM in the background, if that has not begun."""
    _loading()


class LiteLLMClient:
    """Asks as lm15's clients do. Without a key LiteLLM looks for the provider's own in the environment."""

    def __init__(self, model: str, address: str | None, key: str | None) -> None:
        self._settings = {"model": model, "api_base": address, "api_key": key}
        self._dialect = OpenAIChatLM(api_key="unused")

    async def complete(self, request: lm15.Request) -> lm15.Response:
        """Ask once. Raises lm15's errors."""
        litellm = await asyncio.shield(asyncio.wrap_future(_loading()))
        body = json.loads(self._dialect.build_request(request, stream=False).body)
        try:
            answer = await litellm.acompletion(**{**body, **self._settings}, num_retries=0, max_retries=0)
        except Exception as error:
            raise _as_lm15(error) from None
        headers = getattr(answer, "_hidden_params", {}).get("additional_headers") or {}
        last_request_id.set(next((headers[name] for name in _REQUEST_IDS if name in headers), None))
        reply = FORMS["openai-chat"].whole(answer.model_dump(exclude_none=True))
        return lm15.response_from_openai_chat(reply, model=request.model)

    async def stream(self, request: lm15.Request) -> AsyncIterator[lm15.StreamEvent]:
        for event in response_to_events(await self.complete(request)):
            yield event


@cache
def _loading() -> Future[Any]:
    """The module, or the error of its import."""
    loaded: Future[Any] = Future()
    loaded.set_running_or_notify_cancel()
    threading.Thread(target=_load, args=(loaded,), name="dspex-litellm", daemon=True).start()
    return loaded


def _load(loaded: Future[Any]) -> None:
    # It would fetch a list of models over the network while it is imported, and log prompts.
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    try:
        litellm: Any = import_module("litellm")
        litellm.telemetry = False
        litellm.suppress_debug_info = True
        litellm.turn_off_message_logging = True
    except BaseException as error:
        loaded.set_exception(error)
    else:
        loaded.set_result(litellm)


def _as_lm15(error: Exception) -> Exception:
    """LiteLLM's error as lm15's, with its evidence and without its text. Any other error stays as it is."""
    named = next((ERRORS[cls.__name__] for cls in type(error).__mro__ if cls.__name__ in ERRORS), None)
    if named is None:
        return error
    if is_context_overflow(str(error)):
        named = lm15.ContextLengthError
    body = getattr(error, "body", None)
    detail = body.get("error", body) if isinstance(body, dict) else {}
    code = detail.get("code") or detail.get("type") if isinstance(detail, dict) else None
    headers = {
        **(getattr(getattr(error, "response", None), "headers", None) or {}),
        **(getattr(error, "litellm_response_headers", None) or {}),
    }
    status = getattr(error, "status_code", None)
    translated: Exception = _BY_CODE.get(str(code), named)(
        "LiteLLM",
        provider=getattr(error, "llm_provider", None),
        provider_code=str(code) if code else None,
        request_id=next((headers[name] for name in _REQUEST_IDS if name in headers), None),
        retry_after=_seconds(headers.get("retry-after")),
        status=status if isinstance(status, int) else None,
    )
    return translated


def _seconds(value: object) -> float | None:
    try:
        return float(str(value))
    except ValueError:
        return None
