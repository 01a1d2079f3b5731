"""Batches: many executions that were submitted together."""

from __future__ import annotations

from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Container,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

from dspex.client.execution import AsyncExecution, Execution
from dspex.client.notebook.cards import batch_card
from dspex.client.notebook.live_progress import shown, shown_async
from dspex.client.result import recorded_result
from dspex.client.session import Session
from dspex.client.tables.batch_table import BatchTable, concatenated, parquet_file, to_pandas
from dspex.errors import ExecutionCancelled, ExecutionFailed, ExecutionNotFound, ValidationError
from dspex.signatures import Signature
from dspex.store.lifecycle.batch_ids import execution_id
from dspex.store.lifecycle.status import Status
from dspex.submit.batch_rows import BatchRows, Rejected
from dspex.submit.bulk import Intake
from dspex.submit.bulk import Row as GivenRow
from dspex.wait.blocking_driver import complete, iterate
from dspex.wait.completion import IndexSet, Slot, batch_final, groups, in_order
from dspex.wait.driver import Driver, Row

if TYPE_CHECKING:
    import pandas
    import pyarrow

__all__ = ["WINDOW", "AsyncBatch", "Batch", "BatchSummary", "Progress", "map_result", "mapped", "pending", "slots",
           "store_all"]  # fmt: skip

#: The most executions that `in_order` and `map` keep under way or waiting for their turn.
WINDOW = 2000


@dataclass(frozen=True, slots=True)
class Progress:
    """The progress of a batch.

    ``eta_seconds`` follows the rate of the last half minute; it is None until an execution has finished.
    ``cost_usd`` is the known part of the cost; ``unpriced`` is how many executions ended
    at a cost that is unknown, or known in part.
    ``waiting`` are parked: ``bundled`` of them for requests that a provider's batch API has. ``saved_usd`` is how much
    more ordinary calls would have cost than those that went through batch APIs.
    """

    total: int
    completed: int
    failed: int
    cancelled: int
    running: int
    queued: int
    cost_usd: float
    eta_seconds: float | None
    unpriced: int = 0
    waiting: int = 0
    bundled: int = 0
    saved_usd: float = 0.0

    @property
    def list_cost_usd(self) -> float:
        """What it would have cost so far with ordinary calls."""
        return self.cost_usd + self.saved_usd

    @property
    def finished(self) -> int:
        """How many are final."""
        return self.completed + self.failed + self.cancelled

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> Progress:
        """The progress from counts, cost and rate as the store returns them."""
        counts = {status.value: int(found["counts"].get(status.value, 0)) for status in Status}
        total = sum(counts.values())
        left = total - sum(counts[status.value] for status in Status if status.is_final)
        rate = found["per_second"]
        eta = 0.0 if not left else left / rate if rate else None
        return cls(total=total, cost_usd=found["cost_usd"], unpriced=found["unpriced"], eta_seconds=eta,
                   bundled=found["bundled"], saved_usd=found["saved_usd"], **counts)  # fmt: skip


@dataclass(frozen=True, slots=True)
class BatchSummary:
    """A batch in a list: ``begun_at`` is when its submit began (UTC)."""

    id: UUID
    program: str
    begun_at: datetime
    progress: Progress


class _BatchHandle:
    """The rows of a batch, as both clients show them. ``len`` counts the stored rows."""

    def __init__(self, session: Session, rows: BatchRows) -> None:
        self._session = session
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __repr__(self) -> str:
        rejected = len(self.missing)
        return f"<Batch {self.id} of {self.program}: {len(self)} executions, {rejected} rows rejected>"

    @property
    def id(self) -> UUID:
        """The id of the batch."""
        return self._rows.id

    @property
    def program(self) -> str:
        """The name of the program."""
        return self._rows.program

    @property
    def size(self) -> int:
        """How many rows were taken, stored or not."""
        return self._rows.size

    @property
    def rejected(self) -> list[Rejected]:
        """The rows that did not fit the signature.

        Known only to the submit itself: empty in a batch from ``client.batch``, and with ``on_rejected``.
        """
        return self._rows.rejected

    @property
    def ids(self) -> Sequence[UUID]:
        """The ids of the executions, in the order of the stored rows."""
        return self._rows.ids

    @property
    def indexes(self) -> Sequence[int]:
        """For each of :attr:`ids`, the index of its row among the rows given."""
        return self._rows.indexes

    @property
    def missing(self) -> Sequence[int]:
        """The indexes of the rows that were not stored, in order."""
        return self._rows.missing

    def _label(self) -> str:
        return f"{self.program}, batch {self.id}"

    async def _tables(self, driver: Driver, seconds: float | None, on_group: Callable[[BatchTable], None]) -> None:
        """Call ``on_group`` each time a group of final rows is in the table, and at the end."""
        table: BatchTable | None = None
        async with aclosing(self._in_order(driver, seconds, ())) as rows:
            async for row in rows:
                table = table or await self._table(driver, row)
                if table.add(row):
                    await driver.block(partial(on_group, table))
        table = table or await self._table(driver, None)
        await driver.block(partial(on_group, table))

    async def _table(self, driver: Driver, row: Row | None) -> BatchTable:
        """A table for rows like this one; without any row, for the program's current version."""

        def signature() -> Signature:
            session = self._session
            return session.catalogue.current(self.program).signature if row is None else session.signature(row)

        return BatchTable(self._session.sealing, await driver.call(signature))

    def _as_completed(self, driver: Driver, seconds: float | None, skip: Iterable[int]) -> AsyncGenerator[Row, None]:
        final_indexes = partial(self._session.final_indexes, self.id)
        return batch_final(driver, self.id, pending(self._rows, skip), final_indexes, seconds)

    async def _in_order(self, driver: Driver, seconds: float | None, skip: Container[int]) -> AsyncGenerator[Row, None]:
        async def source() -> AsyncIterator[Sequence[Slot]]:
            for group in slots(self._rows, skip):
                yield group

        async with aclosing(in_order(driver, self.id, source(), seconds, window=WINDOW)) as pairs:
            async for _, row in pairs:
                if row is not None:
                    yield row


