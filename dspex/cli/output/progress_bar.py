"""Progress of long commands, on standard error: bars on a terminal, elsewhere a line every few seconds."""

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

__all__ = ["OnProgress", "ProgressBars"]

LINE_SECONDS = 5.0

T = TypeVar("T")


class OnProgress(Protocol):
    """Called with the number of finished items, and with the total when it was not known before."""

    def __call__(self, done: int, total: int | None = None) -> None: ...


class ProgressBars:
    """Shows the phases of a command, one after another."""

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
    def phase(self, name: str, total: int | None, *, done: int = 0) -> Iterator[OnProgress]:
        """Show a phase while the block runs. Call the function it yields with the number of finished items."""
        task = self._bars.add_task(name, total=total, completed=done)
        lines = _ProgressLines(self._console, name, total, done)
        shown = done

        def on_progress(done: int, total: int | None = None) -> None:
            nonlocal shown
            shown = done
            if self._console.is_terminal:
                self._bars.update(task, completed=done, total=total)
            else:
                lines.update(done, total)

        yield on_progress
        self._end(task, lines, shown)

    def over(self, name: str, items: Sequence[T]) -> Iterator[T]:
        """Iterate over items, and count each as finished when the next is asked for."""
        with self.phase(name, len(items)) as on_progress:
            for number, item in enumerate(items, 1):
                yield item
                on_progress(number)

    def _end(self, task: TaskID, lines: _ProgressLines, done: int) -> None:
        if self._console.is_terminal:
            self._bars.update(task, total=self._bars.tasks[task].total or 1, completed=done or 1)
        elif lines.printed:
            lines.print(done)


class _ProgressLines:
    """The progress of one phase where there is no terminal."""

    def __init__(self, console: Console, name: str, total: int | None, done: int) -> None:
        self.printed = False
        self._total = total
        self._console = console
        self._name = name
        self._first = done
        self._began = self._printed_at = time.monotonic()

    def update(self, done: int, total: int | None) -> None:
        self._total = total or self._total
        if time.monotonic() - self._printed_at >= LINE_SECONDS:
            self.print(done)

    def print(self, done: int) -> None:
        self.printed = True
        now = self._printed_at = time.monotonic()
        rate = (done - self._first) / max(now - self._began, 0.001)
        remaining = (self._total or done) - done
        left = f", {remaining / rate:.0f} s left" if rate and remaining > 0 else ""
        self._console.print(f"{self._name}: {done} of {self._total}, {rate:.0f}/s{left}")
