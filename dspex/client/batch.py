"""Batches: many executions submitted together.

The executions of a batch are numbered by their rows: the id of row n is the batch's id plus n + 1. So a batch of
millions needs no list of ids, an id tells its batch and row, and a row that is stored twice is refused by its key.
Such an id is a UUIDv7 of the moment the batch was begun: the last 32 bits of a batch's own are zero.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import AsyncIterator, Callable, Collection, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any, TypeVar, overload
from uuid import UUID

from uuid_utils.compat import uuid7

from dspex.client.execution import Execution
from dspex.errors import ValidationError
from dspex.store.lifecycle.status import Status
from dspex.wait.completion import IndexSet, Slot, batch_final, groups, in_order
from dspex.wait.driver import Driver, Row, iterate

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from dspex.client.client import Client

__all__ = ["Batch", "BatchRows", "Progress", "Rejected", "execution_id", "new_batch_id"]

T = TypeVar("T")

#: How many executions `in_order` may hold that are final before their turn.
WINDOW = 2000


def new_batch_id() -> UUID:
    """A batch id of this moment."""
    return UUID(int=uuid7().int & ~0xFFFFFFFF)


def execution_id(batch_id: UUID, index: int) -> UUID:
    """The id of the execution of a batch's row."""
    return UUID(int=batch_id.int + 1 + index)


@dataclass(frozen=True, slots=True)
class Rejected:
    """A row that did not fit the signature: its ``index`` in the rows given, and why."""

    index: int
    error: ValidationError


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a batch is.

    ``eta_seconds`` follows the rate of the last half minute; it is None until something has finished.
    ``cost_usd`` is what is known of it.
    """

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

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> Progress:
        counts = {status.value: int(found["counts"].get(status.value, 0)) for status in Status}
        total = sum(counts.values())
        left = total - sum(counts[status.value] for status in Status if status.is_final)
        rate = found["per_second"]
        eta = 0.0 if not left else left / rate if rate else None
        return cls(total=total, cost_usd=found["cost_usd"], eta_seconds=eta, **counts)


class _View(Sequence[T]):
    """A sequence that is computed from the numbers of a batch's stored rows."""

    def __init__(self, rows: BatchRows, of: Callable[[int], T]) -> None:
        self._rows = rows
        self._of = of

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, position: int) -> T: ...
    @overload
    def __getitem__(self, position: slice) -> Sequence[T]: ...
    def __getitem__(self, position: int | slice) -> T | Sequence[T]:
        if isinstance(position, slice):
            return [self[p] for p in range(*position.indices(len(self)))]
        return self._of(self._rows.index_at(range(len(self))[position]))

    def __iter__(self) -> Iterator[T]:
        return map(self._of, self._rows.stored())

    def __repr__(self) -> str:
        return f"<{len(self)} of {self._rows!r}>"


class BatchRows:
    """Which rows of a batch were stored and which were not. ``len`` counts those stored.

    ``rejected`` are those that did not fit, of the submit that made this object: it is empty in a batch that was
    got again, and when the submit was given ``on_rejected``.
    """

    def __init__(self, id: UUID, program: str, *, size: int = 0, missing: Iterable[int] = ()) -> None:
        self.id = id
        self.program = program
        #: How many rows were taken, stored or not.
        self.size = size
        self.rejected: list[Rejected] = []
        self._missing = array("I", missing)

    def __len__(self) -> int:
        return self.size - len(self._missing)

    def __repr__(self) -> str:
        return f"<Batch {self.id} of {self.program}: {len(self)} executions, {len(self._missing)} rows rejected>"

    @property
    def ids(self) -> Sequence[UUID]:
        """The executions' ids, in the order of the rows that were stored."""
        return _View(self, partial(execution_id, self.id))

    @property
    def indexes(self) -> Sequence[int]:
        """For each of :attr:`ids`, the index of its row among the rows given."""
        return _View(self, int)

    @property
    def missing(self) -> Sequence[int]:
        """The indexes of the rows that were not stored, in order."""
        return self._missing

    def extend(self, count: int, missing: Iterable[int] = ()) -> None:
        """``count`` more rows were taken, of which ``missing`` were not stored."""
        self.size += count
        self._missing.extend(missing)

    def index_at(self, position: int) -> int:
        """The index of the row whose execution is at this position."""
        # How many rows are missing before it: the first m with missing[m] - m > position.
        return position + bisect_right(range(len(self._missing)), position, key=lambda m: self._missing[m] - m)

    def stored(self) -> Iterator[int]:
        """The indexes of the stored rows, in order."""
        begin = 0
        for end in (*self._missing, self.size):
            yield from range(begin, end)
            begin = end + 1

    def pending(self, skip: Iterable[int] = ()) -> IndexSet:
        """The stored rows but those of ``skip``."""
        pending = IndexSet(self.size, full=True)
        for index in chain(self._missing, skip):
            pending.discard(index)
        return pending

    def slots(self, skip: Container[int] = ()) -> Iterator[list[Slot]]:
        """The stored rows but those of ``skip``, in order and in groups."""
        return groups(Slot(index, execution_id(self.id, index)) for index in self.stored() if index not in skip)


class Batch(BatchRows):
    """The executions of one ``submit_many``, in the order of the rows."""

    def __init__(self, client: Client, id: UUID, program: str, *, size: int = 0, missing: Iterable[int] = ()) -> None:
        super().__init__(id, program, size=size, missing=missing)
        self._client = client

    @property
    def progress(self) -> Progress:
        """Counted in the database, now."""
        return self._client.progress(self.id)

    def cancel(self, on_progress: Callable[[int, int], None] = lambda _done, _total: None) -> int:
        """Cancel those that are queued, and have workers end those that run, as :meth:`Execution.cancel` does.

        Returns how many were. ``on_progress`` is told how many so far, and of how many. A row that is submitted
        meanwhile may be stored after this has passed its place, and runs.
        """
        return self._client.cancel_batch(self.id, on_progress)

    def as_completed(self, timeout: float | None = None, *, skip: Collection[int] = ()) -> Iterator[Execution]:
        """Each execution as it becomes final, whichever way; ``execution.batch_index`` is the index of its row.

        ``skip`` are indexes of rows that are not wanted. Raises ExecutionTimedOut after ``timeout`` seconds.
        """
        client = self._client
        for row in iterate(final_rows(client.driver, client, self, timeout, skip)):
            yield Execution(client, row)

    def in_order(self, timeout: float | None = None, *, skip: Collection[int] = ()) -> Iterator[Execution]:
        """Each execution in the order of the rows, once it and those before it are final.

        ``skip`` are indexes of rows that are not wanted. Raises ExecutionTimedOut after ``timeout`` seconds.
        """
        for row in iterate(ordered_rows(self._client.driver, self, timeout, skip)):
            yield Execution(self._client, row)


def final_rows(
    driver: Driver, client: Client, batch: BatchRows, seconds: float | None, skip: Iterable[int]
) -> AsyncGenerator[Row, None]:
    """The row of each execution of the batch as it becomes final."""
    return batch_final(driver, batch.id, batch.pending(skip), partial(client.final_indexes, batch.id), seconds)


async def ordered_rows(
    driver: Driver, batch: BatchRows, seconds: float | None, skip: Container[int]
) -> AsyncGenerator[Row, None]:
    """The final row of each execution of the batch, in the order of the rows."""

    async def source() -> AsyncIterator[Sequence[Slot]]:
        for group in batch.slots(skip):
            yield group

    async with aclosing(in_order(driver, batch.id, source(), seconds, window=WINDOW)) as pairs:
        async for _, row in pairs:
            if row is not None:
                yield row