class Batch(_BatchHandle):
    """The executions of one ``submit_many``, in the order of the rows."""

    @property
    def progress(self) -> Progress:
        """Its progress, counted in the database at each use."""
        return Progress.of(self._session.progress(self.id))

    @property
    def failures(self) -> Mapping[str, int]:
        """How many of its executions failed, by :attr:`Execution.cause_code`, the most frequent first."""
        return self._session.failures(self.id)

    def cancel(self, on_progress: Callable[[int, int], None] = lambda _done, _total: None) -> int:
        """Cancel its queued executions, and have workers end its running ones, as :meth:`Execution.cancel` does.

        Returns how many were cancelled. ``on_progress`` is called with how many so far, and of how many. A row that is
        submitted at the same time may be stored after its place was passed, and then runs.
        """
        return self._session.control.cancel_batch(self.id, on_progress)

    def as_completed(self, timeout: float | None = None, *, skip: Collection[int] = ()) -> Iterator[Execution]:
        """Each execution as it becomes final; ``execution.batch_index`` is the index of its row.

        ``skip`` are indexes of rows to leave out. Raises ExecutionTimedOut after ``timeout`` seconds.
        """
        rows = iterate(self._as_completed(self._session.driver, timeout, skip))
        for row in shown(rows, self._label(), len(self)):
            yield Execution(self._session, row)

    def in_order(self, timeout: float | None = None, *, skip: Collection[int] = ()) -> Iterator[Execution]:
        """Each execution in the order of the rows, once it and those before it are final.

        ``skip`` are indexes of rows to leave out. Raises ExecutionTimedOut after ``timeout`` seconds.
        """
        rows = iterate(self._in_order(self._session.driver, timeout, skip))
        for row in shown(rows, self._label(), len(self)):
            yield Execution(self._session, row)

    def to_arrow(self, timeout: float | None = None) -> pyarrow.Table:
        """Wait until every execution is final, and return them as a table of pyarrow, in the order of the rows.

        Its columns are ``index``, ``execution_id`` and ``status``, the inputs, the outputs (null where an execution has
        not completed), ``error_code`` and ``error_message``. A field with one of these names becomes
        ``NAME_input`` or ``NAME_output``. Lists are lists and objects are structs; a value without a fixed shape is
        text with JSON. Raises ExecutionTimedOut, and ConfigurationError without pyarrow.
        """
        tables: list[pyarrow.Table] = []
        complete(self._tables(self._session.driver, timeout, lambda table: tables.append(table.take())))
        return concatenated(tables)

    def to_pandas(self, timeout: float | None = None) -> pandas.DataFrame:
        """:meth:`to_arrow` as a frame of pandas."""
        return to_pandas(self.to_arrow(timeout))

    def to_parquet(self, path: Path | str, timeout: float | None = None) -> None:
        """:meth:`to_arrow` into a Parquet file, without holding all rows in memory; it appears when it is complete."""
        with parquet_file(path) as write:
            complete(self._tables(self._session.driver, timeout, write))

    def _repr_html_(self) -> str:
        return batch_card(self.id, self.program, self.progress, len(self.missing))


