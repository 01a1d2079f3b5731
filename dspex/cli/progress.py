"""How the embedded stack's progress looks in a terminal."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from dspex.embedded.progress import Progress, State

__all__ = ["StackProgress"]

_MARKS = {State.READY: ("✔", "green"), State.FAILED: ("✘", "red"), State.STOPPED: ("✔", "dim")}


class StackProgress:
    """Prints a line for each part that is ready, has failed or has stopped; on a terminal also what is under way."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def __call__(self, event: Progress) -> None:
        if event.state in _MARKS:
            mark, style = _MARKS[event.state]
            took = f"{event.seconds:5.1f} s" if event.state is not State.STOPPED else " stopped"
            line = Text.assemble(
                (f"  {mark} ", style), f"{event.name:10} {took}  ", (event.address or event.detail, "dim")
            )
            self._console.print(line, soft_wrap=True)
