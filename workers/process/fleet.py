"""The fleet: several worker processes under one parent, which keeps their number constant.

``python -m workers.process.fleet --processes N … -- COMMAND`` starts ``COMMAND`` N times, each in a fresh interpreter
that ends when the parent ends, however it ends. A child that

* dies is started again, with a delay that grows until a child has run for a minute;
* retires, because it has used up its memory or its executions (:mod:`workers.process.recycling`), is replaced at once,
  while it finishes what it runs;
* sends no heartbeat is killed, because C code keeps its interpreter's lock (:mod:`workers.process.fleet_pipe`);
* dies while it imports a program's code has recorded that, so that later children start without the program
  (:mod:`workers.adapters.import_record`);
* ends with exit code 0 was stopped by ``celery control shutdown`` or a signal, and is not replaced.

SIGTERM and SIGINT stop all children warm; a second one, or SIGQUIT, stops them cold. The exit code is 0 when all ended
in order. The parent imports very little and has no threads and no connections, so that it stays small and reliable.
"""

from __future__ import annotations

import argparse
import logging
import os
import select
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from enum import IntEnum
from types import FrameType

from dspex.embedded.child_process import ChildProcess
from dspex.embedded.restarts import Restarts
from workers.process.fleet_pipe import EXIT_RETIRED, IMPORTS, PLACE, READY, RETIRING, VARIABLE

__all__ = ["Fleet"]

FIRST_DELAY_SECONDS = 0.5
#: A child is silent when so many checks in a row found no heartbeat: the time alone may have passed while the parent or
#: the whole machine stood still.
CHECKS = 10

log = logging.getLogger("dspex.fleet")


class Stop(IntEnum):
    """How the children are to stop."""

    NO = 0
    WARM = 1
    COLD = 2


class FleetChild:
    """One worker process. ``place`` is its place in the fleet, which its replacement takes over."""

    def __init__(self, place: int, name: str, command: Sequence[str], imports: str) -> None:
        self.place = place
        self.name = name
        self.ready_at: float | None = None
        self.retiring = False
        #: How many checks in a row found no heartbeat; None before the first one.
        self.silent_checks: int | None = None
        self._stop = Stop.NO
        reading_end, writing_end = os.pipe()
        os.set_blocking(reading_end, False)
        self.pipe: int | None = reading_end
        self.process = ChildProcess(
            name=name,
            argv=[part.replace("{name}", name) for part in command],
            env=os.environ | {VARIABLE: str(writing_end), PLACE: str(place), IMPORTS: imports},
        )
        self.process.start(inherit=writing_end)
        os.close(writing_end)
        self.pid = self.process.pid

    @property
    def ready_seconds(self) -> float:
        """For how long it has been ready; 0 before that."""
        return 0.0 if self.ready_at is None else time.monotonic() - self.ready_at

    def read_events(self) -> bytes:
        """The events that it has written since the last call."""
        try:
            events = b"" if self.pipe is None else os.read(self.pipe, 64)
        except BlockingIOError:
            return b""
        if events:
            self.silent_checks = 0
        else:  # it has ended
            self.close()
        return events

    def stop(self, how: Stop) -> None:
        """Send it the signal to stop, once for each way to stop."""
        if self._stop < how:
            self._stop = how
            self.process.send_signal(signal.SIGTERM if how is Stop.WARM else signal.SIGQUIT)

    def close(self) -> None:
        if self.pipe is not None:
            os.close(self.pipe)
            self.pipe = None
        self.process.close()


