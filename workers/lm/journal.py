"""The journal: every finished model call is stored as it returns, and never paid for twice."""

from __future__ import annotations

import json
import time
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID

from dspex.errors import DspexError
from dspex.sealing.values import SealedAttempt
from dspex.settings.failpoints import AFTER_ANSWER, AFTER_JOURNAL, failpoint
from dspex.store.lifecycle.lm_calls import LMCall
from workers.adapters.contract import Answer, Estimate, ModelUse, Tries, once
from workers.attempt.attempt_trail import AttemptTrail
from workers.attempt.retry_policy import Deferred
from workers.lm.limits.permits import CallLimits
from workers.observe import metrics, tracing

__all__ = ["AttemptJournal", "CallStore"]


class CallStore(Protocol):
    """Where calls are kept: each method returns once it is committed."""

    async def store_call(self, call: LMCall) -> None: ...

    async def reject_calls(self, execution_id: UUID, attempt: int, request_hashes: Sequence[bytes]) -> None: ...


class AttemptJournal:
    """The journal of one attempt.

    The n-th request with one hash is given the n-th answer to it that is known and was not rejected, so the calls of
    a program may come in any order, and equal ones at once. ``keeps`` says whether answers are stored.
    """

    def __init__(self, execution_id: UUID, attempt: int, trail: AttemptTrail, store: CallStore) -> None:
        self.keeps = True
        self.replayed = 0
        #: How answers, and what else is stored of the attempt, are sealed, if they are; set by the host.
        self.sealed: SealedAttempt | None = None
        #: What the calls obey, and why one of them may not be made now; set by the host.
        self.limits: CallLimits | None = None
        self.deferred: Deferred | None = None
        self._execution_id = execution_id
        self._attempt = attempt
        self._trail = trail
        self._store = store
        self._known: defaultdict[bytes, deque[LMCall]] = defaultdict(deque)
        # Numbers are given as calls begin, so that a replay keeps their order; a call that fails leaves a gap.
        self._next: defaultdict[bytes, int] = defaultdict(int)
        self._calls: list[LMCall] = []
        self._given: set[bytes] = set()
        self._faulty: set[bytes] = set()
        self._blamed: set[bytes] = set()

    def recall(self, earlier: Iterable[LMCall]) -> None:
        """Know the calls of earlier attempts, in order of their occurrence."""
        for call in earlier:
            self._calls.append(call)
            self._next[call.request_hash] = call.occurrence + 1
            if not call.rejected:
                self._known[call.request_hash].append(call)

    async def perform(
        self,
        request_hash: str,
        model: str,
        call: Callable[[], Awaitable[Answer]],
        *,
        tries: Tries = once,
        repair: bool = False,
        estimate: Callable[[], Estimate] | None = None,
    ) -> dict[str, Any]:
        """See :class:`workers.adapters.contract.Journal`."""
        with tracing.lm_call(model):
            return await self._perform(request_hash, model, call, tries, repair, estimate)

    async def _perform(
        self,
        request_hash: str,
        model: str,
        call: Callable[[], Awaitable[Answer]],
        tries: Tries,
        repair: bool,
        estimate: Callable[[], Estimate] | None,
    ) -> dict[str, Any]:
        digest = self._digest(request_hash)
        noted: dict[str, Any] = {"request": digest.hex()[:16], **({"repair": True} if repair else {})}
        self._given.add(digest)
        if waiting := self._known[digest]:
            known = waiting.popleft()
            self.replayed += 1
            metrics.lm_call_replayed(known.model)
            self._trail.record("lm_call", model=known.model, replayed=True, **noted)
            return self._response(known)
        occurrence = self._next[digest]
        self._next[digest] += 1

        async def a_try() -> tuple[Answer, datetime]:
            began_at = self._trail.now()
            began = time.monotonic()
            try:
                return await call(), began_at
            except DspexError as error:
                told = {"error": error.code, "request_id": error.details.get("request_id")}
                self._trail.record("lm_call", began_at=began_at, model=model, **told, **noted)
                metrics.lm_call_failed(model, time.monotonic() - began, error.code)
                raise

        async def when_allowed() -> tuple[Answer, datetime]:
            try:
                return await self.limits.during(model, estimate, a_try) if self.limits else await a_try()
            except Deferred as error:
                self.deferred = error
                raise

        answer, began_at = await tries(when_allowed)
        made = self._made(digest, occurrence, model, answer, began_at)
        self._calls.append(made)
        self._trail.record("lm_call", began_at=began_at, model=model, **_usage(made), **noted)
        metrics.lm_call_ended(made)
        failpoint(AFTER_ANSWER)
        if self.keeps:
            await self._store.store_call(made)
        failpoint(AFTER_JOURNAL)
        return answer.response

    def reject(self, request_hashes: Collection[str]) -> None:
        """See :class:`workers.adapters.contract.Journal`."""
        self._faulty.update(map(self._digest, request_hashes))

    def blame(self) -> None:
        """An adapter failed for the answers it was given since the last blame: for those it rejected, if any."""
        self._blamed |= self._faulty or self._given
        self._faulty, self._given = set(), set()

    async def discard(self) -> None:
        """The attempt fails, and its answers are to blame: those that are will never be replayed."""
        if self._blamed and self.keeps:
            await self._store.reject_calls(self._execution_id, self._attempt, sorted(self._blamed))

    def model_use(self) -> ModelUse:
        """What this attempt's own calls took."""
        made = [call for call in self._calls if call.attempt == self._attempt]
        return ModelUse(len(made), sum(call.duration_ms for call in made) / 1000)

    def totals(self) -> dict[str, Any]:
        """What the execution's calls took in all attempts together; replays only under their own name."""
        costs = [call.cost_usd for call in self._calls if call.cost_usd is not None]
        return {
            "lm_calls": len(self._calls),
            "prompt_tokens": sum(call.prompt_tokens for call in self._calls),
            "completion_tokens": sum(call.completion_tokens for call in self._calls),
            "cost_usd": sum(costs) if costs else None,
            "replayed_lm_calls": self.replayed,
        }

    def _digest(self, request_hash: str) -> bytes:
        digest = bytes.fromhex(request_hash)
        return digest if self.sealed is None else self.sealed.digest(digest)

    def _response(self, call: LMCall) -> dict[str, Any]:
        if self.sealed is None:
            return dict(json.loads(call.response))
        return self.sealed.open_response(call.response, call.place)

    def _made(self, digest: bytes, occurrence: int, model: str, answer: Answer, began_at: datetime) -> LMCall:
        made = LMCall(
            execution_id=self._execution_id,
            request_hash=digest,
            occurrence=occurrence,
            attempt=self._attempt,
            model=model,
            response=_text(answer.response),
            prompt_tokens=answer.prompt_tokens,
            completion_tokens=answer.completion_tokens,
            cost_usd=answer.cost_usd,
            duration_ms=(self._trail.now() - began_at).total_seconds() * 1000,
            request_id=answer.request_id,
        )
        return made if self.sealed is None else replace(made, response=self.sealed.response(made.response, made.place))


def _usage(call: LMCall) -> dict[str, Any]:
    names = ("prompt_tokens", "completion_tokens", "cost_usd", "request_id")
    return {name: getattr(call, name) for name in names}


def _text(response: dict[str, Any]) -> str:
    """The response as JSON, all ASCII if it has half of a surrogate pair, which is no UTF-8."""
    text = json.dumps(response, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(response)
    return text
