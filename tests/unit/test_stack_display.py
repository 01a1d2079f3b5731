"""The display of the stack's progress on a terminal, which is a real one (a pty)."""

from __future__ import annotations

import os
import pty
import re
from collections.abc import Iterator
from typing import NamedTuple, TextIO

import pytest
from rich.console import Console

from dspex.cli.output.console_tables import console as new_console
from dspex.cli.processes.stack_display import StackProgress
from dspex.embedded.stack_progress import StackStep, StepState

HIDE_CURSOR, SHOW_CURSOR = "\x1b[?25l", "\x1b[?25h"


class Terminal(NamedTuple):
    """Both ends of a pty: what a program writes to ``inner`` is shown."""

    outer: int
    inner: TextIO

    def console(self) -> Console:
        console = new_console()
        console.file = self.inner
        return console

    def shown(self) -> str:
        self.inner.flush()
        os.set_blocking(self.outer, False)
        parts = []
        try:
            while part := os.read(self.outer, 65536):
                parts.append(part)
        except BlockingIOError:
            pass
        return b"".join(parts).decode()


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    outer, inner = pty.openpty()
    monkeypatch.setenv("TERM", "xterm")
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    with os.fdopen(inner, "w") as file:
        yield Terminal(outer, file)
    os.close(outer)


def test_parts_start_while_something_else_is_under_way(terminal: Terminal) -> None:
    """As in the demo: the model starts while the first answer is waited for, and all parts stop at the end."""
    with StackProgress(terminal.console()) as progress:
        for name in ("postgres", "worker-1"):
            progress(StackStep(name, StepState.STARTING))
            progress(StackStep(name, StepState.READY, 0.1))
        with progress.during("waiting for the answer"):
            progress(StackStep("model", StepState.STARTING))
            progress(StackStep("model", StepState.READY, 0.1))
        for name in ("worker-1", "postgres"):
            progress(StackStep(name, StepState.STOPPING))
        for name in ("worker-1", "postgres"):
            progress(StackStep(name, StepState.STOPPED))
    shown = terminal.shown()
    lines = [line for line in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown).split("\r\n") if re.match(r"\s+✔ ", line)]
    assert [line.split()[1] for line in lines] == ["postgres", "worker-1", "model", "worker-1", "postgres"]
    assert shown.rindex(SHOW_CURSOR) > shown.rindex(HIDE_CURSOR)


def test_a_start_that_fails_leaves_no_display(terminal: Terminal) -> None:
    def fail() -> None:
        with StackProgress(terminal.console()) as progress:
            progress(StackStep("worker-1", StepState.STARTING))
            raise ConnectionError

    with pytest.raises(ConnectionError):
        fail()
    shown = terminal.shown()
    assert shown.rindex(SHOW_CURSOR) > shown.rindex(HIDE_CURSOR)
