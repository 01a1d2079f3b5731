"""The engine behind the model calls of a run: it asks the program's endpoint, and counts usage and cost.

An engine belongs to one run and costs microseconds to make; connections and credentials are the endpoint's and shared.
Its callers keep no cache and make no retries. A call is replayed, or permitted, made, retried and stored by
:meth:`workers.lm.model_calls.ModelCalls.perform`: each try is recorded, and all of them are one entry in the journal.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import aiohttp
import lm15
from lm15 import Response
from lm15.serde import response_to_dict

from dspex.errors import DspexError, ModelError
from dspex.program.models import Model
from workers.adapters.contract import Answer, BatchAim, Estimate, Run, once
from workers.answers.candidates import AnswerReading
from workers.attempt.retry_policy import OUT_OF_REACH
from workers.lm.bundles.batch_target import batch_aim
from workers.lm.call_retries import CallRetries
from workers.lm.connect.endpoint import Endpoint
from workers.lm.connect.http_transport import extra_headers, last_request_id
from workers.lm.connect.request_media import refuse_untaken_media
from workers.lm.cost import cost_usd, estimate, is_usage_known, tokens
from workers.lm.exchange import Exchange, current_exchange
from workers.lm.flex_tier import ask_at_tier
from workers.lm.model_errors import clean_request_id, model_error
from workers.lm.replay import answer_text, request_hash
from workers.lm.replies.call_notes import CallNotes, current_notes
from workers.lm.replies.reply_fault import ReplyFault
from workers.lm.replies.schema_keywords import with_reduced_schema
from workers.lm.replies.tool_calls import refuse_broken_calls
from workers.lm.streamed_call import Preview, complete_streamed

__all__ = ["UPSTREAM", "RunEngine", "read_answer"]

# What an endpoint may raise for its own failures; anything else is a bug here, and is reported as one.
UPSTREAM = (lm15.LM15Error, aiohttp.ClientError, OSError, EOFError, ValueError, TypeError, LookupError, AttributeError)

#: A response, and what followers see of it.
_Answered = tuple[dict[str, Any], Preview | None]

#: A member of responses in the journal, beside lm15's: the provider did not say why the answer ended.
_END_UNKNOWN = "is_end_unknown"


class RunEngine:
    """The calls of one model in one run. ``was_cut``: the last answer ended at a limit of tokens.

    ``api_base`` is the address that the model is declared with: the program's, unless its code names another model.
    ``fallback`` make the engines of the models that are asked when the one before is out of reach; ``adapt`` turns a
    request to the first model into one to this model. ``declared`` is the model as the program declares it: without it,
    calls go through no batch API. ``refusal`` is why this model cannot be asked: its earlier answers are replayed all
    the same.
    """

    def __init__(
        self,
        run: Run,
        endpoint: Endpoint,
        api_base: str | None = None,
        headers: Sequence[tuple[str, str]] = (),
        *,
        fallback: Sequence[Callable[[], Awaitable[RunEngine]]] = (),
        adapt: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None,
        declared: Model | None = None,
        refusal: ModelError | None = None,
    ) -> None:
        self.run = run
        self.endpoint = endpoint
        self._api_base = api_base or run.program.api_base
        self._headers = headers
        self._fallback = fallback
        self._adapt = adapt
        self._declared = declared
        self._refusal = refusal
        self.was_cut = False
        #: Why the program was ended, whatever it made of that.
        self.failure: DspexError | None = None

    async def answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to a request, replayed or new. Both are in lm15's canonical form.

        Raises ModelError.
        """
        digest = request_hash(request, self._api_base)
        exchange = current_exchange.get()
        if exchange is not None:
            exchange.requests.append(digest)
        response, preview = await self._first_answer(digest, request, exchange)
        is_end_unknown = response.get(_END_UNKNOWN, False)
        self.was_cut = response["finish_reason"] == "length" and not is_end_unknown
        if exchange is not None:
            exchange.is_end_unknown = is_end_unknown
            self._read(exchange, preview, answer_text(response))
        return response

    async def _first_answer(self, digest: str, request: Mapping[str, Any], exchange: Exchange | None) -> _Answered:
        """The answer of the first model in reach.

        All of them are journaled as answers to the request to the first model, so that a later attempt replays what any
        of them answered. When none answers, raises an error that another attempt may not have, else the last.
        """
        try:
            return await self._perform(digest, request, exchange)
        except ModelError as error:
            if not self._fallback or error.code not in OUT_OF_REACH:
                raise
            errors = [error]
        for next_engine in self._fallback:
            try:
                engine = await next_engine()
                noted = {"instead_of": self.endpoint.model, "because": errors[0].code}
                return await engine._perform(digest, request, exchange, noted)
            except ModelError as error:
                errors.append(error)
                if error.code not in OUT_OF_REACH:
                    break
        raise next((error for error in errors if error.retryable), errors[-1])

    async def _perform(
        self,
        digest: str,
        request: Mapping[str, Any],
        exchange: Exchange | None,
        noted: Mapping[str, Any] = MappingProxyType({}),
    ) -> _Answered:
        """This model's answer, replayed or new; ``noted`` is recorded with a new one."""
        if self._adapt is not None:
            request = self._adapt(request)
        if self._refusal is None:
            refuse_untaken_media(request, model=self.endpoint.model, dialect=self.endpoint.route.definition.dialect)
        preview = Preview.of(self.run.stream, exchange)

        def ask(sent: Mapping[str, Any], tier: Mapping[str, Any]) -> Awaitable[Answer]:
            return self._ask(sent, preview, {**tier, **noted})

        response = await self.run.journal.perform(
            digest,
            self.endpoint.model,
            lambda: ask_at_tier(request, ask, self.run.route, self.endpoint),
            tries=CallRetries(self.run.deadline) if self._refusal is None else once,
            repair=exchange is not None and exchange.is_repair,
            estimate=lambda: Estimate(*estimate(request, self.endpoint.rates)),
            request=request,
            batch=self._batch_aim(),
        )
        return response, preview

    def _batch_aim(self) -> BatchAim | None:
        """How the calls reach a batch API, if they do. Raises ModelError."""
        route = self.run.route
        if route.kind != "batch" or self._declared is None or self.run.waits is None:
            return None
        return batch_aim(self.endpoint, self._declared, route)

    @property
    def cut_words(self) -> str:
        """Where the last answer was cut off, for the end of an error's text; empty if it was not."""
        most = self.run.program.max_tokens
        limit = f"max_tokens={most}" if most else "the provider's own limit of tokens"
        return f"; the answer was cut off at {limit}" if self.was_cut else ""

    def was_cut_before_answer(self, reading: AnswerReading) -> bool:
        """Whether the last answer used up its tokens before its first output, as a model that reasons at length does.
        After the repair, which may be longer, another attempt would pay for the same again."""
        return self.was_cut and not reading.is_found

    def _read(self, exchange: Exchange, preview: Preview | None, text: str) -> None:
        """Read an answer, and let followers see what it says."""
        exchange.was_cut = self.was_cut
        if exchange.expected is None:
            return
        reader = exchange.reader() if preview is None else preview.reader(text)
        if preview is None:
            reader.feed(text)
        exchange.readings[text] = reader.end(
            is_cut=self.was_cut,
            accepts_cut=self.run.program.on_cut == "accept",
            is_end_unknown=exchange.is_end_unknown,
        )

    async def _ask(self, request: Mapping[str, Any], preview: Preview | None, noted: Mapping[str, Any]) -> Answer:
        """Ask once: a call that is paid for. Raises the refusal of a model that cannot be asked."""
        if self._refusal is not None:
            raise self._refusal
        endpoint = self.endpoint
        last_request_id.set(None)
        notes = CallNotes()
        current_notes.set(notes)
        extra_headers.set(self._headers)
        try:
            response = await self._complete(request, preview, notes)
            refuse_broken_calls(response)
        except UPSTREAM as error:
            raise model_error(
                error,
                model=endpoint.model,
                address=notes.url or endpoint.address,
                key_variable=self.run.program.api_key_env if endpoint.model == self.run.program.model else None,
                longest_wait=endpoint.longest_wait,
            ) from None
        return await read_answer(endpoint, response, notes, noted)

    async def _complete(self, request: Mapping[str, Any], preview: Preview | None, notes: CallNotes) -> Response:
        """The reply to the request; to one with a simpler schema, if the server does not know all of its keywords."""
        refused = self.endpoint.refused_keywords
        reduced = refused.reduced(request)
        if reduced is None:
            try:
                return await self._send(request, preview)
            except ReplyFault as fault:
                reduced = with_reduced_schema(request) if fault.is_about_schema else None
                if reduced is None:
                    raise
            refused.add(reduced.keywords)
        notes.is_schema_reduced = True
        return await self._send(reduced.request, preview)

    async def _send(self, request: Mapping[str, Any], preview: Preview | None) -> Response:
        if preview is None:
            return await self.endpoint.complete(request)
        return await complete_streamed(self.endpoint, request, preview)


async def read_answer(
    endpoint: Endpoint, response: Response, notes: CallNotes, noted: Mapping[str, Any] = MappingProxyType({})
) -> Answer:
    """A response as it is stored, with its use and what it cost; ``noted`` is recorded with it."""
    provider = endpoint.route.provider
    prompt_tokens, completion_tokens = tokens(response, provider)
    notes.is_usage_unknown = not is_usage_known(response, provider)
    return Answer(
        response={**response_to_dict(response), **({_END_UNKNOWN: True} if notes.finish_reason else {})},
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        cost_usd=cost_usd(response, provider, await endpoint.rates_of(response.model)),
        request_id=_request_id(response),
        notes={**notes.as_data(), **noted},
    )


def _request_id(response: Response) -> str | None:
    return clean_request_id(last_request_id.get()) or clean_request_id(response.id)
