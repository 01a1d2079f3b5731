"""The progress of the embedded stack, printed."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

from rich.console import Console
from rich.status import Status
from rich.text import Text

from dspex.embedded.stack_progress import StackStep, StepState

__all__ = ["StackProgress"]

_MARKS = {StepState.READY: ("✔", "green"), StepState.FAILED: ("✘", "red"), StepState.STOPPED: ("✔", "dim")}


class StackProgress:
    """Prints a line for each part that is ready, has failed or has stopped; on a terminal also what is under way.

    Rich cannot show two live displays of one console, nor start one again that has stopped beside another. So this
    object has the only one: whatever else is under way is shown with :meth:`during`. Safe to call from several
    threads. Close it, or use it as a context manager: an open display hides the cursor.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._lock = threading.Lock()
        self._under_way: dict[str, str] = {}
        self._status: Status | None = None

    def __call__(self, event: StackStep) -> None:
        with self._lock:
            if event.state in _MARKS:
                self._under_way.pop(event.name, None)
                self._console.print(_line(event), soft_wrap=True)
            else:
                self._under_way[event.name] = f"{event.state} {event.name}"
            self._show_under_way()

    @contextmanager
    def during(self, text: str) -> Iterator[None]:
        """Show a text while the block runs."""
        with self._lock:
            self._under_way[text] = text
            self._show_under_way()
        try:
            yield
        finally:
            with self._lock:
                self._under_way.pop(text, None)
                self._show_under_way()

    def close(self) -> None:
        """End the live display."""
        with self._lock:
            self._under_way.clear()
            self._show_under_way()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _show_under_way(self) -> None:
        if not self._console.is_terminal:
            return
        text = ", ".join(self._under_way.values())
        if self._status is not None and text:
            self._status.update(text)
        elif text:
            self._status = self._console.status(text)
            self._status.start()
        elif self._status is not None:
            self._status.stop()
            self._status = None


def _line(event: StackStep) -> Text:
    mark, style = _MARKS[event.state]
    took = f"{event.seconds:5.1f} s" if event.state is not StepState.STOPPED else " stopped"
    return Text.assemble((f"  {mark} ", style), f"{event.name:10} {took}  ", (event.address or event.detail, "dim"))
