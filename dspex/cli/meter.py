"""How far a long command is: a bar on a terminal, a line every few seconds elsewhere; on standard error."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Self

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

__all__ = ["Meter"]

LINE_SECONDS = 5.0


class Meter:
    """Shows one phase after another."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
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
    def phase(self, name: str, total: int | None, *, done: int = 0) -> Iterator[Callable[[int], None]]:
        """Call what it yields with how much is done."""
        task = self._bars.add_task(name, total=total, completed=done)
        lines = _Lines(self._console, name, total, done)
        shown = done

        def show(now_done: int) -> None:
            nonlocal shown
            shown = now_done
            if self._console.is_terminal:
                self._bars.update(task, completed=now_done)
            else:
                lines.show(now_done)

        yield show
        self._end(task, lines, shown)

    def _end(self, task: TaskID, lines: _Lines, done: int) -> None:
        if self._console.is_terminal:
            self._bars.update(task, total=self._bars.tasks[task].total or 1, completed=done or 1)
        elif lines.total:
            lines.print(done)


class _Lines:
    def __init__(self, console: Console, name: str, total: int | None, done: int) -> None:
        self.total = total
        self._console = console
        self._name = name
        self._first = done
        self._began = self._printed_at = time.monotonic()

    def show(self, done: int) -> None:
        if time.monotonic() - self._printed_at >= LINE_SECONDS:
            self.print(done)

    def print(self, done: int) -> None:
        now = self._printed_at = time.monotonic()
        rate = (done - self._first) / max(now - self._began, 0.001)
        left = f", {((self.total or 0) - done) / rate:.0f} s left" if rate and self.total and done < self.total else ""
        self._console.print(f"{self._name}: {done} of {self.total}, {rate:.0f}/s{left}", highlight=False)
