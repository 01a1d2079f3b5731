"""Keeps processes running: starts again what died, later each time, and reports it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from dspex.embedded.stack_progress import Reporter, StackStep, StepState
from dspex.errors import DspexError

__all__ = ["MonitoredProcess", "ProcessFailed", "ProcessMonitor"]

log = logging.getLogger(__name__)

_LOOK_SECONDS = 0.1
_FIRST_DELAY = 0.2
_LONGEST_DELAY = 30.0
# Whoever ran for so long did not die of what it died of before.
_STEADY_SECONDS = 60.0


class ProcessFailed(DspexError):
    """A process of the embedded stack did not come up."""

    code = "process_failed"


class MonitoredProcess(Protocol):
    """Something that is kept running: a server, a worker, …"""

    @property
    def name(self) -> str: ...

    @property
    def address(self) -> str | None: ...

    @property
    def running(self) -> bool: ...

    def begin(self) -> None:
        """Start it, or start it again. Raises DspexError."""

    def ready(self) -> bool:
        """Whether it can be used; asked again and again while it starts, so it must answer soon."""

    def stop(self) -> None:
        """End it, and whatever it left behind when it ended by itself."""

    def evidence(self) -> str:
        """Why it ended: its exit code and its last words."""


@dataclass
class _Monitored:
    unit: MonitoredProcess
    state: StepState = StepState.STARTING
    since: float = field(default_factory=time.monotonic)
    failures: int = 0
    again_at: float = 0.0
    why: str = ""

    @property
    def delay(self) -> float:
        return float(min(_FIRST_DELAY * 2 ** (self.failures - 1), _LONGEST_DELAY))

    def enter(self, state: StepState) -> float:
        """Change the state; returns how long the one before lasted."""
        now = time.monotonic()
        lasted, self.state, self.since = now - self.since, state, now
        return lasted


class ProcessMonitor:
    """Watches units from a thread of its own, between :meth:`start` and :meth:`stop`.

    A unit that dies is started again after 0.2 s, then 0.4 s, … up to 30 s; after a minute of running the delays begin
    anew. What happens is told to ``report``.
    """

    def __init__(self, report: Reporter, *, on_look: Callable[[], None] = lambda: None) -> None:
        self._report = report
        self._on_look = on_look
        self._watches: list[_Monitored] = []
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="dspex-monitor", daemon=True)

    def adopt(self, unit: MonitoredProcess) -> None:
        """Watch a unit that is ready already."""
        self._watches.append(_Monitored(unit, StepState.READY))

    def launch(self, unit: MonitoredProcess) -> None:
        """Start a unit and watch it."""
        self._report(StackStep(unit.name, StepState.STARTING))
        watch = _Monitored(unit)
        self._watches.append(watch)
        self._begin(watch)

    def watches(self, unit: MonitoredProcess) -> bool:
        return any(watch.unit is unit for watch in self._watches)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Stop watching; the units go on running."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def await_ready(self, timeout: float) -> None:
        """Wait until every unit is ready; raise ProcessFailed when one dies instead. Before :meth:`start` only."""
        deadline = time.monotonic() + timeout
        while unready := [watch for watch in self._watches if watch.state is not StepState.READY]:
            for watch in unready:
                self._look(watch)
                if watch.state is StepState.FAILED:
                    raise ProcessFailed(f"{watch.unit.name} did not come up. {watch.why}")
            if time.monotonic() > deadline:
                names = ", ".join(watch.unit.name for watch in unready)
                last = "\n".join(watch.unit.evidence() for watch in unready)
                raise ProcessFailed(f"not ready after {timeout:.0f} s: {names}\n{last}")
            time.sleep(_LOOK_SECONDS)

    def look(self) -> None:
        """One round over all units; ``on_look`` first, which may launch more of them."""
        self._on_look()
        for watch in list(self._watches):
            self._look(watch)

    def _run(self) -> None:
        while not self._stopping.wait(_LOOK_SECONDS):
            try:
                self.look()
            except Exception:
                log.exception("watching the processes went wrong; watching goes on")

    def _look(self, watch: _Monitored) -> None:
        if watch.state is StepState.FAILED:
            if time.monotonic() >= watch.again_at:
                self._again(watch)
        elif not watch.unit.running:
            self._died(watch)
        elif watch.state is StepState.STARTING and watch.unit.ready():
            self._report(StackStep(watch.unit.name, StepState.READY, watch.enter(StepState.READY), watch.unit.address))

    def _died(self, watch: _Monitored) -> None:
        why = watch.unit.evidence()
        watch.unit.stop()
        self._failed(watch, why)

    def _failed(self, watch: _Monitored, why: str) -> None:
        was_ready = watch.state is StepState.READY
        lasted = watch.enter(StepState.FAILED)
        watch.why = why
        watch.failures = 1 if was_ready and lasted > _STEADY_SECONDS else watch.failures + 1
        watch.again_at = time.monotonic() + watch.delay
        log.info("%s failed, is started again in %.1f s: %s", watch.unit.name, watch.delay, why)
        detail = f"{why}\nIt is started again in {watch.delay:.1f} s."
        self._report(StackStep(watch.unit.name, StepState.FAILED, lasted, detail=detail))

    def _again(self, watch: _Monitored) -> None:
        self._report(StackStep(watch.unit.name, StepState.STARTING))
        watch.enter(StepState.STARTING)
        self._begin(watch)

    def _begin(self, watch: _Monitored) -> None:
        try:
            watch.unit.begin()
        except DspexError as error:
            self._failed(watch, str(error))
