"""How far a long command is: a bar on a terminal, a line every few seconds elsewhere; on standard error."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol, Self, TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from dspex.cli.output.console_tables import console

__all__ = ["Meter", "Show"]

LINE_SECONDS = 5.0

T = TypeVar("T")


class Show(Protocol):
    """Told how much is done, and of how much when that was not known before."""

    def __call__(self, done: int, total: int | None = None) -> None: ...


class Meter:
    """Shows one phase after another."""

    def __init__(self) -> None:
        self._console = console(stderr=True)
        self._bars = Progress(
            SpinnerColumn(), TextColumn("{task.description:10}"), BarColumn(), MofNCompleteColumn(),
            TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
            console=self._console, disable=not self._console.is_terminal,
        )  # fmt: skip

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._bars.stop()

    @contextmanager
    def phase(self, name: str, total: int | None, *, done: int = 0) -> Iterator[Show]:
        """Call what it yields with how much is done."""
        task = self._bars.add_task(name, total=total, completed=done)
        lines = _Lines(self._console, name, total, done)
        shown = done

        def show(done: int, total: int | None = None) -> None:
            nonlocal shown
            shown = done
            if self._console.is_terminal:
                self._bars.update(task, completed=done, total=total)
            else:
                lines.show(done, total)

        yield show
        self._end(task, lines, shown)

    def over(self, name: str, items: Sequence[T]) -> Iterator[T]:
        """The items, one after the other, as they are dealt with."""
        with self.phase(name, len(items)) as show:
            for number, item in enumerate(items, 1):
                yield item
                show(number)

    def _end(self, task: TaskID, lines: _Lines, done: int) -> None:
        if self._console.is_terminal:
            self._bars.update(task, total=self._bars.tasks[task].total or 1, completed=done or 1)
        elif lines.printed:
            lines.print(done)


class _Lines:
    def __init__(self, console: Console, name: str, total: int | None, done: int) -> None:
        self.printed = False
        self._total = total
        self._console = console
        self._name = name
        self._first = done
        self._began = self._printed_at = time.monotonic()

    def show(self, done: int, total: int | None) -> None:
        self._total = total or self._total
        if time.monotonic() - self._printed_at >= LINE_SECONDS:
            self.print(done)

    def print(self, done: int) -> None:
        self.printed = True
        now = self._printed_at = time.monotonic()
        rate = (done - self._first) / max(now - self._began, 0.001)
        to_do = (self._total or done) - done
        left = f", {to_do / rate:.0f} s left" if rate and to_do > 0 else ""
        self._console.print(f"{self._name}: {done} of {self._total}, {rate:.0f}/s{left}")
