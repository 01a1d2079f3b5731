"""Following an execution: one sequence of events from its stream in Redis and its row in Postgres.

The worker writes the stream of an execution that was submitted with ``stream=True``: ``dspex:stream:ID``, entries with
the id ``ATTEMPT-NUMBER``, bounded in length and deleted some minutes after the last. Entries may be lost or repeated:
each text has its offset in its field, so that repeated text is left out. Postgres decides status, outputs and failure;
an execution without a stream has no other source. Any client of Redis can add entries. An entry of another shape, or of
an attempt that has not begun, is left out, and no number of them keeps a reader from the row.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal
from uuid import UUID

from dspex.client.result import recorded_result
from dspex.client.session import Session
from dspex.client.stream_entries import NUMBER_MOST, Position
from dspex.client.stream_source import Entry, StreamSource
from dspex.errors import DspexError, ExecutionCancelled, ExecutionFailed, FieldError, ValidationError
from dspex.publish.channels import stream_key
from dspex.store.lifecycle.status import Status
from dspex.wait.completion import Deadline
from dspex.wait.driver import Driver, Row

__all__ = ["Reading", "StreamEvent", "follow", "position"]

#: How often the row is read while no entry arrives.
POLL_SECONDS = 1.0
#: How long to wait for the end of the stream once the row is final. It is published a moment later.
TAIL_SECONDS = 1.0
#: The most entries that are read once the row is final: about twice as many as a stream keeps.
TAIL_ENTRIES = 20_000
#: How often the row is read while entries arrive, and the pause between two readings of it.
ROW_SECONDS = 5.0
ROW_PAUSE_SECONDS = 0.02

Kind = Literal["status", "partial", "field", "reset", "done", "error"]

# The numbers of events of the row, in the place of the number of an entry.
_RUNNING, _RESET, _FIELDS = 0, NUMBER_MOST, NUMBER_MOST + 1
_STATUS, _END, _WAITING, _QUEUED = 2 * 10**9, 2 * 10**9 + 1, 2 * 10**9 + 2, 2 * 10**9 + 3
_BEGIN: Position = (0, 0)
#: The order of the statuses of one attempt that are not final, and their places in a cursor.
_ORDER = {Status.RUNNING: 0, Status.WAITING: 1, Status.QUEUED: 2}
_PLACES = {Status.RUNNING: _RUNNING, Status.WAITING: _WAITING, Status.QUEUED: _QUEUED}
#: Statuses that end an attempt.
_ENDS = frozenset(Status) - {Status.RUNNING}


@dataclass(frozen=True, slots=True)
class StreamEvent:
    """Something that happened to an execution.

    ``kind``
        ``status``   it has this ``status`` now
        ``partial``  the model wrote more of ``field``: ``text``, which is JSON unless the field is a string
        ``field``    ``field`` is complete; ``validated`` is true if ``value`` is the recorded output, false if it is
                     the model's own text
        ``reset``    discard the fields so far: the model begins a new answer
        ``done``     completed; ``value`` is its :class:`dspex.Result`. The last event
        ``error``    ``error`` is the exception that :meth:`Execution.result` raises. The last event

    ``cursor`` resumes the stream: ``execution.stream(after=event.cursor)``. ``attempt`` counts from 1; 0 is before any.
    """

    kind: Kind
    cursor: str
    attempt: int
    status: Status | None = None
    field: str | None = None
    text: str | None = None
    value: Any = None
    validated: bool = False
    error: DspexError | None = None

    @property
    def is_last(self) -> bool:
        """Whether no event follows: ``done`` and ``error``."""
        return self.kind in ("done", "error")


def position(cursor: str | None) -> Position:
    """The position of a cursor; None is the beginning. Raises ValidationError."""
    if cursor is None:
        return _BEGIN
    attempt, _, number = str(cursor).partition("-")
    if not (attempt.isdecimal() and number.isdecimal() and max(int(attempt), int(number)) < 2**64):
        raise ValidationError.of("stream", [FieldError("after", "the cursor of a StreamEvent", repr(cursor)[:40])])
    return int(attempt), int(number)


@dataclass(slots=True)
class Reading:
    """The events a reader has, and so the events that an entry or a row adds. ``after`` is where it resumes."""

    after: Position = _BEGIN
    at: Position = _BEGIN
    _answer: tuple[int, int] = _BEGIN
    _lengths: dict[str, int] = field(default_factory=dict)
    _values: dict[str, Any] = field(default_factory=dict)
    _status: tuple[int, int] | None = None
    #: The attempt of the last entry, and the last attempt whose end was in the stream.
    begun: int = 0
    ended: int = 0
    _resumes: bool = False
    _before: Position = _BEGIN

    def __post_init__(self) -> None:
        attempt, number = self.after
        if attempt:
            self._status = (attempt, 1 if number == _QUEUED else 0)
        self._resumes = _RUNNING < number < _RESET  # events of the row are in no stream

    def entry(self, at: Position, entry: Mapping[str, Any]) -> Iterator[StreamEvent]:
        """The events of the stream's next entry."""
        if at <= self.at:
            return
        # A reset has the cursor of the event before it: a reader that resumes there gets the rest of the entry.
        self._before, lost = max(self.at, self.after), self._resumes and at > self.after > self.at
        self.at = at
        if lost:  # the stream lacks the reader's last event, so its progress with each field is unknown
            self._resumes = False
            self._forget()
            yield self._event("reset", self._before)
        self.begun = at[0]
        if entry.get("status") in _ENDS:
            self.ended = at[0]
        is_new = at > self.after
        for event in self._of(entry):
            if is_new:
                yield event
        self._resumes = self._resumes and at < self.after

    def row(self, row: Mapping[str, Any]) -> Iterator[StreamEvent]:
        """The new events of the execution's row; for a final row without its last events (:meth:`finish`)."""
        attempt, status = row["attempt"], Status(row["status"])
        if status.is_final:
            if self._answer[0] != attempt and self._lengths | self._values:
                self.at = (attempt, _RESET)
                self._forget()
                yield from self._new("reset")
            self.at = max(self.at, (attempt, _RESET))
        else:
            self.at = max(self.at, (attempt, _PLACES[status]))
            yield from self._is(attempt, status)

    def recorded(
        self, names: Sequence[str], stored: Mapping[str, Any], values: Mapping[str, Any]
    ) -> Iterator[StreamEvent]:
        """The recorded outputs that differ from the events so far: ``stored`` as JSON values, ``values`` as Python."""
        for index, name in enumerate(names):
            self.at = (self.at[0], _FIELDS + index)
            if name in stored and (name not in self._values or self._values[name] != stored[name]):
                yield from self._new("field", field=name, value=values[name], validated=True)

    def finish(self, status: Status, **outcome: Any) -> Iterator[StreamEvent]:
        """The last two events."""
        self.at = (self.at[0], _STATUS)
        yield from self._new("status", status=status)
        self.at = (self.at[0], _END)
        yield from self._new("done" if status is Status.COMPLETED else "error", **outcome)

    def _of(self, entry: Mapping[str, Any]) -> Iterator[StreamEvent]:
        attempt = self.at[0]
        if "status" in entry:
            status = Status(entry["status"])
            if not status.is_final:
                yield from self._is(attempt, status)
            return
        answer = (attempt, entry["answer"])
        if answer != self._answer:
            shown = bool(self._lengths or self._values)
            self._forget()
            self._answer = answer
            if shown:
                yield self._event("reset", self._before)
        if "text" in entry:
            yield from self._text(entry["field"], entry["at"], entry["text"])
        elif "value" in entry and entry["field"] not in self._values:
            self._values[entry["field"]] = entry["value"]
            yield self._event("field", self.at, field=entry["field"], value=entry["value"])

    def _text(self, name: str, begin: int, text: str) -> Iterator[StreamEvent]:
        if self._resumes:  # the reader already has all text before its cursor
            self._lengths[name] = max(self._lengths.get(name, 0), begin + len(text))
            return
        known = self._lengths.get(name, 0)
        # After a gap, the field comes again when it is complete.
        if name not in self._values and begin <= known < begin + len(text):
            self._lengths[name] = begin + len(text)
            yield self._event("partial", self.at, field=name, text=text[known - begin :])

    def _is(self, attempt: int, status: Status) -> Iterator[StreamEvent]:
        """The event of a status that is not final, unless it is old."""
        progress = (attempt, _ORDER[status])
        if self._status is None or progress > self._status:
            self._status = progress
            yield from self._new("status", status=status)

    def _forget(self) -> None:
        self._lengths.clear()
        self._values.clear()

    def _new(self, kind: Kind, **fields: Any) -> Iterator[StreamEvent]:
        if self.at > self.after:
            yield self._event(kind, self.at, **fields)

    def _event(self, kind: Kind, cursor: Position, **fields: Any) -> StreamEvent:
        return StreamEvent(kind, f"{cursor[0]}-{cursor[1]}", self.at[0], **fields)