class Fleet:
    """Keeps ``size`` children running.

    Children that do not stop within ``patience_seconds`` are killed, and so are those that send no heartbeat for
    ``silence_seconds``.
    """

    def __init__(
        self, size: int, command: Sequence[str], *, name: str, patience_seconds: float, silence_seconds: float
    ) -> None:
        self._check_interval_seconds = silence_seconds / CHECKS
        self._check_at = time.monotonic()
        self._command = command
        self._name = name
        self._patience_seconds = patience_seconds
        self._children: list[FleetChild] = []
        #: The places that need a child, and the time from which each may have one.
        self._vacant: dict[int, float] = dict.fromkeys(range(size), 0.0)
        self._restarts = [Restarts(first_delay_seconds=FIRST_DELAY_SECONDS) for _ in range(size)]
        self._started = 0
        self._stop = Stop.NO
        self._kill_at: float | None = None
        self._exit_code = 0
        self._wakeup, self._wakeup_writer = os.pipe()
        self._imports = tempfile.NamedTemporaryFile(prefix="dspex-imports-")  # noqa: SIM115 - kept until this ends

    def run(self) -> int:
        """Run until a signal stops the fleet, or until no child is left. Returns the exit code."""
        self._handle_signals()
        while self._children or (self._vacant and not self._stop):
            self._fill_places()
            self._wait()
            self._remove_ended()
            for child in self._children:
                child.stop(self._stop)
            self._kill_silent_children()
            self._kill_late_children()
        return self._exit_code

    def _handle_signals(self) -> None:
        for end in (self._wakeup, self._wakeup_writer):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(self._wakeup_writer, warn_on_full_buffer=False)  # every signal ends the wait
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
            signal.signal(number, self._on_stop_signal)

    def _on_stop_signal(self, number: int, _frame: FrameType | None) -> None:
        self._stop = Stop.COLD if self._stop or number == signal.SIGQUIT else Stop.WARM
        self._kill_at = time.monotonic() + self._patience_seconds

    def _fill_places(self) -> None:
        for place, at in list(self._vacant.items()):
            if not self._stop and at <= time.monotonic():
                del self._vacant[place]
                self._started += 1
                self._children.append(
                    FleetChild(place, f"{self._name}-{self._started}", self._command, self._imports.name)
                )

    def _wait(self) -> None:
        """Wait for a signal, an event of a child, or the time of the next start, check or kill."""
        due = [self._check_at, *([] if self._stop else self._vacant.values())]
        due += [self._kill_at] if self._kill_at is not None else []
        timeout = max(min(due) - time.monotonic(), 0.0)
        pipes = {child.pipe: child for child in self._children if child.pipe is not None}
        readable, _, _ = select.select([self._wakeup, *pipes], [], [], timeout)
        for end in readable:
            if end == self._wakeup:
                os.read(self._wakeup, 4096)
            else:
                self._handle_events(pipes[end])

    def _handle_events(self, child: FleetChild) -> None:
        events = child.read_events()
        if READY in events:
            child.ready_at = time.monotonic()
            log.info("%s is ready (pid %s)", child.name, child.pid)
        if RETIRING in events:
            log.info("%s retires (pid %s): it is replaced, and finishes what it runs", child.name, child.pid)
            child.retiring = True
            self._vacate(child.place)

    def _vacate(self, place: int, *, after_seconds: float = 0.0) -> None:
        self._vacant[place] = time.monotonic() + after_seconds

    def _remove_ended(self) -> None:
        for child in [*self._children]:
            if (code := child.process.exit_code) is not None:
                self._handle_events(child)  # those that it wrote before it ended
                self._children.remove(child)
                child.close()
                self._handle_end(child, code)

    def _handle_end(self, child: FleetChild, code: int) -> None:
        in_order = code == (EXIT_RETIRED if child.retiring else 0)
        ended = f"{child.name} (pid {child.pid}) ended with {code}"
        if self._stop or child.retiring:
            log.log(logging.INFO if in_order else logging.WARNING, "%s", ended)
            # A child that was stopped before it was ready had nothing to hand back.
            self._exit_code |= bool(self._stop and child.ready_at and code not in (0, EXIT_RETIRED))
        elif in_order:
            log.warning("%s: it was stopped, and is not replaced", ended)
        else:
            delay = self._restarts[child.place].next_delay(ready_seconds=child.ready_seconds)
            log.error("%s: another is started in %g s", ended, delay)
            self._vacate(child.place, after_seconds=delay)

    def _kill_silent_children(self) -> None:
        if time.monotonic() < self._check_at:
            return
        self._check_at = time.monotonic() + self._check_interval_seconds
        for child in self._children:
            if child.silent_checks is not None:
                child.silent_checks += 1
                if child.silent_checks == CHECKS:
                    log.error(
                        "%s (pid %s) has sent no heartbeat for %g s: it is killed",
                        child.name, child.pid, CHECKS * self._check_interval_seconds,
                    )  # fmt: skip
                    child.process.kill()

    def _kill_late_children(self) -> None:
        if self._kill_at is not None and time.monotonic() >= self._kill_at:
            for child in self._children:
                log.error("%s (pid %s) does not stop: it is killed", child.name, child.pid)
                child.process.kill()
            self._kill_at, self._exit_code = None, 1


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--processes", type=int, required=True)
    parser.add_argument(
        "--name", required=True, help="each child's name is this and a number, for {name} in the command"
    )
    parser.add_argument("--patience-seconds", type=float, required=True)
    parser.add_argument("--silence-seconds", type=float, required=True)
    parser.add_argument("--loglevel", default="INFO")
    parser.add_argument("command", nargs="+")
    options = parser.parse_args()
    logging.basicConfig(level=options.loglevel.upper(), format="%(asctime)s %(levelname)-7s %(name)s: %(message)s")
    fleet = Fleet(
        options.processes, options.command, name=options.name, patience_seconds=options.patience_seconds,
        silence_seconds=options.silence_seconds,
    )  # fmt: skip
    return fleet.run()


if __name__ == "__main__":
    sys.exit(main())
