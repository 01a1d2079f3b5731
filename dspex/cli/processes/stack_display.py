"""The progress of the embedded stack, printed."""

from __future__ import annotations

import threading

from rich.console import Console
from rich.text import Text

from dspex.embedded.stack_progress import StackStep, StepState

__all__ = ["StackProgress"]

_MARKS = {StepState.READY: ("✔", "green"), StepState.FAILED: ("✘", "red"), StepState.STOPPED: ("✔", "dim")}


class StackProgress:
    """Prints a line for each part that is ready, has failed or has stopped; on a terminal also parts in progress.

    Safe to call from several threads.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._lock = threading.Lock()
        self._under_way: dict[str, str] = {}
        self._status = console.status("") if console.is_terminal else None

    def __call__(self, event: StackStep) -> None:
        with self._lock:
            if event.state in _MARKS:
                self._under_way.pop(event.name, None)
                self._console.print(_line(event), soft_wrap=True)
            else:
                self._under_way[event.name] = str(event.state)
            self._show_under_way()

    def _show_under_way(self) -> None:
        if self._status is None:
            return
        if self._under_way:
            self._status.update(", ".join(f"{state} {name}" for name, state in self._under_way.items()))
            self._status.start()
        else:
            self._status.stop()


def _line(event: StackStep) -> Text:
    mark, style = _MARKS[event.state]
    took = f"{event.seconds:5.1f} s" if event.state is not StepState.STOPPED else " stopped"
    return Text.assemble((f"  {mark} ", style), f"{event.name:10} {took}  ", (event.address or event.detail, "dim"))