class _RowReader:
    """The row of an execution, read again and again."""

    def __init__(self, driver: Driver, session: Session, id: UUID) -> None:
        self._driver = driver
        self._read = partial(session.row, id)
        self._pause = driver.signal()
        self._read_at = 0.0
        self.row: Row = {}

    @property
    def is_final(self) -> bool:
        return Status(self.row["status"]).is_final

    @property
    def is_due(self) -> bool:
        """Whether the row is read although entries arrive: they may be forged."""
        return time.monotonic() - self._read_at >= ROW_SECONDS

    async def read(self) -> None:
        """Read the row, not more often than forged entries may make this client query Postgres."""
        left = self._read_at + ROW_PAUSE_SECONDS - time.monotonic()
        if left > 0:
            await self._pause.wait(left)
        self.row = await self._driver.call(self._read)
        self._read_at = time.monotonic()


async def follow(
    driver: Driver, session: Session, id: UUID, after: str | None, seconds: float | None
) -> AsyncGenerator[StreamEvent, None]:
    """The events of an execution until it is final. Raises ExecutionTimedOut after so many ``seconds``."""
    reading, deadline, signal = Reading(position(after)), Deadline(seconds), driver.signal()
    rows, tail = _RowReader(driver, session, id), TAIL_ENTRIES
    await rows.read()
    async with driver.follower(stream_key(id)) as follower:
        source = StreamSource(follower if rows.row["stream"] else None, signal)
        with driver.watch([id], signal) as watch:
            pause = 0.0  # first read what the stream has
            while True:
                watch.take()  # raises once the client is closed
                entries = await _entries(source, reading.at, pause, rows)
                for at, entry in entries:
                    for event in reading.entry(at, entry):
                        yield event
                is_within = entries and reading.ended != (rows.row["attempt"] if rows.is_final else reading.begun)
                if rows.is_final:
                    tail -= len(entries)
                    if not is_within or tail < 0:
                        break
                    pause = TAIL_SECONDS
                elif is_within and not rows.is_due:
                    pause = 0.0
                else:
                    await rows.read()
                    pause = _pause(rows.row, reading)
                    for event in () if rows.is_final else reading.row(rows.row):
                        yield event
                if deadline.is_over and not rows.is_final:
                    raise await driver.call(partial(session.timed_out, rows.row, seconds))
                pause = pause if deadline.left is None else min(pause, deadline.left)
    for event in await driver.call(lambda: list(_last(session, rows.row, reading))):
        yield event


