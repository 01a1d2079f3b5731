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
from dspex.store.lifecycle.budgets import wait_reservation
from dspex.store.lifecycle.lm_calls import BATCH, KEPT, TOOL, LMCall
from dspex.store.lifecycle.parked import ParkedCall, parked_place
from workers.adapters.contract import Answer, BatchAim, Estimate, ToolResult, Trail, Tries, once
from workers.attempt.retry_policy import Deferred
from workers.attempt.waiting.parking import Parking
from workers.lm.journal import AttemptJournal
from workers.lm.limits.permits import CallLimits
from workers.observe import metrics, tracing
from workers.observe.tracing.message_content import call_content, tool_content

__all__ = ["LATE", "ModelCalls"]

#: The code of the error of a call that a batch API has not answered in time.
LATE = "batch_late"

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
        parking: Parking | None = None,
        keeps: bool = True,
        keeps_requests: bool = False,
        shows_content: bool = False,
    ) -> None:
        self.deferral: Deferred | None = None
        self._journal = journal
        self._trail = trail
        self._limits = limits
        self._sealed = sealed
        self._parking = parking or Parking(_nothing)
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
        batch: BatchAim | None = None,
    ) -> dict[str, Any]:
        """Replay the answer if the journal has it; else ask, as often as ``tries`` allows, and store the answer. A call
        that goes through a batch API is waited for, and the program is left; so it is when a limit refuses the call,
        whatever the program would make of an error."""
        self._parking.refuse()
        with tracing.lm_call(model):
            digest = self._digest(request_hash)
            data: dict[str, Any] = {"request": digest.hex()[:16], **({"repair": True} if repair else {})}
            known = self._journal.find(digest)
            if known is not None:
                stored = self._stored(known)
                self._note_known(known, stored, data)
                return self._shown(request, _answer_of(stored))
            occurrence = self._journal.begin(digest)
            try:
                if batch is not None and request is not None:
                    await self._wait(digest, occurrence, model, request, batch, estimate)
                with self._parking.under_way():
                    answer, began_at = await tries(lambda: self._ask(model, call, estimate, data))
                    made = self._made(digest, occurrence, model, answer, began_at, request)
                    self._journal.add(made)
                    self._trail.record(
                        "lm_call", began_at=began_at, model=model, **_usage(made), **answer.notes, **data
                    )
                    metrics.lm_call_ended(made)
                    failpoint(AFTER_ANSWER)
                    if self._keeps:
                        await self._journal.store(made)
                    failpoint(AFTER_JOURNAL)
            except Deferred as deferral:
                self.deferral = deferral
                await self._parking.leave()
            return self._shown(request, answer.response)

    def _note_known(self, known: LMCall, stored: Mapping[str, Any], data: dict[str, Any]) -> None:
        """Record an answer that is not asked for: a replayed one; or one that came from a batch API since the last
        attempt, and is given to the program for the first time."""
        if BATCH in stored and known.attempt == self._journal.attempt - 1:
            self._trail.record("lm_call", model=known.model, batch=True, **_usage(known), **data)
            metrics.lm_call_ended(known)
            return
        self._trail.record("lm_call", model=known.model, replayed=True, **data)
        metrics.lm_call_replayed(known.model)

    async def _wait(
        self,
        digest: bytes,
        occurrence: int,
        model: str,
        request: Mapping[str, Any],
        batch: BatchAim,
        estimate: Callable[[], Estimate] | None,
    ) -> None:
        """Leave the program until the batch API has answered. Returns when the call is to be made the ordinary way, as
        the answer did not come in time. Raises the error that the provider returned."""
        wait = self._journal.wait_of(digest, occurrence)
        if wait is not None and wait.error is not None and wait.error_attempt == self._journal.attempt:
            error = DspexError.from_dict(wait.error)
            if error.code == LATE:
                if batch.falls_back:
                    return
                error.retryable = False
            self._trail.record("lm_call", model=model, batch=True, error=error.code, request=digest.hex()[:16])
            metrics.lm_call_failed(model, 0.0, error.code)
            raise error
        with self._parking.under_way():
            await self._reserve(digest, occurrence, model, estimate)
        text = _text({**request, KEPT: True} if self._keeps_requests else dict(request))
        if self._sealed is not None:
            text = self._sealed.response(text, parked_place(digest, occurrence))
        await self._parking.wait(
            ParkedCall(
                digest, occurrence, "batch", model, target=batch.target, request=text,
                expires_seconds=batch.within_seconds, again=wait is not None,
            )
        )  # fmt: skip

    async def _reserve(
        self, digest: bytes, occurrence: int, model: str, estimate: Callable[[], Estimate] | None
    ) -> None:
        """Reserve the cost of a call that is waited for. Raises Deferred when the budget has no room for it."""
        if self._limits is None:
            return
        execution_id = self._journal.execution_id
        id = wait_reservation(execution_id, digest, occurrence)
        await self._limits.reserve_for_wait(id, execution_id, model, estimate)

    def tool_result(self, digest: str, tool: str) -> ToolResult | None:
        """See :class:`workers.adapters.contract.Journal`."""
        known = self._journal.find_other(self._digest(digest))
        if known is None:
            return None
        stored = self._stored(known)
        self._trail.record("tool_call", tool=tool, ok="error" not in stored, replayed=True)
        return ToolResult(stored["result"], stored.get("error"))

    async def keep_tool_result(
        self, digest: str, tool: str, value: Any, began_at: datetime, arguments: Mapping[str, Any] | None = None,
        *, error: Mapping[str, str] | None = None, always: bool = False,
    ) -> None:  # fmt: skip
        """See :class:`workers.adapters.contract.Journal`."""
        hashed = self._digest(digest)
        occurrence = self._journal.begin(hashed)
        answer = Answer({"result": value} if error is None else {"result": None, "error": dict(error)})
        made = self._made(hashed, occurrence, f"{TOOL}{tool}", answer, began_at, arguments)
        self._journal.add(made)
        if self._keeps or always:
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
        async with self._limits.permit(model, estimate) as permitted:
            answer, began_at = await self._try(model, call, data)
            permitted.answered(answer)
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

    def _stored(self, call: LMCall) -> dict[str, Any]:
        sealed = self._sealed
        stored: dict[str, Any] = (
            json.loads(call.response) if sealed is None else sealed.open_response(call.response, call.place)
        )
        return stored

    def _made(
        self, digest: bytes, occurrence: int, model: str, answer: Answer, began_at: datetime,
        request: Mapping[str, Any] | None,
    ) -> LMCall:  # fmt: skip
        made = LMCall(
            execution_id=self._journal.execution_id,
            request_hash=digest,
            occurrence=occurrence,
            attempt=self._journal.attempt,
            model=model,
            response=_text(answer.response),
            prompt_tokens=answer.prompt_tokens,
            completion_tokens=answer.completion_tokens,
            cost_usd=answer.cost_usd,
            duration_ms=(self._trail.now() - began_at).total_seconds() * 1000,
            request_id=answer.request_id,
            request=_text(request) if self._keeps_requests and request is not None else None,
        )
        if self._sealed is None:
            return made
        asked = made.request and self._sealed.request(made.request, made.place)
        return replace(made, response=self._sealed.response(made.response, made.place), request=asked)


def _nothing() -> None:
    """Outside of a worker nothing is parked."""


def _answer_of(stored: Mapping[str, Any]) -> dict[str, Any]:
    """The response without what DSPex keeps with it."""
    return {name: value for name, value in stored.items() if name != BATCH}


def _usage(call: LMCall) -> dict[str, Any]:
    names = ("prompt_tokens", "completion_tokens", "cost_usd", "request_id")
    return {name: getattr(call, name) for name in names}


def _text(content: Mapping[str, Any]) -> str:
    """A response or request as JSON, all ASCII if it has half of a surrogate pair, which UTF-8 cannot encode."""
    text = json.dumps(content, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(content)
    return text
