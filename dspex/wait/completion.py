"""Waiting for many executions: any of them, all of a batch as they finish, a batch in order.

Hints name the executions to look up in Postgres, in groups. A stale watch makes the caller look up all its
executions; for a batch, which may have millions, a :class:`Sweep` does that in steps.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from numbers import Real
from typing import TypeVar
from uuid import UUID

from dspex.errors import ExecutionTimedOut, FieldError, ValidationError
from dspex.store.lifecycle.batch_ids import execution_id, row_index
from dspex.wait.driver import Driver, Row
from dspex.wait.hints import POLL_SECONDS, Hints

__all__ = [
    "Deadline",
    "IndexSet",
    "Slot",
    "Sweep",
    "any_final",
    "batch_final",
    "check_timeout",
    "groups",
    "in_order",
    "one_final",
]

T = TypeVar("T")

#: A longer wait, of more than three years, has no limit: the clocks of threads end at some point.
NO_LIMIT_SECONDS = 1e8
#: Rows of one query.
GROUP_ROWS = 500
#: Indexes that one step of a sweep looks up.
SWEEP_INDEXES = 10_000
#: The share of the time that sweeps may take.
SWEEP_SHARE = 0.1


def check_timeout(timeout: object) -> None:
    """Raise ValidationError for a ``timeout`` that is not a number of seconds. None is no limit."""
    if timeout is not None and (isinstance(timeout, bool) or not isinstance(timeout, Real) or math.isnan(timeout)):
        raise ValidationError.of("wait", [FieldError("timeout", "a number of seconds, or None", repr(timeout)[:60])])


class Deadline:
    """The end of a wait of so many seconds, or none. Raises ValidationError for what is not a number."""

    def __init__(self, seconds: float | None) -> None:
        check_timeout(seconds)
        self._at = None if seconds is None or seconds > NO_LIMIT_SECONDS else time.monotonic() + seconds

    @property
    def left(self) -> float | None:
        return None if self._at is None else max(self._at - time.monotonic(), 0.0)

    @property
    def is_over(self) -> bool:
        return self.left == 0.0


class IndexSet(Collection[int]):
    """A set of indexes below ``size``, in one byte per possible index. ``full``: it begins with all of them."""

    def __init__(self, size: int, *, full: bool = False) -> None:
        self._marks = bytearray(b"\x01" if full else b"\x00") * size
        self._count = size if full else 0

    def __len__(self) -> int:
        return self._count

    def __contains__(self, index: object) -> bool:
        return isinstance(index, int) and 0 <= index < len(self._marks) and self._marks[index] == 1

    def __iter__(self) -> Iterator[int]:
        index = self.after(-1)
        while index is not None:
            yield index
            index = self.after(index)

    def add(self, index: int) -> bool:
        """Add an index. Returns whether it was new. Raises IndexError when it is not below ``size``."""
        return self._put(index, 1)

    def discard(self, index: int) -> bool:
        """Remove an index. Returns whether it was in the set."""
        return index in self and self._put(index, 0)

    def after(self, index: int) -> int | None:
        """The first index in the set after this one."""
        found = self._marks.find(1, index + 1)
        return None if found < 0 else found

    def _put(self, index: int, mark: int) -> bool:
        changed = self._marks[index] != mark
        if changed:
            self._marks[index] = mark
            self._count += 1 if mark else -1
        return changed


def groups(items: Iterable[T], size: int = GROUP_ROWS) -> Iterator[list[T]]:
    """The items in lists of at most ``size``."""
    source = iter(items)
    while group := list(islice(source, size)):
        yield group


# ------------------------------------------------------------------------------------------------------------- one


async def one_final(driver: Driver, id: UUID, seconds: float | None, *, since: float | None = None) -> Row | None:
    """:func:`any_final` for one execution: its row, or None."""
    deadline, signal = Deadline(seconds), driver.signal()
    with driver.watch_final(id, signal, since=since) as watch:
        while True:
            hints = watch.take()
            if watch.row is not None:
                return watch.row
            if (hints.stale or hints.ids) and (rows := await driver.finals([id])):
                return rows[0]
            if (left := deadline.left) == 0.0:
                return None
            # No timer while a poll, which wakes every watch, comes sooner than the deadline.
            await signal.wait(None if left is None or left > 2 * POLL_SECONDS else left)


# ------------------------------------------------------------------------------------------------------------- any


async def any_final(
    driver: Driver, ids: Collection[UUID], seconds: float | None, *, since: float | None = None
) -> AsyncGenerator[Row, None]:
    """The row of each of these executions as it becomes final; ends with the last, or after so many ``seconds``.

    ``since``: none of them was final at this time of the monotonic clock.
    """
    deadline, waiting, signal = Deadline(seconds), set(ids), driver.signal()
    with driver.watch(waiting, signal, since=since) as watch:
        while waiting:
            for group in groups(_asked(waiting, watch.take())):
                for row in await driver.finals(group):
                    waiting.discard(row["id"])
                    yield row
            if not waiting or deadline.is_over:
                return
            await signal.wait(deadline.left)


def _asked(waiting: Collection[UUID], hints: Hints) -> list[UUID]:
    return list(waiting) if hints.stale else [id for id in dict.fromkeys(hints.ids) if id in waiting]


# -------------------------------------------------------------------------------------------------- as they finish


class Sweep:
    """Looks up all pending executions of a batch, a range at each step, when hints may have been lost.

    ``final_indexes(begin, end)`` queries Postgres. However large the batch, sweeps take a tenth of the time: after a
    sweep the next one is delayed by nine times its duration.
    """

    def __init__(self, driver: Driver, pending: IndexSet, final_indexes: Callable[[int, int], Sequence[int]]) -> None:
        self._driver = driver
        self._pending = pending
        self._final_indexes = final_indexes
        self._position: int | None = None
        self._wanted = False
        self._asked_seconds = 0.0
        self._not_before = 0.0
        self.passes = 0

    @property
    def is_under_way(self) -> bool:
        return self._position is not None

    @property
    def due_in(self) -> float | None:
        """Seconds until the next sweep may begin; None when none is wanted."""
        return max(self._not_before - time.monotonic(), 0.0) if self._wanted else None

    def want(self) -> None:
        self._wanted = True

    async def step(self) -> Sequence[int]:
        """The indexes of the next range that are final."""
        if self._position is None:
            if self.due_in != 0.0:
                return ()
            self._wanted, self._asked_seconds, self._position = False, 0.0, -1
        begin = self._pending.after(self._position)
        if begin is None:
            self._end()
            return ()
        began, end = time.monotonic(), begin + SWEEP_INDEXES
        found = await self._driver.call(lambda: self._final_indexes(begin, end))
        self._asked_seconds += time.monotonic() - began
        self._position = end - 1
        return found

    def _end(self) -> None:
        self._position = None
        self.passes += 1
        self._not_before = time.monotonic() + self._asked_seconds * (1 / SWEEP_SHARE - 1)


async def batch_final(
    driver: Driver,
    batch_id: UUID,
    pending: IndexSet,
    final_indexes: Callable[[int, int], Sequence[int]],
    seconds: float | None,
) -> AsyncGenerator[Row, None]:
    """The row of each pending execution of a batch as it becomes final. Raises ExecutionTimedOut."""
    deadline, signal = Deadline(seconds), driver.signal()
    sweep = Sweep(driver, pending, final_indexes)
    with driver.watch([batch_id], signal) as watch:
        while pending:
            hints = watch.take()
            if hints.stale:
                sweep.want()
            found = [row_index(batch_id, id) for id in hints.ids]
            found += await sweep.step()
            for group in groups(index for index in found if index in pending):
                for row in await driver.finals([execution_id(batch_id, index) for index in group]):
                    if pending.discard(row["batch_index"]):
                        yield row
            if pending and deadline.is_over and sweep.passes:
                raise _timed_out(batch_id, len(pending), seconds)
            if pending and not found and not sweep.is_under_way:
                await signal.wait(_least(deadline.left, sweep.due_in))


def _least(*spans: float | None) -> float | None:
    return min((s for s in spans if s is not None), default=None)


def _timed_out(batch_id: UUID, left: int, seconds: float | None) -> ExecutionTimedOut:
    return ExecutionTimedOut(
        f"{left} executions of batch {batch_id} are not final after {seconds} s; they go on",
        batch_id=str(batch_id),
        left=left,
    )


# -------------------------------------------------------------------------------------------------------- in order


@dataclass(frozen=True, slots=True)
class Slot:
    """A row of a batch: the id of its execution, or the error for which it was rejected."""

    index: int
    id: UUID | None
    error: ValidationError | None = None


async def in_order(
    driver: Driver, batch_id: UUID, source: AsyncIterator[Sequence[Slot]], seconds: float | None, *, window: int
) -> AsyncGenerator[tuple[Slot, Row | None], None]:
    """Each slot, in order, with its execution's final row. Raises ExecutionTimedOut.

    ``source`` is asked for more, a few slots at a time, while fewer than ``window`` are under way.
    """
    deadline, signal = Deadline(seconds), driver.signal()
    slots: deque[Slot] = deque()
    waiting: set[UUID] = set()
    rows: dict[UUID, Row] = {}
    more = True
    with driver.watch([batch_id], signal) as watch:
        while more or slots:
            added: Sequence[Slot] | None = ()
            if more and len(slots) < window:
                added = await anext(source, None)
                more = added is not None
            fresh = [slot.id for slot in added or () if slot.id is not None]
            slots.extend(added or ())
            waiting.update(fresh)
            for group in groups(dict.fromkeys((*fresh, *_asked(waiting, watch.take())))):
                for row in await driver.finals(group):
                    waiting.discard(row["id"])
                    rows[row["id"]] = row
            while slots and (slots[0].id is None or slots[0].id in rows):
                slot = slots.popleft()
                yield slot, rows.pop(slot.id) if slot.id else None
            if slots and deadline.is_over:
                raise _timed_out(batch_id, len(waiting), seconds)
            if slots and not (more and len(slots) < window):
                await signal.wait(deadline.left)
