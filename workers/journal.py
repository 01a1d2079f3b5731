"""The journal: every finished model call is stored as it returns, and never paid for twice."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Protocol
from uuid import UUID

from dspex.errors import DspexError
from dspex.failpoints import AFTER_ANSWER, AFTER_JOURNAL, failpoint
from dspex.store.lm_calls import LMCall
from workers.run import Answer
from workers.trail import AttemptTrail

__all__ = ["AttemptJournal", "StoreCall"]


class StoreCall(Protocol):
    async def __call__(self, call: LMCall) -> None: ...


class AttemptJournal:
    """The journal of one attempt.

    ``earlier`` are the calls of earlier attempts; they are replayed if ``replay``. The n-th request with one hash
    gets the n-th answer to it, so the calls of a program may come in any order.
    """

    def __init__(
        self,
        execution_id: UUID,
        attempt: int,
        trail: AttemptTrail,
        store: StoreCall,
        earlier: Sequence[LMCall] = (),
        *,
        replay: bool = True,
    ) -> None:
        self._execution_id = execution_id
        self._attempt = attempt
        self._trail = trail
        self._store = store
        self._earlier = {(call.request_hash, call.occurrence): call for call in earlier} if replay else {}
        # Without replay new answers are numbered after the stored ones.
        self._seen: Counter[bytes] = Counter() if replay else Counter(call.request_hash for call in earlier)
        self._calls = list(earlier)
        self.replayed = 0

    async def perform(self, request_hash: str, model: str, call: Callable[[], Awaitable[Answer]]) -> dict[str, Any]:
        """See :class:`workers.run.Journal`."""
        digest = bytes.fromhex(request_hash)
        occurrence = self._seen[digest]
        self._seen[digest] += 1
        began_at = self._trail.now()
        if (known := self._earlier.get((digest, occurrence))) is not None:
            self.replayed += 1
            self._trail.record(
                "lm_call", began_at=began_at, model=known.model, replayed=True, request=request_hash[:16]
            )
            return dict(json.loads(known.response))
        try:
            answer = await call()
        except DspexError as error:
            self._trail.record("lm_call", began_at=began_at, model=model, error=error.code, request=request_hash[:16])
            raise
        made = self._made(digest, occurrence, model, answer, began_at)
        failpoint(AFTER_ANSWER)
        await self._store(made)
        failpoint(AFTER_JOURNAL)
        self._calls.append(made)
        return answer.response

    def totals(self) -> dict[str, Any]:
        """What the execution's calls took in all attempts together; replays only under their own name."""
        costs = [call.cost_usd for call in self._calls if call.cost_usd is not None]
        return {
            "lm_calls": len(self._calls),
            "prompt_tokens": _total(call.prompt_tokens for call in self._calls),
            "completion_tokens": _total(call.completion_tokens for call in self._calls),
            "cost_usd": sum(costs) if costs else None,
            "replayed_lm_calls": self.replayed,
        }

    def _made(self, digest: bytes, occurrence: int, model: str, answer: Answer, began_at: Any) -> LMCall:
        duration_ms = (self._trail.now() - began_at).total_seconds() * 1000
        self._trail.record(
            "lm_call",
            began_at=began_at,
            model=model,
            prompt_tokens=answer.prompt_tokens,
            completion_tokens=answer.completion_tokens,
            cost_usd=answer.cost_usd,
            request=digest.hex()[:16],
            request_id=answer.request_id,
        )
        return LMCall(
            execution_id=self._execution_id,
            request_hash=digest,
            occurrence=occurrence,
            attempt=self._attempt,
            model=model,
            response=json.dumps(answer.response, ensure_ascii=False),
            prompt_tokens=answer.prompt_tokens,
            completion_tokens=answer.completion_tokens,
            cost_usd=answer.cost_usd,
            duration_ms=duration_ms,
            request_id=answer.request_id,
        )


def _total(values: Iterable[int]) -> int:
    return sum(values)