class AsyncBatch(_BatchHandle):
    """:class:`Batch` with ``await``: also for ``progress`` and ``failures``, as in
    ``(await batch.progress).completed``."""

    @property
    def progress(self) -> Awaitable[Progress]:
        """As :attr:`Batch.progress`."""
        return self._session.driver.call(lambda: Progress.of(self._session.progress(self.id)))

    @property
    def failures(self) -> Awaitable[Mapping[str, int]]:
        """As :attr:`Batch.failures`."""
        return self._session.driver.call(lambda: self._session.failures(self.id))

    async def cancel(self, on_progress: Callable[[int, int], None] = lambda _done, _total: None) -> int:
        """As :meth:`Batch.cancel`."""
        return await self._session.driver.call(partial(self._session.control.cancel_batch, self.id, on_progress))

    async def as_completed(
        self,
        timeout: float | None = None,  # noqa: ASYNC109 - as in Batch.as_completed
        *,
        skip: Collection[int] = (),
    ) -> AsyncGenerator[AsyncExecution, None]:
        """As :meth:`Batch.as_completed`."""
        rows = shown_async(self._as_completed(self._session.driver, timeout, skip), self._label(), len(self))
        async with aclosing(rows):
            async for row in rows:
                yield AsyncExecution(self._session, row)

    async def in_order(
        self,
        timeout: float | None = None,  # noqa: ASYNC109 - as in Batch.in_order
        *,
        skip: Collection[int] = (),
    ) -> AsyncGenerator[AsyncExecution, None]:
        """As :meth:`Batch.in_order`."""
        rows = shown_async(self._in_order(self._session.driver, timeout, skip), self._label(), len(self))
        async with aclosing(rows):
            async for row in rows:
                yield AsyncExecution(self._session, row)

    async def to_arrow(self, timeout: float | None = None) -> pyarrow.Table:  # noqa: ASYNC109 - as in Batch.to_arrow
        """As :meth:`Batch.to_arrow`."""
        tables: list[pyarrow.Table] = []
        await self._tables(self._session.driver, timeout, lambda table: tables.append(table.take()))
        return concatenated(tables)

    async def to_pandas(self, timeout: float | None = None) -> pandas.DataFrame:  # noqa: ASYNC109
        """As :meth:`Batch.to_pandas`."""
        return to_pandas(await self.to_arrow(timeout))

    async def to_parquet(self, path: Path | str, timeout: float | None = None) -> None:  # noqa: ASYNC109
        """As :meth:`Batch.to_parquet`."""
        with parquet_file(path) as write:
            await self._tables(self._session.driver, timeout, write)

    def _repr_html_(self) -> str:
        return batch_card(self.id, self.program, None, len(self.missing))


def pending(rows: BatchRows, skip: Iterable[int] = ()) -> IndexSet:
    """The stored rows of a batch without those in ``skip``."""
    pending = IndexSet(rows.size, full=True)
    for index in chain(rows.missing, skip):
        pending.discard(index)
    return pending


def slots(rows: BatchRows, skip: Container[int] = ()) -> Iterator[list[Slot]]:
    """The stored rows of a batch without those in ``skip``, in order and in groups."""
    return groups(Slot(index, execution_id(rows.id, index)) for index in rows.stored() if index not in skip)


async def store_all(
    driver: Driver,
    intake: Intake,
    source: AsyncIterator[Sequence[GivenRow]],
    on_rejected: Callable[[Rejected], None],
) -> None:
    """Store the rows of a source, and report the rejected ones."""
    with intake.noted():
        async for rows in source:
            for rejected in await driver.block(partial(intake.add, rows)):
                on_rejected(rejected)


async def mapped(
    driver: Driver, batch: BatchRows, intake: Intake, source: AsyncIterator[Sequence[GivenRow]], seconds: float | None
) -> AsyncGenerator[tuple[Slot, Row | None], None]:
    """Each row's slot with its execution's final row, in order, while later rows are submitted."""

    def add(rows: Sequence[GivenRow]) -> Sequence[Slot]:
        begin = batch.size
        errors = {rejected.index: rejected.error for rejected in intake.add(rows)}
        return [
            Slot(index, None if index in errors else execution_id(batch.id, index), errors.get(index))
            for index in range(begin, batch.size)
        ]

    async def taken() -> AsyncIterator[Sequence[Slot]]:
        with intake.noted():
            async for rows in source:
                yield await driver.block(partial(add, rows))

    async with aclosing(in_order(driver, batch.id, taken(), seconds, window=WINDOW)) as pairs:
        async for pair in pairs:
            yield pair


def map_result(session: Session, slot: Slot, row: Row | None, *, return_exceptions: bool) -> Any:
    """The item, or the exception, of :meth:`Client.map` for a row."""
    try:
        if row is None:
            raise slot.error or ExecutionNotFound()
        return recorded_result(session, row)
    except (ValidationError, ExecutionFailed, ExecutionCancelled) as error:
        if not return_exceptions:
            raise
        return error
