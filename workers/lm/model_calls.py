"""A model call, from the request to the stored answer: what an adapter is given as ``run.journal``.

Apart from ``engine.py``, so that a worker whose adapters do not use the engine never imports lm15.
"""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from dspex.errors import DspexError
from dspex.sealing.values import SealedAttempt
from dspex.settings.failpoints import AFTER_ANSWER, AFTER_JOURNAL, failpoint
from dspex.store.lifecycle.lm_calls import REQUEST, TOOL, LMCall
from workers.adapters.contract import Answer, Estimate, ToolResult, Trail, Tries, once
from workers.attempt.retry_policy import Deferred
from workers.lm.journal import AttemptJournal
from workers.lm.limits.permits import CallLimits
from workers.observe import metrics, tracing
from workers.observe.tracing.message_content import call_content, tool_content

__all__ = ["ModelCalls"]

Call = Callable[[], Awaitable[Answer]]
#: An answer, and when its call began.
TimedAnswer = tuple[Answer, datetime]


class ModelCalls:
    """The model calls of one attempt: see :class:`workers.adapters.contract.Journal`.

    ``keeps``: whether answers are stored, ``keeps_requests``: with their requests; ``shows_content``: whether traces
    may have both. ``deferral`` is set once a limit has refused a call.
    """

    def __init__(
        self,
        journal: AttemptJournal,
        trail: Trail,
        *,
        limits: CallLimits | None = None,
        sealed: SealedAttempt | None = None,
        keeps: bool = True,
        keeps_requests: bool = False,
        shows_content: bool = False,
    ) -> None:
        self.deferral: Deferred | None = None
        self._journal = journal
        self._trail = trail
        self._limits = limits
        self._sealed = sealed
        self._keeps = keeps
        self._keeps_requests = keeps_requests
        self._shows_content = shows_content

    async def perform(
        self,
        request_hash: str,
        model: str,
        call: Call,
        *,
        tries: Tries = once,
        repair: bool = False,
        estimate: Callable[[], Estimate] | None = None,
        request: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Replay the answer if the journal has it; else ask, as often as ``tries`` allows, and store the answer."""
        with tracing.lm_call(model):
            digest = self._digest(request_hash)
            data: dict[str, Any] = {"request": digest.hex()[:16], **({"repair": True} if repair else {})}
            known = self._journal.find(digest)
            if known is not None:
                self._trail.record("lm_call", model=known.model, replayed=True, **data)
                metrics.lm_call_replayed(known.model)
                return self._shown(request, self._response(known))
            occurrence = self._journal.begin(digest)
            answer, began_at = await tries(lambda: self._ask(model, call, estimate, data))
            made = self._made(digest, occurrence, model, answer, began_at, request)
            self._journal.add(made)
            self._trail.record("lm_call", began_at=began_at, model=model, **_usage(made), **answer.notes, **data)
            metrics.lm_call_ended(made)
            failpoint(AFTER_ANSWER)
            if self._keeps:
                await self._journal.store(made)
            failpoint(AFTER_JOURNAL)
            return self._shown(request, answer.response)

    def tool_result(self, digest: str, tool: str) -> ToolResult | None:
        """See :class:`workers.adapters.contract.Journal`."""
        known = self._journal.find_tool(self._digest(digest))
        if known is None:
            return None
        self._trail.record("tool_call", tool=tool, ok=True, replayed=True)
        return ToolResult(self._response(known)["result"])

    async def keep_tool_result(
        self, digest: str, tool: str, value: Any, began_at: datetime, arguments: Mapping[str, Any] | None = None
    ) -> None:
        """See :class:`workers.adapters.contract.Journal`."""
        hashed = self._digest(digest)
        occurrence = self._journal.begin(hashed)
        made = self._made(hashed, occurrence, f"{TOOL}{tool}", Answer({"result": value}), began_at, arguments)
        self._journal.add(made)
        if self._keeps:
            await self._journal.store(made)

    def rewind(self) -> None:
        """See :class:`workers.adapters.contract.Journal`."""
        self._journal.rewind()

    def show_tool(self, arguments: Mapping[str, Any], result: Any) -> None:
        """See :class:`workers.adapters.contract.Journal`."""
        if self._shows_content:
            tracing.add_content(lambda: tool_content(arguments, result))

    def reject(self, request_hashes: Collection[str]) -> None:
        """See :class:`workers.adapters.contract.Journal`."""
        self._journal.reject(map(self._digest, request_hashes))

    async def _ask(
        self, model: str, call: Call, estimate: Callable[[], Estimate] | None, data: dict[str, Any]
    ) -> TimedAnswer:
        """One try, made once the limits permit it and the budget has room for it. Raises Deferred when they do not."""
        if self._limits is None:
            return await self._try(model, call, data)
        try:
            async with self._limits.permit(model, estimate) as permitted:
                answer, began_at = await self._try(model, call, data)
                permitted.answered(answer)
        except Deferred as error:
            self.deferral = error
            raise
        return answer, began_at

    async def _try(self, model: str, call: Call, data: dict[str, Any]) -> TimedAnswer:
        """Make the call; one that fails is recorded."""
        began_at = self._trail.now()
        began = time.monotonic()
        try:
            return await call(), began_at
        except DspexError as error:
            failure = {"error": error.code, "request_id": error.details.get("request_id")}
            self._trail.record("lm_call", began_at=began_at, model=model, **failure, **data)
            metrics.lm_call_failed(model, time.monotonic() - began, error.code)
            raise

    def _shown(self, request: Mapping[str, Any] | None, response: dict[str, Any]) -> dict[str, Any]:
        if self._shows_content:
            tracing.add_content(lambda: call_content(request, response))
        return response

    def _digest(self, request_hash: str) -> bytes:
        digest = bytes.fromhex(request_hash)
        return digest if self._sealed is None else self._sealed.digest(digest)

    def _response(self, call: LMCall) -> dict[str, Any]:
        sealed = self._sealed
        stored = json.loads(call.response) if sealed is None else sealed.open_response(call.response, call.place)
        return {name: value for name, value in stored.items() if name != REQUEST}

    def _made(
        self, digest: bytes, occurrence: int, model: str, answer: Answer, began_at: datetime,
        request: Mapping[str, Any] | None,
    ) -> LMCall:  # fmt: skip
        kept = {REQUEST: request} if self._keeps_requests and request is not None else {}
        made = LMCall(
            execution_id=self._journal.execution_id,
            request_hash=digest,
            occurrence=occurrence,
            attempt=self._journal.attempt,
            model=model,
            response=_text({**answer.response, **kept} if kept else answer.response),
            prompt_tokens=answer.prompt_tokens,
            completion_tokens=answer.completion_tokens,
            cost_usd=answer.cost_usd,
            duration_ms=(self._trail.now() - began_at).total_seconds() * 1000,
            request_id=answer.request_id,
        )
        if self._sealed is None:
            return made
        return replace(made, response=self._sealed.response(made.response, made.place))


def _usage(call: LMCall) -> dict[str, Any]:
    names = ("prompt_tokens", "completion_tokens", "cost_usd", "request_id")
    return {name: getattr(call, name) for name in names}


def _text(response: dict[str, Any]) -> str:
    """The response as JSON, all ASCII if it has half of a surrogate pair, which cannot be encoded as UTF-8."""
    text = json.dumps(response, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(response)
    return text
