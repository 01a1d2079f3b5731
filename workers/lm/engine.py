"""The engine behind every model call of a run: journal, endpoint, transient retries, usage and cost.

An engine belongs to one run and costs microseconds to make; what is dear (connections, credentials) is the
endpoint's and shared. Whoever calls it keeps no cache and makes no retries: the journal replays, and we retry, each
try on record and all of them one entry in the journal.
"""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

import aiohttp
import lm15
from lm15.serde import response_to_dict
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception

from dspex.errors import ModelError
from workers.adapters.contract import Answer, Estimate, Run
from workers.attempt.retry_policy import PATIENCE_SECONDS, WITHIN_ATTEMPT, backoff_seconds, is_transient
from workers.lm.cost import cost_usd, estimate, tokens
from workers.lm.endpoint import Endpoint
from workers.lm.exchange import current_exchange
from workers.lm.http_transport import last_request_id
from workers.lm.model_errors import clean_request_id, model_error
from workers.lm.replay import request_hash
from workers.lm.streamed_call import Preview, complete_streamed

__all__ = ["RunEngine"]

T = TypeVar("T")

# What an endpoint may raise for its own failures; anything else is a bug here, and is reported as one.
_UPSTREAM = (lm15.LM15Error, aiohttp.ClientError, OSError, EOFError, ValueError, TypeError, LookupError, AttributeError)


class RunEngine:
    """The model calls of one run. ``was_cut``: the last answer ended at a limit of tokens."""

    def __init__(self, run: Run, endpoint: Endpoint) -> None:
        self.run = run
        self.endpoint = endpoint
        self.was_cut = False

    async def answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Answer from the journal, or ask the endpoint and journal what it says. Both in lm15's canonical form.

        Raises ModelError.
        """
        digest = request_hash(request, self.run.program.api_base)
        exchange = current_exchange.get()
        if exchange is not None:
            exchange.requests.append(digest)
        preview = Preview.of(self.run.stream, exchange)
        response = await self.run.journal.perform(
            digest,
            self.endpoint.model,
            lambda: self._ask(request, preview),
            tries=self._patiently,
            repair=exchange is not None and exchange.is_repair,
            estimate=lambda: Estimate(*estimate(request, self.endpoint.rates)),
        )
        if preview is not None:
            preview.end(response)
        self.was_cut = response["finish_reason"] == "length"
        return response

    async def _patiently(self, call: Callable[[], Awaitable[T]], /) -> T:
        """What the call returns, made again when what is in the way passes by itself, and soon:
        workers/attempt/retry_policy.py."""
        async for attempt in AsyncRetrying(
            retry=retry_if_exception(is_transient), wait=_pause, stop=self._gives_up, reraise=True
        ):
            with attempt:
                answer = await call()
        return answer

    def _gives_up(self, tries: RetryCallState) -> bool:
        """Whether it was tried often enough, or the pause would hold the slot for long, or outlast the attempt."""
        patience = min(PATIENCE_SECONDS, self.run.deadline - time.monotonic())
        return tries.attempt_number >= WITHIN_ATTEMPT.max_attempts or tries.upcoming_sleep > patience

    async def _ask(self, request: Mapping[str, Any], preview: Preview | None) -> Answer:
        """Ask once: a call that is paid for."""
        endpoint = self.endpoint
        last_request_id.set(None)
        try:
            if preview is None:
                response = await endpoint.complete(request)
            else:
                response = await complete_streamed(endpoint, request, preview)
        except _UPSTREAM as error:
            raise model_error(error, model=endpoint.model, address=endpoint.address) from None
        if why := _withheld(response):
            raise ModelError(
                f"model {endpoint.model!r}: {why}",
                code="content_filtered",
                retryable=False,
                model=endpoint.model,
                request_id=_request_id(response),
            )
        provider = endpoint.route.provider
        prompt_tokens, completion_tokens = tokens(response, provider)
        return Answer(
            response=response_to_dict(response),
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
            cost_usd=cost_usd(response, provider, await endpoint.rates_of(response.model)),
            request_id=_request_id(response),
        )


def _pause(tries: RetryCallState) -> float:
    error = tries.outcome.exception() if tries.outcome else None
    assert isinstance(error, ModelError)  # nothing else is transient
    chance = random.random()  # noqa: S311
    return backoff_seconds(error, attempt=tries.attempt_number, retry=WITHIN_ATTEMPT, chance=chance)


def _withheld(response: lm15.Response) -> str | None:
    """Why there is no answer, if the provider or the model would not give one."""
    if response.finish_reason == "content_filter":
        return "the provider's content filter withheld the answer"
    if any(isinstance(part, lm15.RefusalPart) for part in response.message.parts):
        return "the model refused to answer"  # OpenAI's, with structured outputs
    return None


def _request_id(response: lm15.Response) -> str | None:
    return clean_request_id(last_request_id.get()) or clean_request_id(response.id)
