"""The journal: each finished model call is stored as it returns, and found by later attempts, which do not pay again.

It finds and stores, and calls nothing: :mod:`workers.lm.model_calls` makes the calls.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, Protocol
from uuid import UUID

from dspex.store.lifecycle.lm_calls import LMCall
from dspex.store.lifecycle.parked import KnownCall
from workers.adapters.contract import ModelUse

__all__ = ["AttemptJournal", "CallStore"]


class CallStore(Protocol):
    """Where calls are kept: each method returns once its change is committed."""

    async def store_call(self, call: LMCall) -> None: ...

    async def reject_calls(self, execution_id: UUID, attempt: int, request_hashes: Sequence[bytes]) -> None: ...

    async def earlier_use(self, execution_id: UUID, attempt: int) -> Sequence[LMCall]:
        """The calls of the attempts before this one, without their answers."""


class AttemptJournal:
    """The journal of one attempt.

    The n-th request with one hash finds the n-th answer to it that is known and was not rejected. So the calls of a
    program may come in any order, and equal ones at the same time.
    """

    def __init__(self, execution_id: UUID, attempt: int, store: CallStore) -> None:
        self.execution_id = execution_id
        self.attempt = attempt
        self.replayed = 0
        self._store = store
        self._known: defaultdict[bytes, deque[LMCall]] = defaultdict(deque)
        # Numbers are given as calls begin, so that a replay keeps their order; a call that fails leaves a gap.
        self._next: defaultdict[bytes, int] = defaultdict(int)
        self._calls: list[LMCall] = []
        #: The calls that earlier attempts waited for and that have no answer: all, and those not asked for again.
        self._waits: list[KnownCall] = []
        self._unasked: defaultdict[bytes, deque[KnownCall]] = defaultdict(deque)
        self._current: dict[tuple[bytes, int], KnownCall] = {}
        self._lent: list[LMCall] = []
        self._borrowed: list[LMCall] = []
        self._given: set[bytes] = set()
        self._faulty: set[bytes] = set()
        self._blamed: set[bytes] = set()

    def lend(self, calls: Iterable[LMCall]) -> None:
        """Add the calls of another execution, whose answers are given to equal requests first: they were paid for
        there."""
        self._lent = [replace(call, attempt=0) for call in calls if not call.rejected]
        own, self._known = self._known, defaultdict(deque)
        self._know(self._lent)
        for request_hash, known in own.items():
            self._known[request_hash].extend(known)

    def recall(self, earlier: Iterable[LMCall]) -> None:
        """Add the calls of earlier attempts, in the order in which they are replayed."""
        for call in earlier:
            self._calls.append(call)
            self._next[call.request_hash] = max(self._next[call.request_hash], call.occurrence + 1)
            self._know([call])

    def recall_waits(self, waits: Iterable[KnownCall]) -> None:
        """Add the calls that earlier attempts waited for, and that are not answered."""
        for wait in waits:
            self._waits.append(wait)
            self._unasked[wait.request_hash].append(wait)
            self._next[wait.request_hash] = max(self._next[wait.request_hash], wait.occurrence + 1)

    def wait_of(self, request_hash: bytes, occurrence: int) -> KnownCall | None:
        """The wait of an earlier attempt for the call that was begun with this number, if there was one."""
        return self._current.get((request_hash, occurrence))

    @property
    def unused(self) -> int:
        """How many answers of models this attempt has not asked for."""
        return sum(call.is_of_model for calls in self._known.values() for call in calls)

    @property
    def unused_attempts(self) -> int:
        """How many attempts were given answers of models that this one has not asked for."""
        return len({call.attempt for calls in self._known.values() for call in calls if call.is_of_model})

    def find(self, request_hash: bytes) -> LMCall | None:
        """The call to replay for this request; None when it has to be made."""
        self._given.add(request_hash)
        waiting = self._known.get(request_hash)
        if not waiting:
            return None
        call = waiting.popleft()
        self.replayed += call.attempt < self.attempt
        if not call.attempt:
            self._borrowed.append(call)
        return call

    def find_other(self, digest: bytes) -> LMCall | None:
        """The entry to replay that is no model's: a tool's result, for example. A bad answer is no fault of it."""
        waiting = self._known.get(digest)
        return waiting.popleft() if waiting else None

    def rewind(self) -> None:
        """The program begins again: what is known, and what this attempt has asked, is found again in its order."""
        self._known.clear()
        self._unasked.clear()
        for wait in self._waits:
            self._unasked[wait.request_hash].append(wait)
        self.replayed = 0
        self._borrowed = []
        self._know([*self._lent, *self._calls])

    def _know(self, calls: Iterable[LMCall]) -> None:
        for call in calls:
            if not call.rejected:
                self._known[call.request_hash].append(call)

    def begin(self, request_hash: bytes) -> int:
        """Number a call that is about to be made: its occurrence. A call that was waited for has its number already."""
        if unasked := self._unasked.get(request_hash):
            wait = unasked.popleft()
            self._current[request_hash, wait.occurrence] = wait
            return wait.occurrence
        occurrence = self._next[request_hash]
        self._next[request_hash] += 1
        return occurrence

    def add(self, call: LMCall) -> None:
        """Count a call that was made."""
        self._calls.append(call)

    async def store(self, call: LMCall) -> None:
        """Store the call, so that later attempts find it. Returns once it is committed."""
        await self._store.store_call(call)

    def reject(self, request_hashes: Iterable[bytes]) -> None:
        """Mark the answers to these requests as bad."""
        self._faulty.update(request_hashes)

    def blame(self) -> None:
        """An adapter failed because of answers that it was given since the last blame: the rejected ones, if any."""
        self._blamed |= self._faulty or self._given
        self._faulty, self._given = set(), set()

    async def discard(self) -> None:
        """The attempt fails because of its answers: those blamed are never replayed."""
        if self._blamed:
            await self._store.reject_calls(self.execution_id, self.attempt, sorted(self._blamed))

    async def count_late_calls(self) -> None:
        """Count the answers that came to earlier attempts after this one began: they were paid for."""
        if self.attempt > 1:
            known = {_place(call) for call in self._calls}
            earlier = await self._store.earlier_use(self.execution_id, self.attempt)
            self._calls += [call for call in earlier if _place(call) not in known]

    def model_use(self) -> ModelUse:
        """Number and duration of this attempt's own calls."""
        made = [call for call in self._model_calls if call.attempt == self.attempt]
        return ModelUse(len(made), sum(call.duration_ms for call in made) / 1000)

    def totals(self) -> dict[str, Any]:
        """The use of all attempts of the execution together. Replays count under their own name only; what the answers
        of another execution cost there is ``lent``."""
        calls = self._model_calls
        lent = {"lent": _totals(self._borrowed)} if self._borrowed else {}
        return {**_totals(calls), "replayed_lm_calls": self.replayed, **self._saved(calls), **lent}

    @staticmethod
    def _saved(calls: Sequence[LMCall]) -> dict[str, float]:
        """What the calls through batch APIs cost less than ordinary ones; nothing without such calls."""
        priced = [(call.list_cost_usd, call.cost_usd) for call in calls]
        saved = [listed - cost for listed, cost in priced if listed is not None and cost is not None]
        return {"saved_usd": sum(saved)} if saved else {}

    @property
    def _model_calls(self) -> list[LMCall]:
        return [call for call in self._calls if call.is_of_model]


def _totals(calls: Sequence[LMCall]) -> dict[str, Any]:
    costs = [call.cost_usd for call in calls if call.cost_usd is not None]
    return {
        "lm_calls": len(calls),
        "prompt_tokens": sum([call.prompt_tokens for call in calls]),
        "completion_tokens": sum([call.completion_tokens for call in calls]),
        "cost_usd": sum(costs, 0.0) if costs or not calls else None,
        "unpriced_lm_calls": len(calls) - len(costs),
    }


def _place(call: LMCall) -> tuple[bytes, int, int]:
    return call.request_hash, call.occurrence, call.attempt
