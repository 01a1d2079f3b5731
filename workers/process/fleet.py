"""The fleet: several worker processes under one parent, which keeps as many running.

``python -m workers.process.fleet --processes N … -- COMMAND`` starts ``COMMAND`` N times, each a fresh interpreter
that ends when this process does, however it ends. A child that

* dies is started again, later each time until one has stayed up for a minute;
* retires (it has used up its memory or its executions, see :mod:`workers.process.recycling`) is replaced at once,
while it still   finishes what it runs;
* ends in order was told to, by ``celery control shutdown`` or a signal: it is not replaced.

SIGTERM and SIGINT stop all of them warm; a second one, or SIGQUIT, cold. The exit code is 0 when all ended in order.
The parent imports next to nothing and has no threads and no connections, so it stays small and has little to die of.
"""

from __future__ import annotations

import argparse
import logging
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from types import FrameType

from dspex.embedded.child_process import launch_command
from workers.process.fleet_pipe import EXIT_RETIRED, PLACE, READY, RETIRING, VARIABLE

__all__ = ["Fleet"]

FIRST_DELAY_SECONDS = 0.5
LONGEST_DELAY_SECONDS = 30.0
#: Whoever was ready for so long does not die of what its predecessor died of.
STEADY_SECONDS = 60.0

#: What the children are asked to do: nothing, to stop warm, to stop cold.
GO_ON, STOP_WARM, STOP_COLD = 0, 1, 2

log = logging.getLogger("dspex.fleet")


class Child:
    """One worker process. ``place`` is its place in the fleet, which its replacement takes over."""

    def __init__(self, place: int, name: str, command: Sequence[str]) -> None:
        self.place = place
        self.name = name
        self.ready_at: float | None = None
        self.retiring = False
        self._told = GO_ON
        ear, mouth = os.pipe()
        os.set_blocking(ear, False)
        self.ear: int | None = ear
        self.process = subprocess.Popen(
            launch_command([part.replace("{name}", name) for part in command]),
            env=os.environ | {VARIABLE: str(mouth), PLACE: str(place)},
            pass_fds=(mouth,),
            stdin=subprocess.DEVNULL if sys.platform == "linux" else subprocess.PIPE,
            start_new_session=True,  # the terminal's Ctrl-C is for the parent alone
        )
        os.close(mouth)

    @property
    def steady(self) -> bool:
        return self.ready_at is not None and time.monotonic() - self.ready_at >= STEADY_SECONDS

    def listen(self) -> bytes:
        """What it has said since the last time."""
        try:
            words = b"" if self.ear is None else os.read(self.ear, 64)
        except BlockingIOError:
            return b""
        if not words:  # it has ended
            self.close()
        return words

    def tell(self, asked: int) -> None:
        """Have it stop as asked, once."""
        if self._told < asked:
            self._told = asked
            self.process.send_signal(signal.SIGTERM if asked == STOP_WARM else signal.SIGQUIT)

    def kill(self) -> None:
        """End it and what it started."""
        os.killpg(self.process.pid, signal.SIGKILL)

    def close(self) -> None:
        if self.ear is not None:
            os.close(self.ear)
            self.ear = None
        if self.process.stdin is not None:
            self.process.stdin.close()


