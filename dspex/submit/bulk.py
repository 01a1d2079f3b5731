"""Taking the rows of a batch: validated one by one, stored a group at a time, however many there are."""

from __future__ import annotations

import time
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from dspex.client.batch import WINDOW, BatchRows, Rejected, execution_id
from dspex.errors import BackendUnavailable, ValidationError
from dspex.store.lifecycle.executions import Submission
from dspex.submit.prepare import RowOptions, prepare_row
from dspex.wait.completion import Slot, in_order
from dspex.wait.driver import Driver
from dspex.wait.driver import Row as StoredRow

__all__ = ["BULK_ROWS", "MAP_ROWS", "Intake", "Prepared", "Row", "chunks", "chunks_async", "mapped"]

T = TypeVar("T")
#: A row as given; one that is known to be bad is its error.
Row = Mapping[str, Any] | ValidationError

#: Rows of one COPY: enough to be fast, few enough to be stored soon.
BULK_ROWS = 1000
#: The same for `map`, which has a few thousand under way.
MAP_ROWS = 500
#: A slow source's rows are not kept waiting for a full group.
CHUNK_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Prepared:
    """The next ``count`` rows of a batch: what to store of them, and what does not fit."""

    count: int
    submissions: Sequence[Submission]
    rejected: Sequence[Rejected]


class Intake:
    """Takes rows into ``batch``, in order. ``store`` commits a group of submissions, all or none of them."""

    def __init__(self, batch: BatchRows, options: RowOptions, store: Callable[[Sequence[Submission]], None]) -> None:
        self._batch = batch
        self._options = options
        self._store = store

    def add(self, rows: Sequence[Row]) -> Sequence[Rejected]:
        """Store those of the rows that fit. Returns the others. Raises as :meth:`store` does."""
        prepared = self.prepare(rows)
        self.store(prepared)
        return prepared.rejected

    def prepare(self, rows: Sequence[Row]) -> Prepared:
        """Validate the next rows; nothing is stored."""
        batch_id, begin = self._batch.id, self._batch.size
        if faults := list(self._options.bounds.batch_faults(begin + len(rows))):
            error = ValidationError.of("batch", faults)
            error.details.update(batch_id=str(batch_id), stored=len(self._batch))
            raise error
        submissions: list[Submission] = []
        rejected: list[Rejected] = []
        for index, row in enumerate(rows, begin):
            try:
                if isinstance(row, ValidationError):
                    raise row
                submissions.append(prepare_row(self._options, row, execution_id(batch_id, index), batch_id, index))
            except ValidationError as error:
                rejected.append(Rejected(index, error.with_traceback(None)))
        return Prepared(len(rows), submissions, rejected)

    def store(self, prepared: Prepared) -> None:
        """Store what was prepared last.

        Raises BackendUnavailable with ``batch_id`` and ``stored`` in its details; nothing of it is taken then.
        """
        try:
            if prepared.submissions:
                self._store(prepared.submissions)
        except BackendUnavailable as error:
            error.details.update(batch_id=str(self._batch.id), stored=len(self._batch))
            raise
        self._batch.extend(prepared.count, [rejected.index for rejected in prepared.rejected])


async def mapped(
    driver: Driver, batch: BatchRows, intake: Intake, source: AsyncIterator[Sequence[Row]], seconds: float | None
) -> AsyncGenerator[tuple[Slot, StoredRow | None], None]:
    """Each row's slot, in order, with its execution's final row; later rows are taken meanwhile."""

    def add(rows: Sequence[Row]) -> Sequence[Slot]:
        begin = batch.size
        errors = {rejected.index: rejected.error for rejected in intake.add(rows)}
        return [
            Slot(index, None if index in errors else execution_id(batch.id, index), errors.get(index))
            for index in range(begin, batch.size)
        ]

    async def taken() -> AsyncIterator[Sequence[Slot]]:
        async for rows in source:
            yield await driver.call(partial(add, rows))

    async with aclosing(in_order(driver, batch.id, taken(), seconds, window=WINDOW)) as pairs:
        async for pair in pairs:
            yield pair


def chunks(rows: Iterable[T], most: int = BULK_ROWS) -> Iterator[list[T]]:
    """The rows in groups; a group ends early when its rows come slowly."""
    chunk: list[T] = []
    began = time.monotonic()
    for row in rows:
        chunk.append(row)
        if len(chunk) == most or time.monotonic() - began > CHUNK_SECONDS:
            yield chunk
            chunk, began = [], time.monotonic()
    if chunk:
        yield chunk


async def chunks_async(rows: AsyncIterable[T], most: int = BULK_ROWS) -> AsyncIterator[list[T]]:
    """The same for rows that come asynchronously."""
    chunk: list[T] = []
    began = time.monotonic()
    async for row in rows:
        chunk.append(row)
        if len(chunk) == most or time.monotonic() - began > CHUNK_SECONDS:
            yield chunk
            chunk, began = [], time.monotonic()
    if chunk:
        yield chunk
