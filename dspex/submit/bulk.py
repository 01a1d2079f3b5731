"""The intake of a batch: rows are validated one by one and stored a group at a time."""

from __future__ import annotations

import time
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from dspex.errors import BackendUnavailable, ValidationError
from dspex.signatures import Signature
from dspex.store.lifecycle.batch_ids import execution_id
from dspex.store.lifecycle.executions import Submission
from dspex.submit.batch_rows import BatchRows, Rejected
from dspex.submit.prepare import RowOptions, prepare_row

__all__ = ["BULK_ROWS", "MAP_ROWS", "Intake", "Prepared", "Row", "chunks", "chunks_async"]

T = TypeVar("T")
#: A row as given; for a row that could not be read, the error.
Row = Mapping[str, Any] | ValidationError

#: Rows of one COPY: enough to be fast, few enough to be stored soon.
BULK_ROWS = 1000
#: The same for `map`, which has a few thousand under way.
MAP_ROWS = 500
#: A group ends after this time, so that the rows of a slow source are stored soon.
CHUNK_SECONDS = 0.5
#: A group ends after so many characters, so that long texts need no more memory than short ones.
CHUNK_CHARACTERS = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Prepared:
    """The next ``count`` rows of a batch: the submissions to store, and the rejected rows."""

    count: int
    submissions: Sequence[Submission]
    rejected: Sequence[Rejected]


class Intake:
    """Takes rows into ``batch``, in order. ``store`` commits a group of submissions, all or none of them.

    ``announce`` stores that the outcome of the batch is to be posted to an address.
    """

    def __init__(
        self,
        batch: BatchRows,
        options: RowOptions,
        store: Callable[[Sequence[Submission]], None],
        announce: Callable[[BatchRows, str, str | None], None],
    ) -> None:
        self._batch = batch
        self._options = options
        self._store = store
        self._announce = announce

    @property
    def signature(self) -> Signature:
        """The signature that rows have to fit."""
        return self._options.program.signature

    def add(self, rows: Sequence[Row]) -> Sequence[Rejected]:
        """Store the rows that fit the signature, and return the others. Raises as :meth:`store` does."""
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
        """Store the rows that were prepared last.

        Raises BackendUnavailable with ``batch_id`` and ``stored`` in its details; then none of these rows is stored.
        """
        with self._named():
            if prepared.submissions:
                self._store(prepared.submissions)
        self._batch.extend(prepared.count, [rejected.index for rejected in prepared.rejected])

    def finish(self) -> None:
        """Note that the batch has all of its rows: from now on its webhook is sent once they are over.

        Raises BackendUnavailable as :meth:`store` does.
        """
        options = self._options
        if options.webhook is not None:
            with self._named():
                self._announce(self._batch, options.webhook, options.tenant)

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Add a note to an error that ends the intake, also to one of the rows' source: some rows are stored."""
        try:
            yield
        except BaseException as error:
            if stored := len(self._batch):
                id = self._batch.id
                error.add_note(
                    f"{stored} rows of batch {id} are stored, and they go on: `dspex list --batch {id}` shows "
                    f"them, and `dspex cancel --batch {id}` cancels them"
                )
            raise

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Name the batch in what is raised."""
        try:
            yield
        except BackendUnavailable as error:
            error.details.update(batch_id=str(self._batch.id), stored=len(self._batch))
            raise


class _Chunk:
    """The rows of a group, until it is full or its rows come too slowly. Its time begins with its first row."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._begin()

    def add(self, row: Any) -> bool:
        """Add a row. Returns whether the group ends."""
        if not self.rows:
            self._began = time.monotonic()
        self.rows.append(row)
        if type(row) is dict:
            self._characters += sum([len(value) for value in row.values() if type(value) is str])
        return (
            len(self.rows) == self._most
            or self._characters >= CHUNK_CHARACTERS
            or time.monotonic() - self._began > CHUNK_SECONDS
        )

    def take(self) -> list[Any]:
        """The rows; the next group begins."""
        rows = self.rows
        self._begin()
        return rows

    def _begin(self) -> None:
        self.rows: list[Any] = []
        self._characters = 0


def chunks(rows: Iterable[T], most: int = BULK_ROWS) -> Iterator[list[T]]:
    """The rows in groups; a group ends early when its rows come slowly, or are long."""
    chunk = _Chunk(most)
    for row in rows:
        if chunk.add(row):
            yield chunk.take()
    if chunk.rows:
        yield chunk.take()


async def chunks_async(rows: AsyncIterable[T], most: int = BULK_ROWS) -> AsyncIterator[list[T]]:
    """:func:`chunks` for an asynchronous source."""
    chunk = _Chunk(most)
    async for row in rows:
        if chunk.add(row):
            yield chunk.take()
    if chunk.rows:
        yield chunk.take()
