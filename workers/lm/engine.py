"""The engine that DSPy calls for every model call of a run: journal, endpoint, usage and cost.

An engine belongs to one run and costs microseconds to make; what is dear (connections, credentials) is the
endpoint's and shared. DSPy's cache and its retries are off: the journal replays, and we retry, each try on record and
all of them one entry in the journal.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import aiohttp
from dspy import lm15
from dspy.clients.lm import LM
from dspy.lm15 import Request, Response
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception

from dspex.errors import ModelError
from workers.lm.cost import cost_usd, tokens
from workers.lm.endpoint import Endpoint
from workers.lm.errors import clean_request_id, model_error
from workers.lm.exchange import current_exchange
from workers.lm.replay import request_hash, response_from_dict, response_to_dict
from workers.lm.transport import last_request_id
from workers.outcome import PATIENCE_SECONDS, WITHIN_ATTEMPT, backoff_seconds, is_transient
from workers.run import Answer, Run

__all__ = ["BlockingEngine", "RunEngine", "run_lm"]

T = TypeVar("T")

# What an endpoint may raise for its own failures; anything else is a bug here, and DSPy reports it as one.
_UPSTREAM = (lm15.LM15Error, aiohttp.ClientError, OSError, EOFError, ValueError, TypeError, LookupError, AttributeError)


class RunEngine:
    """DSPy's asynchronous engine for one run. ``was_cut``: the last answer ended at a limit of tokens."""

    def __init__(self, run: Run, endpoint: Endpoint) -> None:
        self.run = run
        self.endpoint = endpoint
        self.was_cut = False

    async def complete(self, request: Request) -> Response:
        """Answer from the journal, or ask the endpoint and journal what it says.

        Raises ContextLengthError, which DSPy's agents handle by shortening their history, and ModelError.
        """
        digest = request_hash(request, self.run.program.api_base)
        exchange = current_exchange.get()
        if exchange is not None:
            exchange.requests.append(digest)
        try:
            answer = await self.run.journal.perform(
                digest,
                self.endpoint.model,
                lambda: self._ask(request),
                tries=self._patiently,
                repair=exchange is not None and exchange.is_repair,
            )
        except ModelError as error:
            if error.code == "context_window_exceeded":
                raise lm15.ContextLengthError(str(error)) from error
            raise
        response = response_from_dict(answer)
        self.was_cut = response.finish_reason == "length"
        return response

    async def _patiently(self, call: Callable[[], Awaitable[T]], /) -> T:
        """What the call returns, made again when what is in the way passes by itself, and soon: workers/outcome.py."""
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

    async def _ask(self, request: Request) -> Answer:
        """Ask once: a call that is paid for."""
        endpoint = self.endpoint
        last_request_id.set(None)
        try:
            response = await endpoint.complete(request)
        except _UPSTREAM as error:
            raise model_error(error, model=endpoint.model, address=endpoint.address) from None
        if response.finish_reason == "content_filter":
            raise ModelError(
                f"model {endpoint.model!r}: the provider's content filter withheld the answer",
                code="content_filtered",
                retryable=False,
                model=endpoint.model,
                request_id=_request_id(response),
            )
        return _answer(endpoint, request, response)


class BlockingEngine:
    """DSPy's synchronous engine for one run: for modules that run in a thread, answered on the worker's loop."""

    def __init__(self, engine: RunEngine) -> None:
        self._engine = engine
        self._loop = asyncio.get_running_loop()
        # DSPy reads what the endpoint can do from its engine.
        self.supported_params = engine.endpoint.supported_params
        self.supports_response_schema = engine.endpoint.supports_response_schema
        self.supports_function_calling = engine.endpoint.supports_function_calling
        self.supports_reasoning = engine.endpoint.supports_reasoning

    def complete(self, request: Request) -> Response:
        """Raises RuntimeError on the loop's own thread, which would wait for itself: use ``acall`` there."""
        if _running_loop() is self._loop:
            raise RuntimeError("a synchronous model call on the worker's event loop: call the module with acall()")
        return asyncio.run_coroutine_threadsafe(self._engine.complete(request), self._loop).result()


def run_lm(engine: RunEngine) -> LM:
    """The ``dspy.LM`` of one run. Raises DSPy's LMConfigurationError for settings the model cannot take."""
    program = engine.run.program
    return LM(
        engine.endpoint.model,
        engine=BlockingEngine(engine),
        async_engine=engine,
        temperature=program.temperature,
        max_tokens=program.max_tokens,
        cache=False,
        num_retries=0,
    )


def _pause(tries: RetryCallState) -> float:
    error = tries.outcome.exception() if tries.outcome else None
    assert isinstance(error, ModelError)  # nothing else is transient
    chance = random.random()  # noqa: S311
    return backoff_seconds(error, attempt=tries.attempt_number, retry=WITHIN_ATTEMPT, chance=chance)


def _answer(endpoint: Endpoint, request: Request, response: Response) -> Answer:
    prompt_tokens, completion_tokens = tokens(response, endpoint.provider)
    cost: float | None = None
    if endpoint.is_priced:
        cost = cost_usd(response, request, provider=endpoint.provider, model=endpoint.wire_model)
    return Answer(
        response=response_to_dict(response),
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        cost_usd=cost,
        request_id=_request_id(response),
    )


def _request_id(response: Response) -> str | None:
    return clean_request_id(last_request_id.get()) or clean_request_id(response.id)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
