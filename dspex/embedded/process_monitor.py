"""Keeps the stack's processes running: starts again what died, with a growing delay, and reports it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from dspex.embedded.restarts import Restarts
from dspex.embedded.stack_progress import Reporter, StackStep, StepState
from dspex.errors import DspexError

__all__ = ["MonitoredProcess", "ProcessFailed", "ProcessMonitor"]

log = logging.getLogger(__name__)

_CHECK_SECONDS = 0.1
_FIRST_DELAY_SECONDS = 0.2


class ProcessFailed(DspexError):
    """A process of the embedded stack did not start."""

    code = "process_failed"


class MonitoredProcess(Protocol):
    """A server, a worker or another process that is kept running."""

    @property
    def name(self) -> str: ...

    @property
    def address(self) -> str | None: ...

    @property
    def running(self) -> bool: ...

    def begin(self) -> None:
        """Start it, or start it again. Raises DspexError."""

    def ready(self) -> bool:
        """Whether it can be used. Called repeatedly while it starts, so it must return soon."""

    def stop(self) -> None:
        """End it, and clean up after it if it ended by itself."""

    def evidence(self) -> str:
        """Why it ended: its exit code and the last lines of its log."""


@dataclass
class _Monitored:
    """A process, its state, and when it is started again."""

    process: MonitoredProcess
    state: StepState = StepState.STARTING
    since: float = field(default_factory=time.monotonic)
    restarts: Restarts = field(default_factory=lambda: Restarts(first_delay_seconds=_FIRST_DELAY_SECONDS))
    restart_at: float = 0.0
    reason: str = ""

    def enter(self, state: StepState) -> float:
        """Change the state. Returns how long the one before lasted."""
        now = time.monotonic()
        lasted, self.state, self.since = now - self.since, state, now
        return lasted


class ProcessMonitor:
    """Checks processes in its own thread, between :meth:`start` and :meth:`stop`.

    A process that dies is started again after 0.2 s, then 0.4 s, … up to 30 s; after a minute of running the delays
    begin anew. Each change is passed to ``report``.
    """

    def __init__(self, report: Reporter, *, before_check: Callable[[], None] = lambda: None) -> None:
        self._report = report
        self._before_check = before_check
        self._monitored: list[_Monitored] = []
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="dspex-monitor", daemon=True)

    def adopt(self, process: MonitoredProcess) -> None:
        """Monitor a process that is ready already."""
        self._monitored.append(_Monitored(process, StepState.READY))

    def launch(self, process: MonitoredProcess) -> None:
        """Start a process and monitor it."""
        self._report(StackStep(process.name, StepState.STARTING))
        each = _Monitored(process)
        self._monitored.append(each)
        self._begin(each)

    def monitors(self, process: MonitoredProcess) -> bool:
        return any(each.process is process for each in self._monitored)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Stop monitoring; the processes continue to run."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def await_ready(self, timeout: float) -> None:
        """Wait until every process is ready; raise ProcessFailed when one dies first. Before :meth:`start` only."""
        deadline = time.monotonic() + timeout
        while unready := [each for each in self._monitored if each.state is not StepState.READY]:
            for each in unready:
                self._check(each)
                if each.state is StepState.FAILED:
                    raise ProcessFailed(f"{each.process.name} did not start. {each.reason}")
            if time.monotonic() > deadline:
                names = ", ".join(each.process.name for each in unready)
                last = "\n".join(each.process.evidence() for each in unready)
                raise ProcessFailed(f"not ready after {timeout:.0f} s: {names}\n{last}")
            time.sleep(_CHECK_SECONDS)

    def check(self) -> None:
        """Check each process once; ``before_check`` comes first, and may launch more of them."""
        self._before_check()
        for each in list(self._monitored):
            self._check(each)

    def _run(self) -> None:
        while not self._stopping.wait(_CHECK_SECONDS):
            try:
                self.check()
            except Exception:
                log.exception("a check of the processes failed; monitoring continues")

    def _check(self, each: _Monitored) -> None:
        if each.state is StepState.FAILED:
            if time.monotonic() >= each.restart_at:
                self._restart(each)
        elif not each.process.running:
            self._handle_end(each)
        elif each.state is StepState.STARTING and each.process.ready():
            self._report(
                StackStep(each.process.name, StepState.READY, each.enter(StepState.READY), each.process.address)
            )

    def _handle_end(self, each: _Monitored) -> None:
        reason = each.process.evidence()
        each.process.stop()
        self._fail(each, reason)

    def _fail(self, each: _Monitored, reason: str) -> None:
        was_ready = each.state is StepState.READY
        lasted = each.enter(StepState.FAILED)
        delay = each.restarts.next_delay(ready_seconds=lasted if was_ready else 0.0)
        each.reason, each.restart_at = reason, time.monotonic() + delay
        log.info("%s failed and is started again in %.1f s: %s", each.process.name, delay, reason)
        detail = f"{reason}\nIt is started again in {delay:.1f} s."
        self._report(StackStep(each.process.name, StepState.FAILED, lasted, detail=detail))

    def _restart(self, each: _Monitored) -> None:
        self._report(StackStep(each.process.name, StepState.STARTING))
        each.enter(StepState.STARTING)
        self._begin(each)

    def _begin(self, each: _Monitored) -> None:
        try:
            each.process.begin()
        except DspexError as error:
            self._fail(each, str(error))