def _pause(row: Row, reading: Reading) -> float:
    """How long to wait for the next entry after this row."""
    if not Status(row["status"]).is_final:
        return POLL_SECONDS
    return TAIL_SECONDS if reading.begun == row["attempt"] != reading.ended else 0.0


async def _entries(source: StreamSource, after: Position, seconds: float, rows: _RowReader) -> Sequence[Entry]:
    """The stream's next entries, without the entries of attempts that have not begun."""
    entries = await source.read(after, seconds)
    if any(at[0] > rows.row["attempt"] for at, _ in entries):
        await rows.read()  # an attempt is in its row before its worker writes an entry
        for at, _ in entries:
            if at[0] > rows.row["attempt"]:
                source.refuse("attempt")
    return [(at, entry) for at, entry in entries if at[0] <= rows.row["attempt"]]


def _last(session: Session, row: Row, reading: Reading) -> Iterator[StreamEvent]:
    """The remaining events of a final row."""
    status = Status(row["status"])
    yield from reading.row(row)
    try:
        result = recorded_result(session, row)
    except (ExecutionFailed, ExecutionCancelled) as error:
        yield from reading.finish(status, error=error)
        return
    signature = session.signature(row)
    stored = session.sealing.json_values(signature, "outputs", row["result"], id=row["id"])
    yield from reading.recorded([field.name for field in signature.output_fields], stored, result)
    yield from reading.finish(status, value=result)
