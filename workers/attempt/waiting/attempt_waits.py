"""What an attempt waits for besides model calls, and what it must not do twice: decisions, intentions, children.

Each is an entry of the journal. An entry that is not there yet is waited for, and the program is left (parking.py).
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

from dspex.errors import ProgramError
from dspex.sealing.values import SealedAttempt
from dspex.settings.failpoints import AFTER_INTENTION, failpoint
from dspex.store.lifecycle.approvals import call_id
from dspex.store.lifecycle.lm_calls import DECISION, INTENT, LMCall
from dspex.store.lifecycle.parked import ParkedCall, parked_place
from workers.adapters.contract import Decision, Trail
from workers.attempt.waiting.children import Children
from workers.attempt.waiting.parking import Parking
from workers.lm.journal import AttemptJournal

__all__ = ["AttemptWaits"]


class AttemptWaits:
    """The waits of one attempt: see :class:`workers.adapters.contract.Waits`."""

    def __init__(
        self,
        journal: AttemptJournal,
        trail: Trail,
        parking: Parking,
        children: Children | None,
        *,
        depth: int,
        sealed: SealedAttempt | None,
    ) -> None:
        self._journal = journal
        self._trail = trail
        self._parking = parking
        self._children = children
        self._depth = depth
        self._sealed = sealed
        self._places: defaultdict[str, int] = defaultdict(int)
        self._child_count = 0

    @property
    def is_left(self) -> bool:
        """See :class:`workers.adapters.contract.Waits`."""
        return self._parking.is_leaving

    def under_way(self) -> AbstractContextManager[None]:
        """See :class:`workers.adapters.contract.Waits`."""
        return self._parking.under_way()

    def tool_place(self, digest: str) -> int:
        """See :class:`workers.adapters.contract.Waits`."""
        place = self._places[digest]
        self._places[digest] += 1
        return place

    async def decision(self, digest: str, tool: str, arguments: Mapping[str, Any], expires: float | None) -> Decision:
        """See :class:`workers.adapters.contract.Waits`."""
        hashed = self._digest("decision", digest)
        known = self._journal.find_other(hashed)
        if known is not None:
            return _decision(json.loads(known.response))
        occurrence = self._journal.begin(hashed)
        wait = self._journal.wait_of(hashed, occurrence)
        if wait is None or wait.decision is None:
            request = self._sealed_text(json.dumps(dict(arguments), ensure_ascii=False), hashed, occurrence)
            await self._parking.wait(
                ParkedCall(
                    hashed,
                    occurrence,
                    "approval",
                    tool,
                    request=request,
                    expires_seconds=expires,
                    again=wait is not None,
                )
            )
        assert wait is not None
        assert wait.decision is not None
        made = _decision(wait.decision)
        await self._store(hashed, occurrence, f"{DECISION}{tool}", wait.decision)
        call = call_id(hashed, occurrence)
        self._trail.record("decision", tool=tool, call=call, approved=made.approved, by=made.by)
        return made

    async def intend(self, digest: str, tool: str) -> bool:
        """See :class:`workers.adapters.contract.Waits`."""
        hashed = self._digest("intent", digest)
        if self._journal.find_other(hashed) is not None:
            return False
        await self._store(hashed, self._journal.begin(hashed), f"{INTENT}{tool}", {"at": self._trail.now().isoformat()})
        failpoint(AFTER_INTENTION)
        return True

    async def child(self, program: str, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        """See :class:`workers.adapters.contract.Waits`."""
        if self._children is None:
            raise ProgramError("children are executions of a worker: there is none here", code="child_limit")
        text = json.dumps({"program": program, "inputs": dict(inputs)}, sort_keys=True, default=str)
        hashed = self._digest("child", hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest())
        self._child_count += 1
        known = self._journal.find_other(hashed)
        if known is not None:
            outcome = json.loads(known.response)
            self._trail.record("child", program=program, child=outcome["child"], replayed=True)
            return await self._children.outputs(program, outcome)
        occurrence = self._journal.begin(hashed)
        with self._parking.under_way():
            child = await self._children.prepared(
                program, inputs, self._journal.execution_id, hashed, occurrence, depth=self._depth + 1,
                count=self._child_count,
            )  # fmt: skip
        self._trail.record("child", program=program, child=str(child.submission.id))
        call = ParkedCall(hashed, occurrence, "child", program, child_id=child.submission.id)
        await self._parking.wait(call, child)

    def withdraw(self) -> None:
        """See :class:`workers.adapters.contract.Waits`."""
        self._places.clear()
        self._child_count = 0
        self._parking.withdraw()

    def _digest(self, kind: str, digest: str) -> bytes:
        """Apart from the hashes of the model calls and tools' results that belong to the same call."""
        hashed = hashlib.sha256(f"{kind}:{digest}".encode()).digest()
        return hashed if self._sealed is None else self._sealed.digest(hashed)

    def _sealed_text(self, text: str, hashed: bytes, occurrence: int) -> str:
        if self._sealed is None:
            return text
        return self._sealed.response(text, parked_place(hashed, occurrence))

    async def _store(self, hashed: bytes, occurrence: int, model: str, response: Mapping[str, Any]) -> None:
        entry = LMCall(
            execution_id=self._journal.execution_id,
            request_hash=hashed,
            occurrence=occurrence,
            attempt=self._journal.attempt,
            model=model,
            response=json.dumps(dict(response), ensure_ascii=False),
            prompt_tokens=0,
            completion_tokens=0,
            cost_usd=None,
            duration_ms=0.0,
            request_id=None,
        )
        self._journal.add(entry)
        await self._journal.store(entry)


def _decision(stored: Mapping[str, Any]) -> Decision:
    return Decision(bool(stored["approved"]), str(stored["by"]), stored.get("note"))
