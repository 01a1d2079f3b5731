"""Gathering: items that wait at the same time share one statement.

A statement over 50 executions costs Postgres little more than one over a single execution. While one statement is
under way, the next items gather. An item that finds no statement under way is sent at once, so no item waits for a
timer or for company.

Producers and workers share this: :class:`dspex.store.batching.thread_batcher.ThreadBatcher` serves threads,
:class:`dspex.store.batching.loop_batcher.LoopBatcher` the tasks of an event loop. The batchers of a worker
(workers/attempt/batcher.py) keep what Postgres refuses for now, and send it again.
"""

from __future__ import annotations

import copy
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Generic, Protocol, TypeVar

from dspex.errors import BackendUnavailable, ConfigurationError, DspexError, SchemaOutdated

__all__ = ["Gathering", "Hold", "PendingItem", "Promise", "concerns_all", "copied"]

T = TypeVar("T")
R = TypeVar("R")
Given_contra = TypeVar("Given_contra", contravariant=True)


class Promise(Protocol[Given_contra]):
    """What the caller waits for: a future of a loop, or the inbox of a thread."""

    def done(self) -> bool: ...

    def set_result(self, result: Given_contra, /) -> None: ...

    def set_exception(self, error: BaseException, /) -> None: ...

    def cancel(self) -> bool: ...


class Hold:
    """Keeps the result of an item back until it ends, so that a caller who waits for something else, too, is woken
    once. Errors, and None for an item for which nothing was done, are not kept back. Any thread may end it.
    """

    def __init__(self) -> None:
        #: Since when there is a result, by the monotonic clock; None without one.
        self.since: float | None = None
        self._give: Callable[[], None] | None = None
        self._ended = False

    def keep(self, give: Callable[[], None]) -> None:
        """Have the result given at the end."""
        self.since = time.monotonic()
        self._give = give
        if self._ended:
            give()

    def end(self) -> None:
        """Give the result: at once, or as soon as there is one."""
        self._ended = True
        if self._give is not None:
            self._give()


@dataclass(slots=True, eq=False)
class PendingItem(Generic[T, R]):
    """An item and its outcome. ``refusals``: how often it was refused by itself; ``alone``: it is sent by itself;
    ``is_held``: its result is there, and is held back."""

    item: T
    outcome: Promise[R]
    hold: Hold | None = None
    refusals: int = 0
    alone: bool = False
    is_held: bool = False

    @property
    def is_answered(self) -> bool:
        return self.is_held or self.outcome.done()

    def give(self, result: R) -> None:
        if self.hold is not None and result is not None:
            hold, self.hold = self.hold, None
            self.is_held = True
            hold.keep(partial(self.give, result))
        elif not self.outcome.done():
            self.outcome.set_result(result)

    def fail(self, error: BaseException) -> None:
        if not self.outcome.done():
            self.outcome.set_exception(error)

    def cancel(self) -> None:
        self.outcome.cancel()


class Gathering(Generic[T, R]):
    """The items that wait, in order. At most ``most`` of them share a statement, and at most ``most_weight`` in all;
    without ``weight`` they have none."""

    def __init__(self, most: int, *, weight: Callable[[T], int] | None = None, most_weight: int = 0) -> None:
        self._most = most
        self._weight = weight
        self._most_weight = most_weight
        self._waiting: deque[PendingItem[T, R]] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def is_full(self) -> bool:
        """Whether no other item would share the next statement."""
        return len(self._waiting) >= self._most

    def is_heavy(self, item: T) -> bool:
        """Whether the item is too heavy to share a statement: it goes by itself, beside the others."""
        return self._weight is not None and self._weight(item) > self._most_weight

    def add(self, waiting: PendingItem[T, R]) -> None:
        self._waiting.append(waiting)

    def put_back(self, batch: Sequence[PendingItem[T, R]], *, alone: bool = False) -> None:
        """Have these be the next, unless they wait already; ``alone``: each of them by itself."""
        for waiting in batch:
            waiting.alone = waiting.alone or alone
        there = set(self._waiting)
        self._waiting.extendleft(waiting for waiting in reversed(batch) if waiting not in there)

    def take(self) -> list[PendingItem[T, R]]:
        """Remove the next items that share a statement, or one that goes by itself. Callers that left are dropped."""
        batch = self.first()
        self.remove(batch)
        return batch

    def first(self) -> list[PendingItem[T, R]]:
        """What :meth:`take` would remove."""
        batch: list[PendingItem[T, R]] = []
        weight = 0
        for waiting in self._waiting:
            if waiting.outcome.done():
                continue
            if self._weight is not None:
                weight += self._weight(waiting.item)
            if batch and (waiting.alone or batch[0].alone or weight > self._most_weight):
                break
            batch.append(waiting)
            if len(batch) == self._most:
                break
        return batch

    def remove(self, batch: Sequence[PendingItem[T, R]]) -> None:
        """Remove what :meth:`first` returned."""
        taken = set(batch)
        while self._waiting and (self._waiting[0] in taken or self._waiting[0].outcome.done()):
            self._waiting.popleft()

    def take_all(self) -> Sequence[PendingItem[T, R]]:
        """Everything that waits."""
        taken = list(self._waiting)
        self._waiting.clear()
        return taken


def concerns_all(error: BaseException) -> bool:
    """Whether the error is the same for every item: the backend is away, or this client may not use it.

    Any other error may be the fault of one item, so that each is sent by itself. When it is not known whether a
    statement was carried out, no other must follow, as its error would say that nothing was saved.
    """
    if isinstance(error, BackendUnavailable):
        return "sqlstate" not in error.details or error.details.get("saved") == "unknown"
    return isinstance(error, SchemaOutdated | ConfigurationError)


def copied(error: Exception) -> Exception:
    """The error for another caller: a raised exception belongs to one of them, as it collects a traceback."""
    if not isinstance(error, DspexError):
        return error
    own = copy.copy(error)
    own.__cause__ = error.__cause__
    return own