class Fleet:
    """Keeps ``size`` children running. Those that do not stop within ``patience_seconds`` of being told are killed."""

    def __init__(self, size: int, command: Sequence[str], *, name: str, patience_seconds: float) -> None:
        self._command = command
        self._name = name
        self._patience_seconds = patience_seconds
        self._children: list[Child] = []
        #: Places without a child that is to stay, and from when on each may have one.
        self._vacant: dict[int, float] = dict.fromkeys(range(size), 0.0)
        self._failures: dict[int, int] = dict.fromkeys(range(size), 0)
        self._started = 0
        self._asked = GO_ON
        self._kill_at: float | None = None
        self._code = 0
        self._bell, self._rope = os.pipe()

    def run(self) -> int:
        """Run until told to stop, or until no child is left. Returns the exit code."""
        self._listen_to_signals()
        while self._children or (self._vacant and not self._asked):
            self._fill_places()
            self._wait()
            self._bury_the_dead()
            for child in self._children:
                child.tell(self._asked)
            self._lose_patience()
        return self._code

    def _listen_to_signals(self) -> None:
        for end in (self._bell, self._rope):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(self._rope, warn_on_full_buffer=False)  # every signal ends the wait
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
            signal.signal(number, self._on_stop_signal)

    def _on_stop_signal(self, number: int, _frame: FrameType | None) -> None:
        self._asked = STOP_COLD if self._asked or number == signal.SIGQUIT else STOP_WARM
        self._kill_at = time.monotonic() + self._patience_seconds

    def _fill_places(self) -> None:
        for place, at in list(self._vacant.items()):
            if not self._asked and at <= time.monotonic():
                del self._vacant[place]
                self._started += 1
                self._children.append(Child(place, f"{self._name}-{self._started}", self._command))

    def _wait(self) -> None:
        """Until a signal, a word of a child, or the next thing that is due."""
        due = [] if self._asked else list(self._vacant.values())
        due += [self._kill_at] if self._kill_at is not None else []
        timeout = max(min(due) - time.monotonic(), 0.0) if due else None
        ears = {child.ear: child for child in self._children if child.ear is not None}
        heard, _, _ = select.select([self._bell, *ears], [], [], timeout)
        for end in heard:
            if end == self._bell:
                os.read(self._bell, 4096)
            else:
                self._hear(ears[end], ears[end].listen())

    def _hear(self, child: Child, words: bytes) -> None:
        if READY in words:
            child.ready_at = time.monotonic()
            log.info("%s is ready (pid %s)", child.name, child.process.pid)
        if RETIRING in words:
            log.info("%s retires (pid %s): it is replaced, and finishes what it runs", child.name, child.process.pid)
            child.retiring = True
            self._vacate(child.place)

    def _vacate(self, place: int, *, after_seconds: float = 0.0) -> None:
        self._vacant[place] = time.monotonic() + after_seconds

    def _bury_the_dead(self) -> None:
        for child in [child for child in self._children if child.process.poll() is not None]:
            self._hear(child, child.listen())  # its last words
            self._children.remove(child)
            child.close()
            self._note_end(child, child.process.returncode)

    def _note_end(self, child: Child, code: int) -> None:
        in_order = code == (EXIT_RETIRED if child.retiring else 0)
        how = f"{child.name} (pid {child.process.pid}) ended with {code}"
        if self._asked or child.retiring:
            log.log(logging.INFO if in_order else logging.WARNING, "%s", how)
            # One that was stopped before it was ready had nothing to put in order.
            self._code |= bool(self._asked and child.ready_at and code not in (0, EXIT_RETIRED))
        elif in_order:
            log.warning("%s: it was told to, and is not replaced", how)
        else:
            self._failures[child.place] = failures = 1 if child.steady else self._failures[child.place] + 1
            delay = min(FIRST_DELAY_SECONDS * 2 ** (failures - 1), LONGEST_DELAY_SECONDS)
            log.error("%s: another is started in %g s", how, delay)
            self._vacate(child.place, after_seconds=delay)

    def _lose_patience(self) -> None:
        if self._kill_at is not None and time.monotonic() >= self._kill_at:
            for child in self._children:
                log.error("%s (pid %s) does not stop: it is killed", child.name, child.process.pid)
                child.kill()
            self._kill_at, self._code = None, 1


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--processes", type=int, required=True)
    parser.add_argument("--name", required=True, help="each child's is this and a number, for {name} in the command")
    parser.add_argument("--patience-seconds", type=float, required=True)
    parser.add_argument("--loglevel", default="INFO")
    parser.add_argument("command", nargs="+")
    options = parser.parse_args()
    logging.basicConfig(level=options.loglevel.upper(), format="%(asctime)s %(levelname)-7s %(name)s: %(message)s")
    fleet = Fleet(options.processes, options.command, name=options.name, patience_seconds=options.patience_seconds)
    return fleet.run()


if __name__ == "__main__":
    sys.exit(main())
