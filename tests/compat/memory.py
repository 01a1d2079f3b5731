"""A run with a worker's own journal and model calls, whose store is this process's memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID, uuid4

from dspex.program.program import Program
from dspex.store.lifecycle.lm_calls import LMCall
from tests.recording import MemoryTrail
from workers.adapters.contract import Run
from workers.lm.journal import AttemptJournal
from workers.lm.model_calls import ModelCalls

__all__ = ["MemoryCalls", "memory_run"]


class MemoryCalls:
    """See :class:`workers.lm.journal.CallStore`."""

    def __init__(self) -> None:
        self.calls: list[LMCall] = []

    async def store_call(self, call: LMCall) -> None:
        self.calls.append(call)

    async def reject_calls(self, execution_id: UUID, attempt: int, request_hashes: Sequence[bytes]) -> None:
        """No later attempt asks for them."""

    async def earlier_use(self, execution_id: UUID, attempt: int) -> Sequence[LMCall]:
        return [call for call in self.calls if call.attempt < attempt]


def memory_run(
    program: Program, inputs: Mapping[str, Any], calls: MemoryCalls | None = None, attempt: int = 1
) -> tuple[Run, AttemptJournal]:
    """An attempt at a program; ``calls`` are those of earlier attempts, and get those of this one."""
    store = calls or MemoryCalls()
    journal = AttemptJournal(uuid4(), attempt, store)
    journal.recall(store.calls)
    trail = MemoryTrail()
    run = Run(journal.execution_id, attempt, program, program.signature.validate_inputs(inputs),
              ModelCalls(journal, trail), trail)  # fmt: skip
    return run, journal
