"""The batcher for threads. It has no thread of its own: of the callers that wait, one carries the statement for all.

A caller that finds no statement under way carries its own at once, unless the last statement was shared: then those who
come within a moment, as the threads of a pool do that begin or were woken together, share this one, too. When a
statement ends, the first of the callers that gathered meanwhile carries the next one, so that no caller works for
others after its own item is done.

An exception may be raised in a caller at any moment: Ctrl-C, a time limit that a signal handler raises. So a turn is
noted before its batch is taken, and a caller that leaves passes on what is not answered. Such an item may be sent
twice, and no other caller waits for ever.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

import psycopg
from sqlalchemy.exc import DBAPIError

from dspex.errors import DspexError
from dspex.store.batching.gathering import Gathering, Hold, PendingItem, concerns_all, copied

__all__ = ["ThreadBatcher"]

T = TypeVar("T")
R = TypeVar("R")

#: How long a caller waits for another one to come. While it does, other threads of the process run.
MOMENT_SECONDS = 0.0003
#: It waits on while in each moment another one comes, and for about so long.
LONGEST_SECONDS = 0.01


#: The errors of a statement. Any other exception was raised in the thread that carried it, and is this thread's alone.
FAULTS = (DspexError, DBAPIError, psycopg.Error)


@dataclass(frozen=True, slots=True, eq=False)
class _Turn(Generic[T, R]):
    """The turn to carry a batch. ``aside``: beside the batches that follow each other."""

    batch: Sequence[PendingItem[T, R]]
    aside: bool = False


class _Inbox(Generic[R]):
    """The outcome of a waiting thread. Before it comes, the thread may get turns."""

    def __init__(self) -> None:
        self._done = False
        self._result: R
        self._error: BaseException | None = None
        self.turns: SimpleQueue[_Turn[Any, R] | None] = SimpleQueue()
        #: The turns that this thread has, and has not ended.
        self.has: list[_Turn[Any, R]] = []

    def done(self) -> bool:
        return self._done

    def set_result(self, result: R, /) -> None:
        self._result = result
        self.leave()

    def set_exception(self, error: BaseException, /) -> None:
        self._error = error
        self.leave()

    def cancel(self) -> bool:
        self.set_exception(CancelledError())
        return True

    def leave(self) -> None:
        """Take no more turns."""
        self._done = True
        self.turns.put(None)

    def value(self) -> R:
        if self._error is not None:
            raise self._error
        return self._result


class ThreadBatcher(Generic[T, R]):
    """Gathers the items of threads and carries them together, one batch at a time.

    ``flush(items, aside)`` returns a result for each item. When it raises an error that may be the fault of an item,
    it is called again for each by itself, ``aside``: beside the batches, so that it may take its time. Items whose
    caller was interrupted may be flushed again.
    ``then(items, results)`` follows while the next batch is under way, and the callers get their results after it.
    """

    def __init__(
        self,
        flush: Callable[[Sequence[T], bool], Sequence[R]],
        gathering: Gathering[T, R],
        *,
        then: Callable[[Sequence[T], Sequence[R]], None] = lambda _items, _results: None,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._flush = flush
        self._then = then
        self._pause = pause
        self._gathering = gathering
        self._lock = threading.Lock()
        #: The batch that is under way, or is about to be.
        self._current: _Turn[T, R] | None = None
        self._last_was_shared = False

    def ask(self, item: T, hold: Hold | None = None) -> R:
        """The result for the item, which shares a statement with the items that wait at the same time. With a ``hold``
        it comes at its end."""
        inbox: _Inbox[R] = _Inbox()
        waiting: PendingItem[T, R] = PendingItem(item, inbox, hold)
        try:
            if self._gathering.is_heavy(item):
                _give(waiting, _Turn([waiting], aside=True))
            else:
                self._add(waiting, inbox)
            while (turn := inbox.turns.get()) is not None:
                self._carry(turn)
                inbox.has.remove(turn)
            return inbox.value()
        except BaseException:
            inbox.leave()
            raise
        finally:
            if inbox.has:  # this thread is interrupted: the others do not wait for it
                self._pass_on(inbox)

    def _add(self, waiting: PendingItem[T, R], inbox: _Inbox[R]) -> None:
        with self._lock:
            self._gathering.add(waiting)
            if self._current is not None:
                return
            beginning: _Turn[T, R] = _Turn([])
            inbox.has.append(beginning)
            self._current = beginning
        if self._last_was_shared:
            self._await_others()
        self._end(beginning)
        inbox.has.remove(beginning)

    def _await_others(self) -> None:
        """Wait until no other caller comes."""
        until, before = time.monotonic() + LONGEST_SECONDS, 0
        while time.monotonic() < until and len(self._gathering) > before and not self._gathering.is_full:
            before = len(self._gathering)
            self._pause(MOMENT_SECONDS)

    def _end(self, turn: _Turn[T, R]) -> None:
        """Give the next batch to its first caller."""
        with self._lock:
            if self._current is turn:
                following: _Turn[T, R] | None = None
                while batch := self._gathering.first():
                    following = _Turn(batch)
                    _give(batch[0], following)
                    if not batch[0].outcome.done():  # else it may have left before it got the turn
                        break
                self._gathering.remove(batch)
                if batch:
                    self._last_was_shared = len(batch) > 1
                self._current = following if batch else None

    def _carry(self, turn: _Turn[T, R]) -> None:
        items = [waiting.item for waiting in turn.batch]
        try:
            results = self._flush(items, turn.aside)
        except FAULTS as error:
            self._end(turn)
            _fail(turn, error)
        else:
            self._end(turn)
            self._finish(turn.batch, items, results)

    def _finish(self, batch: Sequence[PendingItem[T, R]], items: Sequence[T], results: Sequence[R]) -> None:
        try:
            self._then(items, results)
        except FAULTS as error:
            for waiting in batch:
                waiting.fail(copied(error))
        finally:
            for waiting, result in zip(batch, results, strict=True):
                waiting.give(result)

    def _pass_on(self, inbox: _Inbox[R]) -> None:
        """Pass on what a caller leaves behind."""
        for turn in inbox.has:
            with self._lock:
                self._gathering.put_back([waiting for waiting in turn.batch if not waiting.is_answered])
                idle = self._current is None or self._current is turn
                self._current = turn if idle else self._current
            self._end(turn)


def _give(waiting: PendingItem[T, R], turn: _Turn[T, R]) -> None:
    inbox = waiting.outcome
    assert isinstance(inbox, _Inbox)
    inbox.has.append(turn)
    inbox.turns.put(turn)


def _fail(turn: _Turn[T, R], error: Exception) -> None:
    """Raise the error to its callers. If it may be the fault of one of them, each carries its own item."""
    if not turn.aside and not concerns_all(error):
        for waiting in turn.batch:
            _give(waiting, _Turn([waiting], aside=True))
        return
    for waiting in turn.batch:
        waiting.fail(error if len(turn.batch) == 1 else copied(error))
