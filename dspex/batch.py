"""Batches: many executions submitted together."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID

from dspex.errors import ExecutionTimedOut, ValidationError
from dspex.execution import Execution, Status

if TYPE_CHECKING:
    from dspex.client import Client
    from dspex.store.executions import Submission

__all__ = ["Batch", "Progress", "Rejected"]


@dataclass(frozen=True, slots=True)
class Rejected:
    """A row that did not fit the signature: its ``index`` in the rows given, and why."""

    index: int
    error: ValidationError


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a batch is. ``eta_seconds`` is None until something has finished, ``cost_usd`` what is known of it."""

    total: int
    completed: int
    failed: int
    cancelled: int
    running: int
    queued: int
    cost_usd: float
    eta_seconds: float | None

    @property
    def finished(self) -> int:
        return self.completed + self.failed + self.cancelled


class Batch:
    """The executions of one ``submit_many``, in the order of the rows; ``len(batch)`` counts those stored."""

    def __init__(self, client: Client, id: UUID, program: str) -> None:
        self.id = id
        self.program = program
        self.rejected: list[Rejected] = []
        self._client = client
        self._ids: list[UUID] = []
        self._indexes: list[int] = []
        self._began = time.monotonic()

    def __len__(self) -> int:
        return len(self._ids)

    def __repr__(self) -> str:
        return f"<Batch {self.id} of {self.program}: {len(self)} executions, {len(self.rejected)} rows rejected>"

    @property
    def ids(self) -> Sequence[UUID]:
        """The executions' ids, in the order of the rows that were stored."""
        return self._ids

    @property
    def indexes(self) -> Sequence[int]:
        """For each of :attr:`ids`, the index of its row among the rows given."""
        return self._indexes

    @property
    def progress(self) -> Progress:
        """Counted in the database, now."""
        found = self._client.progress(self.id)
        counts = {status.value: int(found["counts"].get(status.value, 0)) for status in Status}
        finished = sum(counts[status.value] for status in Status if status.is_final)
        elapsed = time.monotonic() - self._began
        left = len(self) - finished
        return Progress(
            total=len(self),
            cost_usd=found["cost_usd"],
            eta_seconds=elapsed / finished * left if finished else None,
            **counts,
        )

    def as_completed(self, timeout: float | None = None) -> Iterator[Execution]:
        """Each execution as it becomes final, whichever way. Raises ExecutionTimedOut after ``timeout`` seconds."""
        done = 0
        for row in self._client.wait_any(self._ids, timeout):
            done += 1
            yield Execution(self._client, row)
        if done < len(self):
            raise ExecutionTimedOut(
                f"{len(self) - done} of {len(self)} executions of batch {self.id} are not final after {timeout} s; "
                "they go on",
                batch_id=str(self.id),
            )

    def add(self, submissions: Sequence[Submission]) -> None:
        self._ids.extend(s.id for s in submissions)
        self._indexes.extend(s.batch_index or 0 for s in submissions)

    def reject(self, index: int, error: ValidationError) -> None:
        self.rejected.append(Rejected(index, error))
