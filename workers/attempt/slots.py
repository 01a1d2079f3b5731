"""Slots: how the executions that a worker received share what it can run at once.

The most urgent go first. Among equals, the program with the fewest running goes first, so a program with hundreds
waiting does not keep out a program with one. Within a program, what is of a backlog goes last, so a tenant with
hundreds waiting does not keep out a tenant with one. A program with nothing running does not wait for slots that others
hold for long: a small reserve beyond the concurrency is for such programs, and for what is not of a waiting backlog of
its program: one until another of the program ends.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable

__all__ = ["FairSlots"]

#: The reserve is the concurrency divided by this, and at least one.
RESERVE_PART = 20

Start = Callable[[], None]


class FairSlots:
    """``throttled(program)``: whether another execution of it would only wait for a limit; see :meth:`wake`.

    All methods belong to the loop's thread.
    """

    def __init__(self, concurrency: int, *, throttled: Callable[[str], bool] = lambda _: False) -> None:
        self._size(concurrency)
        self._throttled = throttled
        self._running: Counter[str] = Counter()
        self._taken = 0
        #: Programs one of whose few began in the reserve, since when none of theirs has ended.
        self._in_reserve: set[str] = set()
        self._closed = False
        self._lines: defaultdict[tuple[int, str, bool], deque[Start]] = defaultdict(deque)

    def ask(self, program: str, priority: int, starts: Iterable[Start], *, bulk: bool = False) -> None:
        """Call each of ``starts`` with a slot of its own, now or later; 0 is the most urgent priority, and ``bulk`` are
        of a backlog.

        A slot is held until :meth:`release`.
        """
        waiting = [*starts]
        if waiting:
            self._lines[priority, program, bulk].extend(waiting)
            self.wake()

    def release(self, program: str) -> None:
        self._taken -= 1
        self._in_reserve.discard(program)
        self._running[program] -= 1
        if not self._running[program]:
            del self._running[program]
        self.wake()

    def resize(self, concurrency: int) -> None:
        """Let up to so many run at once from now on; what runs beyond that goes on."""
        self._size(concurrency)
        self.wake()

    def close(self) -> None:
        """Give out no slot until :meth:`open`; those that are held stay."""
        self._closed = True

    def open(self) -> None:
        self._closed = False
        self.wake()

    def _size(self, concurrency: int) -> None:
        self.concurrency = concurrency
        self._most = concurrency + max(concurrency // RESERVE_PART, 1)

    def wake(self) -> None:
        """Give out the free slots. Call it when a program is no longer throttled."""
        while (line := self._next()) is not None:
            waiting = self._lines[line]
            start = waiting.popleft()
            if not waiting:
                del self._lines[line]
            if self._taken >= self.concurrency and self._running[line[1]]:
                self._in_reserve.add(line[1])
            self._taken += 1
            self._running[line[1]] += 1
            start()

    def _next(self) -> tuple[int, str, bool] | None:
        """The priority and the program to start next, if there is a slot for it."""
        if self._closed or not self._lines or self._taken >= self._most:
            return None
        if len(self._lines) == 1:
            (line,) = self._lines
            may_start = self._taken < self.concurrency or self._may_use_reserve(*line[1:])
            return line if may_start and not self._throttled(line[1]) else None
        lines = [line for line in self._lines if not self._throttled(line[1])]
        if self._taken >= self.concurrency:
            lines = [line for line in lines if self._may_use_reserve(*line[1:])]
        # The lines are in the order in which they began to wait, so that equals take turns.
        return min(lines, key=lambda line: (line[0], self._running[line[1]], line[2]), default=None)

    def _may_use_reserve(self, program: str, bulk: bool) -> bool:
        """One that has nothing running may; and beside a waiting backlog of its own program, one at a time."""
        if not self._running[program]:
            return True
        if bulk or program in self._in_reserve:
            return False
        return any(line[1] == program and line[2] for line in self._lines)
